"""What judges said of every video of every task, and the rates, gains and breakdowns that come of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wm_lightning.metrics.rates import paired_gain, rate, ratio_interval
from wm_lightning.results.task_bench import Against, Baseline, Share, Verdicts
from wm_lightning.rewards.bus import Scores


@dataclass(frozen=True)
class Judged:
    """Yes, and whether it was judged at all, by criterion, task and video; `failures` counts reasons by criterion.

    `draws` and `seed` are those of the bootstraps.
    """

    names: tuple[str, ...]
    met: Bool[Tensor, "k n v"]
    valid: Bool[Tensor, "k n v"]
    failures: Mapping[str, Mapping[str, int]]
    draws: int
    seed: int

    @classmethod
    def of(cls, scores: Sequence[Scores], *, draws: int, seed: int) -> "Judged":
        """Of the scores of every task's first video, its second, and so on."""
        names = scores[0].names
        valid = torch.stack([one.valid.T for one in scores], 2)
        met = torch.stack([one.value.T > 0 for one in scores], 2) & valid
        failures = {name: Counter[str]() for name in names}
        for one in scores:
            for name, reasons in one.failures.items():
                failures[name].update(reasons)
        return cls(names, met, valid, {name: dict(found) for name, found in failures.items()}, draws, seed)

    def only(self, rows: Bool[Tensor, "n"]) -> "Judged":
        """The judgements of some tasks, without the reasons of failures, which are counted over all."""
        return Judged(self.names, self.met[:, rows], self.valid[:, rows], {}, self.draws, self.seed)

    def share(self, name: str) -> Share:
        """A criterion's rate: Wilson's interval where a task has one video, else a bootstrap over tasks."""
        met, valid = self._of(name)
        found = rate(met.flatten(), valid.flatten())
        interval = found.interval if met.shape[1] == 1 else self._bootstrap(met, valid)
        low, high = interval or (None, None)
        return Share(found.value, low, high, found.n, valid.numel(), self.failures.get(name, {}))

    def shares(self) -> dict[str, Share]:
        """All criteria's."""
        return {name: self.share(name) for name in self.names}

    def average(self) -> Share:
        """The share of criteria that a video meets, over the videos that all judges judged."""
        whole = self.valid.all(0)
        met = torch.where(whole, self.met.float().mean(0), 0.0)
        count = int(whole.sum())
        low, high = self._bootstrap(met, whole) or (None, None)
        return Share(float(met.sum()) / count if count else None, low, high, count, whole.numel(), {})

    def by(self, kinds: Sequence[str]) -> dict[str, dict[str, Share]]:
        """All criteria's rates over the tasks of each kind, the most frequent kind first."""
        places = {kind: torch.tensor([own == kind for own in kinds]) for kind, _ in Counter(kinds).most_common()}
        return {kind: self.only(rows).shares() for kind, rows in places.items()}

    def verdicts(self, ids: Sequence[str]) -> tuple[Verdicts, ...]:
        """Every single judgement."""
        listed = {name: list(zip(*(part.tolist() for part in self._of(name)), strict=True)) for name in self.names}
        return tuple(
            Verdicts(task, {name: [*map(_word, *found[place])] for name, found in listed.items()})
            for place, task in enumerate(ids)
        )

    def against(self, other: Baseline, ids: Sequence[str]) -> Against:
        """The gains over another run on the same tasks: of one of their shares of videos over the other, by task."""
        gains: dict[str, tuple[float, float, float, int]] = {}
        for name in self.names:
            met, valid = self._of(name)
            theirs = [[said for said in other.verdicts[task][name] if said is not None] for task in ids]
            there = torch.tensor([bool(said) for said in theirs])
            shares = torch.tensor([sum(said) / max(1, len(said)) for said in theirs])
            own = met.float().sum(1) / valid.float().sum(1).clamp_min(1)
            gain = paired_gain(own, shares, valid.any(1) & there, draws=self.draws, seed=self.seed)
            if gain is not None:
                gains[name] = (gain.value, gain.low, gain.high, gain.n)
        return Against(other.name, other.checkpoint, str(other.path), gains)

    def _of(self, name: str) -> tuple[Bool[Tensor, "n v"], Bool[Tensor, "n v"]]:
        place = self.names.index(name)
        return self.met[place], self.valid[place]

    def _bootstrap(
        self, met: Bool[Tensor, "n v"] | Float[Tensor, "n v"], valid: Bool[Tensor, "n v"]
    ) -> tuple[float, float] | None:
        sums = met.float().sum(1), valid.float().sum(1)
        return ratio_interval(*sums, draws=self.draws, seed=self.seed)


def _word(met: bool, valid: bool) -> bool | None:
    return met if valid else None
