"""How far a view turned from frame to frame, by its pixels: the rotation that explains a frame best.

A camera that turns by t shows at the angle a what was at a + t before. A step aside, or ahead past a near wall, moves
the picture as a turn does, and cannot be told from one without knowing how far things are: whoever asks must leave such
frames out.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wm_lightning.clip import Pixels

ROWS, COLUMNS = 6, 64  # of the reduced picture
HORIZON = (0.30, 0.62)  # the rows between which upright things stand whatever the pitch, above a display
TURNS = 41  # tried
CLEAR, LEAST = 1.05, 0.25  # any other turn must cost as many times as much, and as many grey levels more


def turned(
    video: Pixels, *, field: float, most: float, band: tuple[float, float], nod: float = 0.0
) -> Float[Tensor, "b f"]:
    """Radians to the right since the frame before, within `most`; NaN for the first frame and where pixels do not tell.

    They do not tell where another turn, a tenth of `most` away or more, explains the frame nearly as well: before a
    wall without texture, or whose bricks repeat.
    `field` is the horizontal field of view in radians, `band` the rows that are compared, as shares of the height, and
    `nod` how many rows (as a share, too) the picture may have moved up or down since the frame before.
    """
    small = _reduced(video, band)
    height, width = video.shape[-2], small.shape[-1]
    nods = range(-round(nod * height), round(nod * height) + 1)
    earlier = [_reduced(video[:, :-1], (band[0] + rows / height, band[1] + rows / height)) for rows in nods]
    focus = 0.5 * width / math.tan(0.5 * field)
    angle = torch.atan((torch.arange(width, device=video.device) - 0.5 * (width - 1)) / focus)
    turns = torch.linspace(-most, most, TURNS, device=video.device)
    costs = [torch.stack([_cost(one, small[:, 1:], angle + turn, focus) for turn in turns], -1) for one in earlier]
    cost = torch.stack(costs).amin(0)
    found = torch.where(_clear(cost), _lowest(cost, turns), torch.nan)
    return torch.cat([torch.full_like(found[:, :1], torch.nan), found], dim=1)


def sideways(video: Pixels) -> Float[Tensor, "b f 2"]:
    """Sideways shift (x, 0) of the view since the frame before, in picture widths; 0 for the first.

    Phase correlation of the rows about the horizon: a number for every frame, right on the average. A step moves the
    picture as well, and what `turned` leaves out as unclear is in it.
    """
    height, width = video.shape[-2:]
    band = video[..., int(HORIZON[0] * height) : int(HORIZON[1] * height), :].float().mean(2)
    band = (band - band.mean((-2, -1), keepdim=True)) * torch.hann_window(width, device=video.device)
    spectrum = torch.fft.rfft(band, dim=-1)
    # Rows vote together: one phase difference per frequency.
    cross = (spectrum[:, :-1] * spectrum[:, 1:].conj()).sum(-2)
    place = torch.fft.irfft(cross / cross.abs().clamp_min(1e-6), n=width, dim=-1).argmax(-1)
    shift = torch.where(place > width // 2, place - width, place).float() / width
    return torch.nn.functional.pad(shift[..., None], (0, 1, 1, 0))


def _reduced(video: Pixels, band: tuple[float, float]) -> Float[Tensor, "b f c rows columns"]:
    height, width = video.shape[-2:]
    top, bottom = int(band[0] * height), max(int(band[0] * height) + 1, int(band[1] * height))
    part = video[..., top:bottom, :].float()
    size = (min(ROWS, part.shape[-2]), min(COLUMNS, width))
    small = torch.nn.functional.interpolate(part.flatten(0, 1), size=size, mode="area")
    return small.unflatten(0, video.shape[:2])


def _cost(
    before: Float[Tensor, "b f c rows columns"], after: Float[Tensor, "b f c rows columns"],
    angle: Float[Tensor, "columns"], focus: float,
) -> Float[Tensor, "b f"]:  # fmt: skip
    """Mean difference between a frame and the one before, seen at other angles, where both show something."""
    last = before.shape[-1] - 1
    column = focus * torch.tan(angle) + 0.5 * last
    inside = (column >= 0) & (column <= last)
    left = column.clamp(0, last).floor().long()
    part = (column - left).clamp(0, 1)
    seen = before[..., left] * (1 - part) + before[..., (left + 1).clamp(max=last)] * part
    return (seen - after).abs()[..., inside].mean((-3, -2, -1))


def _clear(cost: Float[Tensor, "b f turns"]) -> Bool[Tensor, "b f"]:
    """Whether the lowest cost stands alone."""
    lowest, place = cost.min(-1, keepdim=True)
    far = (torch.arange(TURNS, device=cost.device) - place).abs() > TURNS // 20
    return torch.where(far, cost, torch.inf).amin(-1) > CLEAR * lowest[..., 0] + LEAST


def _lowest(cost: Float[Tensor, "b f turns"], turns: Float[Tensor, "turns"]) -> Float[Tensor, "b f"]:
    """The turn of the lowest cost, between the tried ones by a parabola."""
    place = cost.argmin(-1, keepdim=True).clamp(1, len(turns) - 2)
    low, middle, high = (cost.gather(-1, place + step)[..., 0] for step in (-1, 0, 1))
    curve = low - 2 * middle + high
    offset = torch.where(curve > 1e-6, 0.5 * (low - high) / curve.clamp_min(1e-6), torch.zeros_like(curve))
    return turns[place[..., 0]] + offset.clamp(-1, 1) * (turns[1] - turns[0])
