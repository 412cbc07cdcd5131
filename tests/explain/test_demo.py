"""The demo over a real loopback socket: an image is explained, anything else is refused with a reason."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_samples import image
from PIL import Image

from xcoop.explain import demo
from xcoop.explain.content import ImageEntry
from xcoop.explain.html import Notice
from xcoop.utils.images import open_bytes

SEEN: list[bytes] = []
client_of = pytest.importorskip("gradio_client")


def explain(data: bytes, name: str) -> ImageEntry:
    open_bytes(data, name)  # what may be an image is the image reader's business
    if name.startswith("fail"):
        raise RuntimeError("secret")
    SEEN.append(data)
    return image().model_copy(update={"path": name})


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    made = demo.demo(explain, Notice(is_phantom=True))
    demo.launch(made, "127.0.0.1", 0)
    yield made
    made.close()


def ask(page: Any, path: Path) -> str:
    client = client_of.Client(page.local_url, verbose=False, analytics_enabled=False)
    return str(client.predict(client_of.handle_file(path), api_name="/explain"))


def png(path: Path, side: int = 40) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_an_image_gets_its_card_and_arrives_unchanged(page: Any, tmp_path: Path) -> None:
    path = png(tmp_path / "mole.png")
    html = ask(page, path)
    assert html.startswith('<iframe sandbox=""')
    inner = unescape(html.partition('srcdoc="')[2].partition('"')[0])
    assert '<article class="card"' in inner
    assert "mole.png, explained" in inner
    assert "drawn, not photographed" in inner
    assert SEEN[-1] == path.read_bytes()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_image_is_refused_with_the_reason(page: Any, tmp_path: Path) -> None:
    bomb = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(bomb, "PNG")
    whole = png(tmp_path / "whole.png").read_bytes()
    files = {
        "notes.txt": (b"hello", "no known"),
        "cut.png": (whole[:200], "cut.png"),
        "bomb.png": (bomb.getvalue(), "12000 x 12000"),
    }
    before = len(SEEN)
    for name, (data, reason) in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(client_of.exceptions.AppError, match=reason):
            ask(page, tmp_path / name)
    assert len(SEEN) == before


def test_a_failing_model_says_nothing_of_itself(page: Any, tmp_path: Path) -> None:
    with pytest.raises(client_of.exceptions.AppError) as failed:
        ask(page, png(tmp_path / "fail.png"))
    assert "secret" not in str(failed.value)


def test_it_is_local_and_tells_nobody(page: Any) -> None:
    assert page.local_url.startswith("http://127.0.0.1:")
    assert page.share_url is None
    assert not page.analytics_enabled


def test_a_port_that_cannot_be_had_is_named(page: Any) -> None:
    port = int(page.local_url.rstrip("/").rpartition(":")[2])
    with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1, port {port}: .*port 0 takes any"):
        demo.launch(demo.demo(explain, Notice(is_phantom=False)), "127.0.0.1", port)


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"xcoop\[demo\]"):
        demo.demo(explain, Notice(is_phantom=False))


SERVE = """
import sys, time, types
sys.modules["xcoop.explain.report"] = report = types.ModuleType("report")  # the real one would import torch
report.entry_of_bytes = lambda *_: None
from xcoop.commands import explain
from xcoop.explain.html import Notice
class Run:
    def notice(self, method): return Notice(False)
class Arguments: host, port, method = "127.0.0.1", 0, ""
explain._demo(Run(), Arguments())
print("ended", flush=True)
time.sleep(60)  # an end that takes its time
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_second_interruption_ends_it_without_a_traceback(first: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Whatever fails below, a page that waits for an interruption must not be waited for.
    deadline = threading.Timer(120, process.kill)
    deadline.start()
    try:
        assert process.stdout is not None
        assert "Drop an image" in process.stdout.readline()
        process.send_signal(first)
        assert process.stdout.readline() == "ended\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    finally:
        deadline.cancel()
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in errors


def test_an_interruption_in_a_finaliser_is_not_lost() -> None:
    interrupted = """
class Finalised:
    def __del__(self):
        import os, signal
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100): pass  # the signal is handled in here
explain.say = lambda text: Finalised() and None
"""
    served = SERVE.replace("class Run", f"{interrupted}class Run").replace("time.sleep(60)", "")
    done = subprocess.run([sys.executable, "-c", served], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "ended\n")
