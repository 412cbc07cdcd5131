"""`train.py`: CoOp's flags and precedence, errors that name the thing, and one small run from end to end."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_banks import toy_bank
from PIL import Image

from xcoop import load_run
from xcoop.cli import main as cli
from xcoop.results.record import read_run
from xcoop.runs import train
from xcoop.runs.train import main, merged, parser
from xcoop.utils.console import is_plain

SETTINGS = [
    *("INPUT.SIZE", "(32, 32)", "OPTIM.MAX_EPOCH", "2", "USE_CUDA", "False"),
    *("DATASET.NUM_SHOTS", "4", "DATALOADER.NUM_WORKERS", "0"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file in PneumoniaMNIST's format: bright pictures are class 1."""
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 24), ("val", 12), ("test", 16)):
        labels = np.arange(count) % 2
        pictures = generator.integers(0, 120, (count, 28, 28)) + 120 * labels[:, None, None]
        arrays |= {f"{split}_images": pictures.astype(np.uint8), f"{split}_labels": labels[:, None].astype(np.uint8)}
    np.savez(root / "pneumoniamnist.npz", **arrays)
    return root


@pytest.fixture(scope="module")
def words(data: Path, tiny_weights_file: Path) -> list[str]:
    """The arguments of a run of seconds, without its folder."""
    return [
        *("--root", str(data), "--seed", "1", "--trainer", "CoOp", "--dataset-config-file", "pneumoniamnist"),
        *("--config-file", "vit_b16", "MODEL.BACKBONE.PATH", str(tiny_weights_file), *SETTINGS),
    ]


