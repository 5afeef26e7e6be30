"""What every writer of a whole set is given: episodes by split, their names, and how pictures are encoded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, overload

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats.robot_actions import convert
from wm_lightning.data.formats.source import EpisodeSource, StoredEpisode
from wm_lightning.data.formats.video_files import Encoding

Version = Literal["v3.0", "v2.1"]


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

    @property
    def names(self) -> tuple[str, ...]:
        """What the source calls them."""
        return tuple(self.source.names[episode] for episode in self.chosen)


Splits = Mapping[str, ConvertedEpisodes]
Names = dict[str, list[str]]  # by split: what the new form's reader calls the episodes, in their order


@dataclass(frozen=True)
class Writing:
    """How pictures are encoded where the form holds video, the LeRobot version, the columns of own recordings, and of
    these the ones of `rest` that are not 0 where nothing is done."""

    encoding: Encoding
    version: Version
    spec: ActionSpec | None
    rest: Mapping[str, float | int]


def unlike(names: Mapping[str, Sequence[str]]) -> bool:
    """Whether no name occurs twice, in the same split or in two."""
    everything = [name for split in names.values() for name in split]
    return len(set(everything)) == len(everything)
