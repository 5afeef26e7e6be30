"""The page's server over real WebSockets: play, reset, leave, and everything a client may not do."""

import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate

from tests.play.making import STARTS, Served
from tests.tiny_world import checkpoint
from wm_lightning.config import compose
from wm_lightning.data.cache import MARKER
from wm_lightning.tasks.build import build_data
from wm_lightning.tasks.play import listen

pytest.importorskip("fastapi", reason="the server is not installed: pip install -e '.[play]'")
httpx = pytest.importorskip("httpx", reason="httpx is not installed: pip install -e '.[play]'")
client = pytest.importorskip("websockets.sync.client", reason="websockets is not installed: pip install -e '.[play]'")

from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402  behind the skip

from wm_lightning.play.server import LARGEST, is_own  # noqa: E402

SIDE = 24


class Player:
    """A client that keeps what it hears."""

    def __init__(self, served: Served) -> None:
        self.socket = client.connect(served.address, open_timeout=30, close_timeout=5).__enter__()
        self.hello = self.text()

    def send(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def hear(self) -> dict[str, Any]:
        """The next message; frames as `pixels`, panels first."""
        content = self.socket.recv(timeout=60)
        if isinstance(content, str):
            return json.loads(content)
        (length,) = struct.unpack(">I", content[:4])
        header = json.loads(content[4 : 4 + length])
        shape = (len(self.hello["panels"]), header["frames"], SIDE, SIDE, 3)
        return {"type": "frames", **header, "pixels": np.frombuffer(content[4 + length :], np.uint8).reshape(shape)}

    def text(self) -> dict[str, Any]:
        """The next message that is no frames."""
        while (message := self.hear())["type"] == "frames":
            pass
        return message

    def until(self, **wanted: Any) -> dict[str, Any]:
        """The next frames whose header says that."""
        while True:
            message = self.hear()
            if message["type"] == "frames" and all(message.get(key) == value for key, value in wanted.items()):
                return message

    def leave(self) -> None:
        self.socket.close()


@contextmanager
def playing(served: Served) -> Iterator[Player]:
    """A player, as soon as the seat is free: who left may still be on the way out."""
    for _ in range(200):
        player = Player(served)
        if player.hello["type"] == "hello":
            break
        player.leave()
        time.sleep(0.05)
    assert player.hello["type"] == "hello"
    try:
        yield player
    finally:
        player.leave()


def test_a_player_is_told_what_there_is(served: Served) -> None:
    with playing(served) as player:
        hello = player.hello
        assert hello["panels"][-1] == "true simulator" and len(hello["panels"]) == 3
        assert (hello["height"], hello["width"], hello["chunk"], hello["starts"]) == (SIDE, SIDE, 3, STARTS)
        assert [key["name"] for key in hello["keys"]] == ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"]
        first = player.until(restart=True)
        assert first["frames"] == 1 and np.array_equal(first["pixels"][0, 0], served.game.start_frame(0))
        made = player.until(restart=False)
        assert made["frames"] == 3 and made["made_ms"] > 0 and made["rate"] > 0


def test_keys_move_the_world(served: Served) -> None:
    with playing(served) as player:
        player.send(type="reset", start=1)
        start = player.until(restart=True, start=1)["pixels"][-1, -1]
        still = player.until(restart=False, key_id=0)["pixels"][-1]
        assert all(np.array_equal(frame, start) for frame in still), "nobody pressed anything"
        ends = []
        for number, key in enumerate(("ArrowRight", "ArrowLeft"), start=1):
            player.send(type="keys", held=[key], id=number)
            for _ in range(2):
                moved = player.until(key_id=number)["pixels"][-1, -1]
            ends.append(moved)
        assert not np.array_equal(ends[0], ends[1])
        player.send(type="keys", held=[], id=3)
        rested = [player.until(key_id=3)["pixels"][-1] for _ in range(2)]
        assert np.array_equal(rested[0][-1], rested[1][-1])


def test_reset_shows_the_start_that_is_named(served: Served) -> None:
    with playing(served) as player:
        for start in (2, 3):
            player.send(type="reset", start=start)
            shown = player.until(restart=True, start=start)
            assert all(np.array_equal(panel[0], served.game.start_frame(start)) for panel in shown["pixels"])
        player.send(type="reset", start=99)
        assert player.text() == {"type": "error", "text": "there is no start 99; a number from 0 to 3 is expected"}
        assert player.until(restart=False)["start"] == 3, "play goes on"


def test_a_pause_holds_everything(served: Served) -> None:
    with playing(served) as player:
        player.until(restart=False)
        player.send(type="pause", on=True)
        player.send(type="keys", held=["q"])
        assert "does nothing here" in player.text()["text"]
        made = served.game.made_in_all
        player.send(type="keys", held=["ArrowUp"], id=8)
        player.send(type="nothing")
        assert "`type` must be" in player.text()["text"]
        assert served.game.made_in_all <= made + 3, "no more than the decision that was under way"
        player.send(type="pause", on=False)
        assert player.until(key_id=8)["frames"] == 3


@pytest.mark.parametrize(
    "message", ["{", "[]", "null", b"\x00\xff", "x" * 5000, '{"type": "reset", "start": "/etc/passwd"}', "[" * 4000]
)
def test_what_is_no_message_is_answered_and_play_goes_on(served: Served, message: str | bytes) -> None:
    with playing(served) as player:
        player.socket.send(message)
        assert player.text()["type"] == "error"
        assert player.until(restart=False)["frames"] == 3


def test_who_sends_too_much_is_shown_out_and_the_next_can_play(served: Served) -> None:
    with playing(served) as player:
        with pytest.raises(ConnectionClosed) as closed:
            player.socket.send("x" * (LARGEST + 1))
            while True:
                player.hear()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009
    with playing(served) as player:
        player.until(restart=False)


def test_a_second_player_is_refused_with_a_word(served: Served) -> None:
    with playing(served) as first:
        second = Player(served)
        assert second.hello["type"] == "busy" and "somebody is playing already" in second.hello["text"]
        with pytest.raises(ConnectionClosed):
            second.socket.recv(timeout=30)
        assert first.until(restart=False)["frames"] == 3, "the first one is not disturbed"
    with playing(served):
        pass


def test_who_vanishes_leaves_the_seat_and_the_recording(served: Served) -> None:
    with playing(served) as player:
        player.send(type="record", on=True)
        assert player.text() == {"type": "recording", "on": True}
        player.until(restart=False)
        before = len(list(served.run.glob("recordings/*.gif")))
        # Neither a closing frame nor a farewell: the cable is cut.
        player.socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        player.socket.socket.shutdown(socket.SHUT_RDWR)
    with playing(served) as next_one:
        next_one.until(restart=False)
        assert len(list(served.run.glob("recordings/*.gif"))) == before + 1
        made = served.game.made_in_all
        next_one.until(restart=False)
        next_one.until(restart=False)
        assert served.game.made_in_all - made <= 4 * 3, "nobody else plays on"


def test_recordings_are_data(served: Served) -> None:
    with playing(served) as player:
        for number in range(3):
            player.send(type="reset", start=number)
            player.until(restart=True, start=number)
            player.send(type="record", on=True)
            assert player.text()["on"] is True
            player.send(type="keys", held=["ArrowRight"], id=100 + number)
            for _ in range(3):
                player.until(key_id=100 + number)
            if number == 0:
                # It ends by itself after task.record_frames.
                assert player.text()["type"] == "saved" and player.text() == {"type": "recording", "on": False}
            else:
                player.send(type="record", on=False)
                saved = player.text()
                assert saved["type"] == "saved" and Path(saved["text"]).is_file()
                assert Path(saved["text"]).with_suffix(".mp4").is_file()
                assert player.text()["on"] is False
            player.send(type="keys", held=[], id=200 + number)
    folder = served.run / "recordings" / "true_simulator_simulated"
    assert (folder / MARKER).is_file()
    words = ["data=own", f"data.root={folder}", f"cache_dir={served.run}/cache", "data.height=24", "data.width=24"]
    data = build_data(compose([*words, "data.frames=4", "data.val_frames=4", "experiment=teacher"]))
    assert data.simulated and data.spec == served.game.panels[0].world.spec  # type: ignore[attr-defined]
    readers = [data.reader(split) for split in ("train", "val", "test")]
    episodes = [reader.read(e, 0, reader.length(e)) for reader in readers for e in range(len(reader))]
    lengths = sorted(len(episode.actions) for episode in episodes)
    assert len(lengths) >= 3 and lengths[-1] == 31, "the shown frame and thirty more"
    right = data.spec.names.index("right")
    assert sum(bool(episode.actions[:, right].any()) for episode in episodes) == 3


def test_a_reset_tells_where_the_recording_is(served: Served) -> None:
    with playing(served) as player:
        player.send(type="record", on=True)
        assert player.text()["on"] is True
        for start in (1, 2):  # behind the first one another has begun
            player.until(restart=False)
            player.send(type="reset", start=start)
            player.until(restart=True, start=start)
            saved = player.text()
            assert saved["type"] == "saved" and Path(saved["text"]).is_file()


def test_starts_are_pictures_by_number_and_nothing_else_is_opened(served: Served) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{served.port}", timeout=60) as web:
        page = web.get("/")
        assert page.status_code == 200 and "WebSocket" in page.text
        assert web.get("/starts/0.png").headers["content-type"] == "image/png"
        for path in ("99.png", "-1.png", "x.png", "..%2f..%2fpyproject.toml", "../pyproject.toml"):
            assert web.get(f"/starts/{path}").status_code in (404, 422), path
        assert web.get("/", headers={"host": "elsewhere.example"}).status_code == 400


def test_pages_of_others_cannot_play(served: Served) -> None:
    other = served.port + 1 if served.port < 65535 else 1024
    for origin in ("https://elsewhere.example", f"http://127.0.0.1:{other}", "http://localhost", "http://localhost:x"):
        with pytest.raises(InvalidStatus) as refused:
            client.connect(served.address, origin=origin, open_timeout=30).__enter__()
        assert refused.value.response.status_code == 403, origin
    with client.connect(served.address, origin=f"http://localhost:{served.port}", open_timeout=30) as own:
        assert json.loads(own.recv(timeout=30))["type"] in ("hello", "busy")


def test_the_port_that_counts_is_the_players_own() -> None:
    """Through a tunnel, or at a scheme's usual port, which is not written."""
    assert is_own(None, "127.0.0.1:8000") and is_own("http://localhost:9000", "localhost:9000")
    assert is_own("http://localhost", "localhost") and is_own("https://127.0.0.1", "127.0.0.1:443")
    for origin in ("null", "file://", "http://localhost:8888", "http://elsewhere.example:8000"):
        assert not is_own(origin, "localhost:8000"), origin
    assert not is_own("http://localhost:8000", "elsewhere.example:8000")


def test_only_loopback_and_only_a_free_port(served: Served) -> None:
    with pytest.raises(ValueError, match=rf"task\.port={served.port} cannot be used"):
        listen(served.port)
    with pytest.raises(ValueError, match=r"task\.port=99999 cannot be used"):
        listen(99999)
    free = listen(0)
    assert free.getsockname()[0] == "127.0.0.1"
    free.close()


def test_the_task_serves_and_ends(tmp_path: Path) -> None:
    config = checkpoint(tmp_path / "a", "task=play", "task.port=0", "task.seconds=1", "task.starts=2")
    assert instantiate(config.task, _convert_="all")(config) == {"frames": 0.0}
