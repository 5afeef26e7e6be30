"""The batch script of a grid, as text, and what is checked before Slurm sees it.

One array of jobs, one job a point; each runs the very command one would type for the point. Nothing is pickled, so a
job can be read, and repeated by hand. The script alone asks for its job to be queued again, and only where a training
was told to stop: Slurm itself does so where a node is lost or a job makes room for another.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wm_lightning.config_errors import ConfigError
from wm_lightning.launchers.manifest import DIARY, Point, Sweep, program
from wm_lightning.launchers.stopping import DIARY_VARIABLE, STOPPED

# What the script sets itself.
_OURS = ("job-name", "array", "nodes", "ntasks", "ntasks-per-node", "output", "error", "open-mode", "chdir", "requeue",
         "no-requeue", "signal", "wrap", "parsable")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of Slurm for every point; see conf/launcher/slurm.yaml."""

    nodes: int
    ntasks_per_node: int
    parallel: int | None
    notice: int
    setup: tuple[str, ...]
    options: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in self.options:
            if not re.fullmatch(r"[\w-]+", str(name)):  # a manifest's too stands in a line of the script
                raise ConfigError(f"hydra.launcher.options has {name!r}, which is no option of sbatch; leave it out")
            if _dashed(name) in _OURS:
                raise ConfigError(
                    f"hydra.launcher.options.{name} is set by launcher=slurm itself; it has the keys nodes, "
                    "ntasks_per_node, parallel and notice"
                )
        if self.parallel is not None and self.parallel < 1:
            raise ConfigError(f"hydra.launcher.parallel={self.parallel} points at a time; give 1 or more, null for all")


def request_for(trainers: Mapping[str, Mapping[str, Any]], asked: Mapping[str, Any]) -> Request:
    """What is asked of Slurm for points whose trainers are given by the points' names: a task for every device.

    `asked` has the fields of a request, where null nodes and tasks are as many as the trainers have. Raises ConfigError
    where they are not: with fewer tasks Lightning would leave devices idle, or wait for ranks that never come.
    """
    shapes = {name: _shape(trainer, name) for name, trainer in trainers.items()}
    first = next(iter(shapes.values()))
    given = (asked["nodes"], asked["ntasks_per_node"])
    wanted = tuple(own if word is None else int(word) for own, word in zip(first, given, strict=True))
    for name, shape in shapes.items():
        if shape != wanted:
            raise ConfigError(
                f"{name} trains on trainer.num_nodes={shape[0]} x trainer.devices={shape[1]}, but {wanted[0]} x "
                f"{wanted[1]} tasks would be asked of Slurm for every point (hydra.launcher.nodes x ntasks_per_node); "
                "make them equal, or submit the points one grid for each"
            )
    return Request(**{**asked, "nodes": wanted[0], "ntasks_per_node": wanted[1]})


