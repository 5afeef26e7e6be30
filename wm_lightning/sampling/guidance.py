"""Classifier-free guidance on actions, as a denoiser around a denoiser."""

from dataclasses import dataclass
from typing import Literal

from wm_lightning.clip import Condition, Latents, Levels
from wm_lightning.networks.denoiser import Denoises
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.state import State
from wm_lightning.noising import GaussianPath

NullPattern = Literal["all", "newest"]


def guided(conditional: Latents, unconditional: Latents, scale: float) -> Latents:
    """unconditional + scale (conditional − unconditional); scale 1 is conditional, 0 unconditional.

    The convention "conditional + w (conditional − unconditional)" of other systems is scale = 1 + w.
    """
    return unconditional + scale * (conditional - unconditional)


@dataclass(frozen=True)
class Guided:
    """x0 extrapolated away from what the model would do without (some) actions.

    `null="all"` drops the actions of every frame, so the two branches have different histories and
    the state holds both; `null="newest"` drops those of the new frames only, and one history serves both.
    """

    model: Denoises
    scale: float
    null: NullPattern

    @property
    def path(self) -> GaussianPath:
        """The path of the model inside."""
        return self.model.path

    def begun(self, context: Latents, condition: Condition) -> Condition:
        return self.model.begun(context, condition)

    def x0(
        self, x_t: Latents, t: Levels, condition: Condition, past: State | None, mask: FrameMask
    ) -> tuple[Latents, State]:
        own, other = self._branches(past)
        conditional, state = self.model.x0(x_t, t, condition, own, mask)
        unconditional, other_state = self.model.x0(x_t, t, condition.null(), other, mask)
        return guided(conditional, unconditional, self.scale), self._joined(state, other_state)

    def remember(self, x_t: Latents, t: Levels, condition: Condition, past: State | None, mask: FrameMask) -> State:
        own, other = self._branches(past)
        state = self.model.remember(x_t, t, condition, own, mask)
        if self.null == "newest":
            return self._joined(state, state)
        return self._joined(state, self.model.remember(x_t, t, condition.null(), other, mask))

    def _branches(self, past: State | None) -> tuple[State | None, State | None]:
        if past is None or self.null == "newest":
            return past, past
        return past.subset("given/"), past.subset("null/")

    def _joined(self, state: State, other: State) -> State:
        if self.null == "newest":
            return state
        return state.joined(other, "given/", "null/")
