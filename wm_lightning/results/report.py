"""Tables over seeds, and their place in other files: written between markers, and checked against what they say.

A block stands between `<!-- results:NAME -->` and `<!-- /results:NAME -->`. Its first line is a comment that
holds its sources, so that the block can be made again from itself.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from wm_lightning.config import CONFIG_DIR
from wm_lightning.results import comparison
from wm_lightning.results.benches import bench_table, read_benches
from wm_lightning.results.freshness import STALE
from wm_lightning.results.ladder import Ladder, claim_lines, gain_lines, loss_lines, published_lines
from wm_lightning.results.protocols import protocol_groups, protocol_table, read_protocols
from wm_lightning.results.results import Results, Row, write_whole
from wm_lightning.results.role_runs import RoleGroup, read_roles, role_groups, role_table, roles_compared
from wm_lightning.results.seeds import Group, family, groups, read_runs, spread
from wm_lightning.results.table import Column, Footnotes, columns, grid, heads
from wm_lightning.results.targets import Statement, Targets, judge

_ABSENT = object()
_BLOCK = re.compile(r"<!-- results:(?P<name>[\w-]+) -->\n(?P<body>.*?)<!-- /results:(?P=name) -->", re.DOTALL)
_RECIPE = re.compile(r"<!-- made from (?P<json>\{.*\}) -->")


@dataclass(frozen=True)
class Recipe:
    """What a block is made from: results files (globs are legal) relative to a root, columns, and targets if any.

    `compare` gives one table with a line per experiment in place of a table of all rows for each, `ladder` beside it
    what the experiments are held against.
    """

    runs: Sequence[str]
    columns: Sequence[str]
    targets: Targets | None
    compare: bool = False
    ladder: Ladder | None = None

    def to_comment(self) -> str:
        """One line of HTML comment, without what is as the files of the config have it."""
        usual = _usual()
        values: dict[str, Any] = {"runs": list(self.runs)}
        if list(self.columns) != usual["columns"]:
            values["columns"] = list(self.columns)
        plain = None if self.targets is None else _plain(asdict(self.targets))
        if plain is None:
            values["targets"] = None
        elif changed := {key: value for key, value in plain.items() if value != usual["targets"].get(key, _ABSENT)}:
            values["targets"] = changed
        if self.compare:
            values["compare"] = True
        if self.ladder is not None:
            values["ladder"] = asdict(self.ladder)
        return f"<!-- made from {json.dumps(values)} -->"

    @classmethod
    def from_comment(cls, body: str) -> "Recipe":
        """Inverse of `to_comment`; what is left out is as the config has it. Raises ValueError without such a line."""
        found = _RECIPE.search(body)
        if found is None:
            raise ValueError("it does not say what it was made from; write it with task=report")
        values, usual = json.loads(found["json"]), _usual()
        changed = values.get("targets", {})
        targets = None if changed is None else Targets(**_with_numbers(usual["targets"] | changed))
        ladder = None if values.get("ladder") is None else Ladder(**values["ladder"])
        columns = values.get("columns", usual["columns"])
        return cls(values["runs"], columns, targets, values.get("compare", False), ladder)


def render(recipe: Recipe, root: Path) -> str:
    """The recipe's line and its tables: of generators, executors, protocols and benchmarks.

    Raises ValueError where a run or a column is missing, or nothing has a table.
    """
    found = groups(read_runs(recipe.runs, root=root))
    tables = [compared(found, recipe)] if recipe.compare and found else [table(group, recipe) for group in found]
    tables += role_tables(role_groups(read_roles(recipe.runs, root=root)), recipe)
    scored = protocol_groups(read_protocols(recipe.runs, root=root))
    benches = read_benches(recipe.runs, root=root)
    tables += [*(protocol_table(group) for group in scored), *([bench_table(benches)] if benches else [])]
    if not tables:
        raise ValueError(
            f"{', '.join(recipe.runs)} leads to nothing that a report has a table of; that of a benchmark of tasks "
            f"stands in results.md beside it, and protocol.against=OTHER_RUN compares two of them"
        )
    return "\n\n".join([recipe.to_comment(), *tables])


def role_tables(found: Sequence[RoleGroup], recipe: Recipe) -> list[str]:
    """A table for every group of executors' runs, or one of all."""
    return [roles_compared(found)] if recipe.compare and found else [role_table(group) for group in found]


