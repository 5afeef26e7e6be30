"""What a network reaches on a benchmark of tasks, as plain values, a page and a file."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wm_lightning.results.results import write_whole
from wm_lightning.results.roles import CRITERIA
from wm_lightning.results.table import grid

UNKNOWN = "–"


@dataclass(frozen=True)
class Share:
    """A rate over the `n` valid ones of `asked` judgements with its 95 % interval; None where too few are valid.

    `failures` counts why the others are not.
    """

    rate: float | None
    low: float | None
    high: float | None
    n: int
    asked: int
    failures: Mapping[str, int]

    @property
    def failed(self) -> float:
        """The share of judgements that failed."""
        return 1 - self.n / self.asked if self.asked else 0.0


@dataclass(frozen=True)
class Verdicts:
    """What was said of every video of one task: yes, no, or None where the judgement failed, by criterion."""

    id: str
    by: Mapping[str, Sequence[bool | None]]


@dataclass(frozen=True)
class Against:
    """The gains over another run's file on the same tasks: (value, low, high, tasks), by criterion."""

    name: str
    checkpoint: str
    path: str
    gains: Mapping[str, tuple[float, float, float, int]]


@dataclass(frozen=True, kw_only=True)
class BenchResults:
    """One network on a benchmark. `index` is of the tasks in their order with their words: equal ones may be paired.

    `judge_of_training` is None where no judge taught the network. `average` is the share of criteria that a video
    meets, over videos that all judges judged. `published` are others' rows, which no table of ours holds.
    """

    protocol: str
    name: str
    role: str
    checkpoint: str
    data: str
    world: str
    tasks: int
    videos: int
    index: str
    judge: str
    judge_of_training: str | None
    steps: int
    seconds_per_video: float | None
    shares: Mapping[str, Share]
    average: Share
    by_task: Mapping[str, Mapping[str, Share]]
    by_agent: Mapping[str, Mapping[str, Share]]
    against: Against | None
    departures: Sequence[str]
    paper: Mapping[str, Any]
    published: Sequence[Mapping[str, Any]]
    verdicts: Sequence[Verdicts]
    revision: str
    config_hash: str
    seed: int
    seconds: float
    machine: str
    extra: Mapping[str, Any]

    @property
    def row(self) -> dict[str, Any]:
        """The rates as the tables of executors have them, None where nobody was asked."""
        rates = dict.fromkeys(CRITERIA) | {name: share.rate for name, share in self.shares.items()}
        asked = self.tasks * self.videos
        return {"role": self.role, **rates, "average": self.average.rate, "n": asked, "valid": self.average.n}

    def summary(self) -> dict[str, float]:
        """The rates by criterion, without what could not be judged."""
        return {name: share.rate for name, share in self.shares.items() if share.rate is not None}

    def to_json(self, path: Path) -> None:
        """Writes the results, whole or not at all."""
        write_whole(path, json.dumps({"rows": [self.row], **asdict(self)}, indent=2, allow_nan=False) + "\n")


@dataclass(frozen=True)
class Baseline:
    """What another run's file says of the tasks that it is compared on."""

    path: Path
    protocol: str
    name: str
    checkpoint: str
    judge: str
    index: str
    verdicts: Mapping[str, Mapping[str, Sequence[bool | None]]]

    def require(self, protocol: str, judge: str, index: str, ids: Sequence[str], criteria: Sequence[str]) -> None:
        """Raises ValueError, saying what differs, unless the other run did the same tasks before the same judge."""
        lost = [name for name in ids if name not in self.verdicts]
        more = [name for name in self.verdicts if name not in set(ids)]
        differences = {
            f"protocol {self.protocol}, not {protocol}": self.protocol != protocol,
            f"judged by {self.judge}, not by {judge}": self.judge != judge,
            f"{len(lost)} of this run's tasks are not in it ({', '.join(lost[:3])})": lost,
            f"{len(more)} of its tasks are not in this run ({', '.join(more[:3])})": more,
            "the same tasks in other words": not lost and not more and self.index != index,
            f"no verdicts on {', '.join(self.missing(criteria))}": self.missing(criteria),
        }
        if found := [text for text, differs in differences.items() if differs]:
            raise ValueError(
                f"protocol.against={self.path} cannot be compared with, task by task: {'; '.join(found)}; measure the "
                f"other checkpoint with the same protocol, data and judge"
            )

    def missing(self, criteria: Sequence[str]) -> list[str]:
        """Criteria that not all of its tasks were judged by."""
        return [name for name in criteria if any(name not in by for by in self.verdicts.values())]


