"""What ends a command: an interrupt is one whatever it was turned into on its way."""

import os
import signal
from pathlib import Path

import pytest

from wm_lightning.config import compose
from wm_lightning.tasks import start as start_module


def interrupted() -> None:
    """A reader in another language: its error around KeyboardInterrupt is that of a damaged file."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt as stop:
        raise ValueError("cannot be read") from stop


def failing() -> None:
    """Without an interrupt."""
    raise ValueError("cannot be read")


@pytest.mark.usefixtures("interrupts_heeded")
@pytest.mark.parametrize(("task", "error"), [(interrupted, SystemExit), (failing, ValueError)])
def test_an_interrupt_is_told_from_the_error_it_became(
    task: object, error: type[BaseException], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = compose(["task=report"])
    config.run_dir = str(tmp_path)
    monkeypatch.setattr(start_module, "instantiate", lambda *_: lambda *_: task())  # pyright: ignore[reportCallIssue]
    with pytest.raises(error) as ended:
        start_module.start(config, [])
    if error is SystemExit:
        assert ended.value.code == 130  # pyright: ignore[reportAttributeAccessIssue]
        assert "Interrupted." in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
