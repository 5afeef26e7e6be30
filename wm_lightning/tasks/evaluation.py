"""Measures a cast of generators on the test clips and writes table, pictures and results."""

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from wm_lightning.clip import Clip, Pixels
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.metrics.distance import Scale
from wm_lightning.metrics.features import ClipFeatures
from wm_lightning.metrics.scores import Scores
from wm_lightning.results.pictures import Film, draw_gif, draw_strips
from wm_lightning.results.results import Results, Row
from wm_lightning.results.table import terminal, verdict, write_markdown
from wm_lightning.results.targets import Targets, judge
from wm_lightning.tasks.speed import Speed, measure_speed
from wm_lightning.tasks.subjects import Cast, Subject, baseline_copy, with_shuffled_actions
from wm_lightning.worlds.world import Measures


@dataclass(frozen=True)
class TableSettings:
    """What the table holds: rows, clips, horizon, repeats of the speed measurement, pictures, targets.

    `clips` test clips of `context + horizon` frames are generated, as many more are the real reference.
    `minimum` clips are needed for a distance, whose bootstrap has `draws`.
    """

    clips: int
    context: int
    horizon: int
    batch_size: int
    teacher_steps: Sequence[int]
    student_steps: Sequence[int]
    repeats: int
    minimum: int
    draws: int
    seed: int
    pictures: int
    frame_side: int
    targets: Targets | None

    def __post_init__(self) -> None:
        for name in ("teacher_steps", "student_steps"):
            object.__setattr__(self, name, tuple(getattr(self, name)))


@dataclass(frozen=True)
class Origin:
    """Where the numbers come from."""

    name: str
    config_hash: str
    family: str  # the config's hash without the seed: runs that differ in nothing else are joined
    revision: str
    seed: int
    started: float  # time.time() of the run's beginning


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

    @contextmanager
    def precise(self) -> Iterator[None]:
        """Autocast to bfloat16 where the run's precision says so."""
        mixed = "bf16" in self.precision
        with torch.autocast(self.device.type, torch.bfloat16) if mixed else nullcontext():
            yield


def prepare(data: ClipDataModule, settings: TableSettings, device: torch.device, precision: str) -> Bench:
    """Reads the test clips once: half to continue, half as the real reference, and the scale of features."""
    frames = settings.context + settings.horizon
    features = ClipFeatures.load()
    every = Clip.cat(list(data.clips("test", 2 * settings.clips, frames, settings.batch_size)))
    # Contexts and reference alternate, so that both spread over all episodes.
    order = torch.arange(len(every)).reshape(-1, 2).T if len(every) % 2 == 0 else torch.arange(len(every) - 1)
    starts, others = _rows(every, order[0]), _rows(every, order[1])
    train = data.clips("train", 256, frames, settings.batch_size)
    scale = Scale.fit(torch.cat([features(clip.video) for clip in train]))
    size = settings.batch_size
    batches = tuple(starts[i : i + size] for i in range(0, len(starts), size))
    return Bench(batches, features(others.video), scale, features, data, device, precision)


def _rows(clip: Clip, rows: Tensor) -> Clip:
    truth = {name: value[rows] for name, value in clip.truth.items()}
    condition = replace(clip.condition, actions=clip.condition.actions[rows], state=clip.condition.state[rows])
    return Clip(clip.video[rows], condition, clip.index[rows], truth)


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
    for clip in bench.clips:
        with bench.precise():
            video = make(clip)
        shown.append(video)
        if world is not None:
            judged.append(world.measure(video, clip, settings.context))
            true.append(world.measure(clip.video, clip, settings.context))
        scores.add(video, clip.video, judged[-1] if judged else None)
        advance()
    extra = {} if world is None else world.compare(Measures.cat(judged), Measures.cat(true))
    return Judgement(scores, extra, torch.cat(shown)[: settings.pictures])


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
        reasons |= dict.fromkeys(("nfe", *(field.name for field in fields(Speed))), "a baseline, no generator")
    if judged is not None:
        values |= _quality_values(judged, bench, settings, reasons)
    else:
        assert subject is not None and subject.unjudged is not None
        reasons |= dict.fromkeys(QUALITY_COLUMNS, subject.unjudged)
    return Row(**values, reasons=reasons)


