"""The demo over real loopback sockets: an image is explained, everything else is refused with a reason."""

from __future__ import annotations

import io
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection

import numpy as np
import pytest
from page_samples import entry
from PIL import Image

from xcoop.explain import demo, upload

SEEN: list[bytes] = []


def explain(data: bytes) -> object:
    SEEN.append(data)
    return entry()


@pytest.fixture(scope="module")
def server() -> Iterator[demo.DemoServer]:
    with demo.DemoServer(explain) as made:  # type: ignore[arg-type]
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def png(side: int = 40) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


def form(data: bytes, name: str = "mole.png") -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
    return head.encode() + b"Content-Type: image/png\r\n\r\n" + data + b"\r\n--b--\r\n"


def ask(
    server: demo.DemoServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, str, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    sent = {"Content-Type": "multipart/form-data; boundary=b"} | {k.replace("_", "-"): v for k, v in headers.items()}
    connection.request(method, path, body, sent)
    answer = connection.getresponse()
    found = answer.status, answer.read().decode(), dict(answer.getheaders())
    connection.close()
    return found


def test_the_form_is_served(server: demo.DemoServer) -> None:
    status, page, headers = ask(server, "GET", "/")
    assert status == 200
    assert 'enctype="multipart/form-data"' in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert server.url.startswith("http://127.0.0.1:")


def test_an_image_gets_its_card_and_arrives_unchanged(server: demo.DemoServer) -> None:
    status, page, _ = ask(server, "POST", "/explain", form(png(), "<b>.png"))
    assert status == 200
    assert '<article class="card"' in page
    assert "&lt;b&gt;.png" in page
    assert SEEN[-1] == png()


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG\r\n\x1a\n", png()[:200]])
def test_what_is_no_image_is_refused(server: demo.DemoServer, data: bytes) -> None:
    before = len(SEEN)
    status, page, _ = ask(server, "POST", "/explain", form(data, "notes<.txt"))
    assert status == 415
    assert "notes&lt;.txt is no image" in page
    assert len(SEEN) == before


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused(server: demo.DemoServer) -> None:
    data = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(data, "PNG")
    status, page, _ = ask(server, "POST", "/explain", form(data.getvalue()))
    assert status == 415
    assert "12000 x 12000 pixels" in page


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/explain", {}, 404),
        ("GET", "/../etc/passwd", {}, 404),
        ("PUT", "/", {}, 405),
        ("GET", "/", {"Host": "evil.example:80"}, 421),
        ("POST", "/", {}, 404),
        ("POST", "/explain", {"Origin": "http://evil.example"}, 403),
        ("POST", "/explain", {"Origin": "null"}, 403),
        ("POST", "/explain", {"Sec_Fetch_Site": "cross-site"}, 403),
        ("POST", "/explain", {"Content_Type": "text/plain"}, 415),
        ("POST", "/explain", {"Content_Type": "multipart/form-data"}, 400),
    ],
)
def test_refusals(server: demo.DemoServer, method: str, path: str, headers: dict[str, str], status: int) -> None:
    assert ask(server, method, path, form(png()) if method == "POST" else None, **headers)[0] == status


