"""What is seen in a picture of the maze, by pixels alone: how far the view turned, what is held, and the bot."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wm_lightning.clip import Clip, Pixels
from wm_lightning.data.formats.csgo import MOUSE, MOUSE_X
from wm_lightning.worlds.maze_dynamics import KEY, TURN
from wm_lightning.worlds.maze_render import FIELD, WEAPON_BOX, WEAPONS, box
from wm_lightning.worlds.turning import turned
from wm_lightning.worlds.world import Measures

BAND = (0.0, 0.72)  # the rows above the display
SHARPEST = 0.15  # radians a frame that are looked for; the bots' players turn by 0.09
BOT_PIXELS = 0.002  # share of the picture that must be the bot's


def measure(video: Pixels, clip: Clip, context: int) -> Measures:
    """See `MazeWorld.measure`."""
    if video.shape != clip.video.shape:
        raise ValueError(f"{tuple(video.shape)=} differs from {tuple(clip.video.shape)=}; judge the clip's own frames")
    if not 1 <= context < video.shape[1]:
        raise ValueError(f"{context=} must be at least 1 and below the clip's {video.shape[1]} frames")
    told, alone = commanded(clip.condition.actions[:, : video.shape[1]])
    seen = turned(video, field=FIELD, most=SHARPEST, band=BAND)
    action_error = torch.where(alone, (seen - told).abs() / FIELD, torch.nan)
    objects = (weapon(video) != weapon(clip.video)).float()
    presence = bot_seen(video).float()
    for values in (action_error, objects, presence):
        values[:, :context] = torch.nan
    clear = torch.where(alone, (~seen.isnan()).float(), torch.nan)[:, context:].nanmean(1)
    return Measures(action_error, objects, presence, {"turns_told": clear})


def commanded(actions: Float[Tensor, "b f 51"]) -> tuple[Float[Tensor, "b f"], Bool[Tensor, "b f"]]:
    """Radians to the right that the mouse asked for, and whether it alone moved the view: no key to walk was held."""
    counts = torch.tensor(MOUSE_X, dtype=torch.float32, device=actions.device)
    walks = [KEY[name] for name in ("w", "a", "s", "d", "space")]
    alone = (actions[..., walks] < 0.5).all(-1)
    return TURN * counts[actions[..., MOUSE["x"]].argmax(-1)], alone


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
