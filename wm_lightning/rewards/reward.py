"""What every judge of videos gives: a value where the judgement worked out, the reason where it did not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wm_lightning.clip import Pixels, Texts

UNREACHED = "no connection"  # why a judgement failed whose server did not answer at all


@dataclass(frozen=True)
class Failed:
    """A judgement that did not work out. `reason` is one of few short phrases, so that equal ones can be counted."""

    reason: str


@dataclass(frozen=True)
class Verdict:
    """One judgement a video: `value` is finite where `valid`, else NaN, so that no failure passes for a bad video.

    The value is log p(yes) - log p(no) or a score; `reasons` says why there is none, and is empty where there is one.
    """

    value: Float[Tensor, "b"]
    valid: Bool[Tensor, "b"]
    reasons: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.value) == len(self.valid) == len(self.reasons):
            raise ValueError(f"{len(self.value)=}, {len(self.valid)=} and {len(self.reasons)=} must be equal")
        stated = torch.tensor([not reason for reason in self.reasons], dtype=torch.bool)
        sound = torch.where(self.valid, self.value.isfinite(), self.value.isnan())
        if not bool(sound.all()) or not bool((stated == self.valid.cpu()).all()):
            raise ValueError(
                f"{self.value=} must be finite where {self.valid=} and NaN elsewhere, with a reason: {self.reasons=}; "
                f"build it with Verdict.of"
            )

    @classmethod
    def of(cls, answers: Sequence[float | Failed]) -> "Verdict":
        """The verdict of one answer a video; a number that is not finite is a failure too."""
        numbers = [math.nan if isinstance(answer, Failed) else float(answer) for answer in answers]
        reasons = tuple(
            answer.reason if isinstance(answer, Failed) else "" if math.isfinite(number) else "not finite"
            for answer, number in zip(answers, numbers, strict=True)
        )
        value = [math.nan if reason else number for number, reason in zip(numbers, reasons, strict=True)]
        valid = torch.tensor([not reason for reason in reasons], dtype=torch.bool)
        return cls(torch.tensor(value, dtype=torch.float32), valid, reasons)

    @property
    def met(self) -> Bool[Tensor, "b"]:
        """Where the answer is yes: valid, and yes is likelier than no."""
        return self.valid & (self.value > 0)

    def __len__(self) -> int:
        return len(self.reasons)


@runtime_checkable
class Reward(Protocol):
    """Judges every video by its own texts. What one video gets hangs on no other of the batch, nor on their order."""

    def __call__(self, videos: Pixels, texts: Texts) -> Verdict:
        """One judgement a video; texts and videos stand in the same order."""
        ...
