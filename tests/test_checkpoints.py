"""Weights in files: what is written is read, and what is damaged, foreign or dangerous is refused by name."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.modules.making import card, dmd, fit, network, teacher
from wm_lightning.checkpoints import (
    NetworkFile,
    load_into,
    read_card,
    read_network,
    rewrite_card,
    save_network,
    weights_hash,
)
from wm_lightning.clip import Condition
from wm_lightning.networks.masks import FrameMask
from wm_lightning.networks.video_dit import VideoDiT

CARD = card()
GOLDENS = Path(__file__).parent / "goldens"


def exported(path: Path, seed: int = 1) -> nn.Module:
    net = network(seed=seed)
    save_network(path, net, CARD, torch.bfloat16)
    return net


def test_an_export_holds_the_weights_in_bfloat16_and_the_card(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/teacher.safetensors"
    net = exported(path)
    with safe_open(path, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}
    file = read_network(path, card(kind="other"))
    assert file.card == CARD == read_card(path)
    assert {value.dtype for value in file.weights.values()} == {torch.float32}
    rounded = {name: value.bfloat16().float() for name, value in net.state_dict().items()}
    assert file.sha256 == weights_hash(rounded)
    other = network(seed=2)
    load_into(other, file, "the file")
    assert all(torch.equal(value, rounded[name]) for name, value in other.state_dict().items())
    assert [left.name for left in path.parent.iterdir()] == [path.name]


def test_another_card_leaves_the_weights_alone(tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    exported(path)
    before = read_network(path, CARD)
    rewrite_card(path, replace(CARD, metrics={"psnr": 20.5}))
    after = read_network(path, CARD)
    assert after.card.metrics == {"psnr": 20.5} and after.sha256 == before.sha256


def test_a_stop_while_exporting_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "teacher.safetensors"
    exported(path, seed=1)
    before = read_network(path, CARD).sha256
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        exported(path, seed=2)
    assert read_network(path, CARD).sha256 == before


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_a_runs_checkpoint_gives_its_deployed_network(tmp_path: Path, kind: str) -> None:
    module = (teacher if kind == "teacher" else dmd)(iterations=3)
    module.card = card(kind=kind).to_dict()
    trainer = fit(module, tmp_path / "run")
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    file = read_network(tmp_path / "last.ckpt", CARD)
    assert file.card.kind == kind and file.card.iterations == 3
    assert file.card.trained_for == module.trained_for()
    assert file.sha256 == weights_hash(module.average.network.state_dict())
    trained = module.network if kind == "teacher" else module.student
    assert file.sha256 != weights_hash(trained.state_dict())
    load_into(network(seed=5), file, "the checkpoint")


def test_hash_is_of_names_shapes_and_values_and_nothing_else() -> None:
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    same = {"b": torch.ones(2, dtype=torch.bfloat16), "a": torch.arange(6.0).reshape(3, 2).T.reshape(2, 3).clone()}
    same["a"] = torch.arange(6.0).reshape(2, 3).T.contiguous().T  # other strides
    assert weights_hash(same) == weights_hash(weights)
    changed = weights["a"].clone()
    changed[1, 2] += 1e-6
    others: list[dict[str, Tensor]] = [
        {**weights, "a": changed}, {**weights, "a": weights["a"].reshape(3, 2)}, {"a": weights["a"]},
        {"a": weights["a"], "c": weights["b"]}, {**weights, "d": torch.zeros(0)},
    ]  # fmt: skip
    assert len({weights_hash(w) for w in [weights, *others]}) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("embed.weight"), "1 differences: missing embed.weight"),
        (lambda w: w.update({"extra": torch.zeros(1)}), "1 differences: unknown extra"),
        (lambda w: w.update({"embed.bias": torch.zeros(7)}), r"embed.bias is \(7,\), expected \(24,\)"),
        (lambda w: w.clear(), r"differences: missing .*; .*\); check network="),
    ],
)
def test_weights_that_do_not_fit_are_named(change: Any, message: str) -> None:
    weights = dict(network(seed=1).state_dict())
    change(weights)
    net = network(seed=2)
    before = weights_hash(net.state_dict())
    with pytest.raises(ValueError, match=f"runs/x.ckpt does not fit the network .*{message}"):
        load_into(net, NetworkFile(weights, CARD, ""), "runs/x.ckpt")
    assert weights_hash(net.state_dict()) == before


class Payload:
    def __reduce__(self) -> tuple:
        return (os.mkdir, (os.environ["PAYLOAD"],))


@pytest.mark.parametrize("name", ["bad.ckpt", "bad.pt"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, zipped: bool) -> None:
    monkeypatch.setenv("PAYLOAD", str(tmp_path / "ran"))
    content = {"state_dict": Payload(), "card": CARD.to_dict()}
    torch.save(content, tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=f"{name} cannot be read as a checkpoint"):
        read_network(tmp_path / name, CARD)
    assert not (tmp_path / "ran").exists()


def damaged(tmp_path: Path) -> dict[str, bytes]:
    exported(tmp_path / "whole.safetensors")
    torch.save(
        {"state_dict": {"average.network.a": torch.zeros(1000)}, "card": CARD.to_dict()}, tmp_path / "whole.ckpt"
    )
    tensors, archive = (tmp_path / "whole.safetensors").read_bytes(), (tmp_path / "whole.ckpt").read_bytes()
    found = {f"cut{share}.safetensors": tensors[: len(tensors) * share // 10] for share in (0, 1, 5, 9)}
    found |= {f"cut{share}.ckpt": archive[: len(archive) * share // 10] for share in (0, 1, 5, 9)}
    noise = torch.randint(256, (4000,), generator=torch.Generator().manual_seed(1)).to(torch.uint8).numpy().tobytes()
    return found | {"noise.ckpt": noise, "noise.safetensors": noise, "text.pt": b"not a checkpoint, " * 20}


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name, content in damaged(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read as a checkpoint"):
            read_network(tmp_path / name, CARD)


def test_a_missing_file_says_what_could_be_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="absent.ckpt: there is no such file; name a .ckpt"):
        read_network(tmp_path / "absent.ckpt", CARD)


@pytest.mark.parametrize(
    "content",
    [
        [torch.zeros(1)], torch.zeros(3), 5, {"a": 1}, {"x_proj.weight": torch.zeros(4, 4, 2, 2)},
        {"x_proj.weight": torch.zeros(4)}, {"state_dict": {"a": torch.zeros(1)}},
        {"state_dict": {}, "card": {"kind": "teacher"}}, {"state_dict": {}, "card": {**CARD.to_dict(), "later": 1}},
        {"state_dict": {}, "card": CARD.to_dict()},
    ],
)  # fmt: skip
def test_whole_files_of_another_kind_are_named(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="other.ckpt cannot be read as a checkpoint"):
        read_network(tmp_path / "other.ckpt", card(network={"heads": 2}))


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"card": "{half"}, {"card": json.dumps({"kind": "x"})}])
def test_safetensors_without_a_card_are_named(tmp_path: Path, metadata: Any) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match="other.safetensors"):
        read_network(tmp_path / "other.safetensors", CARD)


def golden() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and settings of the reference implementation's tiny random network."""
    with safe_open(sorted(GOLDENS.glob("worldgym_dit*.safetensors"))[0], "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}, json.loads(file.metadata()["meta"])


@pytest.mark.parametrize("wrapped", ["plain", "ema", "model", "parallel"])
def test_a_file_of_world_model_eval_computes_what_it_computed(tmp_path: Path, wrapped: str) -> None:
    tensors, meta = golden()
    weights = {k.removeprefix("weights."): v.clone() for k, v in tensors.items() if k.startswith("weights.")}
    content: Any = {"plain": weights, "parallel": {f"module.{k}": v for k, v in weights.items()}}.get(wrapped)
    torch.save(content or {wrapped: weights, "step": 3}, tmp_path / "world.pt")
    expected = card(
        network={"heads": meta["num_heads"]}, path={"_target_": "some.Diffusion"},
        frame_shape=(tensors["forward.x"].shape[-1], meta["height"], meta["width"]),
    )  # fmt: skip
    file = read_network(tmp_path / "world.pt", expected)
    config = dict(file.card.network)
    assert config.pop("_target_") == f"{VideoDiT.__module__}.{VideoDiT.__qualname__}"
    net = VideoDiT(**config)
    load_into(net, file, "world.pt")
    x, actions = rearrange(tensors["forward.x"], "b t h w c -> b t c h w"), tensors["forward.actions"]
    condition = Condition(actions, torch.zeros(actions.shape[:2], dtype=torch.long))
    with torch.no_grad():
        prediction, _ = net(x, tensors["forward.t"].float(), condition, mask=FrameMask(1))
    reference = rearrange(tensors["forward.v_pred"], "b t h w c -> b t c h w")
    torch.testing.assert_close(prediction, reference, atol=1e-4, rtol=0)
    # Its card says how it was trained: framewise, without dropped actions, actions at their own frame.
    assert file.card.action_shift == 0 and "action_shift: 0 against 1" in file.card.differences(expected)
    file.card.require_mask(1, "x")
    file.card.require_commit("scaled", 0.015, "x")
    for refused in (lambda: file.card.require_mask(None, "x"), lambda: file.card.require_null("newest", "x")):
        with pytest.raises(ValueError, match="the teacher was trained with"):
            refused()
