"""Planning inside a world model: action sequences are sampled, rolled out side by side, and scored by their pixels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.clip import Clip
from wm_lightning.data.start_images import StartImages, begun, held_action, image_clips, neutral
from wm_lightning.envs.policy import Actions, Actor, Briefing, Frames
from wm_lightning.envs.world_model import WorldModel, advance, begin
from wm_lightning.randomness import generator

Plans = Float[np.ndarray, "n h c"]
Bound = Float[np.ndarray, "1 1 c"]
# `m` sequences of `h` actions for each of `n` episodes -> what each is worth.
Score = Callable[[Float[np.ndarray, "n m h c"]], Float[np.ndarray, "n m"]]


@dataclass(frozen=True, kw_only=True)
class CEM:
    """The cross-entropy method: the next samples are drawn around the `elites` best ones, as widely as these lie."""

    elites: int
    least_spread: float

    def __call__(
        self, samples: Float[np.ndarray, "n m h c"], worth: Float[np.ndarray, "n m"], spread: Plans
    ) -> tuple[Plans, Plans]:
        """Mean and spread of the best."""
        best = np.argsort(-worth, axis=1)[:, : self.elites]
        chosen = np.take_along_axis(samples, best[:, :, None, None], axis=1)
        return chosen.mean(1), np.maximum(chosen.std(1), self.least_spread)


@dataclass(frozen=True, kw_only=True)
class MPPI:
    """Model-predictive path integral: all samples count, by exp(worth / `temperature`); their spread is kept.

    Worth is scaled to the range of the samples, so that the temperature means the same in every task.
    """

    temperature: float

    def __call__(
        self, samples: Float[np.ndarray, "n m h c"], worth: Float[np.ndarray, "n m"], spread: Plans
    ) -> tuple[Plans, Plans]:
        """The weighted mean."""
        best, worst = worth.max(1, keepdims=True), worth.min(1, keepdims=True)
        weight = np.exp((worth - best) / np.maximum(best - worst, 1e-9) / self.temperature)
        weight = weight / weight.sum(1, keepdims=True)
        return (weight[:, :, None, None] * samples).sum(1), spread


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Plans `imagined` frames ahead in the model, of which the first decision is executed.

    The action `columns` vary (the others are neutral), `samples` sequences in `rounds` rounds by `method`, at first
    with a spread of `spread` times half of the column's range; a sampled action is held for `hold` frames. `batch`
    rollouts run at a time. What was planned last time is where the next plan begins.
    """

    method: CEM | MPPI
    columns: Sequence[str]
    imagined: int
    samples: int
    rounds: int
    spread: float
    hold: int
    batch: int

    def __post_init__(self) -> None:
        if isinstance(self.method, CEM) and not 1 <= self.method.elites <= self.samples:
            raise ValueError(f"elites={self.method.elites} must be 1 to samples={self.samples}")
        if self.imagined % self.hold:
            raise ValueError(f"imagined={self.imagined} must be a multiple of hold={self.hold}")

    def __call__(self, briefing: Briefing) -> Actor:
        """The actor of these episodes. Raises ValueError without a model, or where lengths or columns do not fit it."""
        model = briefing.model
        if model is None:
            raise ValueError("a planner needs a world model to imagine in; name one with ckpt_path=")
        longest = None if model.longest is None else model.longest - model.context
        least = max(briefing.decision, model.chunk)
        if self.imagined % model.chunk or self.imagined < least or (longest and self.imagined > longest):
            raise ValueError(
                f"imagined={self.imagined} frames: a multiple of the model's chunk {model.chunk}, at least {least}"
                f"{f' and at most {longest}' if longest else ''} is expected"
            )
        if briefing.decision % self.hold:
            raise ValueError(f"hold={self.hold} must divide protocol.decision={briefing.decision}; change either")
        if unknown := [name for name in self.columns if name not in briefing.spec.names]:
            raise ValueError(f"columns {unknown} are none of the data's: {list(briefing.spec.names)}")
        return _Imagination(self, briefing, model)

    def plan(
        self, score: Score, start: Plans, low: Bound, high: Bound, sources: Sequence[np.random.Generator]
    ) -> Plans:
        """The best known mean of sequences after all rounds, from `start` on; `low` and `high` bound every action."""
        mean, spread = start, self.spread * np.broadcast_to((high - low) / 2, start.shape)
        for _ in range(self.rounds):
            drawn = np.stack([source.standard_normal((self.samples, *start.shape[1:])) for source in sources])
            drawn[:, 0] = 0.0  # the mean itself is among them
            samples = np.clip(mean[:, None] + spread[:, None] * drawn, low[:, None], high[:, None])
            mean, spread = self.method(samples, score(samples), spread)
        return mean


