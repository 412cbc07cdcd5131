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

# Sixty of the eighty that CLIP's authors wrote for ImageNet (Radford et al., as above), put together from the ways of
# showing something and the determiners that they cross: PromptSRC's frozen text is their mean
# (muzairkhattak/PromptSRC at bb95c77).
_BOTH = ("bad photo", "blurry photo", "bright photo", "close-up photo", "cropped photo", "low resolution photo",
         "pixelated photo", "doodle", "painting", "rendering", "rendition", "sculpture", "sketch")  # fmt: skip
_WITH_A = ("a drawing", "a jpeg corrupted photo", "a tattoo", "art", "graffiti")
_WITH_THE = ("a black and white photo", "a dark photo", "a good photo", "itap")
_PHOTO_OF = ("a", "the", "one", "my", "many", "a clean", "the clean", "a dirty", "the dirty", "a hard to see",
             "the hard to see", "the cool", "a large", "a nice", "a weird")  # fmt: skip
_MADE_OF = ("a embroidered", "the embroidered", "a origami", "the origami", "a plastic", "the plastic", "a cartoon",
            "the toy")  # fmt: skip
IMAGENET = (
    *(f"a {manner} of {which} {{}}." for manner in _BOTH for which in ("a", "the")),
    *(f"{manner} of a {{}}." for manner in _WITH_A),
    *(f"{manner} of the {{}}." for manner in _WITH_THE),
    *(f"a photo of {which} {{}}." for which in _PHOTO_OF),
    *(f"{which} {{}}." for which in _MADE_OF),
    *(f"{which} {{}} in a video game." for which in ("a", "the")),
)


def fill(template: str, classname: str) -> str:
    """A template with a class name in place; underscores stand for spaces."""
    return template.replace("{}", classname.replace("_", " "))
