"""A transformer in diffusers' own form, config.json beside .safetensors, as the weights of a network here."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from wm_lightning.card import Card
from wm_lightning.networks.adapters.whole_clip import diffusers_class
from wm_lightning.networks.autoencoders import file_hash

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PART = "transformer"  # of a pipeline's folder, and what networks here call it
HOME = "wm_lightning.networks.adapters."
# By the class that config.json names: its module, network= here, and its `_target_`.
KNOWN = {
    "LTX2VideoTransformer3DModel": ("transformer_ltx2", "ltx2", f"{HOME}ltx2.LTX2"),
    "HunyuanVideo15Transformer3DModel": ("transformer_hunyuan_video15", "hunyuan15", f"{HOME}hunyuan15.Hunyuan15"),
}
CHANNELS = ("in_channels", "out_channels")  # follow from network.channels


def transformer_folder(path: Path) -> Path | None:
    """The folder of a transformer: `path`, or that within a pipeline's folder; None where there is neither."""
    return next((place for place in (path, path / PART) if (place / CONFIG).is_file()), None)


def read_transformer(folder: Path, expected: Card) -> tuple[dict[str, Tensor], Card]:
    """Weights of the network of `expected`, and their card; dtypes stay.

    The folder says nothing of data, path and autoencoder, which are those of `expected` and believed to fit.
    Raises ValueError with the words that make the network of `expected` one for these weights, and where the folder is
    of another class or incomplete.
    """
    said = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    name = said.get("_class_name")
    if name not in KNOWN:
        raise ValueError(f"{CONFIG} is of a {name}, which no network here is; {' and '.join(KNOWN)} can be read")
    module, network, target = KNOWN[name]
    if expected.network.get("_target_") != target:
        raise ValueError(f"it holds a {name}, the config names {expected.network.get('_target_')}; set {network=!s}")
    own = {key: value for key, value in said.items() if not key.startswith("_")}
    if wrong := _overrides(_defaults(module, name), own, expected):
        raise ValueError(f"its weights need {' '.join(wrong)}; add these words (size=paper has the published sizes)")
    return {f"{PART}.{key}": value for key, value in read_weights(folder).items()}, _card(name, expected)


def _defaults(module: str, name: str) -> dict[str, Any]:
    """What the class takes, by name, with its own defaults."""
    parameters = inspect.signature(diffusers_class(f"transformers.{module}", name).__init__).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def _overrides(defaults: Mapping[str, Any], own: Mapping[str, Any], expected: Card) -> list[str]:
    """The words that would make the config's network that of the folder."""
    if unknown := sorted(own.keys() - defaults.keys()):
        raise ValueError(f"{CONFIG} has {', '.join(unknown)}, which this diffusers does not know; install a newer one")
    theirs, config = {**defaults, **own}, expected.network["architecture"]
    ours = {**defaults, **config}
    wrong = [
        f"{'' if key in config else '+'}network.architecture.{key}={_word(theirs[key])}"
        for key in defaults
        if key not in CHANNELS and _plain(theirs[key]) != _plain(ours[key])
    ]
    # Both classes give out what they are to predict; what else they take in is a matter of the network.
    patched = theirs["patch_size"] ** 2 if "audio_in_channels" in theirs else 1
    if theirs["out_channels"] != expected.network["channels"] * patched:
        wrong.append(f"network.channels={theirs['out_channels'] // patched}")
    if expected.path.get("prediction") != "velocity":
        wrong.append("noising.prediction=velocity")
    return wrong


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of the folder's files, by their names. Raises ValueError where files are missing or others."""
    if (folder / INDEX).is_file():
        places: Mapping[str, str] = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    elif (folder / WEIGHTS).is_file():
        return load_file(folder / WEIGHTS)
    else:
        there = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
        raise ValueError(
            f"neither {WEIGHTS} nor {INDEX} is there, only {there}; save it with save_pretrained, as safetensors: no "
            f"other kind is read"
        )
    weights: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name or Path(name).suffix != ".safetensors" or not (folder / name).is_file():
            raise ValueError(f"{INDEX} names {name}, which is no .safetensors file of this folder; fetch all of them")
        weights |= load_file(folder / name)
    if missing := sorted(places.keys() - weights.keys()):
        raise ValueError(f"{missing[0]} and {len(missing) - 1} more are in none of the files that {INDEX} names")
    return weights


def files_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of the folder's files of weights; unchanged ones are read once."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        total.update(f"{path.name} {file_hash(path)} ".encode())
    return total.hexdigest()


def _card(name: str, expected: Card) -> Card:
    """What the published pipelines do: a whole clip at once, behind one clean frame."""
    trained_for = {
        "chunks": [None], "context": 1, "clean_history": 0.0, "history_level": 0.0, "shared": 1.0, "steps": None,
        "commit": [{"mode": "clean", "t": 0.0}], "action_dropout": {"share": 0.0, "granularity": "clip"},
    }  # fmt: skip
    return Card(
        kind="teacher", network=expected.network, path=expected.path, action_spec=expected.action_spec,
        action_shift=expected.action_shift, first_action=expected.first_action, frame_shape=expected.frame_shape,
        autoencoder=expected.autoencoder, trained_for=trained_for, data=name,
    )  # fmt: skip


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def _word(value: Any) -> str:
    return json.dumps(_plain(value), separators=(",", ":")).replace('"', "")
