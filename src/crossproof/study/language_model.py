"""Asking a language model behind an OpenAI-compatible endpoint. Nothing is sent anywhere unless one is configured.

    model = LanguageModel(config, folder / "answers.jsonl")
    number = model.ask("You are careful.", "How many are two and two?", read=int)

Every answer is kept as a line of a file, so that a run that was killed asks nothing twice. What an answer should be is
the reader's to say: it raises ValueError where it cannot read one, the model is told so and asked once more, and then
there is no answer.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from email.message import Message
from hashlib import blake2b
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from pydantic import Field

from crossproof.crosscoder.config import Positive, Strict
from crossproof.errors import BadFile, CrossproofError
from crossproof.files import append_jsonl, read_jsonl, truncate_jsonl

Answer = TypeVar("Answer")

PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
"""What a server says when it is worth asking again."""
LONGEST_PAUSE = 60.0
SHOWN = 200
"""Characters of what a server said that go into an error."""


class LanguageModelConfig(Strict):
    """A language model to ask."""

    endpoint: str | None = None
    """Of an OpenAI-compatible server, without `/chat/completions`: http://localhost:8000/v1. Without one nothing is
    asked and nothing leaves this machine."""
    model: str = ""
    """The name that the server knows it by."""
    key_variable: str = "OPENAI_API_KEY"
    """The environment variable that holds the key; if it is empty, none is sent."""
    temperature: Annotated[float, Field(ge=0)] | None = 0.0
    """None: the server's own, for models that refuse one."""
    timeout: Positive = 120.0
    """Seconds to wait for an answer."""
    retries: Annotated[int, Field(ge=0)] = 5
    """How often a question is sent again that failed in passing."""


class LanguageModelError(CrossproofError):
    """A language model that cannot be asked."""


class LanguageModel:
    def __init__(self, config: LanguageModelConfig, answers: Path, pause: float = 1.0) -> None:
        """`answers`: where they are kept. `pause`: seconds before the first retry, doubled before each other."""
        check(config)
        self._config, self._file, self._pause = config, answers, pause
        self._url = f"{str(config.endpoint).rstrip('/')}/chat/completions"
        self._opener = build_opener(_NoRedirects)
        self._answers = _kept(answers)

    def ask(self, system: str, question: str, read: Callable[[str], Answer]) -> Answer | None:
        """What the answer says; None if it cannot be read, and neither can a second one."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        for _ in range(2):
            answer = self._answer(messages)
            try:
                return read(answer)
            except ValueError as error:
                messages += [
                    {"role": "assistant", "content": answer},
                    {
                        "role": "user",
                        "content": f"That could not be read: {error}. Answer again, in the form asked for.",
                    },
                ]
        return None

    def _answer(self, messages: list[dict[str, str]]) -> str:
        asked: dict[str, Any] = {"model": self._config.model, "messages": messages}
        if self._config.temperature is not None:
            asked["temperature"] = self._config.temperature
        body = json.dumps(asked)
        key = blake2b(f"{self._url}\n{body}".encode(), digest_size=16).hexdigest()
        if key not in self._answers:
            self._answers[key] = self._sent(body.encode())
            append_jsonl(self._file, {"key": key, "answer": self._answers[key]})
        return self._answers[key]

    def _sent(self, body: bytes) -> str:
        for number in range(self._config.retries + 1):
            wait = min(self._pause * 2**number, LONGEST_PAUSE)
            try:
                return _content(self._post(body))
            except HTTPError as error:
                said = f"{error.code} {error.reason}: {_start(error)}"
                if error.code not in PASSING:
                    raise LanguageModelError(f"{self._url} answered {said}{self._advice(error.code)}") from error
                wait = _asked_to_wait(error.headers, wait)
            except (URLError, OSError, HTTPException, _Unreadable) as error:
                said = str(error) or type(error).__name__
                if isinstance(getattr(error, "reason", error), ConnectionRefusedError):
                    raise LanguageModelError(
                        f"nothing listens at {self._url}: start the server, or give another --endpoint"
                    ) from error
            if number < self._config.retries:
                time.sleep(wait)
        raise LanguageModelError(
            f"{self._url} failed {self._config.retries + 1} times, the last time with: {said}. What it answered before "
            "is kept: repeat the command to go on"
        )

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        key = os.environ.get(self._config.key_variable, "").strip()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = Request(self._url, body, headers, method="POST")
        with self._opener.open(request, timeout=self._config.timeout) as response:
            return bytes(response.read())

    def _advice(self, code: int) -> str:
        if code in (401, 403):
            return f". Its key is read from the environment variable {self._config.key_variable}"
        if code == 404:
            return f". Is {self._config.model!r} a model it has, and does the endpoint end as its chat path begins?"
        return ""


def check(config: LanguageModelConfig) -> None:
    """Refuse what can be seen to be wrong before anything is asked."""
    parts = urlsplit(config.endpoint or "")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise LanguageModelError(f"endpoint {config.endpoint!r}: expected one like http://localhost:8000/v1")
    if not config.model:
        raise LanguageModelError(f"endpoint {config.endpoint}: say which model it should answer with (--model)")


class _Unreadable(Exception):
    """A response that is no chat answer."""


class _NoRedirects(HTTPRedirectHandler):
    """A redirected key would go to whom nobody named."""

    def redirect_request(
        self, req: Request, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        return None


def _content(response: bytes) -> str:
    """The text of the first choice, without what a model thought aloud before it."""
    try:
        content: Any = json.loads(response)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        start = response[:SHOWN].decode(errors="replace")
        raise _Unreadable(f"a response without choices[0].message.content: {start!r}") from error
    if not isinstance(content, str):
        raise _Unreadable(f"an answer that is no text: {str(content)[:SHOWN]!r}")
    return content.rsplit("</think>", 1)[-1].strip()


def _asked_to_wait(headers: Message, otherwise: float) -> float:
    """What the server says in seconds; a date is not read."""
    try:
        return min(max(float(headers.get("Retry-After", "")), 0.0), LONGEST_PAUSE)
    except ValueError:
        return otherwise


def _start(error: HTTPError) -> str:
    try:
        return error.read(SHOWN).decode(errors="replace")
    except (OSError, HTTPException):
        return ""


def _kept(file: Path) -> dict[str, str]:
    """Answers of an earlier run; a line that its end cut short is dropped."""
    try:
        truncate_jsonl(file, lambda line: True)
        return {str(line["key"]): str(line["answer"]) for line in read_jsonl(file)}
    except (ValueError, LookupError, TypeError) as error:
        raise BadFile(f"{file} is no file of answers ({error}); remove it to ask again") from error
