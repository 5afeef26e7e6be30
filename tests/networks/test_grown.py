"""Memory that grows is joined when it is asked for, and one new frame attends to it in parts."""

import weakref

import pytest
import torch
from einops import rearrange

from wm_lightning.networks.attention import attend, attend_once
from wm_lightning.networks.state import Grown, State, empty_state


def part(frames: int, seed: int, batch: int = 2, dim: int = 8) -> torch.Tensor:
    return torch.randn(batch, frames, 6, dim, generator=torch.Generator().manual_seed(seed))


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


def test_the_past_is_let_go_once_it_is_joined() -> None:
    past = part(3, 0)
    held, grown = weakref.ref(past), Grown({"k": past, "other": past.clone()}, {"k": part(1, 1)})
    del past
    assert held() is not None and grown["k"].shape[1] == 4
    assert held() is None


def test_halves_are_put_side_by_side_without_being_joined() -> None:
    names = "abcd"
    past, new = ({name: part(frames, seed) for seed, name in enumerate(names)} for frames in (3, 1))
    state = State(Grown(past, new), torch.tensor([4, 4]))
    both = state[:1].joined(state[1:], "given/", "null/")
    # Type checks of a mapping, which only tests have, look at its first value.
    assert isinstance(both.memory, Grown) and len(both.memory.parts[1]) >= 2 * (len(names) - 1)
    for name, row in (("given/", slice(0, 1)), ("null/", slice(1, 2))):
        torch.testing.assert_close(both.subset(name).memory["c"], state.memory["c"][row], atol=0, rtol=0)


def test_in_bfloat16_it_is_as_near_to_the_truth_as_the_fused_kernel() -> None:
    q, keys, values = (part(frames, seed, 64, 64).bfloat16() for frames, seed in ((1, 0), (31, 1), (31, 2)))
    exact = attend_once(q.double(), [keys.double()], [values.double()], 2)
    found = attend_once(q, [keys], [values], 2)
    whole = (rearrange(y, "b f n (h e) -> (b n) h f e", h=2) for y in (q, keys, values))
    fused = rearrange(attend(*whole, None), "(b n) h f e -> b f n (h e)", n=6)
    errors = [float((made.double() - exact).square().mean().sqrt()) for made in (found, fused)]
    # 1.13; scores and weights in bfloat16 make it 2.6.
    assert found.dtype == torch.bfloat16 and errors[0] < 1.5 * errors[1]


def test_gradients_are_those_of_the_whole() -> None:
    tensors = [
        part(frames, seed).double().requires_grad_() for frames, seed in ((1, 0), (3, 1), (1, 2), (3, 3), (1, 4))
    ]
    assert torch.autograd.gradcheck(lambda q, a, b, c, d: attend_once(q, [a, b], [c, d], 2), tensors)


@pytest.mark.parametrize("past", [0, 1, 5])
def test_one_frame_attends_to_parts_as_to_the_whole(past: int) -> None:
    q, keys, values = part(1, 0), [part(past, 1), part(1, 2)], [part(past, 3), part(1, 4)]
    whole = (rearrange(torch.cat(y, dim=1), "b f n (h e) -> (b n) h f e", h=2) for y in ([q], keys, values))
    expected = rearrange(attend(*whole, None), "(b n) h f e -> b f n (h e)", n=6)
    torch.testing.assert_close(attend_once(q, keys, values, 2), expected, atol=1e-6, rtol=0)
