"""Counter-Strike's and RECON's recordings, as they are damaged."""

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch

from wm_lightning.data.formats.csgo import CSGOSource
from wm_lightning.data.formats.diamond import DiamondSource
from wm_lightning.data.formats.picture_files import from_bytes, to_jpeg
from wm_lightning.data.formats.recon import RECONSource
from wm_lightning.data.formats.source import load_arrays
from wm_lightning.worlds.faults.stand import Change, Form, Special, Stand, whole

# -- Counter-Strike ----------------------------------------------------------------------------------------------------


def _csgo(folder: Path, episode: int) -> Stand:
    listed = folder / "test_split.txt"
    names = frozenset(listed.read_text().split()) if listed.is_file() else None
    places = CSGOSource(folder, colours="bgr", names=names, inside=names is None).places
    here = places[episode]
    after = tuple(n for n, place in enumerate(places) if place.path == here.path and place.offset >= here.offset)
    stretch = (here.offset, here.size)
    return Stand(folder, here.path, here.path, after, *stretch, stretch, here.name)


def _within(stand: Stand, alter: Callable[[h5py.File], None]) -> None:
    """Alters an HDF5 file where it stands, in its tar too."""
    if stand.pictures.suffix != ".tar":
        with h5py.File(stand.pictures, "r+") as file:
            alter(file)
        return
    with tarfile.open(stand.pictures) as tar:
        members = [(member, tar.extractfile(member)) for member in tar]
        contents = [(member, file.read()) for member, file in members if file is not None]
    with tarfile.open(stand.pictures, "w") as tar:
        for member, content in contents:
            if Path(member.name).name == stand.key:
                memory = io.BytesIO(content)
                with h5py.File(memory, "r+") as file:
                    alter(file)
                content = memory.getvalue()
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _rewrite_csgo(stand: Stand, change: Change) -> None:
    def alter(file: h5py.File) -> None:
        count = sum(1 for key in file if str(key).endswith("_y"))
        rows = change(np.stack([file[f"frame_{k}_y"][()] for k in range(count)]))  # type: ignore[index]
        for k in range(count):
            file[f"frame_{k}_y"][()] = rows[k]  # type: ignore[index]

    _within(stand, alter)


def _lose_frames(last: bool) -> Special:
    def put(stand: Stand, source: np.random.Generator) -> None:
        def alter(file: h5py.File) -> None:
            count = sum(1 for key in file if str(key).endswith("_y"))
            lost = [count - 2, count - 1] if last else [int(source.integers(count - 1))]
            for frame in lost:
                del file[f"frame_{frame}_x"]

        _within(stand, alter)

    return put


def _swap_csgo(stand: Stand, source: np.random.Generator) -> None:
    def alter(file: h5py.File) -> None:
        for key in (str(key) for key in file if str(key).endswith("_x")):
            file[key][()] = file[key][()][..., ::-1]  # type: ignore[index]

    _within(stand, alter)


def _diamond(folder: Path, episode: int) -> Stand:
    path = DiamondSource(folder / "train").paths[episode]
    return whole(folder, path, path, (episode,))


def _rewrite_diamond(stand: Stand, change: Change) -> None:
    content = torch.load(stand.table, weights_only=True)
    content["act"] = torch.from_numpy(change(content["act"].numpy())).float()
    torch.save(content, stand.table)


# -- RECON -------------------------------------------------------------------------------------------------------------


def _recon(folder: Path, episode: int) -> Stand:
    names = frozenset((folder / "train.txt").read_text().split())
    path = RECONSource(folder, names=names).paths[episode]
    if path.is_file():
        return whole(folder, path, path, (episode,))
    return whole(folder, path / "2.jpg", next(path.glob("traj_data.*")), (episode,))


def _poses(stand: Stand, alter: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    if stand.table.suffix == ".hdf5":
        with h5py.File(stand.table, "r+") as file:
            new = alter(file["jackal/position"][()], file["jackal/yaw"][()])  # type: ignore[index]
            del file["jackal/position"], file["jackal/yaw"]
            file["jackal/position"], file["jackal/yaw"] = new
        return
    content = load_arrays(stand.table)
    position, yaw = alter(content["position"], content["yaw"])
    np.savez(stand.table, position=position, yaw=yaw)


def _rewrite_poses(stand: Stand, change: Change) -> None:
    def alter(position: np.ndarray, yaw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = change(np.column_stack([position[:, :2], yaw]))
        return np.column_stack([rows[:, :2], np.zeros((len(rows), position.shape[1] - 2))]), rows[:, 2]

    _poses(stand, alter)


def _swap_jpegs(stand: Stand, source: np.random.Generator) -> None:
    swapped = lambda data: to_jpeg(np.ascontiguousarray(from_bytes(stand.pictures, data)[..., ::-1]))  # noqa: E731
    if stand.pictures.suffix != ".hdf5":
        for path in stand.pictures.parent.glob("*.jpg"):
            path.write_bytes(swapped(path.read_bytes()))
        return
    with h5py.File(stand.pictures, "r+") as file:
        new = [swapped(bytes(data)) for data in file["images/rgb_left"][()]]  # type: ignore[index]
        del file["images/rgb_left"]
        file["images/rgb_left"] = np.array(new)


def _lose_jpeg(stand: Stand, source: np.random.Generator) -> None:
    if stand.pictures.suffix != ".hdf5":
        return stand.pictures.unlink()
    with h5py.File(stand.pictures, "r+") as file:
        new = file["images/rgb_left"][()][:-1]  # type: ignore[index]
        del file["images/rgb_left"]
        file["images/rgb_left"] = new


def _yaw(alter: Callable[[np.ndarray], np.ndarray]) -> Special:
    return lambda stand, source: _poses(stand, lambda position, yaw: (position, alter(yaw)))


# -- The same episode in two splits ------------------------------------------------------------------------------------


def _copied_game(stand: Stand, source: np.random.Generator) -> None:
    name = "hdf5_dm_july2021_999.hdf5"
    shutil.copy(stand.pictures, stand.folder / name)
    listed = stand.folder / "test_split.txt"
    listed.write_text(f"{listed.read_text()}{name}\n")


def _copied_diamond(stand: Stand, source: np.random.Generator) -> None:
    shutil.copy(stand.pictures, stand.folder / "test/999.pt")


def _listed_twice(stand: Stand, source: np.random.Generator) -> None:
    listed = stand.folder / "test.txt"
    own = stand.table.stem if stand.table.suffix == ".hdf5" else stand.table.parent.name
    listed.write_text(f"{listed.read_text()}{own}\n")


_LOST = {"frame missing": _lose_frames(last=False), "last frames missing": _lose_frames(last=True)}
_TURNS = 2 * np.pi * np.array([0, 1, -1, 2])
_WALK = {
    "picture missing": _lose_jpeg, "swapped": _swap_jpegs, "in two splits": _listed_twice,
    "yaw as a column": _yaw(lambda yaw: yaw.reshape(-1, 1)),
    "yaw beyond a turn": _yaw(lambda yaw: yaw + np.resize(_TURNS, len(yaw))),
}  # fmt: skip
FORMS = {
    "csgo": Form(_csgo, _rewrite_csgo, {**_LOST, "swapped": _swap_csgo, "in two splits": _copied_game}),
    "tar": Form(_csgo, _rewrite_csgo, _LOST),
    "diamond": Form(_diamond, _rewrite_diamond, {"in two splits": _copied_diamond}),
    "recon": Form(_recon, _rewrite_poses, _WALK),
    "folders": Form(_recon, _rewrite_poses, _WALK),
}