@pytest.fixture(autouse=True, scope="module")
def _pip_is_not_asked() -> Iterator[None]:
    """torch's report on the environment has pip list all packages, more than half a second of a start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.utils.collect_env.get_env_info", lambda: pytest.fail("torch was asked for its report"))
        yield


def config(*words: str) -> Any:
    return merged(parser().parse_intermixed_args(list(words)))


BASE = ("--trainer", "CoOp", "--dataset-config-file", "phantom", "--config-file", "phantom")


def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("OPTIM:\n  LR: 0.5\n  MAX_EPOCH: 7\nSEED: 4\n")
    words = ("--trainer", "CoOp", "--dataset-config-file", "phantom", "--config-file", str(file))
    cfg = config(*words, "--seed", "9", "OPTIM.LR", "0.25")
    assert (cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.SEED) == (0.25, 7, 9)
    assert config(*words).SEED == 4
    assert cfg.is_frozen()


def test_seed_zero_is_a_seed() -> None:
    assert config(*BASE, "--seed", "0").SEED == 0
    assert config(*BASE).SEED == -1


def test_all_of_coops_flags() -> None:
    flags = ["--root", "r", "--output-dir", "o", "--resume", "s", "--source-domains", "a", "b", "--target-domains", "c"]
    flags += ["--transforms", "normalize", "--backbone", "RN50", "--head", "h", "--model-dir", "m", "--load-epoch", "3"]
    cfg = config(*BASE, *flags, "--eval-only", "--no-train")
    assert (cfg.DATASET.ROOT, cfg.OUTPUT_DIR, cfg.RESUME, cfg.MODEL.BACKBONE.NAME) == ("r", "o", "s", "RN50")
    assert list(cfg.DATASET.SOURCE_DOMAINS) == ["a", "b"]
    assert list(cfg.INPUT.TRANSFORMS) == ["normalize"]


def test_key_value_pairs_stand_anywhere_among_the_flags() -> None:
    cfg = config("OPTIM.LR", "0.5", *BASE, "--seed", "3", "TRAINER.COOP.CSC", "true", "OPTIM.MAX_EPOCH", "9")
    assert (cfg.OPTIM.LR, cfg.SEED, cfg.TRAINER.COOP.CSC, cfg.OPTIM.MAX_EPOCH) == (0.5, 3, True, 9)


def test_files_by_path_as_coop_users_write_them() -> None:
    by_path = ("--dataset-config-file", "configs/datasets/phantom.yaml")
    cfg = config("--trainer", "CoOp", *by_path, "--config-file", "configs/trainers/CoOp/phantom.yaml")
    assert cfg == config(*BASE)


def test_numbers_fit_their_type() -> None:
    cfg = config(*BASE, "OPTIM.LR", "1", "INPUT.SIZE", "[32, 32]", "TRAINER.COOP.CTX_INIT", "7")
    assert type(cfg.OPTIM.LR) is float
    assert cfg.INPUT.SIZE == (32, 32)
    assert cfg.TRAINER.COOP.CTX_INIT == "7"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*BASE, "--sed", "1"], "did you mean --seed"),
        ([*BASE, "--seed", "one"], "--seed"),
        (["--trainer", "CoOpp"], "Did you mean 'CoOp'?"),
        ([], "no trainer is given"),
        (["--trainer", "CoOp"], "no dataset is given"),
        (["--trainer", "CoOp", "DATASET.NAME", "Derm7p"], "Did you mean 'Derm7pt'?"),
        ([*BASE[:2], "--dataset-config-file", "phantm"], "Did you mean 'phantom'?"),
        ([*BASE[:4], "--config-file", "vit_b17"], "Did you mean 'vit_b16'?"),
        (["--config-file", "phantom"], "needs --trainer"),
        ([*BASE[:4], "--config-file", "nowhere.yaml"], "no configuration file nowhere.yaml"),
        ([*BASE, "OPTIM.LRR", "1"], "Did you mean 'OPTIM.LR'?"),
        ([*BASE, "COOP.N_CTX", "1"], "Did you mean 'TRAINER.COOP.N_CTX'?"),
        ([*BASE, "OPTIM.LR", "fast"], "OPTIM.LR takes a number"),
        ([*BASE, "OPTIM.MAX_EPOCH", "1.5"], "OPTIM.MAX_EPOCH takes a whole number"),
        ([*BASE, "TRAINER.COOP.CSC", "7"], "TRAINER.COOP.CSC takes True or False"),
        ([*BASE, "INPUT.SIZE", "7"], "INPUT.SIZE takes a list"),
        ([*BASE, "OPTIM.LR"], "stands alone"),
        ([*BASE, "OPTIM", "3"], "a group of keys"),
        ([*BASE, "OPTIM.LR=3"], "OPTIM.LR 3"),
        ([*BASE, "TEST.FINAL_MODEL", "best_tset"], "Did you mean 'best_val'?"),
    ],
)
def test_errors_name_the_thing(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("OPTIM:\n  LRR: 1\n", "'OPTIM.LRR'"),
        ("OPTIM:\n  LR: [1]\n", "OPTIM.LR takes a number"),
        ("- a list", "keys and values"),
        ("a: [", "not valid YAML"),
    ],
)
def test_errors_in_a_file_name_the_file(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert main([*BASE[:4], "--config-file", str(file)]) == 2
    error = capsys.readouterr().err
    assert str(file) in error
    assert message in error


@pytest.fixture(scope="module")
def done(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is done. Shared: do not change it."""
    folder = tmp_path_factory.mktemp("done") / "run"
    assert main([*words, "--output-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def finished(done: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(done, tmp_path / "run"))


def test_a_run_from_end_to_end(finished: Path) -> None:
    found = read_run(finished)
    assert found is not None
    assert (found["dataset"], found["shots"], found["seed"], found["cfg"]) == ("PneumoniaMNIST", 4, 1, "vit_b16")
    assert (found["n_train"], found["n_test"]) == (8, 16)
    assert found["seconds"]["train"] > 0
    log = (finished / "log.txt").read_text()
    for line in ("** Arguments **", "** Config **", "** System info **", "Finish training", "* accuracy: "):
        assert line in log
    assert log.index("** Arguments **") < log.index("** Config **") < log.index("Finish training")
    system = log[log.index("** System info **") : log.index("Building transform_train")]
    for name in ("python", "torch", "numpy", "device", "processor", "threads"):
        assert re.search(rf"^{name}: \S", system, re.M), name
    assert f"torch: {found['versions']['torch']}\n" in system


def test_a_training_imports_nothing_heavy_that_it_does_not_use(words: list[str], tmp_path: Path) -> None:
    """torch itself, and with it sympy, is there: its optimisers and torchvision import its compiler."""
    script = Path(train.__file__).parents[3] / "train.py"
    code = f"""
import gc, runpy, sys
sys.argv = {[str(script), *words, "--output-dir", str(tmp_path / "run")]!r}
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    print("ended", end.code)
print("collects", gc.isenabled(), "frozen", gc.get_freeze_count() > 100_000)
print("loaded", *{{name.partition(".")[0] for name in sys.modules}})
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    *_, ended, collects, loaded = done.stdout.splitlines()
    assert (ended, collects) == ("ended 0", "collects True frozen True")
    heavy = {"sklearn", "scipy", "pandas", "matplotlib", "jinja2", "submitit", "captum", "wandb", "gradio", "openai"}
    assert not heavy & set(loaded.split()[1:])


def test_coops_own_parser_finds_what_it_looks_for(finished: Path) -> None:
    """CoOp's parse_test_res.py reads `<folder>/<any name>/log.txt`.

    After a line "Finish training" (for tests alone: "=> result") it takes the last "* accuracy: 12.3%" as the figure;
    nothing that is not hidden may lie beside the seeds' folders.
    """
    assert [path.name for path in finished.parent.iterdir() if not path.name.startswith(".")] == [finished.name]
    lines = [line.strip() for line in (finished / "log.txt").read_text().splitlines()]
    record = read_run(finished)
    assert record is not None
    for mark in ("Finish training", "=> result"):
        after = lines[lines.index(mark) :]
        for metric in ("accuracy", "macro_f1"):
            found = [re.search(rf"\* {metric}: ([\.\deE+-]+)%", line) for line in after]
            figures = [float(match[1]) for match in found if match]
            assert figures[-1] == pytest.approx(100 * record["metrics"][metric], abs=0.0501)


def test_the_console_is_given_back(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = io.StringIO()
    monkeypatch.setattr(sys, "stdout", console)
    assert main([*words, "--output-dir", str(tmp_path / "run")]) == 0
    assert sys.stdout is console
    assert not console.closed
    assert "Finish training" in console.getvalue()


def test_evaluation_reproduces_the_run(finished: Path, words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--eval-only", "--model-dir", str(finished), "--load-epoch", "2"]) == 0
    (folder,) = (finished / "evaluation").iterdir()
    evaluated, trained = read_run(folder), read_run(finished)
    assert evaluated is not None
    assert trained is not None
    assert evaluated["metrics"] == trained["metrics"]
    assert evaluated["evaluated_from"] == str(finished)
    assert evaluated["load_epoch"] == 2


@pytest.fixture(scope="module")
def other_data(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A dataset with other classes (two of them, too) as arguments that replace those of `words`."""
    root = tmp_path_factory.mktemp("other")
    assert cli(["phantom", "derm7pt", "--out", str(root / "derm7pt"), "--cases", "40"]) == 0
    return ["--root", str(root), "--dataset-config-file", "derm7pt"]


def test_shared_contexts_are_evaluated_on_another_dataset(
    finished: Path, words: list[str], other_data: list[str], tmp_path: Path
) -> None:
    out = ["--output-dir", str(tmp_path / "out")]
    assert main([*words, *other_data, *out, "--eval-only", "--model-dir", str(finished)]) == 0
    found = read_run(tmp_path / "out")
    assert found is not None
    assert found["dataset"] == "Derm7pt"
    assert found["is_phantom"] is True
    assert found["evaluated_from"] == str(finished)


def test_contexts_of_classes_are_not(
    words: list[str], other_data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["TRAINER.COOP.CSC", "True"]
    assert main([*words, *own, "--output-dir", str(tmp_path / "run")]) == 0
    out = ["--output-dir", str(tmp_path / "out")]
    assert main([*words, *own, *other_data, *out, "--eval-only", "--model-dir", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "'normal', 'pneumonia'" in error
    assert "melanoma" in error
    assert "do not transfer" in error
    assert read_run(tmp_path / "out") is None


def test_an_evaluation_does_not_overwrite_a_run(
    finished: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "results.json").read_bytes()
    assert main([*words, "--output-dir", str(finished), "--eval-only", "--model-dir", str(finished)]) == 2
    assert "another evaluation" in capsys.readouterr().err
    assert (finished / "results.json").read_bytes() == before


def test_other_settings_do_not_overwrite_a_run(
    finished: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert main([*words, "--output-dir", str(finished), "OPTIM.LR", "0.7"]) == 2
    error = capsys.readouterr().err
    assert "OPTIM.LR: 0.002 there, 0.7 now" in error
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.name != ".lock"} == {
        path: content for path, content in before.items() if path.name != ".lock"
    }


def test_a_second_run_keeps_the_first_log_and_the_newest_is_log_txt(finished: Path, words: list[str]) -> None:
    assert main([*words, "--output-dir", str(finished)]) == 0
    logs = sorted(path.name for path in finished.glob("log.txt*"))
    assert len(logs) == 2
    assert "Found checkpoint" in (finished / "log.txt").read_text()


def test_weights_that_are_not_there(words: list[str], finished: Path, tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    out = ["--output-dir", str(tmp_path / "out")]
    assert main([*words, *out, "--eval-only", "--model-dir", str(tmp_path / "nothing")]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]  # nothing was written
    assert main([*words, *out, "--eval-only", "--model-dir", str(finished), "--load-epoch", "9"]) == 2
    assert "its epochs: 2" in capsys.readouterr().err


def test_what_was_never_trained_is_not_taken_for_a_finished_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--output-dir", str(tmp_path / "out")]
    assert main([*words, *out, "--eval-only"]) == 0
    found = read_run(tmp_path / "out")
    assert found is not None
    assert found["evaluated_from"] == "untrained"
    assert main([*words, *out]) == 2
    assert "another evaluation" in capsys.readouterr().err


def test_missing_data_is_named_and_logged(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main([*words, "--root", str(tmp_path / "nowhere"), "--output-dir", str(out)]) == 2
    error = capsys.readouterr().err
    assert "nowhere" in error
    assert "Traceback" not in error
    assert "Traceback" in (out / "log.txt").read_text()  # for whoever looks into it
    assert read_run(out) is None


def test_no_train_only_builds(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--output-dir", str(tmp_path / "out"), "--no-train"]) == 0
    assert read_run(tmp_path / "out") is None
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"config.yaml", "log.txt"}


def test_a_nan_loss_ends_the_run_and_keeps_what_is_there(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--output-dir", str(tmp_path / "out"), "OPTIM.LR", "1e38", "OPTIM.WARMUP_EPOCH", "-1"]) == 2
    error = capsys.readouterr().err
    assert "epoch" in error
    assert "png" in error
    assert read_run(tmp_path / "out") is None


def test_the_script_does_not_offer_the_plug_in_folders_as_modules() -> None:
    text = (Path(train.__file__).parents[3] / "train.py").read_text()
    assert 'sys.path[0] = str(Path(__file__).resolve().parent / "src")' in text


def test_config_is_saved_whole(finished: Path) -> None:
    from xcoop.config.merge import config_hash, read_config

    record = json.loads((finished / "results.json").read_text())
    assert config_hash(read_config(finished / "config.yaml")) == record["config_hash"]


def test_an_evaluation_has_the_classes_in_the_order_of_the_run(
    data: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Images of one's own, whose folders sort otherwise and are spelt otherwise, by the names of their classes."""
    monkeypatch.setenv("XCOOP_CACHE", str(tmp_path / "cache"))
    csc = ["TRAINER.COOP.CSC", "True"]
    order = ["DATASET.CLASSES", "['pneumonia', 'normal']"]
    assert main([*words, *csc, *order, "--output-dir", str(tmp_path / "run")]) == 0
    trained = read_run(tmp_path / "run")
    assert trained is not None
    assert trained["classnames"] == ["pneumonia", "normal"]
    with np.load(data / "pneumoniamnist.npz") as arrays:  # the same images, as folders
        for split in ("train", "test"):
            for number, image in enumerate(arrays[f"{split}_images"]):
                name = ("Normal", "PNEUMONIA")[arrays[f"{split}_labels"][number, 0]]
                path = tmp_path / "own" / split / name / f"{split}{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(path)
    own = ["--dataset-config-file", "folder", "DATASET.PATH", str(tmp_path / "own")]
    again = [*words, *csc, *own, "--eval-only", "--model-dir", str(tmp_path / "run")]
    assert main([*again, "--output-dir", str(tmp_path / "out")]) == 0
    found = read_run(tmp_path / "out")
    assert found is not None
    assert found["classnames"] == trained["classnames"]
    assert found["confusion"] == trained["confusion"]
    assert found["metrics"]["accuracy"] == trained["metrics"]["accuracy"]
    assert load_run(tmp_path / "out").classnames == trained["classnames"]
    assert main([*again, "--output-dir", str(tmp_path / "out")]) == 0  # the same evaluation once more
    (tmp_path / "own" / "train" / "PNEUMONIA").rename(tmp_path / "own" / "train" / "covid")
    (tmp_path / "own" / "test" / "PNEUMONIA").rename(tmp_path / "own" / "test" / "covid")
    capsys.readouterr()
    assert main([*again, "--output-dir", str(tmp_path / "others")]) == 2
    error = capsys.readouterr().err
    assert "['pneumonia', 'normal']" in error
    assert "['covid', 'Normal']" in error or "['Normal', 'covid']" in error


def test_an_evaluation_has_the_concept_bank_of_the_run(words: list[str], tmp_path: Path) -> None:
    """What was learned of a sentence belongs to it, not to what the bank of the other dataset says."""
    bank = toy_bank(tmp_path, {"normal": ["clear lungs"], "pneumonia": ["opacity"]})
    xcoop = [*words, "--trainer", "XCoOp"]
    assert main([*xcoop, "DATASET.CONCEPT_BANK", str(bank.path), "--output-dir", str(tmp_path / "run")]) == 0
    assert (
        main([*xcoop, "--eval-only", "--model-dir", str(tmp_path / "run"), "--output-dir", str(tmp_path / "out")]) == 0
    )
    trained, found = read_run(tmp_path / "run"), read_run(tmp_path / "out")
    assert trained is not None
    assert found is not None
    assert found["bank"] == trained["bank"]
    assert found["bank"]["name"] == "toy"
    assert found["predictions_sha256"] == trained["predictions_sha256"]


@pytest.mark.parametrize(
    ("key", "value"), [("OUTPUT_DIR", "o\x1b[2Jx"), ("DATASET.ROOT", "d\udce9"), ("DATASET.PATH", "a\nb")]
)
def test_names_that_no_record_could_hold_are_refused_before_anything_is_made(
    words: list[str], tmp_path: Path, key: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--output-dir", str(tmp_path / "run")] if key != "OUTPUT_DIR" else []
    assert main([*words, *out, key, str(tmp_path / value)]) == 2
    error = capsys.readouterr().err
    assert f"{key} is '" in error
    assert "without control characters" in error
    assert is_plain(error.replace("\n", ""))
    assert not list(tmp_path.iterdir())
