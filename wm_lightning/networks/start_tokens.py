"""Tokens that a network for image-to-video is given of the first frame and of a text that is always empty."""

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wm_lightning.clip import Latents, to_unit
from wm_lightning.networks.autoencoders import Autoencoder, file_hash
from wm_lightning.networks.openclip import OpenClipImage, empty_text_source, read_empty_text

IMAGE, TEXT = "image.safetensors", "empty_text.safetensors"
TEXT_LENGTH = 77

Features = Float[Tensor, "b tokens width"]
States = Float[Tensor, "b length states"]


class StartTokens:
    """Frozen encoders in `folder`, as task=unpack left them: OpenCLIP's of images, and the states of the empty text.

    `decoder` makes the pixels that the encoder reads of a latent (None: frames are pixels in [-1, 1]). Neither module
    nor weights of the network that uses it: checkpoints hold nothing of it, copies of the network share it, and files
    are read on first use. `architecture` is that of OpenCLIP's VisionTransformer.
    """

    def __init__(self, *, folder: str | None, architecture: Mapping[str, Any], decoder: Autoencoder | None) -> None:
        if folder is None or not Path(folder).is_dir():
            raise ValueError(
                f"network.start_tokens.folder={folder} is no folder; name what task=unpack wrote with "
                f"task.empty_text=true, nothing is downloaded"
            )
        self.image, self.text = Path(folder) / IMAGE, Path(folder) / TEXT
        if missing := [str(path) for path in (self.image, self.text) if not path.is_file()]:
            raise ValueError(
                f"network.start_tokens.folder={folder} lacks {' and '.join(missing)}; task=unpack task.empty_text=true "
                f"writes them from a whole checkpoint of DynamiCrafter"
            )
        self.architecture, self.decoder = dict(architecture), decoder
        self._loaded: tuple[OpenClipImage, Tensor] | None = None
        self._lock = Lock()

    def __deepcopy__(self, memo: Any) -> "StartTokens":
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the tokens of a given frame, as plain values: the hashes of the encoders' weights."""
        return {
            "image": file_hash(self.image), "architecture": self.architecture, "text": empty_text_source(self.text)
        }  # fmt: skip

    @torch.no_grad()
    def __call__(self, frames: Latents) -> tuple[Features, States]:
        """Features of the first of `frames` (before the resampler), and the states of the empty text, in float32."""
        first = frames[:, :1].float()
        # Without autocast: a start must not hang on the precision of whoever asks.
        with torch.autocast(frames.device.type, enabled=False):
            pixels = first if self.decoder is None else to_unit(self.decoder.decode(first))
            encoder, states = self._on(frames.device)
            return encoder(pixels[:, 0]), states.expand(len(frames), -1, -1)

    def _on(self, device: torch.device) -> tuple[OpenClipImage, Tensor]:
        # In inference mode, where a validation runs, tensors would be made that no training can take.
        with self._lock, torch.inference_mode(False):
            if self._loaded is None:
                encoder = OpenClipImage(weights=str(self.image), architecture=self.architecture)
                self._loaded = encoder, read_empty_text(self.text, sha256=None).float()
            encoder, states = self._loaded
            self._loaded = encoder.to(device), states.to(device)
            return self._loaded


class TokenShapes(StartTokens):
    """Stands for encoders that need not be there where shapes alone count: zeros in the shapes of their answers.

    `image` tokens of `width` numbers, and the 77 states of a text, `states` wide.
    """

    def __init__(self, *, image: int, width: int, states: int) -> None:
        self.sizes = {"image": image, "width": width, "states": states}

    @property
    def identity(self) -> dict[str, Any]:
        """The shapes."""
        return dict(self.sizes)

    def __call__(self, frames: Latents) -> tuple[Features, States]:
        """Zeros, on the device of `frames`."""
        image = frames.new_zeros(len(frames), self.sizes["image"], self.sizes["width"])
        return image, frames.new_zeros(len(frames), TEXT_LENGTH, self.sizes["states"])
