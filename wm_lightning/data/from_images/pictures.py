"""The pictures of a folder, the clip that each is from, and the split of every clip."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wm_lightning.data.parts import parts_of
from wm_lightning.data.start_images import SUFFIXES

Sources = Literal["folder", "prefix", "picture"]
# What counts the frames of a clip at the end of a name: 6888_1, walk-frame0040, ride12. Names that are numbers alone
# are of one clip: two clips taken for one cost variety, one taken for two would show training what is tested.
FRAME = re.compile(r"[ ._-]*(frame)?[ ._-]*\d+$", re.IGNORECASE)


@dataclass(frozen=True)
class Picture:
    """A file, its name relative to the folder, and the clip that it was taken from."""

    path: Path
    name: str
    source: str


def find_pictures(folder: Path, sources: Sources) -> list[Picture]:
    """All pictures below a folder in the order of their names; files of other kinds are none.

    Raises ValueError where the folder is not there or holds no picture.
    """
    if not folder.is_dir():
        raise ValueError(f"data.root={folder} is not a folder; from=images needs one that holds pictures")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise ValueError(
            f"data.root={folder} holds no picture ({', '.join(SUFFIXES)}), in folders of its own neither; name another "
            f"folder, or take frames out of the videos first"
        )
    names = [path.relative_to(folder) for path in files]
    return [Picture(path, name.as_posix(), source_of(name, sources)) for path, name in zip(files, names, strict=True)]


def source_of(name: Path, sources: Sources) -> str:
    """The clip of a picture: its subfolder; or (`prefix`, and outside of subfolders) its name without the number at the
    end; or (`picture`) one of its own."""
    if sources == "picture":
        return name.as_posix()
    if sources == "folder" and name.parent != Path():
        return name.parent.as_posix()
    return (name.parent / FRAME.sub("", name.stem)).as_posix()


def splits_of(sources: Collection[str], shares: Mapping[str, float]) -> dict[str, str]:
    """The split of every clip: `shares` by name, at least one clip each, the rest train. Which, their hash decides.

    Raises ValueError where there are fewer clips than splits.
    """
    if len(sources) < len(shares) + 1:
        raise ValueError(
            f"the pictures are of {len(sources)} clips ({', '.join(sorted(sources)) or 'none'}), one each is needed "
            f"for train and {' and '.join(shares)}, since no clip may be in two splits; add pictures, or name clips "
            f"with task.images.sources=folder|prefix|picture"
        )
    return {name: split for split, names in parts_of(sources, shares).items() for name in names}
