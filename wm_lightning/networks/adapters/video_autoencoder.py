"""The autoencoders of LTX-2 and of HunyuanVideo 1.5: a picture becomes one frame of latents, and frames a video."""

import json
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from safetensors import SafetensorError
from torch import Tensor, nn

from wm_lightning.clip import Encoded, to_pixels
from wm_lightning.networks.adapters.diffusers_folder import CONFIG, files_hash, read_weights
from wm_lightning.networks.adapters.whole_clip import diffusers_class
from wm_lightning.networks.autoencoders import Autoencoder, Frames, Latents, Video

PART = "vae"  # of a pipeline's folder
# By the class that config.json names: its module.
KNOWN = {
    "AutoencoderKLLTX2Video": "autoencoder_kl_ltx2",
    "AutoencoderKLHunyuanVideo15": "autoencoder_kl_hunyuanvideo15",
}


class VideoAutoencoder(Autoencoder):
    """diffusers' AutoencoderKLLTX2Video or AutoencoderKLHunyuanVideo15, of a folder that diffusers wrote.

    `folder` is the autoencoder's or that of a whole pipeline. Latents are the posterior's mean, scaled as the pipelines
    for image-to-video scale those of their picture. Encoded are single pictures, since those alone are given; decoded
    are whole clips, whose f frames of latents are 1 + (f - 1) * `stride` frames of video. The network is loaded on
    first use.
    """

    def __init__(self, *, folder: str | None) -> None:
        super().__init__(batch_frames=1)  # one by one, as pipelines do: diffusers 0.42 fails on two of HunyuanVideo's
        self.folder = _folder(folder)
        try:
            said = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
            self.kind = str(said.get("_class_name"))
            if self.kind not in KNOWN:
                raise ValueError(f"it is of a {self.kind}; {' and '.join(KNOWN)} can be read")
            if said.get("timestep_conditioning"):
                raise ValueError("it decodes at a timestep (timestep_conditioning), which nothing here does")
            self.architecture = {key: value for key, value in said.items() if not key.startswith("_")}
            with torch.device("meta"):
                sizes = self._made()
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.folder / CONFIG} cannot be read: {error}; name the folder of another") from error
        self.channels = int(sizes.config.latent_channels)
        self.factor = int(sizes.spatial_compression_ratio)
        self.stride = int(sizes.temporal_compression_ratio)
        self._network: Any = None
        self._lock = Lock()

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "sha256": files_hash(self.folder), "architecture": self.architecture}

    def encode(self, video: Video) -> Encoded:
        """Latents `b 1 c h w` of single pictures `b 1 3 h w`. Raises ValueError for videos."""
        if video.shape[1] != 1:
            raise ValueError(f"{self.kind}: latents of {video.shape[1]} frames asked for, it is given single pictures")
        return super().encode(video)

    @torch.no_grad()
    def decode(self, latents: Encoded) -> UInt8[Tensor, "b total 3 height width"]:
        """uint8 video `b 1+(f-1)*stride 3 h w` of latents `b f c h w`, on their device, clip by clip."""
        # Without autocast: what judges see must not hang on the precision of whoever asks.
        with torch.autocast(latents.device.type, enabled=False):
            return torch.cat([to_pixels(self._clips(clip[None].float())) for clip in latents])

    def _clips(self, latents: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b total 3 rows columns"]:
        network = self._on(latents.device)
        shift, scale = _law(network)
        found = network.decode(rearrange(latents, "b f c h w -> b c f h w") / scale + shift, return_dict=False)[0]
        return rearrange(found, "b c f h w -> b f c h w")

    def _encode(self, frames: Frames) -> Latents:
        network = self._on(frames.device)
        shift, scale = _law(network)
        return ((network.encode(frames[:, :, None]).latent_dist.mode() - shift) * scale)[:, :, 0]

    def _decode(self, latents: Latents) -> Frames:
        return self._clips(latents[:, None])[:, 0]  # each as a picture: a clip of one frame

    def _made(self) -> Any:
        return diffusers_class(f"autoencoders.{KNOWN[self.kind]}", self.kind)(**self.architecture)

    def _on(self, device: torch.device) -> Any:
        # Videos of one table are judged by several threads.
        with self._lock:
            if self._network is None:
                self._network = self._loaded()
            return self._network.to(device)

    def _loaded(self) -> nn.Module:
        try:
            # Its first values are drawn, and whoever asks for a video has draws of its own.
            with torch.random.fork_rng(devices=[]):
                network = self._made()
            network.load_state_dict({name: value.float() for name, value in read_weights(self.folder).items()})
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            shown = " ".join(str(error).split())[:300]
            raise ValueError(f"{self.folder} is not of the {self.kind} that its {CONFIG} describes: {shown}") from error
        return network.requires_grad_(False).eval()


def _folder(given: str | None) -> Path:
    if given is None:
        raise ValueError(
            "autoencoder.folder=null: name a folder of diffusers with LTX-2 or HunyuanVideo 1.5, or its vae; nothing "
            "is downloaded"
        )
    for place in (Path(given) / PART, Path(given)):
        if (place / CONFIG).is_file():
            return place
    raise ValueError(f"autoencoder.folder={given} has no {PART}/{CONFIG}, nor {CONFIG}; name diffusers' own folder")


def _law(network: Any) -> tuple[Any, Any]:
    """Shift and scale: latents are (what the network encodes - shift) * scale."""
    factor = network.config.scaling_factor
    if not hasattr(network, "latents_mean"):
        return 0.0, factor
    mean, deviation = (value.view(1, -1, 1, 1, 1) for value in (network.latents_mean, network.latents_std))
    return mean, factor / deviation
