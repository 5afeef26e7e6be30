"""task=unpack: a checkpoint of DynamiCrafter or Vid2World as the networks it consists of, one file each."""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from wm_lightning.checkpoints import write_weights
from wm_lightning.data.formats.atomic import atomic_folder
from wm_lightning.networks.adapters.dynamicrafter_parts import Report, converted, measure, plain_state, split
from wm_lightning.networks.openclip import OpenClipText, write_empty_text
from wm_lightning.networks.start_tokens import TEXT
from wm_lightning.plain_files import read_plain, why

log = logging.getLogger(__name__)

ADVICE = "name the model.ckpt as it was published, whole, or one saved anew with its state_dict alone"


@dataclass(frozen=True, kw_only=True)
class Unpack:
    """The task: `checkpoint` names the file, `into` a folder that is not there yet, written whole or not at all.

    With `empty_text` the states of the empty text are computed too, by an encoder of the architecture `text`.
    """

    checkpoint: str | None
    into: str | None
    empty_text: bool
    text: Mapping[str, Any]

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes every part in names of ours and report.json; returns how many keys, parts and bytes.

        Raises ValueError where a name is wrong, a key has no place, the file brings code along or the disk is too full.
        """
        if self.checkpoint is None or self.into is None:
            raise ValueError(
                "task=unpack needs task.checkpoint=FILE, one that is there, and task.into=FOLDER, a new one; "
                f"found {self.checkpoint} and {self.into}"
            )
        if not Path(self.checkpoint).is_file():
            what = "is a folder" if Path(self.checkpoint).is_dir() else "is not there"
            raise ValueError(f"task.checkpoint={self.checkpoint} {what}; {ADVICE}")
        folder = Path(self.into)
        if folder.exists():
            raise ValueError(f"task.into={folder} is there already; name a new folder, nothing is overwritten")
        # Values stay on the disk until their part is written.
        try:
            parts, left_out = split(plain_state(read_plain(Path(self.checkpoint), mmap=True, advice=ADVICE)))
        except ValueError as error:
            raise ValueError(f"task.checkpoint={self.checkpoint}: {error}") from error
        _require_space(folder, parts)
        with atomic_folder(folder) as partial:
            report = self._write(partial, parts, left_out)
        for name, part in report.parts.items():
            log.info("%s: %d keys, %d parameters, %.2f GB", name, part.keys, part.parameters, part.bytes / 1e9)
        log.info("Written: %s; %d keys left out, see report.json", folder, len(left_out))
        total = sum(part.bytes for part in report.parts.values())
        return {"keys": float(report.keys), "parts": float(len(report.parts)), "bytes": float(total)}

    def _write(self, folder: Path, parts: dict[str, dict[str, Tensor]], left_out: dict[str, str]) -> Report:
        rows = {}
        for name in list(parts):
            try:
                weights, arguments = converted(name, parts.pop(name))
            except (ValueError, LookupError, RuntimeError) as error:
                raise ValueError(f"task.checkpoint={self.checkpoint}, its {name}: {why(error)}") from error
            rows[name] = measure(weights, arguments)
            write_weights(folder / f"{name}.safetensors", weights, {"arguments": json.dumps(arguments)})
        if self.empty_text:
            if "text" not in rows:
                raise ValueError(f"task.empty_text=true: {self.checkpoint} holds no text encoder; set it to false")
            encoder = OpenClipText(weights=str(folder / "text.safetensors"), architecture=self.text)
            write_empty_text(encoder, folder / TEXT)
        report = Report(rows, left_out)
        (folder / "report.json").write_text(json.dumps(report.to_dict(), indent=1) + "\n")
        return report


def _require_space(folder: Path, parts: dict[str, dict[str, Tensor]]) -> None:
    needed = sum(measure(weights, None).bytes for weights in parts.values())
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    if needed > (free := shutil.disk_usage(there).free):
        raise ValueError(
            f"task.into={folder} needs {needed / 1e9:.1f} GB, {there} has {free / 1e9:.1f} GB left; name another disk"
        )
