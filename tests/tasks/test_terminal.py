"""Tables in a file or a pipe are not cut as in a narrow terminal."""

import pytest

from wm_lightning.tasks.terminal import console


def test_a_pipe_is_wide_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console().width == 160
    monkeypatch.setenv("COLUMNS", "90")
    assert console().width == 90
