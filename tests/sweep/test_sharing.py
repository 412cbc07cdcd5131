"""What runs share is theirs to read; what one changes ends with it: each is the run that train.py makes alone."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny_jobs
import torch
from helpers_families import open_clip_folder
from yacs.config import CfgNode

from xcoop.backbones import ImageFeatures, backbone_of, base
from xcoop.concepts.bank import BankError
from xcoop.runs import train
from xcoop.sweep.job import FAILED, Job, Runner, isolated
from xcoop.training import feature_cache
from xcoop.training.feature_cache import shared_features
from xcoop.utils import process_cache as sharing
from xcoop.utils.console import DatasetError, UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("error", "again"),
    [(DatasetError, False), (BankError, False), (UserError, False), (ValueError, False), (RuntimeError, True)],
)
def test_a_fault_of_the_data_is_not_tried_again(
    error: type[Exception], again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> int:
        raise error("what is wrong")

    monkeypatch.setattr(train, "run", fails)
    outcome = Runner()(Job(("--trainer", "CoOp"), tmp_path, "a run", "tiny"))
    assert (outcome.state, outcome.again) == (FAILED, again)
    assert "what is wrong" in outcome.message


@pytest.mark.parametrize("collecting", [True, False])
def test_what_is_imported_for_good_is_not_looked_through(collecting: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        frozen = gc.get_freeze_count()
        with contextlib.suppress(ImportError), sharing.imported_for_good():
            assert not gc.isenabled()
            made = [[number] for number in range(1000)]
            raise ImportError("no such module")
        assert gc.isenabled() is collecting
        assert gc.get_freeze_count() >= frozen + len(made)
    finally:
        (gc.enable if before else gc.disable)()
        gc.unfreeze()


@pytest.fixture
def cfg(tiny_weights_file: Path) -> CfgNode:
    return CfgNode({"MODEL": {"BACKBONE": {"NAME": "ViT-B/16", "PATH": str(tiny_weights_file)}}})


def count_loads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    load, loads = base.load_backbone, []
    monkeypatch.setattr(base, "load_backbone", lambda cfg: (loads.append(1), load(cfg))[1])
    return loads


def test_outside_a_scope_nothing_is_kept(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = count_loads(monkeypatch)
    assert backbone_of(cfg, CPU) is not backbone_of(cfg, CPU)
    assert len(loads) == 2
    made: list[int] = []
    for _ in range(2):
        sharing.fact("what", lambda: made.append(1))
        shared_features("which", lambda: made.append(1))  # type: ignore[arg-type,return-value]
    assert len(made) == 4


def test_each_run_has_a_backbone_of_its_own(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = count_loads(monkeypatch)
    with sharing.sharing(sharing.Shared()):
        first = backbone_of(cfg, CPU)
        fingerprint = first.fingerprint()
        for parameter in first.image_norms():
            parameter.requires_grad_(True)
            with torch.no_grad():
                parameter.add_(1)
        first.register_forward_hook(lambda *_: None)
        second = backbone_of(cfg, CPU)
    assert len(loads) == 1
    assert second.fingerprint() == fingerprint != first.fingerprint()
    assert not any(parameter.requires_grad for parameter in second.parameters())
    assert not second._forward_hooks
    storages = [{tensor.data_ptr() for tensor in one.state_dict().values()} for one in (first, second)]
    assert not storages[0] & storages[1]


def test_the_fingerprint_that_is_taken_over_is_that_of_the_weights(cfg: CfgNode) -> None:
    with sharing.sharing(sharing.Shared()):
        taken = backbone_of(cfg, CPU)
    known = taken.fingerprint()
    taken._fingerprint = None
    assert taken.fingerprint() == known


def test_changed_weights_are_loaded_anew(
    cfg: CfgNode, tiny_weights_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(tiny_weights_file.read_bytes())
    cfg.MODEL.BACKBONE.PATH = str(path)
    loads = count_loads(monkeypatch)
    with sharing.sharing(sharing.Shared()):
        backbone_of(cfg, CPU)
        os.utime(path, ns=(1, 1))
        backbone_of(cfg, CPU)
    assert len(loads) == 2


def test_another_making_of_the_same_file_is_loaded_for_itself(cfg: CfgNode) -> None:
    with sharing.sharing(sharing.Shared()):
        plain = backbone_of(cfg, CPU)
        cfg.MODEL.BACKBONE.ACTIVATION = "gelu"
        assert backbone_of(cfg, CPU).fingerprint() != plain.fingerprint()


def test_a_folder_with_another_config_is_loaded_anew(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PATH = "open_clip", str(open_clip_folder(tmp_path))
    with sharing.sharing(sharing.Shared()):
        plain = backbone_of(cfg, CPU)
        config = tmp_path / "open_clip_config.json"
        config.write_text(config.read_text().replace('"quick_gelu": true', '"quick_gelu": false'))
        assert backbone_of(cfg, CPU).fingerprint() != plain.fingerprint()


def images(rows: int) -> ImageFeatures:
    return ImageFeatures(torch.zeros(rows, 4), torch.zeros(rows, 0, 4))


def test_features_are_made_once_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_cache, "MAX_SHARED", 100 * 4 * 4)
    made: list[str] = []

    def ask(key: str) -> None:
        shared_features(key, lambda: (made.append(key), images(40))[1])

    with sharing.sharing(sharing.Shared()):
        for key in "abacab":  # a, b; a again; c puts b out; a is there; b has to be made again
            ask(key)
    assert made == ["a", "b", "c", "b"]


def state() -> dict[str, object]:
    return {
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # type: ignore[union-attr,index]
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "errors": np.geterr(),
        "streams": (sys.stdout, sys.stderr),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "level": logging.getLogger("xcoop").level,
        "handlers": list(logging.getLogger().handlers),
        "disabled": logging.root.manager.disable,
        "warnings": list(warnings.filters),
    }


@pytest.mark.parametrize("crash", [False, True])
def test_everything_is_put_back(crash: bool, tmp_path: Path) -> None:
    before = state()
    with contextlib.suppress(KeyError), isolated():
        random.seed(7)
        np.random.seed(7)
        torch.manual_seed(7)
        torch.set_num_threads(torch.get_num_threads() + 1)
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.autograd.set_detect_anomaly(True)
        torch.set_float32_matmul_precision("medium")
        np.seterr(all="raise")
        sys.stdout = sys.stderr = (tmp_path / "out").open("w")
        os.environ["SOMETHING_NEW"] = "1"
        os.chdir(tmp_path)
        logging.getLogger("xcoop").setLevel(logging.ERROR)
        logging.getLogger().addHandler(logging.NullHandler())
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("error")
        changed = state()
        assert all(changed[key] != before[key] for key in before)
        if crash:
            raise KeyError
    assert state() == before


PEAKS = """
import torch
from xcoop.results.record import peak_memory_mb
from xcoop.sweep.job import isolated
with isolated():
    pass  # what the first one imports stays
