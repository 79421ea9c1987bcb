"""A server that answers in the OpenAI chat format, or as badly as a test wants it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    after: threading.Event | None = None
    """Waits for it before it answers."""


def saying(content: Any) -> Reply:
    return Reply(body=json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode())


@dataclass
class Chat:
    endpoint: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def chat(reply: Callable[[dict[str, Any], int], Reply]) -> Iterator[Chat]:
    """`reply` sees what was asked, and how many questions came before it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server.paths.append(self.path)
            asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            server.headers.append(dict(self.headers))
            server.asked.append(asked)
            its = reply(asked, len(server.asked) - 1)
            if its.after is not None:
                its.after.wait(10)
            try:
                self.send_response(its.status)
                for name, value in {"Content-Length": str(len(its.body)), **its.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(its.body)
            except (BrokenPipeError, ConnectionResetError):
                pass  # who asked has given up

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    server = Chat(f"http://127.0.0.1:{listening.server_address[1]}/v1")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
