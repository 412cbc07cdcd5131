"""Where a number comes from: versions, hardware, revision, memory."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from xcoop.version import __version__

PACKAGE = Path(__file__).resolve().parents[1]  # xcoop itself
PACKAGES = ("torch", "torchvision", "numpy", "clip-anytorch", "scikit-learn", "scipy")


def versions() -> dict[str, str]:
    """Versions of Python, of this package, of the engine in use, and of the packages that compute."""
    return {
        "python": platform.python_version(),
        "xcoop": __version__,
        "engine": engine(),
        **{name: package_version(name) for name in PACKAGES},
    }


def package_version(name: str) -> str:
    """The installed version of a distribution, or "none"."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"


def engine() -> str:
    """Which engine answers to `import dassl`: "dassl <version>", or "xcoop" for our own."""
    import dassl

    paths = [str(path) for path in getattr(dassl, "__path__", [])]
    own = not paths or any(PACKAGE in Path(path).resolve().parents for path in paths)
    return "xcoop" if own else f"dassl {getattr(dassl, '__version__', '?')}"


def hardware(device: Any) -> dict[str, object]:
    """What the run was computed on: device, processor, cores and threads."""
    import torch

    kind = getattr(device, "type", "cpu")
    return {
        "device": torch.cuda.get_device_name(device) if kind == "cuda" else "cpu",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def peak_memory_mb() -> dict[str, float]:
    """The most memory that this process has used, in MiB: of the host, and of the GPU if it used one."""
    import torch

    host = _host_peak()
    peak = {} if host is None else {"peak_memory_mb": round(host, 1)}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        peak["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1024**2, 1)
    return peak


def _host_peak() -> float | None:
    """In MiB; None where the system does not tell (Windows).

    Linux's own figure can be reset between runs of one process; getrusage's cannot, once a thread ended.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(found[1]) / 1024
    try:
        import resource
    except ImportError:
        return None
    unit = 1024**2 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def git_revision() -> str | None:
    """The commit of the checkout that runs, "-dirty" if files differ from it; None outside a checkout."""
    root = PACKAGE.parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()  # noqa: S603


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
