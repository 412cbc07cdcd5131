"""All that is said of a run: its trust table, what each class's prompt learned, and its images, one by one.

Symbols: B images, C classes, J concepts.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch.nn.functional import adaptive_avg_pool2d

from xcoop.explain import content
from xcoop.explain.answers import ImageLike, Shown, entry_of, grid_of, is_preprocessed, opened
from xcoop.explain.concepts import class_sentences, nearest_words
from xcoop.explain.exact import ExactConcepts
from xcoop.explain.figures import LARGE, SIDE
from xcoop.explain.ground_truth import Truth, fit_mask, truth_of
from xcoop.explain.html import FEW
from xcoop.explain.maps import FINER, Methods, explainer, methods
from xcoop.explain.moved import SentenceChange, change_sentences, sentence_changes
from xcoop.methods.alignment import unit
from xcoop.results.record import now, relative
from xcoop.utils.console import to_paste

if TYPE_CHECKING:
    from xcoop.explain.trained import TrainedModel

logger = logging.getLogger(__name__)

LEARNED = 512  # training images that tell what is seen, at most
ASKED = 200  # test images behind the trust table, at most
STRONGEST = 3  # concepts that a class's sentences name
CONCEPT_MAPS = 6  # concepts of an image that get a map: those that move its logits most
MASK_CELLS = 32  # a side of a mask's grid


@dataclass(frozen=True)
class Known:
    """One image, and what its dataset says of it."""

    path: str
    name: str  # for readers: within its dataset, or the file's
    label: str | None = None
    patient: str = ""


def named(paths: Sequence[str]) -> list[Known]:
    """Images of which nothing else is known, by their files' names; of equal ones all but the first are numbered."""
    found: list[Known] = []
    times = Counter[str]()
    for path in paths:
        name = Path(path).name
        times[name] += 1
        found.append(Known(path, name if times[name] == 1 else f"{name} ({times[name]})"))
    return found


def test_images(run: TrainedModel) -> tuple[list[Known], Truth | None]:
    """The test images of the run's dataset, and what is known of them; the run learns to see from its training images.

    Raises:
        ValueError: the dataset is not here: it belongs to the programme that trained the run.
    """
    dataset = _dataset(run, run.cfg)
    patients = getattr(dataset, "patients", None) or {}
    places = (getattr(dataset, "dataset_dir", ""), run.cfg.DATASET.ROOT)
    homes = [Path(place).expanduser().absolute() for place in places if place]
    items = []
    for item in dataset.test:
        path, patient = item.impath, str(patients.get(item.impath) or item.impath)
        within = Path(relative(path, homes))
        items.append(Known(path, within.name if within.is_absolute() else str(within), item.classname, patient))
    truth = truth_of(dataset, run.bank)
    if truth is not None and truth.labels and run.concepts is not None:
        # Few-shot subsets are drawn by the seed: these are the images that the run was trained on.
        paths = [dataset.train_x[i].impath for i in spread(len(dataset.train_x), LEARNED)]
        run.learn_to_see(paths, truth.table(paths, run.concepts.texts))
    return items, truth


def learn_certainty(run: TrainedModel, most: int) -> None:
    """Lets a run count how often its certainty is right, on at most so many images of the whole validation split.

    A few-shot subset has some few images of it.

    Raises:
        ValueError: as `test_images`.
    """
    whole = run.cfg.clone()
    whole.defrost()
    whole.DATASET.NUM_SHOTS = -1  # all
    known = list(_dataset(run, whole).val or [])
    some = [known[i] for i in spread(len(known), most)]
    note = "They also chose the epoch." if run.results.get("selection") == "best_val" else ""
    if some:
        run.learn_certainty([item.impath for item in some], [item.classname for item in some], note)


def learn_from_dataset(run: TrainedModel, validation: int) -> None:
    """Lets a run learn from its training and validation images, if its dataset is at hand; else it goes without."""
    try:
        test_images(run)
        if validation:
            learn_certainty(run, validation)
    except (OSError, ValueError) as error:
        logger.info("what is seen is told without probabilities: %s", error)


def _dataset(run: TrainedModel, cfg: Any) -> Any:
    from dassl.data.datasets import DATASET_REGISTRY, build_dataset

    name = cfg.DATASET.NAME
    if name not in DATASET_REGISTRY.registered_names():
        raise ValueError(
            f"{run.folder}: its dataset {name} is none of xcoop's, so its test images are not known here: name the "
            f"images, {to_paste('xcoop', 'explain', str(run.folder), 'IMAGE')} ..."
        )
    return build_dataset(cfg)


