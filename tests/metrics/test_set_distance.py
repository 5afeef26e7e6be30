"""Fréchet distance and KID: the definitions, the floor, the interval, and what is said of few clips."""

import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from wm_lightning.metrics.set_distance import frechet, kid, kid_worldgen, set_distance, subset_size


def gauss(rows: int, seed: int, columns: int = 5, shift: float = 0.0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=source).double()
    return torch.randn(rows, columns, generator=source).double() @ mix + shift


def by_definition(x: Tensor, y: Tensor) -> float:
    """With the eigenvalues of C1 C2, whose roots' sum is the trace of the matrix root."""
    cross = torch.linalg.eigvals(x.T.cov() @ y.T.cov()).real.clamp_min(0).sqrt().sum()
    mean = (x.mean(0) - y.mean(0)).square().sum()
    return float(mean + x.T.cov().trace() + y.T.cov().trace() - 2 * cross)


@pytest.mark.parametrize("rows", [40, 4])
def test_frechet_is_its_definition_for_many_and_for_few_rows(rows: int) -> None:
    x, y = gauss(rows, 0), gauss(rows + 1, 1, shift=0.5)
    assert frechet(x, y) == pytest.approx(by_definition(x, y), rel=1e-5)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9) and frechet(x, x + 2) == pytest.approx(20)


def test_kid_is_the_mean_of_unbiased_mmd_over_subsets() -> None:
    x, y = gauss(12, 0).float(), gauss(12, 1, shift=1.0).float()
    whole = kid(x, y, subset=12, subsets=3, seed=0)
    assert whole == pytest.approx(float(poly_mmd(x, y)), rel=1e-4)
    assert kid_worldgen(x, y) == pytest.approx(whole, rel=1e-6)
    assert kid(x, y, subset=6, subsets=400, seed=0) == pytest.approx(whole, rel=0.25), "unbiased whatever the subset"


def test_the_subset_rule() -> None:
    assert [subset_size(n) for n in (7, 300, 2000, 50_000)] == [3, 150, 1000, 1000]


def found(kind: str, clips: int, shift: float, draws: int = 60):
    settings = dict(extractor="hash", resize="none", dtype="float32", draws=draws, seed=0)
    truth = gauss(clips, 0, columns=4).reshape(clips, 1, 4)
    generated = gauss(clips, 0, columns=4).roll(1, 0).reshape(clips, 1, 4) + shift
    return set_distance(kind, kind, generated, truth, **settings)


@pytest.mark.parametrize("kind", ["fd", "kid", "kid_worldgen"])
def test_a_shift_lies_above_floor_and_interval_and_none_does_not(kind: str) -> None:
    same, other = found(kind, 64, 0.0), found(kind, 64, 3.0)
    assert other.value > other.low > max(other.floor, same.value) and other.low < other.value < other.high
    assert same.low <= same.value <= same.high and same.value < same.floor + abs(same.floor) + 1e-6
    assert other.subset == (32 if kind == "kid" else None) and other.n == 64
    assert ("few clips" in (other.note or "")) == (kind == "fd")


def test_frames_of_one_clip_are_drawn_together() -> None:
    """Four copies of every row are no four times as much data: the interval stays as wide."""
    settings = dict(extractor="hash", resize="none", dtype="float32", draws=100, seed=0)
    truth, generated = gauss(48, 0).reshape(48, 1, 5), gauss(48, 1).reshape(48, 1, 5)
    one = set_distance("fd", "fd", generated, truth, **settings)
    four = set_distance("fd", "fd", generated.expand(-1, 4, -1), truth.expand(-1, 4, -1), **settings)
    assert four.features == 192 and four.high - four.low == pytest.approx(one.high - one.low, rel=0.1)


def test_the_floor_compares_disjoint_halves() -> None:
    """Clips without anything in common: rows of the two halves are orthogonal, those of a half to itself are not."""
    settings = dict(extractor="hash", resize="none", dtype="float32", draws=0, seed=0)
    truth = torch.eye(16).reshape(16, 1, 16) * 4
    for kind in ("kid", "kid_worldgen"):
        assert set_distance(kind, kind, truth, truth, **settings).floor == pytest.approx(0, abs=1e-9)
    assert set_distance("fd", "fd", truth, truth, **settings).floor > 1


def test_generated_and_true_clips_are_drawn_in_pairs() -> None:
    """Equal sets are equal in every draw of pairs, and in no other."""
    settings = dict(extractor="hash", resize="none", dtype="float32", draws=20, seed=0)
    truth = gauss(24, 0).reshape(24, 1, 5)
    entry = set_distance("fd", "fd", truth, truth, **settings)
    assert (entry.low, entry.high) == pytest.approx((0, 0), abs=1e-9)


def test_copies_of_a_clip_in_one_episode_do_not_narrow_the_interval() -> None:
    settings = dict(extractor="hash", resize="none", dtype="float32", draws=200, seed=0)
    pair = [gauss(24, seed).reshape(24, 1, 5) for seed in (1, 0)]
    copies = [one.repeat_interleave(4, 0) for one in pair]
    names = [str(clip // 4) for clip in range(96)]
    width = lambda entry: entry.high - entry.low  # noqa: E731
    one = width(set_distance("fd", "fd", *pair, **settings))
    assert width(set_distance("fd", "fd", *copies, **settings, episodes=names)) == pytest.approx(one, rel=0.2)
    assert width(set_distance("fd", "fd", *copies, **settings)) < 0.65 * one
    lone = set_distance("fd", "fd", *copies, **settings, episodes=["0"] * 96)
    assert lone.value is not None and lone.low is None and lone.episodes == 1


def test_too_few_clips_give_a_reason_and_no_number() -> None:
    entry = found("fd", 3, 0.0)
    assert entry.value is None and entry.low is None and "at least 4" in entry.note
