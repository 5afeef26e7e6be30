"""UNets of DynamiCrafter (2310.12190) and of Vid2World (2505.14357) as VideoUNet weights."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from wm_lightning.plain_files import sizes

OPENING_HEADS = 8  # of init_attn, whatever the width of a head
FRAME_RATE = 3.0  # what Vid2World tells it in every domain
RATE, TABLE = "fps_embedding.", "action_emb_preprocess."
# Causal checkpoints keep each convolution in a wrapper of this name; in the head it runs along the image's height.
CAUSAL, CAUSAL_HEAD = ".conv3d.", "out.2.conv2d."

_RES = {
    r"in_layers\.0": "norm1", r"in_layers\.2": "conv1", r"emb_layers\.1": "embed", r"out_layers\.0": "norm2",
    r"out_layers\.3": "conv2", "skip_connection": "skip",
}  # fmt: skip
_TRANSFORMER = {
    "norm": "norm", "proj_in": "enter", "proj_out": "leave",
    r"transformer_blocks\.0\.norm([123])": r"norm\1",
    r"transformer_blocks\.0\.attn([12])\.to_([qkv])": r"attention\1.\2",
    r"transformer_blocks\.0\.attn([12])\.to_out\.0": r"attention\1.out",
    r"transformer_blocks\.0\.attn2\.to_([kv])_ip": r"attention2.image_\1",
    r"transformer_blocks\.0\.ff\.net\.0\.proj": "mlp.0", r"transformer_blocks\.0\.ff\.net\.2": "mlp.2",
}  # fmt: skip


def _res(layer: str) -> str | None:
    if found := re.fullmatch(r"temopral_conv\.conv([1-4])\.(?:0|([23])(?:\.conv3d)?)", layer):
        return f"temporal.{int(found[1]) - 1}.{'norm' if found[2] is None else 'conv'}"
    return _renamed(layer, _RES)


def _transformer(layer: str) -> str | None:
    return _renamed(layer, _TRANSFORMER)


def _renamed(layer: str, names: Mapping[str, str]) -> str | None:
    found = ((re.fullmatch(theirs, layer), ours) for theirs, ours in names.items())
    return next((match.expand(ours) for match, ours in found if match), None)


def _as_is(layer: str) -> str | None:
    return layer


# Where a block stands with them, where with us (numbers of input blocks begin behind the stem), what its layers are.
_PLACES: tuple[tuple[str, Callable[[re.Match], str], Callable[[str], str | None]], ...] = (
    (r"time_embed\.(?=[02]$)", lambda m: "level.mlp.", _as_is),
    (r"fps_embedding\.(?=[02]$)", lambda m: "rate.mlp.", _as_is),
    (r"init_attn\.0\.", lambda m: "opening.", _transformer),
    (r"input_blocks\.0\.0$", lambda m: "stem", _as_is),
    (r"input_blocks\.(\d+)\.0\.op$", lambda m: f"down.{int(m[1]) - 1}.resize", _as_is),
    (r"input_blocks\.(\d+)\.0\.", lambda m: f"down.{int(m[1]) - 1}.res.", _res),
    (r"input_blocks\.(\d+)\.1\.", lambda m: f"down.{int(m[1]) - 1}.spatial.", _transformer),
    (r"input_blocks\.(\d+)\.2\.", lambda m: f"down.{int(m[1]) - 1}.temporal.", _transformer),
    (r"middle_block\.0\.", lambda m: "middle.0.res.", _res),
    (r"middle_block\.1\.", lambda m: "middle.0.spatial.", _transformer),
    (r"middle_block\.2\.", lambda m: "middle.0.temporal.", _transformer),
    (r"middle_block\.3\.", lambda m: "middle.1.res.", _res),
    (r"output_blocks\.(\d+)\.[123]\.conv$", lambda m: f"up.{m[1]}.resize", _as_is),
    (r"output_blocks\.(\d+)\.0\.", lambda m: f"up.{m[1]}.res.", _res),
    (r"output_blocks\.(\d+)\.1\.", lambda m: f"up.{m[1]}.spatial.", _transformer),
    (r"output_blocks\.(\d+)\.2\.", lambda m: f"up.{m[1]}.temporal.", _transformer),
    (r"out\.0$", lambda m: "head.norm", _as_is),
    (r"out\.2(?:\.conv2d)?$", lambda m: "head.conv", _as_is),
)


def unet_name(theirs: str, *, table: bool = False) -> str | None:
    """Our name of their tensor (without `model.diffusion_model.`), or None where a VideoUNet has no place for it.

    `table`: the actions are a multi-hot, whose table is the first of our layers, so that the others move by one.
    """
    layer, _, kind = theirs.rpartition(".")
    if theirs == "action_emb_preprocess.weight":
        return "action.layers.0.weight"
    if kind not in ("weight", "bias"):
        return None
    if found := re.fullmatch(r"action_emb_proj\.([02])" if table else r"action_emb_proj\.([024])", layer):
        return f"action.layers.{int(found[1]) + table}.{kind}"
    for pattern, place, inner in _PLACES:
        if found := re.match(pattern, layer):
            rest = inner(layer[found.end() :])
            return None if rest is None else f"{place(found)}{rest}.{kind}"
    return None


def from_dynamicrafter(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights, constructor arguments) of the VideoUNet that computes what this one computes; dtypes stay.

    `weights` are named as in the checkpoint behind `model.diffusion_model.`. The arguments are all but `height` and
    `width` of a latent frame, which weights do not say. Raises ValueError with every key that has no place, and where
    sizes are not those of such a UNet; a place left empty is found when they are loaded.
    """
    table = any(name.startswith(TABLE) for name in weights)
    names = {theirs: unet_name(theirs, table=table) for theirs in weights}
    if unknown := sorted(theirs for theirs, ours in names.items() if ours is None):
        raise ValueError(f"keys without a place in VideoUNet: {unknown}")
    ours = {str(names[theirs]): _convert(theirs, value) for theirs, value in weights.items()}
    if len(ours) < len(weights):
        twice = sorted(theirs for theirs, name in names.items() if list(names.values()).count(name) > 1)
        raise ValueError(f"keys for the same place in VideoUNet: {twice}; the file mixes two checkpoints")
    flags = {
        "causal": any(CAUSAL in name for name in weights),
        "head_height_causal": any(name.startswith(CAUSAL_HEAD) for name in weights),
        "rate": FRAME_RATE if any(name.startswith(RATE) for name in weights) else None,
        "action_kind": "table" if table else "deep",
    }
    return ours, {"patch": 1, **_sizes(ours), **flags}


