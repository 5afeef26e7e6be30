"""Autoencoders: video to what a latent network sees of it, and back, behind one interface.

Pixels and patches need no weights; KLAutoencoder is the one of Stable Diffusion (2112.10752) and of SD3 (2403.03206).
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from wm_lightning.clip import Encoded, Pixels, to_pixels, to_unit

Frames = Float[Tensor, "n 3 h w"]
Latents = Float[Tensor, "n channels rows columns"]
Video = UInt8[Tensor, "b f 3 h w"] | Float[Tensor, "b f 3 h w"]

# What the projections of attention were called in files written before diffusers 0.17.
OLD_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


class Autoencoder(ABC):
    """Frames to latents and back: frame by frame, deterministic, without gradient, in float32.

    `factor` pixels of a side become one latent of `channels` channels. At most `batch_frames` frames are in work at
    once, which bounds the memory whatever the length of the video.
    """

    channels: int
    factor: int

    def __init__(self, *, batch_frames: int) -> None:
        if batch_frames < 1:
            raise ValueError(f"autoencoder.{batch_frames=} must be at least 1")
        self.batch_frames = batch_frames

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the latents of a given video, as plain values: for keys and cards."""

    @property
    def scaling(self) -> dict[str, float]:
        """Scale and shift of the latents, by name; empty where there are none."""
        return {}

    @abstractmethod
    def _encode(self, frames: Frames) -> Latents:
        """Latents of frames in [-1, 1]."""

    @abstractmethod
    def _decode(self, latents: Latents) -> Frames:
        """Frames of latents, in about [-1, 1]."""

    def frame_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of a frame's latents. Raises ValueError where the frame cannot be divided."""
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"frames of {height} x {width} pixels cannot be encoded: this autoencoder makes one latent of "
                f"{self.factor} x {self.factor}; give data.height and data.width multiples of {self.factor}"
            )
        return self.channels, height // self.factor, width // self.factor

    def encode(self, video: Video) -> Encoded:
        """Latents of uint8 video, or of floats in [0, 1], on its device.

        Raises ValueError for floats out of range and frames that cannot be divided.
        """
        self.frame_shape(*video.shape[-2:])
        if video.is_floating_point() and not bool(((video >= 0) & (video <= 1)).all()):
            raise ValueError(f"floats in [0, 1] are expected, found {float(video.min()):g} .. {float(video.max()):g}")
        return self._by_parts(video, lambda part: self._encode(_unit(part)))

    def decode(self, latents: Encoded) -> Pixels:
        """uint8 video of latents, on their device."""
        return self._by_parts(latents.float(), lambda part: to_pixels(self._decode(part)[None])[0])

    @torch.no_grad()
    def _by_parts(self, video: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        # Without autocast: what is cached must not hang on the precision of whoever asks.
        with torch.autocast(video.device.type, enabled=False):
            parts = [change(part) for part in video.flatten(0, 1).split(self.batch_frames)]
        return torch.cat(parts).unflatten(0, video.shape[:2])


class PixelAutoencoder(Autoencoder):
    """Pixels as they are, in [-1, 1]; back to uint8 it is exact."""

    channels, factor = 3, 1

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "pixel"}

    def _encode(self, frames: Frames) -> Latents:
        return frames

    def _decode(self, latents: Latents) -> Frames:
        return latents


class PatchAutoencoder(Autoencoder):
    """Space to depth: the `factor` x `factor` pixels of a patch become channels, in [-1, 1]; exact."""

    def __init__(self, *, factor: int, batch_frames: int) -> None:
        super().__init__(batch_frames=batch_frames)
        self.factor, self.channels = factor, 3 * factor**2

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "patch", "factor": self.factor}

    def _encode(self, frames: Frames) -> Latents:
        return rearrange(frames, "n c (y p) (x q) -> n (c p q) y x", p=self.factor, q=self.factor)

    def _decode(self, latents: Latents) -> Frames:
        return rearrange(latents, "n (c p q) y x -> n c (y p) (x q)", p=self.factor, q=self.factor)


