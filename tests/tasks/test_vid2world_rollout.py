"""The chain from a training to videos under Vid2World's noise, sampler and rollouts, at the smallest size."""

import json
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from tests.tiny_run import tiny, tiny_teacher
from wm_lightning.clip import ActionState
from wm_lightning.config import compose
from wm_lightning.sampling.guidance import Guidance
from wm_lightning.sampling.rollout import Plan
from wm_lightning.tasks.build import build_data
from wm_lightning.tasks.evaluate import evaluate, read_checkpoint
from wm_lightning.tasks.preflight import check_training
from wm_lightning.tasks.rollout import Use, build_subject

WORDS = [
    "noising=vid2world", "rollout=vid2world", "sampler@module.sampler=ddim_vid2world", "module.sampler.steps.steps=2",
    "module.levels.context=0", "module.levels.clean_history=0.0", "module.levels.law.uniform_share=1.0",
    "module.levels.law.shift=1.0", "module.masks={chunks: [1], shares: [1.0]}",
    "module.action_dropout={share: 0.2, granularity: frame}", "data.first_action=none",
    "rollout.commit.mode=noised", "rollout.commit.t=0.04",  # as published; the small network's history is clean
]  # fmt: skip
TABLE = [
    "metrics.clips=4", "metrics.scale_clips=4", "metrics.horizon=6", "metrics.teacher_steps=[2]", "metrics.repeats=1",
    "metrics.pictures=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    tiny_teacher(folder, *WORDS)
    return folder


def rolled(trained: Path, run: Path, *words: str) -> None:
    config = tiny(trained, "experiment=teacher", "task=rollout", *WORDS, "task.count=1", "task.frames=7", *words)
    config.ckpt_path, config.run_dir = str(trained / "run/checkpoints/last.ckpt"), str(run)
    instantiate(config.task)(config)


def plan_of(trained: Path, *words: str) -> Plan:
    return instantiate(tiny(trained, "experiment=teacher", *WORDS, *words).rollout, _convert_="all")


def test_the_plans_are_vid2worlds(trained: Path) -> None:
    alone = plan_of(trained)
    assert (alone.chunk, alone.mask.chunk) == (1, 1)
    assert alone.commit == instantiate(compose(["experiment=vid2world", "size=paper", "data=rt1"]).rollout.commit)
    assert alone.guidance == Guidance(2.5, "newest", 0.7, "new") and not alone.rerun
    together = plan_of(trained, "rollout=vid2world_nar", "rollout.window=null")
    assert (together.mask.chunk, together.window, together.first_chunk(15)) == (1, None, 15)
    assert together.guidance == alone.guidance


def test_neither_training_nor_test_clips_say_what_led_to_their_first_frame(trained: Path) -> None:
    config = tiny(trained, "experiment=teacher", *WORDS)
    config.ckpt_path = str(trained / "run/checkpoints/last.ckpt")
    data = build_data(config)
    clips = [next(iter(data.train_dataloader())), next(iter(data.val_dataloader())), next(data.clips("test", 4, 7, 4))]
    for clip in clips:
        assert (clip.condition.state[:, 0] == ActionState.NONE).all() and not clip.condition.actions[:, 0].any()
        assert (clip.condition.state[:, 1:] == ActionState.GIVEN).all()
    stored = build_data(tiny(trained, "experiment=teacher", *WORDS, "data.first_action=stored"))
    assert (next(stored.clips("test", 4, 7, 4)).condition.state[:, 0] == ActionState.GIVEN).any()
    assert (data.manifest["first_action"], stored.manifest["first_action"]) == ("none", "stored")
    card = read_checkpoint(config, data, "teacher").card
    assert card.first_action == "none"


def test_videos_are_guided(trained: Path) -> None:
    """From the checkpoint as task=rollout and protocols load it, its weights stirred so that actions do something."""

    def made(*words: str) -> Tensor:
        config = tiny(trained, "experiment=teacher", "task=rollout", *WORDS, *words)
        config.ckpt_path = str(trained / "run/checkpoints/last.ckpt")
        data = build_data(config)
        file = read_checkpoint(config, data, "teacher")
        subject = build_subject(config, file, data, Use(1, 7), torch.device("cpu"))
        source = torch.Generator().manual_seed(0)
        for parameter in subject.model.network.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=source))
        clip = next(data.clips("test", 2, 7, 2))
        return subject.generate(clip, 1, 0, torch.device("cpu")).int()

    def apart(one: Tensor, other: Tensor) -> int:
        return int((one - other).abs().max())

    guided, plain = made(), made("rollout.guidance.scale=1.0")
    assert torch.equal(plain, made("rollout.guidance=null"))
    assert apart(guided, made("rollout.rerun=true")) <= 1  # rounding
    assert apart(guided, plain) > 10
    assert apart(guided, made("rollout.guidance.scope=window", "rollout.rerun=true")) > 1
    assert apart(guided, made("rollout=vid2world_nar", "rollout.window=null")) > 10


def test_what_the_dropout_did_not_cover_is_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rollout.guidance needs actions dropped by clip or both"):
        rolled(trained, tmp_path, "rollout.guidance.drop=all")
    with pytest.raises(ValueError, match=r"rollout\.guidance\.scope=new"):
        rolled(trained, tmp_path, "rollout.guidance.scope=window")
    for words in (["module.action_dropout.granularity=clip"], ["module.action_dropout.share=0.0"]):
        config = tiny(trained, "experiment=teacher", *WORDS, *TABLE, *words)
        with pytest.raises(ValueError, match="rollout.guidance needs actions dropped by frame"):
            check_training(config)


def test_a_distillation_refuses_a_teacher_that_cannot_be_guided(trained: Path) -> None:
    words = ["experiment=dmd_framewise", "rollout@module.teacher.rollout=vid2world", "metrics.horizon=6"]
    config = tiny(trained, *words, "module.rollout.scored=6", "module.teacher.ckpt_path=null")
    with pytest.raises(ValueError, match="module.teacher.rollout.guidance needs actions dropped by frame"):
        check_training(config)


@pytest.mark.parametrize("rollout", ["vid2world", "vid2world_nar"])
def test_the_table_counts_and_judges_guided_passes(trained: Path, tmp_path: Path, rollout: str) -> None:
    words = [f"rollout={rollout}", *(["rollout.window=null"] if rollout.endswith("nar") else [])]
    config = tiny(trained, "experiment=teacher", *WORDS, *TABLE, *words)
    check_training(config)
    config.ckpt_path, config.run_dir = str(trained / "run/checkpoints/last.ckpt"), str(tmp_path)
    evaluate(config)
    first = json.loads((tmp_path / "results.json").read_text())["rows"][0]
    assert (first["nfe"], first["cache_commit"]) == (5, "noised") and first["fps_b1"] > 0


def test_a_table_without_rounds_of_timing_has_what_is_judged_alone(trained: Path, tmp_path: Path) -> None:
    config = tiny(trained, "experiment=teacher", *WORDS, *TABLE, "rollout=vid2world", "metrics.repeats=0")
    config.ckpt_path, config.run_dir = str(trained / "run/checkpoints/last.ckpt"), str(tmp_path)
    evaluate(config)
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    [made] = [row for row in rows if row["role"] == "teacher"]
    assert made["psnr"] is not None and made["nfe"] == 5 and made["fps_b1"] is None
    assert made["reasons"]["fps_b1"] == "not timed: metrics.repeats=0"
