"""Clips per second of the training loader, held against code that opens every clip's file and decodes it."""

import io
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from itertools import islice
from pathlib import Path
from typing import Any

import av
import h5py
import numpy as np
import pyarrow.parquet as pq
import torch
from jaxtyping import UInt8
from PIL import Image

from wm_lightning.clip import Clip
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.formats.csgo import CSGOSource
from wm_lightning.data.formats.episode import Episode
from wm_lightning.data.formats.latent_reader import LatentReader
from wm_lightning.data.formats.lerobot import LeRobotSource
from wm_lightning.data.formats.lerobot_declared import Place as VideoPlace
from wm_lightning.data.formats.mp4_npz import EpisodeFiles, Mp4NpzSource
from wm_lightning.data.formats.picture_files import from_bytes
from wm_lightning.data.formats.recon import RECONSource, planar_actions
from wm_lightning.data.formats.rlds import Place as RecordPlace
from wm_lightning.data.formats.rlds import RLDSSource
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.store_reader import DirectFrames, StoreReader
from wm_lightning.data.formats.strided_reader import StridedReader
from wm_lightning.data.formats.tfrecord import parse_example
from wm_lightning.data.loader import ClipLoader, WindowBatches
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.data.windows import Windows, collate
from wm_lightning.tasks.bench_entries import Comparison

# Frames start..stop-1 of an episode with their stored actions, out of files that are opened for them.
PlainRead = Callable[[int, int, int], tuple[UInt8[np.ndarray, "f h w 3"], np.ndarray]]


def loading(data: ClipDataModule, batches: int, repeats: int, least: float, least_direct: float) -> list[Comparison]:
    """The loader against reading by hand; on recordings with frames kept decoded (where they are) and read directly."""
    reader = data.reader("train")
    other = isinstance(reader, LatentReader | StridedReader)  # which are not read by hand
    if not isinstance(data, SourceDataModule) or not isinstance(reader, StoreReader) or other:
        return [_in_memory(data, batches, repeats)]
    by_hand = plain_reading(data.open_source("train"))
    if by_hand is None:
        return [_in_memory(data, batches, repeats)]
    direct = reading_directly(reader, data)
    ways = {"kept": reader} if reader.direct is None else {}
    ways["direct"] = direct
    streams: dict[str, Callable[[], Iterator[Clip]]]
    streams = {name: lambda way=way: loader_over(way, data) for name, way in ways.items()}
    streams["reader by hand"] = lambda: plain_batches(data, direct, by_hand)
    same = {name: _same_frames(streams[name](), streams["reader by hand"]()) for name in ways}
    speed = clips_per_second(streams, batches, data.batch_size, repeats)
    aims = {"kept": least, "direct": least_direct}
    return [
        Comparison(
            f"loading, {name}", "clips/s", f"loader, {name}", "reader by hand", speed[name], speed["reader by hand"],
            same[name], aims[name],
        )
        for name in ways
    ]  # fmt: skip


def reading_directly(reader: StoreReader, data: SourceDataModule) -> StoreReader:
    """The same episodes, read as with data.store=direct."""
    direct = copy(reader)
    direct.direct = reader.direct or DirectFrames(data.open_source("train"), data.frame_cache.resize)
    return direct


def plain_reading(source: EpisodeSource) -> PlainRead | None:
    """What one would write by hand for this form: no check, and no more frames than needed. None for npz and pt."""
    if isinstance(source, Mp4NpzSource):
        return lambda episode, start, stop: _of_mp4(source.found.episodes[episode], start, stop)
    if isinstance(source, CSGOSource) and all(place.path.suffix == ".hdf5" for place in source.places):
        return lambda episode, start, stop: _of_csgo(source.places[episode].path, start, stop)
    if isinstance(source, RECONSource) and source.paths[0].suffix == ".hdf5":
        return lambda episode, start, stop: _of_recon(source.paths[episode], start, stop)
    if isinstance(source, RECONSource):
        return lambda episode, start, stop: _of_folder(source.paths[episode], start, stop)
    if isinstance(source, RLDSSource):
        return lambda episode, start, stop: _of_record(source.places[episode], source.image, start, stop)
    if isinstance(source, LeRobotSource):
        fps = float(source.info["fps"])
        return lambda episode, start, stop: _of_lerobot(source.places[episode], fps, start, stop)
    return None


def cache_of(data: ClipDataModule) -> Mapping[str, Any] | None:
    """The size of the decoded training frames in MiB, what is allowed, and the key; None where none are kept."""
    reader = data.reader("train")
    if not isinstance(data, SourceDataModule) or not isinstance(reader, StoreReader) or reader.direct is not None:
        return None
    size = sum(path.stat().st_size for path in reader.store.folder.iterdir())
    allowed = data.frame_cache.most_bytes / 2**30
    return {"mib": size / 2**20, "gib_allowed": allowed, "key": reader.store.folder.name}


def plain_batches(data: ClipDataModule, reader: StoreReader, by_hand: PlainRead) -> Iterator[Clip]:
    """The batches of the training stream, one item after the other; actions are those stored at the frames."""
    sampler, direct = data.train_dataloader().batch_sampler, reader.direct
    assert isinstance(sampler, WindowBatches) and direct is not None
    for batch in sampler:
        episodes = []
        for window in batch:
            place = direct.places[reader.name(window.episode)]
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


def _of_folder(folder: Path, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    video = [np.asarray(Image.open(folder / f"{number}.jpg").convert("RGB")) for number in range(start, stop)]
    with np.load(folder / "traj_data.npz", allow_pickle=False) as poses:
        return np.stack(video), planar_actions(poses["position"][start:stop, :2], poses["yaw"][start:stop].reshape(-1))


def _of_record(place: RecordPlace, image: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """By hand too where records stand is known beforehand; without that a whole shard would be walked for a clip."""
    with place.path.open("rb") as file:
        file.seek(place.offset)
        found = parse_example(place.path, file.read(place.length))
    pictures = found[image]
    keys = sorted(key for key in found if key.startswith("steps/action"))  # one vector, or RT-1's fields
    actions = np.concatenate([np.asarray(found[key]).reshape(len(pictures), -1) for key in keys], axis=1)
    video = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in pictures[start:stop]]
    return np.stack(video), actions[start:stop]


def _of_lerobot(place: VideoPlace, fps: float, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    with av.open(str(place.video)) as container:
        stream = container.streams.video[0]
        first = place.start + (start - 0.5) / fps
        container.seek(max(0, int(first / stream.time_base)), stream=stream)  # type: ignore[operator]
        after = (frame for frame in container.decode(stream) if frame.time > first)
        video = [frame.to_ndarray(format="rgb24") for frame in islice(after, stop - start)]
    table = pq.read_table(place.table, columns=["action"], filters=[("episode_index", "=", place.index)])
    return np.stack(video), np.array(table["action"].to_pylist(), np.float32)[start:stop]
