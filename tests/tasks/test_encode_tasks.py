"""Pictures and texts of tasks, encoded once by the encoders of a video pipeline: kept, read back, trained on."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from tests.modules.making import trainer
from tests.modules.test_wmsd import Watch
from tests.networks.tiny_pipelines import (
    GLYPHS,
    HUNYUAN_LENGTH,
    HUNYUAN_WIDTH,
    LENGTH,
    TEMPLATE,
    WIDTH,
    hunyuan15_pipeline,
    ltx2_pipeline,
)
from wm_lightning.clip import Clip
from wm_lightning.config import compose
from wm_lightning.config_check import check
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.networks.adapters.pipeline_encoders import PipelineEncoders
from wm_lightning.tasks.build import build_card, build_data, build_module
from wm_lightning.tasks.preflight import check_training
from wm_lightning.tasks.teachers import start_file

pytest.importorskip("diffusers.models.transformers.transformer_ltx2")
pytest.importorskip("transformers")
pytest.importorskip("peft")

AUGMENTATION = (
    "wm_lightning.data.augment.Augmentation, brightness: 0.1, contrast: 0.1, saturation: 0.1, hue: 0.0, shift: 0"
)
REFUSED = (ValueError, InstantiationException)
CPU = torch.device("cpu")
NAMES = ["ltx2", "hunyuan15"]
DATA = [
    "data.height=12", "data.width=12", "data.world.cell=2", "data.world.scenes={train: 6, val: 2, test: 2}",
    "data.world.tasks_per_scene=2", "data.val_clips=2", "autoencoder=video",
]  # fmt: skip
HEARD = {
    "ltx2": [f"data.encoders.length={LENGTH}", f"data.encoders.width={WIDTH}"],
    "hunyuan15": [
        f"data.encoders.length={HUNYUAN_LENGTH}", f"data.encoders.width={HUNYUAN_WIDTH}",
        f"data.encoders.glyphs={GLYPHS}", f"data.encoders.template={TEMPLATE}",
    ],
}  # fmt: skip
ARCHITECTURE = {
    "ltx2": {
        "patch_size": 1, "attention_head_dim": 8, "cross_attention_dim": 16, "vae_scale_factors": [2, 2, 2],
        "base_height": 2048, "base_width": 2048, "audio_in_channels": 4, "audio_out_channels": 4,
        "audio_attention_head_dim": 4, "audio_cross_attention_dim": 8, "caption_channels": 16,
        "rope_double_precision": False, "rope_type": "interleaved", "+use_prompt_embeddings": False,
    },
    "hunyuan15": {
        "attention_head_dim": 8, "mlp_ratio": 2.0, "patch_size": 1, "text_embed_dim": 16, "image_embed_dim": 12,
        "rope_axes_dim": [2, 2, 4], "target_size": 16,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A pipeline's folder, and what was encoded by it."""

    name: str
    pipeline: Path
    cache: Path
    latents: Path

    def config(self, *words: str) -> DictConfig:
        """A config of these data and encoders."""
        own = [f"autoencoder.folder={self.pipeline}", f"encoders={self.name}", f"cache_dir={self.cache}"]
        made = compose(["data=world_tasks", *DATA, *own, *HEARD[self.name], *words])
        check(made)
        return made

    def encode(self, into: Path, *words: str) -> dict[str, float]:
        """Runs the task."""
        config = self.config("task=encode", f"task.into={into}", *words)
        return instantiate(config.task)(config)

    def opened(self, latents: Path | None = None, *words: str) -> WorldTasksDataModule:
        """The data, prepared."""
        config = self.config(f"data.latents={latents or self.latents}", *words)
        data: WorldTasksDataModule = instantiate(config.data, _convert_="all")
        data.prepare_data()
        return data


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    root = tmp_path_factory.mktemp("encoded")
    pipelines = {"ltx2": ltx2_pipeline(root / "ltx2"), "hunyuan15": hunyuan15_pipeline(root / "hunyuan15")}
    found = {name: Place(name, pipelines[name], root / "cache", root / f"{name}_latents") for name in NAMES}
    for place in found.values():
        place.encode(place.latents)
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def first(data: WorldTasksDataModule) -> Clip:
    return next(data.clips("test", 3, 1, 3))


