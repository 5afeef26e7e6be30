"""The page and its WebSocket, on this machine alone: one player at a time.

A second client is refused with a word why: two would share one network, halve each other's frame rate, and see
latencies that are not the model's. Only numbers come from a client; no path it sends is ever opened.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Response, WebSocket, WebSocketDisconnect
from PIL import Image
from starlette.middleware.trustedhost import TrustedHostMiddleware

from wm_lightning.play.game import Game
from wm_lightning.play.messages import Held, Pause, Record, Restart, pack, read_message

log = logging.getLogger(__name__)

PAGE = Path(__file__).with_name("page.html")
HOSTS = ("127.0.0.1", "localhost")
DEFAULT_PORTS = {"http": 80, "https": 443}
LARGEST = 2**16  # bytes; the connection of who sends more is closed
# WebSocket's own reasons to close.
GONE, POLICY, TROUBLE, BUSY = 1006, 1008, 1011, 1013
Answer = TypeVar("Answer")


class Table:
    """The game, the one seat at it, and the one thread in which it is played: nothing of two players overlaps."""

    def __init__(self, game: Game, *, fps: int, title: str) -> None:
        self.game, self.fps, self.title = game, fps, title
        self.seat = asyncio.Lock()
        self.thread = ThreadPoolExecutor(1, "play")

    async def call(self, work: Callable[..., Answer], *arguments: Any) -> Answer:
        """What `work` returns, done in the game's thread, behind whatever is still under way there."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, work, *arguments)

    def hello(self) -> dict[str, Any]:
        """All that a page needs to know."""
        game, frame = self.game, self.game.start_frame(0)
        keys = [{"name": key.name, "group": key.group, "label": key.label} for key in game.controls.keys]
        return {
            "type": "hello", "title": self.title, "panels": [panel.name for panel in game.panels],
            "height": frame.shape[0], "width": frame.shape[1], "chunk": game.chunk, "fps": self.fps, "keys": keys,
            "starts": len(game.starts), "waits": game.controls.waits,
        }  # fmt: skip


