"""Writes the form that anybody's recordings are in: `actions.yaml` and NAME.mp4 beside NAME.csv."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Float32, UInt8

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats import own
from wm_lightning.data.formats.video_files import Encoding, encode
from wm_lightning.data.formats.writing import Names, Splits, Writing


def write_own(folder: Path, splits: Splits, writing: Writing) -> Names:
    """`actions.yaml` and `<split>/NAME.mp4|.csv`, under the names that the source has."""
    spec = writing.spec
    assert spec is not None
    write_spec(folder, spec, writing.rest)
    names = Names()
    for split, episodes in splits.items():
        (folder / split).mkdir()
        names[split] = [name.removesuffix(".hdf5") for name in episodes.names]
        for name, episode in zip(names[split], episodes, strict=True):
            write_recording(folder / split, name, episode.video, episode.actions, spec, writing.encoding)
    return names


def write_spec(folder: Path, spec: ActionSpec, rest: Mapping[str, float | int]) -> None:
    """`actions.yaml`: what the columns are, and which of those of `rest` the action of doing nothing has."""
    limits = {"low": list(spec.low), "high": list(spec.high)}
    still = {name: float(value) for name, value in rest.items() if name in spec.names}
    content = {"names": list(spec.names), **limits, "kind": spec.kind, **({"rest": still} if still else {})}
    text = yaml.safe_dump(content, sort_keys=False)
    (folder / own.SPEC).write_text(text)


def write_recording(
    folder: Path, name: str, video: UInt8[np.ndarray, "f h w 3"], actions: Float32[np.ndarray, "f a"], spec: ActionSpec,
    encoding: Encoding,
) -> None:  # fmt: skip
    """`NAME.mp4` and `NAME.csv`; row k of the actions is stored at frame k."""
    encode(folder / f"{name}.mp4", video, encoding)
    rows = [",".join(spec.names), *(",".join(map(_exact, row)) for row in actions)]
    (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")


def _exact(value: np.float32) -> str:
    # The shortest text that gives the same float32 again.
    return np.format_float_positional(value, unique=True, trim="0")
