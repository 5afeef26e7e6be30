"""Transfer of convolutions along time to causal ones: what each way keeps, and what it leaves out."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.networks.tiny import randn
from tests.networks.tiny_unet import tiny_unet
from wm_lightning.networks.causal import Mode, Transfer, extrapolative, line_weights, masked, shifted
from wm_lightning.networks.unet_temporal import Padding, Run, TemporalConv

FRAMES = 9
MODES: tuple[Mode, ...] = ("shift", "masked", "extrapolative")


def weight(taps: int = 3, seed: int = 0) -> Tensor:
    return randn(2, 3, taps, seed=seed, dtype=torch.float64)


def centred(signal: Tensor, kernel: Tensor) -> Tensor:
    """The bidirectional convolution of `o i t`, zeros beside the signal."""
    return F.conv1d(signal, kernel, padding=kernel.shape[2] // 2)


def causal(signal: Tensor, kernel: Tensor) -> Tensor:
    return F.conv1d(F.pad(signal, (kernel.shape[2] - 1, 0)), kernel)


def signal(*powers: float) -> Tensor:
    """A polynomial in time per channel, with other coefficients in each."""
    time = torch.arange(FRAMES, dtype=torch.float64)
    coefficients = randn(1, 3, len(powers), seed=5, dtype=torch.float64)
    return sum(coefficients[..., i, None] * time**power for i, power in enumerate(powers))  # type: ignore[return-value]


def test_shift_is_the_same_kernel_and_comes_one_frame_late() -> None:
    x, w = randn(1, 3, FRAMES, seed=1, dtype=torch.float64), weight()
    assert torch.equal(shifted(w), w)
    torch.testing.assert_close(causal(x, shifted(w))[..., 1:], centred(x, w)[..., :-1])


def test_masked_is_the_kernel_without_its_future() -> None:
    x, w = randn(1, 3, FRAMES, seed=1, dtype=torch.float64), weight()
    by_hand = w.clone()
    by_hand[:, :, 2] = 0
    torch.testing.assert_close(causal(x, masked(w)), centred(x, by_hand))
    x[..., 4:] = 0
    torch.testing.assert_close(causal(x, masked(w))[..., 3], centred(x, w)[..., 3])


def test_extrapolative_is_the_published_kernel() -> None:
    w = weight()
    made = extrapolative(w, 2)
    torch.testing.assert_close(made[:, :, 0], torch.zeros_like(made[:, :, 0]))
    torch.testing.assert_close(made[:, :, 1], w[:, :, 0] - w[:, :, 2])
    torch.testing.assert_close(made[:, :, 2], w[:, :, 1] + 2 * w[:, :, 2])


@pytest.mark.parametrize(("taps", "window"), [(3, 2), (3, 3), (5, 2), (5, 3), (5, 5), (7, 4)])
def test_extrapolative_is_exact_on_what_is_affine_in_time(taps: int, window: int) -> None:
    x, w, half = signal(0.0, 1.0), weight(taps), taps // 2
    inside = slice(taps - 1, FRAMES - half)
    torch.testing.assert_close(causal(x, extrapolative(w, window))[..., inside], centred(x, w)[..., inside])
    torch.testing.assert_close(line_weights(half, window).sum(1), torch.ones(half, dtype=torch.float64))


def test_its_residual_is_the_second_difference() -> None:
    x, w = randn(1, 3, FRAMES, seed=1, dtype=torch.float64), weight()
    second = x[..., 2:] - 2 * x[..., 1:-1] + x[..., :-2]
    expected = -torch.einsum("o i, b i t -> b o t", w[:, :, 2], second)
    residual = causal(x, extrapolative(w, 2)) - centred(x, w)
    torch.testing.assert_close(residual[..., 1:-1], expected)
    squares = signal(2.0)
    residual = causal(squares, extrapolative(w, 2)) - centred(squares, w)
    coefficient = randn(1, 3, 1, seed=5, dtype=torch.float64)[..., 0]
    expected = -2 * torch.einsum("o i, b i -> b o", w[:, :, 2], coefficient)
    torch.testing.assert_close(residual[..., 2:-1], expected[..., None].expand(-1, -1, FRAMES - 3))


def test_shift_errs_without_bound_where_extrapolation_does_not() -> None:
    w = weight()
    errors = {}
    for slope in (1.0, 1000.0):
        x = slope * signal(1.0)
        for mode, window in (("shift", 2), ("extrapolative", 2)):
            difference = causal(x, Transfer(mode, window).kernel(w)) - centred(x, w)  # type: ignore[arg-type]
            errors[mode, slope] = float(difference[..., 2:-1].abs().max())
    assert errors["shift", 1000.0] > 900 * errors["shift", 1.0] > 0
    assert errors["extrapolative", 1000.0] < 1e-9


def test_what_taps_add_up_to() -> None:
    w = weight()
    torch.testing.assert_close(extrapolative(w, 2).sum(2), w.sum(2))
    torch.testing.assert_close(shifted(w).sum(2), w.sum(2))
    torch.testing.assert_close(masked(w).sum(2), w.sum(2) - w[:, :, 2])


@pytest.mark.parametrize("pad", ["zeros", "replicate"])
def test_what_stands_before_the_first_frame(pad: Padding) -> None:
    """A constant signal keeps its value at the first frame where that is repeated, and loses taps to zeros."""
    w = weight()
    layer = TemporalConv(3, 2, taps=3, causal=True, pad=pad).double()
    layer.weight.data = extrapolative(w, 2)
    x = torch.ones(1, FRAMES, 3, 1, 1, dtype=torch.float64)
    made = layer(x, Run(torch.zeros(1, FRAMES, 1)))[0, :, :, 0, 0]
    inside = centred(torch.ones(1, 3, FRAMES, dtype=torch.float64), w)[0, :, 4]
    torch.testing.assert_close(made[3], inside)
    lost = torch.zeros_like(inside) if pad == "replicate" else (w[:, :, 2] - w[:, :, 0]).sum(1)
    torch.testing.assert_close(made[0], inside + lost)


def test_kernels_of_three_dimensions_are_those_of_one() -> None:
    w = weight()
    for mode in MODES:
        transfer = Transfer(mode, 2)
        torch.testing.assert_close(transfer.kernel(w[..., None, None]), transfer.kernel(w)[..., None, None])


def test_kernels_of_one_tap_stay() -> None:
    w = weight(1)
    for mode in MODES:
        assert torch.equal(Transfer(mode, 2).kernel(w), w)


def test_a_network_keeps_all_but_its_convolutions_along_time() -> None:
    weights = tiny_unet(causal=False).state_dict()
    for mode in MODES:
        made = Transfer(mode, 2).weights(weights)
        changed = {name for name in weights if not torch.equal(made[name], weights[name])}
        temporal = {name for name in weights if ".temporal." in name and name.endswith("conv.weight")}
        assert len(temporal) == 4 * sum(".conv1.weight" in name for name in weights)
        assert changed == (set() if mode == "shift" else temporal)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: extrapolative(weight(), 4), "2 to 3"), (lambda: extrapolative(weight(), 1), "2 to 3"),
    (lambda: Transfer("masked", 2).kernel(weight(4)), "no centre"),
])  # fmt: skip
def test_impossible_kernels_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
