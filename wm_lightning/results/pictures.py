"""Rollouts as pictures: a looping GIF, strips of frames as PNG, and mp4 files for loggers.

Small frames are enlarged by repeating pixels, so that they show what the network made.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from io import BytesIO
from pathlib import Path

import av
import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PAPER, INK, FAINT, GIVEN, GENERATED = "#ffffff", "#1d1d1f", "#8a8a8e", "#b9b9be", "#3366aa"
GAP, MARGIN = 6, 12


@dataclass(frozen=True)
class Film:
    """One row of a picture: a label and its clips, all films of a picture with equal shapes."""

    label: str
    video: UInt8[Tensor, "n f c h w"]


@dataclass(frozen=True)
class Grid:
    """Where labels and tiles of a picture stand, in pixels."""

    label: int  # width of the column of labels
    width: int
    height: int  # of one tile
    top: int  # first row of tiles

    def corner(self, row: int, column: int) -> tuple[int, int]:
        """Upper left corner of a tile."""
        return self.label + column * (self.width + GAP), self.top + row * (self.height + GAP)


def draw_strips(
    path: Path, films: Sequence[Film], *, context: int, clips: int, columns: int, side: int, caption: str
) -> None:
    """Writes a PNG: a block for each of `clips` clips, films as rows, up to `columns` frames evenly spread.

    The last given frame comes first, the last generated one last; `side` is about the side of a tile in pixels.
    """
    tiles = _tiles(films, clips, side)
    frames = tiles[0].shape[1]
    first = max(context - 1, 0)
    shown = sorted(set(np.linspace(first, frames - 1, min(columns, frames - first)).round().astype(int).tolist()))
    height, width = tiles[0].shape[2:4]
    label = _label_width(films)
    across = label + len(shown) * (width + GAP) - GAP + MARGIN
    lines = _wrap(caption, across)
    head = MARGIN + 17 * len(lines) + 4
    block = 22 + len(films) * (height + GAP) + MARGIN
    canvas = Image.new("RGB", (across, head + len(tiles[0]) * block), PAPER)
    draw = ImageDraw.Draw(canvas)
    _caption(draw, lines)
    for clip in range(len(tiles[0])):
        grid = Grid(label, width, height, head + clip * block + 22)
        for column, frame in enumerate(shown):
            x, y = grid.corner(0, column)
            text = "given" if frame < context else f"+{frame - context + 1}"
            draw.text((x + width // 2, y - 6), text, fill=FAINT, font=_font(11), anchor="ms")
        pictures = [[film[clip, frame] for frame in shown] for film in tiles]
        _paste(canvas, grid, films, pictures, [frame < context for frame in shown])
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(path, format="PNG", optimize=True)


def draw_gif(
    path: Path,
    films: Sequence[Film],
    *,
    context: int,
    clips: int,
    side: int,
    fps: float | int,
    caption: str,
    most_bytes: int,
) -> None:
    """Writes a GIF that loops for ever: films as rows, clips as columns, the last frame held.

    Shows up to `clips` clips, fewer where the file would be larger than `most_bytes` (one clip is always shown).
    """
    tiles = _tiles(films, clips, side)
    hold = [round(1000 / fps)] * (tiles[0].shape[1] - 1) + [1200]
    for count in range(len(tiles[0]), 0, -1):
        content = _gif(_pages(films, [film[:count] for film in tiles], context, caption), hold)
        if len(content) <= most_bytes:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def draw_side_by_side(
    path: Path, films: Sequence[Film], *, context: int, side: int, columns: int, fps: float | int, caption: str
) -> None:
    """Writes one video of the first clip of all films, each under its label, `columns` of them in a row.

    A GIF that loops for ever at `path`, and the same as mp4 beside it.
    """
    tiles = [film[0] for film in _tiles(films, 1, side)]
    pages = _cells([film.label for film in films], tiles, context, columns, caption)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_gif(pages, [round(1000 / fps)] * (len(pages) - 1) + [1200]))
    _encode(path.with_suffix(".mp4"), np.stack([np.asarray(page) for page in pages]), fps)


def _cells(
    labels: Sequence[str], tiles: Sequence[np.ndarray], context: int, columns: int, caption: str
) -> list[Image.Image]:
    """One picture per frame: tiles `f h w 3` in rows of `columns`, each under its label."""
    frames, height, width = tiles[0].shape[:3]
    columns, head = min(columns, len(tiles)), 18
    wide = max(width, *(round(_font(12).getlength(label)) for label in labels)) + GAP
    across = max(2 * MARGIN + columns * wide - GAP, 320)
    lines = _wrap(caption, across)
    top = MARGIN + 17 * len(lines) + 28
    size = (across, top + -(-len(tiles) // columns) * (height + head + GAP) + MARGIN)
    pages = []
    for frame in range(frames):
        canvas = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(canvas)
        _caption(draw, lines)
        _progress(draw, Grid(MARGIN, width, height, top), across, frame, frames, context)
        for place, (label, tile) in enumerate(zip(labels, tiles, strict=True)):
            x, y = MARGIN + place % columns * wide, top + head + place // columns * (height + head + GAP)
            draw.text((x, y - 4), label, fill=INK, font=_font(12), anchor="ls")
            canvas.paste(Image.fromarray(tile[frame]), (x, y))
            if frame < context:
                draw.rectangle((x - 2, y - 2, x + width + 1, y + height + 1), outline=GIVEN, width=2)
        pages.append(canvas)
    return pages


def _gif(pages: Sequence[Image.Image], hold: Sequence[int]) -> bytes:
    """A GIF that shows each page for so many milliseconds, and loops for ever."""
    first, *rest = _one_palette(pages)
    content = BytesIO()
    first.save(content, "GIF", save_all=True, append_images=rest, duration=list(hold), loop=0, optimize=False)
    return content.getvalue()


def _pages(films: Sequence[Film], tiles: Sequence[np.ndarray], context: int, caption: str) -> list[Image.Image]:
    """One picture per frame, all of the same size."""
    count, frames, height, width = tiles[0].shape[:4]
    label = _label_width(films)
    across = max(label + count * (width + GAP) - GAP + MARGIN, 320)
    lines = _wrap(caption, across)
    grid = Grid(label, width, height, MARGIN + 17 * len(lines) + 28)
    size = (across, grid.top + len(films) * (height + GAP) + MARGIN - GAP)
    pages = []
    for frame in range(frames):
        canvas = Image.new("RGB", size, PAPER)
        draw = ImageDraw.Draw(canvas)
        _caption(draw, lines)
        _progress(draw, grid, across, frame, frames, context)
        given = [frame < context] * count
        _paste(canvas, grid, films, [[film[clip, frame] for clip in range(count)] for film in tiles], given)
        pages.append(canvas)
    return pages


def write_mp4(path: Path, video: UInt8[Tensor, "f c h w"], *, fps: float | int, side: int) -> None:
    """Writes one clip as H.264 mp4, small frames enlarged to about `side` pixels (even numbers, as H.264 asks)."""
    _encode(path, _enlarge(_channels_last(video[None])[0], side), fps)


def _encode(path: Path, pictures: UInt8[np.ndarray, "f h w 3"], fps: float | int) -> None:
    """Writes H.264; a last odd row or column is left out."""
    height, width = (length - length % 2 for length in pictures.shape[1:3])
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options={"crf": "17"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures[:, :height, :width]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib brings this font along: it is the same on every machine and has the signs used here.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def _tiles(films: Sequence[Film], clips: int, side: int) -> list[np.ndarray]:
    shapes = [(film.label, tuple(film.video.shape)) for film in films]
    if len({shape for _, shape in shapes}) != 1:
        raise ValueError(f"films of a picture must have equal shapes (n f c h w), got {shapes}")
    return [_enlarge(_channels_last(film.video[:clips]), side) for film in films]


def _channels_last(video: UInt8[Tensor, "n f c h w"]) -> np.ndarray:
    pixels = video.cpu().permute(0, 1, 3, 4, 2).numpy()
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def _enlarge(pixels: np.ndarray, side: int) -> np.ndarray:
    """Repeats the pixels of frames `... h w 3` up to `side`; frames that are larger are averaged down to it."""
    height, width = pixels.shape[-3:-1]
    longest = max(height, width)
    if longest <= side:
        return pixels.repeat(side // longest, axis=-3).repeat(side // longest, axis=-2)
    size = (max(width * side // longest, 1), max(height * side // longest, 1))
    flat = pixels.reshape(-1, height, width, 3)
    small = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in flat]
    return np.stack(small).reshape(*pixels.shape[:-3], size[1], size[0], 3)


def _label_width(films: Sequence[Film]) -> int:
    longest = max(_font(12).getlength(line) for film in films for line in film.label.split("\n"))
    return MARGIN + round(longest) + 10


def _wrap(caption: str, width: int) -> list[str]:
    letters = max(int((width - 2 * MARGIN) / _font(12).getlength("n")), 10)
    return textwrap.wrap(caption, letters)


def _caption(draw: ImageDraw.ImageDraw, lines: Sequence[str]) -> None:
    for number, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + 17 * number), line, fill=INK, font=_font(12))


def _progress(draw: ImageDraw.ImageDraw, grid: Grid, right: int, frame: int, frames: int, context: int) -> None:
    """Above the tiles, which frame it is, and a line that fills as the clip goes on."""
    given = frame < context
    text, colour = ("given", FAINT) if given else (f"generated +{frame - context + 1}", GENERATED)
    draw.text((grid.label, grid.top - 10), text, fill=colour, font=_font(12), anchor="ls")
    left, right, y = grid.label, right - MARGIN, grid.top - 6
    draw.line((left, y, right, y), fill="#e6e6ea", width=2)
    at = left + (right - left) * (frame + 1) // frames
    draw.line((left, y, at, y), fill=GIVEN if frame < context else GENERATED, width=2)


def _paste(
    canvas: Image.Image,
    grid: Grid,
    films: Sequence[Film],
    pictures: Sequence[Sequence[np.ndarray]],
    given: Sequence[bool],
) -> None:
    """Puts labels and tiles in place; given frames get a grey border, so that nobody takes them for generated."""
    draw = ImageDraw.Draw(canvas)
    for row, (film, line) in enumerate(zip(films, pictures, strict=True)):
        _, y = grid.corner(row, 0)
        place = (grid.label - 10, y + grid.height // 2)
        draw.multiline_text(place, film.label, fill=INK, font=_font(12), anchor="rm", align="right")
        for column, (picture, is_given) in enumerate(zip(line, given, strict=True)):
            x, y = grid.corner(row, column)
            canvas.paste(Image.fromarray(picture), (x, y))
            if is_given:
                draw.rectangle((x - 2, y - 2, x + grid.width + 1, y + grid.height + 1), outline=GIVEN, width=2)


def _one_palette(pages: Sequence[Image.Image]) -> list[Image.Image]:
    """The pages in one palette of 256 colours; a palette of its own for each would make still parts flicker."""
    # Every third pixel of every page: all colours that fill a tile are among them.
    sample = np.concatenate([np.asarray(page)[::3, ::3] for page in pages])
    palette = Image.fromarray(sample).quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)
    return [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
