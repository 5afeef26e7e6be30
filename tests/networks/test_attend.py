"""Attention with all scores at once, which a CPU prefers, against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wm_lightning.networks import attention
from wm_lightning.networks.attention import WHOLE_SCORES, attend

MASKS = {
    "none": None,
    "causal": torch.ones(6, 9).tril(3).bool(),
    "of every clip": torch.tensor([[True] * 9, [True] + [False] * 8])[:, None, None],
}


def drawn(queries: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    shapes = ((2, 3, queries, 8), (2, 3, 9, 8), (2, 3, 9, 8))
    q, k, v = (torch.randn(shape, generator=source).requires_grad_() for shape in shapes)
    return q, k, v


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The queries of every attention that forms its scores at once, on any maker's CPU."""
    asked, own = [], attention._whole
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    monkeypatch.setattr(attention, "_whole", lambda q, *rest: (asked.append(q.shape[-2]), own(q, *rest))[1])
    return asked


@pytest.mark.parametrize("mask", list(MASKS))
def test_scores_at_once_give_torchs_own_values_and_gradients(mask: str, whole: list[int]) -> None:
    q, k, v = drawn()
    found, expected = attend(q, k, v, MASKS[mask]), F.scaled_dot_product_attention(q, k, v, attn_mask=MASKS[mask])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    ours, theirs = (torch.autograd.grad(made.square().sum(), (q, k, v)) for made in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert whole == [6]


def test_a_single_query_and_long_videos_are_torchs(whole: list[int]) -> None:
    attend(*drawn(queries=1), None)
    long = torch.zeros(1, 1, int(WHOLE_SCORES**0.5) + 1, 8)
    attend(long, long, long, None)
    assert not whole


def test_scores_are_not_rounded_to_bfloat16(whole: list[int]) -> None:
    """Two keys whose scores differ by less than bfloat16 can tell at their size."""
    q, k = torch.full((1, 1, 2, 4), 8.0), torch.full((1, 1, 2, 4), 16.0)
    k[..., 1, 0] += 0.125
    v = torch.tensor([[[[0.0] * 4, [1.0] * 4]]])
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(q, k, v.bfloat16(), None)
    share = float((0.5 * (q * k).sum(-1))[0, 0].softmax(-1)[1])
    assert share > 0.6 and found.dtype == torch.bfloat16 and whole == [2]
    assert found[0, 0, 0, 0].item() == pytest.approx(share, abs=4e-3)
