"""Whole sets of Counter-Strike recordings: HDF5 files, tars of them, and DIAMOND's small episodes.

Pictures and actions come back bit for bit from each of them.
"""

import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.csgo import COLUMNS
from wm_lightning.data.formats.csgo_writer import write_csgo
from wm_lightning.data.formats.diamond import DiamondSource
from wm_lightning.data.formats.source import StoredEpisode, save_arrays, state_beside
from wm_lightning.data.formats.writing import ConvertedEpisodes, Names, Splits, Writing, unlike
from wm_lightning.plain_files import read_plain

TEST_SPLIT = "test_split.txt"
STEM = "hdf5_dm_july2021_"
A_TAR = 200  # files, as in the published ones


def write_csgo_set(folder: Path, splits: Splits, writing: Writing) -> Names:
    """`NAME.hdf5` of all splits, hidden state beside them, and the list of test files."""
    names = file_names(splits)
    for split, episodes in splits.items():
        for name, episode in zip(names[split], episodes, strict=True):
            write_csgo(folder / name, episode.video, episode.actions)
            _write_state(folder / name, episode)
    _write_list(folder, names)
    return names


def write_tar_set(folder: Path, splits: Splits, writing: Writing) -> Names:
    """The same in tars of `A_TAR` files, the splits apart; hidden state and list stand beside them."""
    names, first = file_names(splits), 1
    for split, episodes in splits.items():
        for start in range(0, len(episodes), A_TAR):
            part, some = episodes[start : start + A_TAR], names[split][start : start + A_TAR]
            last = first + len(some) - 1
            write_tar(folder / f"{STEM}{first}_to_{last}.tar", zip(some, part, strict=True))
            first = last + 1
    _write_list(folder, names)
    return names


def write_tar(path: Path, episodes: Iterable[tuple[str, StoredEpisode]]) -> None:
    """A tar of HDF5 files by name, whole or not at all; hidden state beside it."""
    with atomic_file(path) as partial, tarfile.open(partial, "w") as tar:
        for name, episode in episodes:
            single = path.with_name(f"{name}.single")
            write_csgo(single, episode.video, episode.actions)
            try:
                # Without time and owner, so that equal content gives equal bytes.
                member = tarfile.TarInfo(f"{path.stem.removeprefix(STEM).replace('_to_', '-')}/{name}")
                member.size = single.stat().st_size
                with single.open("rb") as file:
                    tar.addfile(member, file)
            finally:
                single.unlink()
            _write_state(path.with_name(name), episode)


def write_diamond_set(folder: Path, splits: Splits, writing: Writing) -> Names:
    """`<split>/HHH/TT/U/ID.pt`, numbered from 0 in every split, and the `info.pt` that DIAMOND's own loader reads."""
    names, original = Names(), file_names(splits)
    for split, episodes in splits.items():
        lengths = []
        for number, (name, episode) in enumerate(zip(original[split], episodes, strict=True)):
            write_diamond(folder / split, number, episode.video, episode.actions, name)
            lengths.append(len(episode.actions))
        starts = np.cumsum([0, *lengths[:-1]])
        about = {
            "is_static": True, "num_episodes": len(lengths), "num_steps": sum(lengths), "start_idx": starts,
            "lengths": np.array(lengths), "counter_rew": Counter({0: sum(lengths)}),
            "counter_end": Counter({0: sum(lengths)}),
        }  # fmt: skip
        torch.save(about, folder / split / "info.pt")
        names[split] = [str(number) for number in range(len(lengths))]
    return names


def write_diamond(
    split: Path, number: int, video: UInt8[np.ndarray, "f h w 3"], actions: Float32[np.ndarray, "f 51"], original: str
) -> Path:
    """Writes one episode below the split's folder, whole or not at all; `original` names the recording it is of.

    Raises ValueError where the lengths differ.
    """
    if len(video) != len(actions) or actions.shape[1] != len(COLUMNS):
        raise ValueError(f"{split} episode {number}: {len(video)} frames for actions of {list(actions.shape)}")
    parts = f"{number % 1000 // 100 * 100:03d}/{number % 100 // 10 * 10:02d}/{number % 10}"
    path = split / parts / f"{number}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    nothing = torch.zeros(len(actions))
    content = {
        "obs": torch.from_numpy(np.moveaxis(video, -1, 1).copy()), "act": torch.from_numpy(actions), "rew": nothing,
        "end": nothing.to(torch.uint8), "trunc": nothing.to(torch.uint8), "info": {"original_file_id": original},
    }  # fmt: skip
    with atomic_file(path) as partial:
        torch.save(content, partial)
    return path


def file_names(splits: Splits) -> Names:
    """The HDF5 names of all episodes: those that the source has or remembers, else numbers from 1."""
    found = {split: [_file_name(name) for name in _remembered(episodes)] for split, episodes in splits.items()}
    if all(all(split) for split in found.values()) and unlike(found):
        return found
    names, number = Names(), 1
    for split, episodes in splits.items():
        names[split] = [f"{STEM}{number + place}.hdf5" for place in range(len(episodes))]
        number += len(episodes)
    return names


def _remembered(episodes: ConvertedEpisodes) -> Sequence[str]:
    if not isinstance(episodes.source, DiamondSource):
        return episodes.names
    # DIAMOND numbers its episodes anew and keeps the name of the recording inside.
    contents = [read_plain(episodes.source.paths[episode]).get("info") for episode in episodes.chosen]
    return [str(about.get("original_file_id", "")) if isinstance(about, Mapping) else "" for about in contents]


def _file_name(name: str) -> str:
    last = Path(name).name
    return last if last.endswith(".hdf5") else f"{last}.hdf5" if last.startswith("hdf5_") else ""


def _write_state(path: Path, episode: StoredEpisode) -> None:
    if episode.truth:
        save_arrays(state_beside(path), episode.truth)


def _write_list(folder: Path, names: Names) -> None:
    if "test" in names:
        (folder / TEST_SPLIT).write_text("".join(f"{name}\n" for name in names["test"]))
