"""Every n-th frame of recordings, with the planar motion over the whole gap as the action."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float32

from wm_lightning.clip import ActionState
from wm_lightning.data.formats.episode import Episode
from wm_lightning.data.formats.recon import metres_of, normalised, wrapped
from wm_lightning.data.formats.store_reader import StoreReader


class StridedReader(StoreReader):
    """Every recording seen `stride` times, from its first, second, ... frame on: `NAME@0`, `NAME@1`, ...

    An action is the pose at a frame seen from that at the frame `stride` before, normalised as single steps are.
    """

    def __init__(self, plain: StoreReader, stride: int) -> None:
        if plain.action_shift != 1:
            raise ValueError(
                f"data.{stride=} with data.action_shift={plain.action_shift}: motions of single frames are joined, "
                f"each of which leads to the next frame, which is a shift of 1"
            )
        self.__dict__.update(plain.__dict__)  # store, bounds and what was clipped are its
        self.plain, self.stride = plain, stride

    def __len__(self) -> int:
        return len(self.plain) * self.stride

    def length(self, episode: int) -> int:
        """Number of frames from the episode's own first one on."""
        return -(-max(0, self.plain.length(episode // self.stride) - episode % self.stride) // self.stride)

    def name(self, episode: int) -> str:
        """The recording's name and the frame that is its first here."""
        return f"{self.plain.name(episode // self.stride)}@{episode % self.stride}"

    def digest(self, episode: int) -> str:
        """That of the recording."""
        return self.plain.digest(episode // self.stride)

    def mark(self, episode: int) -> str:
        """That of the recording."""
        return self.plain.mark(episode // self.stride)

    def read(self, episode: int, start: int, stop: int) -> Episode:
        """Frames start..stop-1 with the motion since the frame before each; none for a recording's first here."""
        if not 0 <= start < stop <= self.length(episode):
            raise ValueError(f"{self.name(episode)}: frames {start}..{stop - 1} of {self.length(episode)} asked for")
        first = episode % self.stride + start * self.stride
        early = max(first - self.stride, 0)  # where the motion to the first frame begins
        found = self.plain.read(episode // self.stride, early, episode % self.stride + (stop - 1) * self.stride + 1)
        shown = slice(first - early, None, self.stride)
        whole = first - early == self.stride
        steps = found.actions[1 if whole else first - early + 1 :].reshape(-1, self.stride, 3)
        actions = np.clip(joined(steps), self.low, self.high)
        state = np.full(stop - start, ActionState.GIVEN, np.int64)
        if not whole:
            actions, state[0] = np.concatenate([np.zeros((1, 3), np.float32), actions]), ActionState.NONE
        truth = {key: values[shown] for key, values in found.truth.items()}
        return replace(found, video=found.video[shown], actions=actions, state=state, truth=truth)


def recording_of(name: str) -> str:
    """The recording of which an episode of that name is one of several."""
    return name.rpartition("@")[0]


def joined(steps: Float32[np.ndarray, "n stride 3"]) -> Float32[np.ndarray, "n 3"]:
    """The planar motion that single steps, each seen from where the one before ended, make together."""
    metres = metres_of(steps[..., :2].astype(np.float64))
    heading = np.cumsum(steps[..., 2], axis=1, dtype=np.float64) - steps[..., 2]
    cos, sin = np.cos(heading), np.sin(heading)
    x = (cos * metres[..., 0] - sin * metres[..., 1]).sum(1)
    y = (sin * metres[..., 0] + cos * metres[..., 1]).sum(1)
    turn = wrapped(steps[..., 2].sum(1, dtype=np.float64))
    return np.column_stack([normalised(np.stack([x, y], -1)), turn]).astype(np.float32)
