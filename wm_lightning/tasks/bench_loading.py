"""Clips per second of the training loader, held against code that opens every clip's file and decodes it."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import torch
from jaxtyping import UInt8

from wm_lightning.clip import Clip
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.formats.csgo import CSGOSource
from wm_lightning.data.formats.episode import Episode, produced_actions
from wm_lightning.data.formats.mp4_npz import EpisodeFiles, Mp4NpzSource
from wm_lightning.data.formats.picture_files import from_bytes
from wm_lightning.data.formats.recon import RECONSource, planar_actions
from wm_lightning.data.formats.resize import Resize
from wm_lightning.data.formats.robot_actions import convert
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.store_reader import StoreReader
from wm_lightning.data.loader import ClipLoader, WindowBatches
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.data.windows import Windows, collate
from wm_lightning.tasks.bench_entries import Comparison

# Frames start..stop-1 of an episode with their stored actions, out of files that are opened for them.
PlainRead = Callable[[int, int, int], tuple[UInt8[np.ndarray, "f h w 3"], np.ndarray]]


def loading(data: ClipDataModule, batches: int, repeats: int, least: float) -> list[Comparison]:
    """The loader against reading by hand; on recordings with and without the cache of decoded frames."""
    reader = data.reader("train")
    if not isinstance(data, SourceDataModule) or not isinstance(reader, StoreReader):
        return [_in_memory(data, batches, repeats)]
    source = data.open_source("train")
    by_hand = plain_reading(source)
    if by_hand is None:
        return [_in_memory(data, batches, repeats)]
    direct = DirectReader(reader, source, data.frame_cache.resize)
    ways = {"loader": reader, "loader without cache": direct}
    streams: dict[str, Callable[[], Iterator[Clip]]]
    streams = {name: lambda kept=kept: loader_over(kept, data) for name, kept in ways.items()}
    streams["plain reader"] = lambda: plain_batches(data, direct, by_hand)
    same = {name: _same_frames(streams[name](), streams["plain reader"]()) for name in ways}
    speed = clips_per_second(streams, batches, data.batch_size, repeats)
    values = speed["loader"], speed["loader without cache"], speed["plain reader"]
    return [
        Comparison("loading, cached", "clips/s", "loader", "plain reader", values[0], values[2], same["loader"], least),
        Comparison(
            "loading, uncached", "clips/s", "loader without cache", "plain reader", values[1], values[2],
            same["loader without cache"],
        ),
    ]  # fmt: skip


def plain_reading(source: EpisodeSource) -> PlainRead | None:
    """What one would write by hand for mp4, CSGO's or RECON's HDF5: no check, and no more frames than needed."""
    if isinstance(source, Mp4NpzSource):
        return lambda episode, start, stop: _of_mp4(source.found.episodes[episode], start, stop)
    if isinstance(source, CSGOSource) and all(place.path.suffix == ".hdf5" for place in source.places):
        return lambda episode, start, stop: _of_csgo(source.places[episode].path, start, stop)
    if isinstance(source, RECONSource) and source.paths[0].suffix == ".hdf5":
        return lambda episode, start, stop: _of_recon(source.paths[episode], start, stop)
    return None


def cache_of(data: ClipDataModule) -> Mapping[str, Any] | None:
    """The size of the decoded training frames in MiB, what is allowed, and the key; None where none are kept."""
    if not isinstance(data, SourceDataModule):
        return None
    reader = data.reader("train")
    assert isinstance(reader, StoreReader)
    size = sum(path.stat().st_size for path in reader.store.folder.iterdir())
    allowed = data.frame_cache.most_bytes / 2**30
    return {"mib": size / 2**20, "gib_allowed": allowed, "key": reader.store.folder.name}


@dataclass(frozen=True)
class DirectReader:
    """The reader without its cache: every stretch comes from the checked, whole file."""

    cached: StoreReader
    source: EpisodeSource
    resize: Resize

    @property
    def spec(self) -> Any:
        return self.cached.spec

    @property
    def action_shift(self) -> int:
        return self.cached.action_shift

    def __len__(self) -> int:
        return len(self.cached)

    def length(self, episode: int) -> int:
        """Number of frames of an episode."""
        return self.cached.length(episode)

    def place(self, episode: int) -> int:
        """The episode's number in the source."""
        return self.source.names.index(self.cached.name(episode))

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """Frames start..stop-1 with the actions that produced them, without truth."""
        stored = self.source.read(self.place(episode))
        named = np.clip(
            convert(stored.actions, self.cached.columns, self.spec.names), self.cached.low, self.cached.high
        )
        produced = produced_actions(named, start, stop, self.action_shift)
        return Episode(self.resize(stored.video[start:stop]), produced.actions, produced.state)


