"""task=encode of WorldTasks: what frozen encoders say of every picture and text, once, as a training reads it."""

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wm_lightning.data.cache import simulate
from wm_lightning.data.formats.latent_files import DTYPE
from wm_lightning.data.formats.video_files import BadFile
from wm_lightning.data.latent_cache import LatentCache
from wm_lightning.data.task_cache import Picture, Seen, TaskCache
from wm_lightning.data.world_tasks import WorldTasksDataModule

log = logging.getLogger(__name__)

MIB = 2**20
# Encodes and stores one thing, and gives the bytes of its file; None where it was there, whole.
Step = Callable[[], int | None]


def encode_tasks(data: WorldTasksDataModule, into: Path, device: torch.device) -> dict[str, float]:
    """Encodes what is missing in the folder `into`; returns pictures, texts and bytes.

    Raises ValueError where the folder is of other settings, data or encoders are missing, another process is at it, or
    the disk has too little space.
    """
    if not data.pictures_only or data.latents is not None:
        raise ValueError(
            f"task=encode takes pictures of tasks, and {data.name} are films or latents already; set data=world_tasks "
            f"and data.latents=null"
        )
    if data.encoders is not None and data.encoders.folder is None:
        raise ValueError("data.encoders.folder=null: task=encode needs the encoders; name diffusers' folder")
    if data.root is None:
        simulate(data.cache_dir, data.recipe())
    key, started = data.task_key, time.perf_counter()
    place, cache = LatentCache(into, key), TaskCache(into, key)
    place.check_place()
    work = {"pictures": list(picture_steps(data, cache, device)), "texts": list(text_steps(data, cache, device))}
    place.begin()
    try:
        with FileLock(into / "encode.lock", timeout=0):
            for name, steps in work.items():
                run(name, steps, into)
    except Timeout as error:
        raise ValueError(f"{into} is being written by another task=encode; wait for it") from error
    size = sum(path.stat().st_size for path in into.rglob("*.safetensors"))
    counts = {name: float(len(steps)) for name, steps in work.items()}
    log.info(
        "Encoded: %s, %d pictures and %d texts in %.1f MiB, %.1f s", into, counts["pictures"], counts["texts"],
        size / MIB, time.perf_counter() - started,
    )  # fmt: skip
    log.info("Train on it with the same data, autoencoder and encoders words and data.latents=%s", into)
    return {**counts, "bytes": float(size)}


def picture_steps(data: WorldTasksDataModule, cache: TaskCache, device: torch.device) -> Iterator[Step]:
    """One for every file of a picture that a usable task names."""
    for row in {row.image: row for row in data.tasks.rows}.values():

        def step(row=row) -> int | None:
            picture = data.resize(data.tasks.picture(row)[None].copy())[0]
            if whole(lambda: cache.seen(picture)):
                return None
            return cache.keep_picture(picture, looked_at(data, picture, device))

        yield step


def looked_at(data: WorldTasksDataModule, picture: Picture, device: torch.device) -> Seen:
    """A picture's latents and, where there are encoders of pictures, its tokens."""
    assert data.autoencoder is not None
    pictures = torch.from_numpy(np.ascontiguousarray(picture))[None]
    latents = data.autoencoder.encode(pictures[None].to(device))[0].cpu().numpy().astype(DTYPE)
    tokens = None if data.encoders is None else data.encoders.picture(pictures, device)
    return Seen(latents, None if tokens is None else tokens[0])


def text_steps(data: WorldTasksDataModule, cache: TaskCache, device: torch.device) -> Iterator[Step]:
    """One for every instruction and solution; none where networks read words themselves."""
    encoders = data.encoders
    if encoders is None:
        return
    for text in dict.fromkeys(text for row in data.tasks.rows for text in (row.prompt, row.solution)):

        def step(text: str = text) -> int | None:
            if whole(lambda: cache.heard(text)):
                return None
            return cache.keep_text(text, encoders.words([text], device))

        yield step


def whole(read: Callable[[], object | None]) -> bool:
    """Whether something is stored that can be read."""
    try:
        return read() is not None
    except BadFile as error:
        log.warning("made again: %s", error)
        return False


def run(name: str, steps: Iterable[Step], folder: Path) -> None:
    """All steps behind a bar. Raises ValueError as soon as the disk cannot hold as much of what is left again."""
    steps = list(steps)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        bar = progress.add_task(f"encoding {name}", total=len(steps))
        for number, step in enumerate(steps):
            if (size := step()) is not None:
                require_space(folder, size * (len(steps) - number - 1))
            progress.advance(bar)


def require_space(folder: Path, needed: int) -> None:
    """Raises ValueError where the disk of `folder` has fewer bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder} has {free / MIB:.0f} MiB free, what is still to be encoded needs about {needed / MIB:.0f} MiB; "
            f"make room and give the command again, or name a folder elsewhere with task.into="
        )
