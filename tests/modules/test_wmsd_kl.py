"""What holds a policy to the executor's moving average, and which matching loss stands for a likelihood."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.modules.making import flat
from tests.modules.making_wmsd import algorithm, tasks, wmsd
from tests.modules.test_wmsd import SURROGATES, rollouts
from wm_lightning.clip import Clip
from wm_lightning.modules.wmsd import WMSDModule

ADVANTAGE = torch.tensor([1.0, 0.0, -1.0, 1.0, 0.0, -1.0])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    data = tasks(tmp_path_factory.mktemp("cache"))
    data.prepare_data()
    return next(data.clips("train", 2, 1, 2))


def gradient(module: WMSDModule, clip: Clip, made: Any, asked: Any, **changes: Any) -> Tensor:
    """The policy's, with settings of its surrogate changed."""
    surrogate = replace(module.surrogate, **changes)  # type: ignore[type-var]
    lesson = module.lesson(clip, made, asked, None, ADVANTAGE)
    [loss] = lesson.losses(module.denoiser(module.network), surrogate, module.picked(made), 6)
    found = torch.autograd.grad(loss(), list(module.network.parameters()), allow_unused=True)
    return flat([part for part in found if part is not None])


@pytest.mark.parametrize("name", SURROGATES)
def test_every_divergence_pulls_in_a_way_of_its_own(name: str, clip: Clip, tmp_path: Path) -> None:
    module = wmsd(**SURROGATES[name], algorithm=algorithm(distill=0.0, anchor=0.0))
    made, asked, _ = rollouts(module, clip, tmp_path)
    kls = ("velocity", "elbo", *(("transition",) if name == "grpo" else ()))
    free = gradient(module, clip, made, asked, trust=0.0)
    assert float(free.abs().max()) > 0
    for kl in kls:  # the average is the executor still
        torch.testing.assert_close(gradient(module, clip, made, asked, trust=5.0, kl=kl), free, atol=1e-6, rtol=1e-4)
    source = torch.Generator().manual_seed(0)
    for parameter in module.average.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=source)
    held = [gradient(module, clip, made, asked, trust=5.0, kl=kl) - free for kl in kls]
    # The base is where it was, and the executor too.
    torch.testing.assert_close(gradient(module, clip, made, asked, trust=0.0, hold=5.0), free, atol=1e-6, rtol=1e-4)
    assert all(float(pull.abs().max()) > 1e-4 for pull in held)
    assert all(float((one - other).abs().max()) > 1e-4 for one, other in zip(held, held[1:], strict=False))


@pytest.mark.parametrize("name", SURROGATES)
def test_what_holds_to_the_base_is_its_distance_from_it(name: str, clip: Clip, tmp_path: Path) -> None:
    module = wmsd(**SURROGATES[name], algorithm=algorithm(distill=0.0, anchor=0.0))
    made, asked, _ = rollouts(module, clip, tmp_path)
    source = torch.Generator().manual_seed(0)
    for own, kept in zip(module.network.parameters(), module.average.network.parameters(), strict=True):
        own.data += 0.05 * torch.randn(own.shape, generator=source)
        kept.data.copy_(own.data)
    free = gradient(module, clip, made, asked, kl="velocity", trust=0.0)
    assert torch.equal(gradient(module, clip, made, asked, kl="velocity", trust=5.0), free), "the average is there too"
    assert float((gradient(module, clip, made, asked, kl="velocity", trust=0.0, hold=5.0) - free).abs().max()) > 1e-4


@pytest.mark.parametrize("name", ["trust", "hold"])
def test_a_demonstrator_that_rewards_move_is_held_by_its_algorithm_alone(name: str) -> None:
    held = replace(SURROGATES["nft"]["surrogate"], **{name: 0.1})
    with pytest.raises(ValueError, match=rf"surrogate.{name} holds to the .* set it to 0 \(algorithm.hold"):
        wmsd(surrogate=held, algorithm=algorithm(demonstrator="rewarded", turns=(1, 1)))


def test_every_matching_loss_has_a_gradient_of_its_own(clip: Clip, tmp_path: Path) -> None:
    module = wmsd(algorithm=algorithm(distill=0.0, anchor=0.0))
    made, asked, _ = rollouts(module, clip, tmp_path)
    found = [
        gradient(module, clip, made, asked, weighting=weighting)
        for weighting in ("uniform", "t", "t**2", "huber", "ghuber", "elbo")
    ]
    assert all(float(one.abs().max()) > 0 for one in found)
    assert all(not torch.allclose(a, b, rtol=1e-3) for place, a in enumerate(found) for b in found[:place])