def _convert(name: str, value: Tensor) -> Tensor:
    if value.ndim == 5:  # o i taps 1 1
        return value.flatten(2)
    if name.endswith((".proj_in.weight", ".proj_out.weight")):  # a convolution of one tap, or a linear layer already
        return value.flatten(1)
    return value.T if name.startswith(TABLE) else value


def _sizes(ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments that the shapes tell, and those that are the same in every such checkpoint."""
    needed = ("stem.weight", "head.conv.weight", "opening.enter.weight", "middle.0.spatial.attention2.k.weight")
    if missing := [name for name in needed if name not in ours]:
        raise ValueError(f"no UNet of DynamiCrafter: it has no {', '.join(missing)}")
    dim, folded, channels = *sizes(ours, "stem.weight", 4)[:2], sizes(ours, "head.conv.weight", 4)[0]
    levels = _levels(ours)
    widths, blocks = [max(level, default=dim) for level in levels], {len(level) for level in levels}
    if len(blocks) > 1 or any(width % dim for width in widths) or folded not in (channels, 2 * channels):
        raise ValueError(
            f"no UNet of DynamiCrafter: residual blocks of {levels} channels on {dim}, {folded} channels in and "
            f"{channels} out; expected are as many blocks at every level, in multiples of {dim}, and {channels} or "
            f"{2 * channels} channels in"
        )
    starts = [sum(len(level) + 1 for level in levels[:index]) for index in range(len(levels))]
    acts = "action.layers.0.weight" in ours
    return {
        "channels": channels, "dim": dim, "multipliers": [width // dim for width in widths], "blocks": blocks.pop(),
        "attention_at": [2**i for i, start in enumerate(starts) if f"down.{start}.spatial.norm.weight" in ours],
        "head_dim": sizes(ours, "opening.enter.weight", 2)[0] // OPENING_HEADS, "opening_heads": OPENING_HEADS,
        "tokens": sizes(ours, "middle.0.spatial.attention2.k.weight", 2)[1], "start": folded == 2 * channels,
        "actions": sizes(ours, "action.layers.0.weight", 2)[1] if acts else 0, "actions_seen": acts,
        "groups": 32, "pad": "zeros", "norm_scope": "clip", "image_groups": "official",
        "gradient_checkpointing": False,
    }  # fmt: skip


def _levels(ours: Mapping[str, Tensor]) -> list[list[int]]:
    """Channels of every residual block on the way down, by levels, between which the size changes."""
    levels: list[list[int]] = [[]]
    for number in range(len(ours)):
        if (name := f"down.{number}.res.conv2.weight") in ours:
            levels[-1].append(sizes(ours, name, 4)[0])
        elif f"down.{number}.resize.weight" in ours:
            levels.append([])
        else:
            break
    return levels
