"""Writes the form that anybody's recordings are in: `actions.yaml` and NAME.mp4 beside NAME.csv."""

from pathlib import Path

import numpy as np
import yaml

from wm_lightning.data.formats import own
from wm_lightning.data.formats.video_files import encode
from wm_lightning.data.formats.writing import Names, Splits, Writing


def write_own(folder: Path, splits: Splits, writing: Writing) -> Names:
    """`actions.yaml` and `<split>/NAME.mp4|.csv`, under the names that the source has."""
    spec = writing.spec
    assert spec is not None
    limits = {"low": list(spec.low), "high": list(spec.high)}
    text = yaml.safe_dump({"names": list(spec.names), **limits, "kind": spec.kind}, sort_keys=False)
    (folder / own.SPEC).write_text(text)
    names = Names()
    for split, episodes in splits.items():
        (folder / split).mkdir()
        names[split] = [name.removesuffix(".hdf5") for name in episodes.names]
        for name, episode in zip(names[split], episodes, strict=True):
            encode(folder / split / f"{name}.mp4", episode.video, writing.encoding)
            rows = [",".join(spec.names), *(",".join(map(_exact, row)) for row in episode.actions)]
            (folder / split / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return names


def _exact(value: np.float32) -> str:
    # The shortest text that gives the same float32 again.
    return np.format_float_positional(value, unique=True, trim="0")
