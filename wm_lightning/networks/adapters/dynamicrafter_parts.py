"""A whole checkpoint of DynamiCrafter or Vid2World taken apart: which network every one of its keys belongs to."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from wm_lightning.networks.adapters.dynamicrafter import from_dynamicrafter
from wm_lightning.networks.adapters.ldm_autoencoder import from_ldm_autoencoder
from wm_lightning.plain_files import sizes, tensors

# Before the name within a part. OpenCLIP's names stay, those of its image encoder with their `visual.`
_PARTS = {
    "unet": "model.diffusion_model.", "autoencoder": "first_stage_model.", "text": "cond_stage_model.model.",
    "image": "embedder.model.", "resampler": "image_proj_model.",
}  # fmt: skip
SCHEDULE = frozenset((
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "lvlb_weights", "logvar",
    "scale_arr", "scale_factor",
))  # fmt: skip
_LEFT_OUT = {
    r"embedder\.model\.(token_embedding|positional_embedding|ln_final|text_projection|logit_scale)(\.\w+)?":
        "the text half that OpenCLIP brings along with its image encoder, which nothing reads",
    r"(cond_stage_model|embedder)\.(model\.attn_mask|mean|std)": "a constant, made anew",
    r"first_stage_model\.loss\..+": "the loss of the autoencoder's own training",
}  # fmt: skip
_RESAMPLER = {
    "latents": "queries", r"proj_in\.(\w+)": r"enter.\1", r"proj_out\.(\w+)": r"leave.\1",
    r"norm_out\.(\w+)": r"norm.\1",
    r"layers\.(\d+)\.0\.norm1\.(\w+)": r"layers.\1.attention.norm_features.\2",
    r"layers\.(\d+)\.0\.norm2\.(\w+)": r"layers.\1.attention.norm_queries.\2",
    r"layers\.(\d+)\.0\.to_(q|kv|out)\.weight": r"layers.\1.attention.\2.weight",
    r"layers\.(\d+)\.1\.([013])\.(\w+)": r"layers.\1.mlp.\2.\3",
}  # fmt: skip
QUERIES, HEAD_WIDTH = 16, 64  # of a group, and of a head of the resampler: the same in every such checkpoint

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Part:
    """How much of a checkpoint one network is; `arguments` are those of its constructor, where weights tell them."""

    keys: int
    parameters: int
    bytes: int
    arguments: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Report:
    """Every key of a checkpoint: in one of the parts, or left out with the reason."""

    parts: Mapping[str, Part]
    left_out: Mapping[str, str]

    @property
    def keys(self) -> int:
        """As many as the checkpoint has."""
        return sum(part.keys for part in self.parts.values()) + len(self.left_out)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, fit for JSON."""
        return {"keys": self.keys, **asdict(self)}


def plain_state(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights of such a file by their names, whoever wrote it (Lightning or DeepSpeed).

    Raises ValueError where there are none, or where something else stands among them.
    """
    place = next((key for key in ("state_dict", "module") if isinstance(content.get(key), Mapping)), None)
    state = tensors(content if place is None else content[place], place or "the file")
    if not state:
        raise ValueError("a dict of tensors is expected under state_dict or module, found nothing")
    return {name.removeprefix("_forward_module."): value for name, value in state.items()}


def split(state: State) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """The weights of every part, without what stands before their names, and the keys left out with the reason.

    Parts that are not there are missing (Vid2World may be published without its frozen ones); "schedule" holds the
    noise schedule's buffers. Raises ValueError that names every key which belongs to nothing, or where all do.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    left_out, unknown = {}, []
    for name, value in state.items():
        if reason := next((why for pattern, why in _LEFT_OUT.items() if re.fullmatch(pattern, name)), None):
            left_out[name] = reason
        elif part := next((part for part, before in _PARTS.items() if name.startswith(before)), None):
            parts.setdefault(part, {})[name.removeprefix(_PARTS[part])] = value
        elif name in SCHEDULE:
            parts.setdefault("schedule", {})[name] = value
        else:
            unknown.append(name)
    unknown += [f"embedder.model.{name}" for name in parts.get("image", {}) if not name.startswith("visual.")]
    if unknown and not parts:
        raise ValueError(
            f"it is no checkpoint of DynamiCrafter or Vid2World: of its {len(state)} keys ({', '.join(unknown[:3])}, "
            f"…) none begins as theirs do ({', '.join(_PARTS.values())})"
        )
    if unknown:
        raise ValueError(
            f"{len(unknown)} keys belong to no part of a DynamiCrafter or Vid2World checkpoint: "
            f"{', '.join(sorted(unknown)[:12])}; is it another model, or one with an average (model_ema.*)? Take these "
            f"keys out of the file if nothing needs them"
        )
    return parts, left_out


def converted(part: str, weights: State) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """The weights of a part in the names of the class that takes them, and its constructor's arguments where they tell.

    "unet" is a VideoUNet's (without sizes of a frame, which are not in the weights), "autoencoder" an AutoencoderKL's,
    "resampler" a Resampler's; "text" and "image" keep OpenCLIP's names. Raises ValueError with keys without a place.
    """
    if part == "unet":
        return from_dynamicrafter(weights)
    if part == "autoencoder":
        return from_ldm_autoencoder(weights), None
    if part == "resampler":
        return from_resampler(weights)
    return dict(weights), None


def from_resampler(weights: State) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(weights, constructor arguments) of the Resampler that computes the same; dtypes stay.

    Raises ValueError with every key that has no place in it, and where it lacks what tells the arguments.
    """
    names = {
        theirs: next((m.expand(new) for old, new in _RESAMPLER.items() if (m := re.fullmatch(old, theirs))), None)
        for theirs in weights
    }
    if unknown := sorted(theirs for theirs, name in names.items() if name is None):
        raise ValueError(f"keys without a place in Resampler: {unknown}")
    ours = {str(names[theirs]): value for theirs, value in weights.items()}
    needed = ("enter.weight", "leave.weight", "queries", "layers.0.attention.q.weight", "layers.0.mlp.1.weight")
    if missing := [name for name in needed if name not in ours]:
        raise ValueError(f"no resampler of DynamiCrafter: it has no {', '.join(missing)}")
    dim, features = sizes(ours, "enter.weight", 2)
    return ours, {
        "features": features, "tokens": sizes(ours, "leave.weight", 2)[0],
        "groups": sizes(ours, "queries", 3)[1] // QUERIES,
        "queries": QUERIES, "dim": dim, "depth": 1 + max(int(name.split(".")[1]) for name in ours if "layers." in name),
        "heads": sizes(ours, "layers.0.attention.q.weight", 2)[0] // HEAD_WIDTH, "head_width": HEAD_WIDTH,
        "mlp_ratio": sizes(ours, "layers.0.mlp.1.weight", 2)[0] / dim,
    }  # fmt: skip


def measure(weights: State, arguments: Mapping[str, Any] | None) -> Part:
    """Its row of the report."""
    return Part(
        keys=len(weights),
        parameters=sum(value.numel() for value in weights.values()),
        bytes=sum(value.numel() * value.element_size() for value in weights.values()),
        arguments=arguments,
    )
