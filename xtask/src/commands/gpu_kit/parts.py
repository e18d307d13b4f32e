"""The six parts. The first line of each one's documentation is its name in the results; what it returns is the
result in a sentence."""

import json
import os
import platform
import re
import socket
import statistics
import sys
import time
from pathlib import Path

from encoder import encoder_in_float16, largest_difference
from kit import KIT, MIB, TINY, Failed, Skipped, TimedOut, kill, packed, replace, short_of_memory
from report import curves

PIECE_BYTES = 15 * MIB

HEADS = {"vit_tiny": 3, "vit_small": 6, "vit_base": 12}

TINY_PEER = ["--img", "32", "--crop", "16", "--frames", "2", "--n_local", "2", "--out_dim", "64"]
# Tensors of a few hundred numbers: threads would wait for one another.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
# So that a run of minutes learns: 1.5e-4 for 16 clips.
SHORT_RUN = ["train.lr=2.4e-3"]
NEVER = "1000000 steps"
# What is not measured for want of time is no failure, but a program that takes this long is.
NO_TIME = "no time left"
MOST_BENCH_S = 60
# For a run to save and end after it was asked to.
SAVING_S = 12


def machine(kit, part):
    """1. card, driver, versions, matrix rate"""
    part["python"] = platform.python_version()
    part["system"] = platform.platform()
    part["cores"] = len(os.sched_getaffinity(0))
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            part["cpu"] = line.split(":", 1)[1].strip()
            break
    fields = ["name", "driver_version", "memory.total", "power.limit", "clocks.max.sm", "mig.mode.current"]
    if kit.device == "cuda":
        try:
            query = f"--query-gpu={','.join(fields)}"
            values = kit.call("nvidia-smi", ["nvidia-smi", query, "--format=csv,noheader"], 20).splitlines()[0]
            part["card"] = dict(zip(fields, (value.strip() for value in values.split(","))))
        except Failed as failure:
            kit.notes.append(str(failure))
    # That the programs take Python's libtorch, and no other that may be here.
    libraries = kit.call("libraries", [KIT / "bin/dora-train"], 20, {"LD_TRACE_LOADED_OBJECTS": "1"})
    missing = re.findall(r"(\S+) => not found", libraries)
    if missing:
        raise Failed(f"libraries that PyTorch's wheels should bring are not here: {', '.join(missing)}")
    loaded = re.search(r"libtorch_cpu\.so => (\S+)", libraries)
    own = Path(kit.results["torch_dir"]) / "lib"
    if not loaded or Path(loaded[1]).resolve().parent != own.resolve():
        raise Failed(f"the programs load {loaded[1] if loaded else 'no libtorch'}, and not what is in {own}")
    part["matrix_tflops"] = {}
    for precision in ["bfloat16", "float32"] if kit.device == "cuda" else ["float32"]:
        # The first program reads gigabytes of libraries, which may not be in memory yet.
        figures = kit.bench("vit_tiny", 1, precision, MOST_BENCH_S)
        part["matrix_tflops"][precision] = round(figures["matrix_flops_per_s"] / 1e12, 3)
    rates = ", ".join(f"{rate} TFLOP/s in {name}" for name, rate in part["matrix_tflops"].items())
    card = part.get("card", {})
    where = f"{card['name']}, driver {card['driver_version']}" if card else part.get("cpu", "CPU")
    return f"{where}; {rates}"


def correctness(kit, part):
    """2. golden tests, one step against the CPU's, save, kill and resume"""
    failures = []
    command = [KIT / "bin/tests", "reference::", "--test-threads=1", "--nocapture"]
    env = {"DORA_GOLDEN": str(KIT / "golden"), "DORA_TEST_DEVICE": kit.device, **ONE_THREAD}
    try:
        text = kit.call("golden", command, 0.7 * kit.left_s(2), env)
    except Failed as failure:
        failures.append(str(failure))
        text = (kit.work / "logs/golden.log").read_text(errors="replace")
    counts = re.search(r"test result: \w+\. (\d+) passed; (\d+) failed", text)
    part["golden"] = {"passed": int(counts[1]), "failed": int(counts[2])} if counts else None
    part["golden_failures"] = sorted(set(re.findall(r"^    (reference::\S+)$", text, re.MULTILINE)))
    part["step_against_cpu"] = re.findall(r"step: (.*)", text)
    try:
        part["resume"] = resume(kit)
    except Failed as failure:
        failures.append(str(failure))
    if failures:
        raise Failed("; ".join(failures))
    same = "identical" if part["resume"]["identical"] else f"within {part['resume']['difference']:.1e}"
    return f"{part['golden']['passed']} golden tests passed; killed and resumed run: weights {same}"


