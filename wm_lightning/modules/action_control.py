"""Does a generator go where every single action sends it? All actions of a data set from the same starts, one by one.

The measure and what is expected of it are those of `modules.fidelity`; here every variant is told apart, over starts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from wm_lightning.clip import ActionSpec, Clip, Pixels
from wm_lightning.metrics.action_fidelity import ActionSweep
from wm_lightning.metrics.episode_bootstrap import mean_interval
from wm_lightning.modules.expected_motion import Drive, Expected
from wm_lightning.modules.fidelity import Probes, Ruler, driven
from wm_lightning.randomness import generator

# A clip with its condition, and which of several draws of the noise -> video of the same length on the CPU.
Draw = Callable[[Clip, int], Pixels]
Motion = Float[Tensor, "b f 2"]
Columns = Mapping[str, float | int]


@dataclass(frozen=True)
class RandomKeys:
    """A drive in which a frame has, with the probability `share`, one of `keys` pressed, and else none."""

    share: float
    keys: Sequence[str]

    def drawn(self, frames: int, seed: int) -> dict[int, Columns]:
        """The key of every frame that has one."""
        source = generator(seed, "random keys")
        pressed = (source.random(frames) < self.share).tolist()
        places: list[int] = source.integers(len(self.keys), size=frames).tolist()
        keys = [self.keys[place] for place in places]
        return {frame: {keys[frame]: 1} for frame in range(frames) if pressed[frame]}


@dataclass(frozen=True)
class Variant:
    """One drive of the generated frames and its name; `draw` tells apart repeats of it under other noise."""

    name: str
    drive: Drive
    draw: int = 0


@dataclass(frozen=True, kw_only=True)
class Variants:
    """What clips are driven by, in names of action columns.

    `neutral` and the constant actions `moves` as in `Probes`; `rest` is what the neutral action is called. `schedules`
    give the action of single generated frames (0 is the first one) and are each tried `repeats` times under other
    noise, frames between them being neutral; so are those between `random_keys`. `needs` is a column that the data
    must have for these variants to be meant.
    """

    rest: str
    needs: str | None
    neutral: Columns | None
    moves: Mapping[str, Columns]
    schedules: Mapping[str, Mapping[int, Columns]]
    random_keys: Mapping[str, RandomKeys]
    repeats: int

    def drives(self, spec: ActionSpec, frames: int, seed: int) -> tuple[Float[Tensor, "a"] | None, list[Variant]]:
        """The neutral action and every variant. Raises ValueError for columns or values that the data do not have."""
        neutral, moves = Probes(self.neutral, self.moves).vectors(spec)
        found = [Variant(name, action) for name, action in moves.items()]
        for name, keys in self.random_keys.items():
            found.append(Variant(name, self._timed(keys.drawn(frames, seed), spec, frames)))
        for name, schedule in self.schedules.items():
            drive = self._timed(schedule, spec, frames)
            found += [Variant(f"{name} {number + 1}", drive, number) for number in range(self.repeats)]
        if not found:
            raise ValueError("no action is named to drive clips with; add some to protocol.variants.usual.moves")
        return neutral, found

    def _timed(self, schedule: Mapping[int, Columns], spec: ActionSpec, frames: int) -> Float[Tensor, "f a"]:
        named = {str(frame): columns for frame, columns in schedule.items()}
        rest, actions = Probes(self.neutral or {}, named).vectors(spec)
        assert rest is not None
        drive = rest.repeat(frames, 1)
        for frame in schedule:
            if frame < frames:
                drive[frame] = actions[str(frame)]
        return drive

    def beyond(self, frames: int) -> list[str]:
        """In words, what of the schedules lies after the last of so many generated frames."""
        late = {name: [frame for frame in places if frame >= frames] for name, places in self.schedules.items()}
        return [f"{name}: {frames} frames do not reach its frames {places}" for name, places in late.items() if places]


@dataclass(frozen=True)
class Steering:
    """How a variant moved beyond the neutral action, per frame, over all starts; `motion` x to the right and y down.

    `seen` is whether the measure sees it: else `motion`, `gain` and `sign` are None. `sign` is the share of frames that
    moved the expected way, a mean over starts, in an interval (95 %) where there are two starts. `changed` is the mean
    difference to the video of the neutral action, in grey levels; None where there is no neutral action.
    """

    name: str
    seen: bool
    expected: tuple[float, float]
    motion: tuple[float, float] | None
    gain: float | None
    sign: float | None
    low: float | None
    high: float | None
    changed: float | None

    def verdict(self, weak: float) -> str:
        """Whether it steers, in words; `weak` is the gain below which it is said to do so weakly."""
        if self.sign is None or self.gain is None:
            return "changes nothing" if self.changed == 0 else "not seen by the measure"
        low, high = (self.sign, self.sign) if self.low is None or self.high is None else (self.low, self.high)
        alone = ", in one start" if self.low is None else ""
        if low > 0.5 and self.gain > 0:
            return f"steers{' weakly' if self.gain < weak else ''}{alone}"
        return f"goes the wrong way{alone}" if high < 0.5 and self.gain < 0 else f"does not steer{alone}"


@dataclass(frozen=True)
class Shown:
    """The first start under one drive: what was made, and what the simulator makes of it where there is one."""

    name: str
    video: Pixels
    truth: Pixels | None


@dataclass(frozen=True)
class Control:
    """What was found: of every variant in their order, and of the neutral action its mean motion."""

    source: str
    steering: Sequence[Steering]
    rest: tuple[float, float] | None
    stillness: float | None
    expected_stillness: float | None
    shown: Sequence[Shown]


def measure_control(
    generate: Draw, clip: Clip, variants: Sequence[Variant], ruler: Ruler, *, context: int, rest: str,
    episodes: Sequence[str], draws: int, seed: int,
) -> Control:  # fmt: skip
    """Drives every clip by every variant, the neutral action of `ruler` first; `rest` is what that is called.

    `episodes` says where each clip comes from, for the intervals.
    """
    frames = clip.video.shape[1] - context
    expected = replace(ruler, probes={one.name: one.drive for one in variants}).expect(clip, context, frames)
    truth = ruler.future if expected.source == "simulator" else None
    shown: list[Shown] = []

    def driven_by(one: Variant) -> tuple[Pixels, Float[Tensor, "b made 2"]]:
        video = generate(driven(clip, one.drive, context), one.draw)
        future = None if truth is None else _continued(truth(clip[:1], context, one.drive, frames), clip, context)
        shown.append(Shown(one.name, video[:1], future))
        return video, ruler.generated(video, context)

    still, quiet, found = torch.zeros(len(clip), frames, 2), None, []
    if ruler.neutral is not None:
        quiet, still = driven_by(Variant(rest, ruler.neutral))
    for one in variants:
        video, motion = driven_by(one)
        changed = None
        if quiet is not None and one.draw == 0:  # under other noise another video is no effect of the action
            changed = float((video.float() - quiet.float()).abs()[:, context:].mean())
        measured = _steering(one.name, motion, still, expected, changed)
        found.append(_with_interval(measured, motion, still, expected, episodes, draws, seed))
    rested = None if quiet is None else _pair(still.mean((0, 1)))
    size = None if quiet is None else float(still.norm(dim=-1).mean())
    return Control(expected.source, found, rested, size, expected.rest, shown)


def _continued(future: Pixels, clip: Clip, context: int) -> UInt8[Tensor, "b whole c h w"]:
    """The given frames of the first clip, and its future after the last of them."""
    return torch.cat([clip.video[:1, :context], future[:, 1:]], dim=1)


def _steering(name: str, motion: Motion, still: Motion, expected: Expected, changed: float | None) -> Steering:
    mean = _pair(expected.means[name])
    if name not in expected.seen:
        return Steering(name, False, mean, None, None, None, None, None, changed)
    sweep = ActionSweep(probes=1, horizon=motion.shape[1], sync_on_compute=False)
    sweep.update(0, motion, still, expected.moves[name])
    [found] = sweep.by_probe()
    moved = _pair((motion - still).mean((0, 1)))
    return Steering(name, True, mean, moved, float(found["gain"]), None, None, None, changed)  # type: ignore[arg-type]


def _with_interval(
    found: Steering, motion: Motion, still: Motion, expected: Expected, episodes: Sequence[str], draws: int, seed: int
) -> Steering:
    """With the share of frames that moved the expected way: of every start apart, so that their spread is known."""
    if not found.seen:
        return found
    sweep = ActionSweep(probes=len(motion), horizon=motion.shape[1], sync_on_compute=False)
    for place, moves in enumerate(expected.moves[found.name]):
        sweep.update(place, motion[place, None], still[place, None], moves[None])
    shares = torch.tensor([one["sign"] for one in sweep.by_probe()], dtype=torch.float64)
    told = shares.isfinite()  # a start before a wall has nothing expected of it
    homes = [home for home, is_told in zip(episodes, told.tolist(), strict=True) if is_told]
    interval = mean_interval(shares[told, None], homes, draws=draws, seed=seed)
    return replace(found, sign=float(shares[told].mean()), low=interval.low[0], high=interval.high[0])


def _pair(values: Float[Tensor, "2"]) -> tuple[float, float]:
    x, y = values.tolist()
    return x, y