def report_of(
    run: TrainedModel,
    items: Sequence[Known],
    truth: Truth | None,
    count: int,
    method: str = "",
    asked: int = ASKED,
    whole: bool = False,
) -> content.Explanations:
    """Everything about a run.

    Args:
        run: the trained model.
        items: its test images.
        truth: what is known of them.
        count: how many of them are shown one by one: wrong and right ones, the least certain first.
        method: of all maps; "" is the backbone's default, for classes and for concepts each its own.
        asked: how many the trust table rests on; they are spread evenly over the test set. 0: it is taken from an
            earlier page of the run, if there is one.
        whole: whether the run and its images go by their whole paths.
    """
    used = methods(run.backbone, method)
    table = run.measured(used)
    if asked and items:
        from xcoop.explain.trust import Sample, trust_table

        some = [items[i] for i in spread(len(items), asked)]
        paths, labels = [item.path for item in some], [item.label or "" for item in some]
        sample = Sample(paths, run.preprocess(paths), [item.patient for item in some], truth, labels)
        table = trust_table(run, sample, used)
    noun, learned, about = run.model.class_vector
    shown = [replace(item, name=item.path) if whole else item for item in chosen(run, items, count)]
    side = LARGE if len(shown) <= FEW else SIDE
    return content.Explanations(
        run=_run(run, whole),
        methods=[_described(run, used.of_class, "class"), _described(run, used.of_concept, "concept")],
        trust=table,
        calibration=run.calibration,
        class_vector=content.ClassVector(noun=noun, learned=learned, about=about),
        is_sum=isinstance(run.held, ExactConcepts),
        classes=prompt_classes(run),
        images=[image_entry(run, item, item.path, used, truth, side) for item in shown],
    )


def spread(total: int, wanted: int) -> list[int]:
    """Indices of at most `wanted` of `total` things, evenly spread."""
    return sorted({int(i) for i in np.linspace(0, total - 1, min(total, wanted)).round()})


