"""What must be known of a split whose frames are read from the recordings, window by window: an index, made once.

An index is a frame store without `frames.npy`: names, lengths, actions, hidden state and what is unusable. Its digests
are of the first frame and the actions. What turns out damaged later stands beside it in `damaged.jsonl`.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from wm_lightning.data.formats.atomic import atomic_folder
from wm_lightning.data.formats.frame_store import FrameStore, Kept, Named, episode_digest, of_one_kind, save_index
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.source import EpisodeSource, Outline
from wm_lightning.data.formats.store_reader import Plan, read_each
from wm_lightning.data.formats.video_files import BadFile

DAMAGED = "damaged.jsonl"


class FrameIndex(FrameStore):
    """A split's index opened for reading; it has no frames."""

    @property
    def damaged(self) -> Mapping[str, str]:
        """Episodes of which trainings found some frames damaged, each with file and reason."""
        return found_damaged(self.folder / DAMAGED)


@dataclass(frozen=True)
class Survey:
    """The sound episodes of a split with their places in the source, and what is unusable."""

    kept: tuple[Kept, ...]
    places: tuple[int, ...]
    bad: tuple[BadFile, ...]

    @property
    def frames(self) -> int:
        """In total."""
        return sum(len(episode.actions) for episode in self.kept)

    @property
    def plan(self) -> Plan:
        """The same as what a store is built by."""
        return Plan(self.places, self.bad, self.frames)

    def write(self, place: Path) -> None:
        """Writes the index, whole or not at all."""
        with atomic_folder(place) as partial:
            save_index(partial, self.kept, self.bad)


def survey(source: EpisodeSource, resize: Resize, workers: int, report: Callable[[int], None]) -> Survey:
    """Reads of every episode what is small, and its first frame, on `workers` threads; each file is read once.

    Calls `report(1)` for every episode.
    """

    def kept(outline: Outline) -> Kept:  # its name is added where it is known
        digest = episode_digest(resize(outline.first[None]), outline.actions)
        return Kept("", outline.actions, outline.truth, digest, outline.decoder)

    good, places, bad = list[Kept](), list[int](), list(source.bad)
    every = range(len(source.names))
    for place, episode in zip(every, read_each(source, every, workers, source.outline, kept), strict=True):
        content = of_one_kind(Named(episode.name, episode.content), good)
        if isinstance(content, BadFile):
            bad.append(content)
        else:
            good.append(replace(content, name=episode.name))
            places.append(place)
        report(1)
    return Survey(tuple(good), tuple(places), tuple(bad))


@dataclass
class Damage:
    """Episodes that a training found damaged, listed in `place` for all its workers and for later starts.

    More than `allowed` of them are refused.
    """

    place: Path
    allowed: int
    own: dict[str, str] = field(default_factory=dict)

    def note(self, error: BadFile) -> bool:
        """Lists an episode, and tells whether this process had not seen it. Raises ValueError where it is too many."""
        name = error.episode or str(error.path)
        new = name not in self.own
        if new:
            self.own[name] = str(error)
            if name not in found_damaged(self.place):
                line = json.dumps({"episode": name, "reason": str(error)}) + "\n"
                with suppress(OSError), self.place.open("a") as file:  # a cache shared read-only keeps no list
                    file.write(line)
        found = self.own | found_damaged(self.place) if new else self.own
        if len(found) > self.allowed:
            lines = "\n".join(f"  {reason}" for reason in list(found.values())[:5])
            raise ValueError(
                f"{len(found)} episodes were found damaged while training, {self.allowed} allowed:\n{lines}\nRepair or "
                f"remove these files, or raise data.max_bad_share; no file is ever changed."
            )
        return new


def found_damaged(place: Path) -> dict[str, str]:
    """The list by episode; nothing where there is none."""
    if not place.is_file():
        return {}
    rows = (json.loads(line) for line in place.read_text().splitlines() if line.endswith("}"))
    return {row["episode"]: row["reason"] for row in rows}