with isolated():
    large = torch.ones(200 << 18)  # 200 MiB
    with_it = peak_memory_mb()["peak_memory_mb"]
    del large
with isolated():
    assert peak_memory_mb()["peak_memory_mb"] < with_it - 100, with_it
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux can")
def test_a_run_records_its_own_peak_of_memory() -> None:
    """In a process of its own: what threads that have ended took before cannot be forgotten."""
    subprocess.run([sys.executable, "-c", PEAKS], check=True, timeout=60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a child that has run nothing is made by fork")
@pytest.mark.usefixtures("tiny_environment")
def test_runs_that_share_a_process_are_those_made_alone_byte_for_byte(
    tiny_data: Path, tiny_weights_file: Path, tmp_path: Path
) -> None:
    words = [sys.executable, tiny_jobs.__file__, "identical", *map(str, (tiny_data, tiny_weights_file, tmp_path))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.pop("bad-crash") == ["failed"]
    assert len(told) == 7
    assert all(one == ["finished"] for one in told.values()), told

    logs = {title: (tmp_path / "shared" / title / "log.txt").read_text() for title in (*told, "bad-crash")}
    assert "FloatingPointError" in logs["bad-crash"]
    for title, log in logs.items():
        assert log.count("** Config **") == 1, "each run has a log of its own"
        assert f"shared/{title}\n" in log
    records = [
        json.loads((tmp_path / "shared" / title / "results.json").read_text()) for title in ("CoOp", "CoOp-again")
    ]
    assert records[0]["backbone_sha256"] == records[1]["backbone_sha256"]
