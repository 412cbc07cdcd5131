"""`xcoop data`: lists, explains, fetches and checks; planted faults are found, and only those."""

from __future__ import annotations

import io
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from file_server import serving
from generated_trees import LAYOUTS
from PIL import Image
from tree_tools import config, picture

from xcoop.cli import main
from xcoop.config.merge import config_names
from xcoop.data import about as about_module
from xcoop.data.about import About, about, read_about
from xcoop.data.checking import Report, check
from xcoop.data.dataset import read_raw

VIRUS = "train/PNEUMONIA/person5_virus_10.jpeg"
TEST_NORMAL = "test/NORMAL/IM-0020-0000.jpeg"
ANOTHER = "train/NORMAL/IM-0001-0001.jpeg"
LEAKED = f"have their content in test too, left out: {ANOTHER} = {TEST_NORMAL}"


@pytest.fixture
def chest(root: Path) -> Path:
    """The generated tree of the pneumonia archive."""
    return LAYOUTS["pneumonia"].make(root)


def as_generated() -> About:
    """The facts of the pneumonia archive, with the numbers of the generated tree."""
    counts = {"train": {"normal": 48, "pneumonia": 48}, "test": {"normal": 12, "pneumonia": 12}}
    return replace(about("pneumonia"), counts={"normal-vs-pneumonia": counts})


def checked(root: Path) -> Report:
    return check(read_raw(config("pneumonia", root)), as_generated())


def serious(report: Report) -> list[tuple[str, str]]:
    return [(finding.severity, finding.kind) for finding in report.findings if finding.severity != "note"]


