"""The style of the heat maps, above that of all pages; their colours are the only ones that carry meaning."""

from __future__ import annotations

from xcoop.explain.page.colours import css_gradient

CSS = f"""
.whole{{white-space:nowrap}}
.figures{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,10.5rem),1fr));gap:1rem}}
figure{{margin:0;min-width:0}}
figure svg{{display:block;width:100%;max-width:14rem;height:auto}}
figcaption{{font-size:.9rem;max-width:14rem}}
figcaption dl{{display:block;margin:0}}
figcaption dd,.scale span{{white-space:nowrap}}
figcaption dl div{{display:flex;justify-content:space-between;gap:.5rem}}
.under{{filter:grayscale(1)}}
.heat{{opacity:.55}}
.border path{{fill:none;stroke:#000;stroke-width:3.5;vector-effect:non-scaling-stroke}}
.border path+path{{stroke:#fff;stroke-width:1.5}}
.scale{{display:flex;align-items:center;gap:.4rem;margin:.2rem 0;font-variant-numeric:tabular-nums}}
.colours{{flex:1;height:.6rem;border:1px solid var(--soft);background:{css_gradient()}}}
.colours{{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
@media print{{
.figures{{grid-template-columns:repeat(5,1fr);gap:.5rem}}
}}
"""
