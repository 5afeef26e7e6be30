"""The writer of Counter-Strike files lays them out once: its bytes are those that HDF5 itself writes."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from wm_lightning.data.formats.csgo_writer import write_csgo


def by_hand(path: Path, video: np.ndarray, actions: np.ndarray) -> None:
    """One dataset after the other, as the published files were written."""
    with h5py.File(path, "w") as file:
        for number, (picture, action) in enumerate(zip(video, actions, strict=True)):
            file[f"frame_{number}_x"] = picture[..., ::-1]
            file[f"frame_{number}_xaux"] = np.zeros(54)
            file[f"frame_{number}_y"] = action.astype(np.float64)
            file[f"frame_{number}_helperarr"] = np.zeros(2)


@pytest.mark.parametrize("shape", [(1, 24, 32), (13, 60, 112), (13, 30, 56), (300, 6, 7)])
def test_bytes_are_those_of_hdf5(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    source = np.random.default_rng(0)
    for number in range(2):
        video = source.integers(0, 256, (*shape, 3), dtype=np.uint8)
        actions = source.normal(size=(shape[0], 51)).astype(np.float32)
        by_hand(tmp_path / "hand.hdf5", video, actions)
        write_csgo(tmp_path / f"{number}.hdf5", video[:, ::-1], actions[:, ::-1])  # as views come, too
        write_csgo(tmp_path / f"{number}.hdf5", video, actions)
        assert (tmp_path / f"{number}.hdf5").read_bytes() == (tmp_path / "hand.hdf5").read_bytes()
