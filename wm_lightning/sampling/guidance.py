"""Classifier-free guidance on actions, as a denoiser around a denoiser."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wm_lightning.clip import Condition, Latents, Levels
from wm_lightning.networks.denoiser import Denoiser, Denoises
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.rerun import Rerun
from wm_lightning.networks.state import State
from wm_lightning.noising import GaussianPath


@dataclass(frozen=True)
class Guidance:
    """How far, and away from what, a rollout is pushed.

    `scale` s mixes unconditional + s (conditional − unconditional); 1 is the conditional model, in one pass. `drop`
    says which actions the unconditional pass lacks: "newest" those of the new frames alone, "all" those of the history
    too. `rescale` (φ, 0 to 1) gives the network's prediction back part of its spread (`rescaled`), which is measured
    over the new frames (`scope` "new") or over all frames of the window, as Vid2World does ("window").
    """

    scale: float
    drop: str
    rescale: float
    scope: str

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0 and 0 <= self.rescale <= 1):
            raise ValueError(
                f"guidance.scale={self.scale} must be 0 or more (1: no guidance), and guidance.rescale={self.rescale} "
                f"lie in [0, 1]"
            )
        # Plain strings, so that this is checked where a config says something else.
        if self.drop not in ("all", "newest") or self.scope not in ("new", "window"):
            raise ValueError(
                f"guidance.drop={self.drop!r} must be all or newest, guidance.scope={self.scope!r} new or window"
            )


def guided(conditional: Latents, unconditional: Latents, scale: float) -> Latents:
    """unconditional + scale (conditional − unconditional); scale 1 is conditional, 0 unconditional.

    The convention "conditional + w (conditional − unconditional)" of other systems is scale = 1 + w.
    """
    return unconditional + scale * (conditional - unconditional)


def rescaled(mixed: Latents, conditional: Latents, share: float, counted: Bool[Tensor, "b f"] | None = None) -> Latents:
    r"""The guided prediction with a share of its spread brought back to that of the conditional one.

    .. math:: v \leftarrow \varphi\,v_g\,\mathrm{std}(v_c)/\mathrm{std}(v_g) + (1 - \varphi)\,v_g

    (Lin et al. 2305.08891, eqs. 15 and 16.) Spreads are those of a sample, over its `counted` frames (None: all).
    """
    ratio = _spread(conditional, counted) / _spread(mixed, counted).clamp_min(torch.finfo(mixed.dtype).tiny)
    return mixed * (share * ratio + 1 - share)


def _spread(values: Latents, counted: Bool[Tensor, "b f"] | None) -> Float[Tensor, "b 1 1 1 1"]:
    every = (1, 2, 3, 4)
    if counted is None:
        return values.std(dim=every, keepdim=True)
    weight = counted[..., None, None, None].expand_as(values).to(values)
    number = weight.sum(every, keepdim=True)
    mean = (weight * values).sum(every, keepdim=True) / number.clamp_min(1)
    return ((weight * (values - mean).square()).sum(every, keepdim=True) / (number - 1).clamp_min(1)).sqrt()


def guided_by(model: Denoises, guidance: Guidance | None) -> Denoises:
    """The model under the guidance, or as it is where there is none (scale 1) or it is guided already."""
    if guidance is None or guidance.scale == 1 or isinstance(model, Guided):
        return model
    return Guided(model, guidance)


@dataclass(frozen=True)
class Guided:
    """x0 pushed away from what the model would do without (some) actions, both in one pass of a doubled batch.

    Where the actions of every frame are dropped, the two branches have different histories and the state holds both;
    where only those of the new frames are, one history serves both. Raises ValueError for a spread over the whole
    window from a model that makes no prediction for remembered frames.
    """

    model: Denoises
    guidance: Guidance

    def __post_init__(self) -> None:
        if self.over_window and not (isinstance(self.model, Denoiser) and isinstance(self.model.network, Rerun)):
            raise ValueError(
                "guidance.scope=window takes the spread over the remembered frames too, for which a network with a "
                "cache predicts nothing; set rollout.guidance.scope=new, or let the network run its window again with "
                "rollout.rerun=true"
            )

    @property
    def path(self) -> GaussianPath:
        """The path of the model inside."""
        return self.model.path

    def begun(self, context: Latents, condition: Condition) -> Condition:
        return self.model.begun(context, condition)

    @property
    def over_window(self) -> bool:
        """Is the spread measured over remembered frames too?"""
        return self.guidance.scope == "window" and self.guidance.rescale > 0

    def x0(
        self, x_t: Latents, t: Levels, condition: Condition, past: State | None, mask: FrameMask
    ) -> tuple[Latents, State]:
        both = torch.cat([x_t, x_t]), torch.cat([t, t]), Condition.cat([condition, condition.null()])
        if self.over_window:
            return self._x0_over_window(*both, self._doubled(past), mask)
        x0, state = self.model.x0(*both, self._doubled(past), mask)
        conditional, unconditional = x0.chunk(2)
        mixed = guided(conditional, unconditional, self.guidance.scale)
        if self.guidance.rescale:
            # Clean frames, which a pyramid shows beside noisy ones, hold nothing that could be told from x0.
            pushed, plain = (self.path.prediction_of(x_t, frames, t) for frames in (mixed, conditional))
            mixed = self.path.x0(x_t, rescaled(pushed, plain, self.guidance.rescale, t > 0), t)
        return mixed, self._halved(state)

    def _x0_over_window(
        self, x_t: Latents, t: Levels, condition: Condition, past: State | None, mask: FrameMask
    ) -> tuple[Float[Tensor, "half f c h w"], State]:
        """The same from doubled inputs, with the predictions for the remembered frames beside those for the new."""
        assert isinstance(self.model, Denoiser) and isinstance(self.model.network, Rerun)
        prediction, state = self.model.network.window(x_t, self.path.label(t), condition, past, mask=mask)
        conditional, unconditional = prediction.chunk(2)
        mixed = guided(conditional, unconditional, self.guidance.scale)
        mixed = rescaled(mixed, conditional, self.guidance.rescale)[:, -x_t.shape[1] :]
        return self.path.x0(x_t.chunk(2)[0], mixed, t.chunk(2)[0]), self._halved(state)

    def remember(self, x_t: Latents, t: Levels, condition: Condition, past: State | None, mask: FrameMask) -> State:
        if self.guidance.drop == "newest":
            return self.model.remember(x_t, t, condition, past, mask)
        both = torch.cat([x_t, x_t]), torch.cat([t, t]), Condition.cat([condition, condition.null()])
        return self._halved(self.model.remember(*both, self._doubled(past), mask))

    def _doubled(self, past: State | None) -> State | None:
        """What both branches remember, one behind the other in the batch."""
        if past is None:
            return None
        own, other = (past, past) if self.guidance.drop == "newest" else (past.subset("given/"), past.subset("null/"))
        return State.cat([own, other])

    def _halved(self, state: State) -> State:
        """Inverse of `_doubled`."""
        half = len(state.frame) // 2
        given, null = state[:half], state[half:]
        return given if self.guidance.drop == "newest" else given.joined(null, "given/", "null/")
