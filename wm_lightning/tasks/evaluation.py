"""Measures a cast of generators on the test clips and writes table, pictures and results."""

import logging
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wm_lightning.clip import Clip, Pixels
from wm_lightning.compute import precise
from wm_lightning.environment import chosen_config, loaded_code
from wm_lightning.results.ladder import SHUFFLED
from wm_lightning.results.pictures import Film, draw_gif, draw_strips
from wm_lightning.results.results import Results, Row, Use
from wm_lightning.results.table import terminal, verdict, write_markdown
from wm_lightning.results.targets import judge
from wm_lightning.tasks.judging import Bench, Judgement, TableSettings, judge_videos, make_row
from wm_lightning.tasks.speed import Speed, measure_speed, sixteen
from wm_lightning.tasks.subjects import Cast, Subject, baseline_copy, with_shuffled_actions
from wm_lightning.worlds.world import Measures, OffersBaselines

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Origin:
    """Where the numbers come from."""

    name: str
    config_hash: str
    family: str  # the config's hash without the seed: runs that differ in nothing else are joined
    revision: str
    seed: int
    started: float  # time.time() of the run's beginning
    overrides: Sequence[str]  # what the run was started with, which tells points of a grid apart
    losses: Mapping[str, float]  # where the training ended, empty where it is not at hand
    how: Sequence[str] = ()  # what a teacher alone was made causal by and is sampled with, in words


def evaluate_cast(
    cast: Cast, bench: Bench, settings: TableSettings, origin: Origin, folder: Path, console: Console
) -> Results:
    """Measures every row of the table; writes results.json, results.md, rollouts.gif and rollouts.png."""
    subjects = list(cast.subjects(settings.teacher_steps, settings.student_steps))
    judged_ones = [subject for subject in subjects if subject.unjudged is None]
    log.info("Measuring %d generators on %d clips, the slowest first", len(judged_ones), sum(map(len, bench.clips)))
    work = sum(subject.forwards for subject in judged_ones) * len(bench.clips)
    work += 4 * len(bench.clips) * (2 if bench.clips[0].latents is None else 3)  # the baselines
    with _progress(console) as progress:
        task = progress.add_task("evaluation", total=work)
        judgements: dict[int, Judgement] = {}
        for subject in judged_ones:
            progress.update(task, description=f"quality: {subject.name}, {subject.steps} steps")
            make = _maker(subject, bench, settings)
            step = partial(progress.advance, task, subject.forwards)
            judgements[id(subject)] = judge_videos(bench, settings, make, step)
            if not console.is_terminal:  # a log file shows no bar
                log.info("Measured %s, %d steps: %s", subject.name, subject.steps, _left(progress, task))
        own = cast.deployed(settings.teacher_steps)
        baselines = _baselines(judged_ones, own, bench, settings, partial(progress.advance, task, 4))
        subjects, speeds = _timed(subjects, bench, settings, progress)
    rows = [
        make_row(subject, judgements.get(id(subject)), speed, bench, settings, subject.role, subject.name)
        for subject, speed in zip(subjects, speeds, strict=True)
    ]
    rows += [make_row(None, judged, None, bench, settings, "baseline", name) for name, judged in baselines.items()]
    results = _results(rows, cast, bench, settings, origin)
    _draw(results, subjects, judgements, bench, settings, folder)
    write_report(results, settings, folder, console)
    return results


def _timed(
    subjects: Sequence[Subject], bench: Bench, settings: TableSettings, progress: Progress
) -> tuple[Sequence[Subject], Sequence[Speed | None]]:
    """All subjects with their speeds; where nothing is timed, those that are judged, without."""
    if not settings.repeats:
        kept = [subject for subject in subjects if subject.unjudged is None]
        return kept, [None] * len(kept)
    timed = progress.add_task("speed", total=settings.repeats * len(subjects))
    with precise(bench.device, bench.precision):
        return subjects, measure_speed(
            subjects, sixteen(bench.clips), settings.context, repeats=settings.repeats, device=bench.device,
            advance=lambda text: progress.update(timed, advance=1, description=text),
        )  # fmt: skip


