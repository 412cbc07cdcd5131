"""Tables as LaTeX, with booktabs."""

from __future__ import annotations

import re

from xcoop.results.sheet import BEST, LEGEND, TIED, Sheet, Shown

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "\N{MINUS SIGN}": "$-$",
}
_MINUS = re.compile(r"(?<![\w.-])-(?=\d)")  # a hyphen is too short for one


def latex(sheet: Sheet) -> str:
    """A `table` with `booktabs` rules; the best is bold, what is not significantly worse underlined."""
    legend = {BEST: rf"\textbf{{Bold}}: {LEGEND[BEST]}.", TIED: rf"\underline{{Underlined}}: {LEGEND[TIED]}."}
    notes = [*(legend[mark] for mark in sheet.marks), *map(escape, (*sheet.notes, *sheet.origin))]
    body = [_line([_marked(cell) for cell in row]) for row in sheet.rows]
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(sheet.title)}}}",
            rf"\label{{tab:{sheet.key}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(sheet.head) - 1)}}}",
            r"\toprule",
            _line([escape(name) for name in sheet.head]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *([r"\par\smallskip\footnotesize", " ".join(notes)] if notes else []),
            r"\end{table}",
            "",
        ]
    )


def escape(value: str) -> str:
    """A name as LaTeX text, on one line."""
    return "".join(_ESCAPES.get(letter, letter) for letter in " ".join(value.split()))


def _line(cells: list[str]) -> str:
    """A row; a bracket at its start would be taken for an argument of the line break before it."""
    whole = " & ".join(cells)
    return f"{'{}' if whole.startswith('[') else ''}{whole} \\\\"


def _marked(cell: Shown) -> str:
    inner = _MINUS.sub("$-$", escape(cell.text))
    return {BEST: rf"\textbf{{{inner}}}", TIED: rf"\underline{{{inner}}}"}.get(cell.mark, inner)
