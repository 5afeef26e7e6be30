"""One student and one critic step of a distillation: who receives which gradient."""

import functools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from tests.modules.making import (
    PATH,
    adamw,
    clip,
    dmd,
    fit,
    flat,
    grads,
    learned,
    network,
    score,
    self_rollout,
    sgd,
    teacher_file,
)
from wm_lightning.modules.dmd import DMDModule
from wm_lightning.modules.initialisation import CausalConsistency, CausalODE
from wm_lightning.modules.self_forcing import SelfRollout
from wm_lightning.networks.masks import FrameMask
from wm_lightning.randomness import generator

NETWORKS = ("student", "critic")
STEPS, CHUNKS, DRAWS = 4, 3, 3000


@pytest.fixture(autouse=True)
def no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses log; without a Trainer there is nowhere to."""
    monkeypatch.setattr(DMDModule, "log", lambda *args, **kwargs: None)


@pytest.mark.parametrize("variant", ["dmd", "sid"])
def test_a_student_step_gives_gradient_to_the_student_alone(variant: Any) -> None:
    module = dmd(variant=variant)
    with module.critic_frozen():
        module.student_loss(clip()).backward()
    assert learned(module.student)
    for other in (module.teacher, module.critic, module.average):
        assert all(gradient is None for gradient in grads(other).values())
    assert all(parameter.requires_grad for parameter in module.critic.parameters())


@pytest.mark.parametrize("variant", ["dmd", "sid"])
def test_gradient_checkpointing_changes_no_gradient_of_the_student(variant: Any, tmp_path: Path) -> None:
    weights = {}
    for checkpointing in (False, True):
        make = functools.partial(network, gradient_checkpointing=checkpointing)
        module = dmd(variant=variant, network=make, iterations=3, critic_warmup=0)
        fit(module, tmp_path / str(checkpointing))
        weights[checkpointing] = module.student.state_dict()
    for name, value in weights[False].items():
        torch.testing.assert_close(weights[True][name], value, atol=1e-6, rtol=1e-5)


def test_a_critic_step_gives_gradient_to_the_critic_alone() -> None:
    module = dmd()
    window = module.generate(clip(), "critic rollout", learn=False)
    module.critic_loss(window).backward()
    assert learned(module.critic)
    for other in (module.teacher, module.student, module.average):
        assert all(gradient is None for gradient in grads(other).values())


def by_chain_rule(module: DMDModule, kept: list[int]) -> dict[str, Tensor]:
    """The student's gradient as (fake − real) / mean |x − real| / numel on the kept frames, through the rollout."""
    batch = clip()
    x = module.generate(batch, "student rollout", learn=True).x
    window = module.generate(batch, "student rollout", learn=False)
    t = module.scored_levels(window, "student level")
    with torch.no_grad():
        x_t = PATH.add_noise(x, module.noise_like(x, "student score", batch.index), t)
        mask = FrameMask(None)
        real = module.teacher(x_t, PATH.label(t), batch.condition, None, mask=mask)[0]
        fake = module.critic(x_t, PATH.label(t), batch.condition, None, mask=mask)[0]
        scale = (x[:, kept] - real[:, kept]).abs().mean((1, 2, 3, 4), keepdim=True)
        direction = torch.zeros_like(x)
        direction[:, kept] = (fake - real)[:, kept] / scale / x[:, kept].numel()
    names, weights = zip(*module.student.named_parameters(), strict=True)
    found = torch.autograd.grad(x, weights, direction, allow_unused=True)
    return {name: torch.zeros_like(w) if g is None else g for name, w, g in zip(names, weights, found, strict=True)}


@pytest.mark.parametrize(
    ("grad_frames", "kept"), [(None, range(1, 7)), (3, range(4, 7)), (2, range(5, 7)), (1, [6]), (10, range(1, 7))]
)
def test_gradient_is_the_direction_of_the_scores_on_the_frames_that_may_learn(grad_frames: Any, kept: Any) -> None:
    module = dmd(rollout=self_rollout(grad_frames=grad_frames))
    module.student_loss(clip()).backward()
    expected = by_chain_rule(module, list(kept))
    for name, parameter in module.student.named_parameters():
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, expected[name], atol=2e-7, rtol=1e-4, msg=name)
    assert float(flat(list(expected.values())).abs().max()) > 1e-3


