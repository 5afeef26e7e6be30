"""task=evaluate protocol=vbvr: videos for a benchmark whose own programs score them, and what these say as a table."""

import csv
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from wm_lightning.metrics.rates import ratio_interval
from wm_lightning.results.pictures import write_mp4
from wm_lightning.results.results import write_whole
from wm_lightning.results.table import grid
from wm_lightning.results.task_bench import Share, published_part, share_text
from wm_lightning.tasks.worldtasks_stage import Asked, cast, index_of

log = logging.getLogger(__name__)
LIST = "tasks.json"


@dataclass(frozen=True, kw_only=True)
class ScoredBench:
    """A benchmark in two steps: without `scores`, a video of every task is written; with them, their table.

    `scores` is a CSV file with the columns `id` and `score` (0 to 1; empty: could not be scored) that the benchmark's
    own programs made of the videos in this run folder. `tasks`, `kinds` and `frames` are those of
    `worldtasks_stage.Asked`, `fps` and `side` (pixels) those of the videos, `draws` those of the bootstrap over tasks.
    """

    name: str
    tasks: int | None
    kinds: Sequence[str] | None
    frames: int | None
    scores: str | None
    fps: float
    side: int
    batch_size: int
    seed: int
    draws: int
    paper: Mapping[str, Any]
    published: Sequence[Mapping[str, Any]]
    departures: Sequence[str]

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes videos/ID.mp4 and tasks.json, or scores.json and scores.md, into the run folder."""
        folder = Path(config.run_dir)
        return self.filmed(config, folder) if self.scores is None else self.scored(folder, Path(self.scores))

    def filmed(self, config: DictConfig, folder: Path) -> dict[str, float]:
        """The videos, and a list of their tasks with kinds, checkpoint and data."""
        asked = Asked(
            protocol=self.name, count=self.tasks, kinds=self.kinds, frames=self.frames, told="instruction", writer=None,
            batch_size=self.batch_size, seed=self.seed,
        )  # fmt: skip
        made = cast(config, asked)
        if odd := [row.id for row in made.rows if Path(row.id).name != row.id]:
            raise ValueError(f"the task {odd[0]!r} cannot name a file; give the tasks ids without folders")
        for clip in made.stage.clips:
            assert clip.texts is not None
            for name, video in zip(clip.texts.ids, made.stage.video(made.role, clip), strict=True):
                write_mp4(folder / "videos" / f"{name}.mp4", video, fps=self.fps, side=self.side)
        listed = {
            "protocol": self.name, "name": config.name, "checkpoint": made.file.sha256, "index": index_of(made.rows),
            "data": made.data.name, "simulated": made.data.simulated,
            "tasks": [{"id": row.id, "kind": row.task_type, "prompt": row.prompt} for row in made.rows],
        }  # fmt: skip
        write_whole(folder / LIST, json.dumps(listed, indent=2) + "\n")
        log.info("Written: %d videos in %s; score them, then protocol.scores=FILE", len(made.rows), folder / "videos")
        return {"videos": float(len(made.rows))}

    def scored(self, folder: Path, path: Path) -> dict[str, float]:
        """The table of mean scores, by kind too, over the tasks that were scored."""
        if not (folder / LIST).is_file():
            raise ValueError(f"{folder / LIST} is not there: make the videos first, then name that folder by run_dir")
        listed = json.loads((folder / LIST).read_text(encoding="utf-8"))
        said = read_scores(path, [task["id"] for task in listed["tasks"]])
        kinds = dict.fromkeys(task["kind"] for task in listed["tasks"])
        shares = {"mean": self._share(list(said.values()))}
        shares |= {kind: self._share([said[t["id"]] for t in listed["tasks"] if t["kind"] == kind]) for kind in kinds}
        departures = [*self.departures]
        if listed["simulated"]:
            departures.append(f"simulated tasks ({listed['data']}), not the paper's")
        if len(said) != self.paper["tasks"]:
            departures.append(f"{len(said)} tasks, not {self.paper['tasks']}")
        plain = {name: vars(share) for name, share in shares.items()}
        result = listed | {"shares": plain, "scores": said, "departures": departures, "published": [*self.published]}
        write_whole(folder / "scores.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
        write_whole(folder / "scores.md", self._page(listed, shares, departures))
        log.info("Written: %s/scores.json, scores.md", folder)
        return {name: share.rate for name, share in shares.items() if share.rate is not None}

    def _share(self, values: Sequence[float | None]) -> Share:
        known = torch.tensor([value for value in values if value is not None])
        interval = ratio_interval(known, torch.ones(len(known)), draws=self.draws, seed=self.seed)
        low, high = interval or (None, None)
        lost = {"not scored": len(values) - len(known)} if len(known) < len(values) else {}
        return Share(float(known.mean()) if len(known) else None, low, high, len(known), len(values), lost)

    def _page(self, listed: Mapping[str, Any], shares: Mapping[str, Share], departures: Sequence[str]) -> str:
        kind = "simulated" if listed["simulated"] else "real"
        lines = [[name, share_text(share), str(share.asked)] for name, share in shares.items()]
        return "\n\n".join([
            f"# {self.name}: {listed['name']}, {len(listed['tasks'])} tasks of {listed['data']} ({kind})",
            grid(["", "score", "tasks"], lines, left=range(1)), "Intervals are 95 %, by a bootstrap over tasks.",
            "\n".join(["Not the paper's numbers:\n", *(f"- {text}" for text in departures)]),
            *published_part(self.published, self.paper["source"]),
        ]) + "\n"  # fmt: skip


def read_scores(path: Path, ids: Sequence[str]) -> dict[str, float | None]:
    """The score of every task, None where it could not be scored. Raises ValueError for any other file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            found = {row["id"]: float(row["score"]) if row["score"].strip() else None for row in csv.DictReader(file)}
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"protocol.scores={path} is no CSV file with the columns id and score ({error!r})") from error
    lost, more = [name for name in ids if name not in found], [name for name in found if name not in set(ids)]
    if lost or more:
        raise ValueError(
            f"protocol.scores={path} is of other videos: {len(lost)} tasks are not in it ({', '.join(lost[:3])}), "
            f"{len(more)} are of none ({', '.join(more[:3])})"
        )
    if wrong := [name for name, value in found.items() if value is not None and not 0 <= value <= 1]:
        raise ValueError(f"protocol.scores={path}: the score of {wrong[0]} is {found[wrong[0]]}, not from 0 to 1")
    return {name: found[name] for name in ids}
