"""Where the anchor holds an executor to its demonstrator: at its rollouts' own states, or at their ends noised anew."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.modules.making_wmsd import algorithm, learn, tasks, wmsd
from tests.modules.test_wmsd import rollouts
from wm_lightning.clip import Clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    data = tasks(tmp_path_factory.mktemp("cache"))
    data.prepare_data()
    return next(data.clips("train", 2, 1, 2))


def seen_by(network: nn.Module) -> list[Tensor]:
    """What the network is shown from now on, pass by pass."""
    found: list[Tensor] = []
    network.register_forward_hook(lambda _, inputs, __: found.append(inputs[0].detach().clone()))
    return found


def anchored(states: str, clip: Clip, folder: Path, *, told_alike: bool = False) -> tuple[Tensor, Tensor, float, Any]:
    """The states of an iteration's anchor as the executor sees them, their levels, the gap, and module and rollouts."""
    module = wmsd(algorithm=algorithm(rl=False, distill=0.0, anchor_states=states))
    made, asked, told = rollouts(module, clip, folder)
    told = asked if told_alike else told
    taught = module.taught(made, told) if module.algorithm.taught else None
    picked, shown = module.picked(made), seen_by(module.network)
    lesson = module.lesson(clip, made, asked, taught, None, told)
    [loss] = lesson.losses(module.denoiser(module.network), None, picked, 6)
    loss().backward()
    assert all(p.grad is None for p in module.demonstrator.parameters())
    levels = torch.cat([made.times[step].expand(6, -1) for step in picked.anchor.tolist()])
    return torch.cat(shown)[:, 1:], levels, float(lesson.logged["gap"]), (module, made, picked)


def test_the_two_anchors_hold_at_different_states_of_the_same_levels(clip: Clip, tmp_path: Path) -> None:
    own, levels, gap, (_, made, picked) = anchored("rollout", clip, tmp_path)
    anew, same, other, (module, again, _) = anchored("renoised", clip, tmp_path)
    assert torch.equal(made.made, again.made) and torch.equal(levels, same)
    assert torch.equal(own, torch.cat([made.states[:, step] for step in picked.anchor.tolist()]))
    noise = torch.cat([module.draws(clip).matching(made.made.shape[1:], slice(0, 6), draw) for draw in range(2)])
    torch.testing.assert_close(anew, module.path.add_noise(made.made.repeat(2, 1, 1, 1, 1), noise, levels))
    assert float((own - anew).abs().mean()) > 0.1 and gap > 0 and other > 0 and gap != other


@pytest.mark.parametrize("states", ["rollout", "renoised"])
def test_a_demonstrator_that_is_told_the_same_holds_nobody(states: str, clip: Clip, tmp_path: Path) -> None:
    *_, gap, _ = anchored(states, clip, tmp_path, told_alike=True)
    assert gap < 1e-6


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({}, 6 * 3),
        ({"anchor": 0.0}, 6 * 3),
        ({"anchor_states": "renoised"}, 6 * 3 + 6 * 2),
        ({"anchor_states": "renoised", "distill": 0.0}, 6 * 2),
    ],
    ids=str,
)
def test_states_of_rollouts_cost_the_demonstrator_nothing_more(
    changes: dict[str, Any], asked: int, tmp_path: Path
) -> None:
    """Of six rollouts of three steps it is asked at all states once, for reward and anchor; renoised ones cost more."""
    module = wmsd(algorithm=algorithm(**changes), iterations=1)
    shown = seen_by(module.demonstrator.network)  # type: ignore[arg-type]
    learn(module, tmp_path / "run", limit_val_batches=0)
    assert sum(map(len, shown)) == asked and not int(module.skipped)
