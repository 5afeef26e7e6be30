"""An executor's iteration against the straightforward order of work, and what each saving is worth by itself.

The straightforward order is that of public trainers: videos are made, then judged while nothing else happens; executor
and demonstrator are asked about all states for the distillation reward; then every level of every micro-batch takes a
pass of the old policy and one of the new. In both orders every rollout has an advantage; what it saves to leave out
those that have none is a line of its own, and hangs on how many these are, which a benchmark can but assume.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor

from wm_lightning.clip import Clip, Condition
from wm_lightning.compute import now, precise
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.modules.wmsd_draws import Picked
from wm_lightning.modules.wmsd_losses import Lesson
from wm_lightning.modules.wmsd_rollouts import Rollouts, Steps, said_by
from wm_lightning.tasks.bench_entries import Comparison
from wm_lightning.tasks.executor_batch import first_batch

Way = Callable[[], Any]


@dataclass(frozen=True)
class Iteration:
    """One batch of tasks rolled out, and an advantage for all rollouts but the share `without`, which is assumed.

    Judges take `judging` seconds.
    """

    module: WMSDModule
    made: Rollouts
    asked: Condition
    told: Condition
    advantage: Float[Tensor, "b"]
    clip: Clip
    judging: float
    without: float

    def lesson(self, taught: Steps | None, advantage: Float[Tensor, "b"] | None) -> Lesson:
        """What the module learns from."""
        return self.module.lesson(self.clip, self.made, self.asked, taught, advantage)

    def sweep(self, batch: int) -> Steps:
        """The demonstrator at all states, `batch` of them a pass."""
        module = self.module
        return said_by(module.denoiser(module.teaching), self.made, self.told, module.plan.mask, batch)

    def learn(self, taught: Steps | None, advantage: Float[Tensor, "b"] | None, picked: Picked) -> None:
        """Forward and backward of all micro-batches."""
        module = self.module
        lesson = self.lesson(taught, advantage)
        for loss in lesson.losses(module.denoiser(module.network), module.surrogate, picked, module.micro_batch):
            loss().backward()
        module.network.zero_grad(set_to_none=True)

    def roll_out(self) -> Rollouts:
        """The executor's videos, with all that was said on the way."""
        return self.module.rollouts(self.clip, self.asked, self.module.network)

    def asked_again(self) -> Steps:
        """The executor's velocities, though its rollouts have them."""
        module = self.module
        return said_by(module.denoiser(module.network), self.made, self.asked, module.plan.mask, module.micro_batch)

    def ours(self) -> None:
        """One sweep while judges judge, rollouts' own velocities, levels in the batch, no pass without advantage."""
        self.roll_out()
        begun = now(self.made.made.device)
        taught = self.sweep(self.module.sweep_batch)
        self.judged(begun)
        self.learn(taught, self.advantage + 1e-6, self.module.picked(self.made))

    def straightforward(self) -> None:
        """Judges first, everybody asked again, level by level, with an old policy, all rollouts."""
        self.roll_out()
        self.judged(now(self.made.made.device))
        self.asked_again()
        taught = self.sweep(self.module.micro_batch)
        self.level_by_level(taught, old=True, advantage=self.advantage + 1e-6)

    def level_by_level(self, taught: Steps | None, *, old: bool, advantage: Float[Tensor, "b"]) -> None:
        """A pass for every level, before each of which the old policy may be asked."""
        picked = self.module.picked(self.made)
        for place in range(max(len(picked.policy), len(picked.anchor))):
            policy, anchor = picked.policy[place : place + 1], picked.anchor[place : place + 1]
            one = Picked(policy if len(policy) else picked.policy[:1], anchor if len(anchor) else picked.anchor[:1])
            if old:
                with torch.no_grad():
                    self.policy_once(one, advantage)
            self.learn(taught if len(anchor) else None, advantage if len(policy) else None, one)

    def policy_once(self, picked: Picked, advantage: Float[Tensor, "b"]) -> None:
        """A pass of the policy alone."""
        module = self.module
        losses = self.lesson(None, advantage).losses(
            module.denoiser(module.network), module.surrogate, picked, module.micro_batch
        )
        for loss in losses:
            loss()

    def judged(self, begun: float) -> None:
        """Waits until judges that began then are done."""
        time.sleep(max(0.0, begun + self.judging - time.perf_counter()))

    def savings(self) -> Mapping[str, tuple[str, Way, str, Way]]:
        """Each saving beside what it saves, by name."""
        module, whole = self.module, self.advantage + 1e-6
        picked = module.picked(self.made)
        return {
            "whole iteration": ("as trained", self.ours, "straightforward", self.straightforward),
            "rollouts": ("velocities kept", self.roll_out, "asked again", self._asked_after),
            "demonstrator's sweep": (
                f"{module.sweep_batch} states a pass", lambda: self.sweep(module.sweep_batch),
                f"{module.micro_batch} a pass", lambda: self.sweep(module.micro_batch),
            ),
            "levels": (
                "in the batch", lambda: self.learn(None, whole, picked),
                "one after the other", lambda: self.level_by_level(None, old=False, advantage=whole),
            ),
            "old policy": (
                "not asked", lambda: self.level_by_level(None, old=False, advantage=whole),
                "asked", lambda: self.level_by_level(None, old=True, advantage=whole),
            ),
            f"rollouts without advantage (assumed: {100 * self.without:g} %)": (
                "left out", lambda: self.learn(None, self.advantage, picked),
                "kept", lambda: self.learn(None, whole, picked),
            ),
            "judging": ("beside the sweep", self._beside, "before it", self._before),
        }  # fmt: skip

    def _beside(self) -> None:
        begun = time.perf_counter()
        self.sweep(self.module.sweep_batch)
        self.judged(begun)

    def _asked_after(self) -> None:
        self.roll_out()
        self.asked_again()

    def _before(self) -> None:
        self.judged(time.perf_counter())
        self.sweep(self.module.sweep_batch)


