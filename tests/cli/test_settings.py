"""A value that a key cannot have ends a command before anything is written; key, value and what is right are said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from yacs.config import CfgNode

from xcoop.cli import main
from xcoop.config import merge
from xcoop.config.merge import merge_file, merge_pairs
from xcoop.config.plugins import RULES, check_settings, get_cfg
from xcoop.engine.config import UNREAD, flatten
from xcoop.runs.train import merged, parser
from xcoop.utils import rules
from xcoop.utils.console import SHOWN, UserError

BASE = ("--trainer", "XCoOp", "--dataset-config-file", "phantom", "--config-file", "phantom")
CFG = get_cfg()
DEFAULTS = flatten(CFG)
CLOSED = [
    ("TEST.SPLIT", "vla", "val"),
    ("TEST.SPLIT", "train", "test, val"),
    ("TEST.FINAL_MODEL", "best_vall", "best_val"),
    ("TEST.EVALUATOR", "Clasification", "Classification"),
    ("OPTIM.NAME", "sdg", "sgd"),
    ("OPTIM.LR_SCHEDULER", "cosin", "cosine"),
    ("OPTIM.WARMUP_TYPE", "constnat", "constant"),
    ("DATALOADER.TRAIN_X.SAMPLER", "RandomSampel", "RandomSampler"),
    ("DATALOADER.TEST.SAMPLER", "SequentialSample", "SequentialSampler"),
    ("INPUT.INTERPOLATION", "bicubik", "bicubic"),
    ("INPUT.TRANSFORMS", "['random_filp']", "random_flip"),
    ("DATASET.HYGIENE", "repot", "report"),
    ("DATASET.SUBSAMPLE_CLASSES", "bass", "base"),
    ("DATASET.TASK", "five-group", "five-groups"),
    ("WANDB.MODE", "ofline", "offline"),
    ("MODEL.BACKBONE.ACTIVATION", "qick_gelu", "quick_gelu"),
    ("TRAINER.XCOOP.KNOWLEDGE", "shufled", "shuffled"),
    ("TRAINER.XCOOP.LOCAL_POOL", "topkk", "topk"),
    ("TRAINER.XCOOPPUBLISHED.CLASS_TOKEN_POSITION", "midle", "middle"),
    ("TRAINER.COOP.PREC", "fp61", "fp16"),
    ("TRAINER.ZEROSHOTCLIP.ENSEMBLE", "template", "templates"),
]
RANGES = [
    ("SEED", str(2**32)), ("OPTIM.MAX_EPOCH", "-1"), ("OPTIM.MAX_EPOCH", "0"), ("OPTIM.LR", "0.0"), ("OPTIM.LR", "-1"),
    ("OPTIM.LR", "1e999"), ("OPTIM.MOMENTUM", "1.5"), ("OPTIM.STEPSIZE", "[]"), ("OPTIM.STEPSIZE", "['a']"),
    ("DATASET.NUM_SHOTS", "0"), ("DATASET.NUM_SHOTS", "-2"), ("DATASET.VAL_PERCENT", "1.0"), ("DATASET.CASES", "-1"),
    ("DATALOADER.TRAIN_X.BATCH_SIZE", "0"), ("DATALOADER.TEST.BATCH_SIZE", "-4"), ("DATALOADER.NUM_WORKERS", "-1"),
    ("DATALOADER.K_TRANSFORMS", "0"), ("TRAIN.PRINT_FREQ", "0"), ("TRAIN.CHECKPOINT_FREQ", "-1"),
    ("INPUT.SIZE", "[0, 0]"), ("INPUT.SIZE", "[64]"), ("INPUT.SIZE", "[64, 64, 64]"), ("INPUT.SIZE", "[1.5, 2]"),
    ("INPUT.PIXEL_MEAN", "['a', 'b', 'c']"), ("INPUT.PIXEL_STD", "[0, 1, 1]"), ("INPUT.PIXEL_STD", "[1e999, 1, 1]"),
    ("INPUT.GB_K", "4"), ("INPUT.RANDAUGMENT_M", "31"), ("INPUT.COLORJITTER_H", "0.6"),
    ("INPUT.RRCROP_SCALE", "[0, 1]"), ("MODEL.BACKBONE.HEAD_WIDTH", "-1"),
    ("DATASET.CLASSES", "[1, 2]"), ("DATASET.SOURCE_DOMAINS", "[[]]"), ("TRAINER.XCOOPPUBLISHED.N_PROMPTS", "0"),
    ("TRAINER.XCOOP.SPREAD", "-0.1"), ("TRAINER.XCOOPPUBLISHED.TOKEN_TEMPERATURE", "0.0"), ("DATASET.ROOT", "'a\\0b'"),
    ("TRAINER.XCOOP.OFFSET_SPREAD", "1e999"), ("TRAINER.KGCOOP.TEMPLATE", "a photo"), ("TRAINER.LASP.N_GROUPS", "0"),
    ("TRAINER.LASP.LASP_PROMPTS", "['a photo']"), ("TRAINER.TIPADAPTER.SEARCH_STEP", "[1]"), ("VERSION", "9" * 40),
    ("INPUT.RRCROP_SCALE", "(1.0, 0.1)"), ("INPUT.GB_K", "99999"), ("TRAINER.COOP.N_CTX", "999999999"),
]  # fmt: skip


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        merged(parser().parse_intermixed_args([*BASE, *words]))
    return str(caught.value)


@pytest.mark.parametrize(("key", "value", "right"), CLOSED)
def test_a_misspelled_name_is_answered_with_the_nearest(key: str, value: str, right: str) -> None:
    message = refusal(key, value)
    typed = value.strip("[]'")
    assert message.startswith(f"{key}: Unknown value '{typed}'.")
    assert right in message.partition("Unknown")[2]
    assert ("," in right) != (f"Did you mean '{right}'?" in message)


@pytest.mark.parametrize(("key", "value"), RANGES)
def test_what_is_out_of_range_is_named(key: str, value: str) -> None:
    message = refusal(key, value)
    assert message.startswith(f"{key}")
    assert "must be" in message


@pytest.mark.parametrize("has_them", [True, False])
def test_a_config_of_dassl_or_another_version_is_merged_and_has_the_same_hash(tmp_path: Path, has_them: bool) -> None:
    """The keys that only domain adaptation reads are taken at their defaults, and refused otherwise."""
    theirs = CFG.clone()
    for key, default in UNREAD.items():
        *above, leaf = key.split(".")
        node = theirs
        for name in above:
            node = node.setdefault(name, CfgNode())
        node[leaf] = default
        if not has_them:
            del node[leaf]
    theirs.TRAINER.FIXMATCH = CfgNode(new_allowed=True)
    path = tmp_path / "config.yaml"
    path.write_text(theirs.dump())
    merge_file(cfg := CFG.clone(), path)
    assert cfg == CFG
    assert merge.config_hash(merge.read_config(path)) == merge.config_hash(CFG)
    assert "'TRAIN.COUNT_ITER' needs Dassl itself" in refusal("TRAIN.COUNT_ITER", "train_u")


def test_a_long_unknown_key_is_cut() -> None:
    assert len(refusal("K" * 90_000, "1")) < 500


def test_layers_that_prompts_do_not_have_are_refused() -> None:
    assert refusal("OPTIM.STAGED_LR", "True").startswith("OPTIM.STAGED_LR is True")


def test_every_default_is_right_and_every_number_and_list_has_a_rule() -> None:
    check_settings(CFG)
    for key, value in DEFAULTS.items():
        if isinstance(value, (int, float, list)) and not isinstance(value, bool):
            assert key in RULES or key in ("VERSION", "OPTIM.NEW_LAYERS"), key
    nodes = ("SMOOTHCOOP",)  # of the trainers of other tests
    assert {"TEST.SPLIT", "TRAINER.XCOOP.PREC"} <= RULES.keys()
    assert {key for key in RULES if not key.startswith(tuple(f"TRAINER.{node}." for node in nodes))} <= DEFAULTS.keys()
    for node in CFG.TRAINER:
        if node != "NAME" and "PREC" in CFG.TRAINER[node]:
            with pytest.raises(ValueError, match=rf"TRAINER\.{node}\.PREC: Unknown value 'fp23'"):
                check_settings(CfgNode({"TRAINER": {node: {"PREC": "fp23"}}}))


@pytest.mark.parametrize(
    "value", ["nan", "None", "{'a': 1}", "[[1]]", "1j", "b'x'", "9" * 5000, "'" + "[" * 500, "x" * 80_000]
)
def test_no_type_ends_in_a_traceback(value: str) -> None:
    for key in DEFAULTS:
        try:
            merge_pairs(cfg := CFG.clone(), [key, value])
            check_settings(cfg)
        except (UserError, ValueError) as error:
            assert len(str(error)) < 1000, key  # noqa: PT017
            assert "nown" in str(error) or key in str(error)  # noqa: PT017


def test_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["train", *BASE, "--output-dir", str(tmp_path / "out"), "TEST.SPLIT", "vla"],
        ["run", "phantom", "1", "--out", str(tmp_path / "out"), "TEST.SPLIT", "vla"],
        ["sweep", "phantom", "CoOp", "1", "1", "TEST.SPLIT", "vla", "--out", str(tmp_path / "out")],
    ):
        assert main(command) == 2
        assert "TEST.SPLIT: Unknown value 'vla'. Did you mean 'val'?" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_trainer_checks_by_itself_what_it_reads(tmp_path: Path) -> None:
    """As when another programme launches it, with an engine's own merging."""
    from xcoop.trainers.coop import CoOp

    def check(**keys: Any) -> None:
        cfg = CFG.clone()
        cfg.merge_from_list([word for key, value in keys.items() for word in (key.replace("__", "."), value)])
        CoOp.__new__(CoOp).check_cfg(cfg)

    check(TRAINER__XCOOP__LOCAL_POOL="nonsense")  # of another trainer's node, which may be another programme's
    for key, value in (("TEST.SPLIT", "train"), ("TRAINER.COOP.PREC", "half"), ("INPUT.PIXEL_STD", ["a", "b", "c"])):
        with pytest.raises(ValueError, match=key):
            check(**{key.replace(".", "__"): value})


