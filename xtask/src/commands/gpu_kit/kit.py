"""What the parts of a kit share: programs with a time limit, and results that are on disk at once."""

import datetime
import io
import json
import os
import signal
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

from report import markdown

KIT = Path(__file__).resolve().parent
MIB = 2**20

# What is kept for each part of the time of all, and for the files at the end. What a part leaves is the next
# one's.
KEPT = {1: 0.03, 2: 0.12, 3: 0.03, 4: 0.23, 5: 0.11, 6: 0.46}
PACKING = 0.02

# Sizes of steps of milliseconds.
TINY = [
    "model.image_px=32", "model.out_dim=64", "model.hidden_dim=32", "model.bottleneck_dim=16",
    "clip.frames_per_clip=2", "clip.clip_stride_s=0.5", "crop.px=48",
    "views.global_px=32", "views.local_px=16", "views.local_crops=2",
]


class Failed(Exception):
    """Why a part did not do what it should."""


class TimedOut(Failed):
    """A program did not end within its time."""


class Skipped(Exception):
    """Why there was nothing to do."""


class Kit:
    def __init__(self, args, torch_dir, torch_version):
        self.device, self.quick, self.out = args.device, args.quick, args.out
        self.parts = args.parts
        self.whole_s = 60 * args.minutes
        self.end = time.monotonic() + (1 - PACKING) * self.whole_s
        self.work = Path(tempfile.mkdtemp(prefix="gpu-kit-"))
        (self.work / "logs").mkdir()
        self.stores = sorted(path.parent for path in KIT.glob("stores/*/header"))
        self.recipe = self.work / "recipe.toml"
        self.recipe.write_text("")
        libraries = [str(torch_dir / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
        self.env = {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, libraries))}
        self.steps = {}
        self.notes = []
        self.results = {
            "kit": json.loads((KIT / "kit.json").read_text()),
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "device": self.device,
            "quick": self.quick,
            "torch": torch_version,
            "torch_dir": str(torch_dir),
            "parts": [],
            "notes": self.notes,
        }

    # Programs

    def left_s(self, part):
        """Seconds until the later parts need theirs."""
        later = sum(KEPT[number] for number in self.parts if number > part)
        return self.end - later * self.whole_s - time.monotonic()

    def call(self, name, command, limit_s, env=(), stop_s=None):
        """Runs a program and gives what it printed. After `stop_s` seconds it is asked to save and end."""
        if limit_s < 2:
            raise TimedOut(f"{name}: no time left")
        log = self.work / "logs" / f"{name}.log"
        with open(log, "wb") as output:
            process = self.start(command, output, env)
            try:
                if stop_s is not None:
                    try:
                        process.wait(max(stop_s, 1))
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGUSR1)
                        limit_s = max(limit_s - stop_s, 1)
                status = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                kill(process)
        text = log.read_text(errors="replace")
        if status == 0:
            return text
        end = " / ".join([line for line in text.splitlines() if line.strip()][-3:])[-600:]
        if status is None:
            raise TimedOut(f"{name}: no end within its time: {end}")
        raise Failed(f"{name}: status {status}: {end}")

    def start(self, command, output, env=()):
        command = [str(word) for word in command]
        try:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**self.env, **dict(env)}, start_new_session=True, cwd=self.work,
            )
        except OSError as error:
            raise Failed(f"cannot start `{command[0]}`: {error.strerror}")

    def training(self, run, sets):
        """The command of a run on the kit's stores."""
        command = [KIT / "bin/dora-train", "train", "--recipe", self.recipe, "--run-dir", self.work / run]
        for store in self.stores:
            command += ["--store", store]
        for text in [f"train.device={self.device}", *sets]:
            command += ["--set", text]
        return command

    def metrics(self, run):
        """The steps of a run; those that were skipped have no numbers."""
        path = self.work / run / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if not line.get("is_skipped")]

    def bench(self, arch, clips, precision, limit_s, words=()):
        """The figures of a step, measured once."""
        key = (arch, clips, precision)
        if key in self.steps and not words:
            return self.steps[key]
        name = f"bench-{arch}-{clips}-{precision}"
        figures = self.work / f"{name}.json"
        command = [KIT / "bin/dora-train", "bench", "step", "--arch", arch, "--clips", clips]
        command += ["--precision", precision, "--steps", 1 if self.quick else 5, "--json", figures, *words]
        for text in [f"train.device={self.device}", *(TINY if self.quick else [])]:
            command += ["--set", text]
        self.call(name, command, limit_s)
        self.steps[key] = json.loads(figures.read_text())
        return self.steps[key]

    # What is left behind

    def save(self):
        """Writes both results and the logs: after every part."""
        replace(self.out / "results.json", (json.dumps(self.results, indent=1) + "\n").encode())
        replace(self.out / "results.md", markdown(self.results).encode())
        logs = [(path.name, path.read_bytes()) for path in sorted((self.work / "logs").iterdir())]
        for path in sorted(self.work.glob("*/metrics.jsonl")):
            logs.append((f"{path.parent.name}-metrics.jsonl", path.read_bytes()))
        self.keep("logs.tar.gz", packed(logs, "w:gz"), 4 * MIB)

    def keep(self, name, data, most_bytes):
        """Writes one of the files that come back, unless it is too large for that."""
        if len(data) <= most_bytes:
            replace(self.out / name, data)
        else:
            self.notes.append(f"{name} was not kept: {len(data) / MIB:.1f} MiB")


def kill(process):
    """Ends a program with all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def replace(path, data):
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_bytes(data)
    fresh.replace(path)


def packed(files, mode):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as tar:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def short_of_memory(error):
    """The error of a program, in three words where that is what it is."""
    return "out of memory" if "memory" in error.lower() else error
