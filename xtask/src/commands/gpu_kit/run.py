"""Tests and measures this machine with the programs that lie beside this file.

Needs Python 3.9 or newer with PyTorch 2.11, and for `--device cuda` an NVIDIA driver. Each part has a time
limit of its own, and its result is on disk before the next begins; what fails is recorded and the next part
runs. docs/gpu-kit.md says what the parts are and how to read their results.
"""

import argparse
import importlib.util
import re
import shutil
import sys
import time
from pathlib import Path

from kit import Failed, Kit, Skipped
from parts import PARTS
from report import markdown

TORCH = "2.11"


def read_args():
    parser = argparse.ArgumentParser(prog="run.sh", description="Tests and measures this machine.")
    parser.add_argument("--out", type=Path, default=Path("gpu-kit-results"), help="folder for the results")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything works")
    parser.add_argument("--parts", default="1,2,3,4,5,6", help="which parts, such as 1,4: the time of the others is theirs")
    parser.add_argument("--minutes", type=float, help="for all parts together (default: 8, with --quick 30)")
    args = parser.parse_args()
    if args.minutes is None:
        # The short form shall not fail because the machine is busy.
        args.minutes = 30 if args.quick else 8
    try:
        args.parts = sorted({int(number) for number in args.parts.split(",")})
    except ValueError:
        args.parts = [0]
    if not set(args.parts) <= set(PARTS):
        parser.error("--parts takes numbers from 1 to 6 with commas between them")
    return args


def find_torch():
    """The folder of Python's PyTorch, which is not imported, and its version."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.origin:
        refuse(f"`{sys.executable}` has no PyTorch; install version {TORCH}, or export PYTHON")
    folder = Path(spec.origin).parent
    version = re.search(r"__version__ = '([^']+)'", (folder / "version.py").read_text())[1]
    if not version.startswith(f"{TORCH}."):
        refuse(f"PyTorch in {folder} is version {version}, and the kit was built for {TORCH}")
    return folder, version


def refuse(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def main():
    args = read_args()
    torch_dir, torch_version = find_torch()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    kit = Kit(args, torch_dir, torch_version)
    for number in args.parts:
        run, started = PARTS[number], time.monotonic()
        part = {"part": number, "name": run.__doc__, "status": "passed", "seconds": 0.0, "result": ""}
        kit.results["parts"].append(part)
        print(f"{part['name']} ...", file=sys.stderr, flush=True)
        try:
            part["result"] = run(kit, part)
        except Skipped as reason:
            part.update(status="skipped", result=str(reason))
        except Failed as reason:
            part.update(status="FAILED", result=str(reason))
        except Exception as error:
            part.update(status="FAILED", result=f"{type(error).__name__}: {error}")
        part["seconds"] = round(time.monotonic() - started, 1)
        kit.save()
        print(f"  {part['status']} in {part['seconds']} s: {part['result']}", file=sys.stderr, flush=True)
    shutil.rmtree(kit.work, ignore_errors=True)
    print(markdown(kit.results), end="")
    print(f"results in {args.out}", file=sys.stderr)
    return 1 if any(part["status"] == "FAILED" for part in kit.results["parts"]) else 0


if __name__ == "__main__":
    sys.exit(main())
