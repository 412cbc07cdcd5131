"""A BERT's tokens: `[CLS] pieces of words [SEP]`, from the files that stand beside its weights.

A `tokenizer.json` says all of it; else a `vocab.txt`, one piece a line, with what a `tokenizer_config.json` beside it
says of upper case and accents. Both are read as data by the library `tokenizers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from xcoop.backbones.clip_model import import_clip
from xcoop.backbones.model_folder import read_object
from xcoop.utils.console import to_paste
from xcoop.utils.reading import MOST_JSON, read_bytes

WHOLE, VOCABULARY, SETTINGS = "tokenizer.json", "vocab.txt", "tokenizer_config.json"
INSIDE = "##"  # how a piece begins that goes on with a word


class WordPieces:
    """Words to pieces and their ids.

    Args:
        tokenizer: a `tokenizers.Tokenizer`; what it cuts and fills up is turned off.
        source: the file that it comes from, for messages.

    Raises:
        ValueError: it does not put one token before a text and one behind it.
    """

    def __init__(self, tokenizer: Any, source: str) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        if len(empty := tokenizer.encode("").tokens) != 2:
            raise ValueError(f"{source}: a text stands between a start and an end, but of nothing it makes {empty}")
        self.special = frozenset(empty)
        self.size = max(tokenizer.get_vocab().values()) + 1

    def __deepcopy__(self, memo: dict[int, Any]) -> WordPieces:
        """Itself: nothing ever changes it."""
        return self

    def encode(self, text: str) -> list[int]:
        """The ids of a text's pieces, start and end included, cleaned as OpenAI's and open_clip's tokenizers do."""
        clean = import_clip().simple_tokenizer
        ids: list[int] = self._tokenizer.encode(clean.whitespace_clean(clean.basic_clean(text))).ids
        return ids

    def decode(self, ids: Sequence[int]) -> list[str]:
        """Each piece by itself, without the mark of one inside a word."""
        return [(self._tokenizer.id_to_token(index) or "").removeprefix(INSIDE) for index in ids]

    def words(self) -> Iterator[tuple[int, str]]:
        """The pieces that are whole words of letters alone, by their ids in ascending order."""
        for piece, index in sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1]):
            if piece.isalpha():
                yield index, piece


def read_word_pieces(folder: Path) -> WordPieces:
    """The tokenizer in a folder.

    Raises:
        FileNotFoundError: the folder has neither file; the message says what to put there.
        ImportError: `tokenizers` is not installed.
        ValueError: a file cannot be read as what its name says.
    """
    try:
        from tokenizers import BertWordPieceTokenizer, Tokenizer
    except ImportError as error:
        raise ImportError(
            "the text tower is a BERT, whose words are cut by `tokenizers`: "
            + to_paste("pip", "install", "xcoop[open_clip]")
        ) from error
    if (whole := folder / WHOLE).is_file():
        content = read_bytes(whole, MOST_JSON).decode("utf-8", "replace")
        try:
            return WordPieces(Tokenizer.from_str(content), str(whole))
        except Exception as error:  # of no class of its own
            raise ValueError(f"{whole} is no tokenizer of the library `tokenizers`: {str(error)[:200]}") from error
    table = folder / VOCABULARY
    if not table.is_file():
        raise FileNotFoundError(
            f"{folder} has neither {WHOLE} nor {VOCABULARY}: put the files of the model's tokenizer there"
        )
    # Some pieces are separators of lines themselves, to Unicode: only what ends a line of a file does so here.
    lines = read_bytes(table, MOST_JSON).decode("utf-8", "replace").removesuffix("\n").split("\n")
    vocabulary = {line.removesuffix("\r"): index for index, line in enumerate(lines)}
    settings = read_object(folder / SETTINGS) if (folder / SETTINGS).is_file() else {}
    if missing := [piece for piece in ("[CLS]", "[SEP]", "[UNK]") if piece not in vocabulary]:
        raise ValueError(f"{table} has no {', '.join(missing)}: it is no vocabulary of a BERT")
    tokenizer = BertWordPieceTokenizer(
        vocabulary,
        lowercase=settings.get("do_lower_case", True) is not False,
        strip_accents=settings.get("strip_accents"),
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True) is not False,
    )
    return WordPieces(tokenizer, str(table))
