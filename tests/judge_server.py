"""A judge behind OpenAI's chat completions on loopback, whose mind is the grid's own program.

It sees what a vision-language model would: the pictures and the text of the request. The video is put together from the
pictures, the task is found by the text and by the first picture. Questions about pictures and texts that are to become
tasks are answered by `task_writer`, those about films that want a label by the grid's labeller.
"""

import base64
import io
import json
import math
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.task_writer import TaskWriter, stage_of
from wm_lightning.rewards.prompt import load_prompt
from wm_lightning.worlds.grid_judge import CRITERIA, MOST, judge
from wm_lightning.worlds.grid_labeller import fulfilled
from wm_lightning.worlds.grid_look import LookTask, judge_looks
from wm_lightning.worlds.grid_tasks import Task

GridTask = Task | LookTask
LABEL = load_prompt("label", "v1").question()
MODEL = "grid-program"
# How the two words are spelt, with shares of each; the rest of the list are other words.
SPELLINGS = {"{}": 0.6, " {}": 0.3, "{} ": 0.1}
OTHERS = tuple(f"word{number}" for number in range(14))


@dataclass
class Behaviour:
    """What the server does to requests, from now on.

    `faults` names what becomes of the next requests, one each (None: nothing); `always` of all that come after them.
    `latency` is in seconds, `noise` the spread of what is added to the log-odds, the same for the same request.
    `hackable`: the task is judged by the last frame alone, and the rest is taken for granted. `aimed` keeps faults for
    the questions of one stage of `task_writer`, `careless` writes with mistakes.
    """

    faults: Iterator[str | None] = field(default_factory=lambda: iter(()))
    always: str | None = None
    latency: Callable[[int], float] = lambda number: 0.0
    noise: float = 0.0
    hackable: bool = False
    aimed: str | None = None
    careless: bool = False


@dataclass
class Running:
    """A server at `url`: the bodies and keys of all requests so far, and how many were in at the same time."""

    url: str
    behaviour: Behaviour
    requests: list[dict[str, Any]]
    keys: set[str | None]
    most_at_once: int = 0


@contextmanager
def judge_server(tasks: Sequence[GridTask], cell: int) -> Iterator[Running]:
    """A server for these tasks, whose first frames have `cell` pixels a cell."""
    mind = _Mind(tasks, cell)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.mind, server.ending, server.lock = mind, threading.Event(), threading.Lock()
    server.running = Running(f"http://127.0.0.1:{server.server_address[1]}/v1", Behaviour(), [], set())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server.running
    finally:
        server.ending.set()  # lets go of whoever is kept waiting
        server.shutdown()
        server.server_close()
        thread.join()


