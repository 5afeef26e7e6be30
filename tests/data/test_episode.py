import numpy as np
import pytest

from wm_lightning.clip import ActionState
from wm_lightning.data.formats.episode import produced_actions

STORED = np.arange(1, 13, dtype=np.float32).reshape(6, 2)


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("start", range(5))
def test_frame_f_gets_the_action_stored_shift_frames_earlier(shift: int, start: int) -> None:
    produced = produced_actions(STORED, start, 6, shift)
    for row, frame in enumerate(range(start, 6)):
        if frame < shift:
            assert produced.state[row] == ActionState.NONE
            assert not produced.actions[row].any()
        else:
            assert produced.state[row] == ActionState.GIVEN
            assert np.array_equal(produced.actions[row], STORED[frame - shift])


def test_a_window_within_the_shift_has_no_actions() -> None:
    produced = produced_actions(STORED, 0, 2, 3)
    assert (produced.state == ActionState.NONE).all()


def test_missing_actions_are_refused() -> None:
    assert len(produced_actions(STORED, 4, 7, 1).actions) == 3
    with pytest.raises(ValueError, match="need actions up to 6, 6 are stored"):
        produced_actions(STORED, 4, 7, 0)
    with pytest.raises(ValueError, match="action_shift=-1"):
        produced_actions(STORED, 0, 2, -1)
