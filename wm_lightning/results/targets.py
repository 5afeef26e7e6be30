"""What the numbers say: every target of a distillation, computed from the rows and judged."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from wm_lightning.results.results import Number, Results, Row


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Thresholds. `speed_*` map a student's steps to the least ratio of frames per second, at batch 1 and at batch 16.

    `presence_gap` is the largest distance from the truth, `presence_least` the least presence (which must
    then also be above every control's); None leaves that rule out. `extra_slack` maps an extra measure
    (less is better) to how far the student may lie above the teacher.
    """

    teacher_steps: int
    speed_cached: Mapping[int, Number]
    speed_uncached: Mapping[int, Number]
    speed_last: Mapping[int, Number]
    action_ratio: Number
    action_slack: Number
    excess_control: Number
    excess_teacher: Number
    presence_gap: Number | None
    presence_least: Number | None
    extra_slack: Mapping[str, Number]


@dataclass(frozen=True)
class Statement:
    """One sentence with a number, its target in words, and whether it is met (None: cannot be told, or no target)."""

    subject: str
    found: str
    target: str
    met: bool | None


def judge(results: Results, targets: Targets) -> tuple[Statement, ...]:
    """Every target with what was found; a missing row or number gives a statement that says so.

    Quality is that of the student as it was trained to be used.
    """
    teacher = find(results, "teacher", targets.teacher_steps, cached=True, commit="clean")
    student = results.deployed_row
    statements = list(_speeds(results, targets))
    if student is None or student.role != "student":
        return (*statements, Statement("quality", "no row of the student as it was trained", "", None))
    if teacher is not None:
        statements += [_action(student, teacher, targets), _excess_of_teacher(student, teacher, targets)]
    statements.append(_excess_of_control(results, student, targets))
    statements += _presence(results, student, targets)
    statements += [
        _extra(student, teacher, name, slack) for name, slack in targets.extra_slack.items() if teacher is not None
    ]
    return (*statements, _equal_quality(results, student))


def find(results: Results, role: str, steps: int, *, cached: bool, commit: str | None) -> Row | None:
    """The first row of that role, steps and cache; `commit` None takes any."""
    for row in results.of(role):
        if row.steps == steps and row.cached is cached and commit in (None, row.cache_commit):
            return row
    return None


def _speeds(results: Results, targets: Targets) -> Iterator[Statement]:
    for label, commit, cached, wanted in (
        ("cached", "clean", True, targets.speed_cached),
        ("uncached", "clean", False, targets.speed_uncached),
        ("cached, last-step commit", "last", True, targets.speed_last),
    ):
        # A rollout without a cache commits nothing, so its row is found whatever it says there.
        slow = find(results, "teacher", targets.teacher_steps, cached=cached, commit=commit if cached else None)
        for (steps, least), batch in product(sorted(wanted.items(), reverse=True), (1, 16)):
            fast = find(results, "student", steps, cached=True, commit=commit)
            subject = f"speed at batch {batch}, student {steps} against {label} teacher {targets.teacher_steps}"
            yield _speed(subject, _rate(fast, batch), _rate(slow, batch), least)


def _rate(row: Row | None, batch: int) -> Number | None:
    """Frames per second at batch 1 or 16."""
    if row is None:
        return None
    return row.fps_b1 if batch == 1 else row.fps_b16


def _speed(subject: str, fast: Number | None, slow: Number | None, least: Number) -> Statement:
    target = f"at least {least:g}×"
    if not fast or not slow:
        return Statement(subject, "not measured", target, None)
    return Statement(subject, f"{fast / slow:.2f}×", target, fast / slow >= least)


def _action(student: Row, teacher: Row, targets: Targets) -> Statement:
    target = f"at most max({targets.action_ratio:g} × teacher, teacher + {targets.action_slack:g})"
    if student.action_error is None or teacher.action_error is None:
        return Statement("action error", _absent(student, teacher, "action_error"), target, None)
    limit = max(targets.action_ratio * teacher.action_error, teacher.action_error + targets.action_slack)
    found = f"{student.action_error:.3g}, teacher {teacher.action_error:.3g}, so at most {limit:.3g}"
    return Statement("action error", found, target, student.action_error <= limit)


