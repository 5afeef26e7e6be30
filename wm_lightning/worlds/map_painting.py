"""Paints a map as one large picture: continents of fractal noise, shaded relief, rivers, towns, roads and signs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image, ImageDraw

from wm_lightning.randomness import generator

# Colours by height, 0 the deepest sea and 1 the highest peak; the shore lies at SHORE.
SHORE = 0.45
RAMP = {
    0.0: (18, 42, 110), 0.3: (30, 80, 160), 0.44: (80, 150, 205), 0.45: (235, 215, 150), 0.47: (130, 185, 85),
    0.72: (80, 145, 65), 0.84: (140, 120, 85), 0.93: (120, 112, 110), 0.975: (215, 218, 222), 1.0: (250, 250, 252),
}  # fmt: skip
FOREST, RIVER, ROAD, INK, ROOF = (34, 92, 52), (50, 105, 190), (165, 112, 62), (45, 35, 35), (200, 60, 50)
# Rivers and roads are found on a coarser grid.
COARSE = 8
MARGIN = 128

Field = Float[np.ndarray, "rows columns"]
Places = Int64[np.ndarray, "n 2"]  # x, y


@dataclass(frozen=True)
class Density:
    """How many there are of each in a square of 256 x 256 pixels."""

    towns: float | int
    rivers: float | int
    signs: float | int


def paint_map(seed: int, height: int, width: int, density: Density) -> UInt8[np.ndarray, "rows columns 3"]:
    """The picture of map `seed`. Equal arguments give equal pixels with the same libraries."""
    source = generator(seed, "map painting")
    share = height * width / 256**2
    ground = _ranks(fractal(source, height, width, slope=1.9))
    moist = _ranks(fractal(source, height, width, slope=1.6))
    grain = fractal(source, height, width, slope=0.7)
    colours = _colours(ground, moist, grain)
    picture = Image.fromarray(colours)
    draw = ImageDraw.Draw(picture)
    coarse = ground[COARSE // 2 :: COARSE, COARSE // 2 :: COARSE]
    for river in _rivers(source, coarse, round(density.rivers * share)):
        draw.line(river, fill=RIVER, width=2, joint="curve")
    towns = _places(source, ground, round(density.towns * share), SHORE + 0.02, 0.75)
    for road in _roads(source, ground, towns):
        draw.line(road, fill=ROAD, width=2, joint="curve")
    _signs(draw, source, ground, moist, round(density.signs * share))
    for x, y in towns:
        draw.rectangle((x - 3, y - 2, x + 3, y + 3), fill=(240, 230, 210), outline=INK)
        draw.polygon([(x - 4, y - 2), (x + 4, y - 2), (x, y - 6)], fill=ROOF, outline=INK)
    return np.asarray(picture)


def fractal(source: np.random.Generator, height: int, width: int, *, slope: float) -> Field:
    """Noise whose amplitude falls with frequency as f^-slope, of deviation 1."""
    # The transform makes it seamless; it is cut from more, or the map's right end would go on at its left.
    full = (height + MARGIN, width + MARGIN)
    rows, columns = np.fft.fftfreq(full[0])[:, None], np.fft.rfftfreq(full[1])[None]
    # Nothing is larger than a third of the shorter side: every band of a map holds land and sea.
    frequency = np.sqrt(rows**2 + columns**2 + (3.0 / min(height, width)) ** 2)
    spectrum = np.fft.rfft2(source.standard_normal(full)) * frequency**-slope
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, s=full)[:height, :width]
    return field / field.std()


def _ranks(field: Field) -> Field:
    """Every value's rank in 0..1, so that each colour covers a set share of every map."""
    return (field.ravel().argsort().argsort() / (field.size - 1)).reshape(field.shape)


