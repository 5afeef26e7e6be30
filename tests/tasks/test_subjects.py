"""Who stands in a results table, what each of them is made of, and whom its pictures show."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.networks.tiny import SHAPE, condition, randn, tiny
from tests.networks.tiny_unet import tiny_unet
from tests.sampling.recording import COMMITS, FLOW, commit_name, noise_of, plan
from wm_lightning.clip import Clip, Latents, Pixels, Texts, to_pixels
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.metrics.distance import Scale
from wm_lightning.metrics.features import ClipFeatures
from wm_lightning.metrics.scores import Scores
from wm_lightning.networks.rerun import Rerun
from wm_lightning.results.pictures import Film
from wm_lightning.results.results import Results, Use
from wm_lightning.sampling.guidance import Guidance
from wm_lightning.sampling.rollout import Commit, next_chunk, remember_context
from wm_lightning.sampling.samplers import DDIMSampler, FewStepSampler, StepList
from wm_lightning.tasks import evaluation
from wm_lightning.tasks.judging import Bench, Judgement, TableSettings
from wm_lightning.tasks.subjects import Cast, Subject, baseline_copy, with_shuffled_actions

CONTEXT, CHUNK, FRAMES = 1, 2, 7
TEACHER_STEPS, STUDENT_STEPS = [4, 2], [2, 1]
CPU = torch.device("cpu")
CLEAN, NOISED, SCALED, LAST = COMMITS
EULER = DDIMSampler(StepList(kind="matched", steps=9, shift=3.0), eta=0.0)
# Neither the sampler of the teacher nor re-noising, so that each of the three is told from the others.
STUDENTS_OWN = DDIMSampler(StepList(kind="matched", steps=2, shift=1.5), eta=0.5)

# role, name, steps, cached, how frames are committed, forwards per chunk, judged or not
Facts = tuple[str, str, int, bool, str, int, bool]
TEACHERS: list[Facts] = [
    ("teacher", "teacher", 4, True, "clean", 5, True),
    ("teacher", "teacher", 2, True, "clean", 3, True),
    ("teacher", "teacher", 4, False, "clean", 4, False),
    ("teacher", "teacher", 4, True, "last", 4, False),
]
CONTROLS: list[Facts] = [
    ("control", "undistilled, Euler", 2, True, "clean", 3, True),
    ("control", "undistilled, re-noised", 2, True, "clean", 3, True),
    ("control", "undistilled, Euler", 1, True, "clean", 2, True),
    ("control", "undistilled, re-noised", 1, True, "clean", 2, True),
]


def students(first: str, judged: str) -> list[Facts]:
    """Rows of the student: those with a commit of its own in mode `first`, then those that keep the last pass."""
    return [
        ("student", "student", 2, True, first, 3, first == judged),
        ("student", "student", 1, True, first, 2, first == judged),
        ("student", "student", 2, True, "last", 2, judged == "last"),
        ("student", "student", 1, True, "last", 1, judged == "last"),
    ]


def cast(commit: Commit = CLEAN, *, steps: int = 2, **changes: Any) -> Cast:
    """A teacher and a student of other weights, trained for `steps` steps and this commit; no frame is evicted."""
    given: dict[str, Any] = {
        "teacher": tiny("joint", seed=1), "student": tiny("joint", seed=2), "path": FLOW, "teacher_sampler": EULER,
        "student_sampler": STUDENTS_OWN.with_steps(steps), "plan": plan(CHUNK, commit=commit, window=FRAMES),
        "history_level": 1.0, "decode": to_pixels,
    }  # fmt: skip
    return Cast(**given | changes)


def teacher_alone() -> Cast:
    return cast(student=None, student_sampler=None)


def rows(chosen: Cast) -> list[Subject]:
    return list(chosen.subjects(TEACHER_STEPS, STUDENT_STEPS))


def facts(subject: Subject) -> Facts:
    judged = subject.unjudged is None
    commit = subject.plan.commit.mode
    return (subject.role, subject.name, subject.steps, subject.cached, commit, subject.forwards, judged)


def batches() -> list[Clip]:
    """Three clips and two, every part of them random and another one for each."""

    def batch(start: int, size: int) -> Clip:
        pixels = torch.randint(256, (size, FRAMES, *SHAPE), generator=torch.Generator().manual_seed(start))
        numbers = range(start, start + size)
        words = Texts(*(tuple(f"{kind} {number}" for number in numbers) for kind in ("id", "do", "so")))
        return Clip(
            pixels.to(torch.uint8), condition(size, FRAMES, seed=start), torch.tensor(numbers),
            {"place": randn(size, FRAMES, 2, seed=start)}, words, randn(size, FRAMES, *SHAPE, seed=start + 50),
        )  # fmt: skip

    return [batch(0, 3), batch(3, 2)]


@contextmanager
def passes_of(network: nn.Module) -> Iterator[list[int]]:
    """How many frames each forward pass of the network is given, in their order."""
    frames: list[int] = []
    hook = network.register_forward_pre_hook(lambda _, given: frames.append(given[0].shape[1]))
    try:
        yield frames
    finally:
        hook.remove()


@pytest.mark.parametrize("commit", COMMITS, ids=commit_name)
def test_rows_in_their_order(commit: Commit) -> None:
    chosen = cast(commit)
    first = "clean" if commit is LAST else commit.mode
    found = rows(chosen)
    assert [facts(subject) for subject in found] == TEACHERS + CONTROLS + students(first, commit.mode)
    own = [subject.plan for subject in found if subject.role == "student" and subject.unjudged is None]
    assert own == [chosen.plan] * 2, "judged as it was trained, the time of its commit included"
    assert all(replace(subject.plan, commit=commit) == chosen.plan for subject in found), "only the commit differs"


def test_a_teacher_alone_has_no_controls() -> None:
    assert [facts(subject) for subject in rows(teacher_alone())] == TEACHERS


def test_a_network_that_remembers_nothing_has_no_cached_rows() -> None:
    alone = cast(teacher=tiny_unet(norm_scope="clip", tokens=None), student=None, student_sampler=None)
    found = rows(alone)
    assert not any(subject.cached for subject in found)
    assert [subject.steps for subject in found if subject.unjudged is None] == TEACHER_STEPS
    assert all(subject.forwards == subject.steps for subject in found), "nothing is committed"


@pytest.mark.parametrize("asked", [[1], [8, 1]])
def test_the_steps_a_student_was_trained_for_are_there_unasked(asked: list[int]) -> None:
    found = list(cast(steps=3).subjects(TEACHER_STEPS, asked))
    steps = sorted({3, *asked}, reverse=True)
    of = {role: [subject.steps for subject in found if subject.role == role] for role in ("control", "student")}
    assert of == {"control": [count for count in steps for _ in range(2)], "student": steps * 2}


def test_rows_that_are_not_judged_say_why() -> None:
    def said(chosen: Cast) -> list[str]:
        return [subject.unjudged for subject in rows(chosen) if subject.unjudged is not None]

    cached, last = said(teacher_alone())
    assert (
        "the video is that of the row with a cache" in cached
        and last == "speed only: quality is compared behind clean commits"
    )
    assert said(cast(history_level=0.1))[1] == "speed only: the teacher was not trained on a history this noisy"
    for commit, other in ((CLEAN, "clean"), (LAST, "last"), (NOISED, "noised")):
        reason = f"speed only: the student was trained to commit with mode {other}"
        assert said(cast(commit))[2:] == [reason] * 2


def test_weights_and_samplers_of_every_row() -> None:
    chosen = cast()
    found = rows(chosen)
    networks = [chosen.student if subject.role == "student" else chosen.teacher for subject in found]
    held = [model if subject.cached else model.network for subject in found for model in [subject.model.network]]
    assert [id(network) for network in held] == [id(network) for network in networks]
    renoised = FewStepSampler(STUDENTS_OWN.steps)
    samplers = {"teacher": EULER, "undistilled, Euler": EULER, "undistilled, re-noised": renoised}
    for subject in found:
        assert subject.sampler == samplers.get(subject.name, STUDENTS_OWN).with_steps(subject.steps)


def test_forwards_are_the_passes_a_chunk_takes() -> None:
    clip = batches()[0]
    context, given = clip.x0[:, :CONTEXT], clip.condition
    for subject in rows(cast()):
        network = subject.model.network
        noise = noise_of(clip.index.tolist(), torch.float32)
        past = remember_context(subject.model, context, given, subject.plan, noise)
        chunk = given.frames(CONTEXT, CONTEXT + CHUNK)
        with passes_of(network.network if isinstance(network, Rerun) else network) as passes, torch.no_grad():
            next_chunk(subject.model, subject.sampler, past, chunk, subject.plan, noise, shape=SHAPE)
        assert len(passes) == subject.forwards, facts(subject)


GUIDED = {drop: Guidance(2.0, drop, rescale=0.7, scope="new") for drop in ("newest", "all")}


@pytest.mark.parametrize(("drop", "forwards"), [("newest", [9, 5, 8, 8]), ("all", [10, 6, 8, 8])])
def test_guidance_counts_twice(drop: str, forwards: list[int]) -> None:
    """Samples that the network sees per sample of the chunk: a doubled batch is two passes."""
    guided = plan(CHUNK, window=FRAMES)
    found = rows(cast(student=None, student_sampler=None, plan=replace(guided, guidance=GUIDED[drop])))
    assert [subject.forwards for subject in found] == forwards
    subject, clip = found[0], batches()[0]
    noise = noise_of(clip.index.tolist(), torch.float32)
    past = remember_context(subject.model, clip.x0[:, :CONTEXT], clip.condition, subject.plan, noise)
    seen: list[int] = []
    hook = subject.model.network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    with torch.no_grad():
        chunk = clip.condition.frames(CONTEXT, CONTEXT + CHUNK)
        next_chunk(subject.model, subject.sampler, past, chunk, subject.plan, noise, shape=SHAPE)
    hook.remove()
    assert sum(seen) == forwards[0] * len(clip)
    none = replace(guided, guidance=replace(GUIDED[drop], scale=1.0))
    assert rows(cast(plan=none))[0].forwards == 5


def test_the_teacher_of_a_guided_distillation_is_guided_and_its_student_is_not() -> None:
    found = rows(cast(teacher_plan=replace(plan(CHUNK, window=FRAMES), guidance=GUIDED["newest"])))
    guided = {subject.role for subject in found if subject.plan.guidance is not None}
    assert guided == {"teacher"}


def test_a_teacher_alone_is_shown_history_as_its_plan_says() -> None:
    chosen = cast(NOISED, student=None, student_sampler=None)
    first, second, again, last = rows(chosen)
    assert {subject.plan.commit for subject in (first, second, again)} == {NOISED} and last.plan.commit == LAST
    assert chosen.deployed(TEACHER_STEPS).commit == "noised"
    assert all(subject.plan.commit != NOISED for subject in rows(cast(NOISED)) if subject.role == "teacher")
    told = rows(cast(teacher_plan=plan(CHUNK, commit=NOISED, window=FRAMES)))
    assert {subject.plan.commit for subject in told if subject.role == "teacher"} == {NOISED, LAST}


def test_a_plan_that_runs_windows_again_has_no_cached_rows() -> None:
    chosen = cast(student=None, student_sampler=None, plan=replace(plan(CHUNK, window=FRAMES), rerun=True))
    assert [(subject.cached, subject.forwards) for subject in rows(chosen)] == [(False, 4), (False, 2)]
    assert chosen.deployed(TEACHER_STEPS).commit is None


def test_the_row_without_cache_runs_all_frames_again_and_makes_the_same_video() -> None:
    made: list[Tensor] = []

    def decode(latents: Latents) -> Pixels:
        made.append(latents)
        return to_pixels(latents)

    chosen = cast(decode=decode)
    cached, _, again, _ = rows(chosen)[: len(TEACHERS)]
    assert isinstance(again.model.network, Rerun) and not isinstance(cached.model.network, Rerun)
    passes = {}
    for subject in (cached, again):
        with passes_of(chosen.teacher) as passes[subject.cached]:
            subject.generate(batches()[0], CONTEXT, 0, CPU)
    # Of three chunks the last is not committed; without a cache a pass has every frame so far.
    assert passes[True] == [CONTEXT] + [CHUNK] * (5 + 5 + 4)
    assert passes[False] == [3] * 4 + [5] * 4 + [7] * 4
    assert made[0][:, CONTEXT:].std() > 0.1
    torch.testing.assert_close(made[0], made[1], atol=1e-4, rtol=0)


def test_every_row_makes_pixels_with_the_decoder_of_the_data() -> None:
    chosen = cast(decode=lambda latents: torch.full_like(latents, 7).to(torch.uint8))
    assert all((subject.generate(batches()[0], CONTEXT, 0, CPU) == 7).all() for subject in rows(chosen))


def test_shuffled_actions_are_the_neighbours_and_nothing_else_changes() -> None:
    before, kept = batches(), batches()
    after = with_shuffled_actions(before)
    actions = [torch.cat([clip.condition.actions for clip in clips]) for clips in (before, after)]
    assert torch.equal(actions[1], actions[0][[4, 0, 1, 2, 3]])
    for clips in (after, before):
        for clip, old in zip(clips, kept, strict=True):
            assert torch.equal(clip.condition.state, old.condition.state)
            assert all(torch.equal(getattr(clip, name), getattr(old, name)) for name in ("video", "x0", "index"))
            assert clip.truth.keys() == old.truth.keys() and torch.equal(clip.truth["place"], old.truth["place"])
            assert clip.texts == old.texts
    assert all(torch.equal(a.condition.actions, b.condition.actions) for a, b in zip(before, kept, strict=True))


@pytest.mark.parametrize("context", [1, 3])
def test_the_copy_holds_the_last_given_frame(context: int) -> None:
    clip = batches()[0]
    copy = baseline_copy(clip, context)
    assert torch.equal(copy[:, :context], clip.video[:, :context])
    places = [context - 1] * (FRAMES - context)
    assert torch.equal(copy[:, context:], clip.video[:, places])


def bench(folder: Path) -> Bench:
    data = ClipDataModule(
        root=None, cache_dir=str(folder), frames=FRAMES, height=SHAPE[1], width=SHAPE[2], batch_size=3,
        train_batches=1, val_clips=2, val_frames=FRAMES, num_workers=0, seed=0, action_shift=1, augment=None,
    )  # fmt: skip
    scale = Scale(torch.zeros(1), torch.eye(1))
    return Bench(tuple(batches()), torch.zeros(1, 1), scale, ClipFeatures.load(), data, CPU, "32-true")


def settings() -> TableSettings:
    return TableSettings(
        clips=5, context=CONTEXT, horizon=FRAMES - CONTEXT, batch_size=3, teacher_steps=TEACHER_STEPS,
        student_steps=STUDENT_STEPS, repeats=1, minimum=2, scale_clips=2, draws=1, seed=0, pictures=4, frame_side=8,
        targets=None,
    )  # fmt: skip


def results(deployed: Use) -> Results:
    return Results(
        rows=(), name="tiny", data="simulated", world="tiny world", config_hash="", revision="", seconds=1, seed=0,
        clips=5, context=CONTEXT, horizon=FRAMES - CONTEXT, chunk=CHUNK, drift_of="PSNR", machine="", deployed=deployed,
    )  # fmt: skip


FEW = ["undistilled, Euler\n1 steps", "undistilled, re-noised\n1 steps", "student\n1 steps"]


# The student is one of a single step, which is neither the first of its rows nor the most steps asked for.
@pytest.mark.parametrize(
    ("chosen", "few", "places"),
    [(cast(CLEAN, steps=1), FEW, [0, 6, 7, 9]), (cast(LAST, steps=1), FEW, [0, 6, 7, 11]), (teacher_alone(), [], [0])],
    ids=["clean", "last", "teacher alone"],
)
def test_pictures_show_truth_teacher_controls_and_student(
    chosen: Cast, few: list[str], places: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Sequence[Film]] = {}
    for name in ("draw_strips", "draw_gif"):
        monkeypatch.setattr(evaluation, name, lambda path, films, **_: drawn.update({path.name: films}))
    measured, subjects = bench(tmp_path), rows(chosen)
    truth = torch.cat([clip.video for clip in measured.clips])[:4]
    scores = Scores(CONTEXT, FRAMES - CONTEXT, measured.features)
    # The video of every row is filled with its place in the table.
    judgements = {
        id(subject): Judgement(scores, {}, torch.full_like(truth, place))
        for place, subject in enumerate(subjects)
        if subject.unjudged is None
    }
    deployed = chosen.deployed(TEACHER_STEPS)
    evaluation._draw(results(deployed), subjects, judgements, measured, settings(), tmp_path)
    assert sorted(drawn) == ["rollouts.gif", "rollouts.png"]
    for films in drawn.values():
        assert [film.label for film in films] == ["truth", "teacher\n4 steps", *few]
        assert torch.equal(films[0].video, truth)
        assert [film.video.unique().tolist() for film in films[1:]] == [[place] for place in places]
