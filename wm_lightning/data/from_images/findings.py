"""What all stages found out, put together: the set, and for everything that is not in it the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wm_lightning.data.from_images.looking import Seen, Sifted
from wm_lightning.data.from_images.stages import GENERATION, GRAMMAR, SCREENING, UNANSWERED
from wm_lightning.data.from_images.table import Made
from wm_lightning.data.from_images.verdicts import Verdicts
from wm_lightning.data.from_images.writing import COUNT, Pair

RANK, NO_TASK = "rank", "no task left"


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Stage by stage: `best` of what was sifted, of these the `fit` ones by `screened`, their `pairs` (by `KEY_PLACE`)
    and what is wrong with the form of the others, and the check of the pairs."""

    sifted: Sifted
    best: Sequence[Seen]
    scores: Mapping[str, Mapping[str, float | None]]
    screened: Verdicts
    fit: Sequence[Seen]
    written: Verdicts
    pairs: Mapping[str, Pair]
    misshapen: Mapping[str, str]
    checked: Verdicts

    @cached_property
    def lost(self) -> dict[str, str]:
        """What removed a pair, by its key; one that has no answer yet counts as removed until it has."""
        refused = {key: GRAMMAR if key in self.checked.answers else UNANSWERED for key in self.pairs}
        return {**self.misshapen, **{key: reason for key, reason in refused.items() if not said_yes(self.checked, key)}}

    def made(self, splits: Mapping[str, str]) -> list[Made]:
        """The pictures that have a task, with the split of their clip."""
        return [
            Made(one, splits[one.picture.source], self.scores[one.key], own)
            for one in self.fit
            if (own := {place: self.pairs[name] for place, name in _named(one.key) if self._kept(name)})
        ]

    @property
    def removed(self) -> dict[str, str]:
        """What removed a picture, by its name: the last stage that it came to."""
        removed = self.sifted.removed | {one.picture.name: RANK for one in self.sifted.kept}
        for one in self.best:
            removed[one.picture.name] = SCREENING if one.key in self.screened.answers else UNANSWERED
        for one in self.fit:
            names = [name for _, name in _named(one.key)]
            waits = one.key not in self.written.answers or any(self.lost.get(name) == UNANSWERED for name in names)
            removed[one.picture.name] = UNANSWERED if waits else NO_TASK
            if any(self._kept(name) for name in names):
                del removed[one.picture.name]
        return removed

    @property
    def tallies(self) -> dict[str, dict[str, Any]]:
        """How often every stage was asked and answered."""
        asked = {
            SCREENING: (self.screened, [one.key for one in self.best]),
            GENERATION: (self.written, [one.key for one in self.fit]),
            GRAMMAR: (self.checked, [*self.pairs]),
        }
        return {stage: verdicts.tally(keys) for stage, (verdicts, keys) in asked.items()}

    def _kept(self, name: str) -> bool:
        return name in self.pairs and name not in self.lost


def said_yes(verdicts: Verdicts, key: str) -> bool:
    """Whether the answer is yes; none is no yes."""
    return bool(verdicts.answers.get(key, {}).get("yes"))


def _named(key: str) -> list[tuple[int, str]]:
    return [(place, f"{key}_{place}") for place in range(COUNT)]
