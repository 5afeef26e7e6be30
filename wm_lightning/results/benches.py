"""What task=bench measured, of several data sets or machines, in one table."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_lightning.results.freshness import STALE, Freshness, freshness
from wm_lightning.results.seeds import Age, matching, of_bench
from wm_lightning.results.table import grid

HEAD = ("", "measured", "ours", "other", "unit", "ratio", "same result", "target", "met", "frames kept")
UNKNOWN = "–"


@dataclass(frozen=True)
class Bench:
    """One bench.json, where it lies, and whether its code is still the code."""

    path: Path
    result: Mapping[str, Any]
    freshness: Freshness

    @property
    def name(self) -> str:
        """The data that were read."""
        return str(self.result["world"])


def read_benches(patterns: Sequence[str], *, root: Path, age: Age = freshness) -> tuple[Bench, ...]:
    """The bench.json that paths or globs lead to, relative to `root`: files, or run folders that hold one.

    Raises ValueError for a file that is no benchmark.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        for path in matching(pattern, root):
            files |= dict.fromkeys(sorted(path.glob("bench*.json")) if path.is_dir() else [path])
    return tuple(_read(path, age) for path in files if of_bench(path))


def bench_table(found: Sequence[Bench]) -> str:
    """A line for every comparison and every share of waiting, ages, and where the numbers come from."""
    ages = [f"**Stale** ({bench.name}): {bench.freshness.reason}." for bench in found if bench.freshness.stale]
    lines = [line for bench in found for line in _lines(bench)]
    return "\n\n".join([grid(HEAD, lines, left=(0, 1, 4, 6, 8)), *ages, *map(_origin, found)])


def _lines(bench: Bench) -> Iterator[list[str]]:
    name = f"{bench.name} {STALE}" if bench.freshness.stale else bench.name
    for entry in bench.result["comparisons"]:
        values = [format(entry[key], ".3g") for key in ("ours_value", "other_value")]
        least = UNKNOWN if entry["least"] is None else f"≥ {entry['least']:g}×"
        cache = bench.result["cache"] if entry["ours"].endswith(", kept") else None
        yield [
            name, entry["name"], *values, entry["unit"], f"{entry['ratio']:.2f}×", _word(entry["same"]), least,
            _word(entry["met"]), UNKNOWN if cache is None else f"{cache['mib']:.1f} MiB",
        ]  # fmt: skip
    for entry in bench.result["waiting"]:
        waited, whole = (format(entry[key], ".3g") for key in ("waited", "seconds"))
        target = f"under {100 * entry['most']:g} %"
        share = f"{100 * entry['share']:.2g} %"
        yield [name, entry["name"], waited, whole, "s", share, UNKNOWN, target, _word(entry["met"]), UNKNOWN]


def _origin(bench: Bench) -> str:
    result = bench.result
    age = f" ({bench.freshness.reason})" if bench.freshness.reason and not bench.freshness.stale else ""
    return (
        f"{bench.name}: {result['data']} data, {result['device']}, {result['threads']} threads, {result['precision']}, "
        f"torch {result['torch']}, medians of {result['settings']['repeats']} rounds; revision "
        f"`{result['revision'][:9]}`{age}, config `{result['config_hash']}`."
    )


def _read(path: Path, age: Age) -> Bench:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        bench = Bench(path, result, age(result["revision"], result.get("code")))
        bench_table([bench])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no result of task=bench ({error!r}); make it again, or leave it out") from error
    return bench


def _word(met: bool | None) -> str:
    return {True: "yes", False: "no", None: UNKNOWN}[met]
