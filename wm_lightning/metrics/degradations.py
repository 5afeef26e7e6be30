"""Known damage to real clips, in four strengths: what a measure must notice if it claims to see it.

Each takes uint8 clips `b f c h w` and a strength in [0, 1], 0 for none, and returns clips of the same shape.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from wm_lightning.randomness import generator, normal

Video = UInt8[Tensor, "b f c h w"]
STRENGTHS = (0.25, 0.5, 0.75, 1.0)


def blur(video: Video, strength: float) -> Video:
    """Mixes every frame with its 5 x 5 box average."""
    soft = F.avg_pool2d(F.pad(video.flatten(0, 1).float(), (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    return torch.lerp(video.float(), soft.unflatten(0, video.shape[:2]), strength).round().to(torch.uint8)


def noise(video: Video, strength: float) -> Video:
    """Adds white noise with a standard deviation of up to 40 grey levels, the same draws at every strength."""
    draws = torch.stack([normal(video.shape[1:], 0, "damage", clip) for clip in range(len(video))])
    return (video + 40 * strength * draws).clamp(0, 255).round().to(torch.uint8)


def freeze(video: Video, strength: float) -> Video:
    """Repeats one frame for the last part of every clip; at 1 the first frame throughout."""
    last = max(0, round((1 - strength) * (video.shape[1] - 1)))
    return video[:, torch.arange(video.shape[1]).clamp_max(last)]


def time_shuffle(video: Video, strength: float) -> Video:
    """Reorders the frames of a share of the clips, each in an order of its own; the first frame stays."""
    out = video.clone()
    for clip in range(round(strength * len(video))):
        order = generator(0, "order", clip).permutation(video.shape[1] - 1) + 1
        out[clip, 1:] = video[clip, torch.from_numpy(order)]
    return out


def action_shuffle(video: Video, strength: float) -> Video:
    """Puts another clip's continuation behind the first frame of a share of the clips: real motion, wrong actions."""
    out, share = video.clone(), round(strength * len(video))
    out[:share, 1:] = video.roll(1, 0)[:share, 1:]
    return out


DEGRADATIONS: dict[str, Callable[[Video, float], Video]] = {
    "blur": blur, "noise": noise, "freeze": freeze, "time_shuffle": time_shuffle, "action_shuffle": action_shuffle,
}  # fmt: skip

# What every measure claims to see: it gets worse with every step of the damage.
PAIRED = ("blur", "noise", "freeze", "time_shuffle", "action_shuffle")
CLAIMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("mse", "psnr", "ssim", "lpips_alex", "lpips_vgg", "dreamsim"), PAIRED),
    **dict.fromkeys(("fid", "kid"), ("blur", "noise")),
    **dict.fromkeys(("fvd", "kd_rand", "fd_rand"), ("blur", "noise", "freeze", "time_shuffle")),
    **dict.fromkeys(("kd_vae", "fd_vae"), ("blur", "noise")),
    **dict.fromkeys(("kd_idm", "fd_idm"), ("freeze", "time_shuffle")),
    **dict.fromkeys(("action_error", "recovery"), ("freeze", "time_shuffle", "action_shuffle")),
}
HIGHER_IS_BETTER = ("psnr", "ssim", "recovery")


def broken_claims(ladder: Mapping[str, Mapping[str, Sequence[float | None]]]) -> list[str]:
    """Which measures claim to see a damage and do not get worse with every step of it, in words.

    `ladder[measure][damage]` holds the value without damage and at every strength; measures without a claim and
    values that are None are passed over.
    """
    broken = []
    for measure, rungs in ladder.items():
        for damage in CLAIMS.get(measure, ()):
            values = [value for value in rungs.get(damage, ()) if value is not None]
            signed = [-value if measure in HIGHER_IS_BETTER else value for value in values]
            if any(after <= before for before, after in pairwise(signed)):
                broken.append(f"{measure} does not see {damage}: {', '.join(f'{value:.4g}' for value in values)}")
    return broken
