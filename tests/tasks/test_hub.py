"""A checkpoint as a folder to share: it gives back the same video, claims what was measured, and runs nothing."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig

from tests.system.test_python_example import write_student
from tests.tiny_run import NETWORK, QUIET, TRAINING, WORLD
from wm_lightning.card import Card
from wm_lightning.checkpoints import DEPLOYED, read_card, read_network, save_network
from wm_lightning.clip import Clip, Condition, Pixels
from wm_lightning.config import compose
from wm_lightning.config_check import check
from wm_lightning.config_record import save_record
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.networks.autoencoders import PixelAutoencoder
from wm_lightning.pretrained import FILES, SETTINGS, WEIGHTS, Pretrained, from_pretrained
from wm_lightning.results.results import Results, Row, Use
from wm_lightning.tasks import hub
from wm_lightning.tasks.build import build_card, build_data, plain_node
from wm_lightning.tasks.environments import composed
from wm_lightning.tasks.fit import export, fit
from wm_lightning.tasks.rollout import Use as Asked
from wm_lightning.tasks.rollout import build_subject

FRAMES = 7
CPU = torch.device("cpu")
FEW = ["module.sampler.steps.steps=2", "callbacks.action_fidelity=null", "callbacks.rollout_video=null"]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def teacher(places: Path) -> Path:
    """The checkpoint of a teacher, with weights that show something: two iterations teach nothing."""
    words = ["experiment=teacher", *NETWORK, *WORLD, *TRAINING, *QUIET, *FEW, f"cache_dir={places}/cache"]
    config = compose([*words, f"run_dir={places}/teacher"])
    save_record(config, words, Path(config.run_dir))
    data = build_data(config)
    fit(config, data, build_card(config, data, "teacher"), None)
    path = places / "teacher/checkpoints/best.ckpt"
    content = torch.load(path.with_name("last.ckpt"), weights_only=True)
    source = torch.Generator().manual_seed(0)
    for name, value in content["state_dict"].items():
        if name.startswith(DEPLOYED) and value.is_floating_point():
            value.normal_(std=0.2, generator=source)
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def student(places: Path) -> Path:
    """The exported network of a student's run."""
    write_student(places / "student", places / "cache")
    return places / "student/student.safetensors"


@pytest.fixture(scope="module")
def shared(teacher: Path, places: Path) -> Path:
    return written(teacher, places / "shared")


def config_for(path: Path, into: Path, *words: str) -> DictConfig:
    """As the command line composes it: a .ckpt brings its own words along."""
    run = path.parents[1] if path.suffix == ".ckpt" else path.parent
    own = composed(path, [*words]) if path.suffix == ".ckpt" else compose([*words])
    config = own.copy()
    config.task = compose(["task=convert", "task.to=hub", f"task.into={into}"]).task
    config.ckpt_path, config.cache_dir = str(path), str(run.parent / "cache")
    config.run_dir = str(into.parent / "converting")
    return config


def written(path: Path, into: Path, *words: str, license: str | None = None) -> Path:
    config = config_for(path, into, *words)
    config.task.license = license
    check(config)
    done = instantiate(config.task, _convert_="all")(config)
    assert done["bytes"] == (into / WEIGHTS).stat().st_size
    return into


def changed(path: Path, into: Path, change: Change) -> Path:
    """A run of its own with the same checkpoint, its content changed."""
    folder = into / "checkpoints"
    folder.mkdir(parents=True)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, folder / path.name)
    return folder / path.name


def rolled(path: Path, cache: Path, seed: int) -> tuple[Clip, Pixels]:
    """What the suite's own rollout makes of test clips, of whose first frame nothing is known."""
    config = composed(path, [f"cache_dir={cache}"])
    data = build_data(config)
    subject = build_subject(config, read_network(path, read_any_card(path)), data, Asked(1, FRAMES), CPU)
    [clip] = data.clips("test", 3, FRAMES, 3)
    actions, state = clip.condition.actions.clone(), clip.condition.state.clone()
    actions[:, 0], state[:, 0] = 0, 1
    own = replace(clip, condition=Condition(actions, state), index=torch.arange(3))
    return clip, subject.generate(own, 1, seed, CPU)


def read_any_card(path: Path) -> Card:
    if path.suffix == ".safetensors":
        return read_card(path)
    return Card.from_dict(torch.load(path, weights_only=True)["card"])