def turned(source: Path, target: Path) -> None:
    """The same picture in another format, turned, with the EXIF orientation that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(source).transpose(Image.Transpose.ROTATE_90).save(target, "PNG", exif=exif)


class TestCheck:
    def test_a_clean_tree(self, root: Path, chest: Path) -> None:
        report = checked(root)
        assert serious(report) == []
        assert (report.exit_code, report.verdict) == (0, "clean")
        assert report.sizes == {(12, 12): 120}
        assert report.modes == {"RGB": 120}
        assert [finding.kind for finding in report.findings] == ["splits", "sizes"]

    def test_a_copy_in_a_split_is_a_note(self, root: Path, chest: Path) -> None:
        shutil.copy(chest / "train/NORMAL/IM-0001-0000.jpeg", chest / "train/NORMAL/IM-0001-0001.jpeg")
        report = checked(root)
        assert serious(report) == []
        (finding,) = [finding for finding in report.findings if finding.kind == "content"]
        assert finding.text.startswith("1 train images have their content again, left out: train/NORMAL/IM-0001-0001")
        kept = check(read_raw(config("pneumonia", root, HYGIENE="report")), as_generated())
        (finding,) = [finding for finding in kept.findings if finding.kind == "content"]
        assert "left out" not in finding.text

    @pytest.mark.parametrize(
        ("damage", "kinds", "text"),
        [
            (lambda f: (f / TEST_NORMAL).unlink(), "matters counts", "test has 11 normal, 12 pneumonia; "),
            (lambda f: shutil.copy(f / TEST_NORMAL, f / ANOTHER), "matters content", LEAKED),
            (lambda f: turned(f / TEST_NORMAL, f / ANOTHER), "matters content", LEAKED),
            (
                lambda f: shutil.copy(f / "train/NORMAL/IM-0001-0000.jpeg", f / "train/PNEUMONIA/person1_virus_2.jpeg"),
                "matters content",
                "1 of them under another label",
            ),
            (
                lambda f: (f / VIRUS).rename(f / "train/PNEUMONIA/person20_virus_7.jpeg"),
                "matters patient",
                "1 train images have their patient in test too, left out: "
                "train/PNEUMONIA/person20_virus_7.jpeg (patient virus-20)",
            ),
            (
                lambda f: [(f / f"test/NORMAL/{i}.dcm").write_text("x") for i in range(4)],
                "matters reading",
                "4 files beside the images are left out: 4 .dcm (test/NORMAL/0.dcm, test/NORMAL/1.dcm, "
                "test/NORMAL/2.dcm, ...)",
            ),
            (
                lambda f: picture(f / "train/NORMAL/deeper/IM-0001-0001.png", 4711),
                "matters reading",
                "1 files beside the images are left out: 1 .png (train/NORMAL/deeper/IM-0001-0001.png)",
            ),
            (
                lambda f: (f / TEST_NORMAL).write_bytes((f / TEST_NORMAL).read_bytes()[:300]),
                "unusable unreadable",
                f"1 of 120 images cannot be read, and runs refuse them: {TEST_NORMAL}: ",
            ),
        ],
        ids=["lost", "leaked", "leaked, turned", "contradicting", "patient", "not read", "too deep", "cut off"],
    )
    def test_planted_faults_are_found_and_no_others(
        self, root: Path, chest: Path, damage: Callable[[Path], object], kinds: str, text: str
    ) -> None:
        damage(chest)
        report = checked(root)
        severity, kind = kinds.split()
        assert serious(report) == [(severity, kind)]
        assert text in report.findings[0].text
        assert report.exit_code == {"matters": 1, "unusable": 2}[severity]

    def test_modes_sizes_and_balance_are_said(self, root: Path, chest: Path) -> None:
        Image.new("L", (100, 80)).save(chest / TEST_NORMAL)
        for path in sorted((chest / "train/NORMAL").glob("[IN]*.jpeg"))[4:]:
            path.unlink()
        report = checked(root)
        assert (report.sizes[100, 80], report.modes["L"]) == (1, 1)
        texts = {finding.kind: finding.text for finding in report.findings}
        assert "1 L" in texts["modes"]
        assert "train has 48 of 'pneumonia' and 4 of 'normal'" in texts["balance"]

    @pytest.mark.parametrize("name", sorted(LAYOUTS))
    def test_every_dataset_can_be_checked(self, name: str, root: Path, tmp_path: Path) -> None:
        LAYOUTS[name].make(root)
        path = LAYOUTS[name].path
        words = ["--path", str(root / path)] if path else []
        code = main(["data", "check", name, "--root", str(root), *words, "--json", str(tmp_path / "found.json")])
        found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
        assert found["exit_code"] == code <= 1
        differ = {finding["kind"] for finding in found["findings"] if finding["severity"] == "matters"}
        assert differ <= {"counts", "content", "patient"}
        images = sum(sum(split.values()) for split in found["counts"].values())
        assert images >= sum(sum(split.values()) for split in LAYOUTS[name].counts), "runs leave out, and add nothing"

    def test_a_dataset_that_is_not_there_or_broken(
        self, root: Path, chest: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert main(["data", "check", "derm7pt", "--root", str(root), "--json", str(tmp_path / "found.json")]) == 2
        shown = capsys.readouterr()
        assert shown.out.splitlines()[-1] == "Verdict: unusable: it cannot be read."
        assert "was not found" in shown.err
        assert json.loads((tmp_path / "found.json").read_text())["exit_code"] == 2
        shutil.rmtree(chest / "train/NORMAL")
        assert main(["data", "check", "pneumonia", "--root", str(root)]) == 2
        assert "train/NORMAL is missing" in capsys.readouterr().err

    def test_the_page(self, root: Path, chest: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["data", "check", "pneumonia", "--root", str(root), "DATASET.TASK", "three-class"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"Chest X-Ray Images (Pneumonia), task three-class, in {chest}"
        assert lines[-1] == "Verdict: usable, with 2 findings that matter."
        assert any("24 (published: 2530)" in line for line in lines)
        assert len(lines) < 40

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["check", "pneumona"], "Did you mean 'pneumonia'?"),
            (["info", "derm7"], "Did you mean 'derm7pt'?"),
            (["check", "pneumonia", "DATASET.TSK", "x"], "Did you mean 'DATASET.TASK'?"),
            (["check", "pneumonia", "DATASET.TASK", "three-clas"], "Did you mean 'three-class'?"),
        ],
    )
    def test_wrong_names(
        self, words: list[str], message: str, root: Path, chest: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["data", *words, "--root", str(root)]) == 2
        assert message in capsys.readouterr().err


def test_list_says_what_is_there(root: Path, chest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "list", "--root", str(root)]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert set(config_names()) <= set(rows)
    assert rows["pneumonia"].endswith("yes")
    assert "5840" in rows["pneumonia"]
    assert rows["derm7pt"].endswith("no")


@pytest.mark.parametrize("name", config_names())
def test_info_says_all_that_is_known(name: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "info", name, "--root", str(root)]) == 0
    shown = capsys.readouterr().out
    if facts := _published(name):
        for part in (facts.title, facts.homepage, facts.licence, facts.citation, facts.request, facts.caution):
            assert part in shown
        assert all(file.url in shown for file in facts.files)


def _published(name: str) -> About | None:
    try:
        return about(name)
    except FileNotFoundError:
        return None


class TestPrepare:
    @pytest.fixture
    def publish(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
        """Lets the facts of the dataset be those of a YAML file that names an address."""

        def publish(url: str) -> None:
            facts = as_generated()
            keys = ("title", "homepage", "licence", "citation", "layout", "phantom", "counts", "caution")
            tree = {key: getattr(facts, key) for key in keys}
            tree["files"] = [{"url": url, "name": "downloads/chest.zip", "unpack": "Pneumonia"}]
            path = tmp_path / "pneumonia.yaml"
            path.write_text(yaml.safe_dump(tree), encoding="utf-8")
            monkeypatch.setenv("no_proxy", "*")
            monkeypatch.setattr(about_module, "about", lambda name: read_about(path))
            monkeypatch.setattr("xcoop.data.dataset.about", lambda name: read_about(path))
            monkeypatch.setattr("xcoop.utils.download.WAIT", 0.0)

        return publish

    def test_from_the_licence_to_the_verdict(
        self, root: Path, tmp_path: Path, publish: Callable[[str], None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        LAYOUTS["pneumonia"].make(tmp_path / "elsewhere")
        picture(tmp_path / "elsewhere" / "Pneumonia" / "chest_xray" / "val" / "x.jpeg", 99)
        shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path / "elsewhere" / "Pneumonia")
        prepare = ["data", "prepare", "pneumonia", "--root", str(root), "--yes"]
        with serving((tmp_path / "archive.zip").read_bytes()) as server:
            publish(server.url)
            server.faults = ["cut:5000", "503"]
            assert main(prepare) == 0
            assert server.asked == [None, "bytes=5000-", "bytes=5000-"]
            shown = capsys.readouterr()
            out = shown.out.splitlines()
            assert out[1:3] == ["Licence: CC BY 4.0", f"Cite: {about('pneumonia').citation}"]
            assert f"made {root / 'Pneumonia' / 'chest_xray'}" in out
            assert out[-1] == "Verdict: clean."
            assert "trying again" in shown.err
            assert sorted(path.name for path in root.iterdir()) == ["Pneumonia", "downloads"]
            assert main(prepare) == 0
            assert "It is there already" in capsys.readouterr().out
            assert len(server.asked) == 3

    def test_a_malicious_archive_leaves_the_data_root_alone(
        self, root: Path, tmp_path: Path, publish: Callable[[str], None], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with zipfile.ZipFile(tmp_path / "evil.zip", "w") as file:
            file.writestr("chest_xray/train/NORMAL/a.jpeg", b"x")
            file.writestr("../../evil.txt", b"x")
        with serving((tmp_path / "evil.zip").read_bytes()) as server:
            publish(server.url)
            assert main(["data", "prepare", "pneumonia", "--root", str(root), "--yes"]) == 2
        assert "'../../evil.txt' leads outside" in capsys.readouterr().err
        assert [path.name for path in root.iterdir()] == ["downloads"]
        assert not (tmp_path / "evil.txt").exists()

    @pytest.mark.parametrize("answer", ["", "n\n", None])
    def test_nothing_is_downloaded_without_a_yes(
        self,
        root: Path,
        publish: Callable[[str], None],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        answer: str | None,
    ) -> None:
        stdin = io.StringIO(answer or "")
        stdin.isatty = lambda: answer is not None  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", stdin)
        with serving(b"x") as server:
            publish(server.url)
            assert main(["data", "prepare", "pneumonia", "--root", str(root)]) == 2
            assert server.asked == []
        shown = capsys.readouterr()
        assert "Licence: CC BY 4.0" in shown.out
        assert "nothing was downloaded" in shown.err

    def test_what_must_be_asked_for_is_explained(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["data", "prepare", "derm7pt", "--root", str(root), "--yes"]) == 2
        shown = capsys.readouterr().out
        assert "By hand: Register on the homepage" in shown
        assert "meta/meta.csv" in shown
        assert not root.exists()