class KLAutoencoder(Autoencoder):
    """diffusers' AutoencoderKL with the weights of a local file; latent = (posterior mean - shift) * scale.

    The mean and not a draw, so that a video has one latent. `weights` is a safetensors file, `sha256` its hash (null
    takes any and records it), `architecture` the arguments of AutoencoderKL. World-model-eval's published networks
    were trained on SD3's latents without the shift, which is `shift: 0`. The network is loaded on first use.
    """

    def __init__(
        self, *, weights: str | None, sha256: str | None, scale: float, shift: float, batch_frames: int,
        architecture: Mapping[str, Any],
    ) -> None:  # fmt: skip
        super().__init__(batch_frames=batch_frames)
        if weights is None:
            raise ValueError(
                "autoencoder.weights=null: name the safetensors file of an AutoencoderKL, as "
                "autoencoder.weights=FOLDER/diffusion_pytorch_model.safetensors; nothing is downloaded"
            )
        if not Path(weights).is_file() or Path(weights).suffix != ".safetensors":
            raise ValueError(f"autoencoder.weights={weights} is no .safetensors file; name one, no other kind is read")
        if scale <= 0:
            raise ValueError(f"autoencoder.{scale=} must be positive")
        self.path, self.pinned, self.architecture = Path(weights), sha256, dict(architecture)
        self.scale, self.shift = scale, shift
        self.channels = self.architecture["latent_channels"]
        self.factor = 2 ** (len(self.architecture["block_out_channels"]) - 1)
        self._network: nn.Module | None = None
        self._lock = Lock()

    @property
    def sha256(self) -> str:
        """The hash of the file. Raises ValueError where it is not the one asked for."""
        found = file_hash(self.path)
        if self.pinned not in (None, found):
            raise ValueError(
                f"{self.path} has the SHA-256 {found}, expected is autoencoder.sha256={self.pinned}; name that file"
            )
        return found

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": "AutoencoderKL", "sha256": self.sha256, "architecture": self.architecture, **self.scaling}

    @property
    def scaling(self) -> dict[str, float]:
        return {"scale": self.scale, "shift": self.shift}

    def _encode(self, frames: Frames) -> Latents:
        mean = self._on(frames.device).encode(frames).latent_dist.mode()
        return (mean - self.shift) * self.scale

    def _decode(self, latents: Latents) -> Frames:
        return self._on(latents.device).decode(latents / self.scale + self.shift).sample

    def _on(self, device: torch.device) -> Any:
        # Batches of one table are judged by several threads.
        with self._lock:
            if self._network is None:
                self._network = _load(self.path, self.sha256, self.architecture)
            return self._network.to(device)


def file_hash(path: Path) -> str:
    """SHA-256 of a file; one that did not change is read once."""
    status = path.stat()
    return _hashed(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _hashed(path: Path, size: int, time: int) -> str:
    # Size and time of change are there so that a changed file is hashed anew.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(path: Path, sha256: str, architecture: Mapping[str, Any]) -> nn.Module:
    try:
        # An extra, and seconds that nobody else waits for.
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ValueError(
            f"autoencoder=sd|sd3 needs the package {error.name}: pip install 'wm_lightning[autoencoder]'"
        ) from error
    try:
        weights = {_renamed(name): value.float() for name, value in load_file(path).items()}
        with torch.device("meta"):
            network: nn.Module = AutoencoderKL(**architecture)
        network.load_state_dict(weights, strict=True, assign=True)
    except (SafetensorError, OSError, RuntimeError, TypeError) as error:
        shown = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{path} ({sha256[:12]}) is not of the AutoencoderKL that autoencoder.architecture describes: {shown}"
        ) from error
    return network.requires_grad_(False).eval()


def _renamed(name: str) -> str:
    for old, new in OLD_NAMES.items():
        name = name.replace(old, new)
    return name


def _unit(frames: Tensor) -> Frames:
    """uint8 or [0, 1] to [-1, 1]."""
    return frames.float() * 2 - 1 if frames.is_floating_point() else to_unit(frames[None])[0]
