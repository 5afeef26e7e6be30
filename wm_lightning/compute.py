"""Settings of the machine that a trainer's YAML names, its clock, and the precision models are used in."""

import logging
import os
import platform
import time
from contextlib import AbstractContextManager, nullcontext

import torch

log = logging.getLogger(__name__)

_ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def prepare_cpu(*, matmul_precision: str, threads: int) -> None:
    """Sets the precision of fp32 matrix products and the number of threads, and logs what holds.

    An OMP_NUM_THREADS that the user set keeps its say over `threads`.
    """
    if threads < 1:
        raise ValueError(f"compute.threads is {threads}, at least 1 is needed; give compute.threads=1 or more")
    torch.set_float32_matmul_precision(matmul_precision)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", threads)))
    allocator = "large blocks kept" if all(name in os.environ for name in _ALLOCATOR) else "default"
    log.info(
        "CPU settings: %d threads, fp32 matmul precision %s, allocator %s, idle threads %s",
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        allocator,
        "spin for microseconds" if "GOMP_SPINCOUNT" in os.environ else "as OpenMP has it",
    )
    if allocator == "default" and platform.libc_ver()[0] == "glibc":
        log.info("Started without ./wm, which sets allocator and threads before Python starts: slower on a CPU")


def prepare_gpu(*, matmul_precision: str) -> None:
    """Sets the precision of fp32 matrix products and logs it."""
    torch.set_float32_matmul_precision(matmul_precision)
    log.info("GPU settings: fp32 matmul precision %s", torch.get_float32_matmul_precision())


def precise(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Autocast to bfloat16 where the Trainer's precision says so; the Trainer does it for its own loops."""
    return torch.autocast(device.type, torch.bfloat16) if "bf16" in precision else nullcontext()


def now(device: torch.device) -> float:
    """Seconds, once the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
