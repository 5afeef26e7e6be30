"""WMSD's iteration: what moves whom, what is asked how often, and a continued run that is the same run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from tests.modules.making import flat
from tests.modules.making_wmsd import algorithm, learn, tasks, wmsd
from tests.modules.test_counts_and_resume import Save, assert_same, everything
from wm_lightning.clip import Clip
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.modules.wmsd_advantages import distilled, judged
from wm_lightning.modules.wmsd_rollouts import Rollouts, said_by, velocities_at
from wm_lightning.modules.wmsd_surrogates import AWM, GRPO, NFT, Others
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.rewards.bus import Scores
from wm_lightning.sampling.samplers import StepList
from wm_lightning.sampling.sde import CPSSampler

VARIANTS: dict[str, dict[str, Any]] = {
    "wmsd": {},
    "rl_only": {"distill": 0.0, "anchor": 0.0},
    "on_policy": {"judged": False},
    "on_policy_anchor": {"rl": False},
    "off_policy": {"rl": False, "states": "demonstrator"},
    "per_step": {"distill_reward": "per_step"},
    "ema": {"demonstrator": "ema"},
    "shared": {"demonstrator": "shared"},
    "alternating": {"demonstrator": "rewarded", "turns": (1, 2)},
    "demonstrator_rl": {"demonstrator": "rewarded", "states": "demonstrator", "distill": 0.0},
    "held": {"demonstrator": "rewarded", "turns": (1, 2), "hold": 0.1},
}
SURROGATES: dict[str, dict[str, Any]] = {
    "awm": {"surrogate": AWM(draws=2, weighting="t", p=1.0, aggregation="sum_first", clip=0.2, trust=0.1)},
    "nft": {"surrogate": NFT(draws=2, beta=1.0, clip=5.0)},
    "grpo": {
        # Wide: the steps below are several of one rollout, which a narrow range would stop at once.
        "surrogate": GRPO(draws=2, clip=10.0, aggregation="exp_first"),
        "sampler": CPSSampler(StepList(kind="matched", steps=4, shift=2.0), eta=0.7),
    },
}

REWARDED = ("alternating", "demonstrator_rl", "held")


class Watch(Callback):
    """What was logged last, and which networks an iteration changed."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.logged.append({k: float(v) for k, v in trainer.callback_metrics.items()})


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    data = tasks(tmp_path_factory.mktemp("cache"))
    data.prepare_data()
    return next(data.clips("train", 2, 1, 2))


def rollouts(module: WMSDModule, clip: Clip, cache: Path) -> tuple[Rollouts, Any, Any]:
    """One iteration's rollouts with both conditions, without a training."""
    data = tasks(cache)
    data.prepare_data()
    module.trainer = type("Trainer", (), {"datamodule": data})()  # type: ignore[assignment]
    asked, told = module.conditions(clip)
    return module.rollouts(clip, asked, module.network), asked, told


@pytest.mark.parametrize("name", VARIANTS)
def test_every_algorithm_moves_whom_it_shall(tmp_path: Path, name: str) -> None:
    module, watch = wmsd(algorithm=algorithm(**VARIANTS[name])), Watch()
    before = {part: flat([p.detach().clone() for p in getattr(module, part).parameters()]) for part in PARTS}
    learn(module, tmp_path / "run", watch)
    after = {part: flat([p.detach() for p in getattr(module, part).parameters()]) for part in PARTS}
    assert not torch.equal(before["network"], after["network"]) and not torch.equal(before["average"], after["average"])
    assert torch.equal(before["demonstrator"], after["demonstrator"]) == (name not in REWARDED)
    assert module.iterations == 4 and not int(module.skipped)
    first = watch.logged[0]
    assert ("train/task" in first) == (name not in ("on_policy", "on_policy_anchor", "off_policy", *REWARDED))
    assert ("train/demonstrator_task" in first) == (name in REWARDED)
    assert ("train/gap" in first) == (name not in ("rl_only", "alternating", "held"))
    assert ("train/demonstrator_gap" in first) == (name == "held")
    assert ("train/ratio" in first) == (name not in ("on_policy_anchor", "off_policy", *REWARDED))
    assert ("train/demonstrator_ratio" in first) == (name in REWARDED)