def chosen(run: TrainedModel, items: Sequence[Known], count: int) -> list[Known]:
    """Of each kind, wrong and right, up to half of `count` (more if the other has fewer), spread over certainty."""
    if not items or count < 1:
        return []
    parts = [items[start : start + 256] for start in range(0, len(items), 256)]
    probabilities = np.concatenate([run.predict([item.path for item in part]).probabilities for part in parts])
    certainty = probabilities.max(1)
    guess = [run.classnames[k] for k in probabilities.argmax(1)]
    order = np.argsort(certainty, kind="stable").tolist()
    wrong = [i for i in order if items[i].label not in (None, guess[i])]
    right = [i for i in order if items[i].label in (None, guess[i])]
    n_wrong = min(len(wrong), max(count // 2, count - len(right)))
    picked = [wrong[i] for i in spread(len(wrong), n_wrong)] if n_wrong else []
    picked += [right[i] for i in spread(len(right), count - len(picked))] if count > len(picked) and right else []
    return [items[i] for i in sorted(picked, key=lambda i: certainty[i])]


def _run(run: TrainedModel, whole: bool) -> content.Run:
    results, parts = run.results, run.folder.absolute().parts
    git, bank = results.get("git"), results.get("bank") or {}
    copied = ("trainer", "backbone", "shots", "seed", "is_phantom", "config_hash")
    # <dataset>/<trainer>/<cfg>_<shots>shots/seed<k>, of which the first may be anybody's folder.
    own = parts[-3:] if parts[-3:-2] == (results["trainer"],) else parts[-1:]
    return content.Run(
        folder=str(run.folder.absolute()) if whole else "/".join(own),
        dataset=results.get("label") or results["dataset"],
        classnames=list(run.classnames),
        metrics=dict(results["metrics"]),
        git=str(git.get("commit")) if isinstance(git, dict) else git,
        created=now(),
        bank=" ".join(str(bank[name]) for name in ("name", "version", "sha256") if bank.get(name)),
        backbone_sha256=str(results.get("backbone_sha256") or ""),
        **{name: results[name] for name in copied},
    )


def _described(run: TrainedModel, name: str, kind: Literal["class", "concept"]) -> content.Method:
    finer = 2 if name.endswith(FINER) else 1
    grid = [finer * side for side in run.backbone.grid]
    return content.Method(name=name, kind=kind, description=explainer(name).summary, grid=grid)


# What the prompts learned.


def prompt_classes(run: TrainedModel) -> list[content.PromptClass]:
    """What each class's learned prompt says, in concepts and in words."""
    known, parts = run.concepts, run.decomposition
    vectors = run.class_vectors()
    with run.at_start():
        start = run.class_vectors()
    texts, listed = (known.texts, known.own) if known else ((), vectors[:0])
    directions = unit(known.vectors) if known else vectors[:0]  # (J, D)
    after, before = unit(vectors) @ directions.T, unit(start) @ directions.T  # (C, J)
    shares = parts.own_share(listed) if parts else None
    words, changes = context_words(run), sentence_changes(run.model)
    found = []
    for label, name in enumerate(run.classnames):
        began = bool(before[label].any())  # weights of a probe that is not fitted yet are zero
        concepts = [
            content.PromptConcept(
                concept=text,
                own_class=bool(listed[label, j]),
                before=float(before[label, j]) if began else None,
                after=float(after[label, j]),
                shift=float(after[label, j] - before[label, j]) if began else None,
                weight=float(parts.weights[label, j]) if parts else None,
            )
            for j, text in enumerate(texts)
        ]
        weights = sorted(((one.concept, one.weight or 0.0) for one in concepts), key=lambda pair: -pair[1])
        strongest = [pair for pair in weights[:STRONGEST] if pair[1] > 0]
        explained = float(parts.explained[label]) if parts else None
        share = float(shares[label]) if shares is not None and not shares[label].isnan() else None
        # By the place of a context vector, (n), (C, n), (K, C, n) or (K, 1, n): whether it is of this class's prompts.
        own = [vector for place, vector in words if not run.model.class_specific or place[-2] == label]
        noise = (sum(vector.words[0].noise for vector in own), len(own)) if own else None
        noun = run.model.class_vector.noun
        moved = [one for one in changes if one.told.label == label]
        prose = class_sentences(name, explained, share, strongest, noise, noun)
        found.append(
            content.PromptClass(
                name=name,
                concepts=concepts,
                explained_share=explained,
                own_share=share,
                words=own,
                sentences=[_sentence(one) for one in moved],
                prose=change_sentences(moved) + prose,
            )
        )
    return found


def _sentence(change: SentenceChange) -> content.Sentence:
    words = [content.MovedWord(**vars(word)) for word in change.words]
    return content.Sentence(concept=change.told.concept, text=change.text, moved=change.moved,
                         by_chance=change.by_chance, words=words)  # fmt: skip


def context_words(run: TrainedModel) -> list[tuple[tuple[int, ...], content.Vector]]:
    """By its place, each learned context vector with the words near it; [] for methods without any."""
    context = run.model.trained_parameters().get("ctx")
    words, ids = run.backbone.vocabulary() if context is not None else ([], None)
    if context is None or ids is None or not words:
        return []
    with torch.no_grad():
        table = run.backbone.embed(ids.to(run.device)[None])[0]  # (N, W)
    found = []
    for token in nearest_words(context.detach(), table, words):
        place = str(token.index[-1] + 1)  # counted from 1 for readers
        near = [
            content.Word(word=word, distance=distance, null_low=token.null_low, noise=distance >= token.null_low)
            for word, distance in token.words
        ]
        name = f"prompt {token.index[0] + 1}, {place}" if len(token.index) == 3 else place
        found.append((token.index, content.Vector(name=name, words=near)))
    return found


# Images.


def image_entry(
    run: TrainedModel, item: Known, image: ImageLike, used: Methods, truth: Truth | None = None, side: int = SIDE
) -> content.ImageEntry:
    """The card of one image, and of what is known of it; `side` as in `figures.thumbnail`."""
    tensor = run.preprocess([image])  # (1, 3, S, S)
    texts = run.concepts.texts if run.concepts else ()
    labels = {text: truth.labels.get(text, {}).get(item.path) if truth else None for text in texts}
    wanted = None
    if not isinstance(run.held, ExactConcepts):
        # Maps are made of concepts that are known to be there, then of those that move the logits most.
        moved = dict.fromkeys(texts, 0.0)
        if run.held:
            added = run.held.contributions(run.features(tensor))[0]  # (C, J)
            moved = dict(zip(texts, added.abs().amax(0).tolist(), strict=True))
        order = sorted(texts, key=lambda text: (labels[text] != 1, 0.0 if labels[text] == 1 else -moved[text]))
        wanted = order[:CONCEPT_MAPS]
    (said,) = run.explained(tensor, used, wanted)
    original = run.as_seen(tensor[0]) if is_preprocessed(image) else opened(image)
    return entry_of(said, Shown(original, item.name, side), item.label, labels, _masks(truth, item.path, said.size))


def _masks(truth: Truth | None, path: str, size: tuple[int, int]) -> list[content.Mask]:
    """Where concepts and the lesion are known to lie, as the covered share of each of 32 x 32 cells."""
    found = []
    if truth is not None:
        known = {text: truth.mask(path, text) for text in truth.labels} | {"lesion": truth.lesion_mask(path)}
        for name, mask in known.items():
            fitted = fit_mask(mask, size) if mask is not None else np.zeros(size, bool)
            if fitted.any():
                side = (min(MASK_CELLS, size[0]), min(MASK_CELLS, size[1]))
                covered = adaptive_avg_pool2d(torch.as_tensor(fitted, dtype=torch.float32)[None], side)[0]
                found.append(content.Mask(concept=name, grid=grid_of(covered.numpy())))
    return found


def entry_of_bytes(run: TrainedModel, data: bytes, method: str, name: str = "the given file") -> content.ImageEntry:
    """The card of an image that comes as the bytes of a file, `name` standing for it.

    Raises:
        ImageError: they are no image that can be read.
    """
    return image_entry(run, Known(name, name), data, methods(run.backbone, method), side=LARGE)
