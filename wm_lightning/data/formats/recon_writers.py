"""Whole sets of RECON's recordings: HDF5 files, or folders of k.jpg beside `traj_data.npz`.

Both hold JPEG bytes and poses, so between them these go over as they are. Actions of other forms are summed up to
poses, from which they come back to within a millionth.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32

from wm_lightning.data.formats.picture_files import to_jpeg
from wm_lightning.data.formats.recon import (
    RECONSource,
    metres_of,
    planar_actions,
    write_jpegs_file,
    write_jpegs_folder,
)
from wm_lightning.data.formats.source import save_arrays, state_beside
from wm_lightning.data.formats.writing import ConvertedEpisodes, Names, Splits, Writing, unlike

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drive:
    """One recording as RECON stores it."""

    jpegs: Sequence[bytes]
    position: Float[np.ndarray, "f 2"]
    yaw: Float[np.ndarray, "f"]
    truth: dict[str, np.ndarray] = field(default_factory=dict)


def poses_of(actions: Float32[np.ndarray, "f 3"]) -> tuple[Float[np.ndarray, "f 2"], Float[np.ndarray, "f"]]:
    """Position and yaw that lead to these actions, from the origin on; the last one leads to no frame."""
    actions = actions.astype(np.float64)
    yaw = np.concatenate([[0.0], np.cumsum(actions[:-1, 2])])
    metres, cos, sin = metres_of(actions[:-1, :2]), np.cos(yaw[:-1]), np.sin(yaw[:-1])
    ahead = [cos * metres[:, 0] - sin * metres[:, 1], sin * metres[:, 0] + cos * metres[:, 1]]
    return np.concatenate([np.zeros((1, 2)), np.cumsum(np.stack(ahead, 1), axis=0)]), yaw


def drives(episodes: ConvertedEpisodes) -> Iterator[Drive]:
    """The episodes as RECON stores them: their own bytes and poses where the source has them."""
    for place, number in enumerate(episodes.chosen):
        if isinstance(episodes.source, RECONSource):
            read = episodes.source.read(number)
            episodes.report(1)
            yield Drive(episodes.source.jpegs(number), *episodes.source.poses(number), dict(read.truth))
            continue
        episode = episodes[place]
        if len(episode.actions) < 2:
            raise ValueError(f"{episodes.names[place]} has one frame; poses of two or more are stored")
        position, yaw = poses_of(episode.actions)
        if not np.allclose(planar_actions(position, yaw)[-1], episode.actions[-1], atol=1e-6):
            log.warning("%s: its last action leads to no frame, so no pose can hold it", episodes.names[place])
        yield Drive([to_jpeg(picture) for picture in episode.video], position, yaw, dict(episode.truth))


def write_set(folder: Path, splits: Splits, writing: Writing, *, files: bool) -> Names:
    """`NAME.hdf5` (`files`) or `NAME/`, hidden state beside it, and the lists `train.txt`, ... of names."""
    names: Names = {split: [name.removesuffix(".hdf5") for name in found.names] for split, found in splits.items()}
    if not unlike(names):
        names = {split: [f"{split}_{name}" for name in found] for split, found in names.items()}
    for split, episodes in splits.items():
        for name, drive in zip(names[split], drives(episodes), strict=True):
            path = folder / f"{name}.hdf5" if files else folder / name
            (write_jpegs_file if files else write_jpegs_folder)(path, drive.jpegs, drive.position, drive.yaw)
            if drive.truth:
                save_arrays(state_beside(path), drive.truth)
        (folder / f"{split}.txt").write_text("".join(f"{name}\n" for name in names[split]))
    return names


write_recon_set = partial(write_set, files=True)
write_folders_set = partial(write_set, files=False)