def plain_batches(data: ClipDataModule, direct: DirectReader, by_hand: PlainRead) -> Iterator[Clip]:
    """The batches of the training stream, one item after the other; actions are those stored at the frames."""
    sampler = data.train_dataloader().batch_sampler
    assert isinstance(sampler, WindowBatches)
    for batch in sampler:
        episodes = []
        for window in batch:
            place = direct.place(window.episode)
            video, actions = by_hand(place, window.start, window.start + window.frames)
            state = np.zeros(len(actions), np.int64)
            episodes.append(Episode(direct.resize(video), actions.astype(np.float32), state))
        yield collate(episodes, [window.index for window in batch], truth=False)


def loader_over(reader: Any, data: ClipDataModule) -> Iterator[Clip]:
    """The training stream out of another reader of the same episodes."""
    return iter(
        ClipLoader(
            Windows(reader, truth=False), frames=data.frames, batch_size=data.batch_size, batches=data.train_batches,
            seed=data.seed, rank=0, world_size=1, num_workers=data.num_workers,
        )
    )  # fmt: skip


def clips_per_second(
    streams: Mapping[str, Callable[[], Iterator[Clip]]], batches: int, batch_size: int, repeats: int
) -> dict[str, float]:
    """Of every stream, in turns: the median of `repeats` rounds, after one that fills all caches."""
    times: dict[str, list[float]] = {name: [] for name in streams}
    for repeat in range(repeats + 1):
        for name, stream in streams.items():
            start = time.perf_counter()
            for _ in islice(stream(), batches):
                pass
            times[name] += [time.perf_counter() - start] if repeat else []
    return {name: batches * batch_size / statistics.median(values) for name, values in times.items()}


def _in_memory(data: ClipDataModule, batches: int, repeats: int) -> Comparison:
    """Against reading one episode after the other without a loader: what the random order and the batches cost."""
    reader = data.reader("train")
    long = [episode for episode in range(len(reader)) if reader.length(episode) >= data.frames]

    def in_order() -> Iterator[Clip]:
        for first in range(0, batches * data.batch_size, data.batch_size):
            places = [long[number % len(long)] for number in range(first, first + data.batch_size)]
            yield collate([reader.read(place, 0, data.frames) for place in places], places, truth=False)

    streams = {"loader": lambda: iter(data.train_dataloader()), "sequential reader": in_order}
    speed = clips_per_second(streams, batches, data.batch_size, repeats)
    (ours, other), (first, second) = speed, speed.values()
    return Comparison("loading", "clips/s", ours, other, first, second)


def _same_frames(one: Iterator[Clip], other: Iterator[Clip]) -> bool:
    return torch.equal(next(one).video, next(other).video)


def _of_mp4(files: EpisodeFiles, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    with av.open(str(files.video)) as container:
        frames = list(islice(container.decode(video=0), stop))[start:]
        video = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    with np.load(files.actions, allow_pickle=False) as arrays:
        return video, arrays["arr_0"][start:stop]


def _of_csgo(path: Path, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    with h5py.File(path, "r") as file:
        video, actions = (
            np.stack([np.asarray(file[f"frame_{number}_{key}"]) for number in range(start, stop)]) for key in "xy"
        )
    return np.ascontiguousarray(video[..., ::-1]), actions


def _of_recon(path: Path, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    keys = ("images/rgb_left", "jackal/position", "jackal/yaw")
    with h5py.File(path, "r") as file:
        data, position, yaw = (np.asarray(file[key][start:stop]) for key in keys)  # type: ignore[index]
    return np.stack([from_bytes(path, bytes(jpeg)) for jpeg in data]), planar_actions(position[:, :2], yaw.reshape(-1))
