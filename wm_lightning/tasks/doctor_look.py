"""What `task=doctor` reads of recordings: the actions of all episodes, and the pictures of a sample of them."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float32
from rich.progress import track

from wm_lightning.data.alignment import Moves, motion
from wm_lightning.data.checks import mean_colour
from wm_lightning.data.formats.frame_store import Named, episode_digest
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.store_reader import read_all
from wm_lightning.data.formats.video_files import BadFile
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.randomness import generator

Place = tuple[str, int]  # a stored split, and an episode's number in it


@dataclass(frozen=True)
class Seen:
    """What is kept of a decoded episode; `digest` is that by which training tells equal episodes."""

    moves: Moves
    colour: Float[np.ndarray, "3"]
    digest: str


@dataclass
class Finding:
    """One stored split: its source, actions by episode, what was decoded, and what cannot be used."""

    source: EpisodeSource
    actions: dict[int, Float32[np.ndarray, "f a"]]
    bad: list[BadFile]
    seen: dict[int, Seen] = field(default_factory=dict)
    broken: int = 0  # of those decoded

    @property
    def episodes(self) -> int:
        """How many are usable as far as they were looked at."""
        return len(self.actions) - self.broken

    @property
    def frames(self) -> int:
        """Of the episodes whose actions are usable."""
        return sum(map(len, self.actions.values()))

    @property
    def decoded(self) -> int:
        """How many were tried."""
        return len(self.seen) + self.broken


Findings = dict[str, Finding]  # by stored split


def read_tables(data: SourceDataModule) -> Findings:
    """The actions of all episodes of all stored splits, and the files that cannot be used for them."""
    found = {}
    for split in data.stored_splits():
        source = data.open_source(split)
        found[split] = Finding(source, {}, list(source.bad))
        for episode in track(range(len(source.names)), description=f"reading actions of {split}", transient=True):
            try:
                found[split].actions[episode] = source.actions(episode)
            except BadFile as error:
                found[split].bad.append(error)
    return found


def sample(findings: Findings, most: int | None) -> list[Place]:
    """At most `most` episodes drawn over the whole set, the same every time, one of every split at least; None: all."""
    places = [(split, episode) for split, found in findings.items() for episode in found.actions]
    if most is None or len(places) <= most:
        return places
    chosen: list[Place] = []
    for number, (split, found) in enumerate(findings.items()):
        count = min(len(found.actions), max(1, round(most * len(found.actions) / len(places))))
        drawn = generator(0, "doctor", number).choice(list(found.actions), count, replace=False)
        chosen += [(split, int(episode)) for episode in np.sort(drawn)]
    return chosen


def twins(findings: Findings) -> list[list[Place]]:
    """Episodes that share all their actions: equal ones are among them. Actions that never change tell nothing."""
    groups: dict[bytes, list[Place]] = {}
    for split, found in findings.items():
        for episode, rows in found.actions.items():
            if (rows != rows[0]).any():
                groups.setdefault(hashlib.sha256(rows.tobytes()).digest(), []).append((split, episode))
    return [group for group in groups.values() if len(group) > 1]


def decode(findings: Findings, places: Sequence[Place], resize: Resize, workers: int) -> None:
    """Decodes the episodes at `places` and puts into `findings` what they hold, or why they cannot be used."""
    for place, named in track(
        _read(findings, places, workers), total=len(places), description="decoding", transient=True
    ):
        split, episode = place
        found, content = findings[split], named.content
        if isinstance(content, BadFile):
            found.bad.append(content)
            found.broken += 1
            continue
        moves = Moves(content.actions, motion(content.video))
        digest = episode_digest(resize(content.video), content.actions)
        found.seen[episode] = Seen(moves, mean_colour(content.video), digest)


def _read(findings: Findings, places: Sequence[Place], workers: int) -> Iterator[tuple[Place, Named]]:
    for split, found in findings.items():
        episodes = [episode for name, episode in places if name == split]
        for episode, named in zip(episodes, read_all(found.source, episodes, workers), strict=True):
            yield (split, episode), named
