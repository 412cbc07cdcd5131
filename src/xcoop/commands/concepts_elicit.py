"""`xcoop concepts elicit`: a concept bank from a language model, behind any server with the OpenAI chat API."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xcoop.concepts.bank import load_bank
from xcoop.concepts.elicit import Patience, Tally, ask_all
from xcoop.concepts.elicit_bank import build, write_bank
from xcoop.concepts.elicit_client import Client, Secret, read_address, read_key
from xcoop.concepts.elicit_prompt import Query, picture_of
from xcoop.concepts.elicit_store import Store, answers_path, open_store, read_store
from xcoop.concepts.elicit_votes import Dropped, Elected
from xcoop.utils.console import UserError, complain, say
from xcoop.utils.suggest import shown, unknown

TEMPLATE = "a photo of a {class}, {concepts}."
KEY = "OPENAI_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop concepts elicit`."""
    parser.usage = (
        "xcoop concepts elicit DATASET [KEY VALUE ...] --model M --base-url URL [options]\n"
        "       xcoop concepts elicit DATASET --out BANK.yaml --rebuild [--threshold SHARE] [--concepts N]"
    )
    parser.epilog = (
        "Every raw answer is kept in <bank>.answers.jsonl beside the bank. Keys are read from the environment alone. "
        "No clinician reviews what a model says: read the bank, and run `xcoop concepts check` on it."
    )
    parser.add_argument("words", nargs="+", metavar="DATASET", help="its short name, and KEY VALUE pairs of the config")
    parser.add_argument("--model", default="", help="as the server knows it")
    parser.add_argument("--base-url", default="", help="of the server, e.g. http://localhost:8000/v1")
    parser.add_argument("--key-env", default="", metavar="NAME", help=f"the variable with the API key (default: {KEY})")
    parser.add_argument("--task", default="", help="which classes (default: the dataset's own default)")
    parser.add_argument("--classes", default="", help="class names with commas between, in the place of the dataset's")
    parser.add_argument("--template", default="", help="of the sentences, with {class} and {concepts} (default: as "
                        "in the dataset's bank)")  # fmt: skip
    parser.add_argument("--picture", default="", help='what the images are, e.g. "a chest x-ray" (default: as the '
                        "template says)")  # fmt: skip
    parser.add_argument("--out", type=Path, help="the bank to write (default: <dataset>_elicited.yaml)")
    parser.add_argument("--force", action="store_true", help="overwrite --out; cut off a half-written answer")
    parser.add_argument("--samples", type=int, default=5, help="answers that vote (default 5)")
    parser.add_argument("--threshold", type=float, default=0.5, help="the share of a class's answers that must name a "
                        "finding (default 0.5)")  # fmt: skip
    parser.add_argument("--concepts", type=int, default=8, help="findings a class, at most (default 8)")
    parser.add_argument("--resume", action="store_true", help="go on with the answers that are there")
    parser.add_argument("--rebuild", action="store_true", help="make the bank from stored answers; nobody is asked")
    parser.add_argument("--retries", type=int, default=4, help="further tries where one was of no use (default 4)")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds without a byte (default 120)")
    parser.add_argument("--temperature", type=float, help="of the sampling (default: the server's)")


def run(arguments: argparse.Namespace) -> int:
    """Asks, counts, writes, and says what happened."""
    out = arguments.out or Path(f"{Path(arguments.words[0]).stem}_elicited.yaml")
    _check(arguments, out)
    if arguments.rebuild:
        store, tally = read_store(answers_path(out)), None
    else:
        store, tally = _ask(arguments, out)
    chosen, dropped = build(store, arguments.threshold, arguments.concepts)
    write_bank(out, store, chosen, arguments.threshold)
    say(*_report(store, chosen, dropped))
    if tally and tally.given_up:
        complain(f"of {_samples(tally)} no answer was of use: --resume --force asks for them again")
    say(f"{out}: written; not reviewed. `xcoop concepts check {out}` says what is wrong with it")
    return 0


def _check(arguments: argparse.Namespace, out: Path) -> None:
    if not arguments.rebuild and not (arguments.model and arguments.base_url):
        raise UserError("--model and --base-url say who is asked; --rebuild asks nobody")
    if arguments.rebuild and arguments.resume:
        raise UserError("--resume asks for what is missing and --rebuild asks nobody: choose one")
    if not 0 < arguments.threshold <= 1:
        raise UserError(f"--threshold must be a share above 0, at most 1, not {arguments.threshold}")
    for name, least in (("samples", 1), ("concepts", 1), ("retries", 0)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name} must be at least {least}, not {getattr(arguments, name)}")
    if arguments.timeout <= 0:
        raise UserError(f"--timeout must be above 0, not {arguments.timeout}")
    if out.suffix.lower() not in (".yaml", ".yml"):
        raise UserError(f"--out must be a YAML file (.yaml), not {out}")
    if out.exists() and not arguments.force:
        raise UserError(f"{out} exists; --force overwrites it")


