#!/usr/bin/env python3
"""Compares content scores and cuts of `dora-ingest analyze` with those of PySceneDetect.

    python3 crates/dora-ingest/tests/tools/compare_with_pyscenedetect.py VIDEO...

Builds `dora-ingest` (or takes the one that DORA_INGEST names), installs PySceneDetect from PyPI into
a temporary virtual environment, with the release of OpenCV that is installed here, lets both look at
every frame, and prints the largest difference. The exit status is 1 when the cuts differ, or a score
by more than `TOLERANCE`.
"""

import csv
import os
import pathlib
import subprocess
import sys
import tempfile

SCENEDETECT = "scenedetect==0.7.2"
# Of the program, whose table has four decimals.
TOLERANCE = 0.0001
WORKSPACE = pathlib.Path(__file__).resolve().parents[4]


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    if os.environ.get("COMPARE_INSIDE") == "1":
        sys.exit(compare(sys.argv[1:]))
    for video in sys.argv[1:]:
        if not os.path.isfile(video):
            sys.exit(f"`{video}` does not exist")
    program = os.environ.get("DORA_INGEST")
    if program is None:
        build = ["cargo", "build", "--quiet", "-p", "dora-ingest"]
        subprocess.run(build, cwd=WORKSPACE, check=True)
        target = os.environ.get("CARGO_TARGET_DIR", WORKSPACE / "target")
        program = str(pathlib.Path(target) / "debug" / "dora-ingest")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = os.path.join(folder, "bin", "python")
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run(install + requirements(), check=True)
        # It asks for the newest OpenCV.
        subprocess.run(install + ["--no-deps", SCENEDETECT], check=True)
        inside = os.environ | {"COMPARE_INSIDE": "1", "DORA_INGEST": program}
        sys.exit(subprocess.run([python, __file__, *sys.argv[1:]], env=inside).returncode)


def requirements():
    """OpenCV as it is here, and what else PySceneDetect imports.

    Releases of OpenCV convert YUV to BGR in different ways, which alone changes scores by up to 1.3.
    """
    query = ["pkg-config", "--modversion", "opencv4"]
    version = subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    # The wheels of older releases were built before NumPy 2.
    is_old = tuple(map(int, version.split(".")[:2])) < (4, 10)
    numpy = "numpy<2" if is_old else "numpy"
    return [f"opencv-python-headless=={version}.*", numpy, "click", "platformdirs", "tqdm"]


def compare(videos):
    agree = [compare_one(video) for video in videos]
    return 0 if all(agree) else 1


def compare_one(video):
    ours, our_cuts = of_analyze(video)
    theirs, their_cuts = of_pyscenedetect(video)
    same_length = len(ours) == len(theirs)
    differences = [abs(our - their) for our, their in zip(ours, theirs)]
    largest = max(differences, default=0.0)
    print(
        f"{video}: {len(ours)} scores and {len(theirs)} of PySceneDetect, the largest {max(ours):.2f}; "
        f"they differ by {largest:.4f} at most; "
        f"cuts {our_cuts} and {their_cuts}"
    )
    return same_length and largest <= TOLERANCE and our_cuts == their_cuts


def of_analyze(video):
    """Scores from the second frame on, and the frames that begin a scene."""
    with tempfile.TemporaryDirectory() as out:
        command = [os.environ["DORA_INGEST"], "analyze", "--out", out, "--", video]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(os.path.join(out, "frames.csv"), newline="") as table:
            rows = list(csv.DictReader(table))
    scores = [float(row["score"]) for row in rows[1:]]
    return scores, [int(row["frame"]) for row in rows if row["cut"] == "1"]


def of_pyscenedetect(video):
    """The same, by the content detector with its defaults and a shortest scene of 0.6 s."""
    from scenedetect import ContentDetector, SceneManager, open_video

    class Recorder(ContentDetector):
        """Keeps every frame's score and time: a stats file has one row for a time code, which two
        frames of a variable rate may share."""

        def __init__(self):
            super().__init__(threshold=27.0, min_scene_len=0.6)
            self.scores, self.times = [], []

        def process_frame(self, timecode, frame_img):
            cuts = super().process_frame(timecode, frame_img)
            self.scores.append(self._frame_score)
            self.times.append(timecode.seconds)
            return cuts

    manager, recorder = SceneManager(), Recorder()
    manager.add_detector(recorder)
    manager.detect_scenes(open_video(video, backend="opencv"))
    cuts = [start.seconds for start, _ in manager.get_scene_list(start_in_scene=True)][1:]
    return recorder.scores[1:], [recorder.times.index(cut) for cut in cuts]


main()
