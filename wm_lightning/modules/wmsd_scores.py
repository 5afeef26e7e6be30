"""Distribution matching for an executor (eqs. 13 to 22 of 2606.12072): two scores of its videos, one learned."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from wm_lightning.clip import Condition, Latents, Levels
from wm_lightning.modules.wmsd_rollouts import Context, velocities_at
from wm_lightning.networks.denoiser import Denoiser
from wm_lightning.networks.masks import FrameMask
from wm_lightning.noising import per_pixel


@dataclass(frozen=True)
class Scores:
    """Who scores an executor's videos: the demonstrator, `told` the solution, and the critic, told the instruction.

    The critic (DMD's fake score) has learned the executor's videos alone. `levels` numbers the sampler's steps whose
    noise the videos get before they are scored, one for each draw.
    """

    demonstrator: Denoiser
    critic: Denoiser
    told: Condition
    levels: Int[Tensor, "draws"]

    @torch.no_grad()
    def x0(
        self,
        context: Context,
        x: Latents,
        noise: Latents,
        t: Levels,
        asked: Condition,
        told: Condition,
        mask: FrameMask,
    ) -> tuple[Latents, Latents]:
        """What demonstrator and critic take for the clean frames of videos noised to t, without gradient."""
        x_t = self.critic.path.add_noise(x.detach(), noise, t)
        return (
            x_t - per_pixel(t) * velocities_at(self.demonstrator, context, x_t, t, told, mask),
            x_t - per_pixel(t) * velocities_at(self.critic, context, x_t, t, asked, mask),
        )
