"""Several rewards at once: videos are handed in as they are made, and what all say of them is collected later."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wm_lightning.clip import Pixels, Texts
from wm_lightning.rewards.reward import UNREACHED, Reward, Verdict

log = logging.getLogger(__name__)
Counts = Int[Tensor, "two k"]  # judgements that failed, and all that were asked for, by reward


class TooManyFailures(ValueError):
    """A reward fails so often that what is left of it tells little."""


@dataclass(frozen=True)
class Weighted:
    """A reward and its share in the total; one of weight 0 is measured and pays nothing."""

    reward: Reward
    weight: float


@dataclass(frozen=True)
class Scores:
    """What every reward says of an iteration's videos: one column a name, NaN where it failed.

    `failures` counts the reasons, by reward.
    """

    names: tuple[str, ...]
    weights: Float[Tensor, "k"]
    value: Float[Tensor, "b k"]
    valid: Bool[Tensor, "b k"]
    failures: Mapping[str, Mapping[str, int]]

    def of(self, name: str) -> Float[Tensor, "b"]:
        """One reward's column."""
        return self.value[:, self.names.index(name)]


@dataclass(frozen=True)
class Pending:
    """Judgements that are being made of one batch, by reward."""

    judged: Mapping[str, Future[Verdict]]


class RewardBus:
    """Named, weighted rewards; each has a thread of its own, so none waits for another.

    An iteration in which more than the share `max_invalid` of a reward's judgements fail ends in TooManyFailures.
    `judge` says who judges, for tables.
    """

    def __init__(self, *, rewards: Mapping[str, Weighted], max_invalid: float, judge: str = "unnamed") -> None:
        if not rewards or any(not weighted.weight >= 0 for weighted in rewards.values()):
            weights = {name: weighted.weight for name, weighted in rewards.items()}
            raise ValueError(f"rewards of weights {weights}: at least one is needed, and none below 0")
        if not 0 <= max_invalid <= 1:
            raise ValueError(f"{max_invalid=} is a share of the judgements, from 0 to 1")
        self.rewards, self.max_invalid, self.judge = dict(rewards), max_invalid, judge
        self._threads = {name: ThreadPoolExecutor(1, thread_name_prefix=f"reward {name}") for name in rewards}

    def submit(self, videos: Pixels, texts: Texts) -> Pending:
        """Hands a batch to all rewards and returns at once; the videos may be changed afterwards.

        A copy is kept in main memory until all have judged it. Raises ValueError where there are not as many texts as
        videos.
        """
        if len(videos) != len(texts):
            raise ValueError(f"{len(videos)} videos come with {len(texts)} texts")
        kept = videos.detach().to("cpu", copy=True)
        # Threads begin on the first GPU, whichever this process uses.
        gpu = torch.cuda.current_device() if torch.cuda.is_available() else None
        return Pending(
            {
                name: self._threads[name].submit(_judged, weighted.reward, kept, texts, gpu)
                for name, weighted in self.rewards.items()
            }
        )

    def collect(self, pending: Sequence[Pending], summed: Callable[[Counts], Counts] = lambda own: own) -> Scores:
        """Waits for an iteration's batches; videos stand in the order of the batches given.

        What a reward raises is raised here. Raises TooManyFailures beyond `max_invalid`, ValueError without batches.
        `summed` adds up counts over processes that judge together: they go on, or end, as one.
        """
        if not pending:
            raise ValueError("no batches to collect; submit some first")
        verdicts = {name: [batch.judged[name].result() for batch in pending] for name in self.rewards}
        failures = {
            name: Counter(reason for verdict in parts for reason in verdict.reasons if reason)
            for name, parts in verdicts.items()
        }
        names = tuple(self.rewards)
        value, valid = (
            torch.stack([torch.cat([getattr(verdict, what).cpu() for verdict in verdicts[name]]) for name in names], 1)
            for what in ("value", "valid")
        )
        self._check(failures, summed(torch.stack([(~valid).sum(0), torch.full((len(names),), len(valid))])))
        weights = torch.tensor([self.rewards[name].weight for name in names], dtype=torch.float32)
        return Scores(names, weights, value, valid, failures)

    def __call__(self, videos: Pixels, texts: Texts) -> Scores:
        """Judges a batch and waits for it."""
        return self.collect([self.submit(videos, texts)])

    def close(self) -> None:
        """Ends the threads; batches that none has begun with are given up."""
        for threads in self._threads.values():
            threads.shutdown(cancel_futures=True)

    def _check(self, failures: Mapping[str, Counter[str]], counts: Counts) -> None:
        for (name, reasons), (failed, asked) in zip(failures.items(), counts.T.tolist(), strict=True):
            if not failed:
                continue
            told = ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common()) or "none here"
            message = f"reward {name}: {failed} of {asked} judgements failed ({told})"
            if failed > self.max_invalid * asked:
                look = "look at the judge's own log, or slow down the questions (concurrency, timeout, retries)"
                if set(reasons) == {UNREACHED}:
                    look = "no server answers: start one, or name it by endpoint.url (reward.endpoint.url to train)"
                raise TooManyFailures(
                    f"{message}, more than max_invalid={self.max_invalid} allows; {look}, then go on from the last "
                    f"checkpoint where there is one"
                )
            log.warning("%s", message)


def _judged(reward: Reward, videos: Pixels, texts: Texts, gpu: int | None) -> Verdict:
    here: AbstractContextManager = nullcontext() if gpu is None else torch.cuda.device(gpu)
    with here:
        verdict = reward(videos, texts)
    if len(verdict) != len(videos):
        raise ValueError(f"{type(reward).__name__} gave {len(verdict)} judgements of {len(videos)} videos")
    return verdict
