"""What frozen encoders say of tasks' pictures and texts: each encoded once, and found by its own content.

<folder>/cache.json                     the key and its parts, as a latent cache has them
<folder>/pictures/SHA256.safetensors    `latents` [1 c h w], and `tokens` [n e] where a network takes any
<folder>/texts/SHA256.safetensors       `tokens` [m e] of those that are there, and `there` [n]
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float16, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wm_lightning.clip import Prompt
from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.video_files import BadFile
from wm_lightning.data.latent_cache import KEY, LatentKey, remake

PICTURES, TEXTS = "pictures", "texts"
BY_CONTENT = "whatever they are: every picture and text is found by its content"
Picture = UInt8[np.ndarray, "3 h w"]


@dataclass(frozen=True)
class TaskKey(LatentKey):
    """The key of latents, and what made the features; `encoders` is empty where networks read words themselves."""

    encoders: Mapping[str, Any] = field(default_factory=dict)

    def believing(self, folder: Path) -> "TaskKey":
        """The same key, the hashes of encoders that are not at hand taken from the cache in `folder`."""
        if self.encoders.get("weights", {}) is not None:
            return self
        try:
            stored = json.loads((folder / KEY).read_text())["parts"]["encoders"]["weights"]
        except (OSError, ValueError, KeyError, TypeError):
            return self  # which the check of the key refuses, and says why
        return replace(self, encoders={**self.encoders, "weights": stored})


@dataclass(frozen=True)
class Seen:
    """What is stored of a picture: its latents, and its tokens where a network takes any."""

    latents: Float16[np.ndarray, "1 c rows columns"]
    tokens: Float[Tensor, "n e"] | None


@dataclass(frozen=True)
class TaskCache:
    """The cache in `folder`, whose files are of `key`; files are written whole or not at all."""

    folder: Path
    key: TaskKey

    def seen(self, picture: Picture) -> Seen | None:
        """What is stored of a picture in the data's size; None where nothing is. Raises BadFile where it is damaged."""
        found = self._read(self._picture(picture))
        return None if found is None else Seen(found["latents"].numpy(), found.get("tokens"))

    def heard(self, text: str) -> Prompt | None:
        """The prompt of a text, in one row; None where nothing is stored. Raises BadFile where it is damaged."""
        found = self._read(self._text(text))
        if found is None:
            return None
        tokens, there = found["tokens"], found["there"]
        filled = tokens.new_zeros(len(there), tokens.shape[-1])
        filled[there] = tokens
        return Prompt(filled[None], there[None])

    def keep_picture(self, picture: Picture, seen: Seen) -> int:
        """Stores what is made of a picture; returns the bytes. Raises ValueError where values are not finite."""
        tokens = {} if seen.tokens is None else {"tokens": seen.tokens}
        return self._write(self._picture(picture), {"latents": torch.from_numpy(seen.latents), **tokens})

    def keep_text(self, text: str, prompt: Prompt) -> int:
        """Stores the one row of a text's prompt, without padding; returns the bytes. Raises ValueError as above."""
        [tokens], [there] = prompt.tokens, prompt.there
        return self._write(self._text(text), {"tokens": tokens[there], "there": there})

    def missing(self, what: str) -> str:
        """What to do where something was not encoded."""
        return f"{self.folder} has nothing of {what}; go on with it, into this folder: {remake()}"

    def _picture(self, picture: Picture) -> Path:
        digest = hashlib.sha256(f"{picture.shape}".encode() + np.ascontiguousarray(picture).tobytes())
        return self.folder / PICTURES / f"{digest.hexdigest()}.safetensors"

    def _text(self, text: str) -> Path:
        return self.folder / TEXTS / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"

    def _write(self, path: Path, values: Mapping[str, Tensor]) -> int:
        values = {name: value.detach().cpu().contiguous() for name, value in values.items()}
        if bad := [name for name, value in values.items() if not bool(value.isfinite().all())]:
            raise ValueError(f"{path}: {' and '.join(bad)} are not finite; check the encoders' weights and scale")
        path.parent.mkdir(exist_ok=True)
        with atomic_file(path) as partial:
            save_file(values, partial, metadata={"key": self.key.sha256, "crc": _checksum(values)})
        return path.stat().st_size

    def _read(self, path: Path) -> dict[str, Tensor] | None:
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                values = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise BadFile(path, f"cannot be read ({error}); task=encode makes it again") from error
        if about.get("key") != self.key.sha256 or about.get("crc") != _checksum(values):
            raise BadFile(path, "is damaged or of another cache; task=encode makes it again")
        return values


def stored(cache: TaskCache, picture: Picture) -> Seen:
    """What is stored of a picture. Raises ValueError, saying how it is encoded, where nothing is."""
    if (found := cache.seen(picture)) is None:
        raise ValueError(cache.missing("a picture of these data"))
    return found


def latents_of(cache: TaskCache, video: UInt8[np.ndarray, "1 3 h w"]) -> Float16[np.ndarray, "1 channels rows columns"]:
    """The stored latents of a task's picture. Raises ValueError where there are none."""
    return stored(cache, video[0]).latents


def _checksum(values: Mapping[str, Tensor]) -> str:
    total = 0
    for name in sorted(values):
        total = zlib.crc32(values[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes(), total)
    return f"{total:08x}"