def _excess_of_teacher(student: Row, teacher: Row, targets: Targets) -> Statement:
    subject, target = "excess against the teacher", f"at most {targets.excess_teacher:g} × the teacher's"
    if student.excess is None or teacher.excess is None:
        return Statement(subject, _absent(student, teacher, "excess"), target, None)
    base, note = teacher.excess, ""
    if teacher.distance_low is not None and teacher.distance_high is not None and teacher.distance_low <= 0:
        # An excess that may be 0 is no yardstick; its upper bound still is one.
        base, note = max(teacher.distance_high, 0.0), " (upper bound, its interval covers 0)"
    found = f"{student.excess:.3g}, teacher {base:.3g}{note}, so at most {targets.excess_teacher * base:.3g}"
    return Statement(subject, found, target, student.excess <= targets.excess_teacher * base)


def _excess_of_control(results: Results, student: Row, targets: Targets) -> Statement:
    subject, target = "excess against the better control", f"at most {targets.excess_control:g} × the control's"
    controls = [(row.excess, row) for row in results.of("control") if row.steps == student.steps]
    known = [(excess, row) for excess, row in controls if excess is not None]
    if student.excess is None or not known:
        return Statement(subject, student.why("excess") or "no control was measured", target, None)
    best, row = min(known, key=lambda entry: entry[0])
    name = row.name
    if row.distance_low is not None and row.distance_low <= 0:
        # A share of what may be 0 or less is no limit.
        return Statement(subject, f"{student.excess:.3g}, {name} {best:.3g}, its interval covers 0", target, None)
    limit = targets.excess_control * best
    found = f"{student.excess:.3g}, {name} {best:.3g}, so at most {limit:.3g}"
    return Statement(subject, found, target, student.excess <= limit)


def _presence(results: Results, student: Row, targets: Targets) -> Iterator[Statement]:
    subject, found = "presence", student.presence
    if targets.presence_gap is not None:
        target = f"within {targets.presence_gap:g} of the truth"
        if found is None or results.presence_truth is None:
            yield Statement(subject, student.why("presence") or "no presence of the truth", target, None)
        else:
            met = abs(found - results.presence_truth) <= targets.presence_gap
            yield Statement(subject, f"{found:.3f}, truth {results.presence_truth:.3f}", target, met)
    if targets.presence_least is not None:
        target = f"at least {targets.presence_least:g} and above every control"
        rivals = [(row.name, row.presence) for row in results.of("control") if row.steps == student.steps]
        known = [(name, value) for name, value in rivals if value is not None]
        if found is None:
            yield Statement(subject, student.why("presence") or "not measured", target, None)
        else:
            met = found >= targets.presence_least and all(found > value for _, value in known)
            others = "".join(f", {name} {value:.3f}" for name, value in known)
            yield Statement(subject, f"{found:.3f}{others}", target, met if known else None)


def _extra(student: Row, teacher: Row, name: str, slack: Number) -> Statement:
    subject, target = name.replace("_", " "), f"at most teacher + {slack:g}"
    mine, other = student.measured(name), teacher.measured(name)
    if mine is None or other is None:
        return Statement(subject, _absent(student, teacher, name), target, None)
    return Statement(subject, f"{mine:.3g}, teacher {other:.3g}", target, mine <= other + slack)


def _equal_quality(results: Results, student: Row) -> Statement:
    subject, target = "speed at equal distance", "no target"
    if student.distance is None or not student.fps_b1:
        return Statement(subject, student.why("distance") or "no speed was measured", target, None)
    as_good = [
        (row.fps_b1, row)
        for row in results.of("teacher")
        if row.fps_b1 and row.distance is not None and row.distance <= student.distance
    ]
    if not as_good:
        return Statement(subject, "no teacher row reaches the student's distance", target, None)
    speed, row = max(as_good, key=lambda entry: entry[0])
    found = f"{student.fps_b1 / speed:.1f}× the cheapest teacher row that is as good ({row.name}, {row.steps} steps)"
    return Statement(subject, found, target, None)


def _absent(student: Row, teacher: Row, name: str) -> str:
    return student.why(name) or teacher.why(name) or "not measured"
