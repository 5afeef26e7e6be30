"""One large picture of a map, split in vertical bands, and walks over it that are drawn and not stored.

    <root>/world_map.png    RGB; from left to right a band for training, validation and test, with a guard between
    <root>/unseen_map.png   RGB, optional: a map that no training saw

A walk is a crop that an action moves by `shift` pixels. Where the band ends the move is clamped:
it is shorter, or none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats.episode import Episode, produced_actions
from wm_lightning.randomness import generator

MOVES = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}  # of the view: row, column
SPEC = ActionSpec(tuple(MOVES), (0.0,) * len(MOVES), (1.0,) * len(MOVES), "discrete")
MAP, UNSEEN = "world_map.png", "unseen_map.png"


@dataclass(frozen=True)
class Band:
    """Columns left..right-1 of a map."""

    left: int
    right: int


@dataclass(frozen=True)
class Walk:
    """How crops of `height` x `width` pixels walk: `shift` pixels an action, `length` frames, drawn from `seed`."""

    height: int
    width: int
    shift: int
    length: int
    seed: int


def bands(width: int, shares: Mapping[str, float], guard: int) -> dict[str, Band]:
    """The bands of a map `width` pixels wide, from left to right in the order of `shares`, `guard` pixels apart.

    Raises ValueError where shares do not add up to 1 or nothing is left beside the guards.
    """
    usable = width - guard * (len(shares) - 1)
    if min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6 or guard < 0 or usable < len(shares):
        raise ValueError(
            f"data.bands={dict(shares)} must be positive and add up to 1, and data.guard={guard} leave some of a map "
            f"of {width} columns"
        )
    found, left, share = {}, 0.0, 0.0
    for number, (name, part) in enumerate(shares.items()):
        left, share = round(share * usable) + number * guard, share + part
        found[name] = Band(int(left), round(share * usable) + number * guard)
    return found


def read_map(path: Path) -> UInt8[np.ndarray, "c h w"]:
    """The pixels of a map. Raises ValueError naming the file where it is missing, damaged or no RGB picture."""
    try:
        with Image.open(path) as image:
            if image.mode != "RGB":
                raise ValueError(f"its mode is {image.mode}, RGB is expected: convert it")
            return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be used as a map ({error})") from error


class MapImageReader:
    """`episodes` walks of one split over a band of a map: start, or centre, uniform, actions uniform."""

    def __init__(
        self,
        path: Path,
        walk: Walk,
        *,
        split: str,
        episodes: int,
        action_shift: int,
        shares: Mapping[str, float] | None,
        guard: int,
    ) -> None:
        """`shares` None: the whole map, no bands. Raises ValueError where a crop and its move do not fit."""
        self.pixels = read_map(path)
        rows, columns = self.pixels.shape[1:]
        self.band = Band(0, columns) if shares is None else bands(columns, shares, guard)[split]
        if rows < walk.height + walk.shift or self.band.right - self.band.left < walk.width + walk.shift:
            raise ValueError(
                f"{path}: the {split} band has {rows} x {self.band.right - self.band.left} pixels, a crop of "
                f"{walk.height} x {walk.width} that moves by {walk.shift} does not fit; use a larger map, smaller "
                f"crops, or other data.bands"
            )
        self.spec, self.action_shift = SPEC, action_shift
        self.walk, self.split, self.episodes = walk, split, episodes

    def __len__(self) -> int:
        return self.episodes

    def length(self, episode: int) -> int:
        """Number of frames of a walk: the same for all."""
        return self.walk.length

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """Frames start..stop-1 of a walk; truth holds the crop's `position` (row, column of its corner, in pixels)."""
        choices, position = self._steps(episode)
        video = self._seen(position[start:stop])
        stored = np.eye(len(MOVES), dtype=np.float32)[choices]
        produced = produced_actions(stored, start, stop, self.action_shift)
        return Episode(video, produced.actions, produced.state, {"position": position[start:stop]})

    def branch(
        self,
        state: Mapping[str, Int64[np.ndarray, "n 2"]],
        actions: Float[np.ndarray, "n f 4"],
        chance: Float[np.ndarray, "n f 0"],
    ) -> tuple[UInt8[np.ndarray, "n f1 h w 3"], dict[str, Int64[np.ndarray, "n f1 2"]]]:
        """What follows from the `position` of `n` walks under these actions: pictures and positions from it on.

        Actions are one-hots of `MOVES`, as they are stored. Where the band ends a move is clamped. `chance` is empty:
        nothing but actions moves a crop. Raises ValueError where a position lies outside the band.
        """
        low, high = self._corners
        if ((state["position"] < low) | (state["position"] > high)).any():
            raise ValueError(
                f"positions must lie within {low.tolist()} and {high.tolist()}, the corners of the {self.split} band; "
                f"take those of this split's own truth"
            )
        position = self._walked(state["position"], actions.argmax(-1))
        video = np.stack([self._seen(walk) for walk in position])
        return np.ascontiguousarray(video.transpose(0, 1, 3, 4, 2)), {"position": position}

    @property
    def _corners(self) -> Int64[np.ndarray, "2 2"]:
        """The first and the last place of a crop's corner."""
        last = (self.pixels.shape[1] - self.walk.height, self.band.right - self.walk.width)
        return np.array([(0, self.band.left), last], np.int64)

    def _seen(self, position: Int64[np.ndarray, "f 2"]) -> UInt8[np.ndarray, "f c h w"]:
        height, width = self.walk.height, self.walk.width
        return np.stack([self.pixels[:, y : y + height, x : x + width] for y, x in position])

    def _walked(
        self, start: Int64[np.ndarray, "n 2"], choices: Int64[np.ndarray, "n f"]
    ) -> Int64[np.ndarray, "n f1 2"]:
        """The positions from the start on, under these choices."""
        low, high = self._corners
        moves, position = self.walk.shift * np.array(list(MOVES.values()))[choices], [start]
        for frame in range(choices.shape[1]):
            position.append(np.clip(position[-1] + moves[:, frame], low, high))
        return np.stack(position, 1)

    def _steps(self, episode: int) -> tuple[Int64[np.ndarray, "t"], Int64[np.ndarray, "t 2"]]:
        """The choice made at every frame, which leads to the next, and the position there."""
        walk = self.walk
        source = generator(walk.seed, f"map walk of {self.split}", episode)
        low, high = self._corners
        start = source.integers(low, high + 1)
        choices = source.integers(len(MOVES), size=walk.length)
        return choices, self._walked(start[None], choices[None, :-1])[0]
