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
        self._past, self._new, self._joined = past, dict(new), dict(joined or {})

    def __getitem__(self, key: str) -> Tensor:
        if key in self._new:
            new = self._new.pop(key)
            self._joined[key] = torch.cat([self._past[key].to(new.dtype), new], dim=1) if key in self._past else new
            if not self._new:  # nothing holds the past any longer
                self._past = {}
        return self._joined[key]

    def __iter__(self) -> Iterator[str]:
        return iter([*self._joined, *self._new])

    def __len__(self) -> int:
        return len(self._joined) + len(self._new)

    def slots(self, rows: slice) -> "Grown":
        """Some slots of the batch, still to be joined."""
        past = {key: self._past[key] for key in self._new if key in self._past}
        return Grown(*({key: value[rows] for key, value in part.items()} for part in (past, self._new, self._joined)))


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
        memory, last = (
            m.slots(rows) if isinstance(m, Grown) else {name: value[rows] for name, value in m.items()}
            for m in (self.memory, self.last)
        )
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
        both = (
            {own + k: v for k, v in mine.items()} | {others + k: v for k, v in theirs.items()}
            for mine, theirs in ((self.memory, other.memory), (self.last, other.last))
        )
        return replace(self, memory=next(both), last=next(both))


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
