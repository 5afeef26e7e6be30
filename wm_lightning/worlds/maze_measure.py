"""What is seen in a picture of the maze, by pixels alone: how far the view turned, what is held, and the bot."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wm_lightning.clip import Clip, Pixels
from wm_lightning.worlds.maze_render import WEAPON_BOX, WEAPONS, box
from wm_lightning.worlds.world import Measures

# The rows between which walls stand whatever the pitch, above the display.
BAND = (0.30, 0.62)
BOT_PIXELS = 0.002  # share of the picture that must be the bot's


def measure(video: Pixels, clip: Clip, context: int) -> Measures:
    """See `MazeWorld.measure`."""
    if video.shape != clip.video.shape:
        raise ValueError(f"{tuple(video.shape)=} differs from {tuple(clip.video.shape)=}; judge the clip's own frames")
    if not 1 <= context < video.shape[1]:
        raise ValueError(f"{context=} must be at least 1 and below the clip's {video.shape[1]} frames")
    action_error = (turned(video) - turned(clip.video)).abs()
    objects = (weapon(video) != weapon(clip.video)).float()
    presence = bot_seen(video).float()
    for values in (action_error, objects, presence):
        values[:, :context] = torch.nan
    return Measures(action_error, objects, presence, {})


def turned(video: Pixels) -> Float[Tensor, "b f"]:
    """Sideways shift of the view since the frame before, in picture widths; 0 for the first (phase correlation)."""
    height, width = video.shape[-2:]
    band = video[..., int(BAND[0] * height) : int(BAND[1] * height), :].float().mean(2)
    band = (band - band.mean((-2, -1), keepdim=True)) * torch.hann_window(width, device=video.device)
    spectrum = torch.fft.rfft(band, dim=-1)
    cross = spectrum[:, :-1] * spectrum[:, 1:].conj()
    # Rows vote together: one phase difference per frequency.
    cross = cross.sum(-2)
    peaks = torch.fft.irfft(cross / cross.abs().clamp_min(1e-6), n=width, dim=-1)
    place = peaks.argmax(-1)
    shift = torch.where(place > width // 2, place - width, place).float() / width
    return torch.cat([torch.zeros_like(shift[:, :1]), shift], dim=1)


def sideways(video: Pixels) -> Float[Tensor, "b f 2"]:
    """`turned` as a motion (x, 0)."""
    return torch.nn.functional.pad(turned(video)[..., None], (0, 1))


def weapon(video: Pixels) -> Int[Tensor, "b f"]:
    """The weapon whose colour the display shows best."""
    rows, columns = box(WEAPON_BOX, *video.shape[-2:])
    shown = video[..., rows, columns].float().mean((-2, -1))
    colours = torch.from_numpy(WEAPONS).to(shown)
    return (shown[:, :, None] - colours).square().sum(-1).argmin(-1)


def bot_seen(video: Pixels) -> Bool[Tensor, "b f"]:
    """Whether there is the bot: enough pixels that are red and blue and not green."""
    red, green, blue = video.float().unbind(2)
    own = torch.minimum(red, blue) - green > 45
    return own.float().mean((-2, -1)) > BOT_PIXELS
