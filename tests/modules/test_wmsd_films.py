"""Fine-tuning on labelled films: flow matching on the films' own frames, of the executor and of nobody else."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.modules.making import flat
from tests.modules.making_wmsd import FRAMES, algorithm, films, learn, wmsd
from tests.modules.test_counts_and_resume import Save, assert_same, everything
from tests.modules.test_wmsd import PARTS, Watch
from wm_lightning.clip import Clip
from wm_lightning.modules.wmsd import WMSDModule
from wm_lightning.modules.wmsd_rollouts import Rollouts

SFT: dict[str, Any] = dict(states="films", rl=False, judged=False, distill=0.0, anchor=1.0)


def sft(**changes: Any) -> WMSDModule:
    return wmsd(**(dict(algorithm=algorithm(**SFT), surrogate=None, advantage=None, copies=2) | changes))


def noised_films(module: WMSDModule, cache: Path) -> tuple[Rollouts, Any, Clip]:
    """One iteration's films under noise and what the executor is told of them, without a training."""
    data = films(cache)
    data.prepare_data()
    module.trainer = type("Trainer", (), {"datamodule": data})()  # type: ignore[assignment]
    clip = next(data.clips("train", 2, FRAMES, 2))
    asked, _ = module.conditions(clip)
    return module.rollouts(clip, asked, module.network), asked, clip


def test_films_move_the_executor_and_nobody_else(tmp_path: Path) -> None:
    module, watch = sft(), Watch()
    before = {part: flat([p.detach().clone() for p in getattr(module, part).parameters()]) for part in PARTS}
    learn(module, tmp_path / "run", watch)
    after = {part: flat([p.detach() for p in getattr(module, part).parameters()]) for part in PARTS}
    changed = [part for part in PARTS if not torch.equal(before[part], after[part])]
    assert changed == ["network", "average"] and module.iterations == 4 and not int(module.skipped)
    said = {name.removeprefix("train/") for name in watch.logged[0] if name.startswith("train/")}
    assert said == {"loss", "rate", "gap"}, "somebody was judged"


@pytest.mark.parametrize("stop", [1, 3])
def test_a_continued_run_is_the_same_run(tmp_path: Path, stop: int) -> None:
    whole, path = sft(), tmp_path / "saved.ckpt"
    before = everything(whole, learn(whole, tmp_path / "whole", Save(stop, path)))
    resumed = sft()
    assert_same(before, everything(resumed, learn(resumed, tmp_path / "resumed", resume=path)))


def test_the_loss_is_flow_matching_on_the_films_frames(tmp_path: Path) -> None:
    """By hand: x = (1 - t) x0 + t noise at the sampler's levels behind the clean picture, and u against noise - x0."""
    module = sft(micro_batch=3)
    made, asked, clip = noised_films(module, tmp_path)
    assert clip.x0.shape[1] == FRAMES
    lesson = module.lesson(clip, made, asked, module.taught(made, asked), None)
    picked, model = module.picked(made), module.denoiser(module.network)
    loss = torch.stack([part() for part in lesson.losses(model, module.surrogate, picked, module.micro_batch)]).sum()
    errors, twice = [], clip.x0.repeat_interleave(2, 0)
    for step in picked.anchor.tolist():
        t = module.sampler.levels(module.path, FRAMES - 1)[step, 0]
        noise = (made.states[:, step] - (1 - t) * twice[:, 1:]) / t
        seen = torch.cat([twice[:, :1], (1 - t) * twice[:, 1:] + t * noise], 1)
        label = torch.full((4, FRAMES), float(t))
        label[:, 0] = 0.0
        x0, _ = model.x0(seen, label, asked, None, module.plan.mask)
        said = (seen - x0)[:, 1:] / t
        errors.append((said - (noise - twice[:, 1:])).square().mean())
        assert abs(float(noise.mean())) < 0.05 and float(noise.std()) == pytest.approx(1.0, abs=0.05)
    torch.testing.assert_close(loss, torch.stack(errors).mean(), atol=1e-5, rtol=1e-5)


def test_noise_hangs_on_run_iteration_film_copy_and_level(tmp_path: Path) -> None:
    module = sft()
    made, _, _ = noised_films(module, tmp_path)
    noise = made.velocities + made.made[:, None]
    assert len({tuple(one.flatten().tolist()) for one in noise.flatten(0, 1)}) == 4 * made.states.shape[1]
    module.iteration += 1
    other, _, _ = noised_films(module, tmp_path)
    assert torch.equal(other.made, made.made) and not torch.equal(other.velocities, made.velocities)


def test_a_network_learns_what_its_films_show(tmp_path: Path) -> None:
    module, watch = sft(iterations=40), Watch()
    learn(module, tmp_path / "run", watch)
    gaps = [logged["train/gap"] for logged in watch.logged]
    assert sum(gaps[-8:]) < 0.7 * sum(gaps[:8])


@pytest.mark.parametrize("changes", [{"rl": True, "judged": True}, {"demonstrator": "ema"}], ids=str)
def test_films_have_neither_rewards_nor_a_demonstrator(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="films have no demonstrator; set rl=false and demonstrator=frozen"):
        algorithm(**(SFT | changes))
