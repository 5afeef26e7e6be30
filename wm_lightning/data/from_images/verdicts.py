"""What a stage found out, a JSON line a verdict, so that nothing is lost with the process and nothing asked again."""

import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from wm_lightning.rewards.reward import Failed


class Verdicts:
    """The lines of a file: `answers` by key, and for every key the reasons of the tries that `failed`.

    Raises ValueError, naming the line, where the file holds something else. A last line that was being written when
    the process was killed is taken back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[str, Any] = {}
        self.failed: dict[str, list[str]] = {}
        self.tries: Counter[str] = Counter()
        for number, line in enumerate(_whole_lines(path), start=1):
            try:
                found = json.loads(line)
                self._take(str(found["key"]), Failed(str(found["failed"])) if "failed" in found else found["answer"])
            except (ValueError, LookupError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number} is no verdict ({error}); remove the line, or the file"
                ) from error

    def add(self, key: str, verdict: Any) -> None:
        """Keeps an answer (plain JSON values) or a failure, on the disk first."""
        said = {"failed": verdict.reason} if isinstance(verdict, Failed) else {"answer": verdict}
        with self.path.open("a", encoding="utf-8") as file:  # closed, and so handed over, with every line
            file.write(json.dumps({"key": key, **said}) + "\n")
        self._take(key, verdict)

    def missing(self, keys: Collection[str]) -> list[str]:
        """Those without an answer."""
        return [key for key in keys if key not in self.answers]

    def tally(self, keys: Collection[str]) -> dict[str, Any]:
        """How often these were asked, how many have an answer, and why tries failed."""
        failed = Counter(reason for key in keys for reason in self.failed.get(key, ()))
        answered = len(keys) - len(self.missing(keys))
        return {
            "asked": sum(self.tries[key] for key in keys), "answered": answered, "failed": dict(failed.most_common()),
            "unanswered": len(keys) - answered,
        }  # fmt: skip

    def _take(self, key: str, verdict: Any) -> None:
        self.tries[key] += 1
        if isinstance(verdict, Failed):
            self.failed.setdefault(key, []).append(verdict.reason)
        else:
            self.answers[key] = verdict


def _whole_lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        with path.open("r+b") as file:
            file.truncate(end)
    return data[:end].decode("utf-8", errors="replace").split("\n")[:-1]
