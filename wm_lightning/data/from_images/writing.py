"""What a model wrote about a picture: eight tasks with their solutions, read, put in order, and their form checked."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wm_lightning.rewards.reward import Failed
from wm_lightning.rewards.writer import content_of

COUNT = 8
TEXTS = ("agent", "task", "solution")
TASK_TYPES = ("navigation", "positioning", "interaction", "perception", "combat", "vehicle", "interface", "compound")
AGENT_TYPES = ("first-person view", "human", "vehicle", "creature", "animal", "crowd", "object")
OTHER = "other"
LIST = re.compile(r"\[\s*\{.*\}\s*\]", re.DOTALL)
ACTOR = re.compile(r"^\s*\[[^\[\]]*\]\s*:?\s*")


@dataclass(frozen=True)
class Pair:
    """A task and how it is done. The types are words of the taxonomy, or `other`."""

    agent: str
    task: str
    solution: str
    task_type: str
    agent_type: str

    @property
    def prompt(self) -> str:
        """`[Agent]: instruction`."""
        return f"[{self.agent}]: {self.task}"


def read_tasks_written(reply: str) -> list[dict[str, str]] | Failed:
    """The eight objects of a chat completion's JSON list, whatever stands around it; a failure for anything else."""
    content = content_of(reply)
    if isinstance(content, Failed):
        return content
    found = LIST.search(content)
    if found is None:
        begun = re.search(r"\[\s*\{", content)
        return Failed("no list of tasks" if begun is None else "list of tasks cut short")
    try:
        tasks = json.loads(found[0])
    except (ValueError, RecursionError):
        return Failed("list of tasks is no JSON")
    if len(tasks) != COUNT:
        return Failed("not eight tasks")
    names = (*TEXTS, "task_type", "agent_type")
    if not all(isinstance(task, dict) and all(_filled(task.get(name)) for name in names) for task in tasks):
        return Failed("a task without one of its texts")
    return [{name: task[name] for name in names} for task in tasks]


def pairs_of(written: Sequence[dict[str, str]]) -> list[Pair]:
    """What was written with whitespace, brackets and types put in order; texts stay as they are otherwise."""
    pairs = []
    for task in written:
        agent, instruction, solution = (" ".join(task[name].split()) for name in TEXTS)
        pairs.append(
            Pair(
                agent.rstrip(":").strip().removeprefix("[").removesuffix("]").strip(), ACTOR.sub("", instruction),
                solution, _known(task["task_type"], TASK_TYPES), _known(task["agent_type"], AGENT_TYPES),
            )
        )  # fmt: skip
    return pairs


def faults_of(pairs: Sequence[Pair], words: tuple[int, int]) -> list[str | None]:
    """What is wrong with the form of each pair of a picture; None where nothing is. `words` bounds the solution."""
    least, most = words
    seen: set[str] = set()
    found: list[str | None] = []
    for pair in pairs:
        length = len(pair.solution.split())
        faults = {
            "agent without a plain name": not pair.agent or set("[]:") & set(pair.agent),
            "no instruction": not pair.task or set("[]") & set(pair.task),
            f"solution under {least} words": length < least,
            f"solution over {most} words": length > most,
            "task of another pair": pair.prompt.casefold().rstrip(".") in seen,
        }
        seen.add(pair.prompt.casefold().rstrip("."))
        found.append(next((name for name, holds in faults.items() if holds), None))
    return found


def _filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _known(word: str, words: Sequence[str]) -> str:
    plain = word.strip().casefold().replace("_", " ")
    return next((known for known in words if known.replace("-", " ") == plain.replace("-", " ")), OTHER)