def resume(kit):
    """A run that is killed after a checkpoint and resumed, beside one that nothing disturbs."""
    sets = [*TINY, "model.arch=vit_tiny", "train.clips=2", "train.precision=float32", *SHORT_RUN]
    sets += ["train.length=24 steps", "train.lr_warmup=4 steps", "train.freeze_last_layer=2 steps"]
    sets += ["output.checkpoint_every=6 steps", f"output.keep_every={NEVER}", f"output.tracks_every={NEVER}"]
    kit.call("resume-whole", kit.training("whole", sets), kit.left_s(2), ONE_THREAD)
    with open(kit.work / "logs/resume-killed.log", "wb") as output:
        process = kit.start(kit.training("killed", sets), output, ONE_THREAD)
        try:
            while not (kit.work / "killed/checkpoints/step-6").exists():
                if process.poll() is not None or kit.left_s(2) < 0:
                    raise Failed("resume-killed: no checkpoint to kill the run after")
                time.sleep(0.002)
        finally:
            kill(process)
    if (kit.work / "killed/checkpoints/step-24").exists():
        raise Failed("resume-killed: the run ended before it was killed")
    kit.call("resume-resumed", kit.training("killed", sets), kit.left_s(2), ONE_THREAD)
    ends = [kit.work / run / "checkpoints/step-24/student.safetensors" for run in ("whole", "killed")]
    losses = [[line["loss"] for line in kit.metrics(run)] for run in ("whole", "killed")]
    if [len(curve) for curve in losses] != [24, 24]:
        raise Failed(f"resume: {len(losses[0])} and {len(losses[1])} steps were recorded, not 24")
    identical = ends[0].read_bytes() == ends[1].read_bytes()
    difference = 0.0 if identical else largest_difference(*ends)
    loss_difference = max(abs(a - b) for a, b in zip(*losses))
    found = {"identical": identical, "difference": difference, "loss_difference": loss_difference}
    # On the CPU every bit comes again. A GPU may add in another order: the curves must agree.
    if not identical and (kit.device == "cpu" or loss_difference > 1e-2):
        raise Failed(f"resume: the resumed run is not the undisturbed one: {found}")
    return found


def nccl(kit, part):
    """3. NCCL with one process"""
    command = [KIT / "bin/tests", "distributed::nccl", "--test-threads=1", "--nocapture"]
    text = kit.call("nccl", command, kit.left_s(3))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    rank |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sets = [*TINY, "model.arch=vit_tiny", "train.clips=2", "train.length=4 steps"]
    sets += ["train.lr_warmup=1 steps", "train.freeze_last_layer=1 steps"]
    kit.call("one-rank", kit.training("one-rank", sets), kit.left_s(3), rank)
    part["training_loss"] = [line["loss"] for line in kit.metrics("one-rank")]
    skipped = re.search(r"skipped: (.*)", text)
    if skipped:
        raise Skipped(f"{skipped[1]}; one rank trained over Gloo")
    return "all-reduce, broadcast, gather and the reducer passed; one rank trained"


def speed(kit, part):
    """4. steps beside the peers, and a profile"""
    if kit.quick:
        groups = [[("vit_tiny", 1, "float32")]]
    elif kit.device == "cpu":
        groups = [[("vit_tiny", 1, "float32"), ("vit_small", 1, "float32")]]
    else:
        sizes = [(arch, clips) for arch in ("vit_small", "vit_tiny", "vit_base") for clips in (16, 1, 6)]
        groups = [[(*size, precision) for size in sizes] for precision in ("bfloat16", "float32")]
    part["steps"] = [
        {"arch": arch, "clips": clips, "precision": precision}
        for group in groups for arch, clips, precision in group
    ]
    rows = {(row["arch"], row["clips"], row["precision"]): row for row in part["steps"]}
    failures = []
    has_peers = (KIT / "peer").exists()
    if not has_peers:
        kit.notes.append("the kit was packed without the peers in PyTorch")
    try:
        part["profile"] = profile(kit, *groups[0][0])
    except Failed as failure:
        failures.append(str(failure))
    for index, group in enumerate(groups):
        # Two thirds of the time for the first of two groups; of a group's, two fifths for the peers.
        spare_s = kit.left_s(4) / 3 if index + 1 < len(groups) else 0
        peers_s = 0.4 * (kit.left_s(4) - spare_s) if has_peers else 0
        for key in group:
            row, left_s = rows[key], kit.left_s(4) - spare_s - peers_s
            try:
                row["dora"] = kit.bench(*key, min(MOST_BENCH_S, left_s))
            except TimedOut as failure:
                row["error"] = NO_TIME
                failures += [str(failure)] if left_s > MOST_BENCH_S else []
            except Failed as failure:
                row["error"] = short_of_memory(str(failure))
                failures += [row["error"]] if row["error"] == str(failure) else []
        try:
            if has_peers:
                peers(kit, f"peers-{index}", group, rows, kit.left_s(4) - spare_s)
        except Failed as failure:
            failures.append(str(failure))
    if failures:
        raise Failed("; ".join(failures))
    first = rows[groups[0][0]]
    if "dora" not in first:
        raise Failed(f"no step was measured: {first['error']}")
    ours, batched = first["dora"], first.get("batched", {}).get("step_seconds")
    beside = f", {batched / ours['step_seconds']:.2f} times as fast as batched PyTorch" if batched else ""
    return (
        f"{ours['arch']}, {ours['clips']} clips, {ours['precision']}: {1e3 * ours['step_seconds']:.1f} ms, "
        f"{ours['share_of_matrix_rate']:.3f} of the matrix rate{beside}"
    )


