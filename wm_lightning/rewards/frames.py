"""The frames of a video that a judge is shown."""

import base64
import io
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from wm_lightning.data.formats.picture_files import to_jpeg
from wm_lightning.data.formats.resize import scaled

Encoding = Literal["png", "jpeg"]
Shown = UInt8[np.ndarray, "n rows columns 3"]


def uniform(frames: int, count: int) -> list[int]:
    """Places of `count` frames spread evenly over `frames`, the first and the last among them; all of a short video.

    Raises ValueError for fewer than two places, unless the video has one frame.
    """
    if frames < 1 or (count < 2 and frames > 1):
        raise ValueError(f"{count} of {frames} frames: at least the first and the last must be shown")
    return np.linspace(0, frames - 1, min(frames, count)).round().astype(int).tolist()


def shown(video: UInt8[Tensor, "f 3 h w"], count: int, short_side: int) -> Shown:
    """`count` evenly spread frames, made smaller where their short side is over `short_side` pixels."""
    chosen = video[uniform(len(video), count)].permute(0, 2, 3, 1).cpu().numpy()
    height, width = chosen.shape[1:3]
    scale = short_side / min(height, width)
    if scale >= 1:
        return np.ascontiguousarray(chosen)
    small = scaled(chosen, round(height * scale), round(width * scale))
    return np.ascontiguousarray(np.moveaxis(small, 1, -1))


def data_url(picture: UInt8[np.ndarray, "h w 3"], encoding: Encoding) -> str:
    """The picture inside its own address, as chat endpoints take it; PNG keeps every pixel."""
    return f"data:image/{encoding};base64,{base64.b64encode(_encoded(picture, encoding)).decode()}"


def _encoded(picture: UInt8[np.ndarray, "h w 3"], encoding: Encoding) -> bytes:
    if encoding == "jpeg":
        return to_jpeg(picture)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