def _ask(arguments: argparse.Namespace, out: Path) -> tuple[Store, Tally]:
    key = read_key(arguments.key_env or KEY, needed=bool(arguments.key_env))
    address = read_address(arguments.base_url, key)
    for warning in address.warnings:
        complain(f"warning: {warning}")
    client = Client(address, arguments.model, key, arguments.timeout, arguments.temperature)
    tally = Tally()
    query = _query(arguments, address.host)
    with open_store(answers_path(out), query, arguments.resume, arguments.force) as store:
        try:
            ask_all(client, store, arguments.samples, Patience(arguments.retries), tally)
        finally:
            _say_faults(tally, len(store.answers), key)
    return store, tally


def _say_faults(tally: Tally, answers: int, key: Secret) -> None:
    say(f"{tally.requests} requests; {answers} answers are kept")
    if tally.faults:
        kinds = ", ".join(f"{count}x {kind}" for kind, count in tally.faults.most_common())
        say(key.blot(f"what was wrong with some: {kinds}"))


def _query(arguments: argparse.Namespace, host: str) -> Query:
    """What is asked for; images are looked at only where nothing else knows the classes."""
    cfg, dataset = _dataset(arguments)
    template = arguments.template or _template(cfg, dataset, Path(arguments.words[0]).stem)
    if template.count("{class}") != 1 or template.count("{concepts}") != 1:
        raise UserError(f"--template {shown(template)} must hold {{class}} and {{concepts}} once each")
    return Query(
        dataset=str(cfg.DATASET.NAME),
        classes=_classes(arguments, cfg, dataset),
        template=template,
        picture=arguments.picture or picture_of(template),
        model=arguments.model,
        host=host,
        concepts=arguments.concepts,
    )


def _dataset(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The merged config, and the dataset's class."""
    from dassl.data.datasets import DATASET_REGISTRY

    from xcoop.config.defaults import get_cfg
    from xcoop.config.merge import config_file, merge_file, merge_pairs

    cfg = get_cfg()
    merge_file(cfg, config_file(arguments.words[0]))
    cfg.DATASET.TASK = arguments.task or cfg.DATASET.TASK
    merge_pairs(cfg, arguments.words[1:])
    return cfg, DATASET_REGISTRY.get(cfg.DATASET.NAME)


def _classes(arguments: argparse.Namespace, cfg: Any, dataset: Any) -> tuple[str, ...]:
    """Those of the command line, else of the dataset's configuration or task, else of its files."""
    if arguments.classes:
        return tuple(name.strip() for name in arguments.classes.split(",") if name.strip())
    if stated := cfg.DATASET.get("CLASSES", ()):
        return tuple(map(str, stated))
    tasks: Mapping[str, Sequence[str]] = getattr(dataset, "tasks", {})
    if not tasks:
        return tuple(dataset(cfg).classnames)
    task = cfg.DATASET.TASK or next(iter(tasks))
    if task not in tasks:
        raise UserError(f"{cfg.DATASET.NAME}: {unknown('task', task, tasks)}")
    return tuple(tasks[task])


def _template(cfg: Any, dataset: Any, name: str) -> str:
    """That of the dataset's bank, if it has one."""
    for bank in (cfg.DATASET.CONCEPT_BANK, getattr(dataset, "concept_bank", ""), name):
        try:
            if bank:
                return load_bank(bank).template
        except FileNotFoundError:
            continue
    return TEMPLATE


def _report(store: Store, chosen: Mapping[str, Sequence[Elected]], dropped: Sequence[Dropped]) -> list[str]:
    lines = []
    for classname, own in chosen.items():
        lines += [classname, *(f"  {one.votes} of {one.answers}  {one.text}" for one in own)]
    lines += [f"dropped: {one.text} ({one.classname}): {one.why}" for one in dropped]
    return [*lines, f"{len(store.answers)} answers of {store.query.model} in {store.path}"]


def _samples(tally: Tally) -> str:
    return "; ".join(f"sample {sample}: {', '.join(classes)}" for sample, classes in tally.given_up)