QUALITY_COLUMNS = (
    "psnr", "ssim", "action_error", "object_error", "presence",
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
    return {**values, "drift": drift, "extra": judged.extra}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def evaluate_cast(
    cast: Cast, bench: Bench, settings: TableSettings, origin: Origin, folder: Path, console: Console
) -> Results:
    """Measures every row of the table; writes results.json, results.md, rollouts.gif and rollouts.png."""
    subjects = list(cast.subjects(settings.teacher_steps, settings.student_steps))
    judged_ones = [subject for subject in subjects if subject.unjudged is None]
    work = sum(subject.forwards for subject in judged_ones) * len(bench.clips)
    with _progress(console) as progress:
        task = progress.add_task("evaluation", total=work + 8 * len(bench.clips))
        judgements: dict[int, Judgement] = {}
        for subject in judged_ones:
            progress.update(task, description=f"quality: {subject.name}, {subject.steps} steps")
            make = _maker(subject, bench, settings)
            step = partial(progress.advance, task, subject.forwards)
            judgements[id(subject)] = judge_videos(bench, settings, make, step)
        baselines = _baselines(judged_ones, bench, settings, partial(progress.advance, task, 4))
        timed = progress.add_task("speed", total=settings.repeats * len(subjects))
        batch = sixteen(bench)
        with bench.precise():
            speeds = measure_speed(
                subjects, batch, settings.context, repeats=settings.repeats, device=bench.device,
                advance=lambda text: progress.update(timed, advance=1, description=text),
            )  # fmt: skip
    rows = [
        make_row(subject, judgements.get(id(subject)), speed, bench, settings, subject.role, subject.name)
        for subject, speed in zip(subjects, speeds, strict=True)
    ]
    rows += [make_row(None, judged, None, bench, settings, "baseline", name) for name, judged in baselines.items()]
    results = _results(rows, cast, bench, settings, origin)
    _draw(results, subjects, judgements, bench, settings, folder)
    write_report(results, settings, folder, console)
    return results


def _maker(subject: Subject, bench: Bench, settings: TableSettings) -> Callable[[Clip], Pixels]:
    return lambda clip: subject.generate(clip, settings.context, settings.seed, bench.device)


def _baselines(
    subjects: Sequence[Subject], bench: Bench, settings: TableSettings, advance: Callable[[], None]
) -> dict[str, Judgement]:
    """Copying the last frame, and the best few-step model driven by another clip's actions."""
    driven = next((s for s in subjects if s.role == "student"), subjects[-1])
    make = _maker(driven, bench, settings)
    return {
        "copy last frame": judge_videos(bench, settings, lambda clip: baseline_copy(clip, settings.context), advance),
        f"shuffled actions ({driven.name}, {driven.steps})": judge_videos(
            bench, settings, lambda clip: make(with_shuffled_actions(clip)), advance
        ),
    }


def sixteen(bench: Bench) -> Clip:
    """Sixteen test clips for speed, repeated where there are fewer."""
    clip = Clip.cat(list(bench.clips[:16]))
    while len(clip) < 16:
        clip = Clip.cat([clip, clip])
    return clip[:16]


def _results(rows: Sequence[Row], cast: Cast, bench: Bench, settings: TableSettings, origin: Origin) -> Results:
    world, clips = bench.data.world, bench.clips
    presence = None
    if world is not None:
        true = Measures.cat([world.measure(clip.video, clip, settings.context) for clip in clips])
        presence = float(true.presence.nanmean())
    floors = [row.distance_floor for row in rows if row.distance_floor is not None]
    judged_drift = any(row.action_error is not None for row in rows)
    return Results(
        rows=tuple(rows), name=origin.name, data="simulated" if bench.data.simulated else "real",
        world=bench.data.name, config_hash=origin.config_hash, revision=origin.revision,
        seconds=round(time.time() - origin.started, 1), seed=origin.seed, clips=sum(len(clip) for clip in clips),
        context=settings.context, horizon=settings.horizon, chunk=cast.plan.chunk,
        drift_of="action error" if judged_drift else "PSNR", machine=machine(bench),
        extractor_hash=bench.features.extractor_hash, distance_floor=floors[0] if floors else None,
        presence_truth=presence, extra={"family": origin.family},
    )  # fmt: skip


def machine(bench: Bench) -> str:
    """Device, threads and precision in a few words."""
    if bench.device.type == "cuda":
        return f"{torch.cuda.get_device_name(bench.device)}, {bench.precision}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, {bench.precision}"


def _draw(
    results: Results, subjects: Sequence[Subject], judgements: Mapping[int, Judgement], bench: Bench,
    settings: TableSettings, folder: Path,
) -> None:  # fmt: skip
    truth = torch.cat([clip.video for clip in bench.clips])[: settings.pictures].cpu()
    films = [Film("truth", truth)]
    best = [s for s in subjects if s.role == "teacher" and id(s) in judgements][:1]
    few = [s for role in ("control", "student") for s in subjects if s.role == role and id(s) in judgements]
    shown = best + [s for s in few if s.steps == max(settings.student_steps)]
    films += [Film(f"{s.name}\n{s.steps} steps", judgements[id(s)].video) for s in shown]
    caption = f"{results.world} ({results.data}), {results.name}"
    context, side = settings.context, settings.frame_side
    draw_strips(folder / "rollouts.png", films, context=context, clips=2, columns=13, side=side, caption=caption)
    draw_gif(
        folder / "rollouts.gif", films, context=context, clips=settings.pictures, side=side, fps=4,
        caption=caption, most_bytes=1_500_000,
    )  # fmt: skip


def write_report(results: Results, settings: TableSettings, folder: Path, console: Console) -> None:
    """results.json, results.md, and the table on the console."""
    results.to_json(folder / "results.json")
    write_markdown(results, settings.targets, folder / "results.md")
    for table in terminal(results):
        console.print(table)
    if settings.targets is not None and results.of("student"):
        console.print(verdict(judge(results, settings.targets)))
    console.print(f"\nWritten: {folder}/results.json, results.md, rollouts.gif, rollouts.png")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)
