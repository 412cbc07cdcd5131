"""`xcoop explain`: what a run's prompts learned, where it looked, and how far both can be trusted, on one page."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from xcoop.utils.console import UserError, say

if TYPE_CHECKING:
    from xcoop.explain.content import Control, Trust
    from xcoop.explain.trained import TrainedModel

REPORT = "report.html"
IMAGES = 20
OWN = "own_images"  # in the run's folder of explanations: the page of images that are named


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `xcoop explain`."""
    parser.description = "Writes report.html (one self-contained page) and explanations.json (every number behind it)."
    parser.add_argument("run", help="the folder of a finished run, e.g. output/phantom/XCoOp/phantom_16shots/seed1")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="images to explain, in the place of test images")
    parser.add_argument("--images", type=int, metavar="N", help=f"how many test images are shown (default {IMAGES})")
    parser.add_argument("--asked", type=int, default=200, metavar="N", help="test images behind the trust table, and "
                         "validation images behind how often a certainty is right; 0: none (default %(default)s)"
                        )  # fmt: skip
    parser.add_argument("--method", default="", help="of all heat maps (default: legrad for classes and "
                         "maskclip@2 for concepts; maskclip for ResNets)")  # fmt: skip
    parser.add_argument("--out", default="", help="folder for both files (default: explanations/ in the run's folder, "
                        f"and explanations/{OWN}/ for images that are named)")  # fmt: skip
    parser.add_argument(
        "--show-paths", action="store_true", help="show whole paths (default: names within the dataset)"
    )
    parser.add_argument("--device", default="", help="e.g. cpu or cuda:0 (default: a GPU if there is one)")
    parser.add_argument("--demo", action="store_true", help="start a local page that explains images dropped on it")
    parser.add_argument("--host", default="127.0.0.1", help="of the demo (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="of the demo; 0: any that is free")


def run(arguments: argparse.Namespace) -> int:
    """Carries out the command; returns the exit code."""
    if arguments.images is not None and arguments.images < 1:
        raise UserError(f"--images {arguments.images}: at least one image is needed")
    if arguments.asked < 0:
        raise UserError(f"--asked {arguments.asked}: 0 or more")
    if not 0 <= arguments.port < 1 << 16:
        raise UserError(f"--port {arguments.port}: a number from 0 (any that is free) to 65535")
    if arguments.paths and (arguments.images is not None or arguments.demo):
        raise UserError("give either the paths of images, or --images N, or --demo")
    if missing := [path for path in arguments.paths if not Path(path).is_file()]:
        raise UserError(f"no such image: {', '.join(missing)}")
    import xcoop
    from xcoop.explain.maps import methods
    from xcoop.explain.report import learn_from_dataset

    model = xcoop.load_run(arguments.run, arguments.device or None)
    methods(model.backbone, arguments.method)  # an unknown name ends here, before anything is computed
    if arguments.paths or arguments.demo:  # test images bring their dataset
        learn_from_dataset(model, 0 if model.calibration else arguments.asked)
    return _demo(model, arguments) if arguments.demo else _page(model, arguments)


def _page(run: TrainedModel, arguments: argparse.Namespace) -> int:
    from xcoop.explain.content import FILE, FOLDER
    from xcoop.explain.html import report
    from xcoop.explain.report import learn_certainty, named, report_of, test_images
    from xcoop.utils.files import atomic_write_text, require_ours

    usual = run.folder / FOLDER / OWN if arguments.paths else run.folder / FOLDER  # the run's own page stays
    folder = Path(arguments.out) if arguments.out else usual
    require_ours(folder / FILE, folder / REPORT)
    if arguments.paths:
        items = named(arguments.paths)
        found = report_of(run, items, None, len(items), arguments.method, asked=0, whole=arguments.show_paths)
    else:
        items, truth = test_images(run)
        if arguments.asked:
            learn_certainty(run, arguments.asked)
        count = IMAGES if arguments.images is None else arguments.images
        found = report_of(run, items, truth, count, arguments.method, arguments.asked, arguments.show_paths)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_text(folder / FILE, found.to_json())
    atomic_write_text(folder / REPORT, report(found))
    for row in found.trust:
        controls = "".join(f"; {control.name} {_shown(control)}" for control in row.controls)
        say(f"{row.metric} ({row.direction} is better): {_shown(row)}{controls}")
    say(f"{len(found.images)} images explained: {folder / REPORT} and {folder / FILE}")
    return 0


def _shown(entry: Trust | Control) -> str:
    """A value and its interval, as far as they are known."""
    if entry.value is None:
        return "n/a"
    return f"{entry.value:.2f}" + ("" if entry.low is None else f" [{entry.low:.2f}, {entry.high:.2f}]")


def _demo(run: TrainedModel, arguments: argparse.Namespace) -> int:
    from xcoop.explain.demo import serve
    from xcoop.explain.report import entry_of_bytes

    try:
        serve(
            lambda data, name: entry_of_bytes(run, data, arguments.method, name),
            arguments.host,
            arguments.port,
            notice=run.notice(arguments.method),
            ready=lambda url: say(f"Drop an image on {url} (Ctrl-C ends it)"),
        )
    finally:  # only the end of the process is left: another Ctrl-C need not wait for it, nor show where it was
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return 0