@pytest.mark.parametrize("word", ["datasets", "trainers", "shots", "seeds"])
def test_a_word_of_a_sweep_that_names_nothing(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"datasets": "phantom", "trainers": "CoOp", "shots": "1", "seeds": "1"}
    for nothing in ("", " , "):
        assert main(["sweep", *(words | {word: nothing}).values(), "--dry-run"]) == 2
        assert f"{word}: '{nothing}' names none" in capsys.readouterr().err
    for option in ("--cfg", "--backbones", "--targets"):
        assert main(["sweep", "phantom", "CoOp", "1", "1", option, ",", "--dry-run"]) == 2
        assert f"{option}: ',' names none" in capsys.readouterr().err
        assert main(["sweep", "phantom", "CoOp", "1", "1", option, "", "--dry-run"]) == 2
        assert f"{option}: '' names none" in capsys.readouterr().err


@pytest.mark.parametrize("place", range(4))
def test_a_word_of_a_run_that_names_nothing(place: int, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["phantom", "1", "CoOp", "phantom"]
    words[place] = ""
    assert main(["run", *words]) == 2
    assert "names none" in capsys.readouterr().err


@pytest.mark.parametrize("row", ["shots: []", "shots:", "trainers: ''", "OPTIM.LR: []"])
def test_an_axis_of_a_grid_that_names_nothing(row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "grid.yaml").write_text(f"datasets: [phantom]\n{row}\n")
    assert main(["sweep", "--grid", str(tmp_path / "grid.yaml"), "--dry-run"]) == 2
    assert f"{row.partition(':')[0]} names none" in capsys.readouterr().err


@pytest.mark.parametrize("made", ["", "folder", "folder/prompt_learner", "folder/prompt_learner/model.pth.tar-1"])
def test_resume_must_name_a_run(made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that is not there, or holds no checkpoint; without RESUME a run starts from scratch, as in Dassl."""
    if made:
        (tmp_path / made).mkdir(parents=True)
    out = tmp_path / "out"
    assert main(["train", *BASE, "--output-dir", str(out), "--resume", str(tmp_path / "folder")]) == 2
    what = "holds no checkpoint" if made else "is no folder"
    assert f"RESUME '{tmp_path}/folder' {what}" in capsys.readouterr().err
    assert not out.exists()


def test_rules() -> None:
    """By hand: the borders, and what is of another type."""
    above_0 = rules.Rule("a whole number above 0", rules.whole(1).holds)
    for rule, right, wrong, meaning in (
        (rules.whole(1), [1, 2**40], [0, 1.0, True, "1", None], "a whole number of at least 1"),
        (rules.whole(-1, 3), [-1, 3], [-2, 4], "a whole number in [-1, 3]"),
        (rules.number(0, 1), [0, 1, 0.5], [-0.1, 1.1, float("nan"), "0.5", True], "a number in [0, 1]"),
        (rules.number(above=0, high=1), [1e-9, 1], [0, 2], "a number in (0, 1]"),
        (rules.number(0, below=1), [0, 0.99], [1], "a number in [0, 1)"),
        (rules.number(above=0), [1e300], [0, float("inf")], "a number above 0"),
        (rules.number(), [-1e300], [float("inf"), float("-inf")], "a number"),
        (rules.each(above_0, 2), [[1, 2], (3, 4)], [[1], 1, "ab", [1, 0]],
         "a list of 2 values, each a whole number above 0"),
        (rules.TEMPLATE, ["", "a {}"], ["a", None, 3], 'a sentence with {} for the class name, or ""'),
    ):  # fmt: skip
        assert rule.meaning == meaning
        assert all(map(rule.holds, right)), meaning
        for value in wrong:
            with pytest.raises(ValueError, match=r"^KEY\b"):
                rule.check("KEY", value)
    with pytest.raises(ValueError, match=r"K: Unknown value 'y'\. Did you mean 'yes'\? Known: no, yes\."):
        rules.one_of("", "yes", of=lambda: ["no"]).check("K", "y")
    with pytest.raises(ValueError, match="K is ") as caught:
        rules.whole().check("K", "x" * 10**6)
    assert len(str(caught.value)) < SHOWN + 60
