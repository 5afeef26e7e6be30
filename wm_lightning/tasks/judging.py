"""The quality of one generator: test clips, scores, and the row of the table they make."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from wm_lightning.clip import Clip, Pixels
from wm_lightning.compute import precise
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.metrics.distance import Scale
from wm_lightning.metrics.features import ClipFeatures
from wm_lightning.metrics.scores import Scores
from wm_lightning.results.results import Row
from wm_lightning.results.targets import Targets
from wm_lightning.tasks.speed import Speed
from wm_lightning.tasks.subjects import Subject
from wm_lightning.worlds.world import Measures


@dataclass(frozen=True)
class TableSettings:
    """What the table holds: rows, clips, horizon, repeats of the speed measurement, pictures, targets.

    `clips` test clips of `context + horizon` frames are generated, as many more are the real reference.
    `minimum` clips are needed for a distance, whose bootstrap has `draws`; `scale_clips` training clips set its scale.
    """

    clips: int
    context: int
    horizon: int
    batch_size: int
    teacher_steps: Sequence[int]
    student_steps: Sequence[int]
    repeats: int
    minimum: int
    scale_clips: int
    draws: int
    seed: int
    pictures: int
    frame_side: int
    targets: Targets | None

    def __post_init__(self) -> None:
        for name in ("teacher_steps", "student_steps"):
            object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True)
class Bench:
    """The test clips, the reference features, and where and in which precision models run."""

    clips: tuple[Clip, ...]
    reference: Tensor
    scale: Scale
    features: ClipFeatures
    data: ClipDataModule
    device: torch.device
    precision: str


def prepare(data: ClipDataModule, settings: TableSettings, device: torch.device, precision: str) -> Bench:
    """Reads the test clips once: half to continue, half as the real reference, and the scale of features."""
    frames = settings.context + settings.horizon
    features = ClipFeatures.load()
    every = Clip.cat(list(data.clips("test", 2 * settings.clips, frames, settings.batch_size)))
    # Contexts and reference alternate, so that both spread over all episodes; an odd clip is left out.
    order = torch.arange(len(every) // 2 * 2).reshape(-1, 2).T
    starts, others = every[order[0]], every[order[1]]
    train = data.clips("train", settings.scale_clips, frames, settings.batch_size)
    scale = Scale.fit(torch.cat([features(clip.video) for clip in train]))
    size = settings.batch_size
    batches = tuple(starts[i : i + size] for i in range(0, len(starts), size))
    return Bench(batches, features(others.video), scale, features, data, device, precision)


@dataclass(frozen=True)
class Judgement:
    """One generator's quality: scores, what its world says beyond them, and the first videos."""

    scores: Scores
    extra: Mapping[str, float]
    video: Pixels


def judge_videos(
    bench: Bench, settings: TableSettings, make: Callable[[Clip], Pixels], advance: Callable[[], None]
) -> Judgement:
    """Generates and scores all test clips."""
    scores = Scores(settings.context, settings.horizon, bench.features)
    world, shown, judged, true = bench.data.world, [], [], []
    for clip, video in generated(bench, make):
        shown.append(video)
        if world is not None:
            judged.append(world.measure(video, clip, settings.context))
            true.append(world.measure(clip.video, clip, settings.context))
        scores.add(video, clip.video, judged[-1] if judged else None)
        advance()
    extra = {} if world is None else world.compare(Measures.cat(judged), Measures.cat(true))
    return Judgement(scores, extra, torch.cat(shown)[: settings.pictures])


def generated(bench: Bench, make: Callable[[Clip], Pixels]) -> Iterator[tuple[Clip, Pixels]]:
    """Every batch of clips with the video made of it, in their order.

    On a CPU batches run side by side on one thread each, which is a quarter faster than one batch after
    another on all threads, and gives the same numbers whatever the number of threads is.
    """

    def one(clip: Clip) -> Pixels:
        if bench.device.type == "cpu":
            torch.set_num_threads(1)
        with precise(bench.device, bench.precision):
            return make(clip)

    threads = torch.get_num_threads()
    workers = threads if bench.device.type == "cpu" else 1
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield from zip(bench.clips, pool.map(one, bench.clips), strict=True)
    finally:
        torch.set_num_threads(threads)


def make_row(
    subject: Subject | None, judged: Judgement | None, speed: Speed | None, bench: Bench, settings: TableSettings,
    role: str, name: str,
) -> Row:  # fmt: skip
    """Everything measured of one generator, nulls with their reasons."""
    values: dict[str, Any] = {"role": role, "name": name, "steps": None, "cached": None, "cache_commit": None}
    reasons: dict[str, str] = {}
    if subject is not None:
        commit = subject.plan.commit.mode if subject.cached else None
        values |= {"steps": subject.steps, "cached": subject.cached, "cache_commit": commit, "nfe": subject.forwards}
    if speed is not None:
        values |= asdict(speed)
    else:
        untimed = (field.name for field in fields(Speed))
        if subject is None:
            reasons |= dict.fromkeys(("nfe", *untimed), "a baseline, no generator")
        else:
            reasons |= dict.fromkeys(untimed, "not timed: metrics.repeats=0")
    if judged is not None:
        values |= _quality_values(judged, bench, settings, reasons)
    else:
        assert subject is not None and subject.unjudged is not None
        reasons |= dict.fromkeys(QUALITY_COLUMNS, subject.unjudged)
    return Row(**values, reasons=reasons)


QUALITY_COLUMNS = (
    "psnr", "ssim", "perceptual", "frames_distance", "action_error", "object_error", "presence",
    "distance", "distance_floor", "distance_low", "distance_high",
)  # fmt: skip


def _quality_values(
    judged: Judgement, bench: Bench, settings: TableSettings, reasons: dict[str, str]
) -> dict[str, Any]:
    scores = judged.scores
    ssim = scores.ssim()
    if ssim is None:
        reasons["ssim"] = "frames are smaller than SSIM's window of 11 pixels"
    values: dict[str, Any] = {"psnr": _mean(scores.psnr()), "ssim": None if ssim is None else _mean(ssim)}
    values |= {"perceptual": _mean(scores.perceptual()), "frames_distance": scores.frames_distance()}
    for name in ("action_error", "object_error", "presence"):
        values[name] = scores.mean(name)
        if values[name] is None:
            no_world = bench.data.world is None
            reasons[name] = "real data: there is no simulator to judge it" if no_world else "undefined on these clips"
    distance = scores.distance(
        bench.reference, bench.scale, minimum=settings.minimum, draws=settings.draws, seed=settings.seed
    )
    values |= {"distance": distance.value, "distance_floor": distance.floor}
    values |= {"distance_low": distance.low, "distance_high": distance.high}
    if distance.reason is not None:
        names = ("distance", "distance_floor", "distance_low", "distance_high")
        reasons |= dict.fromkeys(names, distance.reason)
    drift = scores.by_horizon("action_error") if values["action_error"] is not None else scores.psnr()
    return {**values, "drift": drift, "by_horizon": scores.every_horizon(), "extra": judged.extra}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
