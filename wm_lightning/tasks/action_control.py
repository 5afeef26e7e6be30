"""task=rollout protocol=action_control: every action of the data from the same starts, seen and measured."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.progress import Progress

from wm_lightning.clip import ActionSpec, Clip, Pixels
from wm_lightning.compute import precise
from wm_lightning.config_record import config_hash, plain
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.data.eval_index import Entry, index_hash, make_index, read_index, windows_of
from wm_lightning.data.loader import evaluation_loader
from wm_lightning.environment import chosen_config, loaded_code, revision
from wm_lightning.modules.action_control import Control, Shown, Variants, measure_control
from wm_lightning.modules.fidelity import Probes, Ruler
from wm_lightning.results import action_control as words
from wm_lightning.results.pictures import Film, draw_side_by_side, draw_strips
from wm_lightning.results.results import write_whole
from wm_lightning.sampling.samplers import described
from wm_lightning.tasks import terminal
from wm_lightning.tasks.build import build_data, device_of, kind_of
from wm_lightning.tasks.evaluate import read_checkpoint
from wm_lightning.tasks.rollout import Use, build_subject
from wm_lightning.tasks.subjects import Subject
from wm_lightning.worlds.world import motion_unit

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Look:
    """Pictures: sides of frames in pixels, variants in a row of the video, frames in the strips, frames a second."""

    side: int
    video_columns: int
    columns: int
    fps: int


@dataclass(frozen=True, kw_only=True)
class ActionControl:
    """Drives `starts` test clips by every variant for `horizon` frames after `context` given ones.

    Of `variants` the last one whose `needs` the data have is used. `index` names a committed list of starts. What
    motion is expected of an action is learned from `fit_clips` training clips where no simulator tells. `draws` are
    those of the bootstrap over starts, `seed` that of list, noise and bootstrap; `weak` is the gain below which an
    action is said to steer weakly. `paper` says what the test is after, `departures` what is done otherwise.
    """

    name: str
    starts: int
    context: int
    horizon: int
    variants: Mapping[str, Variants]
    index: str | None
    seed: int
    batch_size: int
    fit_clips: int
    draws: int
    weak: float
    look: Look
    paper: Mapping[str, Any]
    departures: Sequence[str]

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes action_control.json and .md, a GIF, an mp4 and a PNG; returns what was found of all variants."""
        data = build_data(config)
        variants, (entries, departures) = self.chosen(data.spec), self.choose(data)
        frames = entries[0].length
        variants.drives(data.spec, frames - self.context, self.seed)  # what they name wrongly is refused here
        device, kind = device_of(config), kind_of(config)
        file = read_checkpoint(config, data, kind)
        subject = build_subject(config, file, data, Use(self.context, frames), device)
        with precise(device, str(config.trainer.precision)):
            ruler, made = self.measure(data, entries, variants, subject, device)
        result = {
            "protocol": self.name, "name": config.name, "checkpoint": file.sha256, "kind": kind,
            "sampler": described(subject.sampler), "iterations": file.card.iterations, "chunk": subject.plan.chunk,
            "window": subject.plan.window, "revision": revision(), "code": [*loaded_code(), *chosen_config()],
            "config_hash": config_hash(plain(config)),
            **self.described(data, entries, [*departures, *variants.beyond(frames - self.context)]),
            **self.found(made, ruler, variants, data),
        }  # fmt: skip
        return self.written(result, made.shown, Path(config.run_dir), data)

    def chosen(self, spec: ActionSpec) -> Variants:
        """The variants that are meant for data with these columns."""
        fitting = [one for one in self.variants.values() if one.needs is None or one.needs in spec.names]
        if not fitting:
            needs = ", ".join(str(one.needs) for one in self.variants.values())
            raise ValueError(f"protocol.variants need the column {needs}; the data have {', '.join(spec.names)}")
        return fitting[-1]

    def choose(self, data: ClipDataModule) -> tuple[list[Entry], list[str]]:
        """The starts, and in words what the data do not allow of what is asked."""
        reader, departures = data.reader("test"), list(self.departures)
        frames = self.context + self.horizon
        if self.index is None:
            longest = max(reader.length(episode) for episode in range(len(reader)))
            entries = make_index(reader, clips=self.starts, frames=min(frames, longest), seed=self.seed)
        else:
            entries = read_index(Path(self.index), reader, context=self.context, frames=frames, seed=self.seed)
        length = entries[0].length
        if length <= self.context:
            raise ValueError(f"clips of {length} frames leave nothing to make after {self.context} given")
        if length != frames:
            departures.append(f"clips have {length} frames, not {frames}")
        if len(entries) != self.starts:
            departures.append(f"{len(entries)} starts, not {self.starts}")
        if data.simulated:
            departures.append(f"simulated data ({data.name})")
        return entries, departures

    def measure(
        self, data: ClipDataModule, entries: Sequence[Entry], variants: Variants, subject: Subject,
        device: torch.device,
    ) -> tuple[Ruler, Control]:  # fmt: skip
        """What motion is measured with, and what every variant did."""
        frames = entries[0].length
        neutral, drives = variants.drives(data.spec, frames - self.context, self.seed)
        probes = Probes(variants.neutral, variants.moves)
        # From clips as long as a validation's: of longer ones there are fewer.
        ruler = Ruler.of(data, probes, clips=self.fit_clips, frames=min(frames, data.val_frames))
        windows = windows_of(data.reader("test"), entries)
        clip = Clip.cat(list(evaluation_loader(data.windows("test", truth=True), windows, self.batch_size, 0)))
        with Progress(transient=True) as progress:
            task = progress.add_task(self.name, total=(len(drives) + (neutral is not None)) * len(clip))

            def generate(driven: Clip, draw: int) -> Pixels:
                made = []
                for at in range(0, len(driven), self.batch_size):
                    part = driven[at : at + self.batch_size]
                    made.append(subject.generate(part, self.context, self.seed + draw, device))
                    progress.advance(task, len(part))
                return torch.cat(made)

            made = measure_control(
                generate, clip, drives, ruler, context=self.context, rest=variants.rest,
                episodes=[data.recording(entry.episode) for entry in entries], draws=self.draws, seed=self.seed,
            )  # fmt: skip
        return ruler, made

    def described(self, data: ClipDataModule, entries: Sequence[Entry], departures: Sequence[str]) -> dict[str, Any]:
        """Every choice, as plain values."""
        return {
            "data": data.name, "simulated": data.simulated, "content": data.manifest["hash"],
            "starts": len(entries), "starts_asked": self.starts, "index": index_hash(entries),
            "entries": [asdict(entry) for entry in entries], "context": self.context, "frames": entries[0].length,
            "intervals": "95 %, by bootstrap over whole episodes", "seed": self.seed, "draws": self.draws,
            "fit_clips": self.fit_clips, "paper": dict(self.paper), "departures": list(departures),
        }  # fmt: skip

    def found(self, made: Control, ruler: Ruler, variants: Variants, data: ClipDataModule) -> dict[str, Any]:
        """What was measured, as plain values, and what it says."""
        rows = [{**asdict(one), "verdict": one.verdict(self.weak)} for one in made.steering]
        rest = {
            "name": variants.rest if variants.neutral is not None else "no motion", "motion": made.rest,
            "size": made.stillness, "expected_size": made.expected_stillness,
        }  # fmt: skip
        return {
            "measure": ruler.name, "unit": motion_unit(data.world), "expected_from": made.source,
            "real_r2": ruler.model.r2, "real_kept": ruler.model.kept, "rest": rest, "variants": rows,
            "verdict": words.verdict({str(row["name"]): str(row["verdict"]) for row in rows}),
        }  # fmt: skip

    def written(
        self, result: Mapping[str, Any], shown: Sequence[Shown], folder: Path, data: ClipDataModule
    ) -> dict[str, float]:
        """Writes and prints everything; returns how many variants are seen, and of these steer."""
        path = folder / f"{self.name}{'_simulated' if data.simulated else ''}.json"
        write_whole(path, json.dumps(result, indent=2, allow_nan=False) + "\n")
        write_whole(path.with_suffix(".md"), words.markdown(result))
        self.draw(shown, path, f"{data.name}, {result['kind']} of {result['name']}, {result['checkpoint'][:12]}")
        words.show(result, terminal.console())
        log.log(logging.WARNING if "NOT" in result["verdict"] else logging.INFO, "%s", result["verdict"])
        log.info("Written: %s, .md, .gif, .mp4 and .png", path)
        seen = [row for row in result["variants"] if row["seen"]]
        return {"seen": float(len(seen)), "steer": float(sum(row["verdict"].startswith("steers") for row in seen))}

    def draw(self, shown: Sequence[Shown], path: Path, caption: str) -> None:
        """All variants in one video, and as strips; each beside what the simulator makes of it, where there is one."""
        films, rows = [], []
        for one in shown:
            both = one.video if one.truth is None else torch.cat([one.truth, one.video], dim=-1)
            films.append(Film(one.name, both))
            rows += [] if one.truth is None else [Film(f"{one.name}\nsimulator", one.truth)]
            rows.append(Film(one.name, one.video))
        look, own = self.look, {"context": self.context, "side": self.look.side}
        beside = "" if shown[0].truth is None else ": left the simulator, right the model"
        draw_side_by_side(
            path.with_suffix(".gif"), films, columns=look.video_columns, fps=look.fps, caption=caption + beside,
            context=self.context, side=look.side * films[0].video.shape[-1] // shown[0].video.shape[-1],
        )  # fmt: skip
        draw_strips(path.with_suffix(".png"), rows, clips=1, columns=look.columns, caption=caption, **own)