class Session:
    """One player's stay: what they hold is read while frames are made, and both end together."""

    def __init__(self, socket: WebSocket, table: Table) -> None:
        self.socket, self.table, self.game = socket, table, table.game
        self.held = Held((), 0)
        # Keys pressed since the last decision: a tap between two decisions would be lost otherwise.
        self.tapped: dict[str, None] = {}
        self.going, self.pressed = asyncio.Event(), asyncio.Event()
        self.going.set()

    async def run(self) -> None:
        """Until the player leaves. A running recording is saved, however they left."""
        await self.send(self.table.hello())
        await self.restart(0)
        tasks = [asyncio.create_task(self.listen()), asyncio.create_task(self.play())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.table.call(self.game.record, False)

    async def listen(self) -> None:
        """Answers messages until the socket closes."""
        while (event := await self.socket.receive())["type"] != "websocket.disconnect":
            try:
                await self.answer(event.get("text"))
            except ValueError as error:
                await self.send({"type": "error", "text": str(error)})

    async def answer(self, text: str | None) -> None:
        """Does what a message asks for. Raises ValueError for one that asks for nothing there is."""
        message = read_message(text)
        if isinstance(message, Held):
            self.game.controls.action(message.keys)
            self.tapped |= dict.fromkeys(key for key in message.keys if key not in self.held.keys)
            self.held = message
            if message.keys:
                self.pressed.set()
        elif isinstance(message, Restart):
            await self.restart(message.start)
        elif isinstance(message, Pause):
            (self.going.clear if message.on else self.going.set)()
        elif isinstance(message, Record):
            await self.say_saved(await self.table.call(self.game.record, message.on))
            await self.send({"type": "recording", "on": message.on})

    async def send(self, content: bytes | dict[str, Any]) -> None:
        """Frames as bytes, everything else as JSON. Raises WebSocketDisconnect where nobody is there any more."""
        try:
            if isinstance(content, bytes):
                await self.socket.send_bytes(content)
            else:
                await self.socket.send_json(content)
        except (RuntimeError, OSError) as error:
            raise WebSocketDisconnect(GONE) from error

    async def restart(self, start: int | None) -> None:
        """A new beginning, shown at once."""
        begun = await self.table.call(self.game.reset, start)
        await self.send(pack({"key_id": self.held.id, "restart": True, "start": self.game.start}, begun.frames))
        await self.say_saved(begun.saved)

    async def play(self) -> None:
        """Decision after decision, no faster than frames are shown; keys are read as late as they can be."""
        clock = asyncio.get_running_loop().time
        due = before = clock()
        while True:
            await self.going.wait()
            if self.game.controls.waits:
                await self.pressed.wait()
            held, keys = self.held, (*self.tapped, *self.held.keys)
            self.tapped = {}
            if not held.keys:
                self.pressed.clear()
            turn = await self.table.call(self.game.step, keys)
            now = clock()
            rate, before = self.game.chunk / max(now - before, 1e-6), now
            header = {
                "key_id": held.id, "made_ms": round(1000 * turn.seconds, 2), "rate": round(rate, 2),
                "restart": turn.restarted, "start": self.game.start,
            }  # fmt: skip
            await self.send(pack(header, turn.frames))
            for where in turn.saved:
                await self.say_saved(where)
            if turn.saved and not turn.recording:
                await self.send({"type": "recording", "on": False})
            # What was late is not made up for, or keys would be read in haste afterwards.
            due = max(due + self.game.chunk / self.table.fps, clock())
            await asyncio.sleep(due - clock())

    async def say_saved(self, where: str | None) -> None:
        """Tells where a recording was left."""
        if where:
            await self.send({"type": "saved", "text": where})


def build_app(table: Table) -> FastAPI:
    """The page at `/`, starts as pictures by number, and the game at `/play`."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        table.thread.shutdown(cancel_futures=True)

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    # A page of somebody else's that calls itself this machine (DNS rebinding) is turned away here.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS))

    @app.get("/")
    async def page() -> Response:
        policy = "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"
        return Response(PAGE.read_bytes(), media_type="text/html", headers={"Content-Security-Policy": policy})

    @app.get("/starts/{number}.png")
    async def start(number: int) -> Response:
        if not 0 <= number < len(table.game.starts):
            raise HTTPException(404, f"there is no start {number}")
        content = BytesIO()
        Image.fromarray(table.game.start_frame(number)).save(content, "PNG")
        return Response(content.getvalue(), media_type="image/png")

    @app.websocket("/play")
    async def play(socket: WebSocket) -> None:
        await seated(socket, table)

    return app


async def seated(socket: WebSocket, table: Table) -> None:
    """A session, where the player comes from a page of ours and the seat is free."""
    if not is_own(socket.headers.get("origin"), socket.headers.get("host", "")):
        await socket.close(POLICY)
        return
    await socket.accept()
    if table.seat.locked():
        text = "somebody is playing already, in another tab or window; close it there and reload this page"
        await socket.send_json({"type": "busy", "text": text})
        await socket.close(BUSY)
        return
    async with table.seat:
        try:
            await Session(socket, table).run()
        except WebSocketDisconnect:
            # Who vanishes while frames are sent is met with here, and not by `listen`.
            log.info("The player is gone")
        except ValueError as error:
            log.warning("The game ended: %s", error)
            await socket.send_json({"type": "error", "text": str(error)})
            await socket.close(TROUBLE)


def is_own(origin: str | None, host: str) -> bool:
    """Whether a WebSocket to `host` was opened by a page from there, or by no page at all.

    Another server of this machine has pages of its own, so that the port counts: the one that the browser connects to,
    which may be a tunnel's.
    """
    if origin is None:
        return True
    try:
        page, here = urlsplit(origin), urlsplit(f"//{host}")
        ports = [place.port or DEFAULT_PORTS[page.scheme] for place in (page, here)]
    except (ValueError, KeyError):  # a port or scheme that is none
        return False
    return page.hostname in HOSTS and here.hostname in HOSTS and ports[0] == ports[1]
