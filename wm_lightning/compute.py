"""Settings of the machine that a trainer's YAML names, its clock, and the precision models are used in."""

import logging
import os
import platform
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

log = logging.getLogger(__name__)

_ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def prepare_cpu(*, matmul_precision: str, threads: int) -> None:
    """Sets the precision of fp32 matrix products and the number of threads, and logs what holds.

    "medium" sends products to oneDNN, for torch's MKL slows down on AMD. On Intel it is no faster, makes attention two
    to ten times as slow, and on a CPU with AMX may compute in bf16. "auto" chooses by the maker. An
    OMP_NUM_THREADS that the user set keeps its say over `threads`.
    """
    if threads < 1:
        raise ValueError(f"compute.threads is {threads}, at least 1 is needed; give compute.threads=1 or more")
    if matmul_precision == "auto":
        matmul_precision = "medium" if cpu_maker() == "AuthenticAMD" else "highest"
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


def cpu_maker() -> str:
    """The processor's vendor as Linux knows it ("AuthenticAMD", "GenuineIntel"); empty where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), "")


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
