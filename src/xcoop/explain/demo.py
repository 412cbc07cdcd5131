"""A local page (gradio, the extra `[demo]`): choose an image, get its card. Nothing leaves this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from html import escape
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from xcoop.explain.content import ImageEntry
from xcoop.explain.html import Notice, image_page
from xcoop.utils.console import to_paste
from xcoop.utils.images import ImageError

Explain = Callable[[bytes, str], ImageEntry]
MOST = 20_000_000  # bytes of an upload


def demo(explain: Explain, notice: Notice) -> Any:
    """The page as gradio `Blocks`, not served yet.

    Args:
        explain: turns an image file's bytes, and its name, into an entry of the report.
        notice: what stands above each card.

    Raises:
        ImportError: gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported; so is that of its client
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise ImportError(f"the demo needs gradio: {to_paste('pip', 'install', 'xcoop[demo]')}") from error

    def card(path: str | None) -> str:
        if path is None:
            return ""
        try:
            page = image_page(explain(Path(path).read_bytes(), Path(path).name), notice)
        except ImageError as error:
            raise gradio.Error(str(error), print_exception=False) from error
        # A document of its own: neither its style nor whatever an upload made of it meets the page around it.
        style = "width:100%;height:80vh;border:0"
        return f'<iframe sandbox="" title="Explanation" srcdoc="{escape(page)}" style="{style}"></iframe>'

    with gradio.Blocks(title="Explain an image", analytics_enabled=False) as page:
        gradio.Markdown(f"# Explain an image\nAt most {MOST // 1_000_000} MB.")
        chosen = gradio.File(label="Choose an image, or drop one here", type="filepath")
        shown = gradio.HTML()
        chosen.change(card, chosen, shown, api_name="explain")
    return page


def serve(
    explain: Explain, host: str = "127.0.0.1", port: int = 0, *, notice: Notice, ready: Callable[[str], None]
) -> None:
    """Serves the page until interrupted (Ctrl-C) or told to end (SIGTERM); the next one need not wait for its close.

    To be called from the main thread, which alone gets signals. `ready` is told the page's address when it can be
    opened; for the rest see `demo` and `launch`.
    """
    page = demo(explain, notice)
    url = launch(page, host, port)
    # Not by KeyboardInterrupt: raised in a finaliser, it is lost. A queue of this kind may be put to while it is read.
    told: SimpleQueue[int] = SimpleQueue()

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        told.put(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    ready(url)
    told.get()
    page.close(verbose=False)


def launch(page: Any, host: str, port: int) -> str:
    """Starts to serve the page on a port (0: a free one), and returns its address.

    Other machines reach it only if the host is not a loopback address.

    Raises:
        OSError: it cannot listen there.
    """
    try:
        _, url, _ = page.launch(
            server_name=host, server_port=port or None, share=False, quiet=True, prevent_thread_lock=True,
            max_file_size=MOST,
        )  # fmt: skip
    except (OSError, OverflowError) as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error} (port 0 takes any that is free)") from error
    return str(url)
