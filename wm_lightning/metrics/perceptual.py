"""Perceptual distances of frames by horizon: LPIPS and DreamSim of pinned local weights, and one of random features."""

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
import torchmetrics.functional.image.lpips as lpips_code
from jaxtyping import Float
from torch import Tensor

from wm_lightning.metrics.features import ClipFeatures, to_size
from wm_lightning.metrics.pinned import Pinned, file_hash, read_script, read_state
from wm_lightning.metrics.video import Frames, HorizonMean

# Which layers of torchvision's backbones (`features.N`) LPIPS looks through.
LAYERS = {"alex": 12, "vgg": 30}
AT_ONCE = 32


class HorizonLPIPS(HorizonMean):
    """LPIPS (Zhang et al., 2018; version 0.1) by horizon: torchmetrics' network on torchvision's backbone weights.

    `extractor_hash` joins the hash of the backbone's file with that of the linear layers, which torchmetrics brings.
    """

    higher_is_better = False

    def __init__(self, *, net: Literal["alex", "vgg"], weights: Pinned, context: int, horizon: int) -> None:
        super().__init__(context=context, horizon=horizon)
        network = lpips_code._LPIPS(pretrained=True, net=net, pnet_rand=True)
        own = {name.split(".", 1)[1]: name for name in network.net.state_dict()}
        given = {k.removeprefix("features."): v for k, v in read_state(weights).items() if k.startswith("features.")}
        if set(own) - set(given):
            raise ValueError(
                f"{weights.path} is no {net} of torchvision: features.{sorted(set(own) - set(given))[0]} is missing"
            )
        network.net.load_state_dict({own[name]: given[name] for name in own})
        linear = Path(lpips_code.__file__).parent / "lpips_models" / f"{net}.pth"
        self.extractor_hash = f"{weights.sha256}+{file_hash(linear)}"
        # Not a submodule: neither moves nor checkpoints of an owner reach it.
        self._network = [network]

    @torch.no_grad()
    def measure(self, generated: Frames, truth: Frames) -> Float[Tensor, "n"]:
        """LPIPS per frame, 0 for equal frames."""
        pairs = zip(generated.split(AT_ONCE), truth.split(AT_ONCE), strict=True)
        return torch.cat([self._network[0](x / 127.5 - 1, y / 127.5 - 1).reshape(-1) for x, y in pairs])


class HorizonDreamSim(HorizonMean):
    """DreamSim (Fu et al., 2023) by horizon, from a TorchScript export: (x, y) in [0, 1] at 224 x 224 -> distance."""

    higher_is_better = False

    def __init__(self, *, weights: Pinned, context: int, horizon: int) -> None:
        super().__init__(context=context, horizon=horizon)
        self.extractor_hash = weights.sha256
        self._network = [read_script(weights)]

    @torch.no_grad()
    def measure(self, generated: Frames, truth: Frames) -> Float[Tensor, "n"]:
        """DreamSim per frame."""
        pairs = zip(generated.split(AT_ONCE), truth.split(AT_ONCE), strict=True)
        return torch.cat([self._network[0](_square(x), _square(y)).reshape(-1) for x, y in pairs])


class HorizonPerceptual(HorizonMean):
    """LPIPS' formula on the suite's fixed random features, by horizon: no weights are needed, and no LPIPS compares.

    Mean over places of the squared distance of channels scaled to unit length, summed over two layers (Zhang et al.,
    2018, eq. 1 with all weights 1).
    """

    higher_is_better = False

    def __init__(self, *, features: ClipFeatures, context: int, horizon: int, **metric: Any) -> None:
        super().__init__(context=context, horizon=horizon, **metric)
        self.extractor_hash = features.extractor_hash
        self._features = [features]

    @torch.no_grad()
    def measure(self, generated: Frames, truth: Frames) -> Float[Tensor, "n"]:
        """The distance per frame, 0 for equal frames."""
        values = []
        for x, y in zip(generated.split(AT_ONCE), truth.split(AT_ONCE), strict=True):
            seen = (self._features[0].maps(to_size(frames[:, None].cpu().to(torch.uint8))[:, 0]) for frames in (x, y))
            layers = zip(*seen, strict=True)
            values.append(sum((_unit(a) - _unit(b)).square().sum(1).mean((1, 2)) for a, b in layers))
        return torch.cat(values)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=1, eps=1e-6)


def _square(x: Frames) -> Float[Tensor, "n c 224 224"]:
    """As DreamSim's own preprocessing: 224 x 224, bicubic, antialiased."""
    return F.interpolate(x / 255, size=(224, 224), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


class HorizonMSE(HorizonMean):
    """Mean squared error by horizon, pixels in [0, 1]."""

    higher_is_better = False

    def measure(self, generated: Frames, truth: Frames) -> Float[Tensor, "n"]:
        """MSE per frame."""
        return ((generated - truth) / 255).square().mean((1, 2, 3))
