"""Which of RT-1's on-disk forms a folder holds, and the source of each of its splits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wm_lightning.data.formats import lerobot, rlds
from wm_lightning.data.formats.action_npz import ActionNpzSource
from wm_lightning.data.formats.mp4_npz import Mp4NpzSource
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.video_files import Decoder

Format = Literal["mp4", "rlds", "npz", "lerobot"]
# What tells each form, in the words of a refusal.
FORMS: Mapping[str, str] = {
    "mp4": "{train,val,test}/NNNNNNNNN.mp4 beside .npz",
    "rlds": "dataset_info.json beside NAME-train.tfrecord-*",
    "npz": "train_eps_NNNNNNNN.npz",
    "lerobot": "meta/info.json",
}
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Opening:
    """How files are read: who decodes mp4, whether lengths may differ by one, and which camera (null: the main one)."""

    decoder: Decoder
    trim_tail: bool
    image: str | None


_SIGNS: Mapping[Format, Callable[[Path], bool]] = {
    "mp4": lambda folder: any((folder / split).is_dir() for split in SPLITS),
    "rlds": lambda folder: rlds.version_folder(folder) is not None,
    "npz": lambda folder: next(folder.glob("*.npz"), None) is not None,
    "lerobot": lambda folder: (folder / lerobot.INFO).is_file(),
}


def is_form(folder: Path, form: Format | None) -> bool:
    """Does the folder look like this form, or like any where none is named?"""
    return folder.is_dir() and any(sign(folder) for name, sign in _SIGNS.items() if form in (None, name))


def detect(folder: Path) -> Format:
    """The form of a data set's folder. Raises ValueError where it is none, or more than one."""
    found: list[Format] = [form for form in _SIGNS if is_form(folder, form)]
    if len(found) != 1:
        known = "; ".join(f"{form}: {sign}" for form, sign in FORMS.items())
        raise ValueError(f"{folder} looks like {found or 'no known form'}; name it with data.format=. Known: {known}")
    return found[0]


def stored_splits(form: Format, folder: Path) -> tuple[str, ...]:
    """The splits that are stored as such; the others are shares of train."""
    if form == "mp4":
        return tuple(split for split in SPLITS if (folder / split).is_dir())
    if form == "rlds":
        home = rlds.version_folder(folder)
        return tuple(split for split in SPLITS if home and next(home.glob(f"*-{split}.tfrecord-*"), None))
    if form == "lerobot":
        return tuple(split for split in SPLITS if split in lerobot.splits(folder))
    return ("train",)


def open_source(form: Format, folder: Path, split: str, opening: Opening, index: Path | None = None) -> EpisodeSource:
    """The source of a stored split; where records stand in their files is kept in the folder `index`.

    Raises ValueError, naming the folder, where it cannot be opened.
    """
    if form == "mp4":
        return Mp4NpzSource(folder / split, decoder=opening.decoder, trim_tail=opening.trim_tail)
    if form == "rlds":
        home = rlds.version_folder(folder)
        if home is None:
            raise ValueError(f"{folder} has no {rlds.INFO}, neither itself nor in a folder of a version")
        return rlds.RLDSSource(home, split, image=opening.image, index=index)
    if form == "lerobot":
        return lerobot.LeRobotSource(folder, split, image=opening.image)
    return ActionNpzSource(folder)
