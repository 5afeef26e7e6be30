"""A checkpoint as a simulator: rollouts under way as values, advanced chunk by chunk by actions as they are chosen."""

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.clip import ActionSpec, ActionState, Clip, Condition, Pixels, Start
from wm_lightning.compute import precise
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.networks.denoiser import Denoises
from wm_lightning.networks.state import State
from wm_lightning.sampling.rollout import Plan, SeededNoise, as_planned, next_chunk, remember_context
from wm_lightning.sampling.samplers import Sampler

PURPOSE = "simulation"


@dataclass(frozen=True)
class WorldModel:
    """A network as it was trained to be used: `chunk` frames at a time behind `context` given ones.

    `longest` is how many frames a rollout may have, given ones included, None where a window moves along. `forwards`
    counts the passes that a chunk takes. `data` says what actions and pixels are.
    """

    name: str
    model: Denoises
    sampler: Sampler
    plan: Plan
    data: ClipDataModule
    context: int
    chunk: int
    longest: int | None
    forwards: int
    device: torch.device
    precision: str

    @property
    def spec(self) -> ActionSpec:
        """The columns of an action."""
        return self.data.spec

    @property
    def rest(self) -> Mapping[str, float | int]:
        """Columns of the action of doing nothing that are not 0."""
        return self.data.rest


@dataclass(frozen=True)
class Slot:
    """One rollout under way. Its noise depends on `seed` and the frame alone, so that neighbours change none of it.

    `past` has a batch of one; `begin` is what the network was told of the first given frame.
    """

    past: State
    begin: Start | None
    seed: int

    @property
    def kind(self) -> Hashable:
        """Slots of one kind can share a forward pass: they remember as many frames, in blocks that lie alike."""
        blocks = [self.past.memory[name] for name in self.past.memory if name.endswith("block")]
        lie = tuple(tuple((value - value[:, -1:]).flatten().tolist()) for value in blocks)
        return self.past.length, lie


@torch.no_grad()
def begin(world: WorldModel, start: Clip, seeds: Sequence[int]) -> list[Slot]:
    """A slot for every clip of the batch, its `context` frames remembered. Raises ValueError for another number."""
    if len(start) != len(seeds) or start.video.shape[1] != world.context:
        raise ValueError(
            f"{len(start)} starts of {start.video.shape[1]} frames for {len(seeds)} seeds; {world.name} begins with "
            f"{world.context} given frames, and every start needs a seed"
        )
    model, noise = as_planned(world.model, world.plan), _noise(world, seeds)
    with precise(world.device, world.precision):
        given = start.x0.to(world.device)
        condition = model.begun(given, start.condition.to(world.device))
        past = remember_context(model, given, condition, world.plan, noise)
    rows = [slice(row, row + 1) for row in range(len(seeds))]
    return [Slot(past[row], condition[row].start, seed) for row, seed in zip(rows, seeds, strict=True)]


@torch.no_grad()
def advance(
    world: WorldModel, slots: Sequence[Slot], actions: Float[Tensor, "n f a"]
) -> tuple[Pixels, list[Slot]]:  # fmt: skip
    """The next `chunk` frames of every slot (on the CPU), and the slots that remember them.

    `actions[:, f]` produces frame f. Slots of one kind run as one batch. Products of matrices may round differently in
    batches of different size, and in nothing else does a slot's result hang on its neighbours.
    Raises ValueError where the actions are not those of a chunk.
    """
    wanted = (len(slots), world.chunk, world.spec.dim)
    if tuple(actions.shape) != wanted:
        raise ValueError(f"actions {tuple(actions.shape)}; {world.name} takes {wanted} (slots, frames, columns)")
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, slot in enumerate(slots):
        groups[slot.kind].append(place)
    frames: list[Tensor | None] = [None] * len(slots)
    after = list(slots)
    for places in groups.values():
        video, made = _advanced(world, [slots[place] for place in places], actions[places])
        for row, place in enumerate(places):
            frames[place], after[place] = video[row], made[row]
    return torch.stack([frame for frame in frames if frame is not None]), after


def _advanced(world: WorldModel, slots: Sequence[Slot], actions: Float[Tensor, "n f a"]) -> tuple[Pixels, list[Slot]]:
    begins = [slot.begin for slot in slots if slot.begin is not None]
    given = torch.full(actions.shape[:2], int(ActionState.GIVEN))
    condition = Condition(actions.float(), given).to(world.device)
    condition = replace(condition, start=Start.cat(begins) if begins else None)
    past = State.cat([slot.past for slot in slots])
    shape = tuple(world.data.frame_shape)
    with precise(world.device, world.precision):
        chunk = next_chunk(
            world.model, world.sampler, past, condition, world.plan, _noise(world, [slot.seed for slot in slots]),
            shape=shape,
        )  # fmt: skip
        pixels = world.data.decode(chunk.frames).cpu()
    assert chunk.past is not None
    return pixels, [replace(slot, past=chunk.past[row : row + 1]) for row, slot in enumerate(slots)]


def _noise(world: WorldModel, seeds: Sequence[int]) -> SeededNoise:
    return SeededNoise(0, PURPOSE, tuple(seeds), world.device)
