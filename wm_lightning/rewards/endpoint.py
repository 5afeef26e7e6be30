"""Questions about pictures, asked of a server that speaks OpenAI's chat completions (vLLM, SGLang, a hosted model)."""

import asyncio
import logging
import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import openai

from wm_lightning.rewards.frames import Encoding, data_url
from wm_lightning.rewards.questions import Question
from wm_lightning.rewards.reward import UNREACHED, Failed

log = logging.getLogger(__name__)

# Answers of a server that is busy or ill, and may be well again.
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
Hear = Callable[[int, str | Failed], None]
# Of the system: pauses hang on no seed, and no seeded draw on pauses.
CHANCE = random.SystemRandom()


class Endpoint:
    """The model `model` of the server at `url` (`http://host:port/v1`), and how patiently it is asked.

    At most `concurrency` questions of a batch are out at once. Each is tried `1 + retries` times, for `timeout` seconds
    each time, after pauses that grow from `backoff` seconds and are no longer than `timeout`. `key_variable` names the
    environment variable with the server's key (null: it wants none); the key is read when it is needed and kept
    nowhere. `extra` joins every request's body: what this server must be told, for example not to think first.
    """

    def __init__(
        self, *, url: str, model: str, key_variable: str | None, encoding: Encoding, concurrency: int, timeout: float,
        retries: int, backoff: float, extra: Mapping[str, Any],
    ) -> None:  # fmt: skip
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url=} is no address of a server, such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                f"the url of {parts.hostname} holds a user, password or query, which logs would show; a key comes from "
                f"the environment variable that key_variable names"
            )
        if concurrency < 1 or timeout <= 0 or retries < 0 or backoff < 0:
            raise ValueError(f"{concurrency=} of 1 or more, {timeout=} over 0, {retries=} and {backoff=} of 0 or more")
        self.url, self.model, self.key_variable = url, model, key_variable
        self.encoding: Encoding = encoding
        self.concurrency, self.timeout, self.retries, self.backoff = concurrency, timeout, retries, backoff
        self.extra = dict(extra)
        self._told: set[str] = set()
        self._key()  # a missing one is found now, not after the first videos are made

    def ask(
        self, questions: Sequence[Question], options: Mapping[str, Any], hear: Hear | None = None
    ) -> list[str | Failed]:
        """The body of the reply to each question, or why there is none. `options` are those of a chat completion.

        `hear` is told each as it comes, with its question's place; what it raises ends the asking. Not to be called
        from a thread that runs an event loop.
        """
        return asyncio.run(self._ask_all(questions, options, hear)) if questions else []

    async def _ask_all(
        self, questions: Sequence[Question], options: Mapping[str, Any], hear: Hear | None
    ) -> list[str | Failed]:
        slots = asyncio.Semaphore(self.concurrency)
        # Without a key of its own the client would send that of OPENAI_API_KEY to whatever server this is.
        key = self._key() or "none"
        async with openai.AsyncOpenAI(base_url=self.url, api_key=key, max_retries=0) as client:

            async def asked(place: int, question: Question) -> str | Failed:
                async with slots:
                    # Pictures are encoded beside the loop, which would serve nobody meanwhile.
                    reply = await self._patiently(client, await asyncio.to_thread(self._body, question, options))
                    if hear is not None:
                        hear(place, reply)
                    return reply

            tasks = [asyncio.ensure_future(asked(place, question)) for place, question in enumerate(questions)]
            try:
                return await asyncio.gather(*tasks)
            finally:
                for task in tasks:  # whom nobody hears any more
                    task.cancel()

    def _body(self, question: Question, options: Mapping[str, Any]) -> dict[str, Any]:
        # Pictures first: questions about the same video then begin alike, and a server computes that part once.
        urls = [data_url(picture, self.encoding) for picture in question.pictures]
        content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content.append({"type": "text", "text": question.text})
        messages = [{"role": "user", "content": content}]
        return {"model": self.model, "messages": messages, "extra_body": self.extra, **options}

    async def _patiently(self, client: openai.AsyncOpenAI, body: Mapping[str, Any]) -> str | Failed:
        failed, wanted = Failed("not asked"), 0.0
        for attempt in range(self.retries + 1):
            if attempt:
                # Chance keeps many that failed together from coming back together.
                grown = self.backoff * 2 ** (attempt - 1) * CHANCE.uniform(0.5, 1.5)
                await asyncio.sleep(min(max(grown, wanted), self.timeout))
            try:
                # The client's own timeout is of one read, and a server that sends byte by byte would outlast it.
                async with asyncio.timeout(self.timeout):
                    return (await client.chat.completions.with_raw_response.create(**body)).text
            except (TimeoutError, openai.APITimeoutError):
                failed = Failed("timeout")
            except openai.APIStatusError as error:
                failed, wanted = Failed(f"http {error.status_code}"), _asked_pause(error)
                self._tell(failed.reason, error.message)
                if error.status_code not in PASSING:
                    return failed
            except openai.APIConnectionError as error:
                failed = Failed(UNREACHED)
                self._tell(failed.reason, str(error.__cause__ or error))
        return failed

    def _tell(self, reason: str, message: str) -> None:
        """Logs what the server says about a fault, once a fault."""
        if reason not in self._told:
            self._told.add(reason)
            key = self._key()
            log.warning("%s: %s: %s", self.url, reason, (message.replace(key, "***") if key else message)[:300])

    def _key(self) -> str | None:
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable)
        # What cannot stand in a header would be quoted, key and all, by whoever refuses it.
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                f"the environment variable {self.key_variable} holds no key for {self.url} (one line of plain "
                f"letters); set it (an .env file will do), or set key_variable to null for a server that wants none"
            )
        return key


def _asked_pause(error: openai.APIStatusError) -> float:
    """The seconds that the server wants to be left alone."""
    try:
        return max(0.0, float(error.response.headers.get("retry-after", 0)))
    except ValueError:  # a date, which nobody sends with whole seconds to wait
        return 0.0
