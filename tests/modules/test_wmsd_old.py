"""The policy that made the rollouts, where the executor has moved on since or follows it slowly."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.modules.making import flat
from tests.modules.making_wmsd import STEPS, algorithm, learn, tasks, wmsd
from tests.modules.test_counts_and_resume import Save, assert_same, everything
from tests.modules.test_wmsd import SURROGATES, Watch, rollouts
from tests.modules.test_wmsd_kl import ADVANTAGE, gradient
from wm_lightning.clip import Clip
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.modules.wmsd_surrogates import AWM
from wm_lightning.networks.lora import LoRA

NARROW = AWM(draws=2, weighting="t", p=1.0, aggregation="exp_first", clip=1e-9)
SLOW: dict[str, Any] = dict(old_decay=0.5, old_rise=0.2)
KINDS: dict[str, dict[str, Any]] = {
    "updates": dict(updates=2),
    "slow": dict(**SURROGATES["nft"], **SLOW),
    "grpo": dict(**SURROGATES["grpo"], updates=2),
    "adapters": dict(updates=2, lora=LoRA(rank=2, alpha=4.0, targets=["mlp.0", "mlp.2"])),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    data = tasks(tmp_path_factory.mktemp("cache"))
    data.prepare_data()
    return next(data.clips("train", 2, 1, 2))


def moved(module: WMSDModule) -> WMSDModule:
    """The executor, away from its old policy."""
    source = torch.Generator().manual_seed(0)
    for parameter in module.network.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=source)
    return module


@pytest.mark.parametrize("name", ["awm", "grpo"])
def test_ratios_leave_one_with_the_second_update(name: str, tmp_path: Path) -> None:
    for updates in (1, 2):
        watch = Watch()
        learn(wmsd(**SURROGATES[name] | {"updates": updates}, iterations=2), tmp_path / str(updates) / "run", watch)
        away = [abs(one["train/ratio"] - 1) for one in watch.logged]
        assert max(away) < 1e-5 if updates == 1 else min(away) > 1e-5


def test_clips_act_from_the_second_update_on(clip: Clip, tmp_path: Path) -> None:
    """Whatever a good rollout has gained already it need not gain again."""
    module = wmsd(surrogate=NARROW, updates=2, algorithm=algorithm(distill=0.0, anchor=0.0))
    made, asked, _ = rollouts(module, clip, tmp_path)
    first = module.lesson(clip, made, asked, None, ADVANTAGE)
    found = {}
    for lesson in (first, module.again(first, 1)):
        [loss] = lesson.losses(module.denoiser(moved(module).network), NARROW, module.picked(made), 6)
        loss()
        found[len(found)] = {name: float(value) for name, value in lesson.logged.items()}
    assert found[0]["ratio"] == 1 and found[0]["ratio_clipped"] == 0
    assert found[1]["ratio"] != 1 and found[1]["ratio_clipped"] == 1


def test_another_update_has_noise_of_its_own(clip: Clip, tmp_path: Path) -> None:
    module = wmsd(updates=3)
    made, asked, _ = rollouts(module, clip, tmp_path)
    first, whole = module.lesson(clip, made, asked, None, ADVANTAGE), slice(0, 6)
    lessons = [first, module.again(first, 1), module.again(first, 2)]
    noises = [lesson.noises(whole, draw).flatten() for lesson in lessons for draw in range(2)]
    assert all(not torch.equal(a, b) for place, a in enumerate(noises) for b in noises[:place])


def test_the_old_policy_makes_the_rollouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, roles = wmsd(**SLOW, iterations=2), []
    own = module.rollouts
    monkeypatch.setattr(module, "rollouts", lambda *told: (roles.append(told[-1]), own(*told))[1])
    learn(module, tmp_path / "run")
    assert module.old is not None and roles == [module.old.network] * 2


def test_behind_several_updates_the_old_policy_is_the_executor_again(tmp_path: Path) -> None:
    module, before = wmsd(updates=2, iterations=1), flat([p.detach().clone() for p in wmsd().network.parameters()])
    learn(module, tmp_path / "run")
    assert module.old is not None
    own, old = (flat([p.detach() for p in network.parameters()]) for network in (module.network, module.old))
    assert torch.equal(own, old) and not torch.equal(own, before)


def test_the_old_policy_follows_the_executor() -> None:
    module = moved(wmsd(**SLOW))
    assert module.old is not None
    before, target = (flat([p.detach().clone() for p in net.parameters()]) for net in (module.old, module.network))
    for weight in (0.8, 0.6, 0.5, 0.5):  # a decay of 0.2 an iteration, and 0.5 at most
        module.old.update(module.network)
        before = before + weight * (target - before)
        torch.testing.assert_close(flat([p.detach() for p in module.old.parameters()]), before)


@pytest.mark.parametrize("slow", [False, True])
def test_how_far_hypothetical_policies_lie_apart_matters_with_an_old_one(
    slow: bool, clip: Clip, tmp_path: Path
) -> None:
    module = wmsd(**SURROGATES["nft"], **(SLOW if slow else {}), algorithm=algorithm(distill=0.0, anchor=0.0))
    made, asked, _ = rollouts(module, clip, tmp_path)
    near, far = (gradient(moved(module) if slow else module, clip, made, asked, beta=beta) for beta in (0.1, 1.0))
    assert torch.allclose(near, far, rtol=1e-3, atol=1e-5) is not slow


@pytest.mark.parametrize("kind", KINDS)
def test_a_continued_run_is_the_same_run(kind: str, tmp_path: Path) -> None:
    whole, path = wmsd(**KINDS[kind]), tmp_path / "saved.ckpt"
    before = everything(whole, learn(whole, tmp_path / "whole", Save(2, path)))
    resumed = wmsd(**KINDS[kind])
    after = everything(resumed, learn(resumed, tmp_path / "resumed", resume=path))
    assert any(name.startswith("old.") for name in whole.state_dict())
    assert_same(before, after)


def test_one_update_of_own_rollouts_keeps_no_old_policy() -> None:
    assert wmsd().old is None and not any(name.startswith("old.") for name in wmsd().state_dict())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(updates=0), "module.updates=0"),
        (dict(old_decay=1.0), "module.old_decay=1.0 must be null, or at least 0 and below 1"),
        (dict(old_decay=0.5, old_rise=-1.0), "module.old_rise=-1.0 is 0 or more"),
        (dict(old_rise=0.001), "of a module.old_decay, to which it rises; set both"),
        (dict(updates=2, algorithm=algorithm(demonstrator="rewarded", turns=(1, 1))), "set updates=1"),
        (dict(old_decay=0.5, algorithm=algorithm(rl=False, states="demonstrator")), "set updates=1"),
    ],
)  # fmt: skip
def test_an_old_policy_is_of_an_executor_that_rolls_out(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wmsd(**changes)


def test_the_noisiest_steps_may_be_left_out(clip: Clip, tmp_path: Path) -> None:
    module = wmsd(surrogate=AWM(draws=2, weighting="t", p=1.0, aggregation="exp_first", clip=1.0, skip=1))
    made, _, _ = rollouts(module, clip, tmp_path)
    picked = set()
    for number in range(30):
        module.iteration.fill_(number)
        picked |= set(module.picked(made).policy.tolist())
    assert picked == set(range(1, STEPS.steps.steps))