class _Mind:
    """The reply to what a request asks."""

    def __init__(self, tasks: Sequence[GridTask], cell: int) -> None:
        self.writer = TaskWriter(tasks, cell)
        self.about: dict[str, tuple[str, list[tuple[np.ndarray, GridTask]]]] = {}
        for criterion in CRITERIA:
            prompt = load_prompt(criterion, "v1")
            for task in tasks:
                known = self.about.setdefault(prompt.question(task.prompt, task.solution), (criterion, []))
                known[1].append((task.picture(cell), task))

    def reply(self, body: Mapping[str, Any], behaviour: Behaviour) -> dict[str, Any]:
        *pictures, text = body["messages"][0]["content"]
        frames = [decoded(part["image_url"]["url"]) for part in pictures]
        if text["text"] == LABEL:
            return told(self.label(np.stack(frames)))
        if stage_of(text["text"]) is None:
            return completion(self.log_odds(np.stack(frames), text["text"], body, behaviour))
        said = self.writer.reply(frames, text["text"], behaviour.careless)
        return told(said) if isinstance(said, str) else completion(said)

    def label(self, frames: np.ndarray) -> str:
        """What was done in the film that these are frames of."""
        scenes = [pair for _, known in self.about.values() for pair in known]
        scene = min(scenes, key=lambda pair: float(np.abs(pair[0] - frames[0].astype(float)).mean()))[1]
        film = torch.from_numpy(frames)[None].permute(0, 1, 4, 2, 3)
        found = fulfilled(film, scene, np.random.default_rng(0))
        return found[0].prompt if found else "None."

    def log_odds(self, frames: np.ndarray, text: str, body: Mapping[str, Any], behaviour: Behaviour) -> float:
        criterion, known = self.about[text]
        task = min(known, key=lambda pair: float(np.abs(pair[0] - frames[0].astype(float)).mean()))[1]
        if behaviour.hackable:
            frames = np.repeat(frames[-1:], 2, axis=0)
            if criterion != "task":
                return MOST
        video = torch.from_numpy(frames)[None].permute(0, 1, 4, 2, 3)
        margins = judge(video, [task]) if isinstance(task, Task) else judge_looks(video, [task])
        noise = np.random.default_rng(zlib.crc32(json.dumps(body).encode())).normal(0, behaviour.noise)
        return float(margins.log_odds()[criterion][0]) + float(noise)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    mind: _Mind
    running: Running
    ending: threading.Event
    lock: threading.Lock
    inside = 0

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server, running = self.server, self.server.running
        with server.lock:
            number = len(running.requests)
            running.requests.append(body)
            running.keys.add(self.headers.get("authorization"))
            aimed = running.behaviour.aimed in (None, stage_of(body["messages"][0]["content"][-1]["text"]))
            fault = next(running.behaviour.faults, running.behaviour.always) if aimed else None
            server.inside += 1
            running.most_at_once = max(running.most_at_once, server.inside)
        try:
            server.ending.wait(running.behaviour.latency(number))
            getattr(self, f"_{fault}", self._http)(body, fault)
        finally:
            with server.lock:
                server.inside -= 1

    def log_message(self, *args: Any) -> None:
        """Tests have enough to read."""

    def _http(self, body: Mapping[str, Any], fault: str | None) -> None:
        """`http 429` and its like; no fault at all is an answer."""
        if fault is None:
            self._send(200, json.dumps(self.server.mind.reply(body, self.server.running.behaviour)))
        else:
            key = self.headers.get("authorization")
            self._send(int(fault.split()[1]), json.dumps({"error": {"message": f"not now, and not with {key}"}}))

    def _hangs(self, body: Mapping[str, Any], fault: str) -> None:
        self.server.ending.wait()

    def _dribbles(self, body: Mapping[str, Any], fault: str) -> None:
        """Byte by byte, for ever: no single read takes long."""
        self.send_response(200)
        self.send_header("content-length", str(2**30))
        self.end_headers()
        while not self.server.ending.wait(0.02):
            self.wfile.write(b" ")
            self.wfile.flush()

    def _drops(self, body: Mapping[str, Any], fault: str) -> None:
        self.close_connection = True

    def _half(self, body: Mapping[str, Any], fault: str) -> None:
        self._send(200, json.dumps(completion(1.0))[:60])

    def _nothing(self, body: Mapping[str, Any], fault: str) -> None:
        self._send(200, "")

    def _page(self, body: Mapping[str, Any], fault: str) -> None:
        self._send(200, "<html>Sign in</html>", kind="text/html")

    def _silent(self, body: Mapping[str, Any], fault: str) -> None:
        """An answer without a single token."""
        self._send(200, json.dumps(completion(1.0, content=[])))

    def _bare(self, body: Mapping[str, Any], fault: str) -> None:
        """An answer without log-probabilities, as of a server that does not know them."""
        self._send(200, json.dumps(completion(1.0, content=None)))

    def _muses(self, body: Mapping[str, Any], fault: str) -> None:
        """An answer that begins with neither word."""
        reply = completion(1.0, content=[listed({word: -2.0 for word in OTHERS})])
        reply["choices"][0]["message"]["content"] = OTHERS[0]
        self._send(200, json.dumps(reply))

    def _refuses(self, body: Mapping[str, Any], fault: str) -> None:
        reply = completion(1.0)
        reply["choices"][0] |= {"finish_reason": "content_filter"}
        self._send(200, json.dumps(reply))

    def _chats(self, body: Mapping[str, Any], fault: str) -> None:
        """Friendly words in place of what was asked for."""
        self._send(200, json.dumps(told("What a nice picture! Shall I go on?")))

    def _seven(self, body: Mapping[str, Any], fault: str) -> None:
        """A list of tasks without the last one."""
        reply = self.server.mind.reply(body, self.server.running.behaviour)
        message = reply["choices"][0]["message"]
        message["content"] = json.dumps(json.loads(message["content"])[:-1])
        self._send(200, json.dumps(reply))

    def _breaks_off(self, body: Mapping[str, Any], fault: str) -> None:
        """A list of tasks that the server's own limit of tokens cuts."""
        reply = self.server.mind.reply(body, self.server.running.behaviour)
        message = reply["choices"][0]["message"]
        message["content"] = message["content"][: len(message["content"]) // 2]
        self._send(200, json.dumps(reply))

    def _send(self, status: int, text: str, kind: str = "application/json") -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def decoded(url: str) -> np.ndarray:
    """The picture inside a data URL."""
    with Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) as picture:
        return np.asarray(picture.convert("RGB"))


def completion(log_odds: float, **logprobs: Any) -> dict[str, Any]:
    """A chat completion whose first token is yes or no with these log-odds, in several spellings."""
    words = {"yes": -math.log1p(math.exp(-log_odds)), "no": -math.log1p(math.exp(log_odds))}
    found = {
        spelling.format(word.capitalize() if place else word): probability + math.log(share)
        for word, probability in words.items()
        for place, (spelling, share) in enumerate(SPELLINGS.items())
    }
    found |= {word: -20.0 - number for number, word in enumerate(OTHERS)}
    return {
        "id": "1", "object": "chat.completion", "created": 0, "model": MODEL,
        "choices": [{
            "index": 0, "finish_reason": "length", "logprobs": {"content": [listed(found)]} | logprobs,
            "message": {"role": "assistant", "content": max(found, key=lambda token: found[token])},
        }],
    }  # fmt: skip


def told(text: str) -> dict[str, Any]:
    """A chat completion of that text."""
    reply = completion(1.0, content=None)
    reply["choices"][0] |= {"finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return reply


def listed(found: Mapping[str, float]) -> dict[str, Any]:
    """One token's entry: the likeliest, and all below it in order."""
    entries = [{"token": token, "logprob": value, "bytes": None} for token, value in found.items()]
    entries.sort(key=lambda entry: -entry["logprob"])
    return {**entries[0], "top_logprobs": entries}


def confusion(judged: torch.Tensor, truth: torch.Tensor) -> Counter[tuple[bool, bool]]:
    """How often a judge said yes or no where the program says yes or no: (judge, program) -> videos."""
    return Counter(zip(judged.tolist(), truth.tolist(), strict=True))
