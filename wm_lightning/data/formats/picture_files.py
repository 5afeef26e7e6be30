"""Single pictures as JPEG (or PNG) bytes."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from wm_lightning.data.formats.video_files import BadFile

# What PIL raises for damaged pictures, by where the damage lies.
DAMAGED = (
    *(UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error),
    *(LookupError, TypeError, ArithmeticError, MemoryError, Image.DecompressionBombError),
)


def to_jpeg(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """The picture at quality 95."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=95)
    return file.getvalue()


def from_bytes(path: Path, data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB picture. Raises BadFile, naming the file it is from, where it cannot be decoded."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))  # which copies in any case
    except DAMAGED as error:
        raise BadFile(path, f"a picture cannot be decoded ({error})") from error
