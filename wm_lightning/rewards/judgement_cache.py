"""Judgements on disk, so that the same question about the same frames is asked once."""

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path

from wm_lightning.rewards.questions import Question


class JudgementCache:
    """Values by key, a small file each below `folder`; several processes may share it.

    Only what worked out is kept: a failure is asked again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, key: str) -> float | None:
        """The value of a key; None where there is none, or a damaged one."""
        try:
            value = json.loads(self._path(key).read_bytes())["value"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return value if isinstance(value, float) and math.isfinite(value) else None

    def put(self, key: str, value: float, about: dict[str, str]) -> None:
        """Keeps a value beside what it is `about`, for whoever looks into the file."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own: two processes may write the same judgement at once.
        handle, partial = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        with os.fdopen(handle, "w") as file:
            json.dump({"value": float(value), **about}, file)
        os.replace(partial, path)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def judgement_key(question: Question, *judge: str) -> str:
    """SHA-256 of the frames shown, the question with its texts, and all that names the judge."""
    pictures = question.pictures
    digest = hashlib.sha256(json.dumps([*judge, question.text, list(pictures.shape)]).encode())
    digest.update(pictures.tobytes())
    return digest.hexdigest()