def test_the_scored_window_is_the_end_of_the_rollout_behind_its_clean_context() -> None:
    module = dmd(rollout=self_rollout(scored=3))
    batch = clip()
    window = module.generate(batch, "student rollout", learn=True)
    assert window.x.shape[1] == 4
    assert torch.equal(window.condition.actions, batch.condition.actions[:, 3:])
    whole = dmd().generate(batch, "student rollout", learn=False).x
    assert torch.equal(window.x, whole[:, 3:])
    assert module.self_rollout.counted(window.x.shape[1], module.score.context).tolist() == [False, True, True, True]
    t = module.scored_levels(window, "student level")
    assert not t[:, 0].any() and bool((t[:, 1:] == t[:, 1:2]).all()) and len(t[:, 1].unique()) == 2
    # The context is generated too, but a score takes it as given: SiD's gradient must not flow on through it.
    gradients = []
    for context in (0, 1):
        module = dmd(
            variant="sid", rollout=self_rollout(scored=3), score=score(context=context), teacher=teacher_file(context=0)
        )
        made = module.generate(batch, "student rollout", learn=True)
        module.generate = lambda *a, made=made, **k: made  # type: ignore[method-assign]
        made.x.retain_grad()
        module.student_loss(batch).backward()
        assert made.x.grad is not None
        gradients.append(made.x.grad.flatten(2).abs().sum(-1) > 0)
    assert bool(gradients[0].all())
    assert gradients[1].tolist() == [[False, True, True, True]] * 2


def test_the_critic_learns_on_scored_frames_only() -> None:
    module = dmd()
    window = module.generate(clip(), "critic rollout", learn=False)
    before = module.critic_loss(window)
    t = module.scored_levels(window, "critic level")
    noise = module.noise_like(window.x, "critic noise", window.index)
    x_t = PATH.add_noise(window.x, noise, t)
    prediction = module.critic(x_t, PATH.label(t), window.condition, None, mask=FrameMask(None))[0]
    errors = (prediction - window.x).square().mean((2, 3, 4)) / t.clamp_min(0.05) ** 2
    torch.testing.assert_close(before, errors[:, 1:].sum() / errors.numel())


@pytest.mark.parametrize("init", [CausalODE(1, 4, 2.0), CausalConsistency(1, 8, 2.0)], ids=["ode", "consistency"])
def test_an_initialisation_gives_gradient_to_the_student_alone(init: Any) -> None:
    module = dmd(init=init)
    module.lesson_loss(init, clip()).backward()
    assert learned(module.student)
    for other in (module.teacher, module.critic, module.average):
        assert all(gradient is None for gradient in grads(other).values())


def test_regression_adds_its_weighted_loss() -> None:
    plain, with_it = (dmd(regression=r, regression_weight=0.25) for r in (None, CausalConsistency(0, 8, 2.0)))
    lesson = with_it.lesson_loss(CausalConsistency(0, 8, 2.0), clip())
    torch.testing.assert_close(with_it.student_loss(clip()), plain.student_loss(clip()) + 0.25 * lesson)


@pytest.mark.parametrize("what", ["student", "lesson"])
def test_autocast_loses_no_gradient_after_passes_without_one(what: str) -> None:
    """Some releases of torch cache a weight's bfloat16 copy under no_grad and use it, cut off, where gradients flow."""
    module = dmd()
    find = {
        "student": lambda: module.student_loss(clip()),
        "lesson": lambda: module.lesson_loss(CausalConsistency(0, 8, 2.0), clip()),
    }[what]
    find().backward()
    full = {name: g.clone() for name, g in grads(module.student).items() if g is not None and g.any()}
    module.student.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = find()
    loss.backward()
    for name, parameter in module.student.named_parameters():
        assert (name in full) == (parameter.grad is not None and bool(parameter.grad.any())), name
    rounded = [parameter.grad for name, parameter in module.student.named_parameters() if name in full]
    assert float(nn.functional.cosine_similarity(flat(rounded), flat(list(full.values())), dim=0)) > 0.95