@pytest.mark.parametrize("name", NAMES)
def test_every_picture_and_text_is_encoded_once(places: dict[str, Place], tmp_path: Path, name: str) -> None:
    place = places[name]
    rows = place.opened().tasks.rows
    texts = {text for row in rows for text in (row.prompt, row.solution)}
    assert len(files(place.latents / "pictures")) == len({row.image for row in rows}) == 10
    assert len(files(place.latents / "texts")) == len(texts)
    before = times(place.latents)
    counts = place.encode(place.latents)
    assert (counts["pictures"], counts["texts"]) == (10, len(texts)) and times(place.latents) == before
    assert counts["bytes"] == sum(map(len, files(place.latents).values()))
    assert not list(place.latents.rglob("*.partial"))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_what_the_encoders_say(places: dict[str, Place], name: str) -> None:
    data = places[name].opened()
    clip = first(data)
    assert data.frame_shape == (4, 6, 6) and clip.latents is not None and clip.video.shape[-2:] == (12, 12)
    assert torch.equal(clip.latents, data.encode(clip.video).half()) and clip.texts is not None
    encoders = data.encoders
    assert encoders is not None
    for condition, texts in (
        (data.asked(clip, 5), clip.texts.instruction),
        (data.solved(clip, 5), clip.texts.solution),
    ):
        said = encoders.words(list(texts), CPU)
        assert condition.prompt is not None and condition.state.shape == (3, 5)
        assert torch.equal(condition.prompt.there, said.there)
        torch.testing.assert_close(condition.prompt.tokens[said.there], said.tokens[said.there])
        seen = encoders.picture(clip.video[:, 0], CPU)
        if seen is None:
            assert condition.start is None
        else:
            assert condition.start is not None and condition.start.image is not None
            torch.testing.assert_close(condition.start.image, seen)


@pytest.mark.parametrize("name", NAMES)
def test_an_iteration_from_the_pipelines_own_folder(places: dict[str, Place], tmp_path: Path, name: str) -> None:
    place = places[name]
    sizes = [
        f"{'+' if key[0] == '+' else ''}network.architecture.{key.lstrip('+')}={value}"
        for key, value in ARCHITECTURE[name].items()
    ]
    sizes += ["network.prompt=null", *(["network.image=null", "network.glyphs=6"] if name == "hunyuan15" else [])]
    sizes += ["network.channels=4", "network.height=6", "network.width=6", f"module.start={place.pipeline}"]
    words = [f"experiment=wmsd_{name}", "size=debug", *DATA[3:6], f"data.latents={place.latents}"]
    config = place.config(*words, *sizes, f"run_dir={tmp_path / 'run'}")
    check_training(config)
    data = build_data(config)
    assert isinstance(data, WorldTasksDataModule)
    file = start_file(config, data)
    module, watch = build_module(config, build_card(config, data, "executor"), file), Watch()
    clip, videos, decode = first(data), [], data.decode
    data.decode = lambda x0: videos.append(decode(x0)) or videos[-1]  # type: ignore[method-assign]
    with torch.random.fork_rng():
        trainer(tmp_path / "run", watch).fit(module, datamodule=data, weights_only=True)
    assert all(torch.isfinite(torch.tensor([*logged.values()])).all() for logged in watch.logged)
    assert watch.logged[0]["train/gap"] > 0, "what executor and demonstrator are told is the same to them"
    assert {video.shape[1] for video in videos} == {9}, "5 frames of latents are 9 of video"
    assert file is not None and file.card.data.endswith("Transformer3DModel") and len(clip) == 3


