"""What stands in an action slot decides what a network is told, and what it is not told does not matter."""

from typing import Literal

import pytest
import torch

from tests.networks.tiny import randn
from wm_lightning.clip import ActionState, Condition
from wm_lightning.networks.conditioning import ActionEmbedder, LevelEmbedder


def embedder(none: Literal["input_zero", "learned"], dropped: Literal["zero", "learned"]) -> ActionEmbedder:
    torch.manual_seed(0)
    return ActionEmbedder(3, 8, kind="mlp", none=none, dropped=dropped)


@pytest.mark.parametrize("none", ["input_zero", "learned"])
@pytest.mark.parametrize("dropped", ["zero", "learned"])
def test_each_state_feeds_what_its_setting_says(
    none: Literal["input_zero", "learned"], dropped: Literal["zero", "learned"]
) -> None:
    network, actions = embedder(none, dropped), randn(1, 3, 3, seed=0)
    actions[0, 1:] = torch.nan  # what an unused slot holds must not count
    out = network(Condition(actions, torch.tensor([[ActionState.GIVEN, ActionState.NONE, ActionState.DROPPED]])))[0]
    torch.testing.assert_close(out[0], network.layers(actions[0, 0]))
    torch.testing.assert_close(out[1], network.layers(torch.zeros(3)) if network.none is None else network.none)
    assert torch.equal(out[2], torch.zeros(8) if network.dropped is None else network.dropped)
    assert len({tuple(row.tolist()) for row in out}) == 3


def test_no_gradient_is_lost_to_unused_slots() -> None:
    network = embedder("learned", "learned")
    actions = torch.full((1, 2, 3), torch.nan)
    network(Condition(actions, torch.tensor([[ActionState.NONE, ActionState.DROPPED]]))).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert network.none is not None and network.none.grad is not None and network.none.grad.abs().sum() > 0


def test_levels_are_told_apart() -> None:
    network = LevelEmbedder(16, frequencies=64)
    out = network(torch.arange(1000.0)[None])[0]
    distance = (out[1:] - out[:-1]).norm(dim=-1)
    assert distance.min() > 1e-4 * out.norm(dim=-1).mean()


@pytest.mark.parametrize("kind", ["deep", "table"])
def test_actions_are_heard_beside_the_level_from_the_start(kind: Literal["deep", "table"]) -> None:
    """What differs from action to action is of the size of an action, after three layers too."""
    torch.manual_seed(0)
    network = ActionEmbedder(10, 128, kind=kind, none="input_zero", dropped="zero", hidden=32)
    out = network(Condition(randn(64, 1, 10, seed=0), torch.zeros(64, 1, dtype=torch.long)))
    assert 0.3 < float(out.std(0).mean()) < 3
