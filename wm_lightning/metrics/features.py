"""Features of whole clips from a fixed random network, for distances that need no downloaded weights.

The weights lie in the repository, pinned by their SHA-256, because random generators change between
library versions. A distance on these features is called `kd_rand` and never FID, KID or FVD: it can
be compared with distances of the same `extractor_hash` only.
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

ASSET = Path(__file__).parent / "assets" / "random_features.safetensors"
SHA256 = "a54bc5f3bfdc356163aabc9e2589a793fecbe1c0d2ad8d1274caf422771b158c"
VERSION = "kd_rand 1"  # what the code below does with the weights; a change of it needs a new number

# Side in pixels that every frame is resized to, with torch's bilinear kernel, antialiased.
SIZE = 32
# Weight and bias shapes: two layers over frames (2-D), two over differences of frames (3-D).
SHAPES = {
    "frames.0": (32, 3, 5, 5),
    "frames.1": (64, 32, 3, 3),
    "changes.0": (32, 3, 3, 5, 5),
    "changes.1": (64, 32, 3, 3, 3),
}
Video = UInt8[Tensor, "b f c h w"]
Features = Float[Tensor, "b d"]


class ClipFeatures(nn.Module):
    """Maps clips `b f c h w` (uint8, at least two frames, one or three channels) to features `b d`.

    Looks at frames and at differences of consecutive frames. Always computed on the CPU in float32,
    whatever autocast and device the caller uses, so that a number does not depend on the machine.
    Frames of any size are squeezed to 32 x 32 pixels.
    """

    name = "kd_rand"
    dim = 256

    def __init__(self, weights: dict[str, Tensor], extractor_hash: str, *, batch_size: int) -> None:
        """`batch_size` clips are in work at once; it bounds the memory and changes no value."""
        super().__init__()
        self.extractor_hash = extractor_hash
        self.batch_size = batch_size
        # A plain mapping and no buffers: neither checkpoints nor moves of an owning module reach it.
        self.weights = {key: value.float() for key, value in weights.items()}

    @classmethod
    def load(cls, path: Path = ASSET, *, sha256: str = SHA256, batch_size: int = 16) -> "ClipFeatures":
        """The extractor of the repository. Raises ValueError where the file is not the pinned one."""
        if not path.is_file():
            raise ValueError(f"{path} is missing: it belongs to the package; restore it from the repository")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha256:
            raise ValueError(f"{path} has SHA-256 {found}, expected {sha256}: restore it from the repository")
        with safe_open(path, framework="pt") as file:
            version = (file.metadata() or {}).get("version")
            if version != VERSION:
                raise ValueError(f"{path} is for {version!r}, this code is {VERSION!r}: restore it from the repository")
            weights = {key: file.get_tensor(key) for key in file.keys()}
        return cls(weights, found, batch_size=batch_size)

    @torch.no_grad()
    def forward(self, video: Video) -> Features:
        """Features `b d` of the clips, float32 on the CPU; clips are independent of one another."""
        check(video)
        with torch.autocast("cpu", enabled=False):
            return torch.cat([self._features(part.cpu()) for part in video.split(self.batch_size)])

    @torch.no_grad()
    def maps(self, frames: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n c1 h1 w1"], Float[Tensor, "n c2 h2 w2"]]:
        """What both layers over single frames see of frames in [-1, 1], `n 32 h w` and `n 64 h/2 w/2`."""
        with torch.autocast("cpu", enabled=False):
            first, last = self._layers(frames, "frames", F.conv2d)
        return first, last

    @torch.no_grad()
    def of_frames(self, video: Video) -> Float[Tensor, "b f e"]:
        """Features of every frame by itself: means and maxima over its places."""
        parts = []
        for part in video.split(self.batch_size):
            x = to_size(part.cpu())
            seen = self.maps(x.flatten(0, 1))[1].unflatten(0, x.shape[:2])
            parts.append(torch.cat([seen.mean(dim=(3, 4)), seen.amax(dim=(3, 4))], dim=2))
        return torch.cat(parts)

    def _features(self, video: Video) -> Features:
        x = to_size(video)
        frames = self._layers(x.flatten(0, 1), "frames", F.conv2d)[-1].unflatten(0, x.shape[:2])
        changes = self._layers((x[:, 1:] - x[:, :-1]).transpose(1, 2), "changes", F.conv3d)[-1]
        return torch.cat(
            [
                frames.mean(dim=(1, 3, 4)),
                frames.amax(dim=(3, 4)).mean(dim=1),
                changes.mean(dim=(2, 3, 4)),
                changes.std(dim=(2, 3, 4)),
            ],
            dim=1,
        )

    def _layers(self, x: Tensor, stream: str, convolve: Callable[..., Tensor]) -> list[Tensor]:
        outputs = []
        for layer in range(2):
            weight, bias = (self.weights[f"{stream}.{layer}.{part}"] for part in ("weight", "bias"))
            stride = (1,) * (weight.ndim - 4) + (2, 2)
            x = convolve(x, weight, bias, stride, tuple(side // 2 for side in weight.shape[2:])).relu()
            outputs.append(x)
        return outputs


def check(video: Video) -> None:
    """Raises ValueError where no features are defined: one frame, or channels other than 1 or 3."""
    if video.shape[1] < 2:
        raise ValueError(f"features of a clip need at least 2 frames, got {tuple(video.shape)} (b f c h w)")
    if video.shape[2] not in (1, 3):
        raise ValueError(f"features need 1 or 3 channels, got {tuple(video.shape)} (b f c h w)")


def to_size(video: Video) -> Float[Tensor, "b f 3 side side"]:
    """The clips as RGB in [-1, 1] with square frames of SIZE pixels (bilinear, antialiased)."""
    b, f, c, _, _ = video.shape
    x = video.flatten(0, 1).float() / 127.5 - 1.0
    x = F.interpolate(x, size=(SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    return x.expand(-1, 3, -1, -1).unflatten(0, (b, f)) if c == 1 else x.unflatten(0, (b, f))


def normal(bits: np.random.Philox, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 draws by Box-Muller from raw bits.

    NumPy promises the stream of raw bits for ever, but not that of its own `standard_normal`.
    """
    count = math.prod(shape)
    uniform = (np.asarray(bits.random_raw(2 * count)) >> np.uint64(11)) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log1p(-uniform[:count]))
    draws = radius * np.cos(2.0 * np.pi * uniform[count:])
    return torch.from_numpy(draws.astype(np.float32)).reshape(shape)


def draw(seed: int) -> dict[str, Tensor]:
    """Random weights of He scale and small random biases.

    Every other filter of a first layer sums to zero over its window and sees edges; the others see colour too.
    """
    bits = np.random.Philox(key=seed)
    weights = {}
    for name, shape in SHAPES.items():
        weight = normal(bits, shape) * math.sqrt(2.0 / math.prod(shape[1:]))
        if name.endswith(".0"):
            spatial = tuple(range(2, weight.ndim))
            weight[::2] -= weight[::2].mean(dim=spatial, keepdim=True)
        weights[f"{name}.weight"] = weight
        weights[f"{name}.bias"] = 0.1 * normal(bits, shape[:1])
    return weights


def write(path: Path, seed: int) -> str:
    """Draws the weights, writes them to `path` and returns the SHA-256 to pin (maintainers only)."""
    details = json.dumps({"seed": seed, "size": SIZE, "resize": "bilinear antialiased", "dtype": "float32"})
    save_file(draw(seed), path, metadata={"version": VERSION, "details": details})
    return hashlib.sha256(path.read_bytes()).hexdigest()
