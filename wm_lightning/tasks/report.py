"""task=report: one table of several runs, kept in the run folder or put into a page of the documentation."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from wm_lightning.launchers.manifest import Sweep
from wm_lightning.launchers.states import standings, table
from wm_lightning.results.benches import read_benches
from wm_lightning.results.ladder import Ladder, draw_steps
from wm_lightning.results.page import PageSettings, page
from wm_lightning.results.protocols import Scored, protocol_groups, read_protocols
from wm_lightning.results.report import Recipe, faults, render, splice_into
from wm_lightning.results.results import write_whole
from wm_lightning.results.role_runs import RoleGroup, read_roles, role_groups
from wm_lightning.results.seeds import Group, groups, read_runs
from wm_lightning.tasks.report_curves import draw_role_curves

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The task. `runs` are folders, results.json files or globs of them, relative to where it is started; of folders
    those of executors, protocols and benchmarks too, which get tables of their own. `sweep` is the folder of a grid in
    place of them: where each of its points stands, above the tables of those that are done.

    `keep` copies the results there, as `<block>_<n>_seed<seed>.json`, so that the table can be made again
    where the runs are gone. `into` and `block` name a file and the place in it; `into` may be several files
    for `check`, which only compares the blocks of the files with their sources. `targets` judges the rows.
    `compare` gives one table with a line per experiment, or point of a grid: the network it made. `axis` is the key of
    the configs that report.html draws these over, null for the one number that differs; a GIF of a run that is larger
    than `gif_mib` is named there instead of shown. `ladder` adds to that table what its rungs are held against, and
    draws measures against steps.
    """

    runs: str | Sequence[str]
    sweep: str | None
    columns: Sequence[str]
    targets: bool
    into: str | Sequence[str] | None
    block: str | None
    keep: str | None
    compare: bool
    check: bool
    axis: str | None
    gif_mib: float
    ladder: Ladder | None

    def __call__(self, config: DictConfig) -> dict[str, float]:
        """Writes report.md and report.html into the run folder, and a block where one is named; or checks blocks."""
        if self.check:
            return check([Path(name) for name in _listed(self.into)], Path.cwd())
        if (self.into is None) != (self.block is None):
            raise ValueError("task.into and task.block go together: a file, and the NAME of its results:NAME markers")
        if self.sweep is not None:
            return self._of_grid(config, Path(self.sweep))
        patterns = _listed(self.runs)
        if not patterns:
            raise ValueError("task.runs is empty; name run folders, as in 'task.runs=[logs/dmd_chunkwise/*]'")
        return self._of_runs(config, patterns, "")

    def _of_grid(self, config: DictConfig, folder: Path) -> dict[str, float]:
        """Where the points of a grid stand, above the tables of those that are done."""
        sweep = Sweep.load(folder)
        found = standings(sweep)
        standing = table(found, sweep) + "\n\n"
        print(standing)
        done = [os.path.relpath(sweep.place(entry.point)) for entry in found if entry.state == "done"]
        if done:
            return self._of_runs(config, done, standing)
        write_whole(Path(config.run_dir) / "report.md", standing)
        return {"runs": 0.0, "tables": 0.0}

    def _of_runs(self, config: DictConfig, patterns: list[str], standing: str) -> dict[str, float]:
        judged = self.targets and not self.compare
        targets = instantiate(config.metrics.targets, _convert_="all") if judged else None
        found = groups(read_runs(patterns, root=Path.cwd()))
        roles = role_groups(read_roles(patterns, root=Path.cwd()))
        scored, benches = read_protocols(patterns, root=Path.cwd()), read_benches(patterns, root=Path.cwd())
        if self.keep is not None:
            place, name = Path(self.keep), self.block or "results"
            patterns = kept(found, place, name) + kept_roles(roles, place, name) + kept_protocols(scored, place, name)
            patterns += [bench.path.as_posix() for bench in benches]  # which task.save_dir keeps
        if self.ladder is not None and not self.compare:
            raise ValueError("task.ladder compares experiments; set task.compare=true with it")
        recipe = Recipe(patterns, list(self.columns), targets, self.compare, self.ladder)
        body = render(recipe, Path.cwd())
        names = dict.fromkeys([*(group.first.name for group in found), *(entry.result["protocol"] for entry in scored)])
        names |= dict.fromkeys([*(group.first.name for group in roles), *(bench.name for bench in benches)])
        whole = page(
            found,
            protocol_groups(scored),
            recipe,
            PageSettings(self.axis, self.gif_mib),
            f"Results: {', '.join(names)}",
            benches,
            roles,
            draw_role_curves(roles, Path(config.run_dir) / "curves.png"),
        )
        for name, text in (("report.md", standing + body + "\n"), ("report.html", whole)):
            write_whole(Path(config.run_dir) / name, text)
        for name in _listed(self.into):
            splice_into(Path(name), str(self.block), body)
            log.info("Written: %s, block %s", name, self.block)
        if self.ladder is not None and self.ladder.steps_of and found:
            draw_steps(Path(self.ladder.picture or Path(config.run_dir) / "steps.png"), self.ladder, found)
        for run in (run for group in [*found, *roles] for run in group.runs if run.freshness.stale):
            log.warning("Stale: %s, %s", run.path, run.freshness.reason)
        print(body)
        log.info("Written: %s/report.md, report.html", config.run_dir)
        runs = sum(len(group.runs) for group in [*found, *roles]) + len(scored) + len(benches)
        tables = len(found) + len(roles) + len(protocol_groups(scored)) + bool(benches)
        return {"runs": float(runs), "tables": float(tables)}


