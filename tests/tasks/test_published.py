"""Published weights end to end, in tiny random files of the real layouts: read, made causal, trained, rolled out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.data.encoding import recordings
from tests.networks.tiny_dynamicrafter import resampler, tiny_clip, unet
from tests.tasks.published import Published, publish
from wm_lightning.card import Card
from wm_lightning.checkpoints import NetworkFile, load_into, read_network
from wm_lightning.config import compose
from wm_lightning.config_record import save_record
from wm_lightning.data.datamodule import ClipDataModule
from wm_lightning.modules.teacher import TeacherModule
from wm_lightning.networks.adapters.dynamicrafter import from_dynamicrafter
from wm_lightning.networks.adapters.dynamicrafter_card import unpacked_card
from wm_lightning.networks.adapters.dynamicrafter_parts import from_resampler
from wm_lightning.networks.autoencoders import file_hash
from wm_lightning.networks.causal import Transfer
from wm_lightning.networks.masks import FrameMask
from wm_lightning.tasks.build import build_card, build_data, build_module, plain_node
from wm_lightning.tasks.evaluate import read_checkpoint
from wm_lightning.tasks.fit import best_checkpoint, export, fit
from wm_lightning.tasks.preflight import check_training
from wm_lightning.tasks.rollout import Use, build_subject
from wm_lightning.tasks.teachers import start_file

PUBLISHED_UNET: dict[str, Any] = {
    "dim": 320, "multipliers": (1, 2, 4, 4), "blocks": 2, "attention_at": (1, 2, 4), "head_dim": 64, "tokens": 1024,
}  # fmt: skip
PUBLISHED_RESAMPLER = {"features": 1280, "tokens": 1024, "queries": 256, "dim": 1024, "depth": 4, "inner": 768}
REFUSED = (ValueError, InstantiationException)
ACTIONS = 10  # columns of the recordings


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    root = recordings(tmp_path_factory.mktemp("recordings"))
    return publish(tiny_clip(), root, tmp_path_factory.mktemp("published"), ACTIONS)


def opened(config: DictConfig) -> tuple[ClipDataModule, Card]:
    data = build_data(config)
    return data, build_card(config, data, "teacher")


def started(config: DictConfig) -> tuple[TeacherModule, NetworkFile]:
    data, card = opened(config)
    file = start_file(config, data)
    assert file is not None
    module = build_module(config, card, file)
    assert isinstance(module, TeacherModule)
    return module, file


@pytest.mark.slow
def test_dynamicrafter_is_made_causal_and_trained(published: Published, tmp_path: Path) -> None:
    parts = published.dynamicrafter
    config = published.config(tmp_path, f"module.start={parts}")
    check_training(config)
    module, file = started(config)
    assert (file.card.data, file.card.trained_for["chunks"]) == ("DynamiCrafter", [None])
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    unet, resampler = (load_file(parts / f"{name}.safetensors") for name in ("unet", "resampler"))
    expected = Transfer("extrapolative", 2).weights(unet) | {f"resampler.{k}": v for k, v in resampler.items()}
    assert {name for name in before if name not in expected} == {n for n in before if n.startswith("action.")}
    assert all(torch.equal(before[name], value) for name, value in expected.items())

    data, card = opened(config)
    save_record(config, [], Path(config.run_dir))
    trained = fit(config, data, card, file).lightning_module
    assert isinstance(trained, TeacherModule)
    after = trained.network.state_dict()
    for name in ("resampler.queries", "resampler.layers.0.attention.kv.weight", "action.layers.0.weight"):
        assert not torch.equal(after[name], before[name]), name

    made = export(config, best_checkpoint(config), card, tmp_path / "teacher.safetensors")
    assert made.weights.keys() == before.keys(), "frozen encoders are in no file"
    recorded = made.card.network["start_tokens"]
    assert recorded["image"] == file_hash(parts / "image.safetensors") and str(tmp_path) not in json.dumps(recorded)
    config.ckpt_path = str(tmp_path / "teacher.safetensors")
    assert read_checkpoint(config, data, "teacher").sha256 == made.sha256


def test_the_file_itself_may_be_named(published: Published, tmp_path: Path) -> None:
    named = [
        published.config(tmp_path, f"module.start={published.dynamicrafter}{end}") for end in ("", "/unet.safetensors")
    ]
    assert len({started(config)[1].sha256 for config in named}) == 1


def test_the_start_is_what_the_encoders_make_of_the_first_frame(published: Published, tmp_path: Path) -> None:
    config = published.config(tmp_path, f"module.start={published.dynamicrafter}")
    module, _ = started(config)
    data, _ = opened(config)
    clip = next(iter(data.clips("test", 2, 4, 2)))
    tokens = module.network.start_tokens
    start = module.begun(clip).condition.start
    assert module.deployed.start_tokens is tokens and start is not None
    assert start.image is not None and start.text is not None
    encoder, states = tokens._on(torch.device("cpu"))
    pixels = data.decode(clip.x0[:, :1]).float() / 127.5 - 1
    assert torch.equal(start.image, encoder(pixels[:, 0])) and start.image.shape == (2, 5, 32)
    assert torch.equal(start.text, states.expand(2, -1, -1)) and start.text.shape == (2, 77, 24)
    # A validation may have read the files first, in inference mode; a training goes on from it.
    tokens._loaded = None
    with torch.inference_mode():
        module.begun(clip)
    assert not tokens._on(torch.device("cpu"))[1].is_inference()
    module.loss(clip, FrameMask(1)).backward()
    assert module.network.resampler is not None and module.network.resampler.queries.grad is not None
    other = module.begun(type(clip)(clip.video, clip.condition, clip.index, latents=clip.x0 + 1)).condition.start
    assert other is not None and not torch.equal(other.image, start.image)


@pytest.mark.nightly
def test_vid2world_is_used_as_published(published: Published, tmp_path: Path) -> None:
    config = published.config(tmp_path, "compat=official", f"ckpt_path={published.vid2world}/unet.safetensors")
    data, _ = opened(config)
    file = read_checkpoint(config, data, "teacher")
    assert (file.card.data, file.card.action_shift, file.card.first_action) == ("Vid2World", 1, "none")
    subject = build_subject(config, file, data, Use(1, 4, 2), torch.device("cpu"))
    assert subject.plan.rerun and subject.plan.guidance is not None and subject.plan.guidance.scope == "window"
    clip = next(iter(data.clips("test", 2, 4, 2)))
    made = subject.generate(clip, 1, 0, torch.device("cpu"))
    assert made.shape == clip.video.shape and float(made[:, 1:].float().std()) > 0
    # It starts a training too, as it is.
    going_on = published.config(
        tmp_path, "compat=official", f"module.start={published.vid2world}", "module.transfer=null"
    )
    check_training(going_on)
    module, start = started(going_on)
    assert all(torch.equal(value, start.weights[name]) for name, value in module.network.state_dict().items())


def test_the_head_of_dynamicrafter_becomes_causal_along_the_height(published: Published, tmp_path: Path) -> None:
    config = published.config(tmp_path, "compat=official", f"module.start={published.dynamicrafter}")
    module, file = started(config)
    unet = load_file(published.dynamicrafter / "unet.safetensors")
    own, theirs = module.network.state_dict()["head.conv.weight"], unet["head.conv.weight"]
    rows = torch.stack([torch.zeros_like(theirs[:, :, 0]), theirs[:, :, 0] - theirs[:, :, 2],
                        theirs[:, :, 1] + 2 * theirs[:, :, 2]], dim=2)  # fmt: skip
    torch.testing.assert_close(own, rows)
    assert torch.equal(file.weights["head.conv.weight"], theirs)


TOLD_NOTHING = "data.first_action=none"
CAUSAL = "module.start={vid2world}"
BOTH_WAYS = "module.start={dynamicrafter}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([CAUSAL], r"first_action: 'none' against 'stored' .*data\.first_action"),
        ([CAUSAL, TOLD_NOTHING], r"module\.start is causal already.*module\.transfer=null"),
        (
            [CAUSAL, TOLD_NOTHING, "module.transfer=null"],
            r"head_height_causal=True, the network .*=False.*compat=official",
        ),
        ([BOTH_WAYS, "module.transfer=null"], r"causal=False, the network causal=True.*set module\.transfer"),
        ([BOTH_WAYS, "compat=official", "module.transfer.head_height=false"], r"head_height_causal=False, the network"),
        (
            [BOTH_WAYS, "network.dim=48", "network.multipliers=[1,2,4]", "network.rate=null", "network.groups=8"],
            r"network\.dim=32 network\.multipliers=\[1,2\] network\.groups=32 network\.rate=3\.0; .*size=paper",
        ),
        ([BOTH_WAYS, "network.bypass=true"], r"need network\.bypass=false;"),
        ([BOTH_WAYS, "network.resampler.depth=3"], r"need network\.resampler\.depth=2;"),
        (["module.start={dynamicrafter}/autoencoder.safetensors"], r"holds no UNet; name .*unet\.safetensors"),
        (["module.start={dynamicrafter}/nothing"], "there is no such file"),
        ([BOTH_WAYS, "network.start_tokens.folder=/nowhere"], r"folder=/nowhere is no folder"),
        (
            [BOTH_WAYS, "network.start_tokens=null", "network.resampler=null"],
            r"network\.tokens=24, and nothing makes them; encoders=openclip",
        ),
        ([BOTH_WAYS, "network.start_tokens.folder={latents}"], r"lacks .*image\.safetensors and .*empty_text\.safet"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_work_begins(
    published: Published, tmp_path: Path, words: list[str], said: str
) -> None:
    config = published.config(tmp_path, *(word.format(**vars(published)) for word in words))
    with pytest.raises(REFUSED, match=said):
        check_training(config)
    assert not (tmp_path / "run").exists()


def test_what_a_checkpoint_needs_is_named(published: Published, tmp_path: Path) -> None:
    config = published.config(tmp_path, f"ckpt_path={published.vid2world}/unet.safetensors")
    data, _ = opened(config)
    said = r"norm_scope: 'clip' against 'frame'.*first_action: 'none' against 'stored'.*compat=official"
    with pytest.raises(ValueError, match=said):
        read_checkpoint(config, data, "teacher")


def test_a_resampler_that_is_not_there_is_named(published: Published, tmp_path: Path) -> None:
    alone = tmp_path / "unet.safetensors"
    alone.write_bytes((published.dynamicrafter / "unet.safetensors").read_bytes())
    _, card = opened(published.config(tmp_path))
    with pytest.raises(ValueError, match=r"network\.resampler needs .*resampler\.safetensors, which is not there"):
        read_network(alone, card)


def test_a_key_that_is_not_its_own_is_named(published: Published, tmp_path: Path) -> None:
    with safe_open(published.dynamicrafter / "unet.safetensors", "pt") as file:
        metadata: Any = file.metadata()
    weights = load_file(published.dynamicrafter / "unet.safetensors")
    save_file({**weights, "stem.other": weights["stem.bias"].clone()}, tmp_path / "unet.safetensors", metadata=metadata)
    (tmp_path / "resampler.safetensors").write_bytes((published.dynamicrafter / "resampler.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"unknown stem\.other"):
        check_training(published.config(tmp_path, f"module.start={tmp_path}"))


@pytest.mark.parametrize("actions", [None, ACTIONS], ids=["DynamiCrafter", "Vid2World"])
def test_the_published_sizes_are_those_of_size_paper(published: Published, actions: int | None) -> None:
    """Nothing has to be overridden but what the data and their autoencoder say."""
    words = ["size=paper", "data=rt1", "data.height=320", "data.width=512", "encoders=openclip", "compat=official"]
    weights = f"autoencoder.weights={published.dynamicrafter / 'autoencoder.safetensors'}"
    config = compose(["experiment=vid2world", *words, "autoencoder=sd", weights, "network.start_tokens=null"])
    config.network.actions = ACTIONS
    settings = plain_node(config, "network")
    with torch.device("meta"):
        own = instantiate(settings, _convert_="all")()
    shapes = unet(**PUBLISHED_UNET, actions=actions)
    theirs, arguments = from_dynamicrafter({name: torch.empty(shape, device="meta") for name, shape in shapes})
    its, resampling = from_resampler(
        {name: torch.empty(shape, device="meta") for name, shape in resampler(**PUBLISHED_RESAMPLER)}
    )
    expected = Card(
        kind="teacher", network=settings, path={}, action_spec={}, action_shift=1, frame_shape=(4, 40, 64),
        trained_for={}, data="",
    )  # fmt: skip
    card = unpacked_card(arguments, resampling, expected)
    found = theirs | {f"resampler.{name}": value for name, value in its.items()}
    load_into(own, NetworkFile(found, card, ""), "the file", new=[] if actions else ["action"])
    if actions:
        assert not [line for line in card.differences(expected) if line.startswith("network")]
