"""What a sweep runs: every combination once, in the folders of `xcoop run`, and nothing with a wrong name."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from yacs.config import CfgNode

from xcoop.cli import main
from xcoop.config.merge import config_file, config_names, read_config_tree
from xcoop.config.plugins import get_cfg, trainer_names
from xcoop.runs.plan import Plan, make_plans
from xcoop.runs.train import merged, parser
from xcoop.sweep.grid import Grid, jobs, left_out, make_grid, plans, read_grid_file
from xcoop.sweep.job import Job
from xcoop.utils.console import UserError

GRIDS = sorted(Path(__file__).resolve().parents[2].joinpath("benchmarks", "grids").glob("*.yaml"))
HEAD = "datasets: [phantom]\ntrainers: [XCoOp]\nshots: [1, 4]\nseeds: [1]\n"
X = "TRAINER.XCOOP"
FIVE = ("DATASET.TASK", ("five-groups",))


def grid(tmp_path: Path, **axes: Any) -> Grid:
    values = {"datasets": ("phantom",), "trainers": ("CoOp",), "shots": (4,), "seeds": (1,), "out": str(tmp_path)}
    return Grid(**(values | axes))


def option(job: Job, flag: str) -> str:
    return job.words[job.words.index(flag) + 1]


def test_everything_is_crossed_and_lies_where_xcoop_run_puts_it(tmp_path: Path) -> None:
    found = jobs(grid(tmp_path, trainers=("CoOp", "CoCoOp"), shots=(1, 4), seeds=(1, 2)))
    assert len(found) == 8
    (plan,) = make_plans(["phantom", "4", "CoCoOp"], "data", str(tmp_path), [1, 2])
    (job,) = (job for job in found if job.folder == plan.seed_folder(2))
    assert job.words == tuple(plan.words(2))
    cfg = merged(parser().parse_intermixed_args(job.words))  # once for all seeds, and as train.py merges it
    assert job.cfg == cfg
    assert job.cfg.is_frozen()
    assert len({job.group for job in found}) == 1


def test_what_trains_nothing_is_run_once(tmp_path: Path) -> None:
    found = jobs(grid(tmp_path, trainers=("ZeroshotCLIP",), shots=(1, 2, 4), seeds=(1, 2, 3)))
    assert [job.folder for job in found] == [tmp_path / "phantom/ZeroshotCLIP/phantom/seed1"]


def test_keys_are_crossed_and_stand_in_the_folder(tmp_path: Path) -> None:
    keys = (("TRAINER.COOP.N_CTX", ("2", "8")), ("OPTIM.LR", ("0.1",)))
    folders = [job.folder.parent.name for job in jobs(grid(tmp_path, keys=keys))]
    assert folders == ["phantom_4shots_lr-0.1_n_ctx-2", "phantom_4shots_lr-0.1_n_ctx-8"]


def test_other_groups_for_other_data_and_backbones(tmp_path: Path) -> None:
    found = jobs(grid(tmp_path, datasets=("phantom", "derm7pt"), backbones=("phantom", "ViT-B/16")))
    assert len(found) == 4
    assert len({job.group for job in found}) == 4
    assert {option(job, "--config-file") for job in found} == {"phantom", "vit_b16"}


def test_full_trains_on_everything(tmp_path: Path) -> None:
    (job,) = jobs(grid(tmp_path, setting="full", shots=(1, 2, 4)))
    assert option(job, "DATASET.NUM_SHOTS") == "-1"
    assert "all training images" in job.title


def test_base_to_new_evaluates_the_trained_weights_on_the_other_classes(tmp_path: Path) -> None:
    wanted = grid(tmp_path, trainers=("CoOp", "XCoOp", "ZeroshotCLIP"), setting="base-to-new", keys=(FIVE,))
    found = jobs(wanted)
    trained = {option(job, "--trainer"): job for job in found if job.after is None}
    new = {option(job, "--trainer"): job for job in found if job.after is not None}
    assert option(trained["CoOp"], "DATASET.SUBSAMPLE_CLASSES") == "base"
    assert option(new["CoOp"], "DATASET.SUBSAMPLE_CLASSES") == "new"
    assert new["CoOp"].after == trained["CoOp"].folder == Path(option(new["CoOp"], "--model-dir"))
    assert new["CoOp"].folder == trained["CoOp"].folder / "evaluation" / "phantom_new"
    assert "--eval-only" in new["CoOp"].words
    assert "--model-dir" not in new["ZeroshotCLIP"].words
    assert {job.together for job in new.values()} == {""}  # what is trained side by side, no evaluation
    # XCoOp learns contexts of its classes.
    assert new.keys() == {"CoOp", "ZeroshotCLIP"}
    assert [note.partition(":")[0] for note in left_out(wanted, found)] == ["XCoOp"]


def test_cross_evaluates_on_each_target(tmp_path: Path) -> None:
    found = jobs(grid(tmp_path, setting="cross", targets=("derm7pt",)))
    assert [option(job, "--dataset-config-file") for job in found] == ["phantom", "derm7pt"]
    assert found[1].after == found[0].folder
    assert found[1].folder == found[0].folder / "evaluation" / "derm7pt_all"


def test_cross_has_the_classes_in_the_order_of_the_training(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("DATASET: {NAME: Phantom, CLASSES: [melanoma, nevus]}\n")
    trained, evaluated = jobs(
        grid(tmp_path, datasets=(str(path),), cfgs=("phantom",), setting="cross", targets=("derm7pt",))
    )
    assert "DATASET.CLASSES" not in trained.words
    assert option(evaluated, "DATASET.CLASSES") == "['melanoma', 'nevus']"
    trained, evaluated = jobs(grid(tmp_path, cfgs=("phantom",), setting="cross", targets=(str(path),)))
    assert option(evaluated, "DATASET.CLASSES") == "['nevus', 'melanoma']"


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"datasets": ("phantm",)}, "Did you mean 'phantom'"),
        ({"trainers": ("CoOpp",)}, "Did you mean 'CoOp'"),
        ({"cfgs": ("vit_b61",)}, "Did you mean 'vit_b16'"),
        ({"backbones": ("ViT-B/61",)}, "Did you mean 'ViT-B/16'"),
        ({"setting": "base-to-knew"}, "Did you mean 'base-to-new'"),
        ({"keys": (("TRAINER.COOP.N_CTXX", ("4",)),)}, "Did you mean 'TRAINER.COOP.N_CTX'"),
        ({"keys": (("TRAINER.COOP.N_CTX", ("4", "four")),)}, "takes a whole number"),
        ({"keys": (("SEED", ("4",)),)}, "SEED is set by `xcoop sweep` itself"),
        ({"trainers": ("all", "CoOp")}, "`all` stands alone"),
        ({"targets": ("derm7pt",)}, "belong together"),
        ({"setting": "cross"}, "belong together"),
        ({"setting": "cross", "targets": ("pneumonia",)}, "pneumonia has the classes normal"),
        ({"setting": "base-to-new"}, "with fewer than 4, one of the halves has a single class"),
        ({"setting": "base-to-new", "keys": (("DATASET.TASK", ("five",)),)}, "Did you mean 'five-groups'"),
    ],
)  # fmt: skip
def test_nothing_is_begun_with_a_wrong_name(axes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        jobs(grid(tmp_path, **axes))


def test_a_folder_with_other_settings_is_refused(tmp_path: Path) -> None:
    (job,) = jobs(grid(tmp_path))
    (job.folder / "prompt_learner").mkdir(parents=True)
    (job.folder / "prompt_learner" / "model.pth.tar-1").write_text("")
    cfg = get_cfg()
    cfg.TRAINER.NAME, cfg.OPTIM.LR = "CoOp", 5.0
    (job.folder / "config.yaml").write_text(cfg.dump())
    with pytest.raises(UserError, match="with other settings"):
        jobs(grid(tmp_path))


def test_two_files_of_one_name_do_not_share_a_folder(tmp_path: Path) -> None:
    paths = []
    for name in "ab":
        (tmp_path / name).mkdir()
        paths.append(str(tmp_path / name / "mine.yaml"))
        Path(paths[-1]).write_text(f"DATASET: {{NAME: Phantom, CASES: {100 + len(paths)}}}\n")
    with pytest.raises(UserError, match=r"a/mine.yaml and .*b/mine.yaml would share the folder"):
        jobs(grid(tmp_path, datasets=tuple(paths), cfgs=("phantom",)))
    with pytest.raises(UserError, match=r"a/mine.yaml and .*b/mine.yaml would share the folder"):
        jobs(grid(tmp_path, setting="cross", targets=tuple(paths)))


def test_a_grid_file(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("datasets: [phantom]\nshots: [1, 4]\nsetting: full\nOPTIM.LR: [0.1, 0.2]\nINPUT.TRANSFORMS:\n"
                    "  - [normalize]\n  - [random_flip, normalize]\n")  # fmt: skip
    made = make_grid(read_grid_file(path), "data", "out")
    assert made.datasets == ("phantom",)
    assert made.shots == (1, 4)
    assert made.keys == (
        ("OPTIM.LR", ("0.1", "0.2")),
        ("INPUT.TRANSFORMS", ("['normalize']", "['random_flip', 'normalize']")),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset: [phantom]", "Did you mean 'datasets'"),
        ("- phantom", "must hold axes"),
        ("a: [", "is not valid YAML"),
        ("shots: [1]", "no dataset is given"),
        ("datasets: [phantom]\nshots: [none]", "<shots> must be a whole number"),
        ("datasets: [phantom]\nseeds: [1, 1]", "different integers"),
    ],
)
def test_a_wrong_grid_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        make_grid(read_grid_file(path), "data", "out")


def test_a_dry_run_lists_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["sweep", "phantom", "CoOp,CoCoOp", "4 16", "1 2", "--out", str(out), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert told.count("to do  phantom: ") == 8
    assert "8 runs: 0 done, 8 to do" in told
    assert not out.exists()


def test_a_dry_run_lists_evaluations_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--setting", "base-to-new", "--out", str(tmp_path / "out"), "--dry-run", "DATASET.TASK", "five-groups"]
    assert main(["sweep", "phantom", "CoOp", "4", "1", *words]) == 0
    told = capsys.readouterr().out
    assert "seed 1, on new classes  " in told
    assert "2 runs: 0 done, 2 to do" in told


def test_words_of_the_command_line_win_over_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("datasets: [derm7pt]\ntrainers: [CoOp]\nshots: [1, 2, 4]\nseeds: [1]\nOPTIM.LR: [0.1, 0.2]\n")
    command = ["sweep", "phantom", "--grid", str(path), "OPTIM.LR", "0.5", "--out", str(tmp_path), "--dry-run"]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert told.count("lr-0.5, ") == 3
    assert "3 runs" in told


@pytest.mark.parametrize("words", [[], ["phantom", "CoOp", "1", "1", "2"], ["phantom", "--worker", "2"]])
def test_a_wrong_command_line_ends_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(["sweep", *words])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert capsys.readouterr().err


# `variants:` of a grid file change one thing at a time; and every grid of the benchmarks can be planned.


def planned(tmp_path: Path, text: str) -> list[str]:
    """The names of the folders of a grid file's runs, in their order."""
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    return [job.folder.parent.name for job in jobs(make_grid(read_grid_file(path), "data", str(tmp_path / "out")))]