def executor_iteration(
    config: DictConfig, data: ClipDataModule, device: torch.device, repeats: int, without: float
) -> Iterator[Comparison]:
    """Ratios of an iteration with random weights; judges take as long as the demonstrator's sweep.

    The share `without` of the rollouts has no advantage.
    """
    with precise(device, str(config.trainer.precision)):
        iteration = _prepared(config, data, device, without)
        begun = now(device)
        iteration.sweep(iteration.module.sweep_batch)
        iteration = replace(iteration, judging=now(device) - begun)
        for name, (ours, one, other, two) in iteration.savings().items():
            for way in (one, two):
                way()  # the first time is no measure
            seconds = {ours: [], other: []}
            for _ in range(repeats):
                for label, way in ((ours, one), (other, two)):
                    start = now(device)
                    way()
                    seconds[label].append(now(device) - start)
            yield Comparison(name, "1/s", ours, other, 1 / median(seconds[ours]), 1 / median(seconds[other]))


def advantages(count: int, without: float) -> Float[Tensor, "b"]:
    """1 and −1 in turn, and 0 for the share `without` of all, spread evenly."""
    zero = torch.tensor([int((place + 1) * without) > int(place * without) for place in range(count)])
    found = torch.zeros(count)
    found[~zero] = torch.tensor([1.0, -1.0]).repeat(count)[: int((~zero).sum())]
    return found


def _prepared(config: DictConfig, data: ClipDataModule, device: torch.device, without: float) -> Iteration:
    """A batch rolled out, with advantages."""
    module, clip, asked, told = first_batch(config, data, device)
    made = module.rollouts(clip, asked, module.network)
    advantage = advantages(len(made), without).to(device)
    return Iteration(module, made, asked, told, advantage, clip, judging=0.0, without=without)
