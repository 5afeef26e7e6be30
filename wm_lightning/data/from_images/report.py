"""What became of every picture and every task, as numbers for programs and as tables for people."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_lightning.data.formats.atomic import atomic_file
from wm_lightning.data.from_images.findings import NO_TASK, RANK
from wm_lightning.data.from_images.looking import COPY, DAMAGED, NEAR_COPY, UNREADABLE
from wm_lightning.data.from_images.stages import SCREENING, UNANSWERED
from wm_lightning.data.from_images.table import Made
from wm_lightning.results.table import grid

# In the order in which they are applied.
FILTERS = (
    UNREADABLE, DAMAGED, COPY, "too dark", "too bright", "mostly black", "mostly white", "blurred", NEAR_COPY, RANK,
    SCREENING, NO_TASK, UNANSWERED,
)  # fmt: skip
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`removed` and `lost` say what removed a picture (by name) and a pair (by key); `tallies` are of the stages asked;
    `made_by` names what made it."""

    pictures: int
    removed: Mapping[str, str]
    tallies: Mapping[str, Mapping[str, Any]]
    written: int
    lost: Mapping[str, str]
    made: Sequence[Made]
    made_by: Mapping[str, Any]

    @property
    def unanswered(self) -> int:
        """Questions that the next run asks again."""
        return sum(tally["unanswered"] for tally in self.tallies.values())

    def record(self) -> dict[str, Any]:
        """Plain values."""
        rows = [row for one in self.made for row in one.rows()]
        removed = Counter(self.removed.values())
        return {
            "pictures": {
                "found": self.pictures, "removed": {name: removed[name] for name in FILTERS}, "kept": len(self.made)
            },
            "asked": {stage: dict(tally) for stage, tally in self.tallies.items()},
            "tasks": {
                "written": self.written, "removed": _counted(self.lost.values()), "kept": len(rows),
            },
            "splits": {
                split: {
                    "sources": len({row.source for row in rows if row.split == split}),
                    "pictures": len({row.image for row in rows if row.split == split}),
                    "tasks": sum(row.split == split for row in rows),
                }
                for split in SPLITS
            },
            "task_type": _counted(row.task_type for row in rows),
            "agent_type": _counted(row.agent_type for row in rows),
            "made_by": dict(self.made_by),
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """`report.json`, `report.md`, and beside the verdicts a line a removed picture or task."""
        record = self.record()
        lines = [{"picture": name, "removed_by": by} for name, by in sorted(self.removed.items())]
        lines += [{"task": name, "removed_by": by} for name, by in sorted(self.lost.items())]
        files = {
            "report.json": json.dumps(record, indent=1) + "\n",
            "report.md": page(record),
            "verdicts/removed.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        }
        for name, text in files.items():
            with atomic_file(folder / name) as partial:
                partial.write_text(text, encoding="utf-8")


def page(record: Mapping[str, Any]) -> str:
    """The record as Markdown."""
    pictures, tasks, made_by = record["pictures"], record["tasks"], record["made_by"]
    left = pictures["found"]
    rows = [("found", "", left)]
    for name, count in pictures["removed"].items():
        left -= count
        rows.append((name, count, left))
    unanswered = sum(tally["unanswered"] for tally in record["asked"].values())
    parts = [
        "# WorldTasks from pictures",
        f"{tasks['kept']} tasks of {pictures['kept']} pictures, written and judged by {made_by['model']} with the "
        f"prompts {', '.join(made_by['prompts'])}; code {made_by['revision']}."
        + (" A simulator made the pictures." if made_by["simulated"] else ""),
        *([f"{unanswered} questions have no answer yet; the same command asks them again."] if unanswered else []),
        "## Pictures", _table(("removed by", "pictures", "left"), rows),
        "## Questions", _table(
            ("stage", "asked", "answered", "no answer yet", "failed tries"),
            [(stage, *(tally[name] for name in ("asked", "answered", "unanswered")), _listed(tally["failed"]))
             for stage, tally in record["asked"].items()],
        ),
        "## Tasks", _table(
            ("removed by", "tasks"),
            [("written", tasks["written"]), *tasks["removed"].items(), ("left", tasks["kept"])],
        ),
        "## Splits", _table(
            ("split", "clips", "pictures", "tasks"),
            [(split, *counts.values()) for split, counts in record["splits"].items()],
        ),
        "## Kinds of tasks", _shares("task_type", record["task_type"]),
        "## Kinds of agents", _shares("agent_type", record["agent_type"]),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _shares(kind: str, counts: Mapping[str, int]) -> str:
    total = max(1, sum(counts.values()))
    return _table((kind, "tasks", "%"), [(name, count, f"{100 * count / total:.1f}") for name, count in counts.items()])


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    return grid(head, [[str(cell) for cell in row] for row in rows], left=range(1))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in counts.items()) or "none"


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())
