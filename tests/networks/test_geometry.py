"""The geometry that passes share is made once, and serves whatever kind of pass asks for it next."""

from typing import Any

import pytest
import torch

from tests.networks.tiny import ATTENTIONS, Attention, condition, labels, tiny, videos
from wm_lightning.networks.geometry import Layout, geometry
from wm_lightning.networks.masks import ExplicitMask, FrameMask, TeacherForcingMask


def of(mask: FrameMask, *, rope_base: float = 100.0, valid: torch.Tensor | None = None) -> Any:
    layout = Layout(2, 3, head_dim=16, rope_base=rope_base, joint=True)
    return geometry(layout, mask, 4, 4, valid, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_what_a_pass_without_gradient_made_serves_one_with_gradient(attention: Attention) -> None:
    network, mask = tiny(attention), FrameMask(3)
    given = videos(1, 6, seed=1), labels(1, 6, seed=2), condition(1, 6, seed=3)
    with torch.inference_mode():
        network(*given, None, mask=mask)
    prediction, _ = network(*given, None, mask=mask)
    prediction.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in network.blocks.parameters())


def test_it_is_made_once_and_never_mistaken() -> None:
    assert of(FrameMask(2)) is of(FrameMask(2))
    assert of(FrameMask(2)) is not of(FrameMask(2), rope_base=10.0)
    # Masks of one chunk length that are not the same mask.
    assert len({id(of(mask)) for mask in (FrameMask(2), TeacherForcingMask(2), FrameMask(2, window=3))}) == 3
    with pytest.raises(ValueError, match="block indices"):
        of(ExplicitMask(2, ids=(0, 0, 1, 1)))


def test_unused_slots_are_hidden_from_one_call_only() -> None:
    valid = torch.tensor([[False, True, True, True]])
    hidden, whole = of(FrameMask(None), valid=valid).seen, of(FrameMask(None)).seen
    assert whole is None and not hidden[..., :6].any() and hidden[..., 6:].all()
