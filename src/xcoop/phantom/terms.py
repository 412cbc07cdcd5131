"""What the captions may say: each term is a finding, the concept values of which it is true, and its wordings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Term:
    """One thing that a caption can say of a picture.

    Attributes:
        kind: "derm" or "chest".
        concept: the concept's name in the profile; several, joined by "+", where all must have one of the values.
        values: the values of the concept of which the term is true.
        wordings: the ways to say it; no wording belongs to two terms of a kind.
        negative: whether it speaks of an absence (said less often).
    """

    kind: str
    concept: str
    values: frozenset[str]
    wordings: tuple[str, ...]
    negative: bool = False

    def true_of(self, profile: Mapping[str, str]) -> bool:
        """Whether a case shows it; a profile that does not know the concept shows nothing."""
        return all(profile.get(concept) in self.values for concept in self.concept.split("+"))


# concept -> the values that the wordings after it are true of ("|" between several values) -> wordings.
_Table = dict[str, dict[str, tuple[str, ...]]]

_DERM: _Table = {
    "pigment_network": {
        "typical": (
            "typical pigment network",
            "regular pigment network",
            "typical network",
            "uniform pigment network",
            "regular honeycomb network",
        ),
        "atypical": (
            "atypical pigment network",
            "irregular pigment network",
            "atypical network",
            "broadened pigment network",
            "irregular network with thick lines",
        ),
        "typical|atypical": ("pigment network", "reticular pattern"),
        "absent": ("no pigment network", "absent pigment network", "network absent"),
    },
    "streaks": {
        "regular": ("regular streaks", "symmetric streaks", "regular radial streaks", "streaks all around"),
        "irregular": ("irregular streaks", "asymmetric streaks", "irregular radial streaks", "streaks on one side"),
        "regular|irregular": ("streaks", "radial streaming"),
        "absent": ("no streaks", "absent streaks", "streaks absent"),
    },
    "pigmentation": {
        "diffuse regular": ("diffuse regular pigmentation", "regular diffuse pigmentation"),
        "localized regular": ("localized regular pigmentation", "regular localized pigmentation"),
        "diffuse irregular": ("diffuse irregular pigmentation", "irregular diffuse pigmentation"),
        "localized irregular": ("localized irregular pigmentation", "irregular localized pigmentation", "dark blotch"),
        "diffuse regular|localized regular": ("regular pigmentation", "even pigmentation", "uniform pigmentation"),
        "diffuse irregular|localized irregular": (
            "irregular pigmentation",
            "uneven pigmentation",
            "irregular blotches",
        ),
        "absent": ("no structureless pigmentation", "no blotches", "pigmentation absent", "absent pigmentation"),
    },
    "regression_structures": {
        "blue areas": ("blue regression areas", "regression with blue areas", "blue-gray regression areas"),
        "white areas": ("white regression areas", "regression with white areas", "white scar-like regression areas"),
        "combinations": (
            "white and blue regression areas",
            "regression with blue and white areas",
            "combined regression structures",
        ),
        "blue areas|white areas|combinations": ("regression structures", "regression areas", "signs of regression"),
        "absent": ("no regression structures", "no regression", "regression absent", "absent regression structures"),
    },
    "dots_and_globules": {
        "regular": ("regular dots and globules", "regular globules", "evenly spaced dots and globules"),
        "irregular": (
            "irregular dots and globules",
            "irregular globules",
            "irregular dots",
            "uneven dots and globules",
        ),
        "regular|irregular": ("dots and globules", "globules", "dots"),
        "absent": ("no dots or globules", "no dots and globules", "dots and globules absent", "no globules"),
    },
    "blue_whitish_veil": {
        "present": (
            "blue-whitish veil",
            "blue whitish veil",
            "blue-white veil",
            "bluish white veil",
            "veil of blue and white",
        ),
        "absent": ("no blue-whitish veil", "no blue-white veil", "absent blue-whitish veil", "no veil"),
    },
    "vascular_structures": {
        "arborizing": ("arborizing vessels", "branching vessels", "arborizing telangiectasia"),
        "comma": ("comma vessels", "comma-shaped vessels"),
        "hairpin": ("hairpin vessels", "looped hairpin vessels"),
        "within regression": ("vessels within regression", "vessels within a regression area"),
        "wreath": ("wreath-like vessels", "wreath vessels", "vessels in a wreath"),
        "dotted": ("dotted vessels", "red dotted vessels"),
        "linear irregular": ("linear irregular vessels", "irregular linear vessels"),
        "dotted|linear irregular": ("irregular vessels", "atypical vessels"),
        "arborizing|comma|hairpin|within regression|wreath|dotted|linear irregular": (
            "vascular structures",
            "visible vessels",
        ),
        "absent": ("no vascular structures", "no vessels", "no visible vessels", "vascular structures absent"),
    },
}

_CHEST: _Table = {
    "consolidation": {
        "right upper": ("right upper lobe consolidation", "right upper zone consolidation"),
        "right lower": ("right lower lobe consolidation", "right lower zone consolidation"),
        "left upper": ("left upper lobe consolidation", "left upper zone consolidation"),
        "left lower": ("left lower lobe consolidation", "left lower zone consolidation"),
        "patchy": ("patchy consolidation", "patchy alveolar opacities", "patchy airspace opacity"),
        "right upper|right lower|left upper|left lower": ("lobar consolidation", "lobar opacity"),
        "right upper|right lower|left upper|left lower|patchy": (
            "alveolar consolidation",
            "consolidation",
            "airspace consolidation",
            "focal opacity",
        ),
        "absent": ("no consolidation", "no focal consolidation", "no airspace opacity", "no alveolar consolidation"),
    },
    "interstitial_opacity": {
        "present": (
            "interstitial opacity",
            "diffuse interstitial opacity",
            "interstitial opacities",
            "reticular interstitial markings",
            "diffuse interstitial pattern",
        ),
        "absent": ("no interstitial opacity", "no interstitial markings"),
    },
    "air_bronchograms": {
        "present": ("air bronchograms", "an air bronchogram", "visible air bronchograms"),
        "absent": ("no air bronchograms", "no air bronchogram"),
    },
    "pleural_effusion": {
        "small": ("small pleural effusion", "blunted costophrenic angle", "minor pleural effusion"),
        "large": ("large pleural effusion", "massive pleural effusion"),
        "small|large": ("pleural effusion", "pleural fluid"),
        "absent": (
            "no pleural effusion",
            "sharp costophrenic angles",
            "clear costophrenic angles",
            "no effusion",
        ),
    },
    "obscured_border": {
        "cardiac": ("obscured cardiac border", "obscured heart border", "blurred cardiac border"),
        "diaphragmatic": ("obscured diaphragmatic border", "obscured diaphragm", "blurred diaphragmatic border"),
        "cardiac|diaphragmatic": (
            "obscured cardiac or diaphragmatic border",
            "obscured cardiac or diaphragmatic borders",
            "silhouette sign",
        ),
        "absent": ("sharp cardiac and diaphragmatic borders", "clear borders", "well defined heart and diaphragm"),
    },
    "peribronchial_thickening": {
        "present": ("peribronchial thickening", "bronchial wall thickening", "peribronchial cuffing"),
        "absent": ("no peribronchial thickening", "no bronchial wall thickening"),
    },
    "hyperinflation": {
        "present": ("hyperinflation", "hyperinflated lungs", "flattened diaphragm"),
        "absent": ("no hyperinflation", "normal lung volumes"),
    },
    "cardiomegaly": {
        "present": ("cardiomegaly", "enlarged heart", "enlarged cardiac silhouette"),
        "absent": (
            "normal heart size",
            "no cardiomegaly",
            "normal mediastinal silhouette",
            "normal cardiomediastinal silhouette",
        ),
    },
    "support_device": {
        "ECG leads": ("ecg leads", "monitoring leads"),
        "tube": ("a tube", "a support tube"),
        "ECG leads|tube": ("support devices", "medical devices"),
        "absent": ("no support devices", "no tubes or lines"),
    },
}

# Terms that speak of several concepts at once: they are true where all of these are absent.
_CLEAR: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "chest": (
        ("consolidation", "interstitial_opacity", "air_bronchograms", "pleural_effusion"),
        ("clear lung fields", "clear lungs", "lungs are clear", "no lung opacity"),
    )
}

_TABLES: dict[str, _Table] = {"derm": _DERM, "chest": _CHEST}

KINDS: tuple[str, ...] = tuple(_TABLES)

# Values that mean that there is nothing to see: their terms are negatives.
_NOTHING = frozenset({"absent"})


@cache
def terms(kind: str) -> tuple[Term, ...]:
    """All terms of a kind of picture ("derm" or "chest"), in a fixed order.

    Raises:
        KeyError: there is no such kind.
    """
    single = [
        Term(kind, concept, frozenset(values.split("|")), wordings, negative=_NOTHING.issuperset(values.split("|")))
        for concept, rows in _TABLES[kind].items()
        for values, wordings in rows.items()
    ]
    several = [
        Term(kind, "+".join(names), _NOTHING, wordings, negative=True)
        for names, wordings in ([_CLEAR[kind]] if kind in _CLEAR else [])
    ]
    return (*single, *several)


def value_terms(kind: str) -> dict[tuple[str, str], Term]:
    """The term that is true of exactly one concept value, for each value that is something to see."""
    return {
        (term.concept, next(iter(term.values))): term
        for term in terms(kind)
        if len(term.values) == 1 and not term.negative
    }


def concepts(kind: str) -> tuple[str, ...]:
    """The names of the concepts that captions of a kind speak of."""
    return tuple(_TABLES[kind])
