"""Weights of a bidirectional video network made those of a causal one (Vid2World 2505.14357, section 3.1).

A convolution along time with taps −m..m becomes one with taps −2m..0 of the same size. Biases and all else stay.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

Mode = Literal["shift", "masked", "extrapolative"]
Kernel = Float[Tensor, "o i taps *rest"]
# Convolutions along time, by their names in a VideoUNet.
TEMPORAL = re.compile(r"\.temporal\.\d+\.conv\.weight$")
HEAD = "head.conv.weight"


def shifted(weight: Kernel) -> Kernel:
    """The same taps, read 2m..0 frames back: the output comes m frames late."""
    return weight.clone()


def masked(weight: Kernel) -> Kernel:
    """The taps of past and present where they were; those of the future are dropped."""
    half = weight.shape[2] // 2
    return torch.cat([torch.zeros_like(weight[:, :, :half]), weight[:, :, : half + 1]], dim=2)


def extrapolative(weight: Kernel, window: int) -> Kernel:
    """As `masked`, the future frames being extrapolated from the last `window` by a straight line (least squares).

    The frame k ahead is sum_j gamma[k, j] of the frame j back (`line_weights`), so a tap of the past takes its share of
    every tap of the future. Exact on signals that are affine in time. Raises ValueError for a window of fewer than
    two frames, or of more than the kernel has taps.
    """
    taps, half = weight.shape[2], weight.shape[2] // 2
    if not 2 <= window <= taps and half:
        raise ValueError(f"a line through {window=} frames needs 2 to {taps} of them, as many as the kernel has taps")
    if not half:
        return weight.clone()
    gamma = line_weights(half, window).to(weight)
    future = torch.einsum("o i k ..., k j -> o i j ...", weight[:, :, half + 1 :], gamma)
    made = masked(weight)
    made[:, :, taps - window :] += future.flip(2)
    return made


def line_weights(ahead: int, window: int) -> Float[Tensor, "ahead window"]:
    """gamma[k − 1, j]: what the frame j back weighs in the line through the last `window` frames, taken k frames ahead.

    1 / window + (k − mu)(tau_j − mu) / S, times counted from now, with mean mu, and S = window (window² − 1) / 12.
    """
    # With values even where modules are being built without storage, to be checked.
    exact: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
    back = torch.arange(window, **exact)
    mean, spread = -(window - 1) / 2, window * (window**2 - 1) / 12
    reach = torch.arange(1, ahead + 1, **exact) - mean
    return 1 / window + reach[:, None] * (-back - mean)[None, :] / spread


@dataclass(frozen=True)
class Transfer:
    """How convolutions along time become causal; `window` is that of "extrapolative".

    With `head_height` the head's becomes so along the image's height, rows taken as frames: a slip of Vid2World's
    published code, which the weights that it trained ask for.
    """

    mode: Mode
    window: int
    head_height: bool = False

    def kernel(self, weight: Kernel) -> Kernel:
        """The causal kernel of a centred one, of the same shape. Raises ValueError for an even number of taps."""
        if weight.shape[2] % 2 == 0:
            raise ValueError(f"a kernel of {weight.shape[2]} taps has no centre; it may be causal already")
        if self.mode == "extrapolative":
            return extrapolative(weight, self.window)
        return shifted(weight) if self.mode == "shift" else masked(weight)

    def weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All weights of a VideoUNet: convolutions that are to be causal made so, and no other changed."""
        return {name: self.kernel(value) if self._changes(name) else value for name, value in weights.items()}

    def _changes(self, name: str) -> bool:
        return TEMPORAL.search(name) is not None or (self.head_height and name == HEAD)
