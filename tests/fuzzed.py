"""All that reads files of others: every form of data and every kind of weights, as trainings read them."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from tests.data.fault_sets import SETS, opened, rows_served, served
from tests.fuzzing import Subject
from tests.modules.making import TRAINED, card, network
from tests.networks.tiny_dynamicrafter import IMAGE, autoencoder, drawn, resampler, tiny_clip, unet
from tests.test_checkpoints import golden
from wm_lightning.checkpoint_io import AtomicCheckpointIO
from wm_lightning.checkpoints import read_card, read_network, read_resumable, save_network, write_weights
from wm_lightning.data.formats.safe_pickle import read_arrays
from wm_lightning.networks.adapters.dynamicrafter_card import SAME, UNET
from wm_lightning.networks.openclip import EMPTY_TEXT, OpenClipImage, read_empty_text
from wm_lightning.tasks.unpack import Unpack

LENIENT = ("data.on_error=quarantine", "data.max_bad_share=0.7")
CARD = replace(card(), trained_for=TRAINED)
ARGUMENTS: dict[str, Any] = {**dict.fromkeys(SAME, 2), "bypass": False, "action_scales": False, "causal": False}
ARGUMENTS |= {"actions_seen": False, "actions": 5, "action_kind": "deep"}


def make_data(form: str, root: Path) -> None:
    SETS[form].make(root / "set")  # type: ignore[operator]


def read_data(form: str, root: Path, own: Path) -> None:
    """As a training that leaves out what is bad opens it, and every episode whole.

    Raises ValueError for what was left out too: of many files with an episode each, that is all that damage does.
    """
    if form == "tasks":
        rows_served(root / "set")
        return
    data = opened(root / "set", form, own, *(() if form == "map" else LENIENT))
    served(data)
    if data.quarantined:
        raise ValueError(f"left out, and the rest is served: {dict(data.quarantined)}")


def make_export(root: Path) -> None:
    save_network(root / "teacher.safetensors", network(), CARD, torch.bfloat16)


def read_export(root: Path, _: Path) -> None:
    read_network(root / "teacher.safetensors", CARD)
    read_card(root / "teacher.safetensors")


def make_checkpoint(root: Path) -> None:
    weights = {f"average.network.{name}": value for name, value in network().state_dict().items()}
    content = {"state_dict": weights, "card": CARD.to_dict(), "loops": {"handed_out": 3}}
    AtomicCheckpointIO().save_checkpoint(content | {"provenance": {"config": {"seed": 0}}}, root / "last.ckpt")


def read_checkpoint(root: Path, _: Path) -> None:
    read_resumable(root / "last.ckpt", CARD)
    read_network(root / "last.ckpt", CARD)
    AtomicCheckpointIO().load_checkpoint(root / "last.ckpt")


def make_worldgym(root: Path) -> None:
    tensors, _ = golden()
    weights = {k.removeprefix("weights."): v.clone() for k, v in tensors.items() if k.startswith("weights.")}
    torch.save({"ema": weights, "step": 3}, root / "world.pt")


def read_worldgym(root: Path, _: Path) -> None:
    tensors, meta = golden()
    shape = (tensors["forward.x"].shape[-1], meta["height"], meta["width"])
    read_network(root / "world.pt", card(network={"heads": meta["num_heads"]}, frame_shape=shape))


def make_unpacked(root: Path) -> None:
    weights = {"stem.weight": torch.ones(4, 3, 3, 3), "stem.bias": torch.zeros(4)}
    write_weights(root / "unet.safetensors", weights, {"arguments": json.dumps(ARGUMENTS)})


def read_unpacked(root: Path, _: Path) -> None:
    read_network(root, card(network={"_target_": UNET, **ARGUMENTS}))


def make_dynamicrafter(root: Path) -> None:
    parts = {"model.diffusion_model.": unet(), "first_stage_model.": autoencoder(), "image_proj_model.": resampler()}
    state = {name: value for prefix, layers in parts.items() for name, value in drawn(layers, prefix).items()}
    torch.save({"state_dict": state, "epoch": 3}, root / "model.ckpt")


def read_dynamicrafter(root: Path, own: Path) -> None:
    task = Unpack(checkpoint=str(root / "model.ckpt"), into=str(own / "parts"), empty_text=False, text={})
    task(DictConfig({}))


def make_openclip(root: Path) -> None:
    write_weights(root / "image.safetensors", tiny_clip().state_dict(), {})
    write_weights(root / "empty_text.safetensors", {EMPTY_TEXT: torch.ones(1, 77, 24)}, {"sha256": "0" * 64})


def read_openclip(root: Path, _: Path) -> None:
    OpenClipImage(weights=str(root / "image.safetensors"), architecture=IMAGE)
    read_empty_text(root / "empty_text.safetensors", "0" * 64)


def make_pickle(root: Path) -> None:
    arrays = {"position": np.arange(12.0).reshape(6, 2), "yaw": np.zeros(6, np.float32), "name": "walk"}
    (root / "traj_data.pkl").write_bytes(pickle.dumps(arrays, protocol=2))


def read_pickle(root: Path, _: Path) -> None:
    read_arrays(root / "traj_data.pkl")


WEIGHTS: tuple[tuple[str, Callable[[Path], None], Callable[[Path, Path], None]], ...] = (
    ("export", make_export, read_export),
    ("checkpoint", make_checkpoint, read_checkpoint),
    ("worldgym", make_worldgym, read_worldgym),
    ("unpacked", make_unpacked, read_unpacked),
    ("pickle", make_pickle, read_pickle),
)
IMPORTERS = tuple(Subject(*one) for one in WEIGHTS)
LARGE = (  # seconds for a few
    Subject("dynamicrafter", make_dynamicrafter, read_dynamicrafter),
    Subject("openclip", make_openclip, read_openclip),
)
READERS = tuple(Subject(form, partial(make_data, form), partial(read_data, form)) for form in SETS)
SUBJECTS = (*IMPORTERS, *LARGE, *READERS)
