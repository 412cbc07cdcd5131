"""What each number about an explanation means, which way is better, and what blind guessing reaches."""

from __future__ import annotations

from dataclasses import dataclass

HIGHER, LOWER, NEITHER = "higher", "lower", "neither"
CONTROL = "the random map's"


@dataclass(frozen=True)
class Metric:
    """One number about an explanation.

    Attributes:
        name: in results.
        title: in tables.
        better: `higher`, `lower`, or `neither` where a value is no merit of the map.
        meaning: a sentence for readers.
        unit: what is counted in.
        chance: what a map that knows nothing reaches.
        group: `faithfulness`: does the model use what is marked; `plausibility`: is it what an expert would mark;
            `sanity`: does the map depend on model and class at all.
        source: where it is from.
    """

    name: str
    title: str
    better: str
    meaning: str
    unit: str
    chance: str
    group: str
    source: str


_FAITHFULNESS = (
    Metric(
        "deletion_auc", "Deletion AUC", LOWER,
        "Mean score while the patches that the map marks most are erased first: it should fall at once.",
        "score", CONTROL, "faithfulness", "Petsiuk et al., BMVC 2018",
    ),
    Metric(
        "insertion_auc", "Insertion AUC", HIGHER,
        "Mean score while the patches that the map marks most are uncovered first: it should rise at once.",
        "score", CONTROL, "faithfulness", "Petsiuk et al., BMVC 2018",
    ),
    Metric(
        "comprehensiveness", "Comprehensiveness", HIGHER,
        "How far the score falls without the best 10, 20 and 50 % of the patches, on average.",
        "score", CONTROL, "faithfulness", "DeYoung et al., ACL 2020",
    ),
    Metric(
        "sufficiency", "Sufficiency", LOWER,
        "How far the score is from the full image's with the best 10, 20 and 50 % of the patches alone, on average.",
        "score", CONTROL, "faithfulness", "DeYoung et al., ACL 2020",
    ),
)  # fmt: skip

_PLAUSIBILITY = (
    Metric(
        "pointing", "Pointing game", HIGHER,
        "Share of images whose most relevant point lies inside the expert's mask.",
        "share of images", "the mask's share of the image", "plausibility", "Zhang et al., IJCV 2018",
    ),
    Metric(
        "energy", "Energy in mask", HIGHER,
        "Share of the map's relevance that lies inside the expert's mask.",
        "share of the map", "the mask's share of the image", "plausibility", "Wang et al., CVPRW 2020",
    ),
    Metric(
        "iou_area", "IoU at the mask's area", HIGHER,
        "Overlap of the mask with as many of the most relevant pixels as the mask has, over their union.",
        "share of pixels", "a / (2 - a), a the mask's share of the image", "plausibility", "Jaccard index",
    ),
    Metric(
        "iou_best", "Best IoU", HIGHER,
        "The largest overlap over union at any threshold, which the mask itself chooses: an upper bound.",
        "share of pixels", "at least the mask's share of the image", "plausibility", "Jaccard index",
    ),
    Metric(
        "pixel_auc", "Pixel AUC", HIGHER,
        "How often a pixel inside the mask is marked more than one outside.",
        "probability", "0.5", "plausibility", "area under the ROC curve over pixels",
    ),
    Metric(
        "area", "Mask area", NEITHER,
        "Share of the image inside the mask: what pointing and energy reach by chance.",
        "share of the image", "-", "plausibility", "-",
    ),
)  # fmt: skip

_SANITY = (
    Metric(
        "randomised_correlation", "Correlation with an untrained model's map", LOWER,
        "Rank correlation with the map of the same model with a random image tower: below 0.3, or the map shows the "
        "picture and not the model.",
        "Spearman's rho", "0", "sanity", "Adebayo et al., NeurIPS 2018",
    ),
    Metric(
        "class_correlation", "Correlation with another class's map", LOWER,
        "Rank correlation with the map of another class: near 1, the map does not tell what speaks for which class.",
        "Spearman's rho", "0", "sanity", "Adebayo et al., NeurIPS 2018",
    ),
)  # fmt: skip

METRICS: dict[str, Metric] = {one.name: one for one in (*_FAITHFULNESS, *_PLAUSIBILITY, *_SANITY)}
"""By name, in the order of tables."""
