"""A ring of generated windows that the critic sees again."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from wm_lightning.clip import Condition, Latents


@dataclass(frozen=True)
class Window:
    """Generated frames that are scored, behind their context, with their condition and sample indices."""

    x: Latents
    condition: Condition
    index: Int[Tensor, "b"]  # noqa: F821

    def detached(self) -> "Window":
        """The same values without a graph."""
        return Window(self.x.detach(), self.condition, self.index)


@dataclass
class Replay:
    """The newest `slots` windows, oldest overwritten first."""

    slots: int
    windows: list[Window] = field(default_factory=list)
    pushed: int = 0

    def push(self, window: Window) -> None:
        """Keeps a window."""
        if self.slots == 0:
            return
        if len(self.windows) < self.slots:
            self.windows.append(window)
        else:
            self.windows[self.pushed % self.slots] = window
        self.pushed += 1

    def pick(self, source: np.random.Generator) -> Window:
        """One of the kept windows."""
        return self.windows[int(source.integers(len(self.windows)))]

    def state_dict(self) -> dict[str, Any]:
        """Tensors and a count."""
        rows = [[w.x, w.condition.actions, w.condition.state, w.index] for w in self.windows]
        return {"windows": [[t.detach().cpu() for t in row] for row in rows], "pushed": self.pushed}

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str) -> None:
        """Inverse of `state_dict`."""
        rows = [[t.to(device) for t in row] for row in state["windows"]]
        self.windows = [Window(x, Condition(a, s), i) for x, a, s, i in rows]
        self.pushed = state["pushed"]
