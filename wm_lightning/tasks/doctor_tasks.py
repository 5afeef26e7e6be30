"""What `task=doctor` says of a set of tasks: how many there are, of which kinds, and what cannot be used."""

import shlex
from collections import Counter
from collections.abc import Callable

from rich.table import Table

from wm_lightning.data.cache import simulate
from wm_lightning.data.datamodule import SPLITS
from wm_lightning.data.formats.frame_store import BadBudget, check_budget
from wm_lightning.data.formats.world_tasks import TaskRow, read_tasks, sound
from wm_lightning.data.world_tasks import WorldTasksDataModule
from wm_lightning.tasks import terminal

KINDS: dict[str, Callable[[TaskRow], str]] = {"task": lambda row: row.task_type, "agent": lambda row: row.agent_type}


def examine(data: WorldTasksDataModule, *, experiment: bool) -> dict[str, float]:
    """Prints what is found, and what trains on it where no `experiment` was chosen; every picture is decoded.

    Raises ValueError where the set cannot be used as it is.
    """
    if data.root is None:
        simulate(data.cache_dir, data.recipe())
    tasks, console = sound(read_tasks(data.home), data.decode_workers), terminal.console()
    for error in tasks.bad[:5]:
        console.print(f"  unusable: {error}", soft_wrap=True, highlight=False)
    try:
        check_budget(tasks.bad, data.tolerance.allowed(len(tasks.rows) + len(tasks.bad)))
    except BadBudget as error:
        raise ValueError(f"{data.home} cannot be used as it is: {error}") from error
    kind = "simulated" if data.simulated else "real"
    title = f"{data.home} · WorldTasks · {kind} · {len(tasks.bad)} rows unusable"
    console.print(title, soft_wrap=True, highlight=False)
    console.print(_splits(data))
    for name, of in KINDS.items():
        counts = Counter(map(of, tasks.rows)).most_common()
        shares = ", ".join(f"{what} {100 * count / len(tasks.rows):.1f} %" for what, count in counts)
        console.print(f"{name} types: {shares}", soft_wrap=True, highlight=False)
    if other := sorted({row.split for row in tasks.rows} - set(SPLITS)):
        console.print(f"not used: the tasks of split {', '.join(other)}; known are {', '.join(SPLITS)}")
    root = [] if data.root is None else [f"data.root={data.home.resolve()}"]
    if not experiment:
        words = shlex.join(["experiment=wmsd_full", *root])
        console.print(f"\nAn executor learns them with\n  python run.py {words}", soft_wrap=True, highlight=False)
    return {"tasks": float(len(tasks.rows)), "unusable": float(len(tasks.bad))}


def _splits(data: WorldTasksDataModule) -> Table:
    table = Table()
    for head in ("split", "tasks", "pictures", "sources", "with a verifier", "words of a solution"):
        table.add_column(head)
    for split in SPLITS:
        rows = data.parts[split]
        words = [len(row.solution.split()) for row in rows]
        counts = len(rows), len({row.image for row in rows}), len({row.source for row in rows})
        checked = sum(row.verifier is not None for row in rows)
        table.add_row(split, *map(str, counts), str(checked), f"{min(words)} to {max(words)}")
    return table