PARTS = ("network", "average", "demonstrator")


@pytest.mark.parametrize("distill_reward", ["trajectory", "per_step"])
def test_what_a_rollout_is_worth_hangs_on_no_ranks(clip: Clip, tmp_path: Path, distill_reward: str) -> None:
    """Two ranks of one task each, whose rows are gathered, give the advantages of one rank with both tasks."""
    module = wmsd(algorithm=algorithm(distill_reward=distill_reward))
    made, _, told = rollouts(module, clip, tmp_path)
    taught = module.taught(made, told)
    assert module.judges is None and clip.texts is not None
    bus = module.make_judges(module.trainer.datamodule)  # type: ignore[attr-defined]
    scores = bus(module.trainer.datamodule.decode(made.video), clip.texts[made.task])  # type: ignore[attr-defined]
    settings = module.algorithm, module.advantage
    whole = judged(made, scores, taught, *settings, lambda rows: rows, 0)
    halves = [slice(0, 3), slice(3, 6)]
    tables: list[list[Tensor]] = [[], []]
    for rank, rows in enumerate(halves):  # what each rank hands in
        part = replace(made[rows], task=made.task[rows] * 0)
        _judged_on(part, scores, rows, taught[rows], settings, lambda x, rank=rank: tables[rank].append(x) or x, rank)
    for rank, rows in enumerate(halves):
        part, order = replace(made[rows], task=made.task[rows] * 0), iter(zip(*tables, strict=True))
        found = _judged_on(
            part, scores, rows, taught[rows], settings, lambda x, order=order: torch.cat(next(order)), rank
        )
        torch.testing.assert_close(found, whole.values[rows])
    bus.close()


def _judged_on(
    made: Rollouts, scores: Scores, rows: slice, taught: Tensor, settings: Any, gather: Any, rank: int
) -> Tensor:
    """The advantages of one rank's rows."""
    own = Scores(scores.names, scores.weights, scores.value[rows], scores.valid[rows], {})
    return judged(made, own, taught, *settings, gather, rank).values


def test_what_was_said_on_the_way_is_what_a_pass_over_the_whole_clip_says(clip: Clip, tmp_path: Path) -> None:
    module = wmsd()
    made, asked, _ = rollouts(module, clip, tmp_path)
    again = said_by(module.denoiser(module.network.eval()), made, asked, module.plan.mask, batch=4)
    torch.testing.assert_close(again, made.velocities, atol=1e-4, rtol=1e-4)


def test_the_demonstrator_is_told_more_and_agrees_with_itself(clip: Clip, tmp_path: Path) -> None:
    module = wmsd()
    made, asked, told = rollouts(module, clip, tmp_path)
    taught = module.taught(made, told)
    assert float((taught - made.velocities).abs().max()) > 1e-3, "instruction and solution say the same to it"
    assert float((module.taught(made, asked) - made.velocities).abs().max()) < 1e-3
    whole, credited = distilled(made, taught, module.algorithm)
    assert float(whole.max()) < 0 and torch.equal(credited, whole[:, None])
    steps = distilled(made, taught, algorithm(distill_reward="per_step"))
    assert torch.equal(steps[0], whole) and steps[1].shape == (6, 3) and not steps[1][:, -1].any()
    torch.testing.assert_close(distilled(made, made.velocities, module.algorithm)[0], torch.zeros(6))


