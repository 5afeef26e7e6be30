"""The latent cache: every episode encoded once, in a folder that says by what it was made of what.

<folder>/cache.json              the key and its parts
<folder>/<split>/NAME.safetensors   one episode, see formats/latent_files.py
<folder>/<split>/actions.npy, index.json   of all of them, written last: a split without them is unfinished
"""

import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from jaxtyping import Float16, UInt8

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.formats.frame_store import (
    INDEX,
    FrameStore,
    Index,
    check_budget,
    episode_digest,
    listed,
)
from wm_lightning.data.formats.latent_files import DTYPE, file_of, read_about, read_whole, write_latents
from wm_lightning.data.formats.source import EpisodeSource
from wm_lightning.data.formats.store_reader import Plan, read_all
from wm_lightning.data.formats.video_files import BadFile

KEY = "cache.json"
VERSION = 1  # part of the key: raise it when the same settings would give other latents
PARTS = {
    "autoencoder": "the autoencoder or its weights",
    "scaling": "scale or shift of the latents",
    "transform": "resize, height or width of the frames",
    "dtype": "the type of the numbers",
    "data": "the recordings (a file's name, size or time, or how they are read)",
    "version": "the version of the cache",
    "encoders": "the encoders of texts and pictures, their lengths or weights",
}


@dataclass(frozen=True)
class Encoded:
    """A whole episode, resized, and its latents as they are stored."""

    pictures: UInt8[np.ndarray, "f 3 height width"]
    latents: Float16[np.ndarray, "f c rows columns"]


