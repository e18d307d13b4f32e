"""`peers.py PLAN`: times the steps of the peers, all in one process, and prints a line of JSON for each."""

import contextlib
import gc
import io
import json
import runpy
import sys
from pathlib import Path

import torch

from kit import KIT, short_of_memory


def main(plan):
    sys.path.insert(0, str(KIT / "peer"))
    for run in json.loads(Path(plan).read_text()):
        output = io.StringIO()
        sys.argv = ["batched_peer.py", *run.pop("words")]
        try:
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            with contextlib.redirect_stdout(output):
                runpy.run_path(str(KIT / "peer/batched_peer.py"), run_name="__main__")
            lines = output.getvalue().split()
            run["step_seconds"] = float(lines[-1])
            if "memory" in lines:
                run["peak_memory_gib"] = float(lines[2])
        except Exception as error:
            run["error"] = short_of_memory(f"{type(error).__name__}: {error}".splitlines()[0])
        print(json.dumps(run), flush=True)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main(sys.argv[1])
