"""Published noise schedules as tables of cumulative alphas, float64."""

import numpy as np
from jaxtyping import Float


def sigmoid_alphas_cumprod(steps: int, *, start: float, end: float, tau: float) -> Float[np.ndarray, "steps"]:
    """Cumulative alphas of the sigmoid schedule (Jabri et al. 2212.11972), betas clipped to [0, 0.999], float64."""
    grid = np.linspace(0.0, 1.0, steps + 1)

    def sigmoid(x: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
        return 1.0 / (1.0 + np.exp(-x))

    cumulative = sigmoid(np.array([end / tau])) - sigmoid((grid * (end - start) + start) / tau)
    cumulative = cumulative / cumulative[0]
    betas = np.clip(1 - cumulative[1:] / cumulative[:-1], 0.0, 0.999)
    return np.cumprod(1 - betas)


def cosine_alphas_cumprod(steps: int, *, offset: float) -> Float[np.ndarray, "steps"]:
    """Cumulative alphas of the cosine schedule (Nichol & Dhariwal 2102.09672, eq. 17), betas clipped to 0.999."""
    angle = (np.linspace(0.0, 1.0, steps + 1) + offset) / (1 + offset) * np.pi / 2
    cumulative = np.cos(angle) ** 2
    betas = np.clip(1 - cumulative[1:] / cumulative[:-1], 0.0, 0.999)
    return np.cumprod(1 - betas)


def scaled_linear_alphas_cumprod(
    steps: int, *, start: float, end: float, zero_terminal_snr: bool
) -> Float[np.ndarray, "steps"]:
    """Cumulative alphas of betas linspace(√start, √end)² (latent diffusion 2112.10752), float64.

    With `zero_terminal_snr` their roots r become (r − r_T) r_0 / (r_0 − r_T): the last is 0, the first stays
    (Lin et al. 2305.08891, alg. 1).
    """
    root = np.sqrt(np.cumprod(1 - np.linspace(start**0.5, end**0.5, steps) ** 2))
    if zero_terminal_snr:
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    return root**2