def profile(kit, arch, clips, precision):
    """Two steps by kernel; the trace goes with it."""
    folder = kit.work / "profile"
    step_s = kit.bench(arch, clips, precision, min(MOST_BENCH_S, kit.left_s(4)), ["--profile", folder])["step_seconds"]
    sums = json.loads((folder / "kernels.json").read_text())
    files = [(name, (folder / name).read_bytes()) for name in ("kernels.json", "trace.json")]
    kit.keep("profile.tar.gz", packed(files, "w:gz"), 8 * MIB)
    steps, kernels, host = sums["steps"], sums["kernels"], sums["host_calls"]
    found = {"of": [arch, clips, precision], "steps": steps, "kernels": kernels[:25], "host_calls": host[:25]}
    if host:
        a_step = lambda rows, name: sum(row["calls"] for row in rows if re.search(name, row["name"])) / steps
        found["kernels_a_step"] = a_step(kernels, "")
        found["copies_a_step"] = a_step(kernels, "^Memcpy")
        found["launches_a_step"] = a_step(host, "Launch")
        # Two of them are the bench's own, around the step.
        found["waits_a_step"] = a_step(host, "Synchronize")
        found["busy_share_of_step"] = sum(row["total_us"] for row in kernels) / steps / 1e6 / step_s
    return found


def peers(kit, name, keys, rows, limit_s):
    """The same steps in PyTorch, all in one process."""
    runs = []
    for arch, clips, precision in keys:
        for like in ("batched", "released"):
            heads = HEADS[arch]
            words = ["--like", like, "--dim", 64 * heads, "--heads", heads, "--clips", clips]
            words += ["--precision", "bf16" if precision == "bfloat16" else precision]
            words += ["--device", kit.device, "--threads", len(os.sched_getaffinity(0))]
            words += ["--steps", 1, *TINY_PEER] if kit.quick else ["--steps", 3]
            runs.append({"key": [arch, clips, precision], "like": like, "words": [str(word) for word in words]})
    plan = kit.work / f"{name}.json"
    plan.write_text(json.dumps(runs))
    failure = None
    try:
        kit.call(name, [sys.executable, KIT / "peers.py", plan], limit_s)
    except TimedOut:
        pass
    except Failed as reason:
        failure = reason
    seen = 0
    for line in (kit.work / "logs" / f"{name}.log").read_text(errors="replace").splitlines():
        if line.startswith("{"):
            found = json.loads(line)
            rows[tuple(found.pop("key"))][found.pop("like")] = found
            seen += 1
    for run in runs[seen:]:
        rows[tuple(run["key"])][run["like"]] = {"error": NO_TIME}
    if failure:
        raise failure


