"""task=evaluate protocol=degradation: what every measure makes of known damage to real clips."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track
from rich.table import Table

from wm_lightning.clip import Clip
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.metrics.action_fidelity import Recovery
from wm_lightning.metrics.degradations import DEGRADATIONS, STRENGTHS, broken_claims
from wm_lightning.metrics.inverse_dynamics import load_reader
from wm_lightning.metrics.protocol_scores import Asked, ProtocolScores
from wm_lightning.metrics.weights import Weights
from wm_lightning.modules.inverse_dynamics import update_recovery
from wm_lightning.results.curves import Curve, Panel, draw_curves
from wm_lightning.results.results import write_whole
from wm_lightning.tasks import terminal
from wm_lightning.tasks.build import build_data

log = logging.getLogger(__name__)
# value without damage and at every strength, by measure and damage
Rungs = dict[str, dict[str, list[float | None]]]
Features = Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """Damages `clips` test clips of `frames` frames in five ways and four strengths, and measures each against them.

    Other test clips are the reference of distances. The first frame is given and never scored.
    """

    clips: int
    frames: int
    metrics: Sequence[str]
    seed: int
    minimum: int
    weights: Weights

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes ladder.json and ladder.png, prints the table, and names the claims that do not hold."""
        data = build_data(config)
        clip = Clip.cat(list(data.clips("test", self.clips, self.frames, 64)))
        real = torch.cat([part.video for part in data.clips("train", 2 * len(clip), self.frames, 64)])
        ladder = self.climb(clip, real, data)
        broken = broken_claims(ladder)
        folder, mark = Path(config.run_dir), "_simulated" if data.simulated else ""
        extractors = {"inverse_dynamics": self.weights.inverse_dynamics and self.weights.inverse_dynamics.sha256}
        record = {"data": data.name, "clips": len(clip), "frames": self.frames, "strengths": [0.0, *STRENGTHS]}
        text = json.dumps(record | extractors | {"ladder": ladder, "broken": broken}, indent=2, allow_nan=False)
        write_whole(folder / f"ladder{mark}.json", text + "\n")
        caption = f"damage to {len(clip)} real clips of {data.name}"
        draw_curves(folder / f"ladder{mark}.png", panels(ladder), caption)
        show(ladder, caption, terminal.console())
        for fault in broken:
            log.warning("%s", fault)
        log.info("Written: %s", folder / f"ladder{mark}.json")
        return {"measures": float(len(ladder)), "broken": float(len(broken))}

    def climb(self, clip: Clip, video: torch.Tensor, data: ClipDataModule) -> Rungs:
        """Every measure of every damage at strength 0 and the four others; `video` are other real clips."""
        ladder: Rungs = {}
        scores = self.scores(clip)
        real, truth = scores.features_of(video), scores.features_by_extractor(clip.video)
        whole = self.measures(clip, clip.video, truth, real, data)
        steps = [(name, strength) for name in DEGRADATIONS for strength in STRENGTHS]
        for name, strength in track(steps, "degradation ladder", transient=True):
            found = self.measures(clip, DEGRADATIONS[name](clip.video, strength), truth, real, data)
            for measure, value in found.items():
                ladder.setdefault(measure, {}).setdefault(name, [whole[measure]]).append(value)
        return ladder

    def scores(self, clip: Clip) -> ProtocolScores:
        """Fresh scores of all frames but the first."""
        height, width = clip.video.shape[-2:]
        asked = Asked(range(1, self.frames), (0, self.frames), self.metrics, by_frame=False)
        return ProtocolScores(asked, self.weights, (height, width))

    def measures(
        self, clip: Clip, video: torch.Tensor, truth: Features, real: Features, data: ClipDataModule
    ) -> dict[str, float | None]:
        """All measures of one set of clips, as one number each; `truth`, `real` are features by extractor."""
        scores = self.scores(clip)
        scores.add(video, clip.video, [str(index) for index in clip.index.tolist()], truth)
        found = {name: entry["mean"] for name, entry in scores.measured(draws=0, seed=self.seed).items()}
        homes = [str(place) for place in range(len(next(iter(real.values()))))]  # no interval is asked for
        kernels = scores.kernel_distances(real, homes, minimum=self.minimum, draws=2, seed=self.seed)
        found |= {entry["name"]: entry["value"] for entry in scores.distances(draws=0, seed=self.seed) + kernels}
        if data.world is not None:
            error = data.world.measure(video, clip, 1).action_error.nanmean()
            found["action_error"] = float(error) if bool(error.isfinite()) else None
        if (
            self.weights.inverse_dynamics is not None
            and (reader := load_reader(self.weights.inverse_dynamics)).readable
        ):
            recovery = Recovery(horizon=self.frames - 1, columns=len(reader.readable))
            update_recovery(recovery, reader.network, clip, video, 1, reader.matrix)
            found["recovery"] = recovery.mean()
        return found


def panels(ladder: Rungs) -> list[Panel]:
    """A panel for each measure, a curve for each damage."""
    return [
        Panel(measure, tuple(_curve(name, values) for name, values in rungs.items()), "strength")
        for measure, rungs in ladder.items()
    ]


def show(ladder: Rungs, caption: str, console: Console) -> None:
    """A row for each measure and damage."""
    table = Table(title=caption)
    for column in ("measure", "damage", *map(str, (0.0, *STRENGTHS))):
        table.add_column(column)
    for measure, rungs in ladder.items():
        for name, values in rungs.items():
            table.add_row(measure, name, *("–" if value is None else f"{value:.4g}" for value in values))
    console.print(table)


def _curve(name: str, values: list[float | None]) -> Curve:
    points = [(x, y) for x, y in zip((0.0, *STRENGTHS), values, strict=True) if y is not None]
    return Curve(name, tuple(x for x, _ in points), tuple(y for _, y in points))