def test_copies_differ_and_hang_on_run_iteration_task_and_copy(clip: Clip, tmp_path: Path) -> None:
    module = wmsd()
    made, _, _ = rollouts(module, clip, tmp_path)
    assert len({tuple(row.flatten().tolist()) for row in made.made}) == 6
    alone, _, _ = rollouts(module, clip[1:], tmp_path)
    torch.testing.assert_close(alone.made, made.made[3:], atol=1e-5, rtol=1e-5)
    module.iteration += 1
    assert not torch.equal(rollouts(module, clip, tmp_path)[0].made, made.made)


def test_given_frames_stay_as_they_are(clip: Clip, tmp_path: Path) -> None:
    made, _, _ = rollouts(wmsd(), clip, tmp_path)
    assert torch.equal(made.video[:, 0], clip.x0[made.task][:, 0])
    assert made.states.shape[2] == made.made.shape[1] == 4


CONTINUED: dict[str, tuple[int, dict[str, Any]]] = {
    "wmsd": (1, {}),
    **{
        name: (stop, {"algorithm": algorithm(**VARIANTS[name])})
        for name, stop in (("per_step", 3), ("alternating", 2), ("ema", 2))
    },
    **{name: (2, SURROGATES[name]) for name in SURROGATES},
}


@pytest.mark.parametrize("name", CONTINUED)
def test_a_continued_run_is_the_same_run(tmp_path: Path, name: str) -> None:
    """Among them an advantage-weighted matching that is held to the average, and random steps."""
    (stop, changes), path = CONTINUED[name], tmp_path / "saved.ckpt"
    whole, resumed = wmsd(**changes), wmsd(**changes)
    before = everything(whole, learn(whole, tmp_path / "whole", Save(stop, path)))
    after = everything(resumed, learn(resumed, tmp_path / "resumed", resume=path))
    assert_same(before, after)


def test_micro_batches_are_the_batch(tmp_path: Path) -> None:
    found: list[Tensor] = []
    for size in (6, 2):
        module = wmsd(micro_batch=size, iterations=1)
        learn(module, tmp_path / str(size))
        found.append(flat([p.detach() for p in module.network.parameters()]))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


def test_velocities_are_those_of_the_flow(clip: Clip, tmp_path: Path) -> None:
    """x_t − t u is the x0 of the same pass."""
    module = wmsd()
    made, asked, _ = rollouts(module, clip, tmp_path)
    model, step = Denoiser(module.network.eval(), module.path), 1
    t = made.times[step].expand(len(made), -1)
    with torch.no_grad():
        said = velocities_at(model, made.context, made.states[:, step], t, asked, module.plan.mask)
        whole = torch.cat([made.context, made.states[:, step]], dim=1)
        x0, _ = model.x0(whole, torch.cat([t.new_zeros(len(t), 1), t], 1), asked, None, module.plan.mask)
    torch.testing.assert_close(made.states[:, step] - t[..., None, None, None] * said, x0[:, 1:], atol=1e-5, rtol=1e-5)


def test_a_rollout_as_good_as_the_others_costs_no_pass(clip: Clip, tmp_path: Path) -> None:
    module = wmsd(algorithm=algorithm(distill=0.0, anchor=0.0))
    made, asked, _ = rollouts(module, clip, tmp_path)
    calls: list[int] = []
    module.network.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    from wm_lightning.modules.wmsd_losses import Lesson  # noqa: PLC0415

    advantage = torch.tensor([0.0, 0.0, 0.0, 1.0, -1.0, 0.0])
    noises = lambda rows, draw: torch.randn(made[rows].made.shape)  # noqa: E731
    average = module.denoiser(module.average.network)
    lesson = Lesson(made, asked, None, advantage, 0.0, module.plan.mask, noises, module.sampler, Others(average))
    first, second = lesson.losses(module.denoiser(module.network), module.surrogate, module.picked(made), 3)
    assert float(first()) == 0 and not calls
    second().backward()
    assert calls == [2 * 2], "two draws of the two that moved"


