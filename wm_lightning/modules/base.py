"""What all modules share: counting, noise, updating one network, and validation by rollout."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from lightning import LightningModule
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from wm_lightning.clip import Clip, Latents
from wm_lightning.metrics.distance import Scale
from wm_lightning.metrics.features import ClipFeatures
from wm_lightning.metrics.scores import Scores
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.noising import GaussianPath
from wm_lightning.objectives.denoising import Scalar
from wm_lightning.randomness import generator, normal
from wm_lightning.sampling.rollout import Plan, SeededNoise, rollout
from wm_lightning.sampling.samplers import Sampler


@dataclass(frozen=True)
class ValidationDistance:
    """The kernel distance of a validation: `minimum` clips for one, `scale_clips` training clips that set its scale.

    Its bootstrap has `draws`.
    """

    minimum: int
    scale_clips: int
    draws: int


class WorldModelModule(LightningModule):
    """A training of known length in `iterations`, which it counts itself.

    The Trainer's `global_step` counts every optimizer's steps and is used nowhere.
    """

    iteration: Tensor
    skipped: Tensor
    optimizer_counts: tuple[int, ...]

    def __init__(
        self,
        *,
        iterations: int,
        path: GaussianPath,
        sampler: Sampler,
        plan: Plan,
        context: int,
        seed: int,
        clip_norm: float,
        action_weight: float,
        validate_every: int,
        distance: ValidationDistance,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.total_iterations = iterations
        self.path, self.sampler, self.plan, self.context = path, sampler, plan, context
        self.action_weight, self.validate_every, self.distance = action_weight, validate_every, distance
        self.seed, self.clip_norm = seed, clip_norm
        self.card: dict[str, Any] = {}
        self._scale: Scale | None = None
        self.register_buffer("iteration", torch.zeros((), dtype=torch.long))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.long))

    @property
    def iterations(self) -> int:
        """Training steps finished."""
        return int(self.iteration)

    @property
    def deployed(self) -> nn.Module:
        """The network that is validated, evaluated and exported."""
        raise NotImplementedError

    def trained_for(self) -> dict[str, Any]:
        """What the card says this training covers: masks, level laws, commit, dropout, steps."""
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the card, which says what the deployed network was trained for."""
        checkpoint["card"] = {**self.card, "trained_for": self.trained_for(), "iterations": self.iterations}

    def denoiser(self, network: nn.Module) -> Denoiser:
        """The network with this module's path."""
        return Denoiser(network, self.path)

    def rollout_noise(self, purpose: str, index: Int[Tensor, "b"]) -> SeededNoise:
        """Noise of rollouts in this iteration, one draw per (sample, frame, step)."""
        samples = tuple(index.tolist())
        return SeededNoise(self.seed, f"{purpose}/{self.iterations}", samples, self.device)

    def noise_like(self, x: Latents, purpose: str, index: Int[Tensor, "b"]) -> Latents:
        """Standard normal noise of this iteration, one draw per sample."""
        place = (self.iterations,)
        rows = [normal(x.shape[1:], self.seed, purpose, *place, sample) for sample in index.tolist()]
        return torch.stack(rows).to(x.device)

    def per_sample(
        self, purpose: str, index: Int[Tensor, "b"], draw: Callable[[Any], Float[Tensor, "..."]]
    ) -> Float[Tensor, "b ..."]:
        """`draw(generator)` for every sample of this iteration, stacked."""
        rows = [draw(generator(self.seed, purpose, self.iterations, sample)) for sample in index.tolist()]
        return torch.stack(rows).to(self.device)

    def update(
        self, optimizers: Sequence[Optimizer], network: nn.Module, losses: Sequence[Callable[[], Scalar]]
    ) -> Scalar:
        """One step of `network` on the sum of micro-batch losses; returns that sum.

        Each loss is formed inside the context that says whether ranks synchronise on it. Gradients
        are clipped per network. A step whose gradient is not finite is skipped and counted: gradients
        are averaged before, so all ranks skip it together.
        """
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        strategy = self.trainer.strategy
        for place, make in enumerate(losses):
            silent = place + 1 < len(losses) and isinstance(strategy, ParallelStrategy)
            with strategy.block_backward_sync() if silent else nullcontext():  # type: ignore[attr-defined]
                loss = make()
                self.manual_backward(loss)
            total += loss.detach()
        norm = clip_grad_norm_(network.parameters(), self.clip_norm)
        if bool(torch.isfinite(norm)):
            for optimizer in optimizers:
                optimizer.step()
        else:
            self.skipped += 1
        return total

    def of_all_ranks(self, rows: Tensor) -> Tensor:
        """The rows of all ranks as those of the global batch. All ranks must call it."""
        return rows if self.trainer.world_size == 1 else self.all_gather(rows).flatten(0, 1)  # type: ignore[union-attr]

    def split_optimizers(self) -> list[list[Optimizer]]:
        """The optimizers in the groups `configure_optimizers` made them in, one group per network."""
        flat = self.optimizers()
        flat = flat if isinstance(flat, list) else [flat]
        groups, start = [], 0
        for size in self.optimizer_counts:
            groups.append(flat[start : start + size])
            start += size
        return groups

    def begun(self, clip: Clip) -> Clip:
        """The clip, its condition with what this module's networks are told of its first frame."""
        return replace(clip, condition=self.denoiser(self.deployed).begun(clip.x0[:, :1], clip.condition))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs the module's own count beside what the step logged: the x of every curve."""
        self.log("iteration", float(self.iterations))

    def on_validation_epoch_start(self) -> None:
        """Fresh scores for the rollouts of this validation."""
        self._scores: Scores | None = None
        self._reference: list[Tensor] = []

    def real_scale(self, frames: int) -> Scale:
        """Standardisation of features by real training clips, fitted once."""
        if self._scale is None:
            features = ClipFeatures.load()
            data = self.trainer.datamodule  # type: ignore[attr-defined]
            clips = data.clips("train", self.distance.scale_clips, frames, 64, learned=True)
            self._scale = Scale.fit(torch.cat([features(clip.video) for clip in clips]))
        return self._scale

    def validation_step(self, clip: Clip, batch_idx: int) -> None:
        """Rolls out half of the clips and keeps the other half as real reference."""
        half = len(clip) // 2
        if half == 0:
            return
        start, reference = clip[:half], clip[half : 2 * half]
        if self._scores is None:
            horizon = clip.video.shape[1] - self.context
            self._scores = Scores(self.context, horizon, ClipFeatures.load())
        noise = SeededNoise(self.seed, "validation", tuple(start.index.tolist()), self.device)
        context = start.frames(0, self.context).x0
        made = rollout(self.denoiser(self.deployed), self.sampler, context, start.condition, self.plan, noise)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        video, world = data.decode(made), data.world
        judged = None if world is None else world.measure(video.cpu(), start.to("cpu"), self.context)
        self._scores.add(video, start.video, judged)
        self._reference.append(self._scores.features(reference.video))

    def _over_ranks(self, values: Tensor) -> Float[Tensor, "2"]:
        """Sum and number of the values that are defined, over all ranks: on one of them there may be none."""
        pair = torch.stack([values.nansum(), (~values.isnan()).sum()]).float().to(self.device)
        return self.of_all_ranks(pair[None]).sum(0).cpu()

    def on_validation_epoch_end(self) -> None:
        """Logs the validation's means over all ranks, and the score (less is better) that picks the checkpoint."""
        scores = self._scores
        assert scores is not None
        values = {"psnr": torch.tensor(scores.psnr()).mean()}
        for name in ("action_error", "object_error", "presence"):
            total, count = self._over_ranks(scores.all(name))
            if count:
                values[name] = total / count
        scale = self.real_scale(scores.context + scores.horizon)
        asked = {"minimum": self.distance.minimum, "draws": self.distance.draws, "seed": self.seed}
        excess = scores.distance(torch.cat(self._reference), scale, **asked).excess
        if excess is not None:
            values["excess"] = torch.tensor(excess)
        quality = excess if excess is not None else -float(values["psnr"])
        values["score"] = torch.tensor(quality) + self.action_weight * values.get("action_error", torch.zeros(()))
        for name, value in values.items():
            self.log(f"val/{name}", value.to(self.device), sync_dist=True, prog_bar=name == "score")
        self.log("iteration", float(self.iterations), sync_dist=True)
