"""Folders of videos without a word about them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wm_lightning.data.formats.video_files import Encoding, encode

ENCODING = Encoding(fps=5, crf=0, preset="ultrafast")
STEP, SIDE = 6, 48  # grey levels from one frame of a counting video to the next, and pixels


def counting(frames: int) -> np.ndarray:
    """A video whose grey tells the number of a frame."""
    grey = (STEP * np.arange(frames)).astype(np.uint8)
    return np.broadcast_to(grey[:, None, None, None], (frames, SIDE, SIDE, 3)).copy()


def counted(video: np.ndarray) -> list[int]:
    """The numbers of these frames in their counting video."""
    return (video.reshape(len(video), -1).mean(1) / STEP).round().astype(int).tolist()


def write_film(path: Path, video: np.ndarray) -> Path:
    """A video without loss worth mentioning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encode(path, video, ENCODING)
    return path


def film_folder(folder: Path, lengths: Sequence[int]) -> Path:
    """Counting videos `NUMBER.mp4` of these lengths."""
    for number, frames in enumerate(lengths):
        write_film(folder / f"{number}.mp4", counting(frames))
    return folder
