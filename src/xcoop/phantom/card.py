"""The card that goes with pretrained weights: how they were made, what they score, what they are not."""

from __future__ import annotations

import json
from collections.abc import Mapping

_TEXT = """# The phantom's weights

A small CLIP in OpenAI's architecture and state-dict format, trained from nothing on drawn pictures. It knows the
concepts that the phantoms draw, and is here so that every part of this package can be run and tested without data,
downloads or a GPU. **It is no medical model: it has never seen a real image, and nothing measured with it on a
phantom is a clinical result.**

## How it was made

```
xcoop phantom pretrain --out phantom.safetensors --seed {seed} --steps {planned} \\
    --images {images} --batch {batch}{limit}
```

| what | value |
|---|---|
| pictures seen | {size} pixels a side, patches of {patch} |
| vision | width {vision_width}, {vision_layers} layers |
| text | width {text_width}, {text_layers} layers; OpenAI's tokenizer, 77 positions |
| joint space | {joint_width} wide |
| pictures drawn | {images}, of which {derm_share:.0%} dermoscopic, the rest chests |
| concepts in them | of five cases three are sparse, one is of a diagnostic group, one has every value equally often |
| captions | made anew at every step: most findings that are there, a few that are not, in varied words |
| diagnoses in captions | in about {diagnosis:.0%} of those whose case has one |
| steps, seed | {steps} of {batch} pictures, seed {seed} |
| time | {minutes:.0f} minutes, drawing not counted, on {machine} |
| file | half precision; only the token embeddings that captions use, the rest is drawn from the stored seed |

The concepts of a drawn picture are known, and the training uses that. In the first {see:.0%} of the run the image tower
learns to name the value of each concept, in the whole picture and in each patch in which it lies, through linear heads
that are dropped afterwards; in the next {speak:.0%} the text tower learns to say the same, by contrast; in the rest
both learn together. In the contrast, a sentence's matches are all pictures of which it is true.
All settings, as they stand in the file: `{settings}`.

The random streams of the pictures are tagged with their purpose ("pretrain", "validate", "probe"), so no picture of the
pretraining is in a test split or among the cases below, whatever the seeds.

## What it scores

{cases} fresh cases a column and kind, probe seed {probe_seed}. AUC of each concept value against the rest, by the
cosine with one sentence that names the value: "{derm_sentence}" or
"{chest_sentence}". Nothing is contrasted or tuned.
Zero-shot accuracies are balanced; "names" is "{bare}", "sentences" are the clinical
sentences of the concept banks.

{table}

Measured with `xcoop phantom probe --cases {cases} --seed {probe_seed}`.

## Limits

- Phantoms only: drawn textures and findings, in one style of drawing a kind.
- Thin and faint things (irregular lines of vessels, interstitial markings) are seen less well than the rest.
- It knows the words of its captions, some hundreds of tokens. All other token embeddings are random.
- Captions name concepts far more often than diagnoses, so a bare class name tells it less than a sentence of concepts.
- Findings that are not drawn (milia-like cysts, atelectasis, ...) are unknown to it.
"""


def make_card(metadata: Mapping[str, str], table: str, texts: Mapping[str, str], numbers: Mapping[str, float]) -> str:
    """The card as Markdown.

    Args:
        metadata: of the weights file, as `xcoop.phantom.pretrain` writes it.
        table: the answers of the probe, as Markdown.
        texts: "machine" (its class, such as "two CPU cores"); "derm_sentence", "chest_sentence", "bare": what is asked.
        numbers: "cases", "probe_seed" and "diagnosis" (the share of captions that name one).

    Raises:
        KeyError: the metadata lack an entry; they are of another program.
    """
    settings = json.loads(metadata["settings"])
    limit = f" --minutes {settings['minutes']:g}" if settings["minutes"] else ""
    values = settings | {
        "settings": metadata["settings"],
        "planned": settings["steps"],
        "steps": int(metadata["steps"]),
        "minutes": float(metadata["seconds"]) / 60,
        "limit": limit,
        "table": table,
    }
    return _TEXT.format(**(values | dict(texts) | dict(numbers)))
