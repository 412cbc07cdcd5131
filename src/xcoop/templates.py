"""Hand-written sentences for a class name: generic ones, and ones that speak of medical images.

Each has {} where the class name goes. The generic ones name how a picture was taken, after the manner of the
ensembles of CLIP (Radford et al., ICML 2021, section 3.1.4); those of objects, art and toys have no place here.
"""

from __future__ import annotations

DEFAULT = "a photo of a {}."

GENERIC = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a close-up photo of a {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a blurry photo of a {}.",
    "a sharp photo of the {}.",
    "a good photo of a {}.",
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a photo in which a {} is hard to see.",
    "a picture of a typical {}.",
)

MEDICAL = (
    "a medical image of a {}.",
    "a clinical photo of a {}.",
    "a scan that shows {}.",
    "a medical scan of a patient with {}.",
    "a diagnostic image of {}.",
    "an image from a patient diagnosed with {}.",
    "a case of {}.",
    "a textbook example of {}.",
    "an early stage of {}.",
    "an advanced stage of {}.",
    "a magnified view of {}.",
    "findings consistent with {}.",
    "signs of {} in a medical image.",
    "the typical appearance of {}.",
)

ALL = GENERIC + MEDICAL


def fill(template: str, classname: str) -> str:
    """A template with a class name in place; underscores stand for spaces."""
    return template.replace("{}", classname.replace("_", " "))


def check_template(key: str, template: str) -> None:
    """ValueError, naming the config key, for a template without a place for the class name."""
    if "{}" not in template:
        raise ValueError(f"{key} {template!r} has no {{}} for the class name")
