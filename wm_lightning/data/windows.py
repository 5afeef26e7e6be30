"""Windows: which frames of which episode make a clip, and the clips themselves."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import Dataset, get_worker_info

from wm_lightning.clip import ActionState, Clip, Condition, Texts
from wm_lightning.data.formats.episode import Episode, Reader
from wm_lightning.data.formats.video_files import BadFile
from wm_lightning.networks.prompt import Prompter
from wm_lightning.randomness import generator


@dataclass(frozen=True)
class Window:
    """`frames` frames of one episode from `start`; `index` is the global sample index (it seeds noise)."""

    episode: int
    start: int
    frames: int
    index: int


class Windows(Dataset[Clip]):
    """A reader seen through windows: a window gives a clip of batch size 1, a list of them a batch.

    `first_action` "stored" keeps the action that produced a window's first frame, where there is one; "none" says of
    every window, as of an episode, that nothing did.
    """

    def __init__(self, reader: Reader, *, truth: bool, first_action: str = "stored") -> None:
        self.reader = reader
        self.truth, self.first_action = truth, first_action

    def __getitem__(self, window: Window) -> Clip:
        return self.__getitems__([window])

    def __getitems__(self, windows: Sequence[Window]) -> Clip:
        """The batch of several windows; the torch loader calls this instead of item after item."""
        episodes = [self.read(window) for window in windows]
        clip = collate(episodes, [w.index for w in windows], truth=self.truth)
        if self.first_action == "none":
            clip.condition.actions[:, 0], clip.condition.state[:, 0] = 0.0, int(ActionState.NONE)
        return clip

    def read(self, window: Window) -> Episode:
        """A window's stretch. Raises BadFile (in a worker process ValueError) where it cannot be read."""
        try:
            return self.reader.read(window.episode, window.start, window.start + window.frames)
        except BadFile as error:
            if get_worker_info() is None:
                raise
            raise ValueError(str(error)) from error  # of which torch can make another one in the main process


class PromptedWindows(Windows):
    """Windows whose clips are prompted by their instruction."""

    def __init__(self, reader: Reader, *, truth: bool, prompter: Prompter) -> None:
        super().__init__(reader, truth=truth)
        self.prompter = prompter

    def __getitems__(self, windows: Sequence[Window]) -> Clip:
        return instructed(super().__getitems__(windows), self.prompter)


def instructed(clip: Clip, prompter: Prompter) -> Clip:
    """The clip prompted by its instruction."""
    assert clip.texts is not None
    return replace(clip, condition=replace(clip.condition, prompt=prompter(clip.texts.instruction)))


class WindowStream:
    """The endless training stream: window k depends on the seed and on k alone.

    Episodes are drawn in proportion to their number of valid starts, so every window of the data is
    equally likely. Raises ValueError where no episode is long enough.
    """

    def __init__(self, reader: Reader, frames: int, seed: int) -> None:
        self.frames = frames
        self.seed = seed
        self.ends = np.cumsum(_starts(reader, frames))

    def __getitem__(self, index: int) -> Window:
        return self._drawn(generator(self.seed, "window", index), index)

    def redrawn(self, index: int, attempt: int) -> Window:
        """Another window for the same place in the stream, where the one drawn cannot be read."""
        return self._drawn(generator(self.seed, "window redrawn", index, attempt), index)

    def _drawn(self, source: np.random.Generator, index: int) -> Window:
        return _window(self.ends, int(source.integers(self.ends[-1])), self.frames, index)


def fixed_windows(reader: Reader, count: int, frames: int, seed: int) -> list[Window]:
    """`count` distinct windows for evaluation, spread over the episodes: the same on every call.

    Episodes are visited in turn, in an order drawn once; none is used twice before all that are long
    enough were used once. Raises ValueError where the data hold fewer distinct windows.
    """
    counts = _starts(reader, frames)
    ends = np.cumsum(counts)
    if count > ends[-1]:
        raise ValueError(f"{count} clips of {frames} frames asked for, the data hold {ends[-1]}; ask for fewer")
    source = generator(seed, "fixed windows", frames)
    order = [episode for episode in source.permutation(len(counts)) if counts[episode]]
    left: dict[int, list[int]] = {}
    windows: list[Window] = []
    while len(windows) < count:
        for episode in order[: count - len(windows)]:
            if episode not in left:
                left[episode] = source.permutation(counts[episode]).tolist()
            windows.append(Window(int(episode), left[episode].pop(), frames, len(windows)))
        order = [episode for episode in order if episode not in left or left[episode]]
    return windows


def count_windows(reader: Reader, frames: int) -> int:
    """How many distinct windows the data hold. Raises ValueError where no episode is long enough."""
    return int(_starts(reader, frames).sum())


def collate(episodes: Sequence[Episode], indices: Sequence[int], *, truth: bool) -> Clip:
    """A batch of episodes of equal length and size."""
    keys = episodes[0].truth if truth else ()
    texts = [e.texts for e in episodes if e.texts is not None]
    latents = [e.latents for e in episodes if e.latents is not None]
    return Clip(
        torch.from_numpy(np.stack([e.video for e in episodes])),
        Condition(
            torch.from_numpy(np.stack([e.actions for e in episodes])),
            torch.from_numpy(np.stack([e.state for e in episodes])),
        ),
        torch.tensor(indices, dtype=torch.int64),
        {key: torch.from_numpy(np.stack([e.truth[key] for e in episodes])) for key in keys},
        Texts.cat(texts) if texts else None,
        None if not latents else torch.from_numpy(np.stack(latents)),
    )


def _starts(reader: Reader, frames: int) -> Int64[np.ndarray, "episodes"]:
    lengths = np.array([reader.length(episode) for episode in range(len(reader))], np.int64)
    starts = np.maximum(lengths - frames + 1, 0)
    if not starts.any():
        longest = lengths.max(initial=0)
        raise ValueError(
            f"no episode has {frames} frames (the longest of {len(lengths)} has {longest}); lower data.frames, "
            f"data.val_frames, metrics.horizon or task.frames, whichever asks for them"
        )
    return starts


def _window(ends: Int64[np.ndarray, "episodes"], place: int, frames: int, index: int) -> Window:
    episode = int(np.searchsorted(ends, place, side="right"))
    start = place - (int(ends[episode - 1]) if episode else 0)
    return Window(episode, start, frames, index)