def _shape(trainer: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Nodes, and devices of each."""
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes", 1)
    count = len(devices) if isinstance(devices, Sequence) and not isinstance(devices, str) else devices
    if not re.fullmatch(r"[1-9]\d*", str(count)):
        raise ConfigError(
            f"{name} has trainer.devices={devices}, and Slurm starts a task for each device, so that their number must "
            "be known before: trainer.devices=N on each node, and +trainer.num_nodes=N for several"
        )
    return int(nodes), int(str(count))


def job_name(points: Sequence[Point]) -> str:
    """The array's name while it waits: of the run, or what they differ in, as `dmd_steps/steps,seed`."""
    names = list(dict.fromkeys(point.name for point in points))
    keys = dict.fromkeys(word.split("=")[0] for point in points for word in point.shown.split(",") if word)
    return _name(names[0] if len(names) == 1 else f"{names[0]}+{len(names) - 1}", ",".join(keys))


def point_name(point: Point) -> str:
    """The name of a point's own job, as `dmd_steps/steps=4,seed=1`."""
    return _name(point.name, point.shown)


def batch_script(sweep: Sweep, points: Sequence[Point], request: Request) -> str:
    """The text that `sbatch` takes: an array with a task per point.

    Raises ConfigError for a folder whose name no line of a script can hold.
    """
    array = ",".join(str(point.number) for point in points)
    settings = {
        "job-name": job_name(points),
        "array": array if request.parallel is None else f"{array}%{request.parallel}",
        "nodes": request.nodes,
        "ntasks-per-node": request.ntasks_per_node,
        "chdir": _one_line(sweep.cwd),
        "output": _one_line(str(sweep.folder)).replace("%", "%%") + "/slurm_%a.log",
        "open-mode": "append",
        "signal": f"USR1@{request.notice}",
    }
    settings |= {_dashed(name): _one_line(str(value)) for name, value in request.options.items() if value is not None}
    lines = [f'#SBATCH --{name}="{value}"' for name, value in settings.items()]
    cases = [line for point in points for line in _case(sweep, point)]
    setup = ["# As hydra.launcher.setup says.", *request.setup] if request.setup else []
    body = _BODY.format(command=shlex.join(program()), diary=DIARY, variable=DIARY_VARIABLE, stopped=STOPPED)
    head = ["#!/bin/bash", *lines, "#SBATCH --requeue", ""]
    return "\n".join([*head, 'case "$SLURM_ARRAY_TASK_ID" in', *cases, "esac", "", *setup]) + body


# Exit codes 138 and 143 are those of a program that SIGUSR1 or SIGTERM ended before it could heed them. Of several
# tasks srun tells the highest code, so that the diary is asked as well. An array's job is named by both of its numbers:
# by one of them it would be the whole array. A run that is stopped again and again before it saves anything, as by a
# limit that its evaluation does not fit in, would come back for ever; what is submitted anew, maybe with more time, is
# counted anew.
_BODY = """
job="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
diary="$run/{diary}"
note() {{
  printf '{{"state": "%s", "at": %s, "job": "%s", "host": "%s", "why": "%s"}}\\n' \\
    "$1" "$(date +%s)" "$job" "$(hostname)" "$2" >> "$diary"
}}
newest() {{ stat --format=%i:%Y "$run/checkpoints/last.ckpt" 2>/dev/null; }}
mkdir -p "$run"
if grep -qs '"state": "done"' "$diary"; then
  echo "$name is done already."
  exit 0
fi
scontrol update "JobId=$job" "JobName=$name" || true
export {variable}="$diary" WANDB_RUN_ID="$key"
# srun no longer takes this from the job by itself.
if [ -n "${{SLURM_CPUS_PER_TASK:-}}" ]; then export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"; fi
if [ -e "$run/checkpoints/last.ckpt" ]; then words+=(ckpt_path=last); fi
before=$(newest)
note running ""
srun --kill-on-bad-exit=1 {command} "${{words[@]}}"
code=$?
if [ "$code" -eq 0 ]; then
  note done ""
elif [[ "$code" =~ ^({stopped}|138|143)$ || "$(tail -n 1 "$diary")" == *'"state": "stopped"'* ]]; then
  [ "$(newest)" = "$before" ] && saved=without || saved=with
  note requeued "told to stop, $saved a new checkpoint"
  if [ "$(grep "\\"requeued\\".*\\"job\\": \\"$job\\"" "$diary" | tail -n 3 | grep -c 'without a new')" -ge 3 ]; then
    note failed "told to stop three times without a new checkpoint; give it more time"
  else
    scontrol requeue "$job" || note failed "told to stop, and could not be queued again"
  fi
else
  note failed "exit code $code, see slurm_$SLURM_ARRAY_TASK_ID.log"
fi
exit "$code"
"""


def _case(sweep: Sweep, point: Point) -> list[str]:
    name, run = shlex.quote(point_name(point)), shlex.quote(_one_line(str(sweep.place(point))))
    return [
        f"  {point.number})",
        f"    name={name} key={shlex.quote(point.key)} run={run}",
        f"    words=({shlex.join(sweep.line(point))})",
        "    ;;",
    ]


def _name(run: str, differs: str) -> str:
    """Letters that need no quotes, and few enough for every version of Slurm."""
    return re.sub(r"[^\w.,=+/-]+", "-", f"{run}/{differs}" if differs else run)[:200]


def _dashed(name: str) -> str:
    return str(name).replace("_", "-")


def _one_line(value: str) -> str:
    if re.search(r'["\n\\$`]', value):
        raise ConfigError(
            f"{value!r} has quotes, a dollar sign or a line break, which no batch script holds; rename it"
        )
    return value


def write_script(sweep: Sweep, text: str) -> Path:
    """The script beside the manifest, for `sbatch` and for whoever wants to know what was submitted."""
    path = sweep.folder / "slurm.sh"
    path.write_text(text, encoding="utf-8")
    return path
