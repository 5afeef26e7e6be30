"""A module that makes videos of tasks, which judges look at: in training as it goes on, in validation for its score."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wm_lightning.clip import Clip, Condition, Latents
from wm_lightning.modules.base import WorldModelModule
from wm_lightning.rewards.bus import Pending, RewardBus, Scores
from wm_lightning.sampling.rollout import SeededNoise, rollout
from wm_lightning.sampling.sde import drawless


class JudgedModule(WorldModelModule):
    """Its score is how many held-out tasks the deployed network does, by `judges`, in videos of `frames`."""

    def __init__(self, *, judges: Callable[[Any], RewardBus], frames: int, **shared: Any) -> None:
        super().__init__(**shared)
        self.make_judges, self.frames = judges, frames
        self.judges: RewardBus | None = None

    def setup(self, stage: str) -> None:
        """Judges may need the data: the world's own look up what a task asks for."""
        self.judges = self.make_judges(self.trainer.datamodule)  # type: ignore[attr-defined]

    def teardown(self, stage: str) -> None:
        """Ends the judges' threads."""
        if self.judges is not None:
            self.judges.close()

    def asked(self, clip: Clip) -> Condition:
        """What an executor is told of the clip's tasks."""
        return self.trainer.datamodule.asked(clip, self.frames).to(self.device)  # type: ignore[attr-defined]

    def submitted(self, video: Latents, clip: Clip, task: Int[Tensor, "b"]) -> Pending:
        """Videos handed to the judges, who work beside what follows; `task` numbers the clip's tasks they are of."""
        assert self.judges is not None and clip.texts is not None
        return self.judges.submit(self.trainer.datamodule.decode(video), clip.texts[task.cpu()])  # type: ignore[attr-defined]

    def over_ranks(self, counts: Tensor) -> Tensor:
        """The sum over all ranks, which must all call it."""
        return self.of_all_ranks(counts.to(self.device)[None]).sum(0).cpu()

    def validation_step(self, clip: Clip, batch_idx: int) -> None:
        """Videos of the deployed network, handed to the judges."""
        given = clip.x0[:, : self.context]
        noise = SeededNoise(self.seed, "validation", tuple(clip.index.tolist()), self.device)
        model, sampler = self.denoiser(self.deployed), drawless(self.sampler)
        made = rollout(model, sampler, given, self.asked(clip), self.plan, noise)
        self._pending.append(self.submitted(made, clip, torch.arange(len(clip))))

    def on_validation_epoch_start(self) -> None:
        """Fresh judgements."""
        self._pending: list[Pending] = []

    def on_validation_epoch_end(self) -> None:
        """Logs the share of yes among valid judgements over all ranks, and minus their weighted mean as the score."""
        assert self.judges is not None
        scores = self.judges.collect(self._pending, self.over_ranks)
        weights = scores.weights / scores.weights.sum().clamp_min(1e-9)
        score = torch.zeros(())
        for place, name in enumerate(scores.names):
            share = self._share(scores, place)
            score = score - (0.0 if share.isnan() and not weights[place] else weights[place] * share)
            self.log(f"val/{name}_met", share.to(self.device))
        self.log("val/score", score.nan_to_num(torch.inf).to(self.device), prog_bar=True)
        self.log("iteration", float(self.iterations))

    def _share(self, scores: Scores, place: int) -> Float[Tensor, ""]:
        """Of yes among a reward's valid judgements; NaN where every one failed, which is no 0."""
        met = torch.where(scores.valid[:, place], (scores.value[:, place] > 0).float(), torch.nan)
        total, count = self._over_ranks(met)
        return total / count
