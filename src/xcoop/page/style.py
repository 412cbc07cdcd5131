"""The style sheet of all pages: light and dark, phone and print; no colour of it carries a meaning."""

from __future__ import annotations

# Name: (light, dark). The tests hold every pair of writing and ground to a contrast of 4.5.
COLOURS = {
    "ground": ("#ffffff", "#14171a"),
    "card": ("#f5f6f7", "#1e2327"),
    "text": ("#16191d", "#e9ecef"),
    "soft": ("#4c5560", "#aab4be"),
    "link": ("#0b4f9e", "#8ec1ff"),
    "line": ("#b9c0c7", "#48515a"),
    "bar": ("#39608f", "#7fa8d8"),
}


def _variables(which: int) -> str:
    return "".join(f"--{name}:{pair[which]};" for name, pair in COLOURS.items())


CSS = f"""
:root{{color-scheme:light dark;{_variables(0)}}}
@media (prefers-color-scheme:dark){{:root{{{_variables(1)}}}}}
*{{box-sizing:border-box}}
body{{margin:0 auto;max-width:72rem;padding:1rem;background:var(--ground);color:var(--text);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;overflow-wrap:anywhere}}
h1{{font-size:1.7rem;line-height:1.2;margin:.5rem 0}}
h2{{font-size:1.35rem;margin:2rem 0 .5rem;border-bottom:2px solid var(--line)}}
h3{{font-size:1.1rem;margin:1.2rem 0 .3rem}}
h4{{font-size:1rem;margin:1rem 0 .3rem}}
p{{margin:.4rem 0;max-width:48rem}}
a{{color:var(--link)}}
:focus-visible{{outline:3px solid var(--link);outline-offset:2px}}
.skip{{position:absolute;left:-100vw}}
.skip:focus{{position:static;display:inline-block;padding:.5rem}}
.banner{{border:1px solid var(--line);border-left:.4rem solid var(--text);padding:.5rem .8rem;max-width:none}}
nav ul{{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;padding:0;list-style:none}}
nav a{{display:inline-block;padding:.2rem 0}}
.card{{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.2rem 1rem 1rem;margin:1rem 0}}
.card h3{{margin-top:.8rem}}
.sign{{font-weight:bold}}
.wide{{overflow-x:auto;max-width:100%}}
table{{border-collapse:collapse;font-variant-numeric:tabular-nums;overflow-wrap:break-word}}
caption{{text-align:left;color:var(--soft);padding:.2rem 0}}
th,td{{text-align:left;vertical-align:top;padding:.25rem .9rem .25rem 0;border-bottom:1px solid var(--line);
min-width:4.5rem;max-width:22rem}}
tbody th{{font-weight:600}}
.note{{display:block;font-weight:normal;color:var(--soft);font-size:.9rem}}
dl{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr));gap:.2rem 1.5rem;margin:.4rem 0}}
dt{{color:var(--soft);font-size:.9rem}}
dd{{margin:0}}
.bar{{display:inline-block;width:5rem;height:.7rem;border:1px solid var(--soft);vertical-align:baseline}}
.bar span{{display:block;height:100%;background:var(--bar)}}
.bar,.bar span{{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
@media print{{
:root{{color-scheme:light;{_variables(0)}}}
body{{max-width:none;padding:0;font-size:10pt}}
nav,.skip{{display:none}}
.card{{background:none}}
.wide{{overflow:visible}}
figure,tr,dl div,.banner{{break-inside:avoid}}
h1,h2,h3,h4,caption,.verdict{{break-after:avoid}}
}}
"""
