"""world-model-eval checkpoints as VideoDiT weights."""

import re
from collections.abc import Mapping
from typing import Any

from einops import rearrange
from torch import Tensor

from wm_lightning.plain_files import sizes

# Their names on the left, ours on the right; block numbers are handled by `_rename`.
NAMES = {
    "timestep_mlp.": "level.mlp.",
    "action_embedder.": "action.layers.0.",
    "final_layer.adaLN_modulation.": "head.modulation.",
    "final_layer.linear.": "head.linear.",
    "x_proj.": "embed.",
    "adaLN_modulation.": "modulation.",
    "attn.qkv_proj.": "attention.projections.qkv.",
    "attn.out_proj.": "attention.projections.out.",
    "ffwd.": "mlp.",
}


def from_worldgym(
    weights: Mapping[str, Tensor], *, heads: int, height: int, width: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights, constructor arguments) of the VideoDiT that computes what the checkpoint computes.

    `height` and `width` are those of a latent frame. Raises ValueError with every key that has no place, and where
    a tensor does not tell the sizes it should; a place left empty is found when they are loaded.
    """
    dim, channels, patch, _ = sizes(weights, "x_proj.weight", 4)
    depth = 1 + max((int(m[1]) for name in weights if (m := re.match(r"blocks\.(\d+)\.", name))), default=-1)
    ours = {}
    unknown = []
    for name, value in weights.items():
        new = _rename(name)
        if new is None:
            unknown.append(name)
            continue
        ours[new] = _convert(name, value.float(), patch=patch, channels=channels)
    if unknown:
        raise ValueError(f"keys without a place in VideoDiT: {unknown}")
    config = {
        "channels": channels, "height": height, "width": width, "patch": patch, "dim": dim, "depth": depth,
        "heads": heads, "mlp_ratio": sizes(weights, "blocks.0.s_block.ffwd.0.weight", 2)[0] / dim, "gelu": "tanh",
        "attention": "factorised", "qk_norm": False, "spatial_positions": False, "rope_base": 10_000.0,
        "frequencies": sizes(weights, "timestep_mlp.0.weight", 2)[1],
        "actions": sizes(weights, "action_embedder.weight", 2)[1], "action_kind": "linear",
        "action_none": "input_zero", "action_dropped": "zero", "gradient_checkpointing": False,
    }  # fmt: skip
    return ours, config


def _rename(name: str) -> str | None:
    found = re.match(r"blocks\.(\d+)\.([st])_block\.(.*)", name)
    prefix, rest = ("", name) if found is None else (f"blocks.{2 * int(found[1]) + (found[2] == 't')}.", found[3])
    for theirs, ours in NAMES.items():
        if rest.startswith(theirs):
            return prefix + ours + rest.removeprefix(theirs)
    return None


def _convert(name: str, value: Tensor, *, patch: int, channels: int) -> Tensor:
    if name == "x_proj.weight":
        return rearrange(value, "d c p q -> d (c p q)")
    if name.startswith("final_layer.linear."):
        return rearrange(value, "(p q c) ... -> (c p q) ...", p=patch, q=patch, c=channels)
    return value
