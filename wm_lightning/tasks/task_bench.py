"""task=evaluate protocol=worldtasks_bench: how often a network does held-out tasks, by a judge that never taught it."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table

from wm_lightning.config_record import config_hash, plain
from wm_lightning.data.formats.world_tasks import TaskRow
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.environment import chosen_config, loaded_code, revision
from wm_lightning.results.pictures import Film, draw_gif, draw_strips
from wm_lightning.results.task_bench import HEAD, Baseline, BenchResults, caption, lines_of, read_baseline, write_page
from wm_lightning.rewards.bus import RewardBus
from wm_lightning.rewards.writer import Writer
from wm_lightning.tasks import terminal
from wm_lightning.tasks.evaluation import machine
from wm_lightning.tasks.role_stage import Played, play
from wm_lightning.tasks.training_judge import Node, judge_name, judge_of_training, require_another, same_judge
from wm_lightning.tasks.worldtasks_stage import Asked, Cast, Told, cast, index_of
from wm_lightning.tasks.worldtasks_verdicts import Judged

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TaskBench:
    """A benchmark: `tasks` held-out tasks, `videos` of each; what `tasks`, `kinds`, `frames`, `told`, `writer` mean
    says `worldtasks_stage.Asked`.

    `judges` judge by the `criteria`, and must not be those that taught the checkpoint unless `same_judge`. `against`
    names a run folder or results.json of this protocol on the same tasks, to pair with. `seed` is that of noise and
    bootstraps, of `draws` draws; `repeats` videos are timed; `pictures` tasks are drawn, `frame_side` pixels a frame.
    `paper` says what its authors did, `published` what they found, `departures` what is always otherwise here.
    """

    name: str
    tasks: int | None
    videos: int
    frames: int | None
    told: Told
    criteria: Sequence[str]
    judges: Callable[..., RewardBus]
    same_judge: bool
    writer: Callable[[Any], Writer] | None
    against: str | None
    kinds: Sequence[str] | None
    batch_size: int
    seed: int
    draws: int
    repeats: int
    pictures: int
    frame_side: int
    paper: Mapping[str, Any]
    published: Sequence[Mapping[str, Any]]
    departures: Sequence[str]

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes results.json, results.md, rollouts.gif and rollouts.png; returns the rates by criterion."""
        started, taught = time.time(), judge_of_training(config, self.same_judge)
        require_another(config, taught, self.same_judge)
        baseline = None if self.against is None else read_baseline(Path(self.against))
        made = cast(config, self.asked)
        bus = self.judges(made.data, weights=dict.fromkeys(self.criteria, 1.0))
        if baseline is not None:
            baseline.require(self.name, bus.judge, index_of(made.rows), [row.id for row in made.rows], self.criteria)
        played = self._played(made, bus)
        results = self._results(config, made, played, bus.judge, taught, baseline)
        self._write(replace(results, seconds=round(time.time() - started, 1)), played[0], made.rows, config)
        require_verdicts(played)
        return results.summary()

    @property
    def asked(self) -> Asked:
        """The tasks and what is told of them."""
        return Asked(
            protocol=self.name, count=self.tasks, kinds=self.kinds, frames=self.frames, told=self.told,
            writer=self.writer, batch_size=self.batch_size, seed=self.seed,
        )  # fmt: skip

    def _played(self, made: Cast, bus: RewardBus) -> list[Played]:
        played = []
        try:
            for video in range(self.videos):
                log.info("Measuring %d tasks, video %d of %d", len(made.rows), video + 1, self.videos)
                at = replace(made.stage, seed=self.seed + video)
                repeats = 0 if video else self.repeats
                played.append(play(made.role, at, bus, pictures=self.pictures, repeats=repeats))
        finally:
            bus.close()
        return played

    def _results(
        self, config: DictConfig, made: Cast, played: Sequence[Played], judge: str, taught: Node | None,
        baseline: Baseline | None,
    ) -> BenchResults:  # fmt: skip
        judged = Judged.of([one.scores for one in played], draws=self.draws, seed=self.seed)
        first, rows, data, stage = played[0], made.rows, made.data, made.stage
        ids = [row.id for row in rows]
        return BenchResults(
            protocol=self.name, name=config.name, role=first.name, checkpoint=made.file.sha256, world=data.name,
            data="simulated" if data.simulated else "real", tasks=len(rows), videos=self.videos, index=index_of(rows),
            judge=judge, judge_of_training=None if taught is None else judge_name(taught),
            steps=stage.sampler.steps.steps,
            seconds_per_video=None if first.seconds is None else round(first.seconds, 4), shares=judged.shares(),
            average=judged.average(), by_task=judged.by([row.task_type for row in rows]),
            by_agent=judged.by([row.agent_type for row in rows]),
            against=None if baseline is None else judged.against(baseline, ids),
            departures=list(self._departures(config, data, rows, taught)), paper=dict(self.paper),
            published=[dict(row) for row in self.published], verdicts=judged.verdicts(ids), revision=revision(),
            config_hash=config_hash(plain(config)), seed=self.seed, seconds=0.0,
            machine=machine(stage.device, stage.precision),
            extra={"code": [*loaded_code(), *chosen_config()], "unwritten": first.unwritten},
        )  # fmt: skip

    def _departures(
        self, config: DictConfig, data: WorldTasksDataModule, rows: Sequence[TaskRow], taught: Node | None
    ) -> Iterator[str]:
        """In words, all that keeps the numbers from being the paper's."""
        yield from self.departures
        if data.simulated:
            yield f"simulated tasks ({data.name}), not the paper's"
        if len(rows) != self.paper["tasks"]:
            yield f"{len(rows)} tasks, not {self.paper['tasks']}"
        if taught is not None and same_judge(taught, plain(config)["protocol"]["judges"]):
            yield f"judged by {judge_name(taught)}, which also taught the network"

    def _write(self, results: BenchResults, first: Played, rows: Sequence[TaskRow], config: DictConfig) -> None:
        folder, context = Path(config.run_dir), config.module.context
        results.to_json(folder / "results.json")
        write_page(results, folder / "results.md")
        films, said = [Film(first.name, first.pictures)], "; ".join(row.prompt for row in rows[: self.pictures])
        draw_gif(
            folder / "rollouts.gif", films, context=context, clips=self.pictures, side=self.frame_side, fps=3,
            caption=said, most_bytes=1_500_000,
        )  # fmt: skip
        draw_strips(
            folder / "rollouts.png", films, context=context, clips=self.pictures, columns=9, side=self.frame_side,
            caption=said,
        )  # fmt: skip
        table = Table(*HEAD, title=caption(results))
        for line in lines_of(results):
            table.add_row(*line)
        terminal.console().print(table)
        for departure in results.departures:
            log.warning("Not the paper's number: %s", departure)
        log.info("Written: %s/results.json, results.md, rollouts.gif, rollouts.png", folder)


def require_verdicts(played: Sequence[Played]) -> None:
    """Raises ValueError where no judgement at all is valid: such a result is none."""
    if not any(bool(one.scores.valid.any()) for one in played):
        reasons = sum((Counter(found) for one in played for found in one.scores.failures.values()), Counter[str]())
        told = ", ".join(f"{why}: {count}" for why, count in reasons.most_common())
        raise ValueError(
            f"none of the judgements is valid ({told}); "
            f"see that the judge answers (protocol.judges.endpoint.url), and measure again"
        )
