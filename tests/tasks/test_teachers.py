"""A teacher that lacks the student's mask is fine-tuned under it first, once; a training may start from a file."""

import shutil
import time
from pathlib import Path
from threading import Thread

import pytest
import torch
from filelock import FileLock

from tests.tiny_run import DMD, tiny, tiny_teacher
from wm_lightning.checkpoints import read_card
from wm_lightning.config import compose
from wm_lightning.tasks import teachers
from wm_lightning.tasks.build import build_card, build_data, build_module, plain_node
from wm_lightning.tasks.fit import best_checkpoint, export
from wm_lightning.tasks.preflight import check_training
from wm_lightning.tasks.teachers import (
    given_teacher,
    prepare_start,
    prepare_teacher,
    recipe_of,
    start_file,
    teacher_folder,
    train_teacher,
)

FRAMEWISE = ["module.masks.chunks=[1,null]", "module.masks.shares=[0.5,0.5]"]
RECIPE = ["module.teacher.recipe.batch_size=2", "module.teacher.recipe.validate_every=9", "module.teacher.adapt=3"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny teacher that was trained framewise and bidirectionally."""
    folder = tmp_path_factory.mktemp("teacher")
    config, _ = tiny_teacher(folder, *FRAMEWISE)
    path = folder / "teacher.safetensors"
    export(config, best_checkpoint(config), build_card(config, build_data(config), "teacher"), path)
    return path


def distillation(file: Path, tmp_path: Path, *words: str):
    named = f"module.teacher.ckpt_path={file}"
    return tiny(tmp_path, "experiment=dmd_chunkwise", named, *DMD, *RECIPE, *words, cache=file.parent / "cache")


@pytest.mark.slow
def test_a_teacher_without_the_mask_is_fine_tuned_once(file: Path, tmp_path: Path) -> None:
    config = distillation(file, tmp_path)
    check_training(config)
    data = build_data(config)
    assert read_card(file).trained_for["chunks"] == [1, None]
    adapted = prepare_teacher(config, data)
    assert adapted.card.trained_for["chunks"] == [1, 3, None] and adapted.card.iterations == 3
    [folder] = (file.parent / "cache/teachers").iterdir()
    before = (folder / "teacher.safetensors").stat().st_mtime_ns
    assert prepare_teacher(config, data).sha256 == adapted.sha256
    assert (folder / "teacher.safetensors").stat().st_mtime_ns == before


def test_a_second_run_waits_for_the_teacher_that_another_trains(file: Path, tmp_path: Path) -> None:
    config = distillation(file, tmp_path, "module.teacher.recipe.batch_size=3")
    data, start = build_data(config), given_teacher(config, build_data(config))
    found: list[Path] = []
    waiting = Thread(target=lambda: found.append(train_teacher(config, data, start)))
    recipe = recipe_of(config, fine_tuned=True)
    with FileLock(teacher_folder(recipe, data, start) / "training.lock"):
        waiting.start()
        time.sleep(0.5)
        assert waiting.is_alive()
        shutil.copy(file, teacher_folder(recipe, data, start) / "teacher.safetensors")
    waiting.join(timeout=60)
    assert read_card(found[0]).iterations == read_card(file).iterations  # it trained none of its own


def test_a_recipe_is_the_same_on_every_machine(file: Path, tmp_path: Path) -> None:
    def name(*words: str) -> str:
        config = distillation(file, tmp_path, *words)
        data = build_data(config)
        return teacher_folder(recipe_of(config, fine_tuned=True), data, given_teacher(config, data)).name

    assert name("data.num_workers=1", f"data.cache_dir={tmp_path}") == name() != name("data.frames=9")


def test_a_teacher_of_the_recipe_that_comes_with_the_suite_is_taken(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = distillation(file, tmp_path, "module.teacher.recipe.batch_size=4")
    data, start = build_data(config), given_teacher(config, build_data(config))
    folder = teacher_folder(recipe_of(config, fine_tuned=True), data, start)
    monkeypatch.setattr(teachers, "SHIPPED", tmp_path)
    shipped = shutil.copy(file, tmp_path / f"{folder.name}.safetensors")
    assert train_teacher(config, data, start) == shipped and not folder.exists()


def test_it_starts_from_the_given_weights(file: Path, tmp_path: Path) -> None:
    config = distillation(file, tmp_path)
    recipe = tiny(tmp_path, "experiment=teacher", f"module.start={file}", cache=file.parent / "cache")
    data = build_data(recipe)
    start = start_file(recipe, data)
    assert start is not None
    module = build_module(recipe, build_card(recipe, data, "teacher"), start)
    for network in (module.network, module.deployed):
        assert all(torch.equal(value, start.weights[name]) for name, value in network.state_dict().items())
    config.module.teacher.recipe.optimizer.lr = config.module.teacher.recipe.optimizer.muon_lr = 0.0
    still = prepare_teacher(config, build_data(config))
    assert all(torch.equal(value, start.weights[name]) for name, value in still.weights.items())


def test_random_weights_in_place_of_a_start_are_said(
    file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(tmp_path, "experiment=teacher", "module.start=absent.ckpt", cache=file.parent / "cache")
    data = build_data(config)
    with pytest.raises(ValueError, match="task=unpack wrote, .*, or set module.start=null to begin from random"):
        prepare_start(config, data)
    config.module.start = None
    assert prepare_start(config, data) is None and "random weights" not in caplog.text
    config.module.transfer = {"mode": "masked"}
    assert prepare_start(config, data) is None and "module.start=null: random weights" in caplog.text


@pytest.mark.nightly
def test_masks_the_recipe_lacks_join_it(file: Path, tmp_path: Path) -> None:
    config = distillation(file, tmp_path, "rollout.chunk=2")
    check_training(config)
    recipe = recipe_of(config, fine_tuned=True)
    assert list(recipe.module.masks.chunks) == [1, 3, None, 2]
    assert sum(recipe.module.masks.shares) == pytest.approx(1) and recipe.module.masks.shares[-1] == pytest.approx(0.3)


def test_what_made_a_teacher_is_not_done_again_when_it_is_fine_tuned() -> None:
    config = compose(["experiment=vid2world_dmd", "data=rt1", "size=debug"])
    first, again = (recipe_of(config, fine_tuned=way).module for way in (False, True))
    assert first.transfer is not None and list(first.start_new) == ["action", "action_scales"]
    assert (again.start, list(again.start_new), again.transfer) == (None, [], None)


def test_one_recipe_whatever_the_students_seed_and_rollout(file: Path, tmp_path: Path) -> None:
    ways = [("seed=0",), ("seed=1", "rollout=framewise"), ("rollout.chunk=6", "rollout.window=9")]
    recipes = [recipe_of(distillation(file, tmp_path, *words), fine_tuned=False) for words in ways]
    nodes = [{key: plain_node(recipe, key) for key in ("module", "rollout", "data")} for recipe in recipes]
    assert nodes[0] == nodes[1] == nodes[2] and {recipe.seed for recipe in recipes} == {0}


def test_without_fine_tuning_it_is_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs the mask chunkwise \(3\).*module\.teacher\.adapt"):
        check_training(distillation(file, tmp_path, "module.teacher.adapt=0"))


def test_a_start_that_may_grow_keeps_what_its_shapes_do_not_tell(file: Path, tmp_path: Path) -> None:
    """Heads (and groups of norms) have no weights of their own: others would compute something else, unnoticed."""
    words = ["experiment=teacher", f"module.start={file}", "module.start_new=[action]"]
    for more in ([], ["network.action_kind=mlp"]):
        config = tiny(tmp_path, *words, *more, cache=file.parent / "cache")
        assert start_file(config, build_data(config)) is not None
    config = tiny(tmp_path, *words, "network.heads=1", cache=file.parent / "cache")
    with pytest.raises(ValueError, match=r"the start .* network\.heads: \d against 1 .*module\.start=null"):
        start_file(config, build_data(config))
