"""A small server with the OpenAI chat API on 127.0.0.1, which misbehaves as such servers do by a script; its client."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from file_server import running
from pydantic import SecretStr

from xcoop.cli import main
from xcoop.concepts.chat import Client
from xcoop.concepts.elicitation import Answer, Query, Tally, ask_all, open_store

GOOD = {"nevus": ["regular network", "uniform color"], "melanoma": ["blue veil", "irregular streaks"]}
KEY = "sk-planted-0123456789"

Act = Callable[["Handler"], None]


@dataclass
class ChatServer:
    """What comes next (`script`; its last act stays), what was asked, and whether the test is over."""

    script: list[Act]
    requests: list[dict[str, Any]] = field(default_factory=list)
    guard: Any = field(default_factory=threading.Lock)
    over: threading.Event = field(default_factory=threading.Event)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """Notes each request, and does what the script says next."""

    protocol_version = "HTTP/1.1"
    chat: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.chat.guard:
            self.chat.requests.append({"path": self.path, "key": self.headers["authorization"], **body})
            script = self.chat.script
            act = script.pop(0) if len(script) > 1 else script[0]
        act(self)

    def send(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@contextmanager
def serving(*script: Act) -> Iterator[ChatServer]:
    """The server while it runs."""
    chat = ChatServer(list(script))
    with running(type("Own", (Handler,), {"chat": chat})) as address:
        chat.url = f"{address}/v1"
        try:
            yield chat
        finally:
            chat.over.set()


def completion(text: str | None) -> bytes:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "tiny-1", "choices": [choice]}
    ).encode()


def says(answer: Any) -> Act:
    """A good response; what is no text is sent as JSON."""
    text = answer if isinstance(answer, str) or answer is None else json.dumps(answer)
    return lambda handler: handler.send(200, completion(text))


def fails(status: int, message: str = "no", **headers: str) -> Act:
    """A failure; the client is asked to wait a moment only."""
    body = json.dumps({"error": {"message": message}}).encode()
    return lambda handler: handler.send(status, body, **{"retry_after_ms": "1", **headers})


def sends(body: bytes, kind: str = "application/json") -> Act:
    return lambda handler: handler.send(200, body, kind)


def hangs(handler: Handler) -> None:
    handler.chat.over.wait(20)


def floods(status: int) -> Act:
    """An answer as long as it is taken."""

    def act(handler: Handler) -> None:
        handler.wfile.write(f"HTTP/1.1 {status} x\r\ncontent-type: application/json\r\n\r\n".encode())
        with suppress(OSError):
            while not handler.chat.over.is_set():
                handler.wfile.write(b" " * (1 << 16))
        handler.close_connection = True

    return act


def drips(status: int, head: str) -> Act:
    """A letter now and then, for ever, so that no single wait is long; the head ends in the headers or behind them."""

    def act(handler: Handler) -> None:
        handler.wfile.write(f"HTTP/1.1 {status} x\r\n{head}".encode())
        with suppress(OSError):
            while not handler.chat.over.wait(0.05):
                handler.wfile.write(b"y")
        handler.close_connection = True

    return act


def resets(handler: Handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()
    handler.close_connection = True


def breaks_off(handler: Handler) -> None:
    """Promises more than it sends."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(completion("{}")[:40])
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


# Who asks.

TEMPLATE = "a dermoscopic photo of a {class}, {concepts}."
QUERY = Query(
    dataset="Toy",
    classes=("nevus", "melanoma"),
    template=TEMPLATE,
    picture="a dermoscopic photo",
    model="tiny",
    host="127.0.0.1",
    concepts=8,
)
NO_KEY = SecretStr("")


def ask(
    server: ChatServer,
    folder: Path,
    samples: int = 1,
    retries: int = 1,
    query: Query = QUERY,
    timeout: float = 30.0,
) -> tuple[Tally, list[Answer]]:
    """What happened, and what was stored."""
    client = Client(server.url, query.model, NO_KEY, timeout, retries)
    with open_store(folder / "bank.answers.jsonl", query, resume=True) as store:
        ask_all(client, store, samples, retries + 1, tally := Tally())
        return tally, store.answers


def command(server: ChatServer, out: Path, *more: str) -> int:
    words = ["--model", "tiny", "--base-url", server.url, "--out", str(out), "--timeout", "30", "--retries", "0", *more]
    return main(["concepts", "elicit", "phantom", *words])
