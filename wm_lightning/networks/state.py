"""What a network remembers of the frames it has seen, as a value."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor


class Grown(Mapping[str, Tensor]):
    """What was remembered with new frames behind it, joined when it is first asked for.

    Most passes of a rollout denoise, and what they would remember is dropped: they shall not pay for a copy of it.
    """

    def __init__(
        self, past: Mapping[str, Tensor], new: Mapping[str, Tensor], joined: Mapping[str, Tensor] | None = None
    ) -> None:
        # No more of the past than is needed, and each layer's only until it is joined.
        self._past = {key: past[key] for key in new if key in past}
        self._new, self._joined = dict(new), dict(joined or {})

    @property
    def parts(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """What makes another of it: past and new of what is not joined yet, and what is."""
        return self._past, self._new, self._joined

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._joined:
            new, past = self._new[key], self._past.get(key)
            self._joined[key] = new if past is None else torch.cat([past.to(new.dtype), new], dim=1)
            self._new.pop(key)
            self._past.pop(key, None)
        return self._joined[key]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._joined, *self._new])

    def __len__(self) -> int:
        return len(self._joined) + len(self._new)


def _parts(memory: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor], Mapping[str, Tensor]]:
    return memory.parts if isinstance(memory, Grown) else ({}, {}, memory)


@dataclass(frozen=True)
class State:
    """Detached tensors, batch first and frames second, and which of their frames count.

    A call of a network never alters the state it is given; it returns one that includes its own
    frames. Dropping that is denoising, keeping it is committing. `frame` is the absolute index of
    the next frame of every slot; `valid` is None while every slot remembers every frame. `last` is kept of the newest
    frames alone, whatever is dropped of `memory`: the last inputs of causal convolutions, sums of cumulative norms.
    """

    memory: Mapping[str, Tensor]
    frame: Int[Tensor, "b"]
    valid: Bool[Tensor, "b f"] | None = None
    last: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Number of frames remembered."""
        return next(iter(self.memory.values())).shape[1] if self.memory else 0

    def reset(self, slots: Bool[Tensor, "b"]) -> "State":
        """The state in which the named slots have seen nothing: their frame is 0, by which a network knows them."""
        every = torch.ones(len(slots), self.length, dtype=torch.bool, device=slots.device)
        valid = every if self.valid is None else self.valid
        return replace(self, valid=valid & ~slots[:, None], frame=self.frame.masked_fill(slots, 0))

    def advanced(self, memory: Mapping[str, Tensor], frames: int, last: Mapping[str, Tensor] | None = None) -> "State":
        """The state after `frames` more frames, with their memory already appended."""
        valid = self.valid
        if valid is not None:
            valid = torch.cat([valid, valid.new_ones(len(valid), frames)], dim=1)
        return replace(self, memory=memory, frame=self.frame + frames, valid=valid, last=last or {})

    def __getitem__(self, rows: slice) -> "State":
        """Some slots of the batch."""
        memory = Grown(*({name: value[rows] for name, value in part.items()} for part in _parts(self.memory)))
        last = {name: value[rows] for name, value in self.last.items()}
        return State(memory, self.frame[rows], None if self.valid is None else self.valid[rows], last)

    @classmethod
    def cat(cls, states: Sequence["State"]) -> "State":
        """Joins states of equal length over the batch."""
        first = states[0]
        memory = {name: torch.cat([s.memory[name] for s in states]) for name in first.memory}
        last = {name: torch.cat([s.last[name] for s in states]) for name in first.last}
        valid = [s.valid for s in states if s.valid is not None]
        return cls(memory, torch.cat([s.frame for s in states]), torch.cat(valid) if valid else None, last)

    def subset(self, prefix: str) -> "State":
        """The part of the memory whose names start with `prefix`, under the names without it."""
        own = (
            {k.removeprefix(prefix): v for k, v in m.items() if k.startswith(prefix)} for m in (self.memory, self.last)
        )
        return replace(self, memory=next(own), last=next(own))

    def joined(self, other: "State", own: str, others: str) -> "State":
        """This state with the memory of another beside it, under the prefixes `own` and `others`; see `subset`."""

        def both(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {own + k: v for k, v in mine.items()} | {others + k: v for k, v in theirs.items()}

        memory = Grown(*map(both, _parts(self.memory), _parts(other.memory)))
        return replace(self, memory=memory, last=both(self.last, other.last))


def empty_state(batch: int) -> State:
    """A state that has seen nothing."""
    return State(memory={}, frame=torch.zeros(batch, dtype=torch.long))


def evict(state: State, *, window: int | None, sink: int, incoming: int) -> State:
    """Drops the oldest frames behind the sinks so that sinks + kept + incoming ≤ window.

    Raises ValueError where the window cannot hold the sinks and the incoming frames.
    """
    if window is None:
        return state
    keep = window - incoming
    if keep < sink:
        raise ValueError(f"a window of {window} frames cannot hold {sink} sink frames and a chunk of {incoming}")
    if state.length <= keep:
        return state

    def kept(values: Tensor) -> Tensor:
        if state.valid is None:
            return torch.cat([values[:, :sink], values[:, values.shape[1] - (keep - sink) :]], dim=1)
        return values[torch.arange(len(values))[:, None], _kept_columns(state.valid, keep, sink)]

    memory = {name: kept(values) for name, values in state.memory.items()}
    return replace(state, memory=memory, valid=None if state.valid is None else kept(state.valid))


def _kept_columns(valid: Bool[Tensor, "b f"], keep: int, sink: int) -> Int[Tensor, "b kept"]:
    # A slot that was reset has its sinks where its own frames begin, not where the tensor does.
    newest = torch.arange(valid.shape[1] - keep, valid.shape[1], device=valid.device).expand(len(valid), -1)
    begin = valid.shape[1] - valid.sum(1, keepdim=True)
    own = begin + torch.arange(sink, device=valid.device)
    return torch.cat([torch.where(begin <= newest[:, :1], own, newest[:, :sink]), newest[:, sink:]], dim=1)
