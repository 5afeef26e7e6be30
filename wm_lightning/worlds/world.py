"""What a simulated world offers besides data: a judge of generated pixels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from wm_lightning.clip import ActionSpec, Clip, Pixels
from wm_lightning.metrics.motion import PHASE, phase_shift


@dataclass(frozen=True)
class Measures:
    """Judgement of every frame of every clip; NaN where undefined, as in the context frames.

    `action_error` is how far the motion seen is from the motion commanded, `object_error` how wrong
    the content is that the context determines, `presence` the share (0..1) of the content expected
    to exist that does. `extra` holds what only one world knows, each `b ...`.
    """

    action_error: Float[Tensor, "b f"]
    object_error: Float[Tensor, "b f"]
    presence: Float[Tensor, "b f"]
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def cat(parts: Sequence["Measures"]) -> "Measures":
        """Joins the measures of several batches of clips of equal length."""
        return Measures(
            torch.cat([p.action_error for p in parts]),
            torch.cat([p.object_error for p in parts]),
            torch.cat([p.presence for p in parts]),
            {key: torch.cat([p.extra[key] for p in parts]) for key in parts[0].extra},
        )


@runtime_checkable
class World(Protocol):
    """A simulator's name, its actions, and its program judge."""

    name: str
    spec: ActionSpec

    def measure(self, video: Pixels, clip: Clip, context: int) -> Measures:
        """Judges `video`, generated from the first `context` frames of `clip` and its condition.

        `video` has the frames of `clip`. Judged by pixels, against `clip.video`, `clip.truth` and
        `clip.condition`. Raises ValueError where the shapes differ or `context` leaves nothing to judge.
        """
        ...

    def compare(self, generated: Measures, true: Measures) -> Mapping[str, float]:
        """What only this world can say of all clips together, as numbers by name; less is better."""
        ...


@runtime_checkable
class OffersBaselines(Protocol):
    """A world that knows what can be had without a model, beyond holding the last frame."""

    def baselines(self) -> Mapping[str, Callable[[Clip, int], Pixels]]:
        """By name, what makes video of a clip and the number of its given frames."""
        ...


@runtime_checkable
class Moves(Protocol):
    """A world with a measure of motion by pixels alone."""

    def motion(self, video: Pixels) -> Float[Tensor, "b f 2"]:
        """What moves at an action's command, (x, y) since the frame before, 0 for the first frame.

        In picture widths, or in the world's own unit where its docstring names one.
        """
        ...


@runtime_checkable
class Branches(Protocol):
    """A world that goes on from a saved frame under other actions."""

    # Axes of what no action explains, of every frame of every clip; zeros leave it out.
    chance: tuple[int, ...]

    def branch(
        self,
        state: Mapping[str, Shaped[np.ndarray, "n ..."]],
        actions: Float[np.ndarray, "n f a"],
        chance: Float[np.ndarray, "n f ..."],
        /,
    ) -> tuple[UInt8[np.ndarray, "n f1 h w 3"], Any]:
        """Pictures from the saved frame on, that one included, and the hidden state that goes with them."""
        ...


def motion_measure(world: World | None) -> tuple[str, Callable[[Pixels], Float[Tensor, "b f 2"]]]:
    """Name and measure of motion: the world's own, or phase correlation of whole pictures where there is none."""
    return (world.name, world.motion) if world is not None and isinstance(world, Moves) else (PHASE, phase_shift)


def motion_unit(world: World | None) -> str:
    """What `motion_measure` counts in; a world that counts in something of its own has it as `motion_unit`."""
    if world is None or not isinstance(world, Moves):
        return "picture widths and heights"
    return getattr(world, "motion_unit", "picture widths")
