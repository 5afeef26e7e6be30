"""What this machine has: memory that is free, and the rate of its matrix products."""

import os
from pathlib import Path

import torch

from wm_lightning.compute import now

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
SIDES = {"cpu": 1024, "cuda": 8192}
SECONDS = 0.2


def free_memory(device: torch.device, *, meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Bytes that a training could take: of the GPU, or of the main memory within this container's bound.

    None where the system does not say.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if not meminfo.is_file():
        pages = os.sysconf_names.get("SC_PHYS_PAGES")
        return None if pages is None else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free = int(lines["MemAvailable"].split()[0]) * 1024
    bound, used = (_number(cgroup / name) for name in ("memory.max", "memory.current"))
    return free if bound is None or used is None else min(free, max(0, bound - used))


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def product_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of square matrix products, the fastest of those that fit into a fraction of a second."""
    side = SIDES[device.type]
    one, other = (torch.rand(side, side, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    begin, best = now(device), float("inf")
    while best == float("inf") or now(device) - begin < SECONDS:
        start = now(device)
        torch.mm(one, other)
        best = min(best, now(device) - start)
    return 2 * side**3 / best


def timed(seconds: float) -> str:
    """A rough length of time in words."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"about {seconds / length:.2g} {unit}"
    return f"about {seconds:.2g} seconds"
