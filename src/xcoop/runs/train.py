"""One run: merge the config, build the trainer, train it or load it, and evaluate it.

The flags are CoOp's. A run's folder belongs to one process and to one configuration: another process, or other
settings, end in an error, and nothing is overwritten.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xcoop.utils.console import Parser, UserError, guarded, say, unknown

if TYPE_CHECKING:
    from yacs.config import CfgNode

    from xcoop.results.record import Origin

DEFAULT_OUTPUT = "./output"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `train.py` (or `xcoop train`) with the given arguments; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    return guarded(lambda: run(parser().parse_intermixed_args(words), words))


def parser() -> Parser:
    """CoOp's flags."""
    flags = Parser(
        prog="train.py",
        description="Trains a prompt learner and evaluates it; or evaluates one that was trained before.",
        epilog="Later ones win: defaults, dataset file, method file, flags, KEY VALUE pairs.",
    )
    flags.add_argument("--root", default="", help="the data root, below which the datasets lie")
    flags.add_argument("--output-dir", default="", help="where log, checkpoints and results go")
    flags.add_argument("--resume", default="", help="go on from the checkpoints in this folder")
    flags.add_argument("--seed", type=int, help="0 or more: a fixed seed")
    flags.add_argument("--source-domains", nargs="+", help="source domains")
    flags.add_argument("--target-domains", nargs="+", help="target domains")
    flags.add_argument("--transforms", nargs="+", help="augmentations, e.g. random_flip normalize")
    flags.add_argument("--config-file", default="", help="the method's YAML file, or its short name, e.g. vit_b16")
    flags.add_argument("--dataset-config-file", default="", help="the dataset's YAML file, or its short name")
    flags.add_argument("--trainer", default="", help="the method, e.g. XCoOp; of an unknown one all are named")
    flags.add_argument("--backbone", default="", help="the CLIP model, e.g. ViT-B/16, RN50, phantom")
    flags.add_argument("--head", default="", help="name of the head (CoOp's flag; no method here has one)")
    flags.add_argument("--eval-only", action="store_true", help="evaluate the weights of --model-dir, train nothing")
    flags.add_argument("--model-dir", default="", help="the output folder of the run to evaluate, of this or "
                       "another dataset")  # fmt: skip
    flags.add_argument("--load-epoch", type=int, help="evaluate this epoch's weights (default: the best, if kept)")
    flags.add_argument("--no-train", action="store_true", help="build everything, and stop")
    flags.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys, e.g. TRAINER.COOP.N_CTX 4")
    return flags


def run(args: argparse.Namespace, words: Sequence[str], cfg: CfgNode | None = None, once: bool = False) -> int:
    """Does what the arguments say.

    Args:
        args: of `parser`.
        words: what they were read from.
        cfg: what `merged` makes of them, if that is known already.
        once: whether a run that is finished is left alone, instead of being evaluated again.

    Raises:
        FinishedError: it is, and was.
        UserError: names, keys, types or folders are wrong; nothing was written then.
    """
    from xcoop.config.plugins import load_plugins, trains
    from xcoop.results.folder import check_resumed, occupied
    from xcoop.results.record import UNTRAINED, Origin

    cfg = cfg or merged(args)
    load_plugins()  # a process that was handed its config may not have needed them yet
    evaluated_from = None  # of a run that trains, or whose method has nothing to train
    if args.eval_only:
        _check_weights(args)
        evaluated_from = args.model_dir or (UNTRAINED if trains(cfg.TRAINER.NAME) else None)
        if args.model_dir:
            cfg = _as_trained(cfg, Path(args.model_dir))
    origin = Origin(
        cfg=Path(args.config_file).stem or None,
        command=shlex.join(["train.py", *words]),
        evaluated_from=evaluated_from,
        load_epoch=args.load_epoch if args.eval_only else None,
    )
    if not args.eval_only:
        check_resumed(cfg)
    with occupied(Path(cfg.OUTPUT_DIR), cfg, origin, once):
        _train_or_evaluate(cfg, args, origin)
    return 0


