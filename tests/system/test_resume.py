"""Killed at any moment, continued, and equal to the last bit to a run that was never stopped.

Every run here is a program of its own and dies by SIGKILL.
"""

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.system.comparing import differences, read, state_of, walk
from tests.system.conftest import QUICK, Run
from tests.system.killing import Program, there, writes, written_somewhere
from wm_lightning.checkpoints import read_card, read_network, save_network
from wm_lightning.config import compose
from wm_lightning.randomness import normal
from wm_lightning.tasks.build import build_card, build_data, network_of

ITERATIONS = 16
COUNTS = [f"module.iterations={ITERATIONS}", "module.validate_every=5"]
EXECUTOR = [
    "size=debug", "callbacks.progress=null", "+trainer.enable_progress_bar=false", "metrics.distilled=null", *COUNTS,
    "callbacks.checkpoint.every=1",
]  # fmt: skip
KINDS = {
    "teacher": ["experiment=teacher", *QUICK, *COUNTS, "callbacks.checkpoint.every=1"],
    # A student update every second iteration, a fresh rollout every third: the kill falls inside a cycle.
    "dmd": [
        "experiment=dmd_chunkwise", *QUICK, *COUNTS, "callbacks.checkpoint.every=1", "module.ratio=2",
        "module.fresh_every=3",
    ],
    # Checkpoints of every second iteration: what was done since the last one is done again.
    "teacher, every 2": ["experiment=teacher", *QUICK, *COUNTS, "callbacks.checkpoint.every=2"],
    "dmd, every 2": ["experiment=dmd_chunkwise", *QUICK, *COUNTS, "callbacks.checkpoint.every=2", "module.ratio=3"],
    # From a base that is trained first, once for all of them. Few steps, frames and clips, as every frame is guided.
    "vid2world": [
        "experiment=vid2world", *QUICK, *COUNTS, "callbacks.checkpoint.every=1", "module.start.module.iterations=2",
        "module.sampler.steps.steps=2", "data.frames=7", "data.val_frames=7", "metrics.horizon=6", "rollout.window=4",
    ],
    # From a base that is trained first, once; judges in threads of their own, several rollouts of every task.
    "executor": ["experiment=wmsd_full", *EXECUTOR],
    "executor of adapters": ["experiment=wmsd_lora", *EXECUTOR],
}  # fmt: skip


@pytest.fixture(scope="session")
def noisy_teacher(teacher: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose every weight is noise, so that no part of a distillation is zero or idle."""
    config = compose(["experiment=teacher", *QUICK, f"cache_dir={cache}"])
    file = read_network(teacher / "teacher.safetensors", build_card(config, build_data(config), "teacher"))
    network = network_of(config, file, torch.device("cpu"))
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter += 0.1 * normal(parameter.shape, 0, "noisy teacher", number)
    path = tmp_path_factory.mktemp("noisy") / "teacher.safetensors"
    save_network(path, network, read_card(teacher / "teacher.safetensors"), torch.float32)
    return path


def done(folder: Path) -> int:
    """Iterations in the newest checkpoint."""
    return int(read(folder / "checkpoints/last.ckpt")["card"]["iterations"])


def assert_same_end(whole: Path, resumed: Path, kind: str) -> None:
    for name in ("last.ckpt", "best.ckpt", "previous.ckpt"):
        found = list(differences(state_of(whole / "checkpoints" / name), state_of(resumed / "checkpoints" / name)))
        assert not found, f"{name}: {found[:10]}"
    exported = [load_file(folder / f"{kind}.safetensors") for folder in (whole, resumed)]
    assert not list(differences(exported[0], exported[1]))
    assert not list(resumed.rglob("*.partial*"))


@pytest.fixture(scope="session")
def whole(run: Run, noisy_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run folder of the uninterrupted run of a kind, run once."""
    folders: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in folders:
            folder = tmp_path_factory.mktemp("whole") / "run"
            run(*words_of(kind, noisy_teacher), f"run_dir={folder}").must_succeed()
            folders[kind] = folder
        return folders[kind]

    return of


def words_of(kind: str, noisy_teacher: Path) -> list[str]:
    return KINDS[kind] + ([f"module.teacher.ckpt_path={noisy_teacher}"] if kind.startswith("dmd") else [])


def role(kind: str) -> str:
    return {"dmd": "student", "exe": "executor"}.get(kind[:3], "teacher")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "parts"),
    [("dmd", ("student.", "critic.", "average.", "critic_updates", "iteration")),
     ("vid2world", ("network.", "average.", "iteration"))],
)  # fmt: skip
def test_the_runs_compared_here_do_something(kind: str, parts: Sequence[str], whole: Any) -> None:
    last = read(whole(kind) / "checkpoints/last.ckpt")
    before = read(whole(kind) / "checkpoints/previous.ckpt")["state_dict"]
    changed = {name for name, value in last["state_dict"].items() if not torch.equal(value, before[name])}
    for part in parts:
        assert any(name.startswith(part) for name in changed), f"{part} stood still"
    # Of student and critic, or Muon's and AdamW's.
    assert len(last["optimizer_states"]) == 2
    for state in last["optimizer_states"]:
        assert any(isinstance(value, Tensor) and value.any() for _, value in walk(state)), "it has nothing to remember"
    assert last["card"]["iterations"] == ITERATIONS
    assert set(last) >= {"state_dict", "optimizer_states", "loops", "callbacks", "provenance"}
    assert kind != "dmd" or (last["replay"]["windows"] and last["teacher_hash"])
    handed_out = [value for key, value in walk(last["loops"]) if key == "handed_out"]
    assert handed_out == [ITERATIONS], "the position in the data is not in the checkpoint"


