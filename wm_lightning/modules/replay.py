"""A ring of generated windows that the critic sees again."""

from collections.abc import Callable
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
    index: Int[Tensor, "b"]

    def to(self, device: torch.device | str) -> "Window":
        """The same values on a device."""
        return Window(self.x.to(device), self.condition.to(device), self.index.to(device))


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

    def state_dict(self, gather: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Tensors and a count; `gather` joins the rows of all ranks into those of the global batch."""
        rows = [[w.x, w.condition.actions, w.condition.state, w.index] for w in self.windows]
        return {"windows": [[gather(t.detach()).cpu() for t in row] for row in rows], "pushed": self.pushed}

    def load_state_dict(self, state: dict[str, Any], rank: int, world_size: int) -> None:
        """Inverse of `state_dict`: the rows of one rank. Raises ValueError where ranks would get unequal shares."""
        windows = [Window(x, Condition(a, s), i) for x, a, s, i in state["windows"]]
        if any(len(window.index) % world_size for window in windows):
            raise ValueError(
                f"the replay holds windows of {len(windows[0].index)} clips, which {world_size} ranks cannot share "
                f"equally; continue on a number of ranks that divides it"
            )
        sizes = [len(window.index) // world_size for window in windows]
        places = [slice(rank * size, (rank + 1) * size) for size in sizes]
        self.windows = [
            Window(w.x[own], w.condition[own], w.index[own]) for w, own in zip(windows, places, strict=True)
        ]
        self.pushed = state["pushed"]
