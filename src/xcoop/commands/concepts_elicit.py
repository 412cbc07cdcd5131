"""`xcoop concepts elicit`: a concept bank from a language model, behind any server with the OpenAI chat API."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xcoop.concepts.bank import TEMPLATE, load_bank, require_new_bank
from xcoop.concepts.chat import Client, read_address, read_key, redacted
from xcoop.concepts.elicitation import (
    Query,
    Store,
    Tally,
    answers_path,
    ask_all,
    build,
    open_store,
    picture_of,
    read_store,
    write_bank,
)
from xcoop.utils.console import UserError, complain, say, shown, to_paste, unknown

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
    parser.add_argument("--force", action="store_true", help="overwrite --out")
    parser.add_argument("--samples", type=int, default=5, help="answers that vote (default 5)")
    parser.add_argument("--threshold", type=float, default=0.5, help="the share of a class's answers that must name a "
                        "finding (default 0.5)")  # fmt: skip
    parser.add_argument("--concepts", type=int, default=8, help="findings a class, at most (default 8)")
    parser.add_argument("--resume", action="store_true", help="go on with the answers that are there")
    parser.add_argument("--rebuild", action="store_true", help="make the bank from stored answers; nobody is asked")
    parser.add_argument("--retries", type=int, default=4, help="further tries of a request that failed, or whose "
                        "answer was of no use (default 4)")  # fmt: skip
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds without a byte (default 120)")
    parser.add_argument("--temperature", type=float, help="of the sampling (default: the server's)")


def run(arguments: argparse.Namespace) -> int:
    """Asks, counts, writes, and says what happened."""
    out = arguments.out or Path(f"{Path(arguments.words[0]).stem}_elicited.yaml")
    _check(arguments)
    require_new_bank(out, arguments.force)
    tally = Tally()
    store = read_store(answers_path(out)) if arguments.rebuild else _ask(arguments, out, tally)
    chosen, dropped = build(store, arguments.threshold, arguments.concepts)
    write_bank(out, store, chosen, arguments.threshold)
    for classname, own in chosen.items():
        say(classname, *(f"  {one.votes} of {one.answers}  {one.text}" for one in own))
    for classname, text, why in dropped:
        say(f"dropped: {text} ({classname}): {why}")
    say(f"{len(store.answers)} answers of {store.query.model} in {store.path}")
    if tally.given_up:
        samples = "; ".join(f"sample {sample}: {', '.join(classes)}" for sample, classes in tally.given_up)
        complain(f"of {samples} no answer was of use: --resume --force asks for them again")
    say(f"{out}: written; not reviewed. What is wrong with it says {to_paste('xcoop', 'concepts', 'check', str(out))}")
    return 0


def _check(arguments: argparse.Namespace) -> None:
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


def _ask(arguments: argparse.Namespace, out: Path, tally: Tally) -> Store:
    key = read_key(arguments.key_env or KEY, needed=bool(arguments.key_env))
    url, host, warnings = read_address(arguments.base_url, key)
    for warning in warnings:
        complain(f"warning: {warning}")
    client = Client(url, arguments.model, key, arguments.timeout, arguments.retries, arguments.temperature)
    with open_store(answers_path(out), _query(arguments, host), arguments.resume) as store:
        try:
            ask_all(client, store, arguments.samples, arguments.retries + 1, tally)
        finally:
            say(f"{tally.requests} requests; {len(store.answers)} answers are kept in {store.path}")
            if tally.faults:
                kinds = ", ".join(f"{count}x {kind}" for kind, count in tally.faults.most_common())
                say(redacted(f"what was wrong with some: {kinds}", key))
    return store


def _query(arguments: argparse.Namespace, host: str) -> Query:
    """What is asked for; images are looked at only where nothing else knows the classes."""
    from dassl.data.datasets import DATASET_REGISTRY

    from xcoop.config.merge import config_file, merge_file, merge_pairs
    from xcoop.config.plugins import get_cfg

    cfg = get_cfg()
    merge_file(cfg, config_file(arguments.words[0]))
    cfg.DATASET.TASK = arguments.task or cfg.DATASET.TASK
    merge_pairs(cfg, arguments.words[1:])
    dataset = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    banks = (cfg.DATASET.CONCEPT_BANK, getattr(dataset, "concept_bank", ""), Path(arguments.words[0]).stem)
    template = arguments.template or _template(filter(None, banks))
    if template.count("{class}") != 1 or template.count("{concepts}") != 1:
        raise UserError(f"--template {shown(template)} must hold {{class}} and {{concepts}} once each")
    tasks: Mapping[str, Sequence[str]] = getattr(dataset, "tasks", {})
    if arguments.classes:
        classes = [name.strip() for name in arguments.classes.split(",") if name.strip()]
    elif stated := cfg.DATASET.get("CLASSES", ()):
        classes = list(map(str, stated))
    elif tasks:
        task = cfg.DATASET.TASK or next(iter(tasks))
        if task not in tasks:
            raise UserError(f"{cfg.DATASET.NAME}: {unknown('task', task, tasks)}")
        classes = list(tasks[task])
    else:
        classes = list(dataset(cfg).classnames)
    return Query(
        dataset=str(cfg.DATASET.NAME),
        classes=tuple(classes),
        template=template,
        picture=arguments.picture or picture_of(template),
        model=arguments.model,
        host=host,
        concepts=arguments.concepts,
    )


def _template(banks: Iterable[str]) -> str:
    """That of the first of these banks that there is."""
    for bank in banks:
        try:
            return load_bank(bank).template
        except FileNotFoundError:
            continue
    return TEMPLATE
