"""Which published metrics can be computed: those whose weights are given as a local file with its SHA-256."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

from wm_lightning.metrics.extractors import (
    Extractor,
    i3d,
    inception,
    inverse_dynamics_features,
    random_features,
    timm_features,
    torchvision_inception,
    vae_features,
)
from wm_lightning.metrics.pinned import Pinned
from wm_lightning.networks.autoencoders import KLAutoencoder

# Canonical name of a distance -> (weights it needs, kind of distance); fallbacks bear the names of their features.
CANONICAL = {"fid": ("inception", "fd"), "kid": ("inception", "kid"), "fvd": ("i3d", "fd"),
             "kid_worldgen": ("inception_torchvision", "kid_worldgen")}  # fmt: skip


@dataclass(frozen=True)
class TimmWeights:
    """A timm model's name and its local weights."""

    model: str
    pinned: Pinned


@dataclass(frozen=True)
class Weights:
    """Pinned files by use, null where there is none; every one is checked when this is built.

    `lpips_alex`, `lpips_vgg`: torchvision's alexnet and vgg16. `inception`, `i3d`, `dreamsim`: TorchScript.
    `inception_torchvision`: torchvision's inception_v3, for kid_worldgen. `timm`: a backbone. `inverse_dynamics`: what
    task=inverse_dynamics wrote. `vae`: an autoencoder, whose latents are features.
    """

    lpips_alex: Pinned | None
    lpips_vgg: Pinned | None
    dreamsim: Pinned | None
    inception: Pinned | None
    inception_torchvision: Pinned | None
    i3d: Pinned | None
    timm: TimmWeights | None
    inverse_dynamics: Pinned | None
    vae: KLAutoencoder | None

    def __post_init__(self) -> None:
        for entry in fields(self):
            given = getattr(self, entry.name)
            if isinstance(given, KLAutoencoder):
                _ = given.sha256
            elif given is not None:
                (given.pinned if isinstance(given, TimmWeights) else given).checked()

    def of(self, use: str) -> Pinned | None:
        """The file of a use."""
        return getattr(self, use)

    def fallbacks(self) -> Iterator[Extractor]:
        """Extractors of the suite's own, whose distances are called kd_NAME and fd_NAME."""
        yield random_features()
        if self.inverse_dynamics is not None:
            yield inverse_dynamics_features(self.inverse_dynamics)
        if self.timm is not None:
            yield timm_features(self.timm.model, self.timm.pinned)
        if self.vae is not None:
            yield vae_features(self.vae)

    def canonical(self, name: str) -> Extractor | None:
        """The extractor of fid, kid, fvd or kid_worldgen; None where its weights are not given."""
        use, _ = CANONICAL[name]
        pinned = self.of(use)
        make = {"inception": inception, "i3d": i3d, "inception_torchvision": torchvision_inception}[use]
        return None if pinned is None else make(pinned)

    def why_not(self, name: str) -> str:
        """Why a canonical metric is not reported, in words."""
        use = CANONICAL[name][0] if name in CANONICAL else name
        return f"needs protocol.weights.{use}: a local file and its SHA-256; nothing is downloaded"
