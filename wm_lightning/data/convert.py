"""Episodes of one format written in another; action columns go by name, frames as they are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import yaml

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats import action_npz, lerobot, mp4_npz, own, rlds
from wm_lightning.data.formats.lerobot_writer import LeRobotWriter, Version
from wm_lightning.data.formats.robot_actions import columns, convert
from wm_lightning.data.formats.source import EpisodeSource, StoredEpisode
from wm_lightning.data.formats.video_files import Encoding, encode

SHARD = 64  # episodes of an RLDS shard


class ConvertedEpisodes(Sequence[StoredEpisode]):
    """Episodes of a source that are read when they are asked for, with the action columns `target`."""

    def __init__(
        self, source: EpisodeSource, chosen: Sequence[int], target: Sequence[str], report: Callable[[int], None]
    ) -> None:
        self.source, self.chosen, self.target, self.report = source, chosen, tuple(target), report

    def __len__(self) -> int:
        return len(self.chosen)

    @overload
    def __getitem__(self, index: int) -> StoredEpisode: ...

    @overload
    def __getitem__(self, index: slice) -> "ConvertedEpisodes": ...

    def __getitem__(self, index: int | slice) -> "StoredEpisode | ConvertedEpisodes":
        if isinstance(index, slice):
            return ConvertedEpisodes(self.source, self.chosen[index], self.target, self.report)
        episode = self.source.read(self.chosen[index])
        self.report(1)
        actions = convert(episode.actions, self.source.columns, self.target)
        return StoredEpisode(episode.video, actions, episode.truth)


Splits = Mapping[str, Sequence[StoredEpisode]]


@dataclass(frozen=True)
class Writing:
    """How pictures are encoded where the form holds video, the LeRobot version, and the columns of own recordings."""

    encoding: Encoding
    version: Version
    spec: ActionSpec


def write_mp4(folder: Path, splits: Splits, writing: Writing) -> None:
    """`<split>/NNNNNNNNN.mp4|.npz`; numbers are unique across splits, hidden state goes along."""
    number = 0
    for split, episodes in splits.items():
        (folder / split).mkdir()
        for episode in episodes:
            files = mp4_npz.EpisodeFiles.of(folder / split, f"{number:09d}")
            mp4_npz.write_episode(files, episode.video, episode.actions, episode.truth, writing.encoding)
            number += 1


def write_npz(folder: Path, splits: Splits, writing: Writing) -> None:
    """`<split>_eps_NNNNNNNN.npz`, all in one folder: the form knows no splits but by name."""
    for split, episodes in splits.items():
        for number, episode in enumerate(episodes):
            action_npz.write_action_npz(folder / f"{split}_eps_{number:08d}.npz", episode.video, episode.actions)


def write_rlds(folder: Path, splits: Splits, writing: Writing) -> None:
    """`1.0.0/converted-<split>.tfrecord-*` with JPEG images."""
    for split, episodes in splits.items():
        shards = [episodes[start : start + SHARD] for start in range(0, len(episodes), SHARD)]
        rlds.write_rlds(folder / "1.0.0", "converted", split, shards)


def write_lerobot(folder: Path, splits: Splits, writing: Writing) -> None:
    """LeRobot's tables and videos, 50 episodes a file in v3.0."""
    LeRobotWriter(folder, writing.encoding, version=writing.version, together=50).write(splits)


def write_own(folder: Path, splits: Splits, writing: Writing) -> None:
    """`actions.yaml` and `<split>/NAME.mp4|.csv`: the form anybody's recordings are in."""
    spec = writing.spec
    limits = {"low": list(spec.low), "high": list(spec.high)}
    text = yaml.safe_dump({"names": list(spec.names), **limits, "kind": spec.kind}, sort_keys=False)
    (folder / own.SPEC).write_text(text)
    for split, episodes in splits.items():
        (folder / split).mkdir()
        for number, episode in enumerate(episodes):
            path = folder / split / f"episode_{number:06d}.mp4"
            encode(path, episode.video, writing.encoding)
            rows = [",".join(spec.names), *(",".join(map(_exact, row)) for row in episode.actions)]
            path.with_suffix(".csv").write_text("\n".join(rows) + "\n")


def _exact(value: np.float32) -> str:
    # The shortest text that gives the same float32 again.
    return np.format_float_positional(value, unique=True, trim="0")


Write = Callable[[Path, Splits, Writing], None]
# By form: who writes it, and the order of its columns (None: those of the data set).
FORMS: Mapping[str, tuple[Write, str | None]] = {
    "mp4": (write_mp4, mp4_npz.ORDER),
    "npz": (write_npz, action_npz.ORDER),
    "rlds": (write_rlds, action_npz.ORDER),
    "lerobot": (write_lerobot, lerobot.ORDER),
    "own": (write_own, None),
}


def target_columns(form: str, source: EpisodeSource, spec: ActionSpec) -> tuple[str, ...]:
    """The columns a form stores. Raises ValueError where the source has none of them, for it holds other actions."""
    order = FORMS[form][1]
    names = spec.names if order is None else columns(order)
    if not set(names) & set(source.columns):
        raise ValueError(
            f"to={form} stores robot actions ({', '.join(names[:3])}, ...), these recordings hold "
            f"{', '.join(source.columns[:3])}, ...; to=own takes any"
        )
    return names
