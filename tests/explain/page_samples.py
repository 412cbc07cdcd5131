"""A made `explanations.json`, as large and as hostile as a test asks for."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from xcoop.explain.content import Explanations, ImageEntry
from xcoop.explain.figures import thumbnail

HOSTILE = "<script>alert(1)</script>\"onload='x' & http"


def entry(number: int = 0, concepts: int = 6, evil: str = "", side: int = 224, g: int = 14) -> Any:
    rng = np.random.default_rng(number)
    names = [f"nevus{evil}", f"melanoma{evil}"]
    seen = [f"concept {place}{evil}" for place in range(concepts)]
    down, across = np.mgrid[0:g, 0:g] / (g - 1)
    rows = np.exp(-((down - 0.2) ** 2 + (across - 0.2) ** 2) * 12) + rng.random((g, g)) * 0.2
    mask = ((np.mgrid[0:28, 0:28] - 9.5) ** 2).sum(0) < 49
    smooth = Image.fromarray(rng.integers(60, 220, (9, 9, 3), dtype=np.uint8)).resize((side, side))
    probability = 0.5 + (number % 10) / 20
    targets = [(name, "class") for name in names] + [(name, "concept") for name in seen]
    return {
        "path": f"images/case {number}{evil}.jpg",
        "label": None if number % 5 == 4 else names[number % 2],
        "predicted": names[0],
        "probabilities": dict(zip(names, (probability, 1 - probability), strict=True)),
        "certainty": probability,
        "picture": thumbnail(smooth),
        "maps": [{"target": name, "kind": kind, "values": rows.tolist()} for name, kind in targets],
        "masks": [{"concept": seen[0], "grid": mask.astype(float).tolist()}] if seen else [],
        "concepts": [
            {
                "concept": name,
                "score": 0.2,
                "for": {names[0]: 0.12, names[1]: -0.3},
                "label": (1, 0, None)[place % 3],
                "seen": ("seen", "not seen", "")[place % 3],
                "probability": (0.9, None, None)[place % 3],
            }
            for place, name in enumerate(seen)
        ],
        "sums": [
            {
                "name": names[0],
                "base": -1.0,
                "logit": 1.0,
                "parts": [
                    {"concept": f"concept 0{evil}", "value": 2.5},
                    {"concept": f"concept 1{evil}", "value": -0.5},
                ],
            },
            {"name": names[1], "base": 0.5, "logit": 0.25, "parts": [{"concept": f"concept 2{evil}", "value": -0.25}]},
        ],
        "prose": [f"The image resembles {seen[0] if seen else 'nothing'}."],
    }


def content(images: int = 3, evil: str = "", phantom: bool = True, **options: Any) -> Any:
    names = [f"nevus{evil}", f"melanoma{evil}"]
    control = {"name": f"random map{evil}", "value": 0.5, "low": 0.45, "high": 0.55}
    metric = {"unit": "", "low": 0.2, "high": 0.3, "n": images, "controls": [control], "note": f"28 steps{evil}"}
    word = {"word": f"spot{evil}", "distance": 0.9, "null_low": 0.8, "noise": True}
    learned = {"concept": f"streaks{evil}", "own_class": True, "before": 0.1, "after": 0.3, "shift": 0.2, "weight": 0.4}
    return {
        "schema": 2,
        "run": {
            "folder": f"output/phantom/XCoOp/seed1{evil}",
            "dataset": f"phantom{evil}",
            "trainer": f"XCoOp{evil}",
            "backbone": f"phantom{evil}",
            "shots": 16,
            "seed": 1,
            "is_phantom": phantom,
            "classnames": names,
            "metrics": {"accuracy": 0.8125, "macro_auc": None, "sensitivity_1": 0.75},
            "config_hash": f"abc{evil}",
            "git": None,
            "created": f"2026-01-01T00:00:00+00:00{evil}",
        },
        "methods": [
            {
                "name": f"grad_eclip{evil}",
                "kind": "class",
                "description": f"Gradient times value.{evil}",
                "grid": [14, 14],
            },
            {"name": f"maskclip@2{evil}", "kind": "concept", "description": f"Its own value.{evil}", "grid": [28, 28]},
        ],
        "trust": [
            {**metric, "metric": "deletion", "direction": "lower", "value": 0.25},
            {**metric, "metric": "insertion", "direction": "higher", "value": 0.25},
        ],
        "classes": [
            {
                "name": name,
                "concepts": [learned] * 3,
                "explained_share": 0.6,
                "own_share": 0.7,
                "words": [
                    {"name": f"prompt 1, {n}{evil}", "words": [word, {**word, "noise": False}]} for n in range(4)
                ],
                "sentences": [
                    {
                        "concept": f"streaks{evil}",
                        "text": f"a nevus, streaks.{evil}",
                        "moved": 1.5,
                        "by_chance": 0.5,
                        "words": [
                            {
                                "word": f"streaks{evil}",
                                "change": 0.25,
                                "nearest": "streaks",
                                "towards": f"line{evil}",
                                "cosine": 0.5,
                                "by_chance": 0.3,
                            }
                        ],
                    },
                ],
                "prose": [f"The prompt moved.{evil}"],
            }
            for name in names
        ],
        "images": [entry(number, evil=evil, **options) for number in range(images)],
    }


def explanations(images: int = 3, evil: str = "", phantom: bool = True, **options: Any) -> Explanations:
    return Explanations.model_validate(content(images, evil, phantom, **options))


def image(number: int = 0, evil: str = "") -> ImageEntry:
    return ImageEntry.model_validate(entry(number, evil=evil))
