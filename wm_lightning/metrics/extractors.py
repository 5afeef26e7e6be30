"""Networks whose features distances are taken of: pinned local weights, or what the suite has of its own.

Every extractor turns uint8 clips into features on the CPU in float32, and says what it is: the `name` its distance
may bear, the `sha256` of what made it, how it resizes, and whether a feature belongs to a frame or to a clip.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from wm_lightning.metrics.features import ClipFeatures
from wm_lightning.metrics.inverse_dynamics import load_reader
from wm_lightning.metrics.pinned import Pinned, read_script, read_state
from wm_lightning.networks.autoencoders import KLAutoencoder

Video = UInt8[Tensor, "b f c h w"]
Features = Float[Tensor, "n d"]
Images = UInt8[Tensor, "n 3 h w"]
FRAMES_AT_ONCE = 64


@dataclass(frozen=True)
class Extractor:
    """`look` maps uint8 images `n 3 h w` (of="frame") or clips `b f c h w` (of="clip") to features `n d`."""

    name: str
    sha256: str
    of: Literal["frame", "clip"]
    resize: str
    look: Callable[[Tensor], Tensor]
    dtype: str = "float32"

    @torch.no_grad()
    def __call__(self, video: Video) -> Features:
        """Features, clips first, and within them frames."""
        video = video.cpu().expand(-1, -1, 3, -1, -1)
        with torch.autocast("cpu", enabled=False):
            if self.of == "clip":
                return self.look(video).float()
            images = video.flatten(0, 1)
            return torch.cat([self.look(part).float().flatten(1) for part in images.split(FRAMES_AT_ONCE)])


@cache
def random_features() -> Extractor:
    """Fixed random convolutions that come with the suite (kd_rand, fd_rand)."""
    own = ClipFeatures.load()
    return Extractor("rand", own.extractor_hash, "clip", "32 x 32, bilinear, antialiased", own)


@cache
def inverse_dynamics_features(pinned: Pinned) -> Extractor:
    """The encoder of an inverse-dynamics network, at the size it was trained on (kd_idm, fd_idm)."""
    reader = load_reader(pinned)
    _, height, width = reader.trained.frame_shape
    kernel = f"{height} x {width}, bilinear, antialiased where another size"
    return Extractor("idm", reader.sha256, "clip", kernel, lambda v: reader.network.features(resized(v, height, width)))


def vae_features(autoencoder: KLAutoencoder) -> Extractor:
    """Features of an autoencoder's latents (kd_vae, fd_vae).

    By clip: mean over frames of every channel's mean and spread over the picture, and mean length of their change.
    """

    def look(video: Tensor) -> Tensor:
        factor = autoencoder.factor
        height, width = (max(1, round(side / factor)) * factor for side in video.shape[-2:])
        latents = autoencoder.encode(resized(video, height, width)).flatten(3)
        frames = torch.cat([latents.mean(-1), latents.std(-1, correction=0)], dim=2)
        return torch.cat([frames.mean(1), frames.diff(dim=1).abs().mean(1)], dim=1)

    kernel = f"to multiples of {autoencoder.factor}, bilinear, antialiased"
    return Extractor("vae", autoencoder.sha256, "clip", kernel, look)


@cache
def inception(pinned: Pinned) -> Extractor:
    """The published TorchScript Inception (2015-12-05, 2048 features) of FID and KID; it resizes to 299 itself."""
    network = read_script(pinned)
    return Extractor(
        "inception", pinned.sha256, "frame", "299 x 299 by the network", lambda x: network(x, return_features=True)
    )


@cache
def i3d(pinned: Pinned) -> Extractor:
    """The published TorchScript I3D (Kinetics-400 logits) of FVD, as StyleGAN-V calls it; ten frames or more."""
    network = read_script(pinned)

    def look(video: Tensor) -> Tensor:
        if video.shape[1] < 10:
            raise ValueError(f"FVD's network needs clips of at least 10 frames, got {video.shape[1]}")
        x = video.transpose(1, 2).float()
        return torch.cat([network(p, rescale=True, resize=True, return_features=True) for p in x.split(4)])

    return Extractor("i3d", pinned.sha256, "clip", "224 x 224 by the network", look)


@cache
def torchvision_inception(pinned: Pinned) -> Extractor:
    """torchvision's inception_v3 as WorldGen calls it, for its KID and no other.

    Pixels in [0, 1], resized and not rounded. `transform_input` is what torchvision sets for its own weights: it turns
    ImageNet-normalised input into the [-1, 1] that these weights were trained on. WorldGen does not normalise first, so
    its network sees pixels squeezed into about [-0.19, 0.43]; the number is comparable with that project's alone.
    """
    from torchvision.models import inception_v3  # noqa: PLC0415  takes seconds that other extractors need not wait

    network = inception_v3(weights=None, transform_input=True, aux_logits=True, init_weights=False)
    _load(network, read_state(pinned), pinned)
    setattr(network, "fc", nn.Identity())  # noqa: B010  typed as Linear
    network.eval()

    def look(x: Tensor) -> Tensor:
        return network(F.interpolate(x.float() / 255, size=(299, 299), mode="bilinear", align_corners=False))

    return Extractor("worldgen", pinned.sha256, "frame", "299 x 299, bilinear, not antialiased, not rounded", look)


@cache
def timm_features(model: str, pinned: Pinned) -> Extractor:
    """A timm backbone with local weights, fed as its own data config says."""
    import timm  # noqa: PLC0415  takes seconds
    from timm.data.config import resolve_model_data_config  # noqa: PLC0415

    network = timm.create_model(model, pretrained=False)
    _load(network, read_state(pinned), pinned)
    network.reset_classifier(0)  # pyright: ignore[reportCallIssue]
    network.eval()
    config = resolve_model_data_config(network)
    _, height, width = config["input_size"]
    mean, std = (torch.tensor(config[name]).reshape(3, 1, 1) for name in ("mean", "std"))
    look = lambda x: network((resized(x, height, width).float() / 255 - mean) / std)  # noqa: E731
    kernel = f"{height} x {width}, bilinear, antialiased"
    return Extractor(f"timm_{model}", pinned.sha256, "frame", kernel, look)


def resized(x: UInt8[Tensor, "... c h w"], height: int, width: int) -> Tensor:
    """Bilinear and antialiased to another size, still uint8; untouched where it is that size."""
    if x.shape[-2:] == (height, width):
        return x
    flat = x.reshape(-1, *x.shape[-3:]).float()
    small = F.interpolate(flat, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    return small.round().clamp(0, 255).to(torch.uint8).reshape(*x.shape[:-2], height, width)


def _load(network: nn.Module, weights: dict[str, Tensor], pinned: Pinned) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{pinned.path} does not fit {type(network).__name__}: {str(error)[:300]}") from error
