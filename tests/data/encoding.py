"""A small set of recordings in a real layout, and the task that encodes it."""

from copy import deepcopy
from functools import cache
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from tests.data.making import SIDE, episode
from wm_lightning.config import compose
from wm_lightning.data.formats.mp4_npz import EpisodeFiles, write_episode
from wm_lightning.data.formats.video_files import Encoding
from wm_lightning.data.source_datamodule import SourceDataModule

LENGTHS = {"train": (8, 9, 7, 8, 10, 8, 9, 8), "test": (8, 8)}
PATCH = ("autoencoder=patch",)


def recordings(root: Path) -> Path:
    """Clips of `bridge`: train (of which val is taken) and test."""
    number = 0
    for split, lengths in LENGTHS.items():
        (root / "bridge" / split).mkdir(parents=True)
        for length in lengths:
            one = episode(length, "oxe10", number)
            files = EpisodeFiles.of(root / "bridge" / split, f"{number:09d}")
            write_episode(files, one.video, one.actions, {}, Encoding(fps=5, crf=8, preset="veryfast"))
            number += 1
    return root


def config_of(root: Path, place: Path, *words: str) -> DictConfig:
    """The config of a task on these recordings, its cache and run in `place`."""
    data = [f"data.root={root}", "data.subset=bridge", f"data.height={SIDE}", f"data.width={SIDE}"]
    data += ["data.val_share=0.25", "data.frames=5", "data.val_frames=5", "data.val_clips=4", "data.decode_workers=2"]
    groups = tuple(word for word in words if "." not in word.split("=")[0])
    config = deepcopy(composed(groups))
    values = (word for word in words if word not in groups)
    config.merge_with_dotlist([*data, f"cache_dir={place / 'cache'}", f"run_dir={place / 'run'}", *values])
    return config


@cache
def composed(groups: tuple[str, ...]) -> DictConfig:
    """A composition takes a third of a second, which tests of the same groups share."""
    return compose(["data=rt1", *groups])


def encode(root: Path, place: Path, into: Path, *words: str) -> dict[str, float]:
    """Runs the task."""
    config = config_of(root, place, "task=encode", f"task.into={into}", *(words or PATCH))
    return instantiate(config.task)(config)


def opened(root: Path, place: Path, *words: str) -> SourceDataModule:
    """The DataModule of these recordings, prepared."""
    data = instantiate(config_of(root, place, *words).data, _convert_="all")
    data.prepare_data()
    return data
