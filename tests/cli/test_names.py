"""What is written to a terminal: names as text, never as commands."""

from __future__ import annotations

import pytest

from xcoop.utils.console import complain, say
from xcoop.utils.suggest import escaped, is_plain

UNSAFE = ["\x1b[31m", "a\nb", "a\rb", "\x07", "\x9b1m", "\u2028", "\u202e", "\udce9", "\ud83d", "\x7f"]
PLAIN = [
    "nevus",
    "größe",
    "cafe\u0301",
    "نوع\u200cها",
    "\U0001f469\u200d\U0001f52c",
    "Screenshot 3.15\u202fPM.png",
    "a b",
]


@pytest.mark.parametrize("text", UNSAFE)
def test_unsafe_names_are_escaped(text: str) -> None:
    assert not is_plain(text)
    assert is_plain(escaped(text))
    assert "\\" in escaped(text)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_names_stay(text: str) -> None:
    assert is_plain(text)
    assert escaped(text) == text


def test_a_byte_that_is_no_text_is_shown_as_the_byte() -> None:
    assert escaped(b"caf\xe9\x1b.png".decode("utf-8", "surrogateescape")) == r"caf\xe9\x1b.png"
    assert escaped("a\n\x1bb", keep="\n") == "a\n\\x1bb"


def test_nothing_that_is_written_acts_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("name \x1b[2J", "next\tline")
    complain("file \x1b]0;title\x07")
    found = capsys.readouterr()
    assert found.out == "name \\x1b[2J\nnext\tline\n"
    assert found.err == "xcoop: file \\x1b]0;title\\x07\n"