def _left(progress: Progress, task: TaskID) -> str:
    """How far the qualities are, and how long they will take; speeds come after them."""
    at = next(entry for entry in progress.tasks if entry.id == task)
    share = at.completed / (at.total or 1)
    return f"{share:.0%}, about {(at.elapsed or 0) * (1 - share) / max(share, 1e-9):.0f} s of this left"


def _maker(subject: Subject, bench: Bench, settings: TableSettings) -> Callable[[Clip], Pixels]:
    return lambda clip: subject.generate(clip, settings.context, settings.seed, bench.device)


def _baselines(
    subjects: Sequence[Subject], own: Use, bench: Bench, settings: TableSettings, advance: Callable[[], None]
) -> dict[str, Judgement]:
    """The network as it was trained to be used, driven by another clip's actions, and what needs no model."""
    driven = next((s for s in subjects if (s.role, s.steps) == (own.role, own.steps)), subjects[-1])
    make = _maker(driven, bench, settings)
    found = {name: judge_videos(bench, settings, copy, advance) for name, copy in _modelless(bench, settings).items()}
    if sum(len(clip) for clip in bench.clips) < 2:  # a single clip's only neighbour is itself
        return found
    other = dict(zip(map(id, bench.clips), with_shuffled_actions(bench.clips), strict=True))
    shuffled = judge_videos(bench, settings, lambda clip: make(other[id(clip)]), advance)
    return {**found, f"{SHUFFLED} ({driven.name}, {driven.steps})": shuffled}


def _modelless(bench: Bench, settings: TableSettings) -> dict[str, Callable[[Clip], Pixels]]:
    """Copying the last frame, what the world offers, and latents decoded, which no network of them can exceed."""
    world = bench.data.world
    copies = {"copy last frame": baseline_copy, **(world.baselines() if isinstance(world, OffersBaselines) else {})}
    found: dict[str, Callable[[Clip], Pixels]] = {
        name: partial(copy, context=settings.context) for name, copy in copies.items()
    }
    if bench.clips[0].latents is not None:
        found["reconstruction"] = lambda clip: bench.data.decode(clip.x0.to(bench.device)).cpu()
    return found


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
        drift_of="action error" if judged_drift else "PSNR", machine=machine(bench.device, bench.precision),
        extractor_hash=bench.features.extractor_hash, distance_floor=floors[0] if floors else None,
        presence_truth=presence, deployed=cast.deployed(settings.teacher_steps),
        extra={
            "family": origin.family, "overrides": list(origin.overrides), "losses": dict(origin.losses),
            "how": list(origin.how),
            "code": [*loaded_code(), *chosen_config()],
        },
    )  # fmt: skip


def machine(device: torch.device, precision: str) -> str:
    """Device, threads and precision in a few words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {precision}"
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads, {precision}"


def _draw(
    results: Results, subjects: Sequence[Subject], judgements: Mapping[int, Judgement], bench: Bench,
    settings: TableSettings, folder: Path,
) -> None:  # fmt: skip
    truth = torch.cat([clip.video for clip in bench.clips])[: settings.pictures].cpu()
    films = [Film("truth", truth)]
    best = [s for s in subjects if s.role == "teacher" and id(s) in judgements][:1]
    few = [s for role in ("control", "student") for s in subjects if s.role == role and id(s) in judgements]
    shown = best + [s for s in few if s.steps == _steps_shown(results, settings)]
    films += [Film(f"{s.name}\n{s.steps} steps", judgements[id(s)].video) for s in shown]
    caption = f"{results.world} ({results.data}), {results.name}"
    context, side = settings.context, settings.frame_side
    draw_strips(folder / "rollouts.png", films, context=context, clips=2, columns=13, side=side, caption=caption)
    draw_gif(
        folder / "rollouts.gif", films, context=context, clips=settings.pictures, side=side, fps=4,
        caption=caption, most_bytes=1_500_000,
    )  # fmt: skip


def _steps_shown(results: Results, settings: TableSettings) -> int:
    """Those the student was trained for."""
    own = results.deployed
    return max(settings.student_steps) if own is None or own.role != "student" else own.steps


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
