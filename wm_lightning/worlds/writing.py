"""Writes a world's episodes batch by batch, in this process or in several."""

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

Batch = TypeVar("Batch")


def write_batches(
    job: Callable[[Batch], int], batches: Iterable[Batch], workers: int, report: Callable[[int], None]
) -> None:
    """Calls `job` for every batch, in so many processes (here for 1), and `report` with what it returns, in order.

    Raises ValueError where a process ends before its work does.
    """
    if workers == 1:
        for batch in batches:
            report(job(batch))
        return
    # Spawned, not forked: the caller may hold threads (a progress bar, torch) that a fork would cut off.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            for written in pool.map(job, batches):
                report(written)
        except BrokenProcessPool as error:
            raise ValueError(
                f"data.world.{workers=}: a process that writes ended too early. In a script of your own, which "
                f"every process reads anew, this belongs under `if __name__ == '__main__':`; else memory may be short. "
                f"data.world.workers=1 writes in one process"
            ) from error
