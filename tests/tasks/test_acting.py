"""An executor among actions is refused, before anything is trained, a student or settings that would mislead it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate

from wm_lightning.checkpoints import NetworkFile
from wm_lightning.config import compose
from wm_lightning.data.pusher_goals import PusherGoalsDataModule
from wm_lightning.sampling.samplers import DDIMSampler, StepList, described
from wm_lightning.tasks.build import build_card, declare_actions
from wm_lightning.tasks.roles_check import check_roles

STUDENT: dict[str, Any] = {
    "chunks": [None], "frames": 13, "context": 1, "clean_history": 1.0, "history_level": 0.0, "shared": 1.0, "steps": 4,
    "sampler": described(DDIMSampler(StepList(kind="matched", steps=4, shift=3.0), eta=0.0)),
    "commit": [{"mode": "clean", "t": 0.0}], "action_dropout": {"share": 0.2, "granularity": "clip"},
}  # fmt: skip


def check(folder: Path, *words: str, **trained: Any) -> None:
    """The experiment's check of a student that fits it but for what is changed."""
    config = compose(["experiment=wmsd_action", "size=debug", f"cache_dir={folder}", f"run_dir={folder}/run", *words])
    data: PusherGoalsDataModule = instantiate(config.data, _convert_="all")
    declare_actions(config, data)
    card = replace(build_card(config, data, "student"), trained_for=STUDENT | trained)
    check_roles(config, data, NetworkFile({}, card, ""))


def test_a_student_that_went_without_actions_will_do(tmp_path: Path) -> None:
    check(tmp_path)
    check(tmp_path, action_dropout={"share": 0.1, "granularity": "both"})


@pytest.mark.parametrize("dropout", [{"share": 0.0, "granularity": "frame"}, {"share": 0.2, "granularity": "frame"}])
def test_one_that_always_heard_them_is_refused(dropout: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"told its goal with all actions dropped, and the student .*=dmd_whole is"):
        check(tmp_path, action_dropout=dropout)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sampler.steps.steps=8"], "was trained for the steps"),
        (["rollout.mask.chunk=3"], "rollout.mask needs the mask chunkwise"),
        (["data.frames=9", "module.frames=9"], "data.frames=9, data.val_frames=13 and module.frames=9 must be equal"),
        (["algorithm.states=films", "algorithm.rl=false"], "algorithm.states=films learns films by their labels"),
        (
            ["metrics.writer={_target_: wm_lightning.worlds.grid_writer.grid_writer, _partial_: true}"],
            "solved by actions; set metrics.writer=null",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_student_cannot_be_asked_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        check(tmp_path, *words)
