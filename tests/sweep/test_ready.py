"""What is not there is said once, before anything is started, and nothing is left behind."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[1] / "results"))

from synthetic_runs import write

from xcoop.backbones import openai
from xcoop.cli import main
from xcoop.concepts.bank import skeleton
from xcoop.config.plugins import load_plugins
from xcoop.data.dataset import MedicalDataset
from xcoop.datasets.phantom import Phantom
from xcoop.sweep import launcher
from xcoop.sweep.job import FINISHED, Job, Outcome
from xcoop.sweep.ready import stops

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that a launcher was given; none of them is run."""
    given: list[Job] = []

    class Stand:
        def __init__(self, jobs: list[Job], *_: object, **__: object) -> None:
            given.extend(jobs)
            self.ends = {job.folder: Outcome(FINISHED) for job in jobs}

        def run(self) -> dict[Path, Outcome]:
            return self.ends

    monkeypatch.setattr(launcher, "Launcher", Stand)
    return given


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `xcoop` in an empty folder; the exit code and the standard error."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("DATA", "OUT", "SEEDS"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        return main(list(words)), capsys.readouterr().err

    return run


def left_behind() -> list[str]:
    return [str(path) for path in Path().rglob("*")]


def own_images(folder: Path, bank: bool) -> Path:
    for number in range(12):
        path = folder / ("leaf", "root")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 90, 40)).save(path)
    if bank:
        text = skeleton("mine", ["leaf", "root"]).replace("concept: ,", "concept: green veins,")
        (folder / "concepts.yaml").write_text(text.replace("atlas: ", 'atlas: "An atlas. 2020."', 1), encoding="utf-8")
    return folder


def test_a_dataset_that_is_not_there_is_said_once_for_all_seeds(command: Command, started: list[Job]) -> None:
    code, told = command("run", "derm7pt", "16")
    assert code == 2
    assert told.count("was not found") == 1
    assert "Get it from: https://derm.cs.sfu.ca" in told
    assert started == []
    assert left_behind() == []


