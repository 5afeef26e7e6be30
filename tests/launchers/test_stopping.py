"""A process that runs a launcher's point ends at a signal with an exit code of its own; any other is left as it is."""

import os
import signal
from collections.abc import Iterator

import pytest

from wm_lightning.launchers.stopping import DIARY_VARIABLE, SIGNALS, STOPPED, heed_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[object]]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield before
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_point_ends_with_the_code_by_which_it_is_queued_again(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DIARY_VARIABLE, "point.jsonl")
    heed_signals()
    with pytest.raises(SystemExit) as ended:
        os.kill(os.getpid(), number)
    assert ended.value.code == STOPPED


def test_others_keep_their_handlers(monkeypatch: pytest.MonkeyPatch, handlers: list[object]) -> None:
    monkeypatch.delenv(DIARY_VARIABLE, raising=False)
    heed_signals()
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
