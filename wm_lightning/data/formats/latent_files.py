"""One episode's latents in one safetensors file: read in stretches, every frame guarded by a checksum.

A file holds `latents` [f c h w] in float16, `actions` [f a] as stored with the recordings (unclipped, unshifted) and
`crc` [f], the CRC-32 of a frame's latents and action together; its header says of which episode and key it is.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np
from jaxtyping import Float16, Float32, UInt32
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.video_files import BadFile

DTYPE = "float16"
# What readers of damaged files raise.
UNREADABLE = (SafetensorError, OSError, KeyError, ValueError)


def file_of(folder: Path, name: str) -> Path:
    """Where the episode of a name is kept; names may hold signs that file names may not."""
    return folder / f"{quote(name, safe=' ')}.safetensors"


def write_latents(
    path: Path, latents: Float16[np.ndarray, "f c h w"], actions: Float32[np.ndarray, "f a"], about: Mapping[str, str]
) -> None:
    """Writes an episode; a reader sees the whole file or none. Raises ValueError where latents are not finite."""
    if not np.isfinite(latents).all():
        raise ValueError(
            f"{path}: latents do not fit into {DTYPE} (infinite or NaN); check autoencoder.scale and its weights"
        )
    arrays = {"latents": latents, "actions": actions, "crc": _checksums(latents, actions)}
    with atomic_file(path) as partial:
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, partial, metadata=dict(about))


def read_about(path: Path) -> tuple[dict[str, str], tuple[int, ...]]:
    """What the header says, and the shape of the latents. Raises BadFile where the file is cut or missing."""
    try:
        with safe_open(path, "np") as file:
            return dict(file.metadata() or {}), tuple(file.get_slice("latents").get_shape())
    except UNREADABLE as error:
        raise BadFile(path, f"cannot be read as latents ({error})") from error


def read_latents(path: Path, start: int, stop: int) -> Float16[np.ndarray, "f c h w"]:
    """Frames start..stop-1, their checksums compared. Raises BadFile where the file is damaged or shorter."""
    return _read(path, slice(start, stop))[0]


def read_whole(path: Path) -> tuple[Float16[np.ndarray, "f c h w"], Float32[np.ndarray, "f a"]]:
    """Latents and actions of an episode, their checksums compared. Raises BadFile where the file is damaged."""
    return _read(path, slice(None))


def _read(path: Path, part: slice) -> tuple[np.ndarray, np.ndarray]:
    try:
        with safe_open(path, "np") as file:
            latents, actions, stored = (file.get_slice(name)[part] for name in ("latents", "actions", "crc"))
    except UNREADABLE as error:
        raise BadFile(path, f"cannot be read as latents ({error})") from error
    wrong = np.flatnonzero(_checksums(latents, actions) != stored)
    if len(wrong):
        raise BadFile(path, f"is damaged at frame {(part.start or 0) + int(wrong[0])}; task=encode makes it again")
    return latents, actions


def _checksums(latents: np.ndarray, actions: np.ndarray) -> UInt32[np.ndarray, "f"]:
    sums = [
        zlib.crc32(action.tobytes(), zlib.crc32(frame.tobytes()))
        for frame, action in zip(latents, actions, strict=True)
    ]
    return np.array(sums, np.uint32)
