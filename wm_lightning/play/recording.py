"""What was played, as recordings that data=own reads, and as pictures that move."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from wm_lightning.clip import ActionSpec
from wm_lightning.data.cache import MARKER
from wm_lightning.data.formats.own_writer import write_recording, write_spec
from wm_lightning.data.formats.video_files import Encoding
from wm_lightning.results.pictures import Film, draw_side_by_side

log = logging.getLogger(__name__)

Frames = UInt8[np.ndarray, "f h w 3"]
SMALL = 128  # pixels; smaller frames are enlarged, or H.264 would halve the resolution of their colours
SIDE = 192  # of a panel in GIF and mp4


@dataclass(frozen=True)
class Taken:
    """A recording under way: frames by panel, and the actions between them."""

    frames: tuple[list[Frames], ...]
    actions: list[Float32[np.ndarray, "f a"]] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Frames that were made since it began."""
        return sum(len(actions) for actions in self.actions)


class Recorder:
    """Writes recordings to `folder`: for every panel one of data=own in a folder of the panel's name, and one GIF and
    mp4 of all side by side. One ends by itself after `most` frames."""

    def __init__(
        self, folder: Path, panels: Sequence[str], spec: ActionSpec, *, rest: Mapping[str, float | int], data: str,
        fps: int, most: int,
    ) -> None:  # fmt: skip
        self.folder, self.spec, self.data, self.fps, self.most = folder, spec, data, fps, most
        self.rest = rest
        self.panels = [(name, folder / _folder_name(name)) for name in panels]
        self.taken: Taken | None = None

    @property
    def running(self) -> bool:
        """Whether frames are being kept."""
        return self.taken is not None

    def start(self, shown: Sequence[Frames]) -> None:
        """Begins with the frames that are shown."""
        self.taken = Taken(tuple([frames] for frames in shown))

    def add(self, actions: Float32[np.ndarray, "f a"], frames: Sequence[Frames]) -> str | None:
        """Keeps a decision; where that makes it long enough, ends it and returns where it was left."""
        if self.taken is None:
            return None
        self.taken.actions.append(actions)
        for own, new in zip(self.taken.frames, frames, strict=True):
            own.append(new)
        return self.stop() if self.taken.length >= self.most else None

    def stop(self) -> str | None:
        """Ends and writes the recording; None where there was none, or nothing had happened yet."""
        taken, self.taken = self.taken, None
        if taken is None or not taken.actions:
            return None
        free = (number for number in count() if not (self.folder / f"{number:03d}_simulated.gif").exists())
        name = f"{next(free):03d}"
        # A row is stored at the frame in which its action is chosen; nothing follows the last frame.
        actions = np.concatenate([*taken.actions, np.zeros((1, self.spec.dim), np.float32)])
        actions = np.clip(actions, self.spec.low, self.spec.high).astype(np.float32)
        videos = [np.concatenate(frames) for frames in taken.frames]
        for (_, folder), video in zip(self.panels, videos, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            write_spec(folder, self.spec, self.rest)
            marker = {"world": f"played in {self.data}", "settings": {"fps": self.fps}}
            (folder / MARKER).write_text(json.dumps(marker))
            encoding = Encoding(fps=self.fps, crf=12, preset="veryfast")
            write_recording(folder, name, enlarged(video), actions, self.spec, encoding)
        films = [
            Film(label, torch.from_numpy(video).permute(0, 3, 1, 2)[None])
            for (label, _), video in zip(self.panels, videos, strict=True)
        ]
        caption = f"played in {self.data}, {taken.length} frames"
        where = self.folder / f"{name}_simulated.gif"
        draw_side_by_side(where, films, context=1, side=SIDE, columns=4, fps=self.fps, caption=caption)
        log.info("Recorded: %s", where)
        return str(where)


def enlarged(video: Frames) -> UInt8[np.ndarray, "f rows columns 3"]:
    """Small frames with every pixel repeated, so that their sides are even and colours keep their resolution."""
    times = 1 if min(video.shape[1:3]) >= SMALL and not any(side % 2 for side in video.shape[1:3]) else 4
    return video.repeat(times, axis=1).repeat(times, axis=2)


def _folder_name(panel: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", panel.lower()).strip("_") + "_simulated"
