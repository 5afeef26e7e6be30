"""TFRecord files of `tf.train.Example` without TensorFlow: an index of byte offsets, checked records, parsed features.

A record is length (u64), masked CRC-32C of the length (u32), payload, masked CRC-32C of the payload (u32), all
little-endian. A payload is an `Example`: named lists of bytes, float32 or int64.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from jaxtyping import Int64

from wm_lightning.data.formats.source import load_arrays, save_arrays, stamp
from wm_lightning.data.formats.video_files import BadFile

HEAD, TAIL = struct.Struct("<QI"), struct.Struct("<I")
Feature = list[bytes] | np.ndarray
_KINDS = {"bytes_list": "TYPE_BYTES", "float_list": "TYPE_FLOAT", "int64_list": "TYPE_INT64"}


def masked_crc(data: bytes) -> int:
    """The CRC-32C of some bytes as TFRecord stores it: rotated by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


@dataclass(frozen=True)
class Records:
    """Offset and length of every payload that can be reached, and what ends the file too early, if anything does."""

    places: Int64[np.ndarray, "n 2"]
    fault: BadFile | None


def index_records(path: Path) -> Records:
    """Reads the heads only. What stands before a damaged head or a missing end is kept, what follows is lost."""
    found: list[tuple[int, int]] = []
    try:
        _walk(path, found)
        fault = None if found else BadFile(path, "holds no record")
    except BadFile as error:
        fault = error
    except OSError as error:
        fault = BadFile(path, f"cannot be read ({error})")
    return Records(np.array(found, np.int64).reshape(-1, 2), fault)


def indexed_records(paths: Sequence[Path], folder: Path | None) -> list[Records]:
    """The records of some files, kept in `folder` where all are sound: by their names, sizes and times found again."""
    stamps = json.dumps([1, [stamp(path) for path in paths]])
    place = folder / f"records-{hashlib.sha256(stamps.encode()).hexdigest()[:12]}.npz" if folder else None
    if place is not None and place.is_file():
        with suppress(BadFile):  # a damaged one is made again
            kept = load_arrays(place, only=("places", "counts"))
            parts = np.split(kept["places"], np.cumsum(kept["counts"])[:-1])
            return [Records(part, None) for part in parts]
    found = [index_records(path) for path in paths]
    if place is not None and all(records.fault is None for records in found):
        counts = np.array([len(records.places) for records in found])
        with suppress(OSError):  # a cache that cannot be written keeps nothing
            place.parent.mkdir(parents=True, exist_ok=True)
            save_arrays(place, {"places": np.concatenate([records.places for records in found]), "counts": counts})
    return found


def _walk(path: Path, found: list[tuple[int, int]]) -> None:
    size, place = path.stat().st_size, 0
    with path.open("rb") as file:
        while place < size:
            file.seek(place)
            head = file.read(HEAD.size)
            if len(head) < HEAD.size:
                raise BadFile(path, f"ends within the head of record {len(found)}, at byte {place}")
            length, crc = HEAD.unpack(head)
            if masked_crc(head[:8]) != crc:
                raise BadFile(path, f"record {len(found)} at byte {place} has a damaged length")
            end = place + HEAD.size + length + TAIL.size
            if end > size:
                raise BadFile(path, f"ends within record {len(found)}: {size} bytes, {end} are expected")
            found.append((place + HEAD.size, length))
            place = end


def read_record(path: Path, offset: int, length: int) -> bytes:
    """The payload at `offset`. Raises BadFile where its checksum does not hold."""
    with path.open("rb") as file:
        file.seek(offset)
        payload, tail = file.read(length), file.read(TAIL.size)
    if len(payload) < length or len(tail) < TAIL.size or TAIL.unpack(tail)[0] != masked_crc(payload):
        raise BadFile(path, f"the record at byte {offset} is damaged (its checksum does not hold)")
    return payload


def parse_example(
    path: Path, payload: bytes, *, only: Sequence[str] | None = None, but: Sequence[str] = ()
) -> dict[str, Feature]:
    """Features by name: lists of bytes, float32 [n] or int64 [n]; of `only` those where some are named, less `but`.

    Raises BadFile where it is no Example.
    """
    example = _message("Example")()
    try:
        example.ParseFromString(payload)
    except DecodeError as error:
        raise BadFile(path, f"a record is no tf.train.Example ({error})") from error
    features = example.features.feature  # type: ignore[attr-defined]
    # Looked for first, because a map of protobuf makes what it is asked for.
    asked = features if only is None else [name for name in only if name in features]
    return {name: _values(features[name]) for name in asked if name not in but}


def write_records(path: Path, examples: list[Mapping[str, Feature]]) -> None:
    """Writes a file of records. `path` should be a partial one; see `atomic_file`."""
    with path.open("wb") as file:
        for features in examples:
            example = _message("Example")()
            for name, values in features.items():
                _fill(example.features.feature[name], values)  # type: ignore[attr-defined]
            # In a fixed order, so that equal content gives equal bytes.
            payload = example.SerializeToString(deterministic=True)
            size = struct.pack("<Q", len(payload))
            file.write(size + TAIL.pack(masked_crc(size)) + payload + TAIL.pack(masked_crc(payload)))


def _values(feature: Any) -> Feature:
    kind = feature.WhichOneof("kind")
    if kind is None:
        return []
    values = getattr(feature, kind).value
    return list(values) if kind == "bytes_list" else np.array(values, {"float_list": "f4", "int64_list": "i8"}[kind])


def _fill(feature: Any, values: Feature) -> None:
    if isinstance(values, list):
        feature.bytes_list.value.extend(values)
    else:
        kind = feature.float_list if values.dtype.kind == "f" else feature.int64_list
        kind.value.extend(values.reshape(-1).tolist())


@cache
def _message(name: str) -> type[Message]:
    """A message class of `tf.train.Example`, described here because its own package is all of TensorFlow."""
    file = descriptor_pb2.FileDescriptorProto(name="wm_lightning/example.proto", package="tfrecord", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (kind, of) in enumerate(_KINDS.items(), start=1):
        values = file.message_type.add(name=kind)
        values.field.add(name="value", number=1, label=field.LABEL_REPEATED, type=field.Type.Value(of))
        feature.field.add(
            name=kind, number=number, type=field.TYPE_MESSAGE, type_name=f".tfrecord.{kind}", oneof_index=0,
            label=field.LABEL_OPTIONAL,
        )  # fmt: skip
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    of_feature = {"type": field.TYPE_MESSAGE, "type_name": ".tfrecord.Feature"}
    entry.field.add(name="value", number=2, label=field.LABEL_OPTIONAL, **of_feature)
    of_entry = {"type": field.TYPE_MESSAGE, "type_name": ".tfrecord.Features.FeatureEntry"}
    features.field.add(name="feature", number=1, label=field.LABEL_REPEATED, **of_entry)
    example = file.message_type.add(name="Example")
    of_features = {"type": field.TYPE_MESSAGE, "type_name": ".tfrecord.Features"}
    example.field.add(name="features", number=1, label=field.LABEL_OPTIONAL, **of_features)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tfrecord.{name}"))
