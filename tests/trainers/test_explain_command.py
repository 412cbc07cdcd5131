"""`xcoop explain` on a tiny run: a page and its numbers, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from PIL import Image
from test_load_run import finished
from tiny_run import ConfigMaker

import xcoop
from xcoop.cli import main
from xcoop.explain.content import Explanations
from xcoop.explain.report import prompt_classes

WORDS = ("seen", "not seen", "undecided")


@pytest.fixture(scope="module")
def run(pictures: Path, tiny_weights_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "out"
    return finished(lambda name: tiny_run.config(name, pictures, tiny_weights_file, out), "XCoOp")


def test_files_of_somebody_else_are_not_replaced(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", str(run), "--images", "1", "--asked", "0", "--out", str(tmp_path)]
    for name in ("report.html", "explanations.json"):
        (tmp_path / name).write_text("my own")
        assert main(words) == 2
        assert f"{tmp_path / name} is not written by xcoop" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "my own"
        (tmp_path / name).unlink()
    for _ in range(2):  # its own it replaces
        assert main(words) == 0


def test_a_page_of_test_images(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(run), "--images", "4", "--asked", "6", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "explanations.json").read_text(encoding="utf-8")
    Explanations.model_validate_json(text)
    found = json.loads(text)
    assert len(found["images"]) == 4
    certainty = [image["certainty"] for image in found["images"]]
    assert certainty == sorted(certainty)
    rows = {row["metric"]: row for row in found["trust"]}
    deletion = rows["Deletion AUC, mean baseline"]
    assert deletion["direction"] == "lower"
    assert {"random", "centre", "reversed", "other class"} == {control["name"] for control in deletion["controls"]}
    assert [(each["name"], each["kind"]) for each in found["methods"]] == [
        ("legrad", "class"),
        ("maskclip@2", "concept"),
    ]
    side = found["methods"][0]["grid"]
    assert found["methods"][1]["grid"] == [2 * side[0], 2 * side[1]]
    named = {title: [control["name"] for control in row["controls"]] for title, row in rows.items()}
    assert named["Prompts as trained"] == ["prompts put back to their start"]
    assert named["Knowledge of the untrained sentences"] == [
        "no concepts", "another class's concepts", "unrelated phrases, untrained",
    ]  # fmt: skip
    assert rows["Prompts as trained"]["controls"][0]["value"] == rows["Knowledge of the untrained sentences"]["value"]
    assert rows["Correlation with an untrained model's map"]["n"] == 6
    names = {entry["name"] for entry in found["classes"]}
    assert names == {"dark_spot", "bright spot"}
    assert all(len(entry["concepts"]) == 4 for entry in found["classes"])
    sentences = found["classes"][0]["sentences"]
    assert [one["text"].replace("_", " ") for one in sentences] == [
        "a photo of a dark spot, low brightness.", "a photo of a dark spot, deep shadow.",
    ]  # fmt: skip
    assert all(one["moved"] > 0 and one["by_chance"] > 0 for one in sentences)
    assert {word["word"] for word in sentences[0]["words"]} >= {"photo", "low", "brightness"}
    for image in found["images"]:
        assert image["sums"][0]["name"] == image["predicted"]
        assert all(one["seen"] in WORDS for one in image["concepts"])
        named = {one["target"] for one in image["maps"] if one["kind"] == "concept"}
        assert named == {text for text in ("low brightness", "deep shadow", "high brightness", "white glow")
                         if any(f"{text}: " in line for line in image["prose"])}  # fmt: skip
        left, top, width, height = image["window"]  # 32 x 40 pixels, of which 32 x 32 are seen
        assert (left, top, width, height) == (pytest.approx(0.1), 0, pytest.approx(0.8), 1)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("white glow") > 1
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page
    assert "Deletion AUC" in capsys.readouterr().out


@pytest.mark.parametrize("trainer", ["PCBM", "LaBo", "CoOp"])
def test_a_decision_that_is_a_sum_is_shown_as_one_and_another_said_to_be_none(
    trainer: str, make_cfg: ConfigMaker
) -> None:
    run = finished(make_cfg, trainer)
    assert main(["explain", str(run), "--images", "2", "--asked", "6"]) == 0
    found = json.loads((run / "explanations" / "explanations.json").read_text(encoding="utf-8"))
    page = (run / "explanations" / "report.html").read_text(encoding="utf-8")
    is_sum = trainer != "CoOp"
    assert found["is_sum"] is is_sum
    assert ("decision is no sum over concepts" in page) is not is_sum
    assert ("Each logit is a sum over concepts" in page) is is_sum
    for image in found["images"]:
        assert bool(image["sums"]) is is_sum
        assert any("no sum over concepts" in line for line in image["prose"]) is not is_sum
        assert ("In all, the logit" in image["prose"][-1]) is is_sum
        used = {part["concept"] for one in image["sums"] for part in one["parts"]}  # what has a weight in PCBM
        assert all(one["seen"] in WORDS for one in image["concepts"] if one["concept"] in used)
    effect = next(row for row in found["trust"] if row["metric"] == "Effect of the top concepts")
    names = [control["name"] for control in effect["controls"]]
    assert names == (["random choice"] if is_sum else ["random directions", "random choice"])


@pytest.mark.parametrize(
    ("trainer", "noun", "title", "columns"),
    [
        ("LinearProbe", "class vector", "What the class vectors learned", ["Learned", "Weight"]),
        ("LPPlusPlus", "class vector", "What the class vectors learned",
         ["Before training", "Learned", "Shift", "Weight"]),
        ("PCBM", "class vector", "What the class vectors learned", ["Learned", "Weight"]),
        ("LaBo", "class vector", "What the class vectors learned",
         ["Before training", "Learned", "Shift", "Weight"]),
        ("TaskRes", "class vector", "What the class vectors learned",
         ["Before training", "Learned", "Shift", "Weight"]),
        ("CLIPLoRA", "text feature", "What the text features learned",
         ["Before training", "Learned", "Shift", "Weight"]),
        ("CLIPAdapter", "text feature", "What images are compared with", ["Cosine", "Weight"]),
        ("TipAdapter", "text feature", "What images are compared with", ["Cosine", "Weight"]),
        ("ZeroshotCLIP", "text feature", "What images are compared with", ["Cosine", "Weight"]),
    ],
)  # fmt: skip
def test_methods_without_prompts_are_not_said_to_have_any(
    trainer: str, noun: str, title: str, columns: list[str], make_cfg: ConfigMaker
) -> None:
    run = finished(make_cfg, trainer)
    assert main(["explain", str(run), "--images", "2", "--asked", "6"]) == 0
    page = unescape((run / "explanations" / "report.html").read_text(encoding="utf-8"))
    assert f'<h2 id="classes-title">{title}</h2>' in page
    assert f"of what sets the {noun} of dark_spot apart" in page
    for heads in re.findall(r"Listed for this class</th>(.*?)</tr>", page):
        assert re.findall(r">([^<>]+)</th>", heads) == columns
    sentences = re.findall(r"[^.<>]*\bprompts?\b[^.<>]*", page)
    assert sentences
    assert all(
        re.match("This method (learns no prompt|has neither prompts nor text)", one.strip()) for one in sentences
    )
    (row,) = (row for row in json.loads((run / "explanations" / "explanations.json").read_text())["trust"]
              if row["metric"] == "Correlation with an untrained model's map")  # fmt: skip
    assert row["note"] == f"Between the map and that of the same {noun}s over a random image tower."


def test_own_images(run: Path, pictures: Path, tmp_path: Path) -> None:
    paths = sorted(str(path) for path in (pictures / "test").glob("*.png"))[:2]
    assert main(["explain", str(run), *paths, "--out", str(tmp_path / "page"), "--method", "maskclip"]) == 0
    found = json.loads((tmp_path / "page" / "explanations.json").read_text(encoding="utf-8"))
    assert sorted(image["path"] for image in found["images"]) == [Path(path).name for path in paths]
    assert [each["name"] for each in found["methods"]] == ["maskclip", "maskclip"]
    assert found["trust"] == []
    assert all(image["label"] is None for image in found["images"])


def test_nothing_tells_of_the_folders_of_this_machine_unless_asked(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "alice").mkdir()
    own = [tmp_path / "alice" / "lesion.png", tmp_path / "lesion.png"]
    for path in own:
        path.write_bytes(sorted((pictures / "test").glob("*.png"))[0].read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    told = [str(pictures), str(run), str(tmp_path), str(Path.cwd()), "alice"]
    for words in (["--images", "2", "--asked", "0"], [str(path) for path in own]):
        out = tmp_path / "out"
        assert main(["explain", str(run), *words, "--out", str(out)]) == 0
        for name in ("report.html", "explanations.json"):
            text = (out / name).read_text(encoding="utf-8")
            assert not [folder for folder in told if folder in text], name
        found = json.loads(text)
        assert found["run"]["folder"] == run.name
        assert all(
            (pictures / image["path"]).is_file() or image["path"].startswith("lesion") for image in found["images"]
        )
    assert sorted(image["path"] for image in found["images"]) == ["lesion.png", "lesion.png (2)"]
    assert main(["explain", str(run), *words, "--show-paths", "--out", str(out)]) == 0
    found = json.loads((out / "explanations.json").read_text(encoding="utf-8"))
    assert sorted(image["path"] for image in found["images"]) == sorted(str(path) for path in own)
    assert found["run"]["folder"] == str(run)


def test_one_image_is_told_what_an_earlier_page_measured(run: Path, pictures: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    (image,) = sorted(str(path) for path in (pictures / "test").glob("*.png"))[:1]
    alone = ["explain", str(run), image, "--asked", "0", "--out", str(tmp_path)]
    assert main(alone) == 0
    assert "How often such a certainty is right was not measured." in (tmp_path / "report.html").read_text()
    assert main(["explain", str(run), "--images", "1", "--asked", "6"]) == 0
    measured = json.loads((run / "explanations" / "explanations.json").read_text())
    assert measured["trust"]
    assert measured["calibration"]["images"] > 0
    assert main(alone) == 0
    found = json.loads((tmp_path / "explanations.json").read_text())
    assert (found["trust"], found["calibration"]) == (measured["trust"], measured["calibration"])
    assert main([*alone, "--method", "maskclip"]) == 0  # of these maps nothing was measured
    assert json.loads((tmp_path / "explanations.json").read_text())["trust"] == []


def test_a_notebook_shows_the_card_of_an_image(run: Path, pictures: Path) -> None:
    model = xcoop.load_run(run, device="cpu")
    paths = sorted((pictures / "test").glob("*.png"))[:2]
    said = model.explain(paths[0])
    assert repr(said).startswith(f"<Explanation: {said.predicted}, probability 0.")
    assert len(repr(said)) < 200
    html = said._repr_html_()
    assert html.count("<article") == 1
    assert f">{paths[0].name}</h4>" in html
    assert f'<span class="decided">{unescape(said.predicted)}</span>' in html
    assert str(pictures) not in html
    assert model.explain(paths)._repr_html_().count("<article") == 2
    tensor = model.preprocess(paths)
    for given in (paths[0].read_bytes(), Image.open(paths[0]), np.asarray(Image.open(paths[0])), tensor[0]):
        assert model.explain(given)._repr_html_().count("<article") == 1
    assert model.explain(tensor)._repr_html_().count("<article") == 2


@pytest.mark.parametrize(
    ("trainer", "pairs", "expected"),
    [
        ("CoOp", ("TRAINER.COOP.N_CTX", 3), [3, 3]),
        ("CoOp", ("TRAINER.COOP.N_CTX", 3, "TRAINER.COOP.CSC", True), [3, 3]),
        ("LASP", ("TRAINER.LASP.N_GROUPS", 2, "TRAINER.LASP.N_CTX", 3, "TRAINER.LASP.CTX_INIT", ""), [6, 6]),
    ],
)
def test_contexts_that_all_classes_share_are_told_with_each(
    trainer: str, pairs: tuple[object, ...], expected: list[int], make_cfg: ConfigMaker
) -> None:
    run = xcoop.load_run(finished(make_cfg, trainer, *pairs), device="cpu")
    assert [len(entry.words) for entry in prompt_classes(run)] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.png"], "missing.png"),
        (["--method", "legrat"], "legrad"),
        (["--images", "0"], "at least one"),
        (["--asked", "-1"], "0 or more"),
    ],
)
def test_wrong_input_ends_in_one_line_and_writes_nothing(
    words: list[str], message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["explain", str(run), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (run / "explanations").exists()


def test_a_text_file_is_no_image(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.png").write_text("no picture")
    assert main(["explain", str(run), str(tmp_path / "x.png")]) == 2
    assert "x.png" in capsys.readouterr().err
