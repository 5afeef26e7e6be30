"""What is seen side by side: world models, and the true simulator where the data have one."""

import logging
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from wm_lightning.clip import Clip
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.envs.world_model import Slot, WorldModel, advance, begin
from wm_lightning.worlds.world import Branches

log = logging.getLogger(__name__)

Frames = UInt8[np.ndarray, "f h w 3"]
# Mean difference of pixel values above which a simulator's picture is of another world than the start.
ANOTHER = 8.0


@runtime_checkable
class Panel(Protocol):
    """A world that begins with a start and goes on by actions."""

    name: str
    chunk: int

    def reset(self, start: Clip, seed: int) -> None:
        """Begins anew with the newest given frames of `start`, a batch of one."""
        ...

    def step(self, actions: Float32[np.ndarray, "f a"]) -> Frames:
        """The frames that these actions lead to: any whole number of chunks."""
        ...


class ModelPanel:
    """A world model."""

    def __init__(self, world: WorldModel) -> None:
        self.name, self.chunk, self.world = world.name, world.chunk, world
        self.slot: Slot | None = None

    def reset(self, start: Clip, seed: int) -> None:
        frames = start.video.shape[1]
        [self.slot] = begin(self.world, start.frames(frames - self.world.context, frames), [seed])

    def step(self, actions: Float32[np.ndarray, "f a"]) -> Frames:
        assert self.slot is not None, "reset comes first"
        made = []
        for chunk in np.split(actions, len(actions) // self.chunk):
            video, [self.slot] = advance(self.world, [self.slot], torch.from_numpy(chunk)[None])
            made.append(video[0])
        return torch.cat(made).permute(0, 2, 3, 1).contiguous().numpy()


class SimulatorPanel:
    """The world that made the data, from the hidden state of a start on. What no action explains is left out."""

    chunk = 1

    def __init__(self, world: Branches, data: ClipDataModule) -> None:
        self.name = "true simulator" if 0 in world.chance else "true simulator, without chance"
        self.world, self.resize, self.columns = world, data.picture_size, data.spec.dim
        self.state: Mapping[str, np.ndarray] = {}

    def reset(self, start: Clip, seed: int) -> None:
        self.state = {name: values[:, -1].numpy() for name, values in start.truth.items()}

    def step(self, actions: Float32[np.ndarray, "f a"]) -> Frames:
        video, hidden = self._branched(actions)
        states: Mapping[str, Any] = vars(hidden) if is_dataclass(hidden) else hidden
        self.state = {name: np.asarray(values)[:, -1] for name, values in states.items()}
        return self._sized(video[0, 1:])

    def first_frame(self) -> UInt8[np.ndarray, "h w 3"]:
        """The picture of the state as it is."""
        video, _ = self._branched(np.zeros((1, self.columns), np.float32))
        return self._sized(video[0, :1])[0]

    def _branched(self, actions: Float32[np.ndarray, "f a"]) -> tuple[np.ndarray, Any]:
        return self.world.branch(self.state, actions[None], np.zeros((1, len(actions), *self.world.chance)))

    def _sized(self, pictures: Frames) -> UInt8[np.ndarray, "f rows columns 3"]:
        if pictures.shape[1:3] == (self.resize.height, self.resize.width):
            return np.ascontiguousarray(pictures)
        return np.ascontiguousarray(np.moveaxis(self.resize(pictures), 1, -1))


def simulator_of(data: ClipDataModule, starts: Clip) -> SimulatorPanel | None:
    """The simulator of these data; None, with a word in the log, where none can go on from their starts."""
    if not isinstance(data.world, Branches) or not starts.truth or data.world.spec.names != data.spec.names:
        log.info("No true simulator beside the model: %s has none that goes on from a recorded frame", data.name)
        return None
    panel = SimulatorPanel(data.world, data)
    panel.reset(starts[:1], 0)
    shown = starts.video[0, -1].permute(1, 2, 0).numpy()
    if np.abs(panel.first_frame().astype(np.float32) - shown).mean() > ANOTHER:
        log.info("No true simulator beside the model: the settings of data.world are not those that made the data")
        return None
    return panel
