"""Measures whether actions drive what a generator makes: the family of `metrics.action_fidelity` on a few clips."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.clip import ActionSpec, ActionState, Clip, Pixels
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.metrics.action_fidelity import ActionGap, ActionSweep, Recovery, frame_error
from wm_lightning.metrics.inverse_dynamics import Reader
from wm_lightning.metrics.motion import MotionModel
from wm_lightning.modules.expected_motion import Drive, Expected, Future, future_of, learned, simulated
from wm_lightning.modules.inverse_dynamics import update_recovery
from wm_lightning.worlds.world import motion_measure

# A clip with its condition -> video of the same length on the CPU; the noise depends on `clip.index` alone.
Generate = Callable[[Clip], Pixels]
# A gap of fewer standard errors than this is none (for eight clips and more: about one in twenty at most).
SURE = 2.0


@dataclass(frozen=True)
class Probes:
    """Constant actions to drive clips with, by the names of action columns; what is not named is as in `neutral`.

    `neutral` is the action of doing nothing, of which columns that are not named are 0; None where there is none, as
    in a world in which every action moves: motion is then compared with none at all.
    """

    neutral: Mapping[str, float | int] | None
    moves: Mapping[str, Mapping[str, float | int]]

    def vectors(self, spec: ActionSpec) -> tuple[Float[Tensor, "a"] | None, dict[str, Float[Tensor, "a"]]]:
        """The neutral action and every probe. Raises ValueError for columns or values that the data do not have."""
        neutral = None if self.neutral is None else self._vector({}, spec)
        return neutral, {name: self._vector(columns, spec) for name, columns in self.moves.items()}

    def _vector(self, columns: Mapping[str, float | int], spec: ActionSpec) -> Float[Tensor, "a"]:
        values = torch.zeros(spec.dim)
        for name, value in {**(self.neutral or {}), **columns}.items():
            if name not in spec.names:
                raise ValueError(f"an action probe names the column {name}; the data have {', '.join(spec.names)}")
            place = spec.names.index(name)
            if not spec.low[place] <= value <= spec.high[place]:
                raise ValueError(f"an action probe sets {name}={value}, outside {spec.low[place]}..{spec.high[place]}")
            values[place] = value
        return values


@dataclass(frozen=True)
class Ruler:
    """What motion is measured with on this data, and what real clips show: made once, used at every validation."""

    name: str
    motion: Callable[[Pixels], Float[Tensor, "b f 2"]]
    model: MotionModel
    neutral: Float[Tensor, "a"] | None
    probes: Mapping[str, Drive]
    future: Future | None = None

    @classmethod
    def of(cls, data: ClipDataModule, probes: Probes, *, clips: int, frames: int) -> "Ruler":
        """Learns from `clips` training clips what motion an action stands for."""
        neutral, vectors = probes.vectors(data.spec)
        name, motion = motion_measure(data.world)
        moved, actions = [], []
        for clip in data.clips("train", clips, frames, 64, learned=True):
            given = (clip.condition.state == ActionState.GIVEN)[:, 1:frames]
            moved.append(motion(clip.video)[:, 1:][given])
            actions.append(clip.condition.actions[:, 1:frames][given])
        model = MotionModel.fit(torch.cat(actions), torch.cat(moved), ridge=1e-4)
        return cls(name, motion, model, neutral, vectors, future_of(data))

    def generated(self, video: Pixels, context: int) -> Float[Tensor, "b made 2"]:
        """The motion of the frames after the given ones, the first of which moved from the last given one."""
        return self.motion(video[:, context - 1 :])[:, 1:]

    def expect(self, clip: Clip, context: int, frames: int) -> Expected:
        """The motion to expect of every probe over `frames` frames after the given ones of these clips."""
        found, drives = None, (self.neutral, self.probes)
        if self.future is not None and clip.truth:
            found = simulated(self.future, self.motion, clip, context, frames, *drives)
        return found or learned(self.model, len(clip), frames, *drives)


@dataclass(frozen=True)
class Fidelity:
    """What was found. `scalars` for curves; `report` everything by horizon, as plain JSON values."""

    scalars: Mapping[str, float]
    report: Mapping[str, Any]

    @property
    def ignored(self) -> bool | None:
        """Whether the shuffled-action gap is not above 0 by two standard errors; None where there is no error."""
        gap, error = self.scalars["action_gap"], self.scalars["action_gap_error"]
        return None if math.isnan(gap) or math.isnan(error) else gap <= SURE * error


def measure_fidelity(
    generate: Generate, clip: Clip, *, context: int, ruler: Ruler, sweep_clips: int, sweep_frames: int,
    reader: Reader | None, expected: Expected | None = None,
) -> Fidelity:  # fmt: skip
    """Drives the clips by their own and by one another's actions, and the first of them by constant ones.

    `expected` is `ruler.expect` of these clips, where it is known already.
    """
    horizon = clip.video.shape[1] - context
    shuffled = replace(clip, condition=replace(clip.condition, actions=clip.condition.actions.roll(1, dims=0)))
    video, other = generate(Clip.cat([clip, shuffled])).split(len(clip))
    gap = ActionGap(horizon=horizon, sync_on_compute=False)
    errors = (frame_error(made[:, context:], clip.video[:, context:]) for made in (video, other))
    gap.update(*errors)
    mean, error = gap.mean_and_error()
    scalars = {"action_gap": mean, "action_gap_error": error}
    report = {"gap": {"mean": mean, "standard_error": error, "horizon": _listed(gap.compute()), "clips": len(clip)}}
    if reader is not None and reader.readable:
        found, ceiling = (_recovery(reader, clip, made, context) for made in (video, clip.video))
        scalars["recovery"] = found.mean()
        trained = {
            "network": reader.sha256,
            "columns": reader.readable,
            "ceiling_validation": dict(reader.trained.ceiling),
        }
        report["recovery"] = _read(found) | {"ceiling": _read(ceiling)} | trained
    if ruler.probes:
        expected = expected or ruler.expect(clip, context, sweep_frames)
        some = clip[:sweep_clips].frames(0, context + sweep_frames)
        swept, own = _sweep(generate, some, context, ruler, expected)
        scalars |= own
        report["sweep"] = swept
    return Fidelity(scalars, _plain(report))


def _sweep(
    generate: Generate, clip: Clip, context: int, ruler: Ruler, expected: Expected
) -> tuple[dict[str, Any], dict[str, float]]:
    seen, rests = expected.seen, [] if ruler.neutral is None else [ruler.neutral]
    motions = _motions(generate, clip, context, ruler, [*rests, *(ruler.probes[name] for name in seen)])
    frames = clip.video.shape[1] - context
    still = motions.pop(0) if rests else torch.zeros(len(clip), frames, 2)
    sweep = ActionSweep(probes=len(seen), horizon=frames, sync_on_compute=False)
    for place, (name, motion) in enumerate(zip(seen, motions, strict=True)):
        sweep.update(place, motion, still, expected.moves[name][: len(clip)])
    scalars = {"sweep_gain": sweep.gain(), "sweep_sign": sweep.sign()}
    gain = _listed(sweep.compute()) if seen else [None] * frames
    found = dict(zip(seen, sweep.by_probe(), strict=True))
    unseen = {"gain": None, "sign": None, "motion": None}
    report = {
        "measure": ruler.name, "clips": len(clip), "expected_from": expected.source, "real_r2": ruler.model.r2,
        "real_kept": ruler.model.kept, "real_motion": ruler.model.size, "gain": gain,
        "probes": {
            name: {**found.get(name, unseen), "seen": name in found, "expected": mean.tolist()}
            for name, mean in expected.means.items()
        },
    }  # fmt: skip
    if rests:
        sweep.update_neutral(still)
        stillness = sweep.stillness()
        scalars["null_motion"] = float(stillness.mean())
        report |= {"null_motion": _listed(stillness), "null_motion_expected": expected.rest}
    return report, scalars


def _motions(
    generate: Generate, clip: Clip, context: int, ruler: Ruler, drives: Sequence[Drive]
) -> list[Float[Tensor, "b f 2"]]:
    """The motion of generated frames, for every constant action."""
    if not drives:
        return []
    videos = generate(Clip.cat([driven(clip, action, context) for action in drives])).split(len(clip))
    return [ruler.generated(video, context) for video in videos]


def driven(clip: Clip, action: Drive, context: int) -> Clip:
    """The clip whose generated frames are all produced by one action, or by those of their places."""
    actions = clip.condition.actions.clone()
    actions[:, context:] = action
    return replace(clip, condition=replace(clip.condition, actions=actions))


def _recovery(reader: Reader, clip: Clip, video: Pixels, context: int) -> Recovery:
    recovery = Recovery(horizon=video.shape[1] - context, columns=len(reader.readable), sync_on_compute=False)
    update_recovery(recovery, reader.network, clip, video, context, reader.matrix)
    return recovery


def _read(recovery: Recovery) -> dict[str, Any]:
    return {
        "r2": recovery.mean(),
        "horizon": _listed(recovery.compute()),
        "by_column": _listed(recovery.by_column()),
    }


def _listed(values: Tensor) -> list[float]:
    return values.reshape(-1).tolist()


def _plain(value: Any) -> Any:
    """The same values as JSON has them: what is not a finite number is null."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
