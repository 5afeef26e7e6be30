"""task=evaluate protocol=policy: the same policies in the true simulator and in world models, and who ranks them right.

This is what a world model is for where trying out is dear: WorldGym's use, judged as SIMPLER judges simulators.
"""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.progress import Progress

from wm_lightning.clip import Pixels
from wm_lightning.config_record import config_hash, plain
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.environment import chosen_config, loaded_code, revision
from wm_lightning.envs.arenas import Arena, Imagined, Played, Simulator
from wm_lightning.envs.cloned import Cloned
from wm_lightning.envs.policy import Briefing, Policy
from wm_lightning.envs.push_task import PushTask
from wm_lightning.envs.scripted import Still
from wm_lightning.results import policies as words
from wm_lightning.results.pictures import Film, draw_gif
from wm_lightning.results.results import write_whole
from wm_lightning.tasks import terminal
from wm_lightning.tasks.build import build_data, device_of
from wm_lightning.tasks.clone_policy import Cloning
from wm_lightning.tasks.evaluation import machine
from wm_lightning.tasks.policy_stage import Contender, Stage, contenders, decision_of, horizon_of, starts_of
from wm_lightning.tasks.policy_tally import Successes, against_truth, judged, shares
from wm_lightning.worlds.pusher import PusherWorld

log = logging.getLogger(__name__)
LEAST = 2  # policies that can be ranked


