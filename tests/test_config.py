"""Composition, precedence, resolvers, the check before anything is built, and what is written down."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from wm_lightning.checkpoints import read_card
from wm_lightning.config import CONFIG_DIR, compose, cpu_precision, grid_points
from wm_lightning.config_check import check, locate
from wm_lightning.config_errors import ConfigError, explain
from wm_lightning.config_overrides import join, prepare_arguments, recorded, refuse_unread
from wm_lightning.config_record import config_hash, newest_run, plain, redact, save_record

TEACHER = "wm_lightning.modules.teacher.TeacherModule"
OPTIMIZER = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.1}
Compose = Callable[[Sequence[str]], DictConfig]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def folder(project: Path) -> Path:
    return project / "conf"


@pytest.fixture
def composed(folder: Path) -> Compose:
    return lambda overrides: compose(overrides, config_dir=folder)


@pytest.mark.parametrize("words", [["experiment=claim", "size=debug"], ["size=debug", "experiment=claim"]])
def test_size_wins_over_experiment_in_any_order(composed: Compose, words: list[str]) -> None:
    config = composed(words)
    assert (config.name, config.seed, config.network.width) == ("claim", 11, 3)


def test_a_value_on_the_command_line_wins_over_both(composed: Compose) -> None:
    config = composed(["network.width=5", "seed=33", "experiment=claim", "size=debug"])
    assert (config.seed, config.network.width) == (33, 5)


def test_an_experiment_chooses_other_options(composed: Compose) -> None:
    assert composed(["experiment=claim"]).trainer.strategy == "ddp_find_unused_parameters_true"
    assert composed(["experiment=claim", "trainer=cpu"]).trainer.accelerator == "cpu"


def test_a_grid_is_a_multirun_by_itself(folder: Path) -> None:
    shutil.copytree(folder.parent / "sweeps/ablation", folder / "ablation")
    config = compose(["ablation=widths", "size=debug"], config_dir=folder, with_hydra=True)
    assert config.hydra.mode.name == "MULTIRUN"
    assert dict(config.hydra.sweeper.params) == {"network.width": "7,8"}


@pytest.mark.parametrize(
    "words", [["-m", "ablation=a,b"], ["ablation=a,b"], ["-m", "ablation=glob(*)"], ["ablation=a", "ablation=b"]]
)
def test_several_grids_at_once_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="several grids"):
        prepare_arguments(words)


def test_play_without_a_checkpoint_has_the_suites_own_student() -> None:
    words = prepare_arguments(["task=play", "task.fps=5"])
    config = compose([word for word in words if not word.startswith("task.fps")])
    card = read_card(Path(str(config.ckpt_path)))
    assert (card.kind, card.trained_for["chunks"]) == ("student", [config.rollout.chunk])
    assert config.name == "dmd_chunkwise" and words[-1] == "task.fps=5"
    with pytest.raises(ConfigError, match="needs a checkpoint"):
        prepare_arguments(["task=play", "experiment=teacher"])


def test_the_trainer_knows_no_epochs_and_no_global_steps(composed: Compose) -> None:
    trainer = composed([]).trainer
    assert (trainer.max_epochs, trainer.check_val_every_n_epoch, trainer.num_sanity_val_steps) == (1, None, 0)
    assert trainer.use_distributed_sampler is False
    assert not {"max_steps", "gradient_clip_val", "accumulate_grad_batches"} & set(trainer)


def test_loggers_and_callbacks_and_trainers_pass_the_check(composed: Compose) -> None:
    for words in (["logger=csv"], ["logger=tensorboard"], ["logger=wandb", "trainer=gpu"], ["trainer=ddp"]):
        config = composed(words)
        config.task = OPTIMIZER
        check(config)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["experiment=clam"], "experiment=clam does not exist; did you mean claim?"),
        (["trainer.precison=32"], "did you mean precision?"),
        (["sead=3"], "sead is not a key of the configuration; did you mean seed?"),
        (["seed=many"], "seed"),
        (["experiment=mistyped"], "modul"),
    ],
)
def test_composition_errors_name_what_to_type(folder: Path, words: list[str], said: str) -> None:
    with pytest.raises(HydraException) as caught:
        compose(words, config_dir=folder)
    assert said in explain(caught.value, words, config_dir=folder)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("os.system", "is not allowed"),
        ("builtins.eval", "is not allowed"),
        ("torch.load", "is not allowed"),
        ("torch.hub.load", "is not allowed"),
        ("subprocess.run", "is not allowed"),
        ("functools.partial", "is not allowed"),
        ("torch.nn.Linear", "is not allowed"),
        ("wm_lightning.config_record.os.system", "posix.system"),
        ("wm_lightning.environment.subprocess.run", "subprocess.run"),
        ("wm_lightning.environment.subprocess.Popen", "subprocess.Popen"),
        ("torch.optim.optimizer.torch.load", "torch.serialization.load"),
        ("torch.optim.optimizer.torch.hub.load", "torch.hub.load"),
        ("lightning.pytorch.trainer.trainer.os.system", "posix.system"),
        ("lightning.pytorch.LightningModule.load_from_checkpoint", "is not allowed"),
        ("wm_lightning.config.compose.__globals__", "is not allowed"),
        ("wm_lightning.config", "is not allowed: it is the module"),
        ("torch.optim.swa_utils.update_bn", "is not allowed"),
        # The suite's own functions that run programs, write files or read what they are told to.
        ("wm_lightning.environment.git", "wm_lightning.environment.git, which a config may not build"),
        ("wm_lightning.results.results.write_whole", "is not allowed"),
        ("wm_lightning.checkpoint_io.remove_partials", "is not allowed"),
        ("wm_lightning.checkpoints.rewrite_card", "is not allowed"),
        ("wm_lightning.config_record.save_record", "is not allowed"),
        ("wm_lightning.tasks.start.instantiate", "is not allowed"),
        ("wm_lightning.tasks.fit.export", "is not allowed"),
        ("wm_lightning.tasks.build.instantiate", "hydra._internal"),
        ("wm_lightning.rewards.endpoint.os.system", "is not allowed"),
        # Ways around a name: what every object has, methods, and what modules import.
        ("wm_lightning.clip.Clip.__init__.__globals__", "is not allowed"),
        ("wm_lightning.clip.Clip.__class__", "is the class builtins.type"),
        ("wm_lightning.clip.Clip.__subclasses__", "is not allowed"),
        ("wm_lightning.clip.Clip.__mro__", "is not allowed"),
        ("torch.optim.AdamW.__init__.__builtins__", "is not allowed"),
        ("lightning.pytorch.Trainer.__init__", "is not allowed"),
        ("lightning.pytorch.utilities.migration.utils.migrate_checkpoint", "is not allowed"),
        ("lightning.pytorch.core.saving._load_from_checkpoint", "is not allowed"),
        ("lightning.pytorch.loggers.wandb.os.popen", "is not allowed"),
        ("lightning.pytorch.cli.LightningCLI", "is not allowed"),
        ("wm_lightning..os.system", ""),
        ("wm_lightning.\u212bos", ""),
    ],
)
def test_targets_outside_the_allow_list_are_refused(target: str, said: str) -> None:
    with pytest.raises(ConfigError, match="is not allowed" if said else "does not exist") as caught:
        locate(target)
    assert said in str(caught.value)


def test_a_config_that_would_run_a_program_through_a_function_of_the_suites_is_refused(tmp_path: Path) -> None:
    words = [str(tmp_path), "-c", f"alias.x=!touch {tmp_path / 'ran'}", "x"]
    config = OmegaConf.create({"module": {"_target_": "wm_lightning.environment.git", "_args_": words}})
    with pytest.raises(ConfigError, match="module._target_: wm_lightning.environment.git is not allowed"):
        check(config)
    hidden = OmegaConf.create({"sampler": [{"_target_": "wm_lightning.clip.Clip", "_args_": [config.module]}]})
    with pytest.raises(ConfigError, match=r"sampler\[0\]._args_\[0\]._target_: wm_lightning.environment.git"):
        check(hidden)
    assert not (tmp_path / "ran").exists()


def test_nothing_outside_the_allowed_packages_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "planted.py", "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError):
        locate("planted.Thing")
    assert not (tmp_path / "ran").exists()


def test_allowed_targets_are_found() -> None:
    assert locate("torch.optim.AdamW").__name__ == "AdamW"
    assert locate("lightning.pytorch.Trainer").__name__ == "Trainer"
    assert locate("wm_lightning.compute.prepare_cpu").__name__ == "prepare_cpu"


def test_the_check_names_every_fault_and_the_nearest_name() -> None:
    config = OmegaConf.create(
        {
            "module": {"optimizer": {**OPTIMIZER, "weight_decai": 0.1}, "path": "???"},
            "callbacks": {"list": [{"_target_": "wm_lightning.callbacks.checkpoint.IterationChekpoint"}]},
            "rollout": {"_target_": "os.system", "command": "true"},
        }
    )
    with pytest.raises(ConfigError) as caught:
        check(config)
    message = str(caught.value)
    assert "module.optimizer.weight_decai: AdamW has no parameter weight_decai; did you mean weight_decay?" in message
    assert "callbacks.list[0]._target_" in message
    assert "did you mean IterationCheckpoint?" in message
    assert "rollout._target_: os.system is not allowed" in message
    assert "module.path: a value must be given" in message


@pytest.mark.parametrize("group", ["callbacks", "logger", "rollout"])
@pytest.mark.parametrize("value", [[], [{"_target_": "wm_lightning.callbacks.trouble.Trouble", "most": 2}], 3, "all"])
def test_what_is_no_group_of_keys_is_named_with_what_one_is(group: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"{group} is .*; a group of keys is expected, such as \{{"):
        check(OmegaConf.create({group: value}))


@pytest.mark.parametrize("place", ["callbacks.mine", "logger.mine", "rollout.guidance"])
def test_a_value_where_something_is_built_is_named(place: str) -> None:
    config = OmegaConf.create({})
    OmegaConf.update(config, place, 3)
    with pytest.raises(ConfigError, match=f"{re.escape(place)} has no _target_"):
        check(config)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("masked", "not 'masked'; set module.transfer.mode=masked"),
        ("backwards", "not 'backwards'; it is a group with the keys mode, window, head_height"),
    ],
)
def test_a_word_in_place_of_a_group_is_told_its_key(value: str, said: str) -> None:
    with pytest.raises(ConfigError, match="module.transfer: TeacherModule wants .*Transfer") as caught:
        check(OmegaConf.create({"module": {"_target_": TEACHER, "transfer": value}}))
    assert said in str(caught.value)
    check(OmegaConf.create({"module": {"_target_": TEACHER, "transfer": None, "start": "a file, read elsewhere"}}))


def test_nothing_in_place_of_a_group_is_told_how_to_have_none() -> None:
    with pytest.raises(ConfigError, match=r"ActionDropout, not None; set module.action_dropout.share=0.0$"):
        check(OmegaConf.create({"module": {"_target_": TEACHER, "action_dropout": None}}))


def test_hydras_own_keys_are_no_parameters() -> None:
    check(OmegaConf.create({"module": {**OPTIMIZER, "_recursive_": False, "_convert_": "all"}}))


def test_a_target_from_an_interpolation_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WM_TARGET", "os.system")
    with pytest.raises(ConfigError, match="os.system is not allowed"):
        check(OmegaConf.create({"task": {"_target_": "${oc.env:WM_TARGET}"}}))


@pytest.mark.parametrize(
    ("flags", "precision"), [("fpu avx512_bf16", "bf16-mixed"), ("amx_bf16", "bf16-mixed"), ("fpu avx2", "32-true")]
)
def test_precision_follows_the_processor(tmp_path: Path, flags: str, precision: str) -> None:
    write(tmp_path / "cpuinfo", f"processor : 0\nflags : {flags}\n")
    assert cpu_precision(tmp_path / "cpuinfo") == precision
    assert cpu_precision(tmp_path / "absent") == "32-true"


def test_the_hash_is_of_what_is_computed(composed: Compose) -> None:
    base = config_hash(composed([]))
    assert base == config_hash(composed(["logger=tensorboard", "tags=[a]", "run_dir=elsewhere", "cache_dir=c"]))
    assert base == config_hash(plain(composed([])))
    whole = plain(composed([]))
    assert base == config_hash({**whole, "task": {"_target_": "another"}}), "what is done with a run is another matter"
    assert len({base, config_hash(composed(["seed=1"])), config_hash(composed(["network.width=4"]))}) == 3


def test_the_machine_is_no_part_of_the_hash() -> None:
    words = ["data=rt1", "data.decode_workers=7", "data.world.workers=7", "data.num_workers=3", "data.cache_gib=1.0"]
    assert config_hash(compose(["data=rt1"])) == config_hash(compose(words))


SECRET = "a-key-nobody-may-see"


def test_keys_from_the_environment_are_never_written(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SERVICE_API_KEY", SECRET)
    monkeypatch.setenv("ENDPOINT", "https://endpoint.example/")
    words = [
        "+network.direct='${oc.env:SOME_SERVICE_API_KEY}'",
        "+network.indirect='x-${network.direct}'",
        "+network.endpoint='${oc.env:ENDPOINT}'",
        f"+network.typed={SECRET}",
    ]
    config = composed(words)
    assert config.network.indirect == f"x-{SECRET}"
    save_record(config, words, tmp_path / "run")
    written = "".join(path.read_text() for path in (tmp_path / "run").iterdir())
    assert SECRET not in written and "endpoint.example" not in written
    assert "<environment: SOME_SERVICE_API_KEY>" in written
    assert redact([f"key={SECRET}"]) == ["key=<environment: SOME_SERVICE_API_KEY>"]


def test_the_record_reads_back_as_the_plain_config(composed: Compose, tmp_path: Path) -> None:
    config = composed(["experiment=claim", "size=debug", "run_dir=run"])
    save_record(config, ["experiment=claim", "seed=${oc.env:HOME}"], tmp_path)
    read = OmegaConf.to_container(OmegaConf.load(tmp_path / "config.yaml"), resolve=True)
    assert read == plain(config)
    overrides = OmegaConf.to_container(OmegaConf.load(tmp_path / "overrides.yaml"), resolve=True)
    assert overrides == ["experiment=claim", "seed=${oc.env:HOME}"]


def test_the_newest_run_of_the_same_config_is_found(composed: Compose, tmp_path: Path) -> None:
    for position, seed in enumerate((0, 1, 0)):
        run = tmp_path / f"run{position}"
        save_record(composed([f"seed={seed}", f"run_dir={run}"]), [], run)
        write(run / "checkpoints/last.ckpt", "")
    write(tmp_path / "unfinished/config.yaml", (tmp_path / "run0/config.yaml").read_text())
    found = newest_run(tmp_path, composed(["seed=0"]))
    assert found is not None and found.name == "run2"
    assert newest_run(tmp_path, composed(["seed=9"])) is None


def test_last_without_a_folder_continues_the_newest_run(folder: Path, tmp_path: Path) -> None:
    old, given = tmp_path / "logs/old", tmp_path / "logs/given"
    save_record(compose([], config_dir=folder), [], old)
    write(old / "checkpoints/last.ckpt", "")
    root = folder / "config.yaml"
    root.write_text(root.read_text().replace("run_dir: logs/${name}", f"run_dir: {tmp_path}/logs"))
    find = lambda *words: Path(compose(words, config_dir=folder, with_hydra=True).hydra.run.dir)  # noqa: E731
    assert find("ckpt_path=last") == old
    assert find("ckpt_path=last", "seed=9") != old
    assert find("ckpt_path=last", f"run_dir={given}") == given
    assert find() != old


@pytest.mark.parametrize("task", ["evaluate", "rollout"])
def test_what_a_checkpoint_is_put_to_stands_in_a_folder_that_names_it(task: str) -> None:
    def find(*words: str) -> Path:
        return Path(compose(words, with_hydra=True).hydra.run.dir)

    student = "ckpt_path=logs/dmd_chunkwise/2026-01-02_03-04-05/checkpoints/best.ckpt"
    place = find(f"task={task}", student)
    assert place.parent == Path(f"logs/{task}/dmd_chunkwise_2026-01-02_03-04-05_best")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", place.name)
    assert find(f"task={task}", "ckpt_path=/data/my nets/student.safetensors").parent.name == "data_my-nets_student"
    assert find(f"task={task}", "ckpt_path=logs/mine/checkpoints/last.ckpt").parent.name == "mine_last"
    assert find(f"task={task}", student, "run_dir=logs/here") == Path("logs/here")
    assert find("task=train", student).parent == Path("logs/run") == find(f"task={task}").parent
    assert find("task=report").parent == Path("logs/report") and find("task=report", "name=x").parent == Path("logs/x")


@pytest.mark.parametrize("point", grid_points("vid2world_transfer")[::9], ids=str)
def test_points_of_several_experiments_stand_in_one_folder(point: list[str]) -> None:
    def place(*words: str) -> Path:
        return Path(compose(["ablation=vid2world_transfer", *point, *words], with_hydra=True).hydra.sweep.dir)

    assert place().parent == Path("logs/vid2world_transfer")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", place().name)
    assert place("run_dir=logs/here") == Path("logs/here") and place("name=mine").parent == Path("logs/mine")
    assert Path(compose(point, with_hydra=True).hydra.sweep.dir).parent.name == point[0].split("=")[1]


def test_saved_overrides_come_first_and_those_of_the_old_run_are_dropped() -> None:
    saved = ["experiment=a", "ablation=grid", "hydra.mode=RUN", "hydra/launcher=x", "launcher=slurm", "size=small"]
    saved += ["run_dir=old", "+module.extra=1", "network.width=2"]
    given = ["task=evaluate", "ckpt_path=x.ckpt", "size=debug", "module.extra=4"]
    assert join(saved, given) == ["experiment=a", "network.width=2", *given]


EVIL_WORDS = [
    "--experimental-rerun=evil.pickle", "--config-dir=elsewhere/evil", "-cd", "-m", "experiment=../../../evil",
    "experiment=/elsewhere/evil", "module=[teacher,../../evil]", "callbacks@hydra.callbacks=default",
    "network@hydra/launcher=x", "network=pkg://evil/x", "a b=c", "=x",
]  # fmt: skip


@pytest.mark.parametrize("word", EVIL_WORDS)
def test_words_saved_in_a_file_tell_hydra_nothing_else(tmp_path: Path, word: str) -> None:
    torch.save({"provenance": {"overrides": ["experiment=claim", word]}}, tmp_path / "evil.ckpt")
    with pytest.raises(ConfigError, match="evil.ckpt says that it was trained with .*which is no setting"):
        prepare_arguments(["task=rollout", f"ckpt_path={tmp_path / 'evil.ckpt'}"])


def test_words_that_trainings_save_are_settings(tmp_path: Path) -> None:
    words = ["experiment=dmd_chunkwise", "+module.a.b=[1,2]", "~callbacks.rollout_video", "data.root=/data/../x"]
    words += ["sampler@module.sampler=ddim", "size/network@network=x", '++a="b c"', "name='x=../y'", "init=null"]
    torch.save({"provenance": {"overrides": words}}, tmp_path / "own.ckpt")
    given = ["task=rollout", f"ckpt_path={tmp_path / 'own.ckpt'}"]
    assert prepare_arguments(given) == [*words, *given]


def test_where_a_judge_is_asked_and_by_which_key_is_not_taken_from_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = ["reward=vlm", "reward.weights={task: 1.0}", "name=url", "module.judges.max_invalid=0.1"]
    asked = ["reward.endpoint.url=http://elsewhere/v1", "++reward.endpoint.key_variable=OPENAI_API_KEY"]
    asked += ["reward.endpoint={url: http://elsewhere/v1, key_variable: AWS_SECRET_ACCESS_KEY}"]
    asked += ['+reward.others.x={"endpoint": {"model": m}}', "reward/endpoint@reward.endpoint=other"]
    torch.save({"provenance": {"overrides": [*kept[:2], *asked, *kept[2:]]}}, tmp_path / "evil.ckpt")
    given = ["task=evaluate", f"ckpt_path={tmp_path / 'evil.ckpt'}"]
    assert prepare_arguments(given) == [*kept, *given]
    assert all(word in caplog.text for word in asked) and "Give it again where it is meant" in caplog.text
    given += ["reward.endpoint.url=http://localhost:1/v1"]
    assert prepare_arguments(given) == [*kept, *given], "what the user says holds"


def test_a_grid_is_saved_as_the_experiment_it_is_over() -> None:
    given = ["ablation=dmd_chunks", "rollout.chunk=6", "seed=1"]
    assert recorded(given, {"experiment": "claim"}) == ["experiment=claim", "rollout.chunk=6", "seed=1"]
    assert recorded(["experiment=claim"], {"experiment": "claim"}) == ["experiment=claim"]


@pytest.mark.parametrize(
    ("word", "instead"),
    [
        ("sampler=ddim_vid2world", "sampler@module.sampler=ddim_vid2world"),
        ("sampler.steps.steps=2", "module.sampler.steps.steps=2"),
    ],
)
def test_a_sampler_that_the_module_does_not_read_is_refused(word: str, instead: str) -> None:
    """A teacher has its own beside that of students: the other word would change nothing, in silence."""
    said = f"{word} would change nothing: this module has a sampler of its own; write {instead}"
    with pytest.raises(ConfigError, match=re.escape(said)):
        refuse_unread(compose(["experiment=vid2world", word]), ["experiment=vid2world", word])
    refuse_unread(compose(["experiment=vid2world", instead]), [instead])
    refuse_unread(compose(["experiment=dmd_chunkwise", "sampler.steps.steps=2"]), ["sampler.steps.steps=2"])


def test_a_program_that_hydra_has_started_composes_too() -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        assert compose(["experiment=teacher", "seed=5"]).seed == 5
        assert hydra_compose("config", ["seed=6"]).seed == 6  # its own is what it was
