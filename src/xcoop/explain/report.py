"""All that is said of a run: its trust table, what each class's prompt learned, and its images, one by one.

Symbols: B images, C classes, J concepts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from xcoop.explain.explanation import Explanation, concept_changes, explain_features
from xcoop.explain.page.pictures import thumbnail
from xcoop.explain.schema import (
    SCHEMA,
    ClassVector,
    Explanations,
    ImageEntry,
    Map,
    Mask,
    Method,
    PromptClass,
    PromptConcept,
    Run,
    SeenConcept,
    Vector,
    Word,
)
from xcoop.explain.textual.affinity import Affinity, affinity
from xcoop.explain.textual.nearest_words import TokenWords, nearest_words
from xcoop.explain.textual.prose import class_sentences
from xcoop.explain.trust_rows import Sample
from xcoop.explain.trust_table import trust_table
from xcoop.explain.truth import Truth, fit_mask, truth_of
from xcoop.explain.visual import explainer, methods
from xcoop.explain.visual.registry import FINER
from xcoop.results.record import now
from xcoop.utils.images import open_bytes

if TYPE_CHECKING:
    from xcoop.explain.trained import TrainedModel

ASKED = 200  # test images behind the trust table, at most
STRONGEST = 3  # concepts that a class's sentences name
CONCEPT_MAPS = 6  # concepts of an image that get a map: those that move its logits most


@dataclass(frozen=True)
class Known:
    """One image, and what its dataset says of it."""

    path: str
    label: str | None = None
    patient: str = ""


def test_images(run: TrainedModel) -> tuple[list[Known], Truth | None]:
    """The test images of the run's dataset, and what is known of them.

    Raises:
        ValueError: the dataset is not here: it belongs to the programme that trained the run.
    """
    from dassl.data.datasets import DATASET_REGISTRY, build_dataset

    name = run.cfg.DATASET.NAME
    if name not in DATASET_REGISTRY.registered_names():
        raise ValueError(
            f"{run.folder}: its dataset {name} is none of xcoop's, so its test images are not known here: name the "
            "images, xcoop explain RUN IMAGE ..."
        )
    dataset: Any = build_dataset(run.cfg)
    patients = getattr(dataset, "patients", None) or {}
    items = [Known(item.impath, item.classname, str(patients.get(item.impath) or item.impath)) for item in dataset.test]
    return items, truth_of(dataset, run.bank)


def report_of(
    run: TrainedModel,
    items: Sequence[Known],
    truth: Truth | None,
    count: int,
    method: str = "",
    asked: int = ASKED,
) -> Explanations:
    """Everything about a run.

    Args:
        run: the trained model.
        items: its test images.
        truth: what is known of them.
        count: how many of them are shown one by one: wrong and right ones, the least certain first.
        method: of all maps; "" is the backbone's default, for classes and for concepts each its own.
        asked: how many the trust table rests on; they are spread evenly over the test set.
    """
    used = methods(run.backbone, method)
    table: list[Any] = []
    if asked and items:
        some = [items[i] for i in spread(len(items), asked)]
        paths = [item.path for item in some]
        labels = [item.label or "" for item in some]
        sample = Sample(paths, run.preprocess(paths), [item.patient for item in some], truth, labels)
        table = trust_table(run, sample, used)
    shown = chosen(run, items, count)
    return Explanations(
        schema=SCHEMA,
        run=_run(run),
        methods=[_described(run, used.of_class, "class"), _described(run, used.of_concept, "concept")],
        trust=table,
        class_vector=_class_vector(run),
        classes=prompt_classes(run),
        images=[image_entry(run, item, run.preprocess([item.path]), method, truth) for item in shown],
    )


def _described(run: TrainedModel, name: str, kind: Literal["class", "concept"]) -> Method:
    rows, columns = run.backbone.grid
    finer = 1 + name.endswith(FINER)
    return Method(name=name, kind=kind, description=explainer(name).summary, grid=[finer * rows, finer * columns])


def spread(total: int, wanted: int) -> list[int]:
    """Indices of at most `wanted` of `total` things, evenly spread."""
    return sorted({int(i) for i in np.linspace(0, total - 1, min(total, wanted)).round()})


def chosen(run: TrainedModel, items: Sequence[Known], count: int) -> list[Known]:
    """Of each kind, wrong and right, up to half of `count` (more if the other has fewer), spread over certainty."""
    if not items or count < 1:
        return []
    probabilities = np.concatenate([run.predict([i.path for i in part]).probabilities for part in _parts(items)])
    certainty = probabilities.max(1)
    guess = [run.classnames[k] for k in probabilities.argmax(1)]
    order = np.argsort(certainty, kind="stable").tolist()
    wrong = [i for i in order if items[i].label not in (None, guess[i])]
    right = [i for i in order if items[i].label in (None, guess[i])]
    n_wrong = min(len(wrong), max(count // 2, count - len(right)))
    picked = [wrong[i] for i in spread(len(wrong), n_wrong)] if n_wrong else []
    picked += [right[i] for i in spread(len(right), count - len(picked))] if count > len(picked) and right else []
    return [items[i] for i in sorted(picked, key=lambda i: certainty[i])]


def _parts(items: Sequence[Known], size: int = 256) -> Iterator[Sequence[Known]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _run(run: TrainedModel) -> Run:
    results = run.results
    git = results.get("git")
    return Run(
        folder=str(run.folder),
        dataset=results["dataset"],
        trainer=results["trainer"],
        backbone=results["backbone"],
        shots=results["shots"],
        seed=results["seed"],
        is_phantom=results["is_phantom"],
        classnames=list(run.classnames),
        metrics={name: value for name, value in results["metrics"].items() if value is None or _is_number(value)},
        config_hash=results["config_hash"],
        git=str(git.get("commit")) if isinstance(git, dict) else git,
        created=now(),
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# What the prompts learned.


def _class_vector(run: TrainedModel) -> ClassVector:
    noun, learned, about = run.model.class_vector
    return ClassVector(noun=noun, learned=learned, about=about)


def prompt_classes(run: TrainedModel) -> list[PromptClass]:
    """What each class's learned prompt says, in concepts and in words."""
    tokens, found = context_words(run), _affinity(run)
    return [_prompt_class(run, label, tokens, found) for label in range(len(run.classnames))]