class _Imagination:
    """Plans again at every decision."""

    def __init__(self, planner: Planner, briefing: Briefing, model: WorldModel) -> None:
        self.planner, self.briefing, self.model = planner, briefing, model
        spec = briefing.spec
        self.places = [spec.names.index(name) for name in planner.columns]
        self.low, self.high = (np.array(bound)[None, None, self.places] for bound in (spec.low, spec.high))
        self.neutral = neutral(spec, model.rest).numpy()
        self.sources = [generator(briefing.seed, "policy planning", number) for number in briefing.numbers]
        count, steps = len(briefing.numbers), planner.imagined // planner.hold
        self.mean: Plans = np.broadcast_to(self.neutral[self.places], (count, steps, len(self.places))).copy()

    def __call__(self, frames: Frames) -> Actions:
        start = picture_clip(self.model, frames[:, -1])
        score = partial(self._worth, start)
        self.mean = self.planner.plan(score, self.mean, self.low, self.high, self.sources)
        whole = self._actions(self.mean)
        used = self.briefing.decision // self.planner.hold
        rest = np.repeat(self.mean[:, -1:], used, axis=1)
        self.mean = np.concatenate([self.mean[:, used:], rest], axis=1)
        return whole

    def _actions(self, plans: Plans) -> Actions:
        """All columns of every frame."""
        actions = np.broadcast_to(self.neutral, (len(plans), self.planner.imagined, len(self.neutral))).copy()
        actions[..., self.places] = np.repeat(plans, self.planner.hold, axis=1)
        return actions.astype(np.float32)

    def _worth(self, start: Clip, plans: Float[np.ndarray, "n m h c"]) -> Float[np.ndarray, "n m"]:
        """The mean reward of the imagined frames, the last one as much again."""
        count, samples = plans.shape[:2]
        episodes = torch.arange(count).repeat_interleave(samples)
        actions = torch.from_numpy(self._actions(plans.reshape(count * samples, *plans.shape[2:])))
        worth = []
        for rows in torch.arange(len(episodes)).split(self.planner.batch):
            video = imagined(self.model, start[episodes[rows]], actions[rows])
            reward = self.briefing.task.reward(video, self.briefing.targets[episodes[rows].numpy()])
            worth.append(reward.mean(1) + reward[:, -1])
        return torch.cat(worth).reshape(count, samples).double().numpy()


def imagined(model: WorldModel, start: Clip, actions: Float[Tensor, "n f a"]) -> Tensor:
    """The frames that these actions lead to in the model. One noise for all, so that only actions tell them apart."""
    slots, made = begin(model, start, [0] * len(start)), []
    for part in actions.split(model.chunk, dim=1):
        video, slots = advance(model, slots, part)
        made.append(video)
    return torch.cat(made, dim=1)


def picture_clip(model: WorldModel, pictures: np.ndarray) -> Clip:
    """The newest frames as the given ones of a model, held where it was trained to begin with several."""
    count, data = len(pictures), model.data
    held = held_action(data.spec, {}, count, model.context, rest=model.rest)
    condition = begun(held, data.spec, model.context, rest=model.rest)
    images = StartImages(("seen",) * count, np.ascontiguousarray(np.moveaxis(pictures, -1, 1)))
    [clip] = image_clips(data, images, condition, model.context, count)
    return clip
