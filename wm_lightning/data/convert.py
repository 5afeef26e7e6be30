"""The forms that recordings can be written in, what each of them needs, and the record of where a set came from."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_lightning.data import cache
from wm_lightning.data.formats import action_npz, csgo, lerobot, mp4_npz, recon
from wm_lightning.data.formats.game_writers import write_csgo_set, write_diamond_set, write_tar_set
from wm_lightning.data.formats.own_writer import write_own
from wm_lightning.data.formats.recon_writers import write_folders_set, write_recon_set
from wm_lightning.data.formats.robot_actions import columns
from wm_lightning.data.formats.robot_writers import write_lerobot, write_mp4, write_npz, write_rlds
from wm_lightning.data.formats.video_files import BadFile
from wm_lightning.data.formats.writing import Names, Splits, Writing
from wm_lightning.data.source_datamodule import SourceDataModule
from wm_lightning.environment import revision

RECORD = "converted.json"


@dataclass(frozen=True)
class Form:
    """Who writes a form, and its action columns (None: those of the data set).

    `holds` names what the actions must be, for a refusal. With `filled`, columns that are not stored are neutral. With
    `state`, hidden state of simulated episodes goes along. `splits` are those that the form can tell apart.
    """

    write: Callable[[Path, Splits, Writing], Names]
    columns: tuple[str, ...] | None
    holds: str
    filled: bool = False
    state: bool = False
    splits: tuple[str, ...] = ("train", "val", "test")


ROBOT = "the action fields of RT-1 by name"
GAME = "the 51 keys, clicks and mouse steps of Counter-Strike"
DRIVE = "planar motion by which poses can be summed up"
FORMS: Mapping[str, Form] = {
    "mp4": Form(write_mp4, columns(mp4_npz.ORDER), ROBOT, filled=True, state=True),
    "npz": Form(write_npz, columns(action_npz.ORDER), ROBOT, filled=True),
    "rlds": Form(write_rlds, columns(action_npz.ORDER), ROBOT, filled=True),
    "lerobot": Form(write_lerobot, columns(lerobot.ORDER), ROBOT, filled=True),
    "csgo": Form(write_csgo_set, csgo.COLUMNS, GAME, state=True, splits=("train", "test")),
    "tar": Form(write_tar_set, csgo.COLUMNS, GAME, state=True, splits=("train", "test")),
    "diamond": Form(write_diamond_set, csgo.COLUMNS, GAME),
    "recon": Form(write_recon_set, recon.COLUMNS, DRIVE, state=True),
    "folders": Form(write_folders_set, recon.COLUMNS, DRIVE, state=True),
    "own": Form(write_own, None, "any actions"),
}
# Forms of other things than recordings, and what they would need.
OTHERS = {
    "tasks": "pictures with a prompt, a solution and a source each, which recordings with actions do not hold (from "
    "pictures they are made with data=world_tasks from=images)",
    "map": "whole maps and walks over them, which recordings do not hold",
}


def form_named(name: str | None) -> Form:
    """The form. Raises ValueError where there is none, with what it would need or which there are."""
    if name in OTHERS:
        raise ValueError(f"task.to={name} stores {OTHERS[name]}; give task.to={'|'.join(FORMS)}")
    if name is None or name not in FORMS:
        raise ValueError(
            f"task.to={name} is no form; task=convert needs task.to={'|'.join(FORMS)}, or hub for a checkpoint"
        )
    return FORMS[name]


def fitting(stored: Sequence[str]) -> list[str]:
    """The forms that these columns can be written in."""
    return [name for name, form in FORMS.items() if _fits(form, stored)]


def require_fit(name: str, stored: Sequence[str], splits: Sequence[str]) -> None:
    """Raises ValueError where a form cannot hold these columns or these splits."""
    form = FORMS[name]
    if not _fits(form, stored):
        needed = ", ".join((form.columns or ())[:3])
        raise ValueError(
            f"task.to={name} stores {form.holds} ({needed}, ...), these recordings hold {', '.join(stored[:3])}, ...; "
            f"they can be written with task.to={'|'.join(fitting(stored))}"
        )
    if homeless := [split for split in splits if split not in form.splits]:
        able = [other for other in fitting(stored) if set(splits) <= set(FORMS[other].splits)]
        raise ValueError(
            f"task.to={name} tells {' and '.join(form.splits)} apart only, {', '.join(homeless)} would become train; "
            f"task.to={'|'.join(able)} keeps the splits {', '.join(splits)}"
        )


def _fits(form: Form, stored: Sequence[str]) -> bool:
    if form.columns is None:
        return True
    shared = set(form.columns) & set(stored)
    return bool(shared) if form.filled else len(shared) == len(form.columns)


@dataclass(frozen=True)
class Conversion:
    """What was made of what: enough to follow every episode back to its recording."""

    data: SourceDataModule
    form: str
    columns: tuple[str, ...]
    splits: Splits
    names: Names
    left_out: Mapping[str, Sequence[BadFile]]

    def write(self, folder: Path) -> None:
        """`converted.json` and, of simulated data, the marker without which they would pass for real ones."""
        (folder / RECORD).write_text(json.dumps(self.record(), indent=1) + "\n")
        if (found := marker_of(self.data)) is not None:
            marker = json.loads(found.read_text())
            if not FORMS[self.form].state and "without hidden state" not in marker["world"]:
                # A world's judge looks for the hidden state of the world it knows by name.
                marker["world"] += " without hidden state"
            (folder / cache.MARKER).write_text(json.dumps(marker, indent=1, sort_keys=True))

    def record(self) -> dict[str, Any]:
        """Plain values: the source, what was written, by what code, and every episode's old and new name."""
        before = self.data.home / RECORD
        return {
            "from": {
                "data": self.data.name, "subset": self.data.label, "format": self.data.format,
                "folder": str(self.data.home), "simulated": marker_of(self.data) is not None,
                "converted": json.loads(before.read_text()) if before.is_file() else None,
            },
            "to": self.form, "columns": list(self.columns), "action_shift": self.data.action_shift,
            "revision": revision(),
            "splits": {split: len(names) for split, names in self.names.items()},
            "names": {
                split: dict(zip(self.splits[split].names, names, strict=True)) for split, names in self.names.items()
            },
            "left_out": {split: {str(bad.path): bad.reason for bad in found} for split, found in self.left_out.items()},
        }  # fmt: skip


def marker_of(data: SourceDataModule) -> Path | None:
    """The file that says that a simulator made these data, in their folder or in the one above it."""
    found = (folder / cache.MARKER for folder in (data.home, data.folder))
    return next((path for path in found if path.is_file()), None)