def _affinity(run: TrainedModel) -> Affinity | None:
    """The cosines of all prompts with all concepts, before and after training; None without concepts."""
    if run.concepts is None:
        return None
    after = run.learned_vectors()
    with run.at_start():
        before = run.learned_vectors()
    return affinity(before, after, run.concepts.vectors)


def _prompt_class(run: TrainedModel, label: int, tokens: Sequence[TokenWords], found: Affinity | None) -> PromptClass:
    name, parts, known = run.classnames[label], run.decomposition, run.concepts
    explained = float(parts.explained[label]) if parts else None
    share = float(parts.own_share(known.own.to(parts.weights.device))[label]) if parts and known else None
    share = None if share is None or share != share else share  # without any weight
    concepts = _prompt_concepts(run, label, found)
    strongest = sorted(((c["concept"], c["weight"] or 0.0) for c in concepts), key=lambda pair: -pair[1])
    own = [token for token in tokens if _belongs(token.index, label, run)]
    noise = (sum(token.noise for token in own), len(own)) if own else None
    return PromptClass(
        name=name,
        concepts=concepts,
        explained_share=explained,
        own_share=share,
        words=[
            Vector(
                name=_place(token.index),
                words=[
                    Word(word=w, distance=d, null_low=token.null_low, noise=d >= token.null_low) for w, d in token.words
                ],
            )
            for token in own
        ],
        prose=class_sentences(
            name, explained, share, [pair for pair in strongest[:STRONGEST] if pair[1] > 0], noise,
            noun=run.model.class_vector.noun,
        ),
    )  # fmt: skip


def _place(index: Sequence[int]) -> str:
    """Where a context vector stands in its class: (n), (C, n) or (K, C, n), counted from 1 for readers."""
    return f"prompt {index[0] + 1}, {index[-1] + 1}" if len(index) == 3 else str(index[-1] + 1)


def _belongs(index: Sequence[int], label: int, run: TrainedModel) -> bool:
    """Whether a context vector, by its place (n), (C, n), (K, C, n) or (K, 1, n), is of a class's prompts."""
    return not run.model.class_specific or index[-2] == label


def _prompt_concepts(run: TrainedModel, label: int, found: Affinity | None) -> list[PromptConcept]:
    known, parts = run.concepts, run.decomposition
    if known is None or found is None:
        return []
    began = bool(found.before[label].any())  # weights of a probe that is not fitted yet are zero
    return [
        PromptConcept(
            concept=text,
            own_class=bool(known.own[label, j]),
            before=float(found.before[label, j]) if began else None,
            after=float(found.after[label, j]),
            shift=float(found.shift[label, j]) if began else None,
            weight=float(parts.weights[label, j]) if parts else None,
        )
        for j, text in enumerate(known.texts)
    ]