def merged(args: argparse.Namespace) -> CfgNode:
    """The frozen config of a run: defaults <- dataset file <- method file <- flags <- KEY VALUE pairs."""
    from xcoop.config.labels import usual_label
    from xcoop.config.merge import SUFFIXES, as_pairs, config_file, merge_file, merge_pairs, method_files
    from xcoop.config.plugins import get_cfg

    cfg = get_cfg()
    if args.dataset_config_file:
        merge_file(cfg, config_file(args.dataset_config_file))
    if args.config_file:
        if args.trainer:
            check_trainer(args.trainer)
        elif Path(args.config_file).suffix not in SUFFIXES:
            name = args.config_file
            raise UserError(f"--config-file {name}: a short name needs --trainer; or give the path of the YAML file")
        for path in method_files(args.config_file, args.trainer):
            merge_file(cfg, path)

    cfg.DATASET.ROOT = args.root or cfg.DATASET.ROOT
    cfg.OUTPUT_DIR = args.output_dir or cfg.OUTPUT_DIR
    cfg.RESUME = args.resume or cfg.RESUME
    cfg.SEED = cfg.SEED if args.seed is None else args.seed
    cfg.DATASET.SOURCE_DOMAINS = args.source_domains or cfg.DATASET.SOURCE_DOMAINS
    cfg.DATASET.TARGET_DOMAINS = args.target_domains or cfg.DATASET.TARGET_DOMAINS
    cfg.INPUT.TRANSFORMS = args.transforms or cfg.INPUT.TRANSFORMS
    cfg.TRAINER.NAME = args.trainer or cfg.TRAINER.NAME
    cfg.MODEL.BACKBONE.NAME = args.backbone or cfg.MODEL.BACKBONE.NAME
    cfg.MODEL.HEAD.NAME = args.head or cfg.MODEL.HEAD.NAME
    merge_pairs(cfg, args.opts)

    if cfg.DATASET.PATH:  # saved as it is meant here: a later process may run elsewhere
        cfg.DATASET.PATH = os.path.abspath(os.path.expanduser(cfg.DATASET.PATH))
        stated = "DATASET.PATH" in dict(as_pairs(args.opts))
        cfg.DATASET.LABEL = cfg.DATASET.LABEL or usual_label(cfg, args.dataset_config_file, stated)
    if args.eval_only and args.model_dir and cfg.OUTPUT_DIR == DEFAULT_OUTPUT:  # it goes below the run it evaluates
        epoch = "" if args.load_epoch is None else f"_epoch{args.load_epoch}"
        name = f"{cfg.DATASET.LABEL or cfg.DATASET.NAME}_{cfg.DATASET.SUBSAMPLE_CLASSES}{epoch}"
        cfg.OUTPUT_DIR = str(Path(args.model_dir, "evaluation", name))
    check_values(cfg)
    cfg.freeze()
    return cfg


def _as_trained(cfg: CfgNode, trained: Path) -> CfgNode:
    """The config of an evaluation on the classes of the run: spelled and ordered as there, and with its concept bank.

    What was learned for the first class belongs to the first class, and what was learned of a sentence to its words,
    whatever the bank of another dataset says. A stated DATASET.CONCEPT_BANK stays.
    """
    from dassl.data.datasets import DATASET_REGISTRY

    from xcoop.data.dataset import class_names, same_classes
    from xcoop.results.record import read_run

    own, record = class_names(cfg), read_run(trained) or {}
    of_run = record.get("classnames", ())
    if not own or not same_classes(own, of_run):
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    if list(own) != list(of_run):
        cfg.DATASET.CLASSES = list(of_run)
    own_bank = getattr(DATASET_REGISTRY.get(cfg.DATASET.NAME), "concept_bank", "")
    if record.get("bank") and not cfg.DATASET.CONCEPT_BANK and record["concept_bank"] != own_bank:
        cfg.DATASET.CONCEPT_BANK = record["concept_bank"]
    cfg.freeze()
    return cfg


