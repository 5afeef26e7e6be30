"""World-model self-distillation (WMSD 2606.12072): an executor learns from a demonstrator that was told more.

Both are one network; the demonstrator (teacher) sees the detailed description, the executor (student) the short task.
Levels are those of the flow (t = 1 noise): the paper's time is 1 − t and its velocity minus ours; gaps are the same.
The paper's distribution matching (eqs. 13 to 22) is `dmd_loss`, with the demonstrator's x0 as real and the critic's as
fake. The total reward (eq. 10) is made in `advantages`.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.clip import Latents
from wm_lightning.objectives.denoising import Given, Scalar, frame_mean, precise, sample_error

Gaps = Float[Tensor, "b k f"]  # `frame_error` between student and teacher at every step of a rollout
CostWeighting = Literal["dt", "uniform"]


def distillation_loss(student: Latents, teacher: Latents, given: Given) -> Scalar:
    r"""Mean gap between the velocities of student and teacher at the same states; the teacher gets no gradient.

    .. math:: \ell(x, t) = \mathrm{mean}\,\|u_\theta(x, t|c_E) - \mathrm{sg}[u_{\theta'}(x, t|c_D)]\|^2

    The loss is named by where the states come from: rollouts of the teacher (off-policy, eq. 3), or detached ones of
    the student: the regression term of the on-policy loss (eqs. 5 and 7) and its anchor (eq. 11). With noised films for
    states and noise − x0 for the teacher's velocities it is flow matching (2210.02747). The paper has a norm, here it
    is a mean over the elements of frames that are not given, so that weights do not depend on resolution.
    """
    return sample_error(student, teacher, given).mean()


def step_weights(times: Float[Tensor, "k1 f"], weighting: CostWeighting) -> Float[Tensor, "k f"]:
    """What every step of a schedule, with its end, weighs in a trajectory's cost, per frame.

    "dt": the length of the step, as in the integral of eq. 6, 1 in sum from noise to clean. "uniform": the same for
    every step that moves the frame, 1 in sum. Few-step schedules spend most steps near t = 1, where "dt" is small.
    """
    length = precise(times).diff(dim=0).abs()
    if weighting == "dt":
        return length
    moved = (length > 0).to(length.dtype)
    return moved / moved.sum(0).clamp_min(1)


def step_costs(
    gaps: Gaps, times: Float[Tensor, "k1 f"], given: Given, *, weighting: CostWeighting
) -> Float[Tensor, "b k"]:
    """What every step adds to a trajectory's cost; gradients flow into the gaps."""
    weighted = precise(gaps) * step_weights(times, weighting)
    return torch.stack([frame_mean(step, given) for step in weighted.unbind(1)], dim=1)


def trajectory_cost(
    gaps: Gaps, times: Float[Tensor, "k1 f"], given: Given, *, weighting: CostWeighting
) -> Float[Tensor, "b"]:
    r"""Cost of a rollout (eq. 6), a sum over its steps. `times` has one row more than there are steps.

    .. math:: C_\theta(\tau) = \sum_k |t_k - t_{k+1}|\,\ell_\theta(x_k, t_k)

    The gradient of its mean over student rollouts is (eq. 7) that of −C as a reward, plus that of C on detached states.
    """
    return step_costs(gaps, times, given, weighting=weighting).sum(1)


def distillation_reward(
    gaps: Gaps, times: Float[Tensor, "k1 f"], given: Given, *, weighting: CostWeighting
) -> Float[Tensor, "b"]:
    """Minus a rollout's cost, without gradient (eq. 9): it acts through the likelihood alone."""
    return -trajectory_cost(gaps.detach(), times, given, weighting=weighting)


def step_rewards(
    gaps: Gaps, times: Float[Tensor, "k1 f"], given: Given, *, weighting: CostWeighting
) -> Float[Tensor, "b k"]:
    """What every step adds to the distillation reward."""
    return -step_costs(gaps.detach(), times, given, weighting=weighting)


def reward_to_go(rewards: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    r"""What is credited to every step instead of the whole: the rewards of the steps behind it, 0 for the last.

    .. math:: R_k = \sum_{j > k} r_j

    A step's reward is of the state that it begins at, which nothing that is drawn in it can change: neither it nor
    those before tell whether the draw was good, and E[r_j ∇log p(x_{k+1} | x_k)] = 0 for j ≤ k. So the gradient is that
    of the whole reward, in expectation, and varies less.
    """
    return torch.nn.functional.pad(rewards.flip(1).cumsum(1).flip(1)[:, 1:], (0, 1))
