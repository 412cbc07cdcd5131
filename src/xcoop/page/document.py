"""The frame of a page: its head, a closed door to the outside, and the style."""

from __future__ import annotations

from xcoop.page.markup import text
from xcoop.page.style import CSS

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the browser, too, lets nothing out or in
DRAWN = "Phantom: these images are drawn, not photographed. Nothing measured on them is a clinical result."


def document(title: str, body: str, policy: str = POLICY, style: str = "") -> str:
    """A page around `body`, with the style and a content policy.

    Args:
        title: plain text.
        body: HTML whose main part has the id `main`.
        policy: the content policy.
        style: rules beside those of all pages.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{text(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        f'content="light dark"><link rel="icon" href="data:,"><title>{text(title)}</title><style>{CSS}{style}</style>'
        f'</head><body><a class="skip" href="#main">Skip to the content</a>{body}</body></html>\n'
    )


def contents(links: list[tuple[str, str]]) -> str:
    """The list of a page's parts: (id, plain name) of each."""
    items = "".join(f'<li><a href="#{text(key)}">{text(name)}</a></li>' for key, name in links)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'