def raw(server: demo.DemoServer, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What comes back for bytes that are sent one after the other; b"" if the connection is cut."""
    with socket.create_connection(("127.0.0.1", server.server_address[1]), timeout=10) as connection:
        found = b""
        with suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            while block := connection.recv(1 << 16):
                found += block
        return found


@pytest.mark.parametrize(
    "start",
    [b"G", b"GET / HTTP/1.1\r\nX: ", b"POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"],
)
def test_a_request_that_trickles_in_is_cut(
    start: bytes, server: demo.DemoServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "DEADLINE", 0.4)
    before = time.monotonic()
    raw(server, start, *[b"x"] * 200, pause=0.05)
    assert time.monotonic() - before < 8
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_long_explanation_is_waited_for(server: demo.DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DEADLINE", 0.3)
    monkeypatch.setattr(server, "explain", lambda data: time.sleep(0.6) or explain(data))
    assert ask(server, "POST", "/explain", form(png()))[0] == 200


def test_long_headers_are_refused(server: demo.DemoServer) -> None:
    many = {f"X_{number}": "y" * 1000 for number in range(20)}
    status, page, _ = ask(server, "GET", "/", **many)
    assert status == 431
    assert "16,384 characters of headers" in page
    assert raw(server, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n").startswith(b"HTTP/1.0 431")


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("multipart/form-data; boundary=b", b"--b\r\nA: b\r\n\r\nx\r\n" * 10**6, "more than 16 parts"),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"A: " + b"(" * 10**6 + b"\r\n\r\nx\r\n--b--", "too long"),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"A: b\r\n" * 10**6 + b"\r\nx\r\n--b--", "too long"),
        ("multipart/form-data; boundary=" + "b" * 71, b"x", "at most 70"),
        ("multipart/form-data; boundary=b", (b"--b" + b" " * 1000 + b"x\r\n") * 10**4, "no image"),
    ],
)
def test_a_form_that_grows_is_refused_at_once(content_type: str, body: bytes, message: str) -> None:
    start = time.process_time()
    with pytest.raises(upload.Refused, match=message):
        upload.picture(content_type, body)
    assert time.process_time() - start < 3


def test_a_long_name_is_cut() -> None:
    assert len(upload._part("multipart/form-data; boundary=b", form(b"x", "n" * 3000))[0]) < 110


def test_a_port_that_cannot_be_had_is_named(server: demo.DemoServer) -> None:
    for port in (server.server_address[1], 99999):
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1, port {port}: .*port 0 takes any"):
            demo.DemoServer(explain, port=port)  # type: ignore[arg-type]


SERVE = """
import sys, time, types
sys.modules["xcoop.explain.report"] = report = types.ModuleType("report")  # the real one would import torch
report.entry_of_bytes = lambda *_: None
from xcoop.commands import explain
class Run: results = {"is_phantom": False}
class Arguments: host, port, method = "127.0.0.1", 0, ""
explain._demo(Run(), Arguments())
print("ended", flush=True)
time.sleep(60)  # an end that takes its time
"""


def test_the_second_interruption_ends_it_without_a_traceback() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "Drop an image" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "ended\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in errors


def test_too_large_a_body_is_refused(server: demo.DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "MOST", 1000)
    status, page, _ = ask(server, "POST", "/explain", form(b"x" * 2000))
    assert status == 413
    assert "at most 1,000" in page


def test_the_own_origin_is_served(server: demo.DemoServer) -> None:
    own = f"127.0.0.1:{server.server_address[1]}"
    assert ask(server, "POST", "/explain", form(png()), Origin=f"http://{own}", Sec_Fetch_Site="same-origin")[0] == 200


def test_a_failing_model_says_nothing_of_itself(server: demo.DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(data: bytes) -> object:
        raise RuntimeError("secret")

    monkeypatch.setattr(server, "explain", fail)
    status, page, _ = ask(server, "POST", "/explain", form(png()))
    assert status == 500
    assert "secret" not in page


@pytest.mark.parametrize("data", [b"\r\n", b"\n\r\r\n--", bytes(range(256)) * 300, b"\r", b"--b-"])
def test_bytes_of_a_form_arrive_as_they_are(data: bytes) -> None:
    assert upload._part("multipart/form-data; boundary=b", form(data)) == ("mole.png", data)


def test_the_loopback_of_ipv6_is_served_too() -> None:
    try:
        made = demo.DemoServer(explain, "::1")  # type: ignore[arg-type]
    except OSError:
        pytest.skip("no IPv6 here")
    with made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        connection = HTTPConnection("::1", made.server_address[1], timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        assert made.url == f"http://[::1]:{made.server_address[1]}/"
        connection.close()
        made.shutdown()
        thread.join()