@dataclass(frozen=True)
class LatentKey:
    """What latents hang on: plain values by the names of PARTS."""

    autoencoder: Mapping[str, Any]
    scaling: Mapping[str, float]
    transform: Mapping[str, Any]
    data: str
    dtype: str = DTYPE
    version: int = VERSION

    @property
    def parts(self) -> dict[str, Any]:
        """By name, as they are stored."""
        return json.loads(json.dumps(asdict(self)))

    @cached_property
    def sha256(self) -> str:
        """The hash of all parts."""
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()

    def check(self, folder: Path) -> None:
        """Raises ValueError, naming every part that differs, where the cache in `folder` is of another key."""
        try:
            stored = dict(json.loads((folder / KEY).read_text())["parts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"data.latents={folder} is no latent cache: {KEY} cannot be read ({error}). Make one: {remake()}"
            ) from error
        lines = [
            f"  {PARTS[name]}: {_short(stored.get(name))} there, {_short(value)} here"
            for name, value in self.parts.items()
            if stored.get(name) != value
        ]
        if lines:
            raise ValueError(
                f"{folder} was encoded with other settings:\n" + "\n".join(lines) + f"\nRemake it: {remake()}"
            )


def remake() -> str:
    """The command that encodes the data of this command anew."""
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else ["data=...", "autoencoder=..."]
    kept = [word for word in words if word.lstrip("+").startswith(("data", "autoencoder", "encoders"))]
    kept = [word for word in kept if not word.lstrip("+").startswith("data.latents")]
    return shlex.join(["python", "run.py", "task=encode", *kept, "task.into=NEWFOLDER"])


@dataclass(frozen=True)
class LatentCache:
    """A cache in `folder` for the latents that `key` describes."""

    folder: Path
    key: LatentKey

    def check_place(self) -> None:
        """Raises ValueError where the folder holds anything but what was begun of this very cache."""
        if (self.folder / KEY).is_file():
            self.key.check(self.folder)
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise ValueError(f"task.into={self.folder} holds other things; name a new folder, nothing is overwritten")

    def begin(self) -> None:
        """Makes the folder and says what it is for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.folder / KEY) as partial:
            partial.write_text(json.dumps({"key": self.key.sha256, "parts": self.key.parts}, indent=1))

    def finished(
        self, split: str, source: EpisodeSource, plan: Plan, report: Callable[[int], None]
    ) -> dict[int, tuple[str, np.ndarray]]:
        """Digest and actions of the episodes that are there, whole and of this key, by their place in the source."""
        found = {}
        for episode in plan.episodes:
            path = file_of(self.folder / split, source.names[episode])
            try:
                about, _ = read_about(path)
                if about.get("key") == self.key.sha256:
                    found[episode] = about["digest"], read_whole(path)[1]
                    report(len(found[episode][1]))
            except (BadFile, KeyError):
                continue
        return found

    def encode(
        self, split: str, source: EpisodeSource, plan: Plan, change: Callable[[np.ndarray], Encoded],
        *, allowed: int, workers: int, report: Callable[[int], None],
    ) -> Index:  # fmt: skip
        """Encodes what is missing of a split, calling `report(frames)`, and finishes it.

        `change` encodes stored frames [f h w 3]. Raises BadBudget as soon as more than `allowed` episodes are unusable;
        what is encoded stays.
        """
        folder = self.folder / split
        folder.mkdir(exist_ok=True)
        for stale in folder.glob("*.partial"):
            stale.unlink()
        done = self.finished(split, source, plan, report)
        missing = [episode for episode in plan.episodes if episode not in done]
        bad = list(plan.bad)
        for episode, read in zip(missing, read_all(source, missing, workers), strict=True):
            if isinstance(read.content, BadFile):
                bad.append(read.content)
                check_budget(bad, allowed)
                continue
            made, actions = change(read.content.video), read.content.actions
            digest = episode_digest(made.pictures, actions)
            about = {"episode": read.name, "digest": digest, "key": self.key.sha256}
            write_latents(file_of(folder, read.name), made.latents, actions, about)
            done[episode] = digest, actions
            report(len(actions))
        return self._finish(folder, source, done, bad)

    def _finish(
        self, folder: Path, source: EpisodeSource, done: Mapping[int, tuple[str, np.ndarray]], bad: list
    ) -> Index:
        order = sorted(done)
        index = Index(
            names=tuple(source.names[episode] for episode in order),
            lengths=tuple(len(done[episode][1]) for episode in order),
            digests=tuple(done[episode][0] for episode in order),
            quarantine=listed(bad),
        )
        if order:
            with atomic_file(folder / "actions.npy") as partial, partial.open("wb") as file:
                np.save(file, np.concatenate([done[episode][1] for episode in order]))
        with atomic_file(folder / INDEX) as partial:
            partial.write_text(json.dumps(asdict(index), indent=1))
        return index

    def store(self, split: str, allowed: int) -> "LatentStore":
        """The finished split, its files looked at.

        Raises ValueError where it is stale or unfinished, BadBudget where more than `allowed` episodes are unusable:
        recordings that could not be encoded, and latents that are missing or cut.
        """
        self.key.check(self.folder)
        folder = self.folder / split
        if not (folder / INDEX).is_file():
            raise ValueError(f"{folder}: encoding was not finished; go on with it: {remake()}, into this folder")
        store = LatentStore(folder)
        bad = list(self._unusable(store))
        check_budget([*bad, *(BadFile(Path(path), why) for path, why in store.index.quarantine.items())], allowed)
        gone = {error.path for error in bad}
        names = enumerate(store.index.names)
        store.unusable = frozenset(place for place, name in names if file_of(folder, name) in gone)
        store.index = replace(store.index, quarantine={**store.index.quarantine, **listed(bad)})
        return store

    def _unusable(self, store: FrameStore) -> Iterator[BadFile]:
        for name, length in zip(store.index.names, store.index.lengths, strict=True):
            path = file_of(store.folder, name)
            try:
                about, shape = read_about(path)
            except BadFile as error:
                yield error
                continue
            if about.get("key") != self.key.sha256 or shape[0] != length:
                yield BadFile(path, f"is not of this cache ({shape[0]} frames, {length} expected)")


class LatentStore(FrameStore):
    """A finished split: index and actions as in a frame store, latents in files of their own.

    `unusable` names the places of episodes whose files are missing or cut.
    """

    unusable: frozenset[int] = frozenset()


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else f"{text[:160]}... ({hashlib.sha256(text.encode()).hexdigest()[:12]})"
