"""task=encode: a data set's latents, encoded once into a cache that training reads."""

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wm_lightning.data.cache import simulate
from wm_lightning.data.formats.frame_store import Index, check_budget
from wm_lightning.data.formats.latent_files import DTYPE
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.store_reader import Plan, check_actions
from wm_lightning.data.latent_cache import Encoded, LatentCache
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.networks.autoencoders import Autoencoder
from wm_lightning.tasks.build import device_of
from wm_lightning.tasks.encode_tasks import encode_tasks

log = logging.getLogger(__name__)

MIB = 2**20
HEADER = 600  # bytes of a file beside its frames, at most


@dataclass(frozen=True)
class Work:
    """One stored split: its episodes, what is sound of them, and how many may be unusable."""

    source: EpisodeSource
    plan: Plan
    allowed: int


@dataclass(frozen=True, kw_only=True)
class Encode:
    """The task: `into` names a new folder, or one that an interrupted run of the same command left.

    Episodes that are there, whole and of the same key, are kept.
    """

    into: str | None

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Encodes all stored splits; returns episodes, frames and bytes (of tasks: pictures, texts and bytes).

        Raises ValueError where a name is wrong, the folder is of other settings, the disk has too little space, or too
        much of the set is unusable.
        """
        if self.into is None or config.autoencoder is None:
            raise ValueError("task=encode needs task.into=FOLDER, a new one, and autoencoder=pixel|patch|sd|sd3|video")
        data = instantiate(config.data, _convert_="all")
        if isinstance(data, WorldTasksDataModule):
            return encode_tasks(data, Path(self.into), device_of(config))
        if not isinstance(data, SourceDataModule) or data.autoencoder is None:
            raise ValueError("task=encode takes recordings: data=rt1|csgo|recon|own, or tasks: data=world_tasks")
        if data.root is None:
            simulate(data.cache_dir, data.recipe())
        cache = LatentCache(Path(self.into), data.latent_key)
        cache.check_place()
        work = planned(data)
        check_space(cache.folder, data, work)
        device = device_of(config)
        started = time.perf_counter()
        found = encode_all(cache, work, data, device)
        frames = sum(sum(index.lengths) for index in found.values())
        size = sum(path.stat().st_size for path in cache.folder.rglob("*.safetensors"))
        log.info(
            "Encoded: %s, %s; %d frames of %s latents in %.1f MiB (%.0f bytes a frame), %.1f s", cache.folder,
            ", ".join(f"{len(index.names)} {split}" for split, index in found.items()), frames,
            "x".join(map(str, latent_shape(data))), size / MIB, size / max(1, frames), time.perf_counter() - started,
        )  # fmt: skip
        log.info("Train on it with the same data and autoencoder words and data.latents=%s", cache.folder)
        return {
            "episodes": float(sum(len(index.names) for index in found.values())),
            "frames": float(frames),
            "bytes": float(size),
        }


def latent_shape(data: SourceDataModule) -> tuple[int, int, int]:
    """Channels, height and width of a frame's latents. Raises ValueError where frames cannot be divided."""
    assert data.autoencoder is not None
    return data.autoencoder.frame_shape(data.frame_cache.resize.height, data.frame_cache.resize.width)


def planned(data: SourceDataModule) -> dict[str, Work]:
    """The stored splits, their actions read. Raises ValueError where more is unusable than `data` allows."""
    work = {}
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), transient=True) as progress:
        bar = progress.add_task("", total=None)
        for split in data.stored_splits():
            progress.update(bar, description=f"reading actions of {split}")
            source = data.open_source(split)
            candidates = len(source.names) + len(source.bad)
            allowed = data.frame_cache.tolerance.allowed(candidates)
            work[split] = Work(source, check_actions(source), allowed)
            with data.frame_cache.tolerance.named(split, candidates):
                check_budget(work[split].plan.bad, allowed)
    return work


def check_space(folder: Path, data: SourceDataModule, work: Mapping[str, Work]) -> None:
    """Raises ValueError where the disk has too little room for what is still to be written."""
    frames = sum(part.plan.frames for part in work.values())
    episodes = sum(len(part.plan.episodes) for part in work.values())
    needed = frames * (2 * math.prod(latent_shape(data)) + 4 * data.spec.dim + 4) + HEADER * episodes
    needed -= sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    if free < 1.02 * needed:
        raise ValueError(
            f"{there} has {free / MIB:.0f} MiB free, the latents of {frames} frames need {needed / MIB:.0f} MiB more; "
            f"make room or name a folder elsewhere with task.into="
        )


def encode_all(
    cache: LatentCache, work: Mapping[str, Work], data: SourceDataModule, device: torch.device
) -> dict[str, Index]:
    """Every split encoded, with a bar that counts frames. Raises ValueError where another process is at it."""
    assert data.autoencoder is not None
    cache.begin()
    lock = FileLock(cache.folder / "encode.lock", timeout=0)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"))
    change, found = changing(data.frame_cache.resize, data.autoencoder, device), {}
    try:
        with lock, Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
            for split, part in work.items():
                bar = progress.add_task(f"encoding {data.name} {split}", total=part.plan.frames)
                candidates = len(part.source.names) + len(part.source.bad)
                with data.frame_cache.tolerance.named(split, candidates):
                    found[split] = cache.encode(
                        split, part.source, part.plan, change, allowed=part.allowed, workers=data.frame_cache.workers,
                        report=lambda frames, bar=bar: progress.advance(bar, frames),
                    )  # fmt: skip
    except Timeout as error:
        raise ValueError(f"{cache.folder} is being written by another task=encode; wait for it") from error
    return found


def changing(resize: Resize, autoencoder: Autoencoder, device: torch.device) -> Callable[[np.ndarray], Encoded]:
    """Stored frames [f h w 3] to resized ones and their latents."""

    def change(video: np.ndarray) -> Encoded:
        pictures = resize(video)
        latents = autoencoder.encode(torch.from_numpy(pictures)[None].to(device))
        return Encoded(pictures, latents[0].cpu().numpy().astype(DTYPE))

    return change