def readme(folder: Path) -> str:
    return (folder / "README.md").read_text()


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_it_gives_back_the_checkpoints_video(
    kind: str, places: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(kind)
    clip, expected = rolled(path, places / "cache", seed=3)
    model = from_pretrained(written(path, tmp_path / "folder"))
    assert model.card.kind == kind and model.subject.steps == 2 and model.pixels == (24, 24)
    video = model.generate(clip.video[:, :1], clip.condition.actions, seed=3)
    assert expected[:, 1:].float().std() > 10, "a world that shows nothing proves nothing"
    assert torch.equal(video, expected)
    assert not torch.equal(video, model.generate(clip.video[:, :1], clip.condition.actions, seed=4))
    weights = read_network(path, read_any_card(path)).weights
    assert all(torch.equal(value, weights[name]) for name, value in model.network.state_dict().items())


def test_a_file_in_bfloat16_stays_in_it(student: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(student.parent, run)
    model = from_pretrained(written(student, tmp_path / "whole"))
    save_network(run / student.name, model.network, model.card, torch.bfloat16)
    halves = written(run / student.name, tmp_path / "halves")
    assert (halves / WEIGHTS).stat().st_size < 0.75 * (tmp_path / "whole" / WEIGHTS).stat().st_size
    own = read_network(run / student.name, model.card).weights
    assert all(torch.equal(v, own[n]) for n, v in from_pretrained(halves).network.state_dict().items())


def test_the_page_is_yaml_then_what_was_trained(shared: Path) -> None:
    front = yaml.safe_load(readme(shared).split("---\n")[1])
    assert front["library_name"] == "wm_lightning" and "license" not in front
    assert {"world-model", "teacher", "simulated-data"} <= set(front["tags"])
    model = from_pretrained(shared)
    for name, low, high in zip(model.spec.names, model.spec.low, model.spec.high, strict=True):
        assert f"| `{name}` | {low:g} | {high:g} |" in readme(shared)
    settings = json.loads((shared / SETTINGS).read_text())
    assert f"`{settings['revision']}`" in readme(shared) and settings["versions"]["torch"]
    assert {path.name for path in shared.iterdir()} == set(FILES) - {"rollouts.gif"}


def test_a_license_is_what_is_given(teacher: Path, tmp_path: Path) -> None:
    folder = written(teacher, tmp_path / "folder", license="cc-by-4.0")
    assert yaml.safe_load(readme(folder).split("---\n")[1])["license"] == "cc-by-4.0"
    with pytest.raises(ValueError, match="no license by name"):
        written(teacher, tmp_path / "other", license="mit\ntags: [x]")


def test_the_pages_example_runs(shared: Path) -> None:
    [block] = re.findall(r"^```python\n(.*?)^```", readme(shared), re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(block.replace('"FOLDER"', repr(str(shared))), "README.md", "exec"), found)
    assert found["video"].shape == (1, FRAMES, 3, 24, 24)


def measured_run(teacher: Path, into: Path, config: DictConfig, data: ClipDataModule) -> Path:
    """A run whose best checkpoint was exported and measured, in invented numbers."""
    shutil.copytree(teacher.parents[1], into)
    best = into / "checkpoints/best.ckpt"
    card = replace(read_any_card(best), trained_for={})
    export(config, best, card, into / "teacher.safetensors")
    row = Row(role="teacher", name="teacher", steps=2, cached=True, cache_commit="clean", psnr=47.654321, nfe=3)
    Results(
        rows=(row,), name="teacher", data="simulated", world=data.name, config_hash=card.config_hash,
        revision=card.revision, seconds=1.0, seed=0, clips=4, context=1, horizon=6, chunk=3, drift_of="pixels",
        machine="a machine", deployed=Use("teacher", 2, "clean"),
    ).to_json(into / "results.json")  # fmt: skip
    (into / "rollouts.gif").write_bytes(b"GIF89a of it")
    return best


def test_numbers_are_those_of_this_network_or_none(teacher: Path, shared: Path, places: Path, tmp_path: Path) -> None:
    assert "Nothing is claimed: no results.json lay beside" in readme(shared) and "PSNR" not in readme(shared)
    config = config_for(teacher, tmp_path / "unused")
    best = measured_run(teacher, places / "measured", config, build_data(config))
    folder = written(best, tmp_path / "best")
    assert "| teacher | 2 | clean | 47.7 |" in readme(folder) and "simulated data" in readme(folder)
    assert "![rollouts](rollouts.gif)" in readme(folder)
    assert (folder / "rollouts.gif").read_bytes() == b"GIF89a of it"

    others = {"last": (best.with_name("last.ckpt"), []), "window": (best, ["rollout.window=5"])}
    for name, (path, words) in others.items():
        folder = written(path, tmp_path / name, *words)
        assert "is of another network or other settings" in readme(folder) and "47.7" not in readme(folder)
        assert not (folder / "rollouts.gif").exists() and "rollouts.gif" not in readme(folder)
    assert from_pretrained(tmp_path / "window").rollout.window == 5


def test_what_a_card_says_of_itself_is_told_as_that(teacher: Path, tmp_path: Path) -> None:
    metrics = {"data": "simulated", "psnr": 21.54321}
    path = changed(teacher, tmp_path / "run", lambda content: content["card"].update(metrics=metrics))
    page = readme(written(path, tmp_path / "folder"))
    assert "There is no table: no results.json" in page and "| psnr | 21.54 |" in page


def test_nothing_of_the_machine_goes_along(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "mallory")
    monkeypatch.setenv("SOME_API_KEY", "k3y-of-mine")
    command = "python run.py data.root=/srv/mallory/robots tags=[k3y-of-mine] module.start=../mallory/start.ckpt"
    path = changed(teacher, tmp_path / "run", lambda content: content["card"].update(command=command))
    folder = written(path, tmp_path / "folder")
    for file in folder.iterdir():
        content = file.read_bytes()
        assert not [word for word in (b"mallory", b"k3y-of-mine", b"/srv/", bytes(tmp_path)) if word in content]
    assert "data.root=…/robots" in readme(folder) and "module.start=../…/start.ckpt" in readme(folder)


def test_places_are_shortened_and_words_are_not() -> None:
    for text, short in {
        "a=/data/x/rt1 b": "a=…/rt1 b", "['~/x/y.ckpt']": "['…/y.ckpt']", r"C:\Users\x\y": "…/y", "file:///x/y": "…/y",
        "/data/x/": "…/x",
    }.items():  # fmt: skip
        assert hub.public(text) == short
    for same in ("logs/a/b", "../a", "frames/s", "1 / 2", "https://a.org/b", "a.b.C", r"\| x"):
        assert hub.public(same) == same
    assert hub.public({"a": ["/x/y", 1, None]}) == {"a": ["…/y", 1, None]}


def test_a_folder_that_is_there_is_refused(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="is there already"):
        written(teacher, tmp_path / "folder")
    assert not list((tmp_path / "folder").iterdir())


def test_an_interrupted_write_leaves_nothing(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(page: object) -> str:
        [partial] = tmp_path.iterdir()
        assert (partial / WEIGHTS).is_file(), "it is interrupted in the middle"
        raise KeyboardInterrupt

    monkeypatch.setattr(hub, "model_card", interrupted)
    with pytest.raises(KeyboardInterrupt):
        written(teacher, tmp_path / "folder")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read_or_used_is_refused(teacher: Path, places: Path, tmp_path: Path) -> None:
    config = config_for(teacher, tmp_path / "folder")

    def without_one(content: dict[str, Any]) -> None:
        del content["state_dict"][next(name for name in content["state_dict"] if name.startswith(DEPLOYED))]

    def refused(path: Path, match: str) -> None:
        config.ckpt_path = str(path)
        with pytest.raises(ValueError, match=match):
            instantiate(config.task, _convert_="all")(config)

    (tmp_path / "torn.ckpt").write_bytes(teacher.read_bytes()[:5000])
    (tmp_path / "torn.safetensors").write_bytes(b"\x10")
    torch.save({"x_proj.weight": torch.zeros(2)}, tmp_path / "foreign.ckpt")
    refused(tmp_path / "torn.ckpt", "cannot be shared")
    refused(tmp_path / "torn.safetensors", "cannot be shared")
    refused(tmp_path / "foreign.ckpt", "holds no card")
    refused(tmp_path / "absent.ckpt", "no such file")
    refused(changed(teacher, tmp_path / "a", lambda c: c["card"].update(kind="executor")), "which no action drives")
    refused(changed(teacher, tmp_path / "b", lambda c: c["card"]["network"].update(dim=48)), "network.dim: 48 against")
    refused(changed(teacher, tmp_path / "c", without_one), "missing")
    assert not (tmp_path / "folder").exists()


EVIL = {
    "os.system": lambda v: v["network"].update(_target_="os.system"),
    "posix.system": lambda v: v["sampler"].update(_target_="wm_lightning.checkpoints.os.system", command="true"),
    "torch.optim": lambda v: v["path"].update(_target_="torch.optim.SGD"),
    "Convert": lambda v: v["rollout"].update(commit={"_target_": "wm_lightning.tasks.convert.Convert"}),
    "no parameter": lambda v: v["network"].update(hook="x"),
    "interpolation": lambda v: v["network"].update(gelu="${oc.env:HOME}"),
    "stands where": lambda v: v.update(sampler=v["rollout"]),
    "dim: ": lambda v: v["network"].update(dim=48),
    "another version": lambda v: v.update(format=99),
    "given frames": lambda v: v.update(context=0),
    "KeyError": lambda v: v.pop("rollout"),
    "trained with the mask|needs the mask": lambda v: v["rollout"]["mask"].update(chunk=5),
}


@pytest.mark.parametrize("said", EVIL)
def test_a_folder_that_was_tampered_with_is_refused(said: str, shared: Path, tmp_path: Path) -> None:
    shutil.copytree(shared, tmp_path / "evil")
    values = json.loads((shared / SETTINGS).read_text())
    EVIL[said](values)
    (tmp_path / "evil" / SETTINGS).write_text(json.dumps(values))
    with pytest.raises(ValueError, match=said):
        from_pretrained(tmp_path / "evil")


def test_what_does_not_fit_is_refused(shared: Path) -> None:
    model = from_pretrained(shared)
    first, actions = torch.zeros(2, 1, 3, 24, 24, dtype=torch.uint8), torch.zeros(2, FRAMES, 5)
    for frames, chosen, said in (
        (first[..., :12], actions, "resize pictures"),
        (first, actions[..., :4], "5 columns"),
        (first, actions[:, :1], "at least one more"),
        (first, actions + 2, "stay, which lies within 0 and 1"),
        (first, actions * torch.nan, "nan as stay"),
    ):
        with pytest.raises(ValueError, match=said):
            model.generate(frames, chosen)
    assert model.generate(first, torch.zeros(2, 4 * FRAMES, 5)).shape[1] == 4 * FRAMES, "the window moves along"


def test_a_hub_id_is_fetched_and_a_folder_is_not(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    asked: list[tuple[str, Any]] = []

    def fetch(repo_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repo_id, (revision, sorted(allow_patterns))))
        return str(shared)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    from_pretrained(str(shared))
    assert not asked
    from_pretrained("someone/a-world", revision="abc")
    assert asked == [("someone/a-world", ("abc", sorted(FILES)))]
    for wrong in ("no-such-folder", "a/b/c", "../x", "/x/y"):
        with pytest.raises(ValueError, match="no folder, and no hub id"):
            from_pretrained(wrong)
    assert len(asked) == 1


def patched(places: Path, tmp_path: Path) -> Pretrained:
    """A network of patches, random, through a folder."""
    words = ["experiment=teacher", "autoencoder=patch", *NETWORK, *WORLD, *TRAINING, *QUIET, *FEW, "network.patch=2"]
    config = compose([*words, "network.actions=5", f"cache_dir={places}/cache"])
    pixels = [word for word in words if word not in ("autoencoder=patch", "network.patch=2")]
    card = build_card(config, build_data(compose([*pixels, f"cache_dir={places}/cache"])), "teacher")
    network = instantiate(plain_node(config, "network"), _convert_="all")()
    trained = {
        "chunks": [1, 3], "frames": 7, "context": 1, "clean_history": 1.0, "history_level": 0.0, "shared": 1.0,
        "steps": None, "commit": [{"mode": "clean", "t": 0.0}], "action_dropout": {"share": 0.1, "granularity": "clip"},
    }  # fmt: skip
    of_patches = {"frame_shape": (48, 6, 6), "autoencoder": {"kind": "patch", "factor": 4}, "trained_for": trained}
    (tmp_path / "run").mkdir()
    save_network(tmp_path / "run/teacher.safetensors", network, replace(card, **of_patches), torch.float32)
    save_record(config, words, tmp_path / "run")
    return from_pretrained(written(tmp_path / "run/teacher.safetensors", tmp_path / "folder"))


def test_latents_are_made_of_pixels_and_back(places: Path, tmp_path: Path) -> None:
    model = patched(places, tmp_path)
    first = torch.randint(256, (2, 1, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert model.pixels == (24, 24)
    video = model.generate(first, torch.zeros(2, FRAMES, 5))
    assert video.shape == (2, FRAMES, 3, 24, 24) and torch.equal(video[:, :1], first)
    with pytest.raises(ValueError, match="give the one it was trained with"):
        from_pretrained(tmp_path / "folder", autoencoder=PixelAutoencoder(batch_frames=1))
