"""Where the pusher's objects are in a picture, by colour alone: the same judge for truth and generated video."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wm_lightning.clip import Clip, Pixels
from wm_lightning.worlds.pusher_render import BLOCK_HALF, BLOCKS, DISTRACTOR, DISTRACTOR_DRAWN, GRIPPER, GRIPPER_DRAWN
from wm_lightning.worlds.world import Measures

# A pixel counts as an object's when its colour is at least this share of the object's own saturation;
# edges blended with the table stay above it for half of their width, so that a disc keeps its area.
SATURATED = 0.35
# Share of an object's drawn area that must be found for the object to be there.
VISIBLE = 0.3


@dataclass(frozen=True)
class Sight:
    """Centre of an object (x, y in frame widths; NaN where it is not seen) and whether it is seen."""

    place: Float[Tensor, "b f 2"]
    seen: Bool[Tensor, "b f"]


@dataclass(frozen=True)
class Sights:
    """What is seen of gripper, blocks (in the order of their colours) and distractor."""

    gripper: Sight
    blocks: tuple[Sight, ...]
    distractor: Sight


def look(video: Pixels) -> Sights:
    """The objects of every frame, each by the centroid of its colour."""
    red, green, blue = video.float().unbind(2)
    reds = red - torch.maximum(green, blue)
    greens = green - torch.maximum(red, blue)
    yellows = torch.minimum(red, green) - blue
    blues = blue - torch.maximum(red, green)
    gripper, distractor = torch.pi * GRIPPER_DRAWN**2, torch.pi * DISTRACTOR_DRAWN**2
    block = (2 * BLOCK_HALF) ** 2
    return Sights(
        gripper=_find(reds / (GRIPPER[0] - GRIPPER[1]), gripper),
        blocks=(
            _find(greens / (BLOCKS[0][1] - BLOCKS[0][2]), block),
            _find(yellows / (BLOCKS[1][1] - BLOCKS[1][2]), block),
        ),
        distractor=_find(blues / (DISTRACTOR[2] - DISTRACTOR[1]), distractor),
    )


def measure(video: Pixels, clip: Clip, context: int) -> Measures:
    """See `PusherWorld.measure`."""
    if video.shape != clip.video.shape:
        raise ValueError(f"{tuple(video.shape)=} differs from {tuple(clip.video.shape)=}; judge the clip's own frames")
    if not 1 <= context < video.shape[1]:
        raise ValueError(f"{context=} must be at least 1 and below the clip's {video.shape[1]} frames")
    seen, truth = look(video), _true_sights(clip)
    action_error = _action_error(seen.gripper, truth.gripper)
    blocks = torch.stack(
        [(s.place - t.place).norm(dim=-1) for s, t in zip(seen.blocks, truth.blocks, strict=True)]
    ).nanmean(dim=0)
    presence = seen.distractor.seen.float()
    for values in (action_error, blocks, presence):
        values[:, :context] = torch.nan
    visible = torch.stack([block.seen for block in seen.blocks]).float().mean(0)
    extra = {
        "gripper_visible": seen.gripper.seen[:, context:].float().mean(1),
        "blocks_visible": visible[:, context:].mean(1),
    }
    return Measures(action_error, blocks, presence, extra)


def motion(video: Pixels) -> Float[Tensor, "b f 2"]:
    """See `PusherWorld.motion`."""
    moved = torch.nan_to_num(look(video).gripper.place.diff(dim=1))
    return torch.nn.functional.pad(moved, (0, 0, 1, 0))


def _find(strength: Float[Tensor, "b f h w"], area: float) -> Sight:
    """The object whose pixels have a strength near 1; `area` is its drawn area in squared frame widths."""
    height, width = strength.shape[-2:]
    weight = torch.where(strength > SATURATED, strength.clamp(max=1.0), 0.0)
    mass = weight.sum((-2, -1))
    x = (torch.arange(width, device=strength.device) + 0.5) / width
    y = (torch.arange(height, device=strength.device) + 0.5) / height
    place = torch.stack([(weight.sum(-2) * x).sum(-1), (weight.sum(-1) * y).sum(-1)], dim=-1) / mass[..., None]
    seen = mass >= VISIBLE * area * height * width
    return Sight(torch.where(seen[..., None], place, torch.nan), seen)


def _action_error(generated: Sight, truth: Sight) -> Float[Tensor, "b f"]:
    """Distance between generated and true displacement of the gripper since the frame before.

    A gripper that is not seen did not follow its action: it counts as one that stood still, or a model
    could do well by losing it. Where the truth itself is unknown the error is NaN.
    """
    moved, wanted = (sight.place.diff(dim=1) for sight in (generated, truth))
    error = (torch.nan_to_num(moved) - wanted).norm(dim=-1)
    return torch.cat([torch.full_like(error[:, :1], torch.nan), error], dim=1)


def _true_sights(clip: Clip) -> Sights:
    """The simulator's own state where the clip carries it, otherwise what its pixels show."""
    if "gripper" not in clip.truth:
        return look(clip.video)
    blocks = clip.truth["blocks"].to(clip.video.device)
    return Sights(
        gripper=_known(clip.truth["gripper"].to(clip.video.device)),
        blocks=tuple(_known(place) for place in blocks.unbind(2)),
        distractor=_known(clip.truth["distractor"].to(clip.video.device)),
    )


def _known(place: Float[Tensor, "b f 2"]) -> Sight:
    return Sight(place.float(), torch.ones(place.shape[:2], dtype=torch.bool, device=place.device))
