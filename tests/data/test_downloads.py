"""Downloads are checked, taken up again, and whole or absent; against a server that fails in every way."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer, serving

from xcoop.data import about as fetching
from xcoop.data.about import RemoteFile
from xcoop.utils import download as downloads
from xcoop.utils.download import Job, WebError, _Redirects, download

CONTENT = random.Random(0).randbytes(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "WAIT", 0.0)
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(CONTENT) as state:
        yield state


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "x.bin"


def names(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def whole(target: Path) -> bool:
    return target.read_bytes() == CONTENT and names(target) == ["x.bin"]


@pytest.mark.parametrize("checksum", ["", f"sha256:{SHA}", f"md5:{MD5}"])
def test_good(server: FileServer, target: Path, checksum: str) -> None:
    assert download(Job(server.url, target, len(CONTENT), checksum)) == SHA
    assert whole(target)
    assert server.asked == [None]


def test_a_cut_connection_is_taken_up(server: FileServer, target: Path) -> None:
    server.faults = ["cut:100000", "503", "cut:50000"]
    assert download(Job(server.url, target)) == SHA
    assert whole(target)
    assert server.asked == [None, "bytes=100000-", "bytes=100000-", "bytes=150000-"]


def test_a_later_call_takes_it_up(server: FileServer, target: Path) -> None:
    server.faults = ["cut:100000", *["500"] * 4]
    with pytest.raises(ConnectionError, match=r"500.*\. Ask someone"):
        download(Job(server.url, target, advice="Ask someone"))
    assert names(target) == ["x.bin.part", "x.bin.part.json"]
    assert target.with_name("x.bin.part").read_bytes() == CONTENT[:100_000]
    assert download(Job(server.url, target)) == SHA
    assert server.asked[-1] == "bytes=100000-"
    assert whole(target)


def test_a_server_that_disregards_ranges(server: FileServer, target: Path) -> None:
    server.faults = ["cut:100000", "no-range"]
    assert download(Job(server.url, target)) == SHA
    assert whole(target)


@pytest.mark.parametrize("checksum", [True, False])
def test_a_file_that_changed_is_not_mixed_with_what_it_was(server: FileServer, target: Path, checksum: bool) -> None:
    server.content, server.faults = bytes(200_000), ["cut:100000", "404"]
    with pytest.raises(ConnectionError, match="404"):
        download(Job(server.url, target))
    server.content = CONTENT
    assert download(Job(server.url, target, checksum=f"sha256:{SHA}" if checksum else "")) == SHA
    assert server.asked[-1] == "bytes=100000-", "If-Range had the old state, and the server sent all of the new one"
    assert whole(target)


def test_parts_of_an_unknown_state_are_not_trusted(server: FileServer, target: Path) -> None:
    server.validators, server.faults = False, ["cut:100000"]
    assert download(Job(server.url, target)) == SHA
    assert server.asked == [None, None]
    assert whole(target)


@pytest.mark.parametrize(
    ("part", "checksum", "asked"),
    [
        (b"something else", f"sha256:{SHA}", ["bytes=14-", None]),
        (CONTENT, f"md5:{MD5}", [f"bytes={len(CONTENT)}-"]),
        (CONTENT + b"more", f"md5:{MD5}", [f"bytes={len(CONTENT) + 4}-", None]),
    ],
    ids=["other bytes are downloaded anew once", "a whole part is only checked", "one that is too long"],
)
def test_parts_of_unknown_origin(
    server: FileServer,
    target: Path,
    part: bytes,
    checksum: str,
    asked: list[str | None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    target.parent.mkdir()
    target.with_name("x.bin.part").write_bytes(part)
    assert download(Job(server.url, target, checksum=checksum)) == SHA
    assert server.asked == asked
    assert ("downloaded anew" in caplog.text) == (part == b"something else")
    assert whole(target)


@pytest.mark.parametrize(
    ("size", "checksum", "message"),
    [
        (0, "sha256:" + "0" * 64, f"SHA-256 of what .* should be {'0' * 64}, and is {SHA}"),
        (0, "md5:" + "0" * 32, f"MD5 of what .* should be {'0' * 32}, and is {MD5}"),
        (299_999, "", "gives 300,000 bytes, and 299,999 are published"),
        (300_001, "", "gives 300,000 bytes, and 300,001 are published"),
    ],
)
def test_what_was_not_published_is_refused(
    server: FileServer, target: Path, size: int, checksum: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        download(Job(server.url, target, size, checksum))
    assert names(target) == []


def test_a_web_page_is_no_file(server: FileServer, target: Path) -> None:
    server.content = b"\n<!DOCTYPE html><html>log in</html>"
    with pytest.raises(ValueError, match="a web page"):
        download(Job(server.url, target))
    assert names(target) == []


@pytest.mark.parametrize("status", ["401", "403", "404", "410"])
def test_what_will_not_pass_is_asked_once(server: FileServer, target: Path, status: str) -> None:
    server.faults = [status]
    with pytest.raises(ConnectionError, match=rf"{server.url} cannot be downloaded \({status}"):
        download(Job(server.url, target))
    assert len(server.asked) == 1
    assert names(target) == []


def test_what_may_pass_is_asked_some_times(server: FileServer, target: Path) -> None:
    server.faults = ["500", "429", "502", "503"]
    assert download(Job(server.url, target)) == SHA
    target.unlink()
    server.faults = ["500"] * 99
    with pytest.raises(ConnectionError, match="500"):
        download(Job(server.url, target))
    assert len(server.faults) == 99 - downloads.TRIES


def test_redirections_are_followed_but_not_in_a_circle(server: FileServer, target: Path) -> None:
    server.faults = [f"redirect:{server.url}?again"]
    assert download(Job(server.url, target)) == SHA
    target.unlink()
    server.faults = [f"redirect:{server.url}"] * 99
    with pytest.raises(ConnectionError, match="loop"):
        download(Job(server.url, target))
    assert len(server.asked) <= 14


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_redirections_elsewhere_are_not_followed(server: FileServer, target: Path, to: str) -> None:
    server.faults = [f"redirect:{to}"]
    with pytest.raises(ConnectionError, match=f"'{to}'.*(is not allowed|is not followed)"):
        download(Job(server.url, target))
    assert len(server.asked) == 1
    assert names(target) == []


def test_redirections_from_https_to_http_are_not_followed() -> None:
    request = urllib.request.Request("https://safe.invalid/x")
    with pytest.raises(WebError, match=r"'http://unsafe\.invalid/x', which is not followed"):
        _Redirects().redirect_request(request, None, 302, "Found", {}, "http://unsafe.invalid/x")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "/etc/passwd", "data:,x", "https:///x"])
def test_other_addresses_are_refused(target: Path, url: str) -> None:
    with pytest.raises(ValueError, match=r"is no http\(s\) address"):
        download(Job(url, target))
    assert not target.parent.exists()


def test_nobody_answers(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match=rf"127\.0\.0\.1:{port}/x cannot be downloaded .*refused"):
        download(Job(f"http://127.0.0.1:{port}/x", target))


def test_without_a_network_nobody_waits(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, asked = socket.getaddrinfo, []

    def lookup(host: str, *rest: object, **more: object) -> object:
        if asked[-1:] != [False]:
            asked.append(True)
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return usual("127.0.0.1", *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with pytest.raises(ConnectionError, match="Temporary failure in name resolution"):
        download(Job(server.url, target))
    assert asked == [True]
    server.faults = ["cut:100000"]  # and what has begun is worth another try
    asked.append(False)
    assert download(Job(server.url, target)) == SHA


def test_a_silent_server_times_out(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xcoop.utils.download.SECONDS", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ConnectionError, match="timed out"):
            download(Job(f"http://127.0.0.1:{silent.getsockname()[1]}/x", target))


def test_a_full_disk_is_said_before(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(OSError, match=r"has 10 bytes free, and x\.bin needs 300,000") as caught:
        download(Job(server.url, target))
    assert caught.value.errno == 28
    assert names(target) == []


def test_a_disk_that_fills_up_is_named(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(28, os.strerror(28))

    job = Job(server.url, target)
    with pytest.raises(OSError, match=r"x\.bin\.part: No space left on device; what has come is kept"):
        downloads._write(job, Full(), b"x")  # type: ignore[arg-type]


def test_of_several_at_once_one_downloads(server: FileServer, target: Path) -> None:
    job = Job(server.url, target, checksum=f"sha256:{SHA}")
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(download(job))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [SHA] * 4
    assert whole(target)


def test_a_link_in_the_place_of_the_part_is_not_written_through(
    server: FileServer, target: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("precious")
    target.parent.mkdir()
    Job(server.url, target).part.symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=r"is a link, .*x\.bin\.part"):
        download(Job(server.url, target))
    assert (tmp_path / "mine").read_text() == "precious"


def test_progress_is_told_in_lines_where_there_is_no_terminal(
    server: FileServer, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        download(Job(server.url, target))
    assert "x.bin: 300,000 of 300,000 bytes (100%)" in caplog.text


class TestFetching:
    def test_what_is_there_is_not_downloaded_again(self, server: FileServer, tmp_path: Path) -> None:
        file = RemoteFile(server.url, "set/x.bin", checksum=f"md5:{MD5}")
        assert fetching.fetch(file, tmp_path) == fetching.fetch(file, tmp_path) == tmp_path / "set" / "x.bin"
        assert len(server.asked) == 1

    def test_what_is_there_is_not_overwritten(self, server: FileServer, tmp_path: Path) -> None:
        (tmp_path / "x.bin").write_bytes(b"mine")
        with pytest.raises(ValueError, match=r"has 4 bytes, and 300,000 are published.*move it away"):
            fetching.fetch(RemoteFile(server.url, "x.bin", len(CONTENT)), tmp_path)
        assert (tmp_path / "x.bin").read_bytes() == b"mine"

    def test_without_a_checksum_what_came_is_recorded_and_compared(
        self, server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = RemoteFile(server.url, "x.bin")
        fetching.fetch(file, tmp_path)
        assert "no checksum of x.bin is published" in caplog.text
        assert (tmp_path / "x.bin.sha256").read_text() == f"{SHA}  x.bin\n"
        (tmp_path / "x.bin").unlink()
        server.content = b"another file"
        with pytest.raises(ValueError, match=f"x.bin.sha256 recorded {SHA}"):
            fetching.fetch(file, tmp_path)

    @pytest.mark.parametrize("checksum", ["", f"sha256:{SHA}"])
    def test_of_several_at_google_drive_one_downloads(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checksum: str
    ) -> None:
        asked: list[str] = []

        def gives(id: str, output: str, quiet: bool, resume: bool) -> None:
            asked.append(id)
            time.sleep(0.2)
            Path(output).write_bytes(CONTENT)

        monkeypatch.setattr("gdown.download", gives)
        file = RemoteFile("gdrive:1A-b_c", "x.bin", checksum=checksum)
        threads = [threading.Thread(target=fetching.fetch, args=(file, tmp_path / "new")) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert asked == ["1A-b_c"]
        assert (tmp_path / "new" / "x.bin").read_bytes() == CONTENT
        assert names(tmp_path / "new" / "x.bin") == ["x.bin"] + ([] if checksum else ["x.bin.sha256"])

    @pytest.mark.parametrize("answer", [b"<html>too many users", RuntimeError("Cannot retrieve the link"), None])
    def test_google_drive_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes | Exception | None
    ) -> None:
        def fails(id: str, output: str, **_: object) -> None:
            if isinstance(answer, Exception):
                raise answer
            if answer:
                Path(output).write_bytes(answer)

        monkeypatch.setattr("gdown.download", fails)
        with pytest.raises((ConnectionError, ValueError), match=r"id=1A-b_c.*put it at .*x\.bin"):
            fetching.fetch(RemoteFile("gdrive:1A-b_c", "x.bin"), tmp_path)
        assert list(tmp_path.iterdir()) == []