def check(paths: Sequence[Path], root: Path) -> dict[str, float]:
    """Compares every block of the files with its sources. Raises ValueError that lists what differs."""
    if not paths:
        raise ValueError("task.check=true needs task.into: the file, or a list of files, to check")
    found = [fault for path in paths for fault in faults(path, root)]
    if found:
        raise ValueError("\n".join(found))
    log.info("The results in %s are those of their runs", ", ".join(map(str, paths)))
    return {"faults": 0.0}


def kept(found: Sequence[Group], folder: Path, name: str) -> list[str]:
    """Copies the results into the folder and returns where they are, sorted by group and seed.

    Copies under this name that an earlier report made are removed, since its runs may have been others.
    """
    runs = [(number, run) for number, group in enumerate(found) for run in group.runs]
    files = {folder / f"{name}_{number}_seed{run.results.seed}.json": run.path for number, run in runs}
    return _copied(files, folder, rf"{re.escape(name)}_\d+_seed-?\d+\.json")


def kept_roles(found: Sequence[RoleGroup], folder: Path, name: str) -> list[str]:
    """The same for tables of executors, as `roles_<name>_<n>_seed<seed>.json`."""
    runs = [(number, run) for number, group in enumerate(found) for run in group.runs]
    files = {folder / f"roles_{name}_{number}_seed{run.results.seed}.json": run.path for number, run in runs}
    return _copied(files, folder, rf"roles_{re.escape(name)}_\d+_seed-?\d+\.json")


def kept_protocols(scored: Sequence[Scored], folder: Path, name: str) -> list[str]:
    """The same for results of protocols, as `protocol_<name>_<n>.json`."""
    files = {folder / f"protocol_{name}_{number}.json": entry.path for number, entry in enumerate(scored)}
    return _copied(files, folder, rf"protocol_{re.escape(name)}_\d+\.json")


def _copied(files: Mapping[Path, Path], folder: Path, ours: str) -> list[str]:
    texts = {path: source.read_text(encoding="utf-8") for path, source in files.items()}
    for old in folder.glob("*.json"):
        if re.fullmatch(ours, old.name) and old not in texts:
            old.unlink()
    for path, text in texts.items():
        write_whole(path, text)
    return [path.as_posix() for path in texts]


def _listed(value: str | Sequence[str] | None) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(entry) for entry in value]