def table(group: Group, recipe: Recipe) -> str:
    """Mean and spread of every row, what the targets say, and where the numbers come from."""
    notes, chosen = Footnotes(), chosen_columns(group, recipe.columns)
    head = ["", "steps", "cache", *(column.heading.replace("\n", " ") for column in chosen)]
    lines = [_line(rows, chosen, notes, group) for rows in group.rows()]
    parts = [_caption(group), grid(head, lines, left=range(3))]
    if notes.reasons:
        parts.append("  \n".join(f"– [{n}] {reason}" for n, reason in enumerate(notes.reasons, start=1)))
    if recipe.targets is not None and group.first.of("student"):
        parts.append(_verdict(group, recipe.targets))
    return "\n\n".join([*parts, *_ages(group), _origin(group)])


def compared(found: Sequence[Group], recipe: Recipe) -> str:
    """One table with a line per group of runs, and where the numbers come from."""
    chosen = chosen_columns(found[0], recipe.columns)
    head = [*comparison.HEAD, *(column.heading.replace("\n", " ") for column in chosen)]
    lines, beside = comparison.lines(found, chosen, STALE), []
    if recipe.ladder is not None:
        lines += comparison.baseline_lines(found[0], recipe.ladder.baselines, chosen)
        beside = list(_beside(recipe.ladder, found))
    whole, first = grid(head, lines, left=range(4)), found[0].first
    caption = (
        f"{first.data} data ({first.world}) · {first.clips} test clips, {first.context} given + {first.horizon} "
        f"generated frames · mean ± standard deviation where there are several seeds · {first.machine}"
    )
    if len({tuple(run.results.seed for run in group.runs) for group in found}) > 1:
        beside.insert(0, "Lines have different seeds, which draw the test clips: small differences may be theirs.")
    ages = dict.fromkeys(age for group in found for age in _ages(group))
    return "\n\n".join([caption, whole, *beside, *ages, *(f"{group.label}: {_origin(group)}" for group in found)])


def _beside(ladder: Ladder, found: Sequence[Group]) -> Iterator[str]:
    """Losses and durations, claims judged over seeds, gains, and, apart from all that was measured here, what others
    have published."""
    yield grid(["", "training loss", "evaluation loss", "seconds a run"], loss_lines(found), left=range(1))
    if ladder.claims:
        yield "Differences over seeds (less is better), 95 % intervals (paired, Student's t):"
        yield grid(["claim", "measured as", "difference", "verdict"], claim_lines(ladder, found), left=range(4))
    if ladder.gains:
        yield "Change in % against the same network driven by another clip's actions, (M(true) − M(other)) / M(other):"
        yield grid(["", *(name.replace("_", " ") for name in ladder.gains)], gain_lines(ladder, found), left=range(1))
    yield f"Published, and not comparable with the above ({ladder.source}):"
    head, *lines = published_lines(ladder)
    yield grid(head, lines, left=range(1))


def splice(text: str, name: str, body: str) -> str:
    """The text with `body` in its block `name`. Raises ValueError unless it has that block exactly once."""
    start, end = f"<!-- results:{name} -->", f"<!-- /results:{name} -->"
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise ValueError(f"expected the lines {start} and {end} once each, in this order; add them where it belongs")
    before, rest = text.split(start)
    return f"{before}{start}\n{body}\n{end}{rest.split(end)[1]}"


def splice_into(path: Path, name: str, body: str) -> None:
    """Puts the block into a file, which is replaced in one step. Raises ValueError that names the file."""
    try:
        changed = splice(path.read_text(encoding="utf-8"), name, body)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    write_whole(path, changed)


def faults(path: Path, root: Path) -> tuple[str, ...]:
    """What is wrong with the blocks of a file, block by block: other numbers than their sources give, or none.

    Whether a table is marked stale is no fault: that depends on commits made after it.
    """
    text, found = path.read_text(encoding="utf-8"), []
    for block in _BLOCK.finditer(text):
        try:
            fresh = render(Recipe.from_comment(block["body"]), root)
        except (TypeError, ValueError) as error:
            found.append(f"{path.name}, {block['name']}: {error}")
            continue
        if _ageless(fresh) != _ageless(block["body"]):
            found.append(
                f"{path.name}, {block['name']}: it says something else than its results; run task=report again"
            )
    opened = re.findall(r"<!-- /?results:([\w-]+) -->", text)
    broken = {name for name in opened if opened.count(name) != 2}
    return (*found, *(f"{path.name}, {name}: it needs one opening and one closing marker" for name in sorted(broken)))


