"""Masks against their definition, frame by frame."""

from itertools import product

import pytest
import torch

from wm_lightning.networks.geometry import frame_visibility
from wm_lightning.networks.masks import ExplicitMask, FrameMask, TeacherForcingMask, chunk_blocks

CHUNKS = [1, 2, 3, 4, None]


def block(frame: int, chunk: int | None, *, first_alone: bool) -> int:
    if chunk is None:
        return 0
    if not first_alone:
        return frame // chunk
    return 0 if frame == 0 else 1 + (frame - 1) // chunk


@pytest.mark.parametrize(("chunk", "first_alone"), list(product(CHUNKS, [False, True])))
def test_blocks(chunk: int | None, first_alone: bool) -> None:
    expected = [block(frame, chunk, first_alone=first_alone) for frame in range(9)]
    assert chunk_blocks(9, chunk, first_alone=first_alone).tolist() == expected


def visible(query: int, key: int, past: int, frames: int, mask: FrameMask) -> bool:
    """May new frame `query` see frame `key`, both counted from the start of what is remembered?"""

    def of(frame: int) -> int:
        return -1 if frame < past else block(frame - past, mask.chunk, first_alone=past == 0)

    if of(key) > of(query):
        return False
    if mask.window is None or key < mask.sink:
        return True
    end = max(frame for frame in range(past + frames) if of(frame) == of(query)) + 1
    return key >= end - mask.window


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("past", [0, 1, 3])
def test_every_small_mask(past: int, chunk: int | None) -> None:
    for frames, window, sink in product(range(1, 8), [None, 1, 2, 3, 5, 9], [0, 1, 2]):
        mask = FrameMask(chunk, window=window, sink=sink)
        expected = [[visible(past + q, k, past, frames, mask) for k in range(past + frames)] for q in range(frames)]
        assert mask.allowed(past, frames).tolist() == expected, (frames, window, sink)


def test_chunk_1_is_framewise() -> None:
    assert FrameMask(1).allowed(0, 6).equal(torch.ones(6, 6).tril().bool())
    assert FrameMask(1).allowed(2, 4).equal(torch.ones(4, 6).tril(2).bool())
    assert FrameMask(None).allowed(2, 4).all()


@pytest.mark.parametrize("chunk", CHUNKS)
def test_teacher_forcing_mask(chunk: int | None) -> None:
    mask = TeacherForcingMask(chunk)
    for frames in range(1, 8):
        blocks = [block(frame, chunk, first_alone=True) for frame in range(frames)]
        clean = [[blocks[k] < blocks[q] for k in range(frames)] for q in range(frames)]
        noisy = [[blocks[k] == blocks[q] for k in range(frames)] for q in range(frames)]
        expected = [one + other for one, other in zip(clean, noisy, strict=True)]
        assert mask.allowed(frames, frames).tolist() == expected
        queries, keys = mask.positions(frames, frames)
        assert queries.tolist() == list(range(frames))
        assert keys.tolist() == 2 * list(range(frames))
    with pytest.raises(ValueError, match="got 3 and 4"):
        mask.allowed(3, 4)


def test_explicit_blocks_equal_the_mask_they_spell_out() -> None:
    for chunk, window, sink in product([1, 3], [None, 2, 4], [0, 1]):
        mask = FrameMask(chunk, window=window, sink=sink)
        spelt = ExplicitMask(chunk, window, sink, ids=tuple(mask.blocks(0, 8).tolist()))
        assert spelt.allowed(0, 8).equal(mask.allowed(0, 8))
    with pytest.raises(ValueError, match="2 block indices for 3 frames"):
        ExplicitMask(1, ids=(0, 1)).allowed(0, 3)


def test_unused_slots_are_hidden_and_nothing_hidden_needs_no_mask() -> None:
    valid = torch.tensor([[True, True], [False, True]])
    seen = frame_visibility(FrameMask(1), 2, 2, valid)
    assert seen is not None
    assert seen[0].tolist() == [[True, True, True, False], [True, True, True, True]]
    assert seen[1].tolist() == [[False, True, True, False], [False, True, True, True]]
    assert frame_visibility(FrameMask(2), 2, 2, None) is None
    assert frame_visibility(FrameMask(2), 2, 2, torch.ones(1, 2, dtype=torch.bool)) is None
