"""Frozen OpenCLIP encoders, as DynamiCrafter reads them: every token of an image, the last states but one of a text.

Weights come from a local file; nothing is downloaded. The text of Vid2World is always empty, so that its states are
computed once and kept in a file (`write_empty_text`, `read_empty_text`).
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

# Colours that CLIP was trained with: mean and deviation in [0, 1].
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGE = "visual."
UNUSED = ("logit_scale", "attn_mask")
EMPTY_TEXT = "empty_text"

Frames = Float[Tensor, "n 3 h w"]
Square = Float[Tensor, "n 3 size size"]


class _Frozen(nn.Module):
    """Neither learns nor leaves evaluation mode; `sha256` is the hash of the file it came from."""

    sha256: str

    def train(self, mode: bool = True) -> "_Frozen":
        """Stays in evaluation mode."""
        return super().train(False)


class OpenClipImage(_Frozen):
    """Frames `n 3 h w` in [-1, 1] to the class token and one token a patch, `n 1+patches width`.

    Neither the last norm nor the projection is applied: these are the states after the last block. `weights` is a
    .safetensors file with the names of OpenCLIP, `architecture` the arguments of its VisionTransformer.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, *, weights: str | None, architecture: Mapping[str, Any]) -> None:
        super().__init__()
        path = _local(weights, "image")
        own = lambda name: name.removeprefix(IMAGE) if name.startswith(IMAGE) else None  # noqa: E731
        self.network, self.sha256 = _load(path, "VisionTransformer", architecture, own)
        self.size = int(architecture["image_size"])
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION)[:, None, None], persistent=False)

    @torch.no_grad()
    def forward(self, frames: Frames) -> Float[Tensor, "n tokens width"]:
        network, size = self.network, self.size
        x = ((resized(frames.float(), size) + 1) / 2 - self.mean) / self.deviation
        x = network.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([network.class_embedding.expand(len(x), 1, -1), x], dim=1) + network.positional_embedding
        return network.transformer(network.ln_pre(x))


class OpenClipText(_Frozen):
    """Texts to states `n 77 width` before the last block, after the final norm ("penultimate").

    `weights` is a .safetensors file with the names of OpenCLIP, `architecture` the arguments of its TextTransformer.
    """

    def __init__(self, *, weights: str | None, architecture: Mapping[str, Any]) -> None:
        super().__init__()
        path = _local(weights, "text")
        own = lambda name: None if name.startswith((IMAGE, *UNUSED)) else name  # noqa: E731
        self.network, self.sha256 = _load(path, "TextTransformer", architecture, own)
        # A buffer that no file holds; built anew, for the network was made without storage.
        self.network.attn_mask = self.network.build_causal_mask()
        self.network.transformer.resblocks = self.network.transformer.resblocks[:-1]

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Float[Tensor, "n length width"]:
        network = self.network
        tokens = _open_clip("tokenizer").tokenize(list(texts), network.context_length)
        x = network.token_embedding(tokens.to(network.positional_embedding.device)) + network.positional_embedding
        return network.ln_final(network.transformer(x, attn_mask=network.attn_mask))


def resized(frames: Frames, size: int) -> Square:
    """Square frames of `size` pixels: smoothed where they shrink, then cubic between corners that stay corners.

    The Gaussian has the deviation (factor - 1) / 2 of each side and reaches two deviations, edges are mirrored: what
    kornia's resize with `antialias` and `align_corners` does, which the published weights were trained on.
    """
    factors = [side / size for side in frames.shape[-2:]]
    if max(factors) > 1:
        for dim, factor in zip((-2, -1), factors, strict=True):
            frames = _smoothed(frames, dim, max((factor - 1) / 2, 0.001))
    return F.interpolate(frames, (size, size), mode="bicubic", align_corners=True)


def _smoothed(frames: Frames, dim: int, deviation: float) -> Frames:
    reach = int(max(4 * deviation, 3)) // 2
    places = torch.arange(-reach, reach + 1, dtype=frames.dtype, device=frames.device)
    weights = torch.softmax(-(places**2) / (2 * deviation**2), dim=0)
    shape = (len(weights), 1) if dim == -2 else (1, len(weights))
    edges = (0, 0, reach, reach) if dim == -2 else (reach, reach, 0, 0)
    padded = F.pad(frames, edges, mode="reflect")
    return F.conv2d(padded, weights.view(1, 1, *shape).expand(frames.shape[1], -1, -1, -1), groups=frames.shape[1])


def write_empty_text(encoder: OpenClipText, path: Path) -> None:
    """Writes the states of the empty text, `1 77 width`, with the hash of the weights that made them."""
    partial = path.with_suffix(path.suffix + ".partial")
    save_file({EMPTY_TEXT: encoder([""]).contiguous().cpu()}, partial, metadata={"sha256": encoder.sha256})
    os.replace(partial, path)


def read_empty_text(path: Path, sha256: str | None) -> Float[Tensor, "1 length width"]:
    """The states in such a file. Raises ValueError where it is none, or not of the weights with the hash `sha256`."""
    states, found = _empty_text(path)
    if sha256 not in (None, found):
        raise ValueError(f"{path} was made with weights of the SHA-256 {found}, expected is {sha256}; make it anew")
    return states


def empty_text_source(path: Path) -> str | None:
    """The hash of the weights that made such a file, None where it does not say. Raises ValueError where it is none."""
    return _empty_text(path)[1]


def _empty_text(path: Path) -> tuple[Float[Tensor, "1 length width"], str | None]:
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor(EMPTY_TEXT), (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} holds no {EMPTY_TEXT} ({error}); task=unpack task.empty_text=true writes it"
        ) from error


def _local(weights: str | None, kind: str) -> Path:
    if weights is None or not Path(weights).is_file() or Path(weights).suffix != ".safetensors":
        raise ValueError(
            f"{weights=} is no .safetensors file; name OpenCLIP's {kind} encoder, as task=unpack writes it "
            f"({kind}.safetensors); nothing is downloaded"
        )
    return Path(weights)


def _open_clip(module: str) -> Any:
    try:
        # An extra, and seconds that nobody else waits for.
        from open_clip import tokenizer, transformer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(
            f"OpenCLIP's encoders need the package {error.name}: pip install 'wm_lightning[vid2world]'"
        ) from error
    return {"tokenizer": tokenizer, "transformer": transformer}[module]


def _load(path: Path, kind: str, architecture: Mapping[str, Any], own: Callable[[str], str | None]) -> tuple[Any, str]:
    """OpenCLIP's class `kind` with the weights that `own` gives a name, in float32, and the hash of the file."""
    transformer = _open_clip("transformer")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        weights = {name: value.float() for key, value in load_file(path).items() if (name := own(key)) is not None}
        with torch.device("meta"):
            network: nn.Module = getattr(transformer, kind)(**architecture)
        network.load_state_dict(weights, strict=True, assign=True)
    except (SafetensorError, OSError, RuntimeError, TypeError) as error:
        shown = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} is not of OpenCLIP's {kind} with this architecture: {shown}") from error
    return network.requires_grad_(False).eval(), sha256