def real_training(kit, part):
    """5. a minute of real training"""
    key = ("vit_tiny", 1, "float32") if kit.quick or kit.device == "cpu" else ("vit_small", 16, "bfloat16")
    arch, clips, precision = key
    sets = [*(TINY if kit.quick else []), f"model.arch={arch}", f"train.clips={clips}"]
    sets += [f"train.precision={precision}", f"train.length={'12 steps' if kit.quick else NEVER}", *SHORT_RUN]
    sets += ["train.lr_warmup=10 steps", "train.freeze_last_layer=10 steps"]
    sets += [f"output.{every}={NEVER}" for every in ("checkpoint_every", "keep_every", "tracks_every")]
    left_s = kit.left_s(5)
    stop_s = None if kit.quick else min(60, left_s - SAVING_S)
    kit.call("training", kit.training("training", sets), left_s, stop_s=stop_s)
    lines = kit.metrics("training")
    # The first steps choose kernels and take memory.
    lines = lines[len(lines) // 5:]
    if not lines:
        raise Failed("training: no step was recorded")
    median = lambda name: statistics.median(line[name] for line in lines)
    part["steps"] = len(lines)
    part["step_s"] = median("step_s")
    part["images_per_s"] = median("images_per_s")
    part["waiting_for_data"] = sum(line["data_s"] for line in lines) / sum(line["step_s"] for line in lines)
    part["waiting_for_device"] = sum(line["device_wait_s"] for line in lines) / sum(line["step_s"] for line in lines)
    if key in kit.steps:
        part["bench_images_per_s"] = kit.steps[key]["images_per_s"]
        part["share_of_bench"] = part["images_per_s"] / part["bench_images_per_s"]
    beside = f", {part['share_of_bench']:.3f} of the bench's" if "share_of_bench" in part else ""
    return f"{part['images_per_s']:.0f} images/s{beside}; {part['waiting_for_data']:.1%} of the time waits for data, {part['waiting_for_device']:.1%} the host for the device"


def runs(kit, part):
    """6. two minutes each of dora and dino"""
    methods = {"dora": [], "dino": ["method.name=dino", "views.views=2"]}
    part["runs"], pictures, failures = {}, [], []
    for index, (method, own) in enumerate(methods.items()):
        left_s = kit.left_s(6) / (len(methods) - index)
        try:
            part["runs"][method], files = run_of_minutes(kit, method, own, left_s)
            pictures += files
        except Failed as failure:
            failures.append(str(failure))
    kit.keep("pictures.tar", packed(pictures, "w"), 10 * MIB)
    if failures:
        raise Failed("; ".join(failures))
    return "; ".join(
        f"{method}: {run['steps']} steps, loss {run['first']['loss']:.3f} to {run['last']['loss']:.3f}"
        for method, run in part["runs"].items()
    )


def run_of_minutes(kit, method, own, left_s):
    """A run with a schedule of about `left_s` seconds; its figures and pictures."""
    small = kit.quick or kit.device == "cpu"
    sets = [*(TINY if kit.quick else []), f"model.arch={'vit_tiny' if small else 'vit_small'}", *own]
    sets += [f"train.clips={2 if small else 16}", *SHORT_RUN]
    if kit.quick:
        steps = 8
    else:
        measured = [part.get("step_s") for part in kit.results["parts"] if part["part"] == 5]
        step_s = next(filter(None, measured), 0.25)
        # Starting, the first steps and saving take seconds, and the two methods are not equally fast.
        steps = max(20, int(0.8 * (left_s - SAVING_S) / step_s))
    sets += [f"train.length={steps} steps", f"train.lr_warmup={max(1, steps // 10)} steps"]
    sets += [f"train.freeze_last_layer={max(1, steps // 20)} steps", f"output.tracks_every={max(1, steps // 3)} steps"]
    sets += [f"output.{every}={NEVER}" for every in ("checkpoint_every", "keep_every")]
    kit.call(method, kit.training(method, sets), left_s, stop_s=None if kit.quick else left_s - SAVING_S)
    lines = kit.metrics(method)
    if not lines:
        raise Failed(f"{method}: no step was recorded")
    names = ("loss", "teacher_entropy", "teacher_mean_entropy", "kl")
    figures = lambda line: {name: line[name] for name in ("step", *names)}
    files = [(f"{method}-curves.svg", curves(method, lines, names).encode())]
    # The newest three: one of 224 px takes 2 to 3 MB.
    tracks = sorted((kit.work / method / "tracks").glob("*.png"), key=lambda path: path.stat().st_mtime)
    files += [(f"{method}-{path.name}", path.read_bytes()) for path in tracks[-3:]]
    if method == "dora":
        checkpoint = kit.work / method / "checkpoints" / f"step-{lines[-1]['step']}"
        teacher = encoder_in_float16(checkpoint / "teacher.safetensors")
        for old in kit.out.glob("teacher.safetensors.*"):
            old.unlink()
        pieces = [teacher[at:at + PIECE_BYTES] for at in range(0, len(teacher), PIECE_BYTES)]
        for index, piece in enumerate(pieces):
            replace(kit.out / f"teacher.safetensors.{index}", piece)
    return {"steps": lines[-1]["step"], "of": steps, "first": figures(lines[0]), "last": figures(lines[-1])}, files


PARTS = {1: machine, 2: correctness, 3: nccl, 4: speed, 5: real_training, 6: runs}