def dying(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    own, count = PipelineEncoders.words, []

    def words(self: PipelineEncoders, texts: list[str], device: torch.device) -> object:
        count.append(1)
        if len(count) > after:
            raise KeyboardInterrupt
        return own(self, texts, device)

    monkeypatch.setattr(PipelineEncoders, "words", words)


def test_goes_on_where_it_was_interrupted(
    places: dict[str, Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, into = places["ltx2"], tmp_path / "latents"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        dying(patched, after=3)
        place.encode(into)
    kept = times(into)
    assert len(kept) == 10 + 3
    place.encode(into)
    assert files(into).keys() == files(place.latents).keys()
    assert {path: time for path, time in times(into).items() if path in kept} == kept, "something was encoded again"


@pytest.mark.parametrize("what", ["pictures", "texts"])
def test_a_damaged_file_is_refused_and_made_again(places: dict[str, Place], tmp_path: Path, what: str) -> None:
    place, into = places["hunyuan15"], tmp_path / "latents"
    shutil.copytree(place.latents, into)
    damaged = sorted((into / what).iterdir())
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    data = place.opened(into)
    with pytest.raises(ValueError, match=f"{what}/.*is damaged or of another cache; task=encode makes it again"):
        data.asked(first(data), 5)
    before = times(into)
    place.encode(into)
    changed = {path for path, time in times(into).items() if before[path] != time}
    assert changed == set(damaged)
    place.opened(into).asked(first(place.opened(into)), 5)


def test_other_weights_or_sizes_are_refused(places: dict[str, Place], tmp_path: Path) -> None:
    place = places["ltx2"]
    with pytest.raises(REFUSED, match="encoded with other settings.*resize, height or width of the.*Remake it: "):
        place.opened(None, "data.resize=squash")
    shutil.copytree(place.pipeline, tmp_path / "other")
    weights = tmp_path / "other/connectors/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(REFUSED, match="the encoders of texts and pictures, their lengths or weights"):
        place.opened(None, f"data.encoders.folder={tmp_path / 'other'}")
    with pytest.raises(REFUSED, match="is no latent cache: .*task=encode"):
        place.opened(tmp_path)
    with pytest.raises(ValueError, match="encoded with other settings"):
        place.encode(place.latents, f"data.encoders.folder={tmp_path / 'other'}")


def test_texts_that_come_up_later_need_the_encoders(places: dict[str, Place]) -> None:
    place = places["ltx2"]
    data = place.opened()
    clip = first(data)
    said = data.told(clip, ["a word", "that nobody", "wrote before"], 5)
    assert said.prompt is not None and data.encoders is not None
    torch.testing.assert_close(said.prompt.tokens[1:2], data.encoders.words(["that nobody"], CPU).tokens)
    without = place.opened(None, "data.encoders.folder=null")
    assert torch.equal(without.asked(clip, 5).prompt.tokens, data.asked(clip, 5).prompt.tokens)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="nothing of the text 'a word'; go on .*task=encode.*data.encoders.folder="):
        without.told(clip, ["a word", "b", "c"], 5)


def test_a_picture_that_was_not_encoded_is_named_by_what_to_do(places: dict[str, Place], tmp_path: Path) -> None:
    place, into = places["ltx2"], tmp_path / "latents"
    shutil.copytree(place.latents, into)
    shutil.rmtree(into / "pictures")
    with pytest.raises(ValueError, match="has nothing of a picture of these data; go on with it, into this folder"):
        first(place.opened(into))


def test_patches_of_pictures_need_no_pipeline(tmp_path: Path) -> None:
    words = ["data=world_tasks", *DATA[:-1], f"cache_dir={tmp_path / 'cache'}", "autoencoder=patch"]
    config = compose([*words, "task=encode", f"task.into={tmp_path / 'latents'}"])
    assert instantiate(config.task)(config)["texts"] == 0
    data: WorldTasksDataModule = instantiate(
        compose([*words, f"data.latents={tmp_path / 'latents'}"]).data, _convert_="all"
    )
    data.prepare_data()
    clip = first(data)
    assert clip.latents is not None and torch.equal(data.decode(clip.x0), clip.video)
    prompt = data.asked(clip, 5).prompt
    assert prompt is not None and not prompt.tokens.is_floating_point()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "data.encoders is set, and data.latents names no folder of what they say; make one: python run.py"),
        (["data.latents={latents}", f"data.augment={{{{_target_: {AUGMENTATION}}}}}"], "data.augment=null"),
        (["data.latents={latents}", "data=grid_films"], "films are made when they are read; set data.latents=null"),
        (["data.latents={latents}", "autoencoder=null"], "needs the autoencoder that made it: autoencoder=video"),
    ],
)
def test_what_does_not_go_with_encoders_and_latents(places: dict[str, Place], words: list[str], said: str) -> None:
    place = places["ltx2"]
    own = [word.format(latents=place.latents) for word in words if word != "autoencoder=null"]
    with pytest.raises(REFUSED, match=said):
        config = place.config(*own)
        if "autoencoder=null" in words:
            config.data.autoencoder = None
        instantiate(config.data, _convert_="all").prepare_data()


@pytest.mark.parametrize("name", NAMES)
def test_the_published_sizes_go_together(name: str) -> None:
    words = [f"experiment=wmsd_{name}", "size=paper", "autoencoder=video", "autoencoder.folder=x", f"encoders={name}"]
    config = compose(words)
    check(config)
    encoders, network = config.data.encoders, config.network
    widths = {"ltx2": lambda a: 2 * a.caption_channels, "hunyuan15": lambda a: a.text_embed_dim}
    assert encoders.folder == "x" and encoders.width == widths[name](network.architecture)
    assert network.prompt is None and encoders.get("glyphs", 0) == network.get("glyphs", 0)
    assert not str(config.module.start).endswith(".safetensors"), "it names a folder"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=grid_films"], "takes pictures of tasks, and simulated-grid_tasks are films or latents already"),
        (["data.encoders.folder=null"], "data.encoders.folder=null: task=encode needs the encoders"),
        (["data.height=13"], "multiples of 2"),
    ],
)
def test_what_cannot_be_encoded_is_refused(
    places: dict[str, Place], tmp_path: Path, words: list[str], said: str
) -> None:
    with pytest.raises(REFUSED, match=said):
        places["ltx2"].encode(tmp_path / "new", *words)
    assert not list((tmp_path / "new").rglob("*.safetensors"))


def test_two_at_once_and_a_full_disk_are_refused(
    places: dict[str, Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, into = places["ltx2"], tmp_path / "latents"
    with FileLock(place.latents / "encode.lock"), pytest.raises(ValueError, match="written by another task=encode"):
        place.encode(place.latents)
    usage: Callable[[object], object] = lambda path: shutil._ntuple_diskusage(2**30, 2**30, 2**10)  # type: ignore[attr-defined]  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", usage)
    with pytest.raises(ValueError, match="0 MiB free, what is still to be encoded needs about .* task.into="):
        place.encode(into)
    assert len(files(into)) == 1