@pytest.mark.parametrize("name", SURROGATES)
def test_every_surrogate_raises_the_likelihood_of_the_better_rollout(name: str, clip: Clip, tmp_path: Path) -> None:
    """Steps along its gradient bring the executor's velocities nearer to a good rollout than to a bad one."""
    module = wmsd(**SURROGATES[name], algorithm=algorithm(distill=0.0, anchor=0.0))
    made, asked, _ = rollouts(module, clip, tmp_path)
    advantage = torch.tensor([1.0, 0.0, -1.0, 1.0, 0.0, -1.0])
    optimizer = torch.optim.Adam(module.network.parameters(), lr=1e-3)

    def likelihoods() -> Tensor:
        """Minus the error of the executor's velocities on every rollout noised to all levels."""
        noise = torch.randn(made.states.shape, generator=torch.Generator().manual_seed(0))
        t = made.times[:-1][None].expand(len(made), -1, -1)
        ends = made.made[:, None].expand_as(noise)
        x_t = module.path.add_noise(*(value.flatten(0, 1) for value in (ends, noise, t)))
        noised = replace(made, states=x_t.unflatten(0, t.shape[:2]))
        said = said_by(module.denoiser(module.network), noised, asked, module.plan.mask, batch=6)
        return -(said - (noise - ends)).square().mean((1, 2, 3, 4, 5))

    before, ratios = likelihoods(), []
    for _ in range(8):
        lesson = module.lesson(clip, made, asked, None, advantage)
        losses = lesson.losses(module.denoiser(module.network), module.surrogate, module.picked(made), 6)
        optimizer.zero_grad()
        torch.stack([loss() for loss in losses]).sum().backward()
        optimizer.step()
        ratios.append(float(lesson.logged["ratio"]))

    def ratio(rows: Tensor) -> float:
        """How much likelier the policy's own density finds these rollouts than when they were made."""
        lesson = module.lesson(clip, made, asked, None, rows.float())
        for loss in lesson.losses(module.denoiser(module.network), module.surrogate, module.picked(made), 6):
            loss()
        return float(lesson.logged["ratio"])

    gained = likelihoods() - before
    # The steps of a sampler that draws are no matching of velocities: they have a density of their own.
    better = ratio(advantage > 0) - ratio(advantage < 0) if name == "grpo" else (gained * advantage).sum()
    assert float(better) > 0
    assert ratios[0] == pytest.approx(1.0, abs=1e-4), "training sees other passes than the rollout did"
    assert (abs(ratios[-1] - 1) > 1e-4) == (name == "grpo"), "the others take their own pass for the old policy's"


def test_a_density_needs_a_sampler_that_draws() -> None:
    with pytest.raises(ValueError, match="surrogate=grpo learns from the density of random steps"):
        wmsd(surrogate=SURROGATES["grpo"]["surrogate"])
    with pytest.raises(ValueError, match=r"surrogate.draws=3 of the 2 steps .* raise sampler.steps.steps"):
        wmsd(
            surrogate=GRPO(draws=3, clip=1e-4, aggregation="exp_first"),
            sampler=SURROGATES["grpo"]["sampler"].with_steps(3),
        )


def test_one_ratio_has_one_advantage() -> None:
    with pytest.raises(ValueError, match="set surrogate.aggregation=exp_first"):
        wmsd(algorithm=algorithm(distill_reward="per_step"), surrogate=SURROGATES["awm"]["surrogate"])


def test_transitions_are_learned_at_steps_that_drew(clip: Clip, tmp_path: Path) -> None:
    module = wmsd(**SURROGATES["grpo"])
    made, _, _ = rollouts(module, clip, tmp_path)
    picked = {step for number in range(40) for step in _picked(module, made, number)}
    assert picked == {0, 1, 2}, "the last step is the ODE's"


def _picked(module: WMSDModule, made: Rollouts, iteration: int) -> list[int]:
    module.iteration.fill_(iteration)
    return module.picked(made).policy.tolist()