def context_words(run: TrainedModel) -> list[TokenWords]:
    """The vocabulary words near each learned context vector; [] for methods without any."""
    context = run.model.trained_parameters().get("ctx")
    if context is None:
        return []
    words, ids = run.backbone.vocabulary()
    with torch.no_grad():
        table = run.backbone.embed(ids.to(run.device)[None])[0]  # (N, W)
    return nearest_words(context.detach(), table, words)


# Images.


def image_entry(run: TrainedModel, item: Known, tensor: Tensor, method: str, truth: Truth | None = None) -> ImageEntry:
    """The card of one image; `tensor` is the image preprocessed, (1, 3, S, S)."""
    wanted = _most_moved(run, tensor, truth, item.path)
    (said,) = explain_features(run, tensor, method, wanted)
    masks = _masks(truth, item.path, (tensor.shape[2], tensor.shape[3]))
    return ImageEntry(
        path=item.path,
        label=item.label,
        predicted=said.predicted,
        probabilities=said.probabilities,
        certainty=max(said.probabilities.values()),
        picture=thumbnail(as_seen(run, tensor[0])),
        maps=_maps(said),
        masks=[Mask(concept=name, grid=_coarse(mask)) for name, mask in masks.items()],
        concepts=[_seen(said, text, truth, item.path) for text in said.concept_scores],
        prose=said.text,
    )


def _most_moved(run: TrainedModel, tensor: Tensor, truth: Truth | None, path: str) -> list[str]:
    """The concepts that get a map: those that are known to be there, then those that move the logits most."""
    texts = run.concepts.texts if run.concepts else ()
    change = concept_changes(run, run.features(tensor))
    moved = (
        dict.fromkeys(texts, 0.0) if change is None else dict(zip(texts, change[0].abs().amax(0).tolist(), strict=True))
    )
    there = [text for text in texts if truth and truth.labels.get(text, {}).get(path) == 1]
    rest = sorted((text for text in texts if text not in there), key=lambda text: -moved[text])
    return [*there, *rest][:CONCEPT_MAPS]


def _maps(said: Explanation) -> list[Map]:
    kinds = [("class", said.class_maps), ("concept", said.concept_maps)]
    return [
        Map(target=name, kind=kind, values=_rows(values), scores={})  # type: ignore[typeddict-item]
        for kind, maps in kinds
        for name, values in maps.items()
    ]


def _rows(values: NDArray[Any]) -> list[list[float]]:
    return [[float(f"{value:.4g}") for value in row] for row in values]


def _masks(truth: Truth | None, path: str, size: tuple[int, int]) -> dict[str, NDArray[np.bool_]]:
    if truth is None:
        return {}
    known = {text: truth.mask(path, text) for text in truth.labels}
    known["lesion"] = truth.lesion_mask(path)
    fitted = {text: fit_mask(mask, size) for text, mask in known.items() if mask is not None}
    return {text: mask for text, mask in fitted.items() if mask.any()}


def _coarse(mask: NDArray[np.bool_], cells: int = 32) -> list[list[float]]:
    """The covered share of each of `cells` x `cells` parts of a mask."""
    tensor = torch.as_tensor(mask, dtype=torch.float32)[None, None]
    side = (min(cells, mask.shape[0]), min(cells, mask.shape[1]))
    return _rows(torch.nn.functional.adaptive_avg_pool2d(tensor, side)[0, 0].numpy())


def _seen(said: Explanation, text: str, truth: Truth | None, path: str) -> SeenConcept:
    label = truth.labels.get(text, {}).get(path) if truth else None
    given: dict[str, float | None] = dict(said.contributions.get(text, {}))
    return {"concept": text, "score": said.concept_scores[text], "for": given, "label": label}


def as_seen(run: TrainedModel, tensor: Tensor) -> Image.Image:
    """A preprocessed image (3, S, S) as the picture that the model saw."""
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (run.cfg.INPUT.PIXEL_MEAN, run.cfg.INPUT.PIXEL_STD))
    pixels = tensor.cpu().float() * std + mean if "normalize" in run.cfg.INPUT.TRANSFORMS else tensor.cpu().float()
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def named(paths: Sequence[Path]) -> list[Known]:
    """Images that a user names; nothing else is known of them.

    Raises:
        FileNotFoundError: one is not there.
    """
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such image")
    return [Known(str(path)) for path in paths]


def entry_of_bytes(run: TrainedModel, data: bytes, method: str) -> ImageEntry:
    """The card of an image that comes as the bytes of a file.

    Raises:
        ImageError: they are no picture that can be read.
    """
    name = "the given file"
    return image_entry(run, Known(name), run.preprocess([open_bytes(data, name)]), method)
