"""A ring of generated windows that the critic sees again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from wm_lightning.clip import Condition, Latents, Prompt, Start


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
        rows = [{name: gather(t.detach()).cpu() for name, t in _tensors(w).items()} for w in self.windows]
        return {"windows": rows, "pushed": self.pushed}

    def load_state_dict(self, state: dict[str, Any], rank: int, world_size: int) -> None:
        """Inverse of `state_dict`: the rows of one rank. Raises ValueError where ranks would get unequal shares."""
        windows = [_window(row) for row in state["windows"]]
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


def _tensors(window: Window) -> dict[str, Tensor]:
    """Everything a window is made of, by name."""
    condition = window.condition
    found = {"x": window.x, "actions": condition.actions, "state": condition.state, "index": window.index}
    if (start := condition.start) is not None:
        told = {"latent": start.latent, "image": start.image, "text": start.text}
        found |= {name: value for name, value in told.items() if value is not None}
    if (prompt := condition.prompt) is not None:
        found |= {"tokens": prompt.tokens, "there": prompt.there}
    return found


def _window(row: Mapping[str, Tensor]) -> Window:
    """Inverse of `_tensors`."""
    start = Start(row["latent"], row.get("image"), row.get("text")) if "latent" in row else None
    prompt = Prompt(row["tokens"], row["there"]) if "tokens" in row else None
    return Window(row["x"], Condition(row["actions"], row["state"], start, prompt), row["index"])