def check_values(cfg: CfgNode) -> None:
    """UserError for a trainer or dataset that nobody offers, and for values that no run could mean."""
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    from xcoop.config.plugins import check_settings
    from xcoop.training.trainer import PromptTrainer
    from xcoop.utils.rules import one_of

    check_trainer(cfg.TRAINER.NAME)
    _require_known("dataset", "--dataset-config-file", cfg.DATASET.NAME, DATASET_REGISTRY.registered_names())
    try:
        check_settings(cfg)
        if tasks := getattr(DATASET_REGISTRY.get(cfg.DATASET.NAME), "tasks", {}):
            one_of("", *tasks).check("DATASET.TASK", cfg.DATASET.TASK)
        trainer = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
        if issubclass(trainer, PromptTrainer):
            trainer.check_cfg(cfg)
    except ValueError as error:
        raise UserError(str(error)) from error


def check_trainer(name: str) -> None:
    """UserError for a trainer that nobody offers."""
    from dassl.engine import TRAINER_REGISTRY

    from xcoop.config.plugins import load_plugins

    load_plugins()
    _require_known("trainer", "--trainer", name, TRAINER_REGISTRY.registered_names())


def _require_known(kind: str, flag: str, name: str, known: Sequence[str]) -> None:
    if not name:
        raise UserError(f"no {kind} is given: use {flag}. Known: {', '.join(sorted(known))}.")
    if name not in known:
        raise UserError(unknown(kind, name, known))


def _train_or_evaluate(cfg: CfgNode, args: argparse.Namespace, origin: Origin) -> None:
    """Builds, and trains or evaluates; the run folder is ours by now."""
    import torch
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    from xcoop.engine.data import require_validation
    from xcoop.results.folder import save_config
    from xcoop.results.record import hardware, versions
    from xcoop.training.trainer import PromptTrainer
    from xcoop.utils.process_cache import fact

    if cfg.SEED >= 0:
        say(f"Setting fixed seed: {cfg.SEED}")
        set_random_seed(cfg.SEED)
    device = torch.device("cuda" if torch.cuda.is_available() and cfg.USE_CUDA else "cpu")
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    flags = [f"{key}: {value}" for key, value in sorted(vars(args).items())]  # as CoOp's logs begin
    say("***************", "** Arguments **", "***************", *flags)
    say("************", "** Config **", "************", str(cfg))
    # As the record has it. What CoOp shows here has pip list the packages, in a process of its own, on every start.
    system = fact("versions", versions) | hardware(device)
    say("** System info **", *(f"{name}: {value}" for name, value in system.items()), "")
    trainer = build_trainer(cfg)
    trainer.origin = origin  # for the record; a trainer of another programme makes none
    require_validation(cfg, trainer.val_loader)  # which trainers of other programmes do not ask for
    # Ours save it once they found the checkpoint that may be there to fit; without training nobody looks for one.
    if args.no_train or not isinstance(trainer, PromptTrainer):
        save_config(Path(cfg.OUTPUT_DIR), cfg)
    if args.eval_only:
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        trainer.test()
    elif not args.no_train:
        trainer.train()


def _check_weights(args: argparse.Namespace) -> None:
    """UserError if the run to evaluate, or its epoch, is not there."""
    if not args.model_dir:
        return  # a method that trains nothing has no weights; the others say that they start from scratch
    folder = Path(args.model_dir)
    found = sorted(path.name for path in folder.glob("*/model*.pth.tar*"))
    if not found:
        raise UserError(
            f"--model-dir {folder} holds no checkpoint (looked for {folder}/prompt_learner/model*.pth.tar*)"
        )
    epochs = {name.rpartition("-")[2] for name in found if ".tar-" in name}
    if args.load_epoch is not None and str(args.load_epoch) not in epochs:
        have = ", ".join(sorted(epochs, key=lambda text: int(text) if text.isdigit() else 0)) or "none"
        raise UserError(f"--load-epoch {args.load_epoch}: {folder} has no such checkpoint; its epochs: {have}")


if __name__ == "__main__":
    sys.exit(main())
