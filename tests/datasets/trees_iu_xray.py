"""IU X-Ray as the tables of Kaggle and as the XML reports of Open-i."""

from __future__ import annotations

import shutil
from pathlib import Path

from tree_tools import Damages, Layout, edit, picture, write_csv

HEADINGS = ("normal", "Cardiomegaly/borderline;Lung/hypoinflation", "No Indexing")


def heading_of(uid: int) -> str:
    """20 normal reports (even), 20 abnormal ones (odd), and from 41 on not indexed."""
    return HEADINGS[2] if uid > 40 else HEADINGS[uid % 2]


def iu_xray(root: Path) -> Path:
    """42 reports with a frontal (4001) and a lateral (3001) image; the first has two frontal ones. Gives IU_XRay."""
    folder = root / "IU_XRay"
    views = [[1, "1_IM-0001-4001-0002.dcm.png", "Frontal"]]
    for uid in range(1, 43):
        views += [[uid, f"{uid}_IM-{uid:04d}-{n}001.dcm.png", view] for n, view in ((4, "Frontal"), (3, "Lateral"))]
    for number, (_, name, _) in enumerate(views):
        picture(folder / "images" / "images_normalized" / str(name), number)
    write_csv(folder / "indiana_projections.csv", ["uid", "filename", "projection"], views)
    reports = [[uid, heading_of(uid), "a, finding"] for uid in range(1, 43)]
    write_csv(folder / "indiana_reports.csv", ["uid", "MeSH", "findings"], reports)
    return folder


def open_i(root: Path) -> Path:
    """The same reports as XML; the images are numbered 1001 and 4004, and one report has none. Gives IU_XRay."""
    folder = root / "IU_XRay"
    reports = folder / "NLMCXR_reports" / "ecgen-radiology"
    reports.mkdir(parents=True)
    for uid in range(1, 44):
        names = [f"CXR{uid}{'_1' * (uid == 1)}_IM-{uid:04d}-{n}" for n in (1001, 4004)] if uid < 43 else []
        for name in names:
            picture(folder / "NLMCXR_png" / f"{name}.png", 2 * uid + name.endswith("4004"))
        majors = "".join(f"<major>{heading}</major>" for heading in heading_of(uid).split(";"))
        images = "".join(f'<parentImage id="{name}"><caption>é</caption></parentImage>' for name in names)
        (reports / f"{uid}.xml").write_text(
            f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="CXR{uid}"/>'
            f"<MeSH>{majors}<automatic>heart</automatic></MeSH>{images}</eCitation>",
            encoding="utf-8",
        )
    return folder


LAYOUTS = {
    # 20 normal images of 20 reports, 21 abnormal ones of 20. Which report has two is left to the hash: it trains.
    "iu_xray": Layout(
        iu_xray,
        ({"normal": 12, "abnormal": 12}, {"normal": 2, "abnormal": 2}, {"normal": 6, "abnormal": 7}),
    ),
}

DAMAGES: dict[str, Damages] = {
    "iu_xray": [
        (shutil.rmtree, "was not found"),
        (lambda f: (f / "indiana_projections.csv").unlink(), r"projections\.csv is missing: it tells the report"),
        (lambda f: edit(f / "indiana_reports.csv", "MeSH", "Mesh"), r"lacks the columns \['MeSH'\]"),
        (lambda f: edit(f / "indiana_projections.csv", "Lateral", "Side"), r"unknown projections \['Side'\]"),
        (
            lambda f: edit(f / "indiana_projections.csv", "\n42,", "\n99,"),
            "line 85: indiana_reports.csv has no report '99'",
        ),
        (
            lambda f: (f / "images/images_normalized/2_IM-0002-4001.dcm.png").unlink(),
            r"lacks 1 of 41 images of indiana_reports\.csv: 2_IM-0002-4001",
        ),
        (
            lambda f: (f / "images/images_normalized/2_IM-0002-4001.dcm.png").write_bytes(b""),
            r"2_IM-0002-4001\.dcm\.png: the file is empty",
        ),
    ],
}