def kill_and_continue(
    kind: str, seed: int, whole: Path, words: Sequence[str], cache: Path, folder: Path, kills: int = 1
) -> None:
    """Kills at moments drawn by `seed`, each time continues with run_dir=D ckpt_path=last, compares at the end."""
    source = random.Random(f"{kind}/{seed}")
    every = 2 if "every 2" in kind else 1
    target, start = folder / "run", 0
    words = [*words, f"run_dir={target}", "ckpt_path=last"]
    for _ in range(kills):
        # All within the first half: a fast machine is through several iterations in a pause.
        count = source.randint(1, max(1, ITERATIONS // 2 // every // kills))
        delay = source.uniform(0, 0.05 / kills)
        program = Program(words, cache, folder)
        # Where a checkpoint is there already, it is one of those that are seen.
        program.until(writes(target / "checkpoints/last.ckpt", count + (start > 0)))
        time.sleep(delay)
        program.kill()
        before, start = start, done(target)
        assert before < start < ITERATIONS, f"killed at iteration {start} after {before}, which interrupts nothing"
        assert not (target / "results.json").exists()
    Program(words, cache, folder).finish()
    assert_same_end(whole, target, role(kind))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills"), [("teacher", 3), ("dmd", 3), ("vid2world", 3), ("executor", 3)])
def test_killed_and_continued(
    kind: str, kills: int, whole: Any, noisy_teacher: Path, cache: Path, tmp_path: Path
) -> None:
    """One run of every module, killed three times: what goes on may be killed again."""
    kill_and_continue(kind, 0, whole(kind), words_of(kind, noisy_teacher), cache, tmp_path, kills)


@pytest.mark.nightly
def test_killed_between_two_checkpoints(whole: Any, noisy_teacher: Path, cache: Path, tmp_path: Path) -> None:
    kind = "dmd, every 2"
    kill_and_continue(kind, 0, whole(kind), words_of(kind, noisy_teacher), cache, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 120))
@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_continued_at_many_moments(
    kind: str, seed: int, whole: Any, noisy_teacher: Path, cache: Path, tmp_path: Path
) -> None:
    kill_and_continue(kind, seed, whole(kind), words_of(kind, noisy_teacher), cache, tmp_path)


@pytest.mark.parametrize(
    "stage", [pytest.param("half", marks=pytest.mark.slow), pytest.param("renaming", marks=pytest.mark.nightly)]
)
def test_killed_while_a_checkpoint_is_written(
    stage: str, whole: Any, noisy_teacher: Path, cache: Path, tmp_path: Path
) -> None:
    kind, count = "dmd", 7
    target, marker = tmp_path / "run", tmp_path / "now"
    words = [*words_of(kind, noisy_teacher), f"run_dir={target}", "ckpt_path=last"]
    wrapper = [str(Path(__file__).with_name("slow_writer.py")), stage, str(count), str(marker)]
    program = Program(words, cache, tmp_path, wrapper)
    program.until(there(marker))
    program.kill()
    folder = target / "checkpoints"
    torn, whole_one = (folder / "last.ckpt.partial").stat().st_size, (folder / "last.ckpt").stat().st_size
    assert (torn < 0.8 * whole_one) == (stage == "half")
    assert done(target) == count - 1, "the checkpoint before the one that was being written is the last"
    Program(words, cache, tmp_path).finish()
    assert_same_end(whole(kind), target, role(kind))


@pytest.mark.parametrize(
    "stage", [pytest.param("training", marks=pytest.mark.slow), pytest.param("evaluation", marks=pytest.mark.nightly)]
)
def test_an_interrupt_says_how_to_go_on(stage: str, whole: Any, cache: Path, tmp_path: Path) -> None:
    target, words = tmp_path / "run", [*KINDS["teacher"], f"run_dir={tmp_path / 'run'}"]
    long = ["metrics.teacher_steps=[64]"] if stage == "evaluation" else []  # a table to be interrupted in
    program = Program([*words, *long], cache, tmp_path)
    last = target / "checkpoints/last.ckpt"
    program.until(writes(last, 4) if stage == "training" else there(target / "teacher.safetensors"))
    program.process.send_signal(signal.SIGINT)
    assert program.process.wait(timeout=120) == 130
    said = program.err.read_text()
    assert f"Interrupted; the same command with run_dir={target} ckpt_path=last goes on from there." in said
    assert "Traceback" not in said, "an interrupt is no error"
    Program([*words, "ckpt_path=last"], cache, tmp_path).finish()
    if stage == "training":
        assert_same_end(whole("teacher"), target, "teacher")
    assert (target / "results.json").is_file()


@pytest.mark.slow
def test_last_without_a_folder_takes_the_newest_run_of_the_same_config(
    whole: Any, cache: Path, run: Run, tmp_path: Path
) -> None:
    words = KINDS["teacher"]
    program = Program([*words, "name=mine"], cache, tmp_path)
    logs = tmp_path / "logs/mine"
    program.until(moment for moment in written_somewhere(logs, 3))
    program.kill()
    [killed] = logs.iterdir()
    time.sleep(1.1)  # folders are named by the second
    run(*words, "name=mine", "seed=1", folder=tmp_path).must_succeed()  # newer, of another config
    [other] = set(logs.iterdir()) - {killed}
    log = run(*words, "name=mine", "ckpt_path=last", folder=tmp_path).must_succeed()
    assert set(logs.iterdir()) == {killed, other}, "a new folder was made"
    assert f"Continuing {killed}/checkpoints/last.ckpt" in log.out
    # The name is part of the hash in the record, and of nothing that is computed.
    one, two = (read(folder / "checkpoints/last.ckpt") for folder in (whole("teacher"), killed))
    for key in ("state_dict", "optimizer_states", "loops", "callbacks"):
        assert not list(differences(one[key], two[key]))
    # A config that never ran starts anew.
    log = run(*words, "name=mine", "seed=2", "module.iterations=1", "ckpt_path=last", folder=tmp_path).must_succeed()
    assert len(list(logs.iterdir())) == 3 and "Continuing" not in log.out


@pytest.mark.slow
def test_killed_while_a_distillation_trains_its_teacher(run: Run, tmp_path: Path) -> None:
    words = ["experiment=dmd_chunkwise", *QUICK, "module.teacher.ckpt_path=null", "module.iterations=3"]
    words += ["module.teacher.recipe.iterations=12", "callbacks.checkpoint.every=1"]
    folders = {}
    for name in ("whole", "killed"):
        own = tmp_path / f"cache-{name}"
        folders[name] = (own, tmp_path / name)
        line = [*words, f"run_dir={tmp_path / name}", "ckpt_path=last"]
        if name == "killed":
            program = Program(line, own, tmp_path)
            program.until(written_somewhere(own / "teachers", 4))
            program.kill()
            assert not list(own.glob("teachers/*/teacher.safetensors"))
        run(*line, WM_CACHE=str(own)).must_succeed()
    files = [next(own.glob("teachers/*/teacher.safetensors")) for own, _ in folders.values()]
    assert not list(differences(load_file(files[0]), load_file(files[1])))
    assert_same_end(folders["whole"][1], folders["killed"][1], "student")


@pytest.mark.slow
def test_a_finished_run_continued_trains_no_more(run: Run, whole: Any, noisy_teacher: Path) -> None:
    folder = whole("dmd")
    before = state_of(folder / "checkpoints/last.ckpt")
    run(*words_of("dmd", noisy_teacher), f"run_dir={folder}", "ckpt_path=last").must_succeed()
    assert not list(differences(before, state_of(folder / "checkpoints/last.ckpt")))