def _colours(ground: Field, moist: Field, grain: Field) -> UInt8[np.ndarray, "rows columns 3"]:
    levels = list(RAMP)
    ramp = np.stack([np.interp(ground, levels, [RAMP[level][c] for level in levels]) for c in range(3)], -1)
    woods = ((moist > 0.6) & (ground > SHORE + 0.03) & (ground < 0.8))[..., None]
    ramp = np.where(woods, 0.3 * ramp + 0.7 * np.array(FOREST), ramp)
    slope_y, slope_x = np.gradient(ground)
    relief = np.clip(1 + 10 * (slope_x + slope_y), 0.6, 1.4)
    light = np.where(ground > SHORE, relief * (1 + 0.07 * grain), 1 + 0.02 * grain)
    return np.clip(ramp * light[..., None], 0, 255).astype(np.uint8)


def _rivers(source: np.random.Generator, coarse: Field, count: int) -> Iterator[list[tuple[float, float]]]:
    """From high ground always to the lowest neighbour, until the sea or a pit; too short ones are left out."""
    high = np.argwhere(coarse > 0.8)
    for place in high[source.permutation(len(high))[:count]]:
        path = [tuple(int(c) for c in place)]
        while coarse[path[-1]] > SHORE - 0.01:
            y, x = path[-1]
            near = [
                (j, i)
                for j in range(max(y - 1, 0), min(y + 2, coarse.shape[0]))
                for i in range(max(x - 1, 0), min(x + 2, coarse.shape[1]))
            ]
            lowest = min(near, key=lambda cell: coarse[cell])
            if lowest == (y, x):
                break
            path.append(lowest)
        if len(path) > 4:
            wobble = source.uniform(-2.5, 2.5, (len(path), 2))
            yield [(x * COARSE + 4 + dx, y * COARSE + 4 + dy) for (y, x), (dy, dx) in zip(path, wobble, strict=True)]


def _places(source: np.random.Generator, ground: Field, count: int, low: float, high: float) -> Places:
    """Up to `count` places (x, y) whose height lies between the two."""
    there = np.argwhere((ground > low) & (ground < high))
    return there[source.integers(len(there), size=count)][:, ::-1].astype(np.int64)


def _roads(source: np.random.Generator, ground: Field, towns: Places) -> Iterator[Sequence[tuple]]:
    """Winding lines from every town to its two nearest, unless much of the way is water."""
    for town in towns:
        for other in towns[np.square(towns - town).sum(1).argsort()[1:3]]:
            points = np.stack([town, other]).astype(float)
            while np.abs(np.diff(points, axis=0)).max() > 16:
                middle = (points[1:] + points[:-1]) / 2
                middle += source.normal(0, 0.12, middle.shape) * np.abs(np.diff(points, axis=0)).max()
                points = np.insert(points, np.arange(1, len(points)), middle, axis=0)
            x, y = np.clip(points.round().astype(int), 0, np.array(ground.shape[::-1]) - 1).T
            if (ground[y, x] > SHORE).mean() > 0.85:
                yield [(float(a), float(b)) for a, b in points]


def _signs(draw: ImageDraw.ImageDraw, source: np.random.Generator, ground: Field, moist: Field, count: int) -> None:
    """Trees where there are woods, peaks on rock, waves on the sea."""
    rows, columns = ground.shape
    for y, x in zip(source.integers(rows, size=count), source.integers(columns, size=count), strict=True):
        here, x, y = ground[y, x], int(x), int(y)
        if here > 0.86:
            draw.line([(x - 5, y + 4), (x, y - 5), (x + 5, y + 4)], fill=INK, width=1)
            draw.polygon([(x - 2, y - 2), (x + 2, y - 2), (x, y - 5)], fill=(255, 255, 255))
        elif here > SHORE + 0.03 and moist[y, x] > 0.6:
            draw.line([(x, y), (x, y + 4)], fill=(80, 50, 30), width=1)
            draw.polygon([(x - 3, y + 1), (x + 3, y + 1), (x, y - 6)], fill=(20, 70, 38))
        elif here < 0.3:
            draw.arc((x - 6, y - 2, x, y + 3), 180, 360, fill=(120, 170, 225))
            draw.arc((x, y - 2, x + 6, y + 3), 180, 360, fill=(120, 170, 225))
