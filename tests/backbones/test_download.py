"""OpenAI's weights are downloaded once, checked, and whole or absent. The network is faked."""

from __future__ import annotations

import hashlib
import io
import logging
import urllib.error
from email.message import Message

import pytest

from xcoop.backbones import download
from xcoop.backbones.clip_import import import_clip
from xcoop.backbones.openai import NAMES
from xcoop.utils import download as downloads
from xcoop.utils import download as web

CONTENT = b"weights" * 1000
SHA = hashlib.sha256(CONTENT).hexdigest()
URL = f"https://models.invalid/{SHA}/ViT-B-16.pt"


class Network:
    """What a request gives, and how often it was asked."""

    def __init__(self, monkeypatch):
        self.content: bytes | Exception = CONTENT
        self.breaks_after: int | None = None
        self.asked = 0
        monkeypatch.setattr(web, "open_request", self.open)
        monkeypatch.setattr(downloads, "WAIT", 0.0)

    def open(self, request):
        assert request.full_url == URL
        self.asked += 1
        if isinstance(self.content, Exception):
            raise self.content
        return Answer(self.content, self.breaks_after)


class Answer(io.BytesIO):
    status = 200

    def __init__(self, content, breaks_after):
        super().__init__(content)
        self.breaks_after = breaks_after
        self.headers = Message()
        self.headers["Content-Length"] = str(len(content))

    def read1(self, size=-1):
        if self.breaks_after is not None and self.tell() >= self.breaks_after:
            raise ConnectionResetError("connection reset by peer")
        return super().read1(min(size, 1000))


@pytest.fixture
def network(monkeypatch):
    return Network(monkeypatch)


def test_good(network, tmp_path):
    path = download.fetch(URL, tmp_path / "clip")
    assert path == tmp_path / "clip" / "ViT-B-16.pt"
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["ViT-B-16.pt"]


def test_cached_valid(network, tmp_path):
    (tmp_path / "ViT-B-16.pt").write_bytes(CONTENT)
    assert download.fetch(URL, tmp_path).read_bytes() == CONTENT
    assert network.asked == 0


def test_cached_corrupted(network, tmp_path, caplog):
    (tmp_path / "ViT-B-16.pt").write_bytes(CONTENT[:-1])
    with caplog.at_level(logging.WARNING):
        assert download.fetch(URL, tmp_path).read_bytes() == CONTENT
    assert network.asked == 1
    assert f"{tmp_path / 'ViT-B-16.pt'} is damaged" in caplog.text


def helps(message, tmp_path):
    """Whether a message says what to do."""
    return all(part in message for part in (URL, str(tmp_path / "ViT-B-16.pt"), "MODEL.BACKBONE.PATH", "`phantom`"))


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", b"", b"<html>log in first</html>"])
def test_corrupted(network, tmp_path, content):
    network.content = content
    with pytest.raises(ValueError, match=r"SHA-256|a web page") as caught:
        download.fetch(URL, tmp_path)
    assert helps(str(caught.value), tmp_path)
    assert SHA in str(caught.value).replace(URL, "") or "web page" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("no route"),
        TimeoutError("timed out"),
        urllib.error.HTTPError(URL, 403, "no", Message(), None),
    ],
)
def test_offline(network, tmp_path, error):
    network.content = error
    with pytest.raises(ConnectionError) as caught:
        download.fetch(URL, tmp_path)
    assert helps(str(caught.value), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_broken_off_half_way_keeps_what_was_there(network, tmp_path):
    network.breaks_after = 3000
    (tmp_path / "ViT-B-16.pt").write_bytes(b"damaged, but perhaps somebody wants to look at it")
    with pytest.raises(ConnectionError, match="reset by peer"):
        download.fetch(URL, tmp_path)
    assert network.asked == downloads.TRIES
    assert (tmp_path / "ViT-B-16.pt").read_bytes().startswith(b"damaged")
    assert (tmp_path / "ViT-B-16.pt.part").read_bytes() == CONTENT[:3000]


def test_a_full_disk_is_not_called_a_network_failure(network, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 3})())
    with pytest.raises(OSError, match=r"has 3 bytes free, and ViT-B-16\.pt needs 7,000") as caught:
        download.fetch(URL, tmp_path)
    assert not isinstance(caught.value, ConnectionError)
    assert list(tmp_path.iterdir()) == []


def test_addresses_come_from_clip_and_the_folder_is_openais(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(download, "fetch", lambda url, folder: asked.append((url, folder)) or folder)
    download.fetch_openai("RN50")
    assert asked == [(import_clip().clip._MODELS["RN50"], tmp_path / ".cache" / "clip")]


def test_every_name_has_an_address_whose_folder_is_a_sha256():
    urls = import_clip().clip._MODELS
    assert set(NAMES) == set(urls)
    assert all(len(url.split("/")[-2]) == 64 and url.startswith("https://") for url in urls.values())


def test_a_clip_that_does_not_know_the_name(monkeypatch):
    monkeypatch.delitem(import_clip().clip._MODELS, "ViT-L/14")  # as in CoOp's copy
    with pytest.raises(ValueError, match=r"no address for the weights of ViT-L/14; it knows RN50.*BACKBONE\.PATH"):
        download.fetch_openai("ViT-L/14")