@dataclass
class Tally:
    """What was seen in one world, by policy."""

    success: dict[str, np.ndarray] = field(default_factory=dict)  # by the judge of pixels
    state: dict[str, np.ndarray] = field(default_factory=dict)  # by the simulator's state under the same actions
    seconds: dict[str, float] = field(default_factory=dict)
    policy_seconds: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, Pixels] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PolicyEvaluation:
    """Rolls every one of `policies` from the same `starts` in the simulator, the checkpoint and those of `against`.

    An episode has `horizon` frames, a policy decides for `decision` of them (null: the longest chunk of a checkpoint).
    `goal` says when it succeeded. `steps` are those of `ckpt_path` per chunk (null: as trained). `window` is what its
    rollout should remember, null where that is all one. Policies that are cloned are trained as `cloning` says, where
    no file is named. `batch_size` episodes run side by side; `draws` are those of permutations where there are over
    seven policies. Of the policies `films`, `pictures` episodes are drawn, `frame_side` pixels a frame. `paper` says
    what its authors did, `departures` what is done otherwise.
    """

    name: str
    goal: PushTask
    policies: Mapping[str, Policy]
    cloning: Cloning
    against: Sequence[str]
    steps: int | None
    starts: int
    horizon: int
    decision: int | None
    window: int | None
    batch_size: int
    seed: int
    draws: int
    films: Sequence[str]
    pictures: int
    frame_side: int
    paper: Mapping[str, Any]
    departures: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.policies) < LEAST:
            raise ValueError(f"protocol.policies={list(self.policies)}: {LEAST} at least can be ranked; add some")
        if unknown := set(self.films) - set(self.policies):
            raise ValueError(f"protocol.films names {sorted(unknown)}, the policies are {list(self.policies)}")

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes results.json, results.md, policies.png and policies.gif; returns the checkpoint's rank correlation."""
        started, data = time.time(), build_data(config)
        if not isinstance(data.world, PusherWorld):
            raise ValueError(
                f"protocol={self.name} needs the pusher's simulator beside the model, this is {data.name}; give "
                f"data=rt1 without data.root, and a checkpoint of it"
            )
        found = contenders(config, data, self.against, self.steps)
        stage, departures = self.staged(config, data, data.world, found)
        policies = self.trained(config, data)
        simulator = Simulator(data.world, data.picture_size)
        tallies = self.tally(stage, policies, simulator, found)
        result = {
            "protocol": self.name, "name": config.name, "data": data.name, "simulated": data.simulated,
            "content": data.manifest["hash"], "starts": len(stage.start), "horizon": stage.briefing.horizon,
            "decision": stage.briefing.decision, "goal": words.goal(self.goal.hold), "seed": self.seed,
            "draws": self.draws, **self.found(stage, tallies, found), "paper": dict(self.paper),
            "departures": departures, "machine": machine(device_of(config), str(config.trainer.precision)),
            "revision": revision(), "code": [*loaded_code(), *chosen_config()],
            "config_hash": config_hash(plain(config)), "seconds": round(time.time() - started, 1),
        }  # fmt: skip
        return self.written(result, tallies, Path(config.run_dir))

    def staged(
        self, config: DictConfig, data: ClipDataModule, world: PusherWorld, found: Sequence[Contender]
    ) -> tuple[Stage, list[str]]:
        """The starts with all that policies are told, and in words what is otherwise than asked."""
        models, departures = [one.model for one in found], list(self.departures)
        decision = decision_of(models, self.decision)
        horizon = horizon_of(models, self.horizon, decision)
        if horizon != self.horizon:
            departures.append(f"{horizon} frames, not {self.horizon}: whole decisions of {decision}")
        if self.window not in (None, config.rollout.window):
            departures.append(f"the rollout remembers {config.rollout.window} frames, not {self.window}")
        context = max(model.context for model in models)
        start, targets = starts_of(data, self.goal, count=self.starts, context=context, seed=self.seed)
        if len(start) < self.starts:
            departures.append(f"{len(start)} starts, not {self.starts}")
        briefing = Briefing(
            numbers=tuple(start.index.tolist()), targets=targets, task=self.goal, spec=data.spec, rest=data.rest,
            decision=decision, horizon=horizon, seed=self.seed, world=world, model=models[0],
        )  # fmt: skip
        return Stage(start, briefing, self.batch_size), departures

    def trained(self, config: DictConfig, data: ClipDataModule) -> dict[str, Policy]:
        """The policies, those that are cloned with their files."""
        lengths = [p.iterations for p in self.policies.values() if isinstance(p, Cloned) and p.iterations is not None]
        files = replace(self.cloning, lengths=tuple(lengths)).prepared(config, data) if lengths else {}
        found: dict[str, Policy] = {}
        for name, policy in self.policies.items():
            if isinstance(policy, Cloned) and policy.iterations is not None:
                policy = Cloned(iterations=None, file=str(files[policy.iterations]))
            found[name] = policy
        return found

    def tally(
        self, stage: Stage, policies: Mapping[str, Policy], simulator: Simulator, found: Sequence[Contender]
    ) -> list[Tally]:
        """All policies in all worlds, the true one first."""
        arenas: list[Arena] = [simulator, *(Imagined(one.model) for one in found)]
        tallies = [Tally() for _ in arenas]
        for arena in arenas[1:]:  # what a network does for the first time takes longer
            few = replace(stage.briefing, horizon=stage.briefing.decision)
            replace(stage, briefing=few).play(arena, Still(), "warm-up")
        with Progress(transient=True) as progress:
            task = progress.add_task(self.name, total=len(arenas) * len(policies))
            for name, policy in policies.items():
                for arena, tally in zip(arenas, tallies, strict=True):
                    self._noted(tally, name, stage.play(arena, policy, name), stage, simulator)
                    progress.advance(task)
                rates = ", ".join(f"{tally.success[name].mean():.2f}" for tally in tallies)
                log.info("%s: success %s (simulator, then models)", name, rates)
        return tallies

    def _noted(self, tally: Tally, name: str, played: Played, stage: Stage, simulator: Simulator) -> None:
        targets = stage.briefing.targets
        blocks = simulator.blocks(stage.start, stage.briefing, played.actions)
        tally.success[name] = self.goal.success(played.video, targets)
        tally.state[name] = self.goal.success_of_state(blocks, targets)
        tally.seconds[name], tally.policy_seconds[name] = played.world_seconds, played.policy_seconds
        if name in self.films:
            tally.pictures[name] = played.video[: self.pictures].clone()

    def found(self, stage: Stage, tallies: Sequence[Tally], rivals: Sequence[Contender]) -> dict[str, Any]:
        """Rates, ranks, the judge's errors and times, as plain values."""
        true, *rest = tallies
        targets = stage.briefing.targets
        first = rest[0]
        models = []
        for one, tally in zip(rivals, rest, strict=True):
            seconds, model = sum(tally.seconds.values()), one.model
            frames = len(self.policies) * len(stage.start) * stage.briefing.horizon
            models.append({
                "name": one.name, "kind": one.kind, "checkpoint": one.checkpoint, "path": one.path,
                "chunk": model.chunk, "window": model.plan.window, "forwards": model.forwards,
                "policies": self._rows(tally, targets),
                **self._ranks(true.success, tally.success, targets),
                "with_first": None if tally is first else self._ranks(first.success, tally.success, targets),
                "same_actions": judged(tally.success, tally.state), "same_policy": judged(tally.success, true.state),
                "seconds": round(seconds, 3), "frames_per_second": frames / seconds,
                "times_faster_than_first": sum(first.seconds.values()) / seconds,
            })  # fmt: skip
        return {
            "real": self._rows(true, targets), "judge": judged(true.success, true.state), "models": models,
        }  # fmt: skip

    def _ranks(self, real: Successes, model: Successes, targets: np.ndarray) -> dict[str, Any]:
        return against_truth(real, model, targets, draws=self.draws, seed=self.seed)

    def _rows(self, tally: Tally, targets: np.ndarray) -> dict[str, dict[str, Any]]:
        rows = shares(tally.success, targets)
        for name, row in rows.items():
            row |= {"world_seconds": tally.seconds[name], "policy_seconds": tally.policy_seconds[name]}
        return rows

    def written(self, result: Mapping[str, Any], tallies: Sequence[Tally], folder: Path) -> dict[str, float]:
        """Writes and prints everything."""
        write_whole(folder / "results.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
        write_whole(folder / "results.md", words.markdown(result))
        words.scatter(folder / "policies.png", result)
        names = ["simulator", *(model["name"] for model in result["models"])]
        films = [Film(f"{policy}\n{world}", tally.pictures[policy])
                 for policy in self.films for world, tally in zip(names, tallies, strict=True)]  # fmt: skip
        if films:
            given = films[0].video.shape[1] - result["horizon"]
            draw_gif(
                folder / "policies.gif", films, context=given, clips=self.pictures, side=self.frame_side, fps=4,
                caption=words.caption(result).replace("*", ""), most_bytes=4_000_000,
            )  # fmt: skip
        words.show(result, terminal.console())
        for departure in result["departures"]:
            log.warning("Otherwise than asked: %s", departure)
        log.info("Written: %s/results.json, results.md, policies.png, policies.gif", folder)
        own = result["models"][0]
        numbers = {"pearson": own["pearson"]["value"], "spearman": own["spearman"]["value"], "mmrv": own["mmrv"]}
        return {name: float(value) for name, value in numbers.items() if value is not None}
