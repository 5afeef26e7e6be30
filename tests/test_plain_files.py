"""Files whose bytes or entries are not what they should be: each reader refuses them by name, and says what it met."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch
from omegaconf import DictConfig

from tests.fuzzed import make_worldgym, read_worldgym
from tests.modules.making import card
from tests.networks.tiny_dynamicrafter import resampler, unet
from wm_lightning.checkpoints import read_network, read_resumable, write_weights
from wm_lightning.envs import cloned
from wm_lightning.metrics import inverse_dynamics
from wm_lightning.metrics.pinned import Pinned, file_hash, read_state
from wm_lightning.networks.adapters.dynamicrafter import from_dynamicrafter
from wm_lightning.networks.adapters.dynamicrafter_parts import from_resampler, plain_state
from wm_lightning.plain_files import read_plain
from wm_lightning.tasks.unpack import Unpack

CARD = card()
STORAGE = b"ctorch\nFloatStorage\n"
# What may stand in the place of a storage's type, and what torch's reader makes of it.
BYTES = {"AttributeError": b"X\x03\x00\x00\x00abc", "KeyError": b"h\xff"}


def with_bytes(path: Path, name: str) -> Path:
    """A file of one tensor, with other bytes where its type is named."""
    torch.save({"state_dict": {"weight": torch.ones(2)}}, path.with_name("sound"))
    with ZipFile(path.with_name("sound")) as sound, ZipFile(path, "w") as altered:
        for part in sound.namelist():
            content = sound.read(part)
            altered.writestr(part, content.replace(STORAGE, BYTES[name]) if part.endswith("data.pkl") else content)
    return path


def unpacked(path: Path) -> None:
    Unpack(checkpoint=str(path), into=str(path.parent / "parts"), empty_text=False, text={})(DictConfig({}))


def pinned(path: Path) -> Pinned:
    return Pinned(str(path), file_hash(path))


READERS: dict[str, Callable[[Path], Any]] = {
    "network": lambda path: read_network(path, CARD),
    "plain": read_plain,
    "pinned": lambda path: read_state(pinned(path)),
    "unpack": unpacked,
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", BYTES)
def test_bytes_that_make_no_sense_are_refused(tmp_path: Path, name: str, reader: str) -> None:
    path = with_bytes(tmp_path / "world.pt", name)
    with pytest.raises(Exception) as met:
        torch.load(path, weights_only=True)
    assert type(met.value).__name__ == name, "what this test is about"
    with pytest.raises(ValueError, match=rf"world\.pt .*make no sense, {name}: .*copy or fetch it again"):
        READERS[reader](path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": "abc", "card": CARD.to_dict()}, "state_dict is a str, where tensors by name are expected"),
        ({"state_dict": {"average.network.a": "b"}, "card": CARD.to_dict()}, "the entry 'average.network.a' of state_"),
        ({"state_dict": {"average.network.a": torch.ones(1)}, "card": "abc"}, r"Type\w*Error: "),
        ({"ema": {"x_proj.weight": "b"}}, "the entry 'x_proj.weight' of ema is a str, where a tensor .* copy it again"),
        ({"ema": {"x_proj.weight": torch.ones(2, 3, 2, 2), 3: "b"}}, "the entry 3 of ema is a str"),
        ({"x_proj.weight": torch.ones(2, 3, 2, 2), "a": [], "b": {}}, r"the entry 'a' of the file is a list \(and 1 m"),
        ({"ema": "abc"}, "neither a checkpoint of this suite nor"),
        ({"ema": {"x_proj.weight": torch.ones(4)}}, r"its x_proj.weight has the shape \(4,\), where 4 sizes above 0"),
        ({"ema": {"x_proj.weight": torch.ones(0, 3, 2, 2)}}, r"has the shape \(0, 3, 2, 2\), where 4 sizes above 0"),
        ({"ema": {"x_proj.weight": torch.ones(2, 3, 2, 2)}}, "it has no blocks.0.s_block.ffwd.0.weight"),
    ],
)  # fmt: skip
def test_entries_that_are_no_weights_are_named(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "world.pt")
    with pytest.raises(ValueError, match=rf"world\.pt cannot be read as a checkpoint \(.*{said}"):
        read_network(tmp_path / "world.pt", card(network={"heads": 2}))


@pytest.mark.parametrize("name", ["timestep_mlp.0.weight", "action_embedder.weight", "blocks.0.s_block.ffwd.0.weight"])
@pytest.mark.parametrize("wrong", ["words", torch.ones(3)], ids=["str", "one size"])
def test_an_entry_of_world_model_eval_that_tells_no_sizes_is_named(tmp_path: Path, name: str, wrong: Any) -> None:
    make_worldgym(tmp_path)
    read_worldgym(tmp_path, tmp_path)
    content = torch.load(tmp_path / "world.pt", weights_only=True)
    content["ema"][name] = wrong
    torch.save(content, tmp_path / "world.pt")
    with pytest.raises(ValueError, match=rf"world\.pt cannot be read .*{name}.* expected; "):
        read_worldgym(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("layers", "convert", "name", "ours"),
    [
        (unet, from_dynamicrafter, "input_blocks.0.0.weight", "stem.weight"),
        (unet, from_dynamicrafter, "out.2.weight", "head.conv.weight"),
        (unet, from_dynamicrafter, "input_blocks.1.0.out_layers.3.weight", "down.0.res.conv2.weight"),
        (unet, from_dynamicrafter, "middle_block.1.transformer_blocks.0.attn2.to_k.weight", "middle.0.spatial.att"),
        (resampler, from_resampler, "latents", "queries"),
        (resampler, from_resampler, "proj_in.weight", "enter.weight"),
        (resampler, from_resampler, "layers.0.0.to_q.weight", "layers.0.attention.q.weight"),
    ],
)
def test_a_tensor_of_dynamicrafter_that_tells_no_sizes_is_named(
    layers: Any, convert: Callable[[Any], Any], name: str, ours: str
) -> None:
    weights = {key: torch.empty(shape) for key, shape in layers()}
    convert(weights)
    assert name in weights
    with pytest.raises(ValueError, match=rf"its {ours}\S* has the shape \(2,\), where \d sizes above 0 are expected"):
        convert(weights | {name: torch.empty(2)})


def test_entries_of_dynamicrafter_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the entry 'betas' of module is a str, where a tensor"):
        plain_state({"module": {"betas": "abc"}})
    with pytest.raises(ValueError, match="the entry 1 of state_dict is a Tensor, where a tensor with a name"):
        plain_state({"state_dict": {1: torch.ones(1)}})
    wrong = {name: torch.empty(2) for name, _ in resampler()}
    torch.save({f"image_proj_model.{name}": value for name, value in wrong.items()}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=r"checkpoint=\S*model\.ckpt, its resampler: its enter.weight has the shape"):
        unpacked(tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    "changes", [{"provenance": "abc"}, {"provenance": {}}, {"card": "abc"}, {"card": [1]}], ids=str
)
def test_a_training_without_its_record_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    content = {"card": CARD.to_dict(), "loops": {}, "provenance": {"config": {"seed": 0}}}
    torch.save(content, tmp_path / "last.ckpt")
    assert read_resumable(tmp_path / "last.ckpt", CARD) == {"seed": 0}
    torch.save(content | changes, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt has no (usable card|record of its config)"):
        read_resumable(tmp_path / "last.ckpt", CARD)


@pytest.mark.parametrize(
    "header", ["[1]", "{half", '{"version": "VERSION"}', '{"version": "VERSION", "frame_shape": 3}']
)
@pytest.mark.parametrize("kind", ["policy", "trained"])
def test_a_policy_or_a_reader_of_actions_that_is_none_is_refused(tmp_path: Path, kind: str, header: str) -> None:
    path, version = tmp_path / "a.safetensors", {"policy": cloned.VERSION, "trained": inverse_dynamics.VERSION}[kind]
    write_weights(path, {"a": torch.ones(1)}, {kind: header.replace("VERSION", version)})
    with pytest.raises(ValueError, match=r"a\.safetensors (is no|holds no sound) .*task="):
        cloned.load_policy(path) if kind == "policy" else inverse_dynamics.load_reader(pinned(path))
