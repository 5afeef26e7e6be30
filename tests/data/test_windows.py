from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from wm_lightning.clip import ActionSpec, ActionState
from wm_lightning.data.formats.episode import Episode, produced_actions
from wm_lightning.data.windows import Window, Windows, WindowStream, fixed_windows


@dataclass
class CountingReader:
    """Every pixel of frame f of episode e is 40 e + f, and so is the action stored there."""

    lengths: tuple[int, ...]
    spec: ActionSpec = ActionSpec(("value",), (0.0,), (255.0,))
    action_shift: int = 1

    def __len__(self) -> int:
        return len(self.lengths)

    def length(self, episode: int) -> int:
        return self.lengths[episode]

    def read(self, episode: int, start: int, stop: int) -> Episode:
        values = 40 * episode + np.arange(self.lengths[episode])
        video = np.broadcast_to(values[start:stop, None, None, None], (stop - start, 3, 2, 2)).astype(np.uint8)
        produced = produced_actions(values[:, None].astype(np.float32), start, stop, self.action_shift)
        return Episode(video, produced.actions, produced.state, {"value": values[start:stop]})


def test_window_k_depends_on_seed_and_k_alone() -> None:
    reader = CountingReader((9, 4, 30))
    forward = WindowStream(reader, 4, seed=0)
    backward = WindowStream(reader, 4, seed=0)
    assert [forward[k] for k in range(50)] == [backward[k] for k in reversed(range(50))][::-1]
    assert [WindowStream(reader, 4, seed=1)[k] for k in range(50)] != [forward[k] for k in range(50)]
    assert [forward[k].index for k in range(50)] == list(range(50))


def test_every_window_is_equally_likely() -> None:
    stream = WindowStream(CountingReader((5, 3, 0, 8)), 4, seed=0)
    draws = 7000
    counts = Counter((stream[k].episode, stream[k].start) for k in range(draws))
    assert set(counts) == {(0, s) for s in range(2)} | {(3, s) for s in range(5)}
    assert all(abs(count - draws / 7) < 5 * (draws / 7) ** 0.5 for count in counts.values())


def test_fixed_windows_are_distinct_spread_and_the_same_every_time() -> None:
    reader = CountingReader((6, 3, 5, 9))
    windows = fixed_windows(reader, 8, 4, seed=0)
    assert windows == fixed_windows(reader, 8, 4, seed=0)
    assert windows != fixed_windows(reader, 8, 4, seed=1)
    assert {w.episode for w in windows[:3]} == {0, 2, 3}
    assert len({(w.episode, w.start) for w in windows}) == 8
    assert [w.index for w in windows] == list(range(8))
    every = fixed_windows(reader, 11, 4, seed=0)
    assert {(w.episode, w.start) for w in every} == {(e, s) for e, n in ((0, 3), (2, 2), (3, 6)) for s in range(n)}
    with pytest.raises(ValueError, match="12 clips of 4 frames asked for, the data hold 11"):
        fixed_windows(reader, 12, 4, seed=0)


def test_a_window_becomes_the_frames_it_names() -> None:
    windows = Windows(CountingReader((9, 9)), truth=True)
    clip = windows.__getitems__([Window(0, 0, 4, 7), Window(1, 3, 4, 9)])
    assert clip.video[:, :, 0, 0, 0].tolist() == [[0, 1, 2, 3], [43, 44, 45, 46]]
    assert clip.condition.actions[..., 0].tolist() == [[0, 0, 1, 2], [42, 43, 44, 45]]
    assert clip.condition.state[:, 0].tolist() == [ActionState.NONE, ActionState.GIVEN]
    assert (clip.condition.state[:, 1:] == ActionState.GIVEN).all()
    assert clip.index.tolist() == [7, 9]
    assert torch.equal(clip.truth["value"], clip.video[:, :, 0, 0, 0].long())
    assert torch.equal(windows[Window(1, 3, 4, 9)].video, clip.video[1:])


def test_no_window_is_told_what_led_to_its_first_frame_where_that_is_asked() -> None:
    """Two windows inside an episode: the reader, which knows more, and the frames after the first stay as they are."""
    reader = CountingReader((9, 9))
    chosen = [Window(1, 3, 4, 9), Window(1, 4, 4, 2)]
    told, untold = (
        Windows(reader, truth=True, first_action=which).__getitems__(chosen) for which in ("stored", "none")
    )
    assert untold.condition.state.tolist() == [[ActionState.NONE, *[ActionState.GIVEN] * 3]] * 2
    assert (told.condition.state == ActionState.GIVEN).all() and (told.condition.actions[:, 0] != 0).any()
    assert not untold.condition.actions[:, 0].any()
    assert torch.equal(untold.condition.actions[:, 1:], told.condition.actions[:, 1:])
    assert torch.equal(untold.video, told.video) and untold.index.tolist() == [9, 2]
    assert Windows(reader, truth=True).__getitems__(chosen).condition.state.tolist() == told.condition.state.tolist()


def test_training_clips_hold_no_truth() -> None:
    assert not Windows(CountingReader((9,)), truth=False)[Window(0, 0, 4, 0)].truth


@pytest.mark.parametrize("lengths", [(3, 3), ()])
def test_too_short_episodes_are_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no episode has 4 frames"):
        WindowStream(CountingReader(lengths), 4, seed=0)
    with pytest.raises(ValueError, match="no episode has 4 frames"):
        fixed_windows(CountingReader(lengths), 1, 4, seed=0)