def test_variants_are_crossed_with_everything_but_each_other_in_their_order(tmp_path: Path) -> None:
    text = f"{HEAD}variants: [{{{X}.SPREAD: 2.0, {X}.KNOWLEDGE: none}}, {{}}, {{{X}.TUNE_NORMS: True}}]\n"
    parts = ["_knowledge-none_spread-2.0", "", "_tune_norms-true"]
    assert planned(tmp_path, text) == [f"phantom_{shots}shots{part}" for shots in (1, 4) for part in parts]
    crossed = planned(tmp_path, text.replace("shots: [1, 4]", "shots: [1]") + "OPTIM.LR: [0.1, 0.2]\n")
    assert [name.partition("_1shots_")[2] for name in crossed] == [
        f"lr-{rate}{part}" for rate in (0.1, 0.2) for part in parts
    ]


@pytest.mark.parametrize(
    ("variants", "message"),
    [
        ("{}", r"grid\.yaml: `variants:` takes a list of mappings .*, not \{\}"),
        ("[]", r"grid\.yaml: `variants:` takes a list of mappings .*, not \[\]"),
        ("[{}, 3]", r"grid\.yaml: variant 2: .*; this one is 3"),
        ("[{N_CTXX: 3}]", r"grid\.yaml: variant 1: Unknown key 'N_CTXX'.*written as A\.B: value"),
        (f"[{{}}, {{{X}.SPREDA: 3}}]", r"grid\.yaml: variant 2: unknown config key .*Did you mean .*XCOOP.SPREAD'"),
        (f"[{{{X}.SPREAD: four}}]", r"grid\.yaml: variant 1: .*SPREAD takes a number"),
        (f"[{{{X}.SPREAD: }}]", r"grid\.yaml: variant 1: .*SPREAD takes one value, not None"),
        (f"[{{{X}: {{SPREAD: 4}}}}]", r"grid\.yaml: variant 1: .*takes one value, not \{'SPREAD': 4\}"),
        ("[{OPTIM.LR: 0.5, SEED: 3}]", "SEED is set by `xcoop sweep` itself"),
        (f"[{{}}, {{{X}.KNOWLEDGE: bank}}]", r"\{\} and \{TRAINER.XCOOP.KNOWLEDGE: bank\} are the same run of XCoOp"),
        ("[{TRAINER.COOP.N_CTX: 3}]", r"variant \{TRAINER.COOP.N_CTX: 3\} changes nothing in XCoOp"),
    ],
)  # fmt: skip
def test_wrong_variants_are_named(variants: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        planned(tmp_path, f"{HEAD}variants: {variants}\n")


def test_the_same_variants_are_run_once(tmp_path: Path) -> None:
    one, two = f"{X}.SPREAD: 3.0", "OPTIM.LR: 0.5"
    text = f"{HEAD}variants: [{{}}, {{{one}, {two}}}, {{}}, {{{two}, {one}}}]\n"
    parts = ["", "_lr-0.5_spread-3.0"]
    assert planned(tmp_path, text) == [f"phantom_{shots}shots{part}" for shots in (1, 4) for part in parts]


def test_a_key_is_in_one_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"{HEAD}variants: [{{}}, {{OPTIM.LR: 0.5}}]\n"
    with pytest.raises(UserError, match=r"OPTIM\.LR stands in a variant \(0\.5\), and by itself"):
        planned(tmp_path, f"{text}OPTIM.LR: [0.1]\n")
    planned(tmp_path, text)
    assert main(["sweep", "--grid", str(tmp_path / "grid.yaml"), "OPTIM.LR", "0.1", "--dry-run"]) == 2
    assert "OPTIM.LR stands in a variant (0.5), and by itself" in capsys.readouterr().err


def test_variants_of_all_trainers_are_what_all_of_them_read(tmp_path: Path) -> None:
    grid = Grid(datasets=("phantom",), trainers=("all",), shots=(1,), out=str(tmp_path))
    with pytest.raises(UserError, match=r"changes nothing in BiomedCoOp, which does not read TRAINER\.COOP\.N_CTX"):
        plans(Grid(**(vars(grid) | {"variants": ((("TRAINER.COOP.N_CTX", "3"),),)})))
    both = plans(Grid(**(vars(grid) | {"variants": ((), (("OPTIM.LR", "0.5"),))})))
    assert Counter(plan.trainer for plan in both) == {
        name: 2 * number for name, number in Counter(plan.trainer for plan in plans(grid)).items()
    }


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_the_grids_of_the_benchmarks_can_be_run(path: Path, tmp_path: Path) -> None:
    found = jobs(make_grid(read_grid_file(path), "data", str(tmp_path)))
    assert len({job.folder for job in found}) == len(found) > 100
    told = path.read_text()
    assert f"xcoop sweep --grid benchmarks/grids/{path.name}" in told
    assert "docs/benchmark.md" in told


def test_the_grid_of_everything_has_every_trainer() -> None:
    (path,) = (path for path in GRIDS if path.stem == "all")
    assert {plan.trainer for plan in plans(make_grid(read_grid_file(path), "data", "out"))} == set(trainer_names()) - {
        "XCoOpReleased"
    }  # it is compared with as the reading of a method, not as one


def test_the_ablation_has_every_part_of_its_table_once() -> None:
    (path,) = (path for path in GRIDS if path.stem == "ablation")
    names = [plan.folder.name for plan in plans(make_grid(read_grid_file(path), "data", "out"))]
    assert len(set(names)) == len(names) == 3 * len(yaml.safe_load(path.read_text())["variants"]) == 48
    assert names[:3] == ["phantom_1shots", "phantom_1shots_spread-1.0", "phantom_1shots_spread-2.0"]
    section = (path.parents[2] / "docs" / "method.md").read_text().partition("### Ablation")[2].partition("\n### ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    off = {key for line in rows for key in re.findall(r"TRAINER\.XCOOP\.([A-Z_]+)", line)}
    changed = {key.rpartition(".")[2] for one in yaml.safe_load(path.read_text())["variants"] for key in one}
    assert changed == off


def test_the_peers_protocol_has_its_sets_its_methods_and_its_settings() -> None:
    grids = {path.stem: make_grid(read_grid_file(path), "data", "out") for path in GRIDS}
    few, halves = plans(grids["biomedcoop"]), plans(grids["biomedcoop_base_to_new"])
    sets = {name for name in config_names() if read_config_tree(config_file(name)).get("DATASET.NAME") == "BiomedCoOp"}
    assert {plan.dataset for plan in few} == sets
    assert {plan.dataset for plan in halves} == sets - {"busi_biomedcoop"}
    assert {(plan.shots, plan.seeds) for plan in few if plan.trainer == "CoOp"} == {
        (shots, (1, 2, 3)) for shots in (1, 2, 4, 8, 16)
    }
    assert {cfg.MODEL.BACKBONE.NAME for cfg in (plan.merged for plan in (*few, *halves))} == {"BiomedCLIP"}

    def told(plans: list[Plan], trainer: str, dataset: str) -> CfgNode:
        return next(plan.merged for plan in plans if (plan.trainer, plan.dataset) == (trainer, dataset))

    def schedule(cfg: CfgNode) -> tuple[float, int, int]:
        return cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH, cfg.DATALOADER.TRAIN_X.BATCH_SIZE

    # read off HealthX-Lab/BiomedCoOp at 7ceb5a8, configs/trainers, by hand
    expected = {
        "CoOp": ((0.002, 100, 32), (0.002, 50, 32)),
        "CoCoOp": ((0.001, 10, 1), (0.001, 10, 1)),
        "KgCoOp": ((0.002, 100, 128), (0.002, 50, 128)),
        "ProGrad": ((0.002, 100, 128), (0.0015, 50, 128)),
        "BiomedCoOp": ((0.0025, 100, 4), (0.0025, 50, 4)),
    }
    for trainer, (first, second) in expected.items():
        one, two = told(few, trainer, "kneexray"), told(halves, trainer, "kneexray")
        assert (schedule(one), schedule(two)) == (first, second)
        node = one.TRAINER[trainer.upper()]
        assert (node.PREC, node.N_CTX, node.CTX_INIT) == ("fp32", 4, "a photo of a")
        assert list(one.INPUT.TRANSFORMS) == ["random_resized_crop", "normalize"]
    assert [told(grid, "KgCoOp", "kneexray").TRAINER.KGCOOP.W for grid in (few, halves)] == [4.0, 8.0]
    assert [told(grid, "ProGrad", "btmri").TRAINER.PROGRAD.T for grid in (few, halves)] == [2.0, 1.0]
    assert schedule(told(few, "CLIPAdapter", "busi_biomedcoop")) == (0.01, 20, 32)
    assert told(few, "CLIPAdapter", "busi_biomedcoop").TRAINER.CLIPADAPTER.RATIO == 0.5
    assert told(few, "TipAdapterF", "retina").TRAINER.TIPADAPTERF.INIT_ALPHA == 1.0
