"""Clips to learn from, read from the recordings, some of which may turn out damaged only then."""

import logging
from collections.abc import Sequence
from typing import Any

from wm_lightning.clip import Clip
from wm_lightning.data.formats.direct import Damage
from wm_lightning.data.formats.episode import Episode, Reader
from wm_lightning.data.formats.video_files import BadFile
from wm_lightning.data.windows import Window, Windows, WindowStream, instructed
from wm_lightning.networks.prompt import Prompter

log = logging.getLogger(__name__)

MOST_DRAWS = 100  # for one clip; so many fail only where nearly all is damaged


class ForgivingWindows(Windows):
    """Windows to learn from: one that cannot be read is replaced by another, drawn from (seed, index, attempt).

    So the clip is the same in whatever process and at whatever time it is read. The damaged episode is counted, listed
    and said once; it stays among those that are drawn from, as an exact resumption asks for. Nothing takes the place of
    a clip that is evaluated: that is for `Windows`.
    """

    def __init__(self, reader: Reader, *, truth: bool, first_action: str, seed: int, damage: Damage) -> None:
        super().__init__(reader, truth=truth, first_action=first_action)
        self.seed, self.damage = seed, damage

    def read(self, window: Window) -> Episode:
        """The window's stretch, or another's. Raises ValueError where more episodes are damaged than allowed."""
        chosen = window
        for attempt in range(1, MOST_DRAWS + 1):
            try:
                return self.reader.read(chosen.episode, chosen.start, chosen.start + chosen.frames)
            except BadFile as error:
                if self.damage.note(error):
                    log.warning("%s. Clips of such frames are replaced by others, drawn from seed and index", error)
                chosen = WindowStream(self.reader, window.frames, self.seed).redrawn(window.index, attempt)
        raise ValueError(f"clip {window.index}: {MOST_DRAWS} windows were drawn and none can be read")


class ForgivingPrompts(ForgivingWindows):
    """The same of windows whose clips are prompted by their instruction."""

    def __init__(self, reader: Reader, *, prompter: Prompter, **shared: Any) -> None:
        super().__init__(reader, first_action="stored", **shared)
        self.prompter = prompter

    def __getitems__(self, windows: Sequence[Window]) -> Clip:
        return instructed(super().__getitems__(windows), self.prompter)
