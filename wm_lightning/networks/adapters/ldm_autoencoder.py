"""The KL autoencoder of Stable Diffusion in the names of its authors' code, as diffusers' AutoencoderKL weights."""

import re
from collections.abc import Mapping

from torch import Tensor

_NAMES = {
    r"(encoder|decoder)\.(conv_in|conv_out)": r"\1.\2",
    r"(encoder|decoder)\.norm_out": r"\1.conv_norm_out",
    r"(encoder|decoder)\.mid\.block_([12])\.(norm[12]|conv[12])": r"\1.mid_block.resnets.\2.\3",
    r"(encoder|decoder)\.mid\.attn_1\.norm": r"\1.mid_block.attentions.0.group_norm",
    r"(encoder|decoder)\.mid\.attn_1\.([qkv])": r"\1.mid_block.attentions.0.to_\2",
    r"(encoder|decoder)\.mid\.attn_1\.proj_out": r"\1.mid_block.attentions.0.to_out.0",
    r"encoder\.down\.(\d+)\.block\.(\d+)\.(norm[12]|conv[12])": r"encoder.down_blocks.\1.resnets.\2.\3",
    r"encoder\.down\.(\d+)\.block\.(\d+)\.nin_shortcut": r"encoder.down_blocks.\1.resnets.\2.conv_shortcut",
    r"encoder\.down\.(\d+)\.downsample\.conv": r"encoder.down_blocks.\1.downsamplers.0.conv",
    r"decoder\.up\.(\d+)\.block\.(\d+)\.(norm[12]|conv[12])": r"decoder.up_blocks.\1.resnets.\2.\3",
    r"decoder\.up\.(\d+)\.block\.(\d+)\.nin_shortcut": r"decoder.up_blocks.\1.resnets.\2.conv_shortcut",
    r"decoder\.up\.(\d+)\.upsample\.conv": r"decoder.up_blocks.\1.upsamplers.0.conv",
    r"(quant_conv|post_quant_conv)": r"\1",
}
# Numbered from 1 with them, and from the finest level of the decoder, from 0 and the coarsest with diffusers.
_FROM_ONE = re.compile(r"(?<=mid_block\.resnets\.)\d+")
_REVERSED = re.compile(r"(?<=decoder\.up_blocks\.)\d+")


def autoencoder_name(theirs: str, *, levels: int) -> str | None:
    """diffusers' name of a tensor in an autoencoder of so many levels, or None where there is no place for it."""
    layer, _, kind = theirs.rpartition(".")
    if kind not in ("weight", "bias"):
        return None
    for pattern, ours in _NAMES.items():
        if found := re.fullmatch(pattern, layer):
            name = _FROM_ONE.sub(lambda m: str(int(m[0]) - 1), found.expand(ours))
            return f"{_REVERSED.sub(lambda m: str(levels - 1 - int(m[0])), name)}.{kind}"
    return None


def from_ldm_autoencoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the AutoencoderKL that computes the same; dtypes stay.

    Raises ValueError with every key that has no place in it.
    """
    numbers = (re.match(r"encoder\.down\.(\d+)\.", name) for name in weights)
    levels = 1 + max((int(found[1]) for found in numbers if found), default=-1)
    names = {theirs: autoencoder_name(theirs, levels=levels) for theirs in weights}
    if unknown := sorted(theirs for theirs, ours in names.items() if ours is None):
        raise ValueError(f"keys without a place in AutoencoderKL: {unknown}")
    return {str(names[theirs]): _convert(theirs, value) for theirs, value in weights.items()}


def _convert(name: str, value: Tensor) -> Tensor:
    return value.flatten(1) if ".attn_1." in name and value.ndim == 4 else value
