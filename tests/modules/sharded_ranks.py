"""Two processes that are ranks of one training, started as a cluster starts them: each is told its place."""

import os
import socket
from collections.abc import Callable

import torch
import torch.multiprocessing as mp

RANKS = 2
PATIENCE = 600  # seconds, for the case that ranks wait for one another


def in_two_ranks(work: Callable[[], None]) -> None:
    """Runs `work` in two forks of this process that find each other. Fails the test where one fails or they hang."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    context = mp.get_context("fork")
    processes = [context.Process(target=_rank, args=(work, rank, port)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0] * RANKS, f"exit codes of the ranks: {codes}; what they raised stands above"


def _rank(work: Callable[[], None], rank: int, port: int) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(RANKS), "NODE_RANK": "0",
        "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    torch.set_num_threads(1)  # of this process: a fork has no threads of the pool it was left
    work()
    os._exit(0)  # as they are: nothing is taken apart that the other rank may still need
