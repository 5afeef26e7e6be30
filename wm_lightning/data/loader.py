"""Loaders: a training stream that resumes exactly, and fixed batches for evaluation."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from wm_lightning.clip import Clip
from wm_lightning.data.windows import Window, Windows, WindowStream


class WindowBatches(Sampler[list[Window]]):
    """The batches of one rank. Batch n depends on (seed, n) and the rank alone.

    All ranks together read in batch n what one rank with a batch as large as theirs together would.
    """

    def __init__(self, stream: WindowStream, *, batch_size: int, batches: int, rank: int, world_size: int) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"{rank=} is not a rank of {world_size=}")
        self.stream = stream
        self.batch_size, self.batches = batch_size, batches
        self.rank, self.world_size = rank, world_size
        self.first = 0  # the number of the first batch that the next pass gives

    def batch(self, number: int) -> list[Window]:
        """The windows of batch `number` on this rank."""
        start = (number * self.world_size + self.rank) * self.batch_size
        return [self.stream[index] for index in range(start, start + self.batch_size)]

    def __iter__(self) -> Iterator[list[Window]]:
        # A pass ends where an epoch ends, so a resumed epoch is as long as what was left of it.
        end = (self.first // self.batches + 1) * self.batches
        return (self.batch(number) for number in range(self.first, end))

    def __len__(self) -> int:
        return self.batches


class ClipLoader(DataLoader[Clip]):
    """The training loader. Its whole state is the number of batches that the training loop received.

    Batches that workers prepared ahead do not count. Lightning saves and restores the state by itself.
    """

    def __init__(
        self,
        windows: Windows,
        *,
        frames: int,
        batch_size: int,
        batches: int,
        seed: int,
        rank: int,
        world_size: int,
        num_workers: int,
    ) -> None:
        self.handed_out = 0
        stream = WindowStream(windows.reader, frames, seed)
        sampler = WindowBatches(stream, batch_size=batch_size, batches=batches, rank=rank, world_size=world_size)
        super().__init__(windows, batch_sampler=sampler, **_options(num_workers, seed))

    def __iter__(self) -> Iterator[Clip]:  # pyright: ignore[reportIncompatibleMethodOverride]
        # As a generator it starts at the first batch asked for, after Lightning restored the state.
        assert isinstance(self.batch_sampler, WindowBatches)
        self.batch_sampler.first = self.handed_out
        for clip in super().__iter__():
            self.handed_out += 1
            yield clip

    def state_dict(self) -> dict[str, int]:
        """The number of batches handed out."""
        return {"handed_out": self.handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues with the batch after those handed out."""
        self.handed_out = state["handed_out"]


def evaluation_loader(
    windows: Windows, chosen: Sequence[Window], batch_size: int, num_workers: int
) -> DataLoader[Clip]:
    """A loader of the windows chosen, in their order; the last batch may be smaller."""
    batches = [list(chosen[start : start + batch_size]) for start in range(0, len(chosen), batch_size)]
    return DataLoader(windows, batch_sampler=batches, **_options(num_workers, seed=0))  # pyright: ignore[reportArgumentType]


def _options(num_workers: int, seed: int) -> dict[str, Any]:
    # A generator of its own, because a loader without one draws from torch's global generator.
    # Windows collate themselves; what comes out of a worker is already the batch.
    return {
        "num_workers": num_workers,
        "collate_fn": _unchanged,
        "generator": torch.Generator().manual_seed(seed),
        "pin_memory": torch.cuda.is_available(),
    }


def _unchanged(clip: Clip) -> Clip:
    return clip
