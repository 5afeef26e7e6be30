"""What pixels alone say about a picture: is it sharp and lit, and is it none that is there already? (2606.12072)

Measures are taken at one size, so that a threshold means the same for every picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from wm_lightning.data.formats.resize import scaled

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
THUMBNAIL = 8  # pixels a side
LONGEST = 4  # times the short side: what is longer is squashed, so that no strip becomes a huge picture
BLOCK = 256  # pictures held against all earlier ones at once


@dataclass(frozen=True)
class Measures:
    """Of one picture, in grey levels from 0 to 255.

    `sharpness` is the variance of the Laplacian, `luminance` and `contrast` are mean and standard deviation, `black`
    and `white` shares of the pixels, `thumbnail` the bytes of a picture of 8 x 8 in hexadecimal digits.
    """

    sharpness: float
    luminance: float
    contrast: float
    black: float
    white: float
    thumbnail: str


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Pictures are measured with `short_side` pixels, larger and smaller ones alike: those made larger are blurred.

    Grey levels below `near_black` count as black, above `near_white` as white. `most_alike` is the root mean square
    difference of two thumbnails, in grey levels, up to which the second one is a copy.
    """

    short_side: int
    least_sharpness: float
    luminance: Sequence[float]
    near_black: int
    most_black: float
    near_white: int
    most_white: float
    most_alike: float

    def __post_init__(self) -> None:
        low, high = self.luminance
        if self.short_side < THUMBNAIL or not 0 <= low < high <= 255 or self.most_alike < 0:
            raise ValueError(
                f"filters: {self.short_side=} of {THUMBNAIL} or more, {self.luminance=} of two grey levels from 0 to "
                f"255, {self.most_alike=} of 0 or more"
            )

    def measure(self, picture: UInt8[np.ndarray, "h w 3"]) -> Measures:
        """What the filters go by."""
        height, width = picture.shape[:2]
        scale, longest = self.short_side / min(height, width), LONGEST * self.short_side
        video = picture[None].copy()  # what was decoded is read-only, which torch warns of
        small = scaled(video, min(round(height * scale), longest), min(round(width * scale), longest))[0]
        grey: Float[np.ndarray, "rows columns"] = np.tensordot(LUMA, small.astype(np.float32), 1)
        return Measures(
            sharpness=float(laplacian(grey).var(dtype=np.float64)),
            luminance=float(grey.mean(dtype=np.float64)),
            contrast=float(grey.std(dtype=np.float64)),
            black=float((grey < self.near_black).mean()),
            white=float((grey > self.near_white).mean()),
            thumbnail=scaled(video, THUMBNAIL, THUMBNAIL)[0].tobytes().hex(),
        )

    def fault(self, found: Measures) -> str | None:
        """The first filter that a picture does not pass; None where it passes all. A black one is dark, not blurred."""
        low, high = self.luminance
        faults = {
            "too dark": found.luminance < low,
            "too bright": found.luminance > high,
            "mostly black": found.black > self.most_black,
            "mostly white": found.white > self.most_white,
            "blurred": found.sharpness < self.least_sharpness,
        }
        return next((name for name, holds in faults.items() if holds), None)

    def copies(self, found: Sequence[Measures]) -> set[int]:
        """Places of those that look like an earlier one which is no copy itself."""
        if not found:
            return set()
        thumbnails = np.stack([np.frombuffer(bytes.fromhex(one.thumbnail), np.uint8) for one in found])
        return copies(thumbnails, self.most_alike)


def laplacian(grey: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "inner_rows inner_columns"]:
    """The four neighbours' sum less four times a pixel, without the border."""
    inner = grey[1:-1, 1:-1]
    return grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner


def copies(pictures: UInt8[np.ndarray, "n values"], most: float) -> set[int]:
    """Places of rows within a root mean square difference of `most` from an earlier row that is no copy itself."""
    rows = pictures.astype(np.float32) - 128  # small numbers, whose squares lose nothing
    originals: list[int] = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        new = (differences(block, rows[originals]) > most).all(1)
        among = differences(block, block) > most
        own: list[int] = []
        for place in np.flatnonzero(new):
            if among[place, own].all():
                own.append(int(place))
        originals += [start + place for place in own]
    return set(range(len(rows))) - set(originals)


def differences(one: Float[np.ndarray, "n values"], other: Float[np.ndarray, "m values"]) -> np.ndarray:
    """Root mean square differences of all pairs, `n m`."""
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None] - 2 * one @ other.T
    return np.sqrt(np.maximum(squares, 0) / one.shape[1])
