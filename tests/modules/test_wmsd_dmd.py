"""Distribution matching of an executor: its gradient by hand, who moves, and a continued run that is the same run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.modules.making import flat
from tests.modules.making_wmsd import algorithm, learn, tasks, wmsd
from tests.modules.test_counts_and_resume import Save, assert_same, everything
from tests.modules.test_wmsd import PARTS, Watch, rollouts
from tests.modules.test_wmsd_lora import ADAPTERS
from wm_lightning.clip import Clip
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.modules.wmsd_rollouts import velocities_at
from wm_lightning.networks.lora import LoRA
from wm_lightning.noising import per_pixel

DMD: dict[str, Any] = dict(rl=False, judged=False, distill=0.0, anchor=0.0, critic=3)


def dmd(**changes: Any) -> WMSDModule:
    return wmsd(**(dict(algorithm=algorithm(**DMD), surrogate=None, advantage=None) | changes))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    data = tasks(tmp_path_factory.mktemp("cache"))
    data.prepare_data()
    return next(data.clips("train", 2, 1, 2))


def changed(module: WMSDModule) -> Tensor:
    """The critic as if it had learned something."""
    assert module.critic is not None
    source = torch.Generator().manual_seed(5)
    for parameter in module.critic.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=source)
    return flat([p.detach().clone() for p in module.critic.parameters()])


def test_critic_and_executor_are_moved_and_nobody_else(tmp_path: Path) -> None:
    module, watch, parts = dmd(), Watch(), (*PARTS, "critic")
    before = {part: flat([p.detach().clone() for p in getattr(module, part).parameters()]) for part in parts}
    trainer = learn(module, tmp_path / "run", watch)
    after = {part: flat([p.detach() for p in getattr(module, part).parameters()]) for part in parts}
    moved = [part for part in parts if not torch.equal(before[part], after[part])]
    assert moved == ["network", "average", "critic"] and not torch.equal(after["network"], after["critic"])
    assert module.iterations == 4 and not int(module.skipped)
    assert trainer.global_step == 4 * (3 + 1), "three updates of the critic, one of the executor"
    said = {name.removeprefix("train/") for name in watch.logged[0] if name.startswith("train/")}
    assert said == {"loss", "rate", "score_gap", "critic_loss", "critic_rate", "critic_gap"}


@pytest.mark.parametrize("lora", [None, ADAPTERS], ids=["copies", "adapters"])
def test_a_continued_run_is_the_same_run(tmp_path: Path, lora: LoRA | None) -> None:
    whole, path = dmd(lora=lora, iterations=3), tmp_path / "saved.ckpt"
    before = everything(whole, learn(whole, tmp_path / "whole", Save(2, path)))
    resumed = dmd(lora=lora, iterations=3)
    assert_same(before, everything(resumed, learn(resumed, tmp_path / "resumed", resume=path)))


@pytest.mark.parametrize("micro_batch", [6, 2])
def test_the_gradient_is_that_of_the_two_scores(micro_batch: int, clip: Clip, tmp_path: Path) -> None:
    """By hand: dx / dtheta times (fake - real) / mean |x - real|, x being where a pass at the picked state ends."""
    module = dmd(micro_batch=micro_batch)
    kept = changed(module)
    made, asked, told = rollouts(module, clip, tmp_path)
    assert module.critic is not None
    executor, mask, path = module.denoiser(module.network), module.plan.mask, module.path
    lesson, picked = module.lesson(clip, made, asked, None, None, told), module.picked(made)
    assert lesson.scores is not None
    for loss in lesson.losses(executor, None, picked, micro_batch):
        loss().backward()
    found = flat([p.grad for p in module.network.parameters() if p.grad is not None])
    module.network.zero_grad()
    total = torch.zeros(())
    for draw, (step, level) in enumerate(zip(picked.anchor.tolist(), lesson.scores.levels.tolist(), strict=True)):
        t, at = (made.times[row].expand(len(made), -1) for row in (step, level))
        x = made.states[:, step] - per_pixel(t) * velocities_at(
            executor, made.context, made.states[:, step], t, asked, mask
        )
        with torch.no_grad():
            x_t = path.add_noise(x, module.draws(clip).matching(made.made.shape[1:], slice(0, len(made)), draw), at)
            fake, real = (
                x_t - per_pixel(at) * velocities_at(module.denoiser(network), made.context, x_t, at, words, mask)
                for network, words in ((module.critic, asked), (module.demonstrator, told))
            )
            direction = (fake - real) / (x - real).abs().mean((1, 2, 3, 4), keepdim=True)
        total = total + (x * direction).mean() / len(picked.anchor)
    total.backward()
    expected = flat([p.grad for p in module.network.parameters() if p.grad is not None])
    assert float(expected.abs().max()) > 0
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-3)
    assert torch.equal(kept, flat([p.detach() for p in module.critic.parameters()]))
    assert all(p.grad is None for p in (*module.critic.parameters(), *module.demonstrator.parameters()))


def test_scores_differ_by_what_the_demonstrator_was_told_and_by_what_the_critic_learned(
    clip: Clip, tmp_path: Path
) -> None:
    def gap(module: WMSDModule, *, tell: bool) -> float:
        made, asked, told = rollouts(module, clip, tmp_path)
        lesson = module.lesson(clip, made, asked, None, None, told if tell else asked)
        [loss] = lesson.losses(module.denoiser(module.network), None, module.picked(made), 6)
        loss()
        return float(lesson.logged["score_gap"])

    assert gap(dmd(), tell=False) < 1e-5 < 1e-3 < gap(dmd(), tell=True)
    module = dmd()
    changed(module)
    assert gap(module, tell=False) > 1e-3


def test_a_critic_learns_the_executors_videos(clip: Clip, tmp_path: Path) -> None:
    module = dmd(algorithm=algorithm(**(DMD | {"critic": 24})))
    made, asked, _ = rollouts(module, clip, tmp_path)
    assert module.critic is not None
    optimizer, losses, levels = torch.optim.Adam(module.critic.parameters(), lr=1e-3), [], set()
    for number, lesson in enumerate(module.critic_lessons(clip, made, asked)):
        picked = module.picked(made, number)
        levels.add(tuple(picked.anchor.tolist()))
        [loss] = (part() for part in lesson.losses(module.denoiser(module.critic), None, picked, 6))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])
    assert len(levels) > 1, "every update at the same levels"


@pytest.mark.parametrize(
    "changes", [{"rl": True}, {"states": "films"}, {"demonstrator": "ema"}, {"critic": -1}], ids=str
)
def test_a_critic_is_of_an_executor_without_rewards(changes: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"algorithm.critic=.*set algorithm.critic=0, or rl=false|nothing would be learned"
    ):
        algorithm(**(DMD | {"distill": 0.1, "anchor": 0.1} | changes))
