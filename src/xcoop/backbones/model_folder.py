"""A folder that holds a model, as the hubs have them: its config, its weights in one file or in several.

What a folder says is data, and is checked: nothing of it is executed, no file outside of it is read, and what a config
states must be what the weights have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xcoop.backbones.weight_files import SUFFIXES, read_state_dict, require_stored
from xcoop.utils.console import cut, shown
from xcoop.utils.reading import read_json

INDEX = ".index.json"  # behind the name of a file of weights that stands in several
MOST_PARTS = 500
MOST_HEADS = MOST_SIDE = 1 << 14


def model_folder(path: str) -> tuple[Path, Path | None]:
    """The folder of a model, and the file of weights if the path names one.

    Raises:
        FileNotFoundError: there is nothing at the path.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return place, None
    if not place.is_file():
        raise FileNotFoundError(f"there is no {place}; MODEL.BACKBONE.PATH takes a model's folder or file of weights")
    return place.parent, place


def read_object(file: Path) -> dict[str, Any]:
    """The content of a JSON file that holds names and values.

    Raises:
        ValueError: it holds anything else.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} must hold names and values, not {type(content).__name__}")
    return content


def find_weights(folder: Path, names: Sequence[str]) -> Path | None:
    """The file of weights in a folder, or the list of the files that they stand in.

    Args:
        folder: where.
        names: of such files, the best one first. If none is there, the one file of weights that is will do.
    """
    for name in names:
        for file in (folder / name, folder / f"{name}{INDEX}"):
            if file.is_file():
                return file
    others = [file for file in sorted(folder.iterdir()) if file.suffix in SUFFIXES and file.is_file()]
    return others[0] if len(others) == 1 else None


def read_weights(folder: Path, file: Path | None, names: Sequence[str]) -> dict[str, Tensor]:
    """The state dict of a model: of that file, or of what `find_weights` finds.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read (see `read_state_dict`), or holds a tensor of another kind than plain ones.
    """
    file = file or find_weights(folder, names)
    if file is None:
        raise FileNotFoundError(f"no weights in {folder}: looked for {', '.join(names)}")
    state = _of_parts(file) if file.name.endswith(INDEX) else read_state_dict(file)
    for name, tensor in state.items():  # before any of them is put together with others
        require_stored(tensor, name, str(file))
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ValueError(f"{file}: {name!r} is no plain tensor of numbers")
    return state


def _of_parts(index: Path) -> dict[str, Tensor]:
    """The state dict whose parts a file lists."""
    listed = read_object(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise ValueError(f"{index} must list the file of each tensor as its weight_map")
    parts = sorted(set(listed.values()))
    for part in parts:
        if Path(part).name != part or Path(part).suffix not in SUFFIXES or "\\" in part:
            raise ValueError(f"{index}: {shown(part)} is no file of weights beside it")
    if len(parts) > MOST_PARTS:
        raise ValueError(f"{index} lists {len(parts)} files; at most {MOST_PARTS}")
    state: dict[str, Tensor] = {}
    for part in parts:
        if not (index.parent / part).is_file():
            raise FileNotFoundError(f"{index.parent / part} is not there, which {index.name} lists")
        found = read_state_dict(index.parent / part)
        own = {name for name, file in listed.items() if file == part}
        if own != set(found):
            raise ValueError(
                f"{index.parent / part} does not hold the tensors that {index.name} lists: "
                f"{cut(', '.join(sorted(own ^ set(found))), 200)}"
            )
        state |= found
    return state


# What a config says.


def whole_number(config: Mapping[str, Any], key: str, usual: int, source: str, most: int = MOST_SIDE) -> int:
    """A whole number from 1 on; of two that are the same, as some configs state both sides of an image, the one.

    Args:
        config: the section.
        key: what of it.
        usual: what it is where the config does not state it.
        source: what the config belongs to, for messages.
        most: the largest that is taken.

    Raises:
        ValueError: it is none, or the two differ.
    """
    value = config.get(key, usual)
    if isinstance(value, list) and value and all(side == value[0] for side in value):
        value = value[0]
    if type(value) is not int or not 1 <= value <= most:
        raise ValueError(f"{source}: its config states {key} as {shown(value)}; it must be a number from 1 to {most}")
    return value


def real_number(config: Mapping[str, Any], key: str, usual: float, source: str) -> float:
    """A number in (0, 1); see `whole_number`."""
    value = config.get(key, usual)
    if type(value) not in (int, float) or not 0 < value < 1:
        raise ValueError(f"{source}: its config states {key} as {shown(value)}; it must be a number between 0 and 1")
    return float(value)


def channels(value: Any, usual: tuple[float, float, float], what: str, source: str) -> tuple[float, float, float]:
    """Three numbers, one a colour; `usual` for None.

    Raises:
        ValueError: it is anything else, or a deviation that nothing can be divided by.
    """
    if value is None:
        return usual
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(type(one) in (int, float) for one in value):
        raise ValueError(f"{source}: its config states {what} as {shown(value)}; it must be three numbers")
    red, green, blue = (float(one) for one in value)
    low = 1e-6 if what.endswith("std") else 0.0
    if not all(low <= one <= 1.0 for one in (red, green, blue)):
        raise ValueError(f"{source}: its config states {what} as {shown(value)}; it must be numbers up to 1")
    return red, green, blue


def compare_sizes(stated: Mapping[str, int], found: Callable[[], Mapping[str, int]], source: str) -> None:
    """Refuses weights of other sizes than the config states: then what it says of heads is about another model.

    Args:
        stated: by what they are called in the config.
        found: gives the same of the weights; an error of it is left to whoever builds the model.
        source: for the message.

    Raises:
        ValueError: they differ; the message names each.
    """
    try:
        own = found()
    except (KeyError, IndexError, TypeError, ValueError):
        return
    wrong = [f"{key} {value} (the weights: {own.get(key)})" for key, value in stated.items() if own.get(key) != value]
    if wrong:
        raise ValueError(f"{source}: its config states other sizes than its weights have: {', '.join(wrong)}")


def image_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes that the weights of CLIP's image tower have, in OpenAI's layout; `grid` is patches a side."""
    if "visual.attnpool.positional_embedding" in state:
        blocks = {f"layer{index}": count_blocks(state, f"visual.layer{index}.") for index in (1, 2, 3, 4)}
        width, positions = len(state["visual.layer1.0.conv1.weight"]), state["visual.attnpool.positional_embedding"]
        return {"width": width, "grid": round((len(positions) - 1) ** 0.5), **blocks}
    patches = state["visual.conv1.weight"].shape
    return {
        "width": patches[0],
        "patch_size": patches[-1],
        "layers": count_blocks(state, "visual.transformer.resblocks."),
        "grid": round((len(state["visual.positional_embedding"]) - 1) ** 0.5),
    }


def text_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The sizes that the weights of CLIP's text tower have, in OpenAI's layout."""
    length, width = state["positional_embedding"].shape
    return {
        "text_width": width,
        "text_layers": count_blocks(state, "transformer.resblocks."),
        "context_length": length,
        "joint": state["text_projection"].shape[1],
    }


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """How many blocks there are below a prefix."""
    return len({name[len(prefix) :].partition(".")[0] for name in names if name.startswith(prefix)})