def read_baseline(path: Path) -> Baseline:
    """The verdicts of a results.json, or of the run folder that holds one. Raises ValueError for any other file."""
    path = path / "results.json" if path.is_dir() else path
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        verdicts = {str(entry["id"]): dict(entry["by"]) for entry in content["verdicts"]}
        words = {key: str(content[key]) for key in ("protocol", "name", "checkpoint", "judge", "index")}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"protocol.against={path} holds no verdicts by task ({type(error).__name__}: {error}); name the run "
            f"folder or results.json of a run with the same protocol"
        ) from error
    return Baseline(path=path, verdicts=verdicts, **words)


def page(results: BenchResults) -> str:
    """All of it as Markdown; what others have published stands last, under a heading of its own."""
    parts = [f"# {caption(results)}", _ours(results), *_gains(results)]
    for title, found in (("kind of task", results.by_task), ("agent", results.by_agent)):
        head = [title, *results.shares, "videos"]
        lines = [
            [kind, *map(share_text, by.values()), str(next(iter(by.values())).asked)] for kind, by in found.items()
        ]
        parts += [f"By {title}:", grid(head, lines, left=range(1))]
    parts += ["\n".join(["Not the paper's numbers:\n", *(f"- {text}" for text in results.departures)])]
    parts += published_part(results.published, results.paper["source"])
    return "\n\n".join(parts) + "\n"


def published_part(published: Sequence[Mapping[str, Any]], source: str) -> list[str]:
    """What others found, apart from all that was measured here."""
    if not published:
        return []
    head = list(dict.fromkeys(name for row in published for name in row))
    lines = [[str(row.get(name, UNKNOWN)) for name in head] for row in published]
    return ["## Published", f"Not comparable with the above: {source}.", grid(head, lines, left=range(1))]


def write_page(results: BenchResults, path: Path) -> None:
    """results.md."""
    write_whole(path, page(results))


def caption(results: BenchResults) -> str:
    """Who did what, and who says so."""
    return (
        f"{results.protocol}: {results.name} ({results.role}), {results.tasks} held-out tasks of {results.world} "
        f"({results.data}), judged by {results.judge}"
    )


def lines_of(results: BenchResults) -> Iterator[list[str]]:
    """A line a criterion, and the average: rate, interval, valid ones, failures."""
    for name, share in [*results.shares.items(), ("average", results.average)]:
        why = ", ".join(f"{reason}: {count}" for reason, count in share.failures.items())
        failed = f"{share.failed:.1%}" + (f" ({why})" if why else "")
        yield [name, *_rate(share), str(share.n), str(share.asked), failed]


HEAD = ("", "rate", "95 %", "valid", "judged", "failed")


def _ours(results: BenchResults) -> str:
    law = "Wilson's" if results.videos == 1 else "by a bootstrap over tasks, for a task has several videos"
    timed = "" if results.seconds_per_video is None else f" A video takes {results.seconds_per_video:.2f} s."
    taught = f"Its training's judge: {results.judge_of_training or 'none'}."
    return f"{grid(HEAD, list(lines_of(results)), left=range(1))}\n\nIntervals of criteria are {law}. {taught}{timed}"


def _gains(results: BenchResults) -> Iterator[str]:
    if (against := results.against) is not None:
        yield f"Above {against.name} (`{against.checkpoint[:12]}`) on the same tasks, by a paired bootstrap over them:"
        lines = [
            [name, f"{value:+.3f}", f"{low:+.3f} to {high:+.3f}", str(n)]
            for name, (value, low, high, n) in against.gains.items()
        ]
        yield grid(["", "gain", "95 %", "tasks"], lines, left=range(1))


def _rate(share: Share) -> tuple[str, str]:
    if share.rate is None:
        return "none valid", UNKNOWN
    known = share.low is not None and share.high is not None
    return f"{share.rate:.3f}", f"{share.low:.3f} to {share.high:.3f}" if known else UNKNOWN


def share_text(share: Share) -> str:
    """The rate with its interval and the number of valid judgements."""
    rate, interval = _rate(share)
    return f"{rate} ({interval}; n={share.n})" if share.n else rate
