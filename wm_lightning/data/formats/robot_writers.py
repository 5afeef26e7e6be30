"""Whole sets in the forms that hold RT-1's action fields."""

from pathlib import Path

from wm_lightning.data.formats import action_npz, mp4_npz, rlds
from wm_lightning.data.formats.lerobot_writer import LeRobotWriter
from wm_lightning.data.formats.writing import Names, Splits, Writing

SHARD = 64  # episodes of an RLDS shard
TOGETHER = 50  # episodes of a LeRobot v3.0 file


def write_mp4(folder: Path, splits: Splits, writing: Writing) -> Names:
    """`<split>/NNNNNNNNN.mp4|.npz`; numbers are unique across splits, hidden state goes along."""
    names, number = Names(), 0
    for split, episodes in splits.items():
        (folder / split).mkdir()
        names[split] = [f"{number + place:09d}" for place in range(len(episodes))]
        number += len(episodes)
        for name, episode in zip(names[split], episodes, strict=True):
            files = mp4_npz.EpisodeFiles.of(folder / split, name)
            mp4_npz.write_episode(files, episode.video, episode.actions, episode.truth, writing.encoding)
    return names


def write_npz(folder: Path, splits: Splits, writing: Writing) -> Names:
    """`<split>_eps_NNNNNNNN.npz`, all in one folder: the file's name tells the split."""
    names = Names()
    for split, episodes in splits.items():
        names[split] = [f"{split}_eps_{number:08d}" for number in range(len(episodes))]
        for name, episode in zip(names[split], episodes, strict=True):
            action_npz.write_action_npz(folder / f"{name}.npz", episode.video, episode.actions)
    return names


def write_rlds(folder: Path, splits: Splits, writing: Writing) -> Names:
    """`1.0.0/converted-<split>.tfrecord-*` with JPEG images."""
    names = Names()
    for split, episodes in splits.items():
        shards = [episodes[start : start + SHARD] for start in range(0, len(episodes), SHARD)]
        rlds.write_rlds(folder / "1.0.0", "converted", split, shards)
        names[split] = [f"{number // SHARD:05d}-{number % SHARD:05d}" for number in range(len(episodes))]
    return names


def write_lerobot(folder: Path, splits: Splits, writing: Writing) -> Names:
    """LeRobot's tables and videos, `TOGETHER` episodes a file in v3.0; numbers run on across splits."""
    LeRobotWriter(folder, writing.encoding, version=writing.version, together=TOGETHER).write(splits)
    names, number = Names(), 0
    for split, episodes in splits.items():
        names[split] = [f"{number + place:06d}" for place in range(len(episodes))]
        number += len(episodes)
    return names
