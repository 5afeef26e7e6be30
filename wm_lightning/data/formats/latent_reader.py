"""The reader of a latent cache: latents for training, beside the recordings' own pixels for evaluation."""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from wm_lightning.data.formats.episode import Episode
from wm_lightning.data.formats.frame_store import FrameStore
from wm_lightning.data.formats.latent_files import file_of, read_latents
from wm_lightning.data.formats.store_reader import DirectFrames, StoreReader


class LatentReader(StoreReader):
    """Episodes of a latent cache, whose pixels and hidden state are read from `recordings` where `pixels` says so.

    Without pixels a frame of video is 0 x 0. With them what is made is held against the recordings, not against their
    reconstruction.
    """

    def __init__(self, store: FrameStore, *, recordings: DirectFrames, pixels: bool, **shared: Any) -> None:
        super().__init__(store, **shared)
        self.recordings, self.pixels = recordings, pixels

    def with_pixels(self) -> "LatentReader":
        """The same episodes, pixels and hidden state included."""
        reader = copy(self)
        reader.pixels = True
        return reader

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """Frames start..stop-1. Raises ValueError where there are fewer, and BadFile where a file is damaged."""
        found = super().read(episode, start, stop)
        return replace(found, latents=read_latents(file_of(self.store.folder, self.name(episode)), start, stop))

    def _frames(
        self, episode: int, start: int, stop: int
    ) -> tuple[UInt8[np.ndarray, "f 3 h w"], Mapping[str, np.ndarray]]:
        if not self.pixels:
            return np.zeros((stop - start, 3, 0, 0), np.uint8), {}
        name = self.name(episode)
        known = self.recordings.source.outline(self.recordings.places[name])
        truth = {key: np.array(values[start:stop]) for key, values in known.truth.items()}
        return self.recordings.read(name, start, stop), truth
