"""What the initialisations teach, against teachers whose ODE is known in closed form."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.modules.making import FRAMES, PATH, SIDE, clip, network
from wm_lightning.clip import Condition
from wm_lightning.modules.initialisation import (
    CausalConsistency,
    CausalODE,
    Lesson,
    Players,
    TeacherInit,
    clean_past,
    draw_places,
    forced_x0,
)
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.masks import chunk_blocks
from wm_lightning.networks.state import State, empty_state
from wm_lightning.noising import RectifiedFlow
from wm_lightning.randomness import generator

FLOW = RectifiedFlow(prediction="x0", loss_sigma_floor=0.05, label_scale=1.0)
MEAN, STD = 0.3, 0.5
TIMES = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])


class Formula(nn.Module):
    """A network whose x0 is a formula of x_t and t."""

    def __init__(self, formula: Any) -> None:
        super().__init__()
        self.formula = formula
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(
        self, x_t: Tensor, label: Tensor, condition: Condition, past: State | None = None, *, mask: Any,
        memory_only: bool = False,
    ) -> tuple[Tensor | None, State]:  # fmt: skip
        state = empty_state(len(x_t)) if past is None else past
        x0 = self.formula(x_t, label[..., None, None, None]) + self.weight
        return (None if memory_only else x0), state.advanced({}, x_t.shape[1])


def posterior_mean(x_t: Tensor, t: Tensor) -> Tensor:
    """E[x0 | x_t] of N(MEAN, STD²) on rectified flow."""
    return MEAN + (1 - t) * STD**2 / ((1 - t) ** 2 * STD**2 + t**2) * (x_t - (1 - t) * MEAN)


def end_of_ode(x_t: Tensor, t: Tensor) -> Tensor:
    """Where the probability-flow ODE of N(MEAN, STD²) leads from x_t."""
    return MEAN + STD * (x_t - (1 - t) * MEAN) / ((1 - t) ** 2 * STD**2 + t**2).sqrt()


def lesson(chunk: int = 3, batch: int = 4, context: int = 1) -> Lesson:
    """Clean clips of N(MEAN, STD²) with a place per block."""
    source = torch.Generator().manual_seed(1)
    x0 = MEAN + STD * torch.randn(batch, FRAMES, 3, SIDE, SIDE, generator=source)
    noise = torch.randn(x0.shape, generator=source)
    place = torch.stack([draw_places(generator(1, "place", i), FRAMES, chunk) for i in range(batch)])
    return Lesson(x0, clip(batch).condition, noise, place, chunk, context)


def players(student: Any, target: Any, teacher: Any) -> Players:
    return Players(*(Denoiser(Formula(formula), FLOW) for formula in (student, target, teacher)))


METHODS = {"ode": CausalODE(1, 240, 1.0), "consistency": CausalConsistency(1, 240, 1.0)}


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_the_map_to_the_end_of_the_ode_is_the_solution(method: str, chunk: int) -> None:
    cast = players(end_of_ode, end_of_ode, posterior_mean)
    loss = METHODS[method].loss(cast, lesson(chunk), TIMES)
    other = players(posterior_mean, end_of_ode, posterior_mean)
    # A whole ODE in steps of 1/240 leaves an error of that order, one step that of its square.
    assert loss < (1e-4 if method == "ode" else 1e-7)
    assert METHODS[method].loss(other, lesson(chunk), TIMES) > 100 * loss


@pytest.mark.parametrize("method", METHODS)
def test_gradient_reaches_the_student_alone_and_vanishes_at_the_solution(method: str) -> None:
    point = 0.7  # data that are one point: its ODE is a straight line, without any error
    here, there = (lambda x, t: torch.full_like(x, point)), (lambda x, t: torch.full_like(x, point + 0.1))
    for student, zero in ((here, True), (there, False)):
        cast = players(student, here, here)
        drawn = lesson()
        fixed = Lesson(torch.full_like(drawn.x0, point), drawn.condition, drawn.noise, drawn.place, 3, 1)
        loss = METHODS[method].loss(cast, fixed, TIMES)
        loss.backward()
        # The mean runs over all frames, and the context's weigh nothing.
        assert float(loss.detach()) == pytest.approx(0 if zero else 0.01 * (FRAMES - 1) / FRAMES, rel=1e-4, abs=1e-9)
        gradient = cast.student.network.weight.grad
        assert gradient is not None and float(gradient.abs()) == pytest.approx(
            0 if zero else 0.2 * 6 / 7, rel=1e-4, abs=1e-6
        )
        assert cast.target.network.weight.grad is None and cast.teacher.network.weight.grad is None


def test_snapshots_are_states_of_the_teachers_ode_at_the_students_times() -> None:
    drawn = lesson(chunk=3)
    teacher = Denoiser(Formula(posterior_mean), FLOW)
    x_t, t, end = CausalODE(1, 400, 1.0).snapshots(teacher, drawn, TIMES)
    blocks = chunk_blocks(FRAMES, 3, first_alone=True)
    for block in blocks.unique():
        assert bool((t[:, blocks == block] == t[:, blocks == block][:, :1]).all())
    assert set(t.unique().tolist()) <= {1.0, 0.75, 0.5, 0.25} and len(t.unique()) > 2
    start = torch.ones_like(t)
    torch.testing.assert_close(end, end_of_ode(drawn.noise, start[..., None, None, None]), atol=0.02, rtol=0)
    torch.testing.assert_close(end_of_ode(x_t, t[..., None, None, None]), end, atol=0.02, rtol=0)
    assert torch.equal(x_t[t == 1], drawn.noise[t == 1])


@pytest.mark.parametrize("chunk", [1, 3])
def test_a_block_sees_clean_blocks_before_it_and_nothing_clean_of_its_own(chunk: int) -> None:
    model = Denoiser(network(seed=4), PATH)
    drawn = lesson(chunk, batch=2)
    x_t, t = drawn.noise, torch.full((2, FRAMES), 0.6)
    blocks = chunk_blocks(FRAMES, chunk, first_alone=True)

    def outputs(x0: Tensor) -> Tensor:
        changed = Lesson(x0, drawn.condition, drawn.noise, drawn.place, chunk, 1)
        with torch.no_grad():
            return forced_x0(model, x_t, t, changed, clean_past(model, changed))

    before = outputs(drawn.x0)
    for frame in (1, 2, 4):
        x0 = drawn.x0.clone()
        x0[:, frame] += 1
        same = (outputs(x0) == before).flatten(2).all(-1)
        assert torch.equal(same, (blocks <= blocks[frame]).expand(2, -1))


@pytest.mark.parametrize("method", METHODS)
def test_context_is_not_learned(method: str) -> None:
    losses = []
    for shown in (0.0, 5.0):
        cast = players(lambda x, t, shown=shown: _with_first(x, shown), end_of_ode, posterior_mean)
        losses.append(METHODS[method].loss(cast, lesson(), TIMES).item())
    assert losses[0] == losses[1]


def _with_first(x: Tensor, value: float) -> Tensor:
    return torch.cat([torch.full_like(x[:, :1], value), torch.zeros_like(x[:, 1:])], dim=1)


class Highest(np.random.Generator):
    """Draws the largest number below 1 of whatever precision is asked for."""

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        return np.full(size, np.nextafter(dtype(1), dtype(0)), dtype)


def test_the_largest_draw_still_names_a_step() -> None:
    place = draw_places(Highest(np.random.Philox(0)), FRAMES, 3)
    for grid in range(1, 200):
        assert int((place * grid).long().max()) == grid - 1


def test_the_teachers_weights_have_no_loss() -> None:
    with pytest.raises(ValueError, match="init=teacher has no iterations"):
        TeacherInit().loss(players(end_of_ode, end_of_ode, end_of_ode), lesson(), TIMES)
