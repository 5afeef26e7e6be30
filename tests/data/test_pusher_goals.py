"""The pusher's clips as tasks: hindsight that the truth agrees with, and who is told what."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.modules.making_goals import FRAMES, clip_settings, goals
from wm_lightning.clip import ActionState, Clip
from wm_lightning.data.cache import MARKER
from wm_lightning.data.datamodule import SPLITS
from wm_lightning.data.pusher_goals import PusherGoalsDataModule
from wm_lightning.data.rt1 import RT1DataModule
from wm_lightning.worlds.pusher_goals import cell_of, goal_of


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    goals(folder).prepare_data()
    return folder


@pytest.fixture
def data(cache: Path) -> PusherGoalsDataModule:
    return goals(cache)


@pytest.fixture
def clip(data: PusherGoalsDataModule) -> Clip:
    return next(data.clips("test", 4, FRAMES, 4))


@pytest.mark.parametrize("split", SPLITS)
def test_the_goal_is_where_the_gripper_is_at_the_end(data: PusherGoalsDataModule, split: str) -> None:
    clip = next(data.clips(split, 4, FRAMES, 4))
    assert clip.texts is not None and len(set(clip.texts.ids)) == 4
    ends = [cell_of(float(x), float(y)) for x, y in clip.truth["gripper"][:, -1]]
    assert [goal_of(text) for text in clip.texts.instruction] == ends


def test_an_id_names_its_task_again(data: PusherGoalsDataModule, clip: Clip) -> None:
    assert clip.texts is not None
    rows = [data.row(name) for name in clip.texts.ids]
    assert [row.id for row in rows] == list(clip.texts.ids) and {row.split for row in rows} == {"test"}
    assert tuple(row.prompt for row in rows) == clip.texts.instruction
    for row, way in zip(rows, clip.truth["gripper"], strict=True):
        first, last = (torch.tensor(cell_of(float(x), float(y))) for x, y in (way[0], way[-1]))
        assert row.task_type == ("stay", "near", "far")[min(int((first - last).abs().max()), 2)]
    with pytest.raises(KeyError):
        data.row("no such recording")


def test_an_executor_is_told_the_goal_and_a_demonstrator_the_actions(data: PusherGoalsDataModule, clip: Clip) -> None:
    asked, solved = data.asked(clip, FRAMES), data.solved(clip, FRAMES)
    assert clip.texts is not None and asked.prompt is not None and solved.prompt is None
    assert torch.equal(asked.prompt.tokens, data.prompter(clip.texts.instruction).tokens)
    assert bool((asked.state == int(ActionState.DROPPED)).all())
    assert torch.equal(solved.actions, clip.condition.actions) and torch.equal(solved.state, clip.condition.state)
    with pytest.raises(ValueError, match=f"clips of {FRAMES} frames, videos have 4; set data.frames"):
        data.solved(clip, 4)


def test_clips_are_trained_on_with_their_goals(data: PusherGoalsDataModule) -> None:
    batch = next(iter(data.train_dataloader()))
    assert batch.texts is not None and len(batch.texts) == 2 and not batch.truth
    assert all(goal_of(text) is not None and data.row(name).split == "train" for name, text in named(batch))


def named(clip: Clip) -> list[tuple[str, str]]:
    assert clip.texts is not None
    return [*zip(clip.texts.ids, clip.texts.instruction, strict=True)]


def test_they_are_the_clips_that_a_student_learned(data: PusherGoalsDataModule, cache: Path) -> None:
    """The same simulation in the same cache, under the same name, with the same actions."""
    plain = RT1DataModule(**clip_settings(cache))
    assert (plain.name, plain.spec, plain.folder) == (data.name, data.spec, data.folder)
    ours, theirs = (next(iter(one.train_dataloader())) for one in (data, plain))
    assert torch.equal(ours.video, theirs.video) and torch.equal(ours.condition.actions, theirs.condition.actions)
    assert theirs.texts is None


def test_without_the_simulators_state_nobody_knows_where_grippers_end(cache: Path, tmp_path: Path) -> None:
    source = next(cache.glob("simulated-pusher-*"))
    simulated = shutil.copytree(source, tmp_path / "simulated")
    assert goals(cache, root=str(simulated)).world is not None
    (simulated / MARKER).unlink()
    with pytest.raises(ValueError, match="goals are read off the simulator's own state"):
        goals(cache, root=str(simulated))