def _ageless(body: str) -> str:
    """The text without marks of age and without the sources, which may be written in more or fewer words."""
    lines = (line.replace(f" {STALE}", "") for line in body.strip().splitlines() if not line.startswith("**Stale**"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in lines if not _RECIPE.fullmatch(line)))


def chosen_columns(group: Group, names: Sequence[str]) -> list[Column]:
    """The columns of those names. Raises ValueError where the results have no such column."""
    known = {column.name: column for _, shown in columns(group.first) for column in shown}
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(f"no column {', '.join(missing)} in {group.runs[0].path}; there are {', '.join(known)}")
    return [known[name] for name in names]


def _line(rows: Sequence[Row], chosen: Sequence[Column], notes: Footnotes, group: Group) -> list[str]:
    name, *rest = heads(rows[0])
    texts = []
    for column in chosen:
        found = spread(rows, column.name)
        if found is None:
            texts.append(notes.mark(rows[0].why(column.name) or "not measured"))
            continue
        text = format(found.mean * column.factor, column.form)
        if found.deviation is not None:
            text += f" ± {format(found.deviation * column.factor, column.form)}"
        missing = found.count < len(group.runs)
        texts.append(f"{text} ({found.count} of {len(group.runs)})" if missing else text)
    return [f"{name} {STALE}" if group.stale else name, *rest, *texts]


def _caption(group: Group) -> str:
    first, seeds = group.first, [run.results.seed for run in group.runs]
    word = f"seeds {', '.join(map(str, seeds))}: mean ± standard deviation" if len(seeds) > 1 else f"seed {seeds[0]}"
    return (
        f"**{group.label}**, {first.data} data ({first.world}) · {first.clips} test clips, {first.context} given + "
        f"{first.horizon} generated frames in chunks of {first.chunk} · {word} · {first.machine}"
    )


def _verdict(group: Group, targets: Targets) -> str:
    by_subject: dict[tuple[str, str], list[Statement]] = {}
    for run in group.runs:
        for statement in judge(run.results, targets):
            by_subject.setdefault((statement.subject, statement.target), []).append(statement)
    lines = [
        [subject, target or "–", _met(statements), _each(statements)]
        for (subject, target), statements in by_subject.items()
    ]
    return grid(["", "target", "met", "found"], lines, left=range(4))


def _each(statements: Sequence[Statement]) -> str:
    found = [entry.found for entry in statements]
    return found[0] if len(set(found)) == 1 else "; ".join(found)


def _met(statements: Sequence[Statement]) -> str:
    judged = [entry for entry in statements if entry.met is not None]
    if not judged:
        return "–" if statements[0].target == "no target" else "cannot be judged"
    return f"{sum(bool(entry.met) for entry in judged)} of {len(judged)}"


def _ages(group: Group) -> Iterator[str]:
    for run in group.runs:
        if run.freshness.stale:
            yield f"**Stale** (seed {run.results.seed}): {run.freshness.reason}."


def _origin(group: Group) -> str:
    def of(get: Any) -> str:
        return ", ".join(dict.fromkeys(get(run.results) for run in group.runs))

    results: Results = group.first
    seconds = fmean(run.results.seconds for run in group.runs)
    notes = [run.freshness.reason for run in group.runs if run.freshness.reason and not run.freshness.stale]
    age = f" ({'; '.join(dict.fromkeys(notes))})" if notes else ""
    return (
        f"Revision {of(lambda r: f'`{_short(r.revision)}`')}{age}, config {of(lambda r: f'`{r.config_hash}`')} "
        f"(`{family(results)}` without its seed), features `{(results.extractor_hash or 'none')[:12]}`, "
        f"{seconds:.0f} s a run."
    )


def _short(revision: str) -> str:
    commit, mark, _ = revision.partition("-modified")
    return commit[:9] + mark


@cache
def _usual() -> Mapping[str, Any]:
    """The columns and targets of the config's own files, as they come out of JSON."""
    columns = yaml.safe_load((CONFIG_DIR / "task/report.yaml").read_text())["columns"]
    targets = yaml.safe_load((CONFIG_DIR / "metrics/default.yaml").read_text())["targets"]
    return {"columns": columns, "targets": _plain({key: targets[key] for key in targets if key != "_target_"})}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(values))


def _with_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON turned the steps that speeds are mapped by into strings."""
    speeds = {name: {int(steps): least for steps, least in values[name].items()} for name in values if "speed" in name}
    return {**values, **speeds}
