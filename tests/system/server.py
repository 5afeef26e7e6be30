"""Runs commands of `run.py` in forks of one process that has already imported everything.

A command in a fork is what a program of its own is, without the seconds that importing takes. Nothing
is imported from pytest's process, whose type checks at run time a user does not have. One request a
line on standard input: {"script": "...", "words": [...], "folder": "...", "environment": {...}, "out": "...",
"err": "..."};
one answer a line: the exit code, or minus the signal.
"""

import importlib
import json
import os
import pkgutil
import runpy
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def serve() -> None:
    """Answers requests until there are none."""
    sys.path.insert(0, str(ROOT))
    os.environ["OMP_NUM_THREADS"] = "1"  # threads of a pool do not live on in a fork
    _import_all()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _import_all() -> None:
    package = importlib.import_module("wm_lightning")
    for module in pkgutil.walk_packages(package.__path__, "wm_lightning."):
        importlib.import_module(module.name)


def _run(request: dict[str, Any]) -> None:
    """Becomes the command and ends with its exit code."""
    for number, path in ((1, request["out"]), (2, request["err"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    sys.argv = [request["script"], *request["words"]]
    sys.path.insert(0, str(Path(request["script"]).parent))  # as Python does for a program
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()  # an error never comes here: Python prints it and ends with 1, as for any program


if __name__ == "__main__":
    serve()
