"""Memory that grows is joined when it is asked for, and one new frame attends to it in parts."""

import pytest
import torch
from einops import rearrange

from wm_lightning.networks.attention import attend, attend_once
from wm_lightning.networks.state import Grown, State, empty_state


def part(frames: int, seed: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, frames, 6, 8, generator=torch.Generator().manual_seed(seed))


def test_new_frames_stand_behind_the_past_and_layers_without_one_begin_with_them() -> None:
    grown = Grown({"k": part(3, 0)}, {"k": part(1, 1), "v": part(1, 2)})
    torch.testing.assert_close(grown["k"], torch.cat([part(3, 0), part(1, 1)], dim=1), atol=0, rtol=0)
    torch.testing.assert_close(grown["v"], part(1, 2), atol=0, rtol=0)
    assert sorted(grown) == ["k", "v"] and len(grown) == 2
    with pytest.raises(KeyError):
        grown["q"]


def test_what_is_joined_once_is_the_same_tensor_ever_after() -> None:
    grown = Grown({"k": part(3, 0)}, {"k": part(1, 1)})
    assert grown["k"] is grown["k"]


def test_memory_takes_the_precision_of_the_new() -> None:
    assert Grown({"k": part(3, 0)}, {"k": part(1, 1).bfloat16()})["k"].dtype == torch.bfloat16


@pytest.mark.parametrize("joined", [(), ("k",), ("k", "v")])
def test_slots_of_a_batch_are_those_of_the_whole_joined_or_not(joined: tuple[str, ...]) -> None:
    grown = Grown({"k": part(3, 0), "v": part(3, 1)}, {"k": part(1, 2), "v": part(1, 3)})
    for key in joined:
        grown[key]
    some = State(grown, torch.tensor([3, 3]))[1:]
    for key in ("k", "v"):
        torch.testing.assert_close(some.memory[key], grown[key][1:], atol=0, rtol=0)
    assert some.length == 4


def test_the_state_that_grew_is_left_as_it_was() -> None:
    before = empty_state(2).advanced(Grown({}, {"k": part(3, 0)}), 3)
    after = before.advanced(Grown(before.memory, {"k": part(1, 1)}), 1)
    assert (before.length, after.length) == (3, 4)
    torch.testing.assert_close(before.memory["k"], part(3, 0), atol=0, rtol=0)


@pytest.mark.parametrize("past", [0, 1, 5])
def test_one_frame_attends_to_parts_as_to_the_whole(past: int) -> None:
    q, keys, values = part(1, 0), [part(past, 1), part(1, 2)], [part(past, 3), part(1, 4)]
    whole = (rearrange(torch.cat(y, dim=1), "b f n (h e) -> (b n) h f e", h=2) for y in ([q], keys, values))
    expected = rearrange(attend(*whole, None), "(b n) h f e -> b f n (h e)", n=6)
    torch.testing.assert_close(attend_once(q, keys, values, 2), expected, atol=1e-6, rtol=0)
