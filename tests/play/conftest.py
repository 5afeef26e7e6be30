"""A server at work, over a real socket."""

import threading
from collections.abc import Iterator

import pytest

from tests.play.making import Served, tiny_game
from wm_lightning.play.game import Game
from wm_lightning.tasks.play import listen

FPS = 200


@pytest.fixture(scope="module")
def game(tmp_path_factory: pytest.TempPathFactory) -> Game:
    """A tiny game by itself."""
    return tiny_game(tmp_path_factory.mktemp("game") / "a")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A tiny game, served until the module's tests are over."""
    uvicorn = pytest.importorskip("uvicorn", reason="the server is not installed: pip install -e '.[play]'")
    pytest.importorskip("fastapi", reason="the server is not installed: pip install -e '.[play]'")
    from wm_lightning.play.server import LARGEST, Table, build_app  # noqa: PLC0415  behind the skip

    folder = tmp_path_factory.mktemp("served")
    game = tiny_game(folder / "a", "task.record_frames=30")
    listening = listen(0)
    config = uvicorn.Config(build_app(Table(game, fps=FPS, title="tiny")), ws_max_size=LARGEST, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield Served(game, listening.getsockname()[1], folder / "a" / "run")
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive(), "the server ends when it is told to"