def exits_of(kind: Any) -> np.ndarray:
    rollout = SelfRollout(lengths=(7,), scored=6, grad_frames=None, exits=kind)
    return np.array([rollout.draw_exits(generator(1, "plan", i), CHUNKS, STEPS) for i in range(DRAWS)])


def chi_square(values: np.ndarray) -> float:
    counts = np.bincount(values, minlength=STEPS)
    return float(((counts - len(values) / STEPS) ** 2).sum() / (len(values) / STEPS))


def test_exit_steps_are_uniform_and_shared_or_independent() -> None:
    quantile = 16.27  # 99.9 % of chi square with three degrees of freedom
    shared = exits_of("shared")
    assert (shared == shared[:, :1]).all() and chi_square(shared[:, 0]) < quantile
    apart = exits_of("per_chunk")
    assert all(chi_square(apart[:, chunk]) < quantile for chunk in range(CHUNKS))
    pairs = Counter(map(tuple, apart[:, :2].tolist()))
    expected = DRAWS / STEPS**2
    assert sum((pairs[i, j] - expected) ** 2 / expected for i in range(STEPS) for j in range(STEPS)) < 37.70
    assert (exits_of("last") == STEPS - 1).all()


def plans(module: DMDModule, monkeypatch: pytest.MonkeyPatch, seed: int) -> list[tuple[int, list[int]]]:
    """(length, exits) of the critic's rollouts in 12 iterations, for clips of one seed."""
    seen = []

    def recorded(*args: Any, exits: list[int], **kwargs: Any) -> Tensor:
        seen.append((args[3].actions.shape[1], list(exits)))
        return torch.zeros(2, args[3].actions.shape[1], 3, 8, 8)

    monkeypatch.setattr("wm_lightning.modules.self_forced.rollout", recorded)
    for iteration in range(12):
        module.iteration.fill_(iteration)
        module.generate(clip(seed=seed), "critic rollout", learn=False)
    return seen


def test_plans_depend_on_the_iteration_and_not_on_the_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = self_rollout(lengths=(4, 7), scored=3, exits="per_chunk")
    first = plans(dmd(rollout=lengths), monkeypatch, seed=0)
    assert first == plans(dmd(rollout=lengths), monkeypatch, seed=5)
    assert {length for length, _ in first} == {4, 7}
    assert len({tuple(exits) for _, exits in first}) > 3


class Blow(Callback):
    """Makes one gradient of the critic infinite in iteration 2; notes the critic before and after every iteration."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.critics: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.critics.append(flat([p.detach().clone() for p in pl_module.critic.parameters()]))
        if pl_module.iterations == 2:
            weight = next(pl_module.critic.parameters())
            self.hook = weight.register_hook(lambda g: torch.full_like(g, self.value))
        if pl_module.iterations == 3:
            self.hook.remove()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_whose_gradient_is_not_finite_is_skipped_and_counted(tmp_path: Any, value: float) -> None:
    module, blow = dmd(iterations=5, critic_optimizer=adamw(0.01)), Blow(value)
    fit(module, tmp_path / "run", blow)
    changed = [not torch.equal(a, b) for a, b in zip(blow.critics, blow.critics[1:], strict=False)]
    assert changed == [True, True, False, True]
    assert int(module.skipped) == 1
    assert all(bool(p.isfinite().all()) for p in module.parameters())


def test_gradients_are_clipped_per_network(tmp_path: Any) -> None:
    module = dmd(iterations=1, critic_warmup=0, clip_norm=1e-3, student_optimizer=sgd(1.0), critic_optimizer=sgd(1.0))
    before = {name: flat([p.detach().clone() for p in getattr(module, name).parameters()]) for name in NETWORKS}
    fit(module, tmp_path / "run")
    for name in NETWORKS:
        moved = flat([p.detach() for p in getattr(module, name).parameters()]) - before[name]
        assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-2)
