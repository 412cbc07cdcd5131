"""Which files of this checkout a command goes through: those whose functions are called, in all of its processes.

    python benchmarks/files_entered.py                                   # xcoop run phantom 16, to the first backward()
    python benchmarks/files_entered.py -- table output                   # a whole command
    python benchmarks/files_entered.py -- explain RUN --images 1 --asked 0

Counted are calls, not imports, in the parent and its children, until one of them reaches `--until` (the default is
PyTorch's `Tensor.backward`). What is drawn or downloaded once counts, too, unless it is there already.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Python imports a `sitecustomize` that it finds on its path at every start, in child processes, too.
HOOK = """
import os, sys, threading
root, folder, until = (os.environ["FILES_ENTERED_" + key] for key in ("ROOT", "OUT", "UNTIL"))
file, _, function = until.rpartition(":")
end = os.path.join(folder, "end")
seen = set()
OPTIMIZED = 1  # set in the code of functions, not in that of modules and classes

def watch(frame, event, _):
    code = frame.f_code
    if event != "call" or code in seen:
        return
    if code.co_name == function and code.co_filename.endswith(file):
        open(end, "w").close()
    elif code.co_filename.startswith(root) and code.co_flags & OPTIMIZED and not os.path.exists(end):
        seen.add(code)
        with open(os.path.join(folder, str(os.getpid())), "a", encoding="utf-8") as out:  # forks do not run atexit
            out.write(f"{code.co_filename}\\t{code.co_name}:{code.co_firstlineno}\\n")

os.register_at_fork(after_in_child=seen.clear)
threading.setprofile(watch)
sys.setprofile(watch)
"""


def entered(command: list[str], until: str) -> dict[str, set[str]]:
    """By file below the checkout, the functions of it that `xcoop <command>` calls before `until`, in any process."""
    with tempfile.TemporaryDirectory() as folder:
        hook, out = Path(folder, "hook"), Path(folder, "out")
        hook.mkdir()
        out.mkdir()
        (hook / "sitecustomize.py").write_text(HOOK, encoding="utf-8")
        names = {"ROOT": f"{ROOT}{os.sep}", "OUT": str(out), "UNTIL": until}
        environment = os.environ | {f"FILES_ENTERED_{key}": value for key, value in names.items()}
        environment |= {"PYTHONPATH": str(hook), "PYTHONSAFEPATH": "1"}
        subprocess.run([sys.executable, "-m", "xcoop.cli", *command], env=environment, check=True)  # noqa: S603
        calls: dict[str, set[str]] = defaultdict(set)
        for lines in out.glob("[0-9]*"):
            for line in lines.read_text(encoding="utf-8").splitlines():
                file, _, function = line.partition("\t")
                calls[os.path.relpath(file, ROOT)].add(function)
    return {file: names for file, names in sorted(calls.items()) if not file.startswith((".venv", "benchmarks"))}


def main() -> None:
    """Prints the files with the number of their functions, and how many there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--until", default="torch/_tensor.py:backward", help="end of a file's path : function")
    parser.add_argument("command", nargs="*", default=[], help="of xcoop; default: run phantom 16, in a new folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        os.environ.setdefault("OUT", out)
        os.environ.setdefault("SEEDS", "1")
        calls = entered(args.command or ["run", "phantom", "16"], args.until)
    for file, functions in calls.items():
        print(f"{len(functions):4d}  {file}")
    print(f"{len(calls)} files, {sum(map(len, calls.values()))} functions")


if __name__ == "__main__":
    main()
