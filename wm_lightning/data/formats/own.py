"""Anybody's recordings: NAME.mp4 beside NAME.csv or NAME.npz, and `actions.yaml` that says what the columns are.

`actions.yaml` holds `names`, `low`, `high` (lists of equal length) and optionally `kind` (continuous or discrete) and
`rest`, the columns of the action of doing nothing that are not 0 (`rest: {stay: 1}`).
A csv has a header with the names, in any order, and one row per frame; an npz an array `actions` [frames, columns]
in the order of `actions.yaml`. Row k is stored at the observation k.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Float32, UInt8

from wm_lightning.clip import ActionSpec
from wm_lightning.data.formats.source import (
    Outline,
    Stamp,
    StoredEpisode,
    checked_actions,
    load_arrays,
    names_faults,
    stamp,
    trimmed,
)
from wm_lightning.data.formats.video_files import BadFile, Decoder, decoded
from wm_lightning.data.formats.video_parts import decode_part, first_picture

SPEC = "actions.yaml"


def read_spec(folder: Path) -> ActionSpec:
    """The columns of a folder. Raises ValueError where `actions.yaml` is missing or says something else."""
    path = folder / SPEC
    example = "names: [speed, turn]; low: [-1.0, -1.0]; high: [1.0, 1.0]; kind: continuous"
    try:
        content = yaml.safe_load(path.read_text())
        kind = content.get("kind", "continuous")
        names, low, high = (
            tuple(map(of, content[key])) for key, of in (("names", str), ("low", float), ("high", float))
        )
        if kind not in ("continuous", "discrete"):
            raise ValueError(f"kind must be continuous or discrete, not {kind}")
        spec = ActionSpec(tuple(map(str, names)), tuple(map(float, low)), tuple(map(float, high)), kind)
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} does not describe the actions ({error}); it should hold e.g. {example}") from error
    if not all(-math.inf < low < high < math.inf for low, high in zip(spec.low, spec.high, strict=True)):
        raise ValueError(f"{path}: every low must lie below its high, both finite; e.g. {example}")
    return spec


def read_rest(folder: Path) -> dict[str, float]:
    """What `actions.yaml` says of the action of doing nothing. Raises ValueError for what is none."""
    path, spec = folder / SPEC, read_spec(folder)
    said = yaml.safe_load(path.read_text()).get("rest") or {}
    bounds = dict(zip(spec.names, zip(spec.low, spec.high, strict=True), strict=True))
    if not isinstance(said, dict) or not all(
        str(name) in bounds and isinstance(value, int | float) and bounds[str(name)][0] <= value <= bounds[str(name)][1]
        for name, value in said.items()
    ):
        raise ValueError(
            f"{path}: rest={said} must give columns of {list(spec.names)} a number within their bounds, as in "
            f"rest: {{{spec.names[0]}: {spec.low[0]:g}}}"
        )
    return {str(name): float(value) for name, value in said.items()}


@names_faults
class OwnSource:
    """The episodes of one folder, in the order of their names."""

    def __init__(self, folder: Path, spec: ActionSpec, *, decoder: Decoder, trim_tail: bool) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder} is not there; expected NAME.mp4 beside NAME.csv or NAME.npz")
        self.columns, self.trim_tail = spec.names, trim_tail
        self.decoder: Decoder = decoder
        videos = sorted(folder.glob("*.mp4"))
        tables = {path.stem: path for suffix in ("csv", "npz") for path in sorted(folder.glob(f"*.{suffix}"))}
        there = {path.stem: path for path in videos}
        self.bad = [
            BadFile(path, f"has no {stem}.csv or .npz beside it", stem)
            for stem, path in there.items() if stem not in tables
        ]  # fmt: skip
        self.bad += [
            BadFile(path, f"has no {stem}.mp4 beside it", stem) for stem, path in tables.items() if stem not in there
        ]
        self.pairs = [(path, tables[path.stem]) for path in videos if path.stem in tables]
        if not self.pairs and not self.bad:
            raise ValueError(f"{folder} holds no episode; expected NAME.mp4 beside NAME.csv or NAME.npz")
        self.names: Sequence[str] = tuple(video.stem for video, _ in self.pairs)

    def stamps(self) -> Sequence[Stamp]:
        """Name, size and time of every file."""
        return [stamp(path) for pair in self.pairs for path in pair]

    def actions(self, episode: int) -> Float32[np.ndarray, "f a"]:
        """The stored actions, in the order of `columns`."""
        path = self.pairs[episode][1]
        if path.suffix == ".csv":
            return checked_actions(path, self._csv(path), len(self.columns))
        arrays = load_arrays(path)
        if "actions" not in arrays:
            raise BadFile(path, f"has no array actions, only {sorted(arrays)}")
        return checked_actions(path, arrays["actions"], len(self.columns))

    def read(self, episode: int) -> StoredEpisode:
        """The whole episode."""
        path, actions = self.pairs[episode][0], self.actions(episode)
        found = decoded(path, self.decoder)
        frames = trimmed(path, len(found.video), len(actions), trim_tail=self.trim_tail)
        return StoredEpisode(found.video[:frames], actions[:frames], decoder=found.decoder)

    def outline(self, episode: int) -> Outline:
        """Actions and the first frame."""
        path, actions = self.pairs[episode][0], self.actions(episode)
        found = first_picture(path, self.decoder, len(actions))
        frames = trimmed(path, found.frames, len(actions), trim_tail=self.trim_tail)
        return Outline(found.picture, actions[:frames], decoder=found.decoder)

    def frames(self, episode: int, start: int, stop: int) -> UInt8[np.ndarray, "f h w 3"]:
        """Some frames, decoded from the key frame before them."""
        return decode_part(self.pairs[episode][0], self.decoder, start, stop)

    def _csv(self, path: Path) -> np.ndarray:
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            return np.array([[float(row[name]) for name in self.columns] for row in rows], np.float64)
        except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
            raise BadFile(
                path, f"is no table of numbers with the columns {', '.join(self.columns)} ({error!r})"
            ) from error
