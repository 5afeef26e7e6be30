"""Networks in files: the only place that reads or writes weights.

Five kinds are read: a run's own checkpoint (.ckpt), an exported network (.safetensors with its card in the header), a
UNet as task=unpack wrote it (its folder will do), world-model-eval's weights, and a folder of diffusers with LTX-2's or
HunyuanVideo 1.5's transformer. Nothing is ever unpickled beyond tensors and plain containers, and no config found in a
file is instantiated.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wm_lightning.card import Card
from wm_lightning.networks.adapters.diffusers_folder import read_transformer, transformer_folder
from wm_lightning.networks.adapters.dynamicrafter_card import unpacked_card
from wm_lightning.networks.adapters.worldgym import from_worldgym
from wm_lightning.networks.causal import Transfer
from wm_lightning.plain_files import DAMAGED, read_plain, tensors, unpickled, why

# Where a run's checkpoint keeps the network it would deploy.
DEPLOYED = "average.network."
WORLDGYM_SHIFT = 0
# What task=unpack calls the files that hold a network's weights; constructor's arguments stand in their headers.
UNPACKED, UNPACKED_RESAMPLER = "unet.safetensors", "resampler.safetensors"
# What damaged files make their readers raise, and files whose content is not what was expected.
UNREADABLE = (SafetensorError, *DAMAGED)


@dataclass(frozen=True)
class NetworkFile:
    """Weights by name, the card that says what they are for, and the hash of the weights."""

    weights: Mapping[str, Tensor]
    card: Card
    sha256: str


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name}{tuple(weights[name].shape)}".encode())
        digest.update(weights[name].detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_network(path: Path, expected: Card, *, otherwise: str = "") -> NetworkFile:
    """The deployed network of any readable file. `expected` supplies what foreign files do not say.

    Raises ValueError naming the file and what is wrong with it; `otherwise` says what else the user may do where it is
    not there.
    """
    if (folder := transformer_folder(path)) is not None:
        path, read = folder, read_transformer
    else:
        path = path / UNPACKED if path.is_dir() else path
        read = _safetensors if path.suffix == ".safetensors" else _torch
    if folder is None and not path.is_file():
        raise ValueError(
            f"{path}: there is no such file; name a .ckpt, a .safetensors, the folder that task=unpack wrote, or "
            f"diffusers' of LTX-2 or HunyuanVideo 1.5{otherwise and f', or set {otherwise}'}"
        )
    try:
        weights, card = read(path, expected)
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a checkpoint ({why(error)})") from error
    weights = {name: value.float() for name, value in weights.items()}
    return NetworkFile(weights, card, weights_hash(weights))


def read_resumable(path: Path, expected: Card) -> Mapping[str, Any]:
    """The recorded config of the training that goes on from `path`; weights stay on the disk.

    Raises ValueError unless `path` is a training's own checkpoint, of the kind and sizes of `expected`.
    """
    if not path.is_file():
        raise ValueError(f"ckpt_path={path}: there is no such file; name a RUN/checkpoints/last.ckpt, or null to start")
    if path.suffix == ".safetensors":
        raise ValueError(f"{path} holds a network and no training that could go on; name RUN/checkpoints/last.ckpt")
    content = read_plain(path, mmap=True)
    try:
        card = Card.from_dict(content["card"])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} has no usable card ({why(error)}), so this suite did not write it") from error
    if "loops" not in content:
        raise ValueError(f"{path} holds a network and no training that could go on; name RUN/checkpoints/last.ckpt")
    if card.kind != expected.kind:
        raise ValueError(
            f"{path} is of the training of a {card.kind}, this is one of a {expected.kind}; see experiment="
        )
    if differences := card.differences(expected):
        raise ValueError(f"{path} is not of this training: {'; '.join(differences)} (checkpoint against config)")
    if not isinstance(record := content.get("provenance"), Mapping) or "config" not in record:
        raise ValueError(
            f"{path} has no record of its config; name another RUN/checkpoints/last.ckpt, or null to start"
        )
    return record["config"]


def read_card(path: Path) -> Card:
    """The card of an exported network, without its weights."""
    with safe_open(path, "pt") as file:
        return _card_of(file.metadata(), path)


def _card_of(metadata: Mapping[str, str] | None, path: Path) -> Card:
    if not metadata or "card" not in metadata:
        raise ValueError(f"{path} holds no card; export it with this suite, or name a checkpoint it wrote")
    return Card.from_dict(json.loads(metadata["card"]))


def _safetensors(path: Path, expected: Card) -> tuple[dict[str, Tensor], Card]:
    with safe_open(path, "pt") as file:
        header = file.metadata() or {}
    if "card" in header or "arguments" not in header:
        return load_file(path), _card_of(header, path)
    return _unpacked(path, expected)


def _unpacked(path: Path, expected: Card) -> tuple[dict[str, Tensor], Card]:
    """A UNet as task=unpack wrote it, with the resampler beside it where the network of `expected` has one."""
    weights, arguments = _with_arguments(path)
    if "causal" not in arguments:
        raise ValueError(f"it holds no UNet; name {path.parent / UNPACKED}")
    if expected.network.get("resampler") is None:
        return weights, unpacked_card(arguments, None, expected)
    more, its = _with_arguments(path.parent / UNPACKED_RESAMPLER)
    weights |= {f"resampler.{name}": value for name, value in more.items()}
    return weights, unpacked_card(arguments, its, expected)


def _with_arguments(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"network.resampler needs {path}, which is not there; task=unpack writes it")
    with safe_open(path, "pt") as file:
        arguments = json.loads((file.metadata() or {}).get("arguments", "null"))
    return load_file(path), arguments or {}


def _torch(path: Path, expected: Card) -> tuple[dict[str, Tensor], Card]:
    content = unpickled(path)
    if not isinstance(content, Mapping):
        raise TypeError(f"a dict of weights is expected, found {type(content).__name__}")
    if "card" in content and "state_dict" in content:
        weights = tensors(content["state_dict"], "state_dict", DEPLOYED)
        if not weights:
            raise KeyError(f"{DEPLOYED}*")
        return weights, Card.from_dict(content["card"])
    return _worldgym(content, expected)


def _worldgym(content: Mapping[str, Any], expected: Card) -> tuple[dict[str, Tensor], Card]:
    place = next((key for key in ("ema", "model", "state_dict") if key in content), None)
    found = content if place is None else content[place]
    if not isinstance(found, Mapping) or not any(
        str(name).removeprefix("module.") == "x_proj.weight" for name in found
    ):
        raise ValueError("neither a checkpoint of this suite nor one of world-model-eval")
    weights = {name.removeprefix("module."): value for name, value in tensors(found, place or "the file").items()}
    _, height, width = expected.frame_shape
    converted, config = from_worldgym(weights, heads=expected.network["heads"], height=height, width=width)
    trained_for = {
        "chunks": [1], "context": 0, "clean_history": 0.0, "history_level": 1.0, "shared": 0.0, "steps": None,
        "commit": [{"mode": "clean", "t": 0.0}, {"mode": "noised", "t": 1.0}, {"mode": "scaled", "t": 0.015}],
        "action_dropout": {"share": 0.0, "granularity": "frame"},
    }  # fmt: skip
    card = Card(
        kind="teacher",
        network={"_target_": "wm_lightning.networks.video_dit.VideoDiT", **config},
        path=expected.path,
        action_spec=expected.action_spec,
        action_shift=WORLDGYM_SHIFT,
        frame_shape=expected.frame_shape,
        autoencoder=expected.autoencoder,  # the file does not say, and is believed to fit
        trained_for=trained_for,
        data="world-model-eval",
    )
    return converted, card


def load_into(network: nn.Module, file: NetworkFile, source: str, *, new: Sequence[str] = ()) -> None:
    """Loads all weights strictly. Raises ValueError that lists what is missing, left over or of another shape.

    Parts of the network that `new` names (by their first words, as "start") keep their own weights where the file has
    none.
    """
    own = network.state_dict()
    missing = own.keys() - file.weights.keys()
    wrong = [f"missing {name}" for name in missing if name.split(".")[0] not in new]
    wrong += [f"unknown {name}" for name in file.weights.keys() - own.keys()]
    wrong += [
        f"{name} is {tuple(file.weights[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own.keys() & file.weights.keys()
        if own[name].shape != file.weights[name].shape
    ]
    if wrong:
        shown = "; ".join(sorted(wrong)[:6])
        raise ValueError(f"{source} does not fit the network ({len(wrong)} differences: {shown}); check network=")
    # A network without storage (built to be checked before work begins) has been checked and has no place for values.
    if not any(value.is_meta for value in own.values()):
        network.load_state_dict({**{name: own[name] for name in missing}, **file.weights})


def made_causal(file: NetworkFile, transfer: Transfer, source: str) -> NetworkFile:
    """The file with its convolutions along time made causal, and its head along height where the transfer says so.

    Raises ValueError where they are causal already, or where there are none.
    """
    network = file.card.network
    if (causal := network.get("causal")) is not False:
        what = "is causal already" if causal else "has no convolutions along time"
        raise ValueError(f"{source} {what} ({network.get('_target_')}); give module.transfer=null")
    if transfer.head_height and network.get("head_height_causal"):
        raise ValueError(f"{source} has a head that is causal already; give module.transfer.head_height=false")
    changed = {"causal": True} | ({"head_height_causal": True} if transfer.head_height else {})
    card = replace(file.card, network={**network, **changed})
    return replace(file, weights=transfer.weights(file.weights), card=card)


def require_same_reach(file: NetworkFile, network: nn.Module, source: str) -> None:
    """Raises ValueError where kernels of the same shape are of other places: some causal, and others centred."""
    for key in ("causal", "head_height_causal"):
        own, theirs = getattr(network, key, None), file.card.network.get(key)
        if own is not None and theirs != own:
            advice = "module.transfer" if own and not theirs else f"network.{key}={str(theirs).lower()}"
            raise ValueError(
                f"{source} has {key}={theirs}, the network {key}={own}: kernels have the same shapes and other "
                f"places; set {advice}, and see compat=official for weights that Vid2World published"
            )


def save_network(path: Path, network: nn.Module, card: Card, dtype: torch.dtype) -> None:
    """Writes a network's weights and card as safetensors."""
    _write({name: value.to(dtype) for name, value in network.state_dict().items()}, card, path)


def rewrite_card(path: Path, card: Card) -> None:
    """Gives an exported network another card; the weights stay as they are."""
    _write(load_file(path), card, path)


def _write(values: Mapping[str, Tensor], card: Card, path: Path) -> None:
    write_weights(path, values, {"card": json.dumps(card.to_dict())})


def write_weights(path: Path, values: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors by name as safetensors, with `metadata` in the header, and the file whole or not at all."""
    weights = {name: value.detach().contiguous().cpu() for name, value in values.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    save_file(weights, partial, metadata=dict(metadata))
    # safetensors writes for the owner alone; the file is as open as any other of the run.
    mask = os.umask(0)
    os.umask(mask)
    partial.chmod(0o666 & ~mask)
    os.replace(partial, path)
