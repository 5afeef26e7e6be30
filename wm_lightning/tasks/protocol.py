"""task=evaluate protocol=NAME: a checkpoint measured as a paper measured, with everything that differs written down."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from jaxtyping import UInt8
from omegaconf import DictConfig
from rich.progress import Progress, track
from torch import Tensor

from wm_lightning.callbacks.action_fidelity import ActionFidelity, warn_if_ignored
from wm_lightning.clip import Clip, Pixels
from wm_lightning.compute import precise
from wm_lightning.config_record import config_hash, plain
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.eval_index import Entry, index_hash, make_index, read_index, windows_of, write_index
from wm_lightning.data.loader import evaluation_loader
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.environment import chosen_config, loaded_code, revision
from wm_lightning.metrics.protocol_scores import Asked, ProtocolScores
from wm_lightning.metrics.weights import Weights
from wm_lightning.results.results import write_whole
from wm_lightning.sampling.samplers import described
from wm_lightning.tasks import terminal
from wm_lightning.tasks.build import build_data, device_of, kind_of, plain_node
from wm_lightning.tasks.evaluate import read_checkpoint
from wm_lightning.tasks.protocol_table import show
from wm_lightning.tasks.rollout import Use, build_subject
from wm_lightning.tasks.subjects import Subject, baseline_copy

log = logging.getLogger(__name__)
# Clips of another size than those they were made from.
Sized = UInt8[Tensor, "b f c rows columns"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A paper's evaluation. Frame numbers count from the first given frame.

    `clips` test clips of `context` given and `horizon` generated frames; image measures on `image_frames` (null: on
    all from `first_scored`), measures of clips on frames `video_frames` (start, stop). `native` is the stored size
    that the data's resize is undone to, `size` that of scoring; null leaves frames as the data have them. `paper` says
    what else it did, `departures` what this suite does otherwise; both go into the result. `scale_clips` training clips
    set the scale of kernel distances. `index` names a list of
    clips to use instead of making one: an eval_index.json, or NWM's .pkl. `seed` is that of list, noise and bootstrap.
    `stride` is what `data.stride` must be (1 where data have none). The first `action_clips` clips are also driven by
    one another's and by constant actions, as `callbacks.action_fidelity` says, but for `action_frames` generated frames
    where that is given. `window` is the paper's of a rollout, in frames; null where it has none.
    """

    name: str
    data: Sequence[str]
    clips: int
    context: int
    horizon: int
    stride: int
    image_frames: Sequence[int] | None
    first_scored: int
    video_frames: Sequence[int] | None
    by_frame: bool
    native: Sequence[int] | None
    size: Sequence[int] | None
    metrics: Sequence[str]
    paper: Mapping[str, Any]
    departures: Sequence[str]
    index: str | None
    seed: int
    batch_size: int
    minimum: int
    draws: int
    scale_clips: int
    action_clips: int
    action_frames: int | None
    window: int | None
    weights: Weights

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes eval_index.json and protocol_<name>.json into the run folder; returns the means."""
        data = build_data(config)
        self._check_data(data, config)
        entries, departures = self.choose(data)
        frames = entries[0].length
        if self.window is not None and (seen := min(config.rollout.window or frames, frames)) != self.window:
            departures.append(f"the rollout remembers {seen} frames, not {self.window}")
        device, kind = device_of(config), kind_of(config)
        file = read_checkpoint(config, data, kind)
        subject = build_subject(config, file, data, Use(self.context, frames), device)
        family = self.family(config, data, frames)
        write_index(Path(config.run_dir) / "eval_index.json", entries)
        with precise(device, str(config.trainer.precision)):
            scored = self.score(data, entries, subject, device)
            scored["actions"] = None if family is None else self.actions(family, data, entries, subject, device)
        sampler = described(subject.sampler)
        result = {
            "protocol": self.name, "name": config.name, "checkpoint": file.sha256, "kind": kind, "sampler": sampler,
            "iterations": file.card.iterations, "chunk": subject.plan.chunk, "rollout": plain_node(config, "rollout"),
            "revision": revision(),
            "code": [*loaded_code(), *chosen_config()], "config_hash": config_hash(plain(config)),
            **self.described(data, entries, departures), **scored,
        }  # fmt: skip
        return self.written(result, Path(config.run_dir), data)

    def _check_data(self, data: ClipDataModule, config: DictConfig) -> None:
        module = type(data).__name__.removesuffix("DataModule").lower()
        if module not in self.data:
            raise ValueError(f"protocol={self.name} is for data={' or '.join(self.data)}, this run has {module}")
        if (stride := getattr(data, "stride", 1)) != self.stride:
            raise ValueError(
                f"protocol={self.name} is for data.stride={self.stride}, this run has {stride}; set it, and take a "
                f"model that was trained so"
            )

    def choose(self, data: ClipDataModule) -> tuple[list[Entry], list[str]]:
        """The clips, and in words what the data do not allow of what the protocol asks."""
        reader, departures = data.reader("test"), list(self.departures)
        if self.index is not None:
            asked = {"context": self.context, "frames": self.context + self.horizon, "seed": self.seed}
            entries = read_index(Path(self.index), reader, **asked)
        else:
            longest = max(reader.length(episode) for episode in range(len(reader)))
            frames = min(self.context + self.horizon, longest)
            entries = make_index(reader, clips=self.clips, frames=frames, seed=self.seed)
        frames = entries[0].length
        if frames <= self.context:
            raise ValueError(f"clips of {frames} frames leave nothing to score after {self.context} given")
        if frames < self.context + self.horizon:
            departures.append(f"clips have {frames} frames, not {self.context + self.horizon}: the data hold no longer")
        lost = [frame for frame in self.image_frames or () if frame >= frames]
        if lost:
            departures.append(f"frames {lost} are not scored: the data hold no clips that long")
        if len(entries) < self.clips:
            departures.append(f"{len(entries)} clips, not {self.clips}: the data hold no more")
        if data.simulated:
            departures.append(f"simulated data ({data.name}), not the paper's")
        return entries, departures

    def asked(self, frames: int) -> Asked:
        """The frames that are scored in clips of `frames` frames. Raises ValueError where none is left."""
        rows = range(self.first_scored, frames) if self.image_frames is None else self.image_frames
        kept = [frame for frame in rows if frame < frames]
        if not kept:
            raise ValueError(
                f"protocol={self.name} scores frames {list(rows)}, the clips have {frames}: use longer data"
            )
        start, stop = self.video_frames or (0, frames)
        return Asked(kept, (start, min(stop, frames)), self.metrics, self.by_frame)

    def score(
        self, data: ClipDataModule, entries: Sequence[Entry], subject: Subject, device: torch.device
    ) -> dict[str, Any]:
        """All measures of the model, of holding the last given frame, and of latents decoded where there are some."""
        frames = entries[0].length
        asked, size = self.asked(frames), self.scored_size(data)
        makers: dict[str, Callable[[Clip], Pixels]] = {
            "model": lambda clip: subject.generate(clip, self.context, self.seed, device),
            "copy_last_frame": lambda clip: baseline_copy(clip, self.context),
        }
        if data.autoencoder_identity:  # what no network of its latents can exceed
            makers["reconstruction"] = lambda clip: data.decode(clip.x0.to(device)).cpu()
        scores = {name: ProtocolScores(asked, self.weights, (size[0], size[1])) for name in makers}
        worlds: dict[str, list[Tensor]] = {}
        with Progress(transient=True) as progress:
            task = progress.add_task(f"protocol {self.name}", total=len(entries))
            for clip in self.batches(data, entries):
                truth, made = self.sized(clip.video, data), {name: make(clip) for name, make in makers.items()}
                episodes = [data.recording(entries[place].episode) for place in clip.index.tolist()]
                for name, video in made.items():
                    scores[name].add(self.sized(video, data), truth, episodes)
                for name, values in world_measures(data, made["model"], clip, self.context).items():
                    worlds.setdefault(name, []).append(values)
                progress.advance(task, len(clip))
        real = scores["model"].features_of(self.real(data, frames, len(entries)))
        homes = data.episodes("train", len(entries) + self.scale_clips, frames)
        found = {}
        for name, own in scores.items():
            distances = own.distances(draws=self.draws, seed=self.seed)
            distances += own.kernel_distances(real, homes, minimum=self.minimum, draws=self.draws, seed=self.seed)
            found[name] = {"frames": own.measured(draws=self.draws, seed=self.seed), "distances": distances}
        judged = {name: _listed(torch.cat(values).nanmean(0)) for name, values in worlds.items()}
        return {"frames_scored": list(asked.image_frames), "video_frames": asked.video_frames, **found,
                "world": judged, "missing": scores["model"].missing}  # fmt: skip

    def family(self, config: DictConfig, data: ClipDataModule, frames: int) -> ActionFidelity | None:
        """What tells whether actions drive the video, checked before any frame is made.

        None where the run has no `callbacks.action_fidelity`, or null there.
        """
        node = plain_node(config, "callbacks").get("action_fidelity")
        if node is None:
            return None
        if self.action_frames is not None:
            node = {**node, "frames": self.action_frames, "sweep_frames": self.action_frames}
        made: ActionFidelity = instantiate(node, _convert_="all")
        # What actions do is learned from no longer clips than at a validation.
        made.prepare(data, min(frames, self.context + made.frames, data.val_frames))
        return made

    def actions(
        self, family: ActionFidelity, data: ClipDataModule, entries: Sequence[Entry], subject: Subject,
        device: torch.device,
    ) -> dict[str, Any]:  # fmt: skip
        """Whether actions drive the video."""
        frames = min(entries[0].length, self.context + family.frames)
        clip = Clip.cat(list(self.batches(data, entries[: self.action_clips]))).frames(0, frames)

        def generate(driven: Clip) -> Pixels:
            some = [driven[at : at + self.batch_size] for at in range(0, len(driven), self.batch_size)]
            parts = track(some, "actions", transient=True)
            return torch.cat([subject.generate(part, self.context, self.seed, device) for part in parts])

        found = family.measure_on(data, clip, self.context, generate)
        warn_if_ignored(found, f"in protocol {self.name}")
        scalars = {name: value if np.isfinite(value) else None for name, value in found.scalars.items()}
        return {"ignored": found.ignored, "means": scalars, **found.report}

    def real(self, data: ClipDataModule, frames: int, clips: int) -> Sized:
        """Training clips of the scored size: the reference of kernel distances, and what sets their scale."""
        batches = data.clips("train", clips + self.scale_clips, frames, self.batch_size)
        return torch.cat([self.sized(clip.video, data) for clip in track(batches, "real clips", transient=True)])

    def batches(self, data: ClipDataModule, entries: Sequence[Entry]) -> Iterator[Clip]:
        """The clips of the list, in its order."""
        windows = windows_of(data.reader("test"), entries)
        yield from evaluation_loader(data.windows("test", truth=True), windows, self.batch_size, 0)

    def sized(self, video: Pixels, data: ClipDataModule) -> Sized:
        """Frames as they are scored: padding and resize undone to `native`, then of `size`."""
        if self.native is not None and isinstance(data, SourceDataModule):
            flat = video.flatten(0, 1).numpy()
            video = torch.from_numpy(data.frame_cache.resize.undo(flat, *self.native)).unflatten(0, video.shape[:2])
        if self.size is None or tuple(video.shape[-2:]) == tuple(self.size):
            return video
        return resized(video, *self.size)

    def scored_size(self, data: ClipDataModule) -> Sequence[int]:
        """Height and width of what `sized` returns."""
        native = self.native if isinstance(data, SourceDataModule) else None
        return self.size or native or data.pixels

    def described(self, data: ClipDataModule, entries: Sequence[Entry], departures: Sequence[str]) -> dict[str, Any]:
        """Every choice, as plain values."""
        policy = data.frame_cache.resize.policy if isinstance(data, SourceDataModule) else "none"
        sizes = {
            "model": f"{data.pixels[0]}x{data.pixels[1]} ({policy})", "native": self.native,
            "scored": list(self.scored_size(data)), "kernel": "area or bilinear, antialiased",
        }  # fmt: skip
        return {
            "data": data.name, "simulated": data.simulated, "content": data.manifest["hash"],
            "clips": len(entries), "clips_asked": self.clips, "index": index_hash(entries), "context": self.context,
            "frames": entries[0].length, "resized": sizes, "weighting": "every clip once",
            "episodes": len({data.recording(entry.episode) for entry in entries}),
            "intervals": "95 %, by bootstrap over whole episodes",
            "seed": self.seed, "draws": self.draws, "paper": dict(self.paper), "departures": list(departures),
            "comparable_with_the_paper": not departures,
        }  # fmt: skip

    def written(self, result: Mapping[str, Any], folder: Path, data: ClipDataModule) -> dict[str, float]:
        """Writes the JSON, prints the table, and returns the means."""
        path = folder / f"protocol_{self.name}{'_simulated' if data.simulated else ''}.json"
        write_whole(path, json.dumps(result, indent=2, allow_nan=False) + "\n")
        show(result, terminal.console())
        for entry in result["model"]["distances"]:
            if entry["note"] is not None:
                log.warning("%s: %s", entry["name"], entry["note"])
        for departure in result["departures"]:
            log.warning("Not the paper's number: %s", departure)
        log.info("Written: %s and eval_index.json", path)
        means = {name: entry["mean"] for name, entry in result["model"]["frames"].items()}
        return {name: float(value) for name, value in means.items() if value is not None}


def world_measures(data: ClipDataModule, video: Pixels, clip: Clip, context: int) -> dict[str, Tensor]:
    """What the data's simulator says of the generated frames, `b f`; nothing for real data."""
    if data.world is None:
        return {}
    judged = data.world.measure(video, clip, context)
    return {name: getattr(judged, name)[:, context:] for name in ("action_error", "object_error", "presence")}


def resized(video: Pixels, height: int, width: int) -> Sized:
    """Clips of another size, bilinear and antialiased."""
    flat = video.flatten(0, 1).float()
    small = torch.nn.functional.interpolate(flat, size=(height, width), mode="bilinear", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8).unflatten(0, video.shape[:2])


def _listed(values: Tensor) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
