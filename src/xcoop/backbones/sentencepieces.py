"""SigLIP's tokens: `pieces of words </s>`, from the files that stand beside its weights.

Texts lose their upper case, as the tokenizer's settings say, and their punctuation before they are cut, as those that
SigLIP was trained on did. The pieces are those of `spiece.model`, which the library `sentencepiece` reads, or of a
`tokenizer.json`, which `tokenizers` does.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xcoop.backbones.model_folder import read_object
from xcoop.utils.console import shown
from xcoop.utils.reading import MOST_JSON, read_bytes

MODEL, WHOLE, SETTINGS = "spiece.model", "tokenizer.json", "tokenizer_config.json"
SPACE = "\u2581"  # how a piece begins that begins a word
KINDS = ("SiglipTokenizer", "SiglipTokenizerFast")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


class SentencePieces:
    """Words to pieces and their ids.

    Args:
        cut: gives the ids of a text's pieces, without an end.
        table: the pieces by their ids.
        settings: of the tokenizer: `do_lower_case`, `eos_token`, `pad_token`.
        source: the file that it comes from, for messages.

    Raises:
        ValueError: it has no end, or no padding.
    """

    def __init__(
        self, cut: Callable[[str], list[int]], table: Sequence[str], settings: Mapping[str, Any], source: str
    ) -> None:
        self._cut, self.table = cut, tuple(table)
        self.size = len(self.table)
        self.lower = settings.get("do_lower_case", True) is not False
        ids = {piece: index for index, piece in enumerate(self.table)}
        for key in ("eos_token", "pad_token"):
            token = settings.get(key, "</s>")
            token = token.get("content") if isinstance(token, dict) else token
            if not isinstance(token, str) or token not in ids:
                raise ValueError(f"{source}: its {key}, {shown(token)}, is none of its pieces")
            ids[key] = ids[token]
        self.end, self.padding = ids["eos_token"], ids["pad_token"]

    def __deepcopy__(self, memo: dict[int, Any]) -> SentencePieces:
        """Itself: nothing ever changes it."""
        return self

    def encode(self, text: str) -> list[int]:
        """The ids of a text's pieces, and the end."""
        text = " ".join((text.lower() if self.lower else text).translate(NO_PUNCTUATION).split())
        return [*self._cut(text), self.end]

    def decode(self, ids: Sequence[int]) -> list[str]:
        """Each piece by itself, without the mark of a word's beginning."""
        return [self.table[index].removeprefix(SPACE) if index < len(self.table) else "" for index in ids]

    def words(self) -> Iterator[tuple[int, str]]:
        """The pieces that are whole words of letters alone, by their ids in ascending order."""
        for index, piece in enumerate(self.table):
            word = piece.removeprefix(SPACE)
            if piece.startswith(SPACE) and word.isalpha() and self.encode(word) == [index, self.end]:
                yield index, word


def read_sentence_pieces(folder: Path) -> SentencePieces:
    """The tokenizer in a folder.

    Raises:
        FileNotFoundError: the folder has neither file; the message says what to put there.
        ImportError: the library that reads the file is not installed.
        ValueError: a file cannot be read as what its name says, or the tokenizer is none of SigLIP's.
    """
    settings = read_object(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    if (kind := settings.get("tokenizer_class", KINDS[0])) not in KINDS:
        raise ValueError(f"{folder / SETTINGS}: its tokenizer_class is {shown(kind)}; {KINDS[0]} is read")
    if (model := folder / MODEL).is_file():
        return SentencePieces(*_of_model(model), settings, str(model))
    if (whole := folder / WHOLE).is_file():
        return SentencePieces(*_of_whole(whole), settings, str(whole))
    raise FileNotFoundError(f"{folder} has neither {MODEL} nor {WHOLE}: put the files of the model's tokenizer there")


def _of_model(file: Path) -> tuple[Callable[[str], list[int]], list[str]]:
    """How a `spiece.model` cuts, and its pieces."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise ImportError(f"{file} is read by `sentencepiece`: pip install 'xcoop[hf]'") from error
    try:
        processor = SentencePieceProcessor(model_proto=read_bytes(file, MOST_JSON))
        table = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(f"{file} is no model of sentencepiece: {str(error)[:200]}") from error
    return processor.encode, table


def _of_whole(file: Path) -> tuple[Callable[[str], list[int]], list[str]]:
    """How a `tokenizer.json` cuts, and its pieces."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError(f"{file} is read by `tokenizers`: pip install 'xcoop[hf]'") from error
    content = read_bytes(file, MOST_JSON).decode("utf-8", "replace")
    try:
        tokenizer = Tokenizer.from_str(content)
    except Exception as error:  # of no class of its own
        raise ValueError(f"{file} is no tokenizer of the library `tokenizers`: {str(error)[:200]}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    table = [tokenizer.id_to_token(index) or "" for index in range(max(tokenizer.get_vocab().values(), default=-1) + 1)]
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids), table
