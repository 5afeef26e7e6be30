"""The two JSON files by which TensorFlow Datasets opens a set of RT-1's fields without the code that made it."""

from collections.abc import Mapping, Sequence
from typing import Any

from wm_lightning.data.formats.robot_actions import FIELDS

CLASSES = "tensorflow_datasets.core.features"


def describe_features(shape: Sequence[int]) -> dict[str, Any]:
    """`features.json`: what a step holds, each with the class that decodes it; `shape` is that of the pictures."""
    step = _group({
        "observation": _group({"image": _image(shape)}),
        "action": _group({
            field: _tensor([size], "int32" if field == "terminate_episode" else "float32")
            for field, size in FIELDS.items()
        }),
        "is_first": _tensor([], "bool"),
        "is_last": _tensor([], "bool"),
    })  # fmt: skip
    steps = {
        "pythonClassName": f"{CLASSES}.dataset_feature.Dataset",
        "sequence": {"feature": step, "length": "-1"},
    }
    return _group({"steps": steps})


def described_split(name: str, lengths: Sequence[int], size: int) -> dict[str, Any]:
    """One split of `dataset_info.json`: episodes of each shard, and bytes of all."""
    return {
        "name": name, "shardLengths": [str(length) for length in lengths], "numBytes": str(size),
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }  # fmt: skip


def describe_set(before: Mapping[str, Any], name: str, folder: str, split: Mapping[str, Any]) -> dict[str, Any]:
    """`dataset_info.json` with one split more than `before`; the folder is called by the version where it has one."""
    version = folder if folder.replace(".", "").isdigit() else "1.0.0"
    others = [entry for entry in before.get("splits", []) if entry["name"] != split["name"]]
    return {
        "name": name, "version": version, "fileFormat": "tfrecord", "description": "Robot episodes in RT-1's fields.",
        "splits": [*others, dict(split)],
    }  # fmt: skip


def _group(features: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pythonClassName": f"{CLASSES}.features_dict.FeaturesDict",
        "featuresDict": {"features": dict(features)},
    }


def _tensor(shape: Sequence[int], dtype: str) -> dict[str, Any]:
    dimensions = {"dimensions": [str(size) for size in shape]} if shape else {}
    kind = "tensor_feature.Tensor" if shape else "scalar.Scalar"
    return {
        "pythonClassName": f"{CLASSES}.{kind}",
        "tensor": {"shape": dimensions, "dtype": dtype, "encoding": "none"},
    }


def _image(shape: Sequence[int]) -> dict[str, Any]:
    return {
        "pythonClassName": f"{CLASSES}.image_feature.Image",
        "image": {
            "shape": {"dimensions": [str(size) for size in shape]}, "dtype": "uint8", "encodingFormat": "jpeg",
        },
    }  # fmt: skip
