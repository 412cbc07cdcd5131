"""A BERT's tokens: from either of its files, as the library cuts them, and what is wrong is said."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import pytest
from helpers_biomed import INSIDE, SPECIAL, WORDS

from xcoop.backbones.wordpieces import WordPieces, read_word_pieces

pytest.importorskip("tokenizers")


def vocabulary(folder: Path, words: list[str] = WORDS, **settings: object) -> Path:
    """A folder with a table of pieces and, if there are any, settings."""
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture
def pieces(tmp_path: Path) -> WordPieces:
    return read_word_pieces(vocabulary(tmp_path))


def cut(pieces: WordPieces, text: str) -> list[str]:
    return [WORDS[index] for index in pieces.encode(text)]


def test_words_are_cut_into_pieces_between_start_and_end(pieces: WordPieces) -> None:
    assert cut(pieces, "A  photo of Carcinoma,\tspots") == [
        *("[CLS]", "a", "photo", "of", "carcin", "##oma", ",", "spot", "##s", "[SEP]")
    ]
    assert cut(pieces, "") == ["[CLS]", "[SEP]"]
    assert cut(pieces, "liver") == ["[CLS]", "[UNK]", "[SEP]"]
    assert cut(pieces, "a &amp;amp; a") == ["[CLS]", "a", "[UNK]", "a", "[SEP]"]  # cleaned as open_clip does
    assert len(pieces.encode(" ".join("X" * 300))) == 302  # nothing is cut off here


def test_the_whole_file_says_what_the_table_says_and_its_lengths_are_not_used(
    pieces: WordPieces, tmp_path: Path
) -> None:
    pieces._tokenizer.enable_truncation(3)
    pieces._tokenizer.enable_padding(length=9)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "tokenizer.json").write_text(pieces._tokenizer.to_str())
    whole, table = read_word_pieces(tmp_path / "whole"), read_word_pieces(tmp_path)
    for text in ("a photo of carcinomas.", "", "dark-bright"):
        assert whole.encode(text) == table.encode(text)
    assert whole.special == table.special == {"[CLS]", "[SEP]"}


def test_lines_end_where_those_of_a_file_do(tmp_path: Path) -> None:
    """Vocabularies have pieces that Unicode calls separators of lines; Windows ends lines with two characters."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2028", "\x85", "dark"]
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*words, ""]).encode())
    pieces = read_word_pieces(tmp_path)
    assert pieces.size == 7
    assert pieces.encode("dark") == [2, 6, 3]


def test_upper_case_is_kept_where_the_settings_say_so(tmp_path: Path) -> None:
    cased = read_word_pieces(vocabulary(tmp_path, do_lower_case=False))
    assert cut(cased, "Dark dark") == ["[CLS]", "[UNK]", "dark", "[SEP]"]


def test_pieces_and_words(pieces: WordPieces) -> None:
    assert pieces.decode(pieces.encode("carcinoma.")) == ["[CLS]", "carcin", "oma", ".", "[SEP]"]
    found = dict(pieces.words())
    assert list(found.values()) == [w for w in WORDS if w.isalpha()]
    assert all(WORDS[index] == word for index, word in found.items())
    assert not set(found.values()) & {*SPECIAL, *INSIDE}
    assert copy.deepcopy(pieces) is pieces


def test_what_is_missing_or_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer\.json nor vocab\.txt"):
        read_word_pieces(tmp_path)
    vocabulary(tmp_path, ["[PAD]", "[UNK]", "a"])
    with pytest.raises(ValueError, match=r"vocab\.txt has no \[CLS\], \[SEP\]"):
        read_word_pieces(tmp_path)
    vocabulary(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json must hold names and values"):
        read_word_pieces(tmp_path)
    for content, reason in (("{", "is no tokenizer"), ('{"model": 1}', "is no tokenizer")):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(ValueError, match=reason):
            read_word_pieces(tmp_path)


def test_without_the_library_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'xcoop\[open_clip\]'"):
        read_word_pieces(vocabulary(tmp_path))


def test_a_tokenizer_without_start_and_end_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    tokenizer = Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_str())
    with pytest.raises(ValueError, match=r"between a start and an end, but of nothing it makes \[\]"):
        read_word_pieces(tmp_path)