def test_all_datasets_that_lack_are_named_together(
    command: Command, started: list[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("sweep", "derm7pt,phantom,ph2", "CoOp", "1", "1 2", "--cfg", "phantom")
    code, told = command(*words)
    assert (code, started, left_behind()) == (2, [], [])
    head, *lines, last = told.splitlines()
    assert head == "xcoop: nothing was started: 2 things stop 4 of 6 runs; --skip-missing runs the others"
    assert [line.partition(":")[0].strip() for line in lines] == ["derm7pt", "ph2"]
    assert all(line.endswith("was not found.") for line in lines)
    assert last == "`xcoop data check NAME` says more."
    assert main([*words, "--dry-run"]) == 0
    listed = capsys.readouterr().out
    assert listed.count("\ncannot be run: ") == 2
    code, told = command(*words, "--skip-missing")
    assert code == 0
    assert [job.folder.parts[1] for job in started] == ["phantom", "phantom"]


def test_with_nothing_left_nothing_is_run(command: Command, started: list[Job]) -> None:
    code, told = command("sweep", "derm7pt,ph2", "CoOp", "1", "1", "--skip-missing")
    assert (code, started) == (2, [])
    assert "nothing is left to run" in told


def test_an_evaluation_goes_with_the_run_it_builds_on(command: Command, started: list[Job]) -> None:
    words = ("sweep", "derm7pt,phantom", "CoOp", "1", "1", "--cfg", "phantom", "--setting", "cross")
    code, _ = command(*words, "--targets", "phantom", "--skip-missing")
    assert code == 0
    assert {job.folder.parts[1] for job in started} == {"phantom"}


def test_a_wrong_path_of_own_images(command: Command, started: list[Job]) -> None:
    own_images(Path("my_images"), bank=True)
    before = left_behind()
    code, told = command("run", "folder", "2", "XCoOp", "phantom", "DATASET.PATH", "my_imges")
    assert (code, started) == (2, [])
    assert "There is no folder or file my_imges (below the current folder: " in told
    assert "holds my_images/. Did you mean 'my_images'?" in told
    assert left_behind() == before


def test_a_bank_that_lacks_is_shown_once_and_stops_who_needs_it(command: Command, started: list[Job]) -> None:
    own_images(Path("my_images"), bank=False)
    Path("mine.yaml").write_text(yaml.safe_dump({"DATASET": {"NAME": "Folder", "PATH": "my_images"}}))
    words = ("sweep", "mine.yaml", "XCoOp CoOp", "2", "1 2", "--cfg", "phantom")
    code, told = command(*words)
    assert (code, started) == (2, [])
    assert told.count("names no concept bank") == 1
    assert told.splitlines()[-1] == "Nothing was started: 2 of 4 runs need it; --skip-missing runs the others."
    assert command(*words, "--skip-missing")[0] == 0
    assert [job.folder.parts[2] for job in started] == ["CoOp", "CoOp"]


def test_an_image_that_cannot_be_read_is_said_once(command: Command, started: list[Job]) -> None:
    own_images(Path("my_images"), bank=True)
    Path("my_images/leaf/4.png").write_bytes(b"none")
    code, told = command("run", "folder", "2", "XCoOp", "phantom", "DATASET.PATH", "my_images")
    assert (code, started) == (2, [])
    assert told.count("1 of 12 images cannot be read") == 1
    assert "leaf/4.png: no known picture format" in told


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """OpenAI's weights cannot be had; the names that were asked for."""
    asked: list[str] = []

    def fetch(name: str) -> Path:
        asked.append(name)
        raise ConnectionError(f"{name} cannot be downloaded")

    monkeypatch.setattr(openai, "fetch_openai", fetch)
    return asked


def test_weights_that_lack_are_asked_for_once_and_after_the_images(
    command: Command, started: list[Job], no_network: list[str]
) -> None:
    code, told = command("run", "phantom", "2", "CoOp", "vit_b16")
    assert (code, started, no_network) == (2, [], ["ViT-B/16"])
    assert told == "xcoop: ViT-B/16 cannot be downloaded\n"
    assert command("run", "derm7pt", "2", "CoOp", "vit_b16")[0] == 2
    assert no_network == ["ViT-B/16"], "nothing is downloaded for a run without images"
    assert left_behind() == []


@pytest.mark.parametrize("name", ["phantom", "ViT-B/16", "huggingface", "open_clip", "BiomedCLIP"])
def test_a_local_file_of_weights_that_is_not_there(command: Command, started: list[Job], name: str) -> None:
    pairs = ("MODEL.BACKBONE.NAME", name, "MODEL.BACKBONE.PATH", "nowhere.pt")
    code, told = command("run", "phantom", "2", "CoOp", "phantom", *pairs)
    assert (code, started) == (2, [])
    assert "nowhere.pt; MODEL.BACKBONE.PATH takes" in told


def test_a_dataset_is_looked_at_once_and_not_for_what_is_done(
    tmp_path: Path, command: Command, started: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    own_images(Path("my_images"), bank=True)
    read: list[Any] = []
    usual = MedicalDataset.examined.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(MedicalDataset, "examined", classmethod(lambda cls, cfg: read.append(cfg) or usual(cls, cfg)))
    words = ("run", "folder", "2", "XCoOp", "phantom", "DATASET.PATH", "my_images", "--out", str(tmp_path / "out"))
    threads = threading.active_count()
    assert command(*words)[0] == 0
    assert (len(read), len(started)) == (1, 3)
    assert threading.active_count() == threads, "workers may be forks"
    for job in started:
        assert job.cfg is not None
        write(job.cfg.clone(), correct=10)
    assert command(*words)[0] == 0
    assert len(read) == 1


def test_phantoms_and_datasets_of_another_programme_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from dassl.data.datasets import DATASET_REGISTRY

    load_plugins()
    monkeypatch.setattr(DATASET_REGISTRY, "get", lambda name: print if name == "Theirs" else Phantom)

    def job(name: str) -> Job:
        cfg = SimpleNamespace(DATASET=SimpleNamespace(NAME=name), TRAINER=SimpleNamespace(NAME="CoOp"))
        return Job((), Path("nowhere"), "a run", "", cfg=cfg)  # type: ignore[arg-type]

    assert stops([job("Theirs"), job("Phantom"), Job((), Path("nowhere"), "without a config", "")]) == {}
