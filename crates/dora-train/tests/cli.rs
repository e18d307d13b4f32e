//! The worker as users and launchers start it: whole runs, interrupted ones, and wrong input.
#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use dora_store::{IngestOptions, Report, Source, StoreHeader, StoreWriter};
use image::{Rgb, RgbImage, codecs::jpeg::JpegEncoder};
use tempfile::TempDir;

/// A run of seconds: the smallest encoder on tiny views.
const RECIPE: &str = r#"
[model]
arch = "vit_tiny"
image_px = 32
out_dim = 32
hidden_dim = 16
bottleneck_dim = 8

[clip]
frames_per_clip = 2
clip_stride_s = 0.2

[crop]
px = 48

[views]
global_px = 32
local_px = 16
local_crops = 2

[train]
length = "10 steps"
clips = 2
lr_warmup = "3 steps"
freeze_last_layer = "2 steps"
precision = "float32"
device = "cpu"

[output]
checkpoint_every = "5 steps"
keep_every = "1000 steps"
tracks_every = "5 steps"
"#;

struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: TempDir::new().unwrap() };
        fs::write(bench.path("recipe.toml"), RECIPE).unwrap();
        bench.add_store("walk.store", 40);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A store of a moving square, 25 frames a second.
    fn add_store(&self, name: &str, frames: u32) {
        let header = StoreHeader {
            source: Source { name: name.into(), files: 1, size_bytes: 1, digest: frames.into() },
            options: IngestOptions {
                short_side_px: 64,
                jpeg_quality: 90,
                start_s: None,
                end_s: None,
                images_fps: None,
            },
            width_px: 96,
            height_px: 64,
        };
        let (mut writer, _) = StoreWriter::create_or_resume(&self.path(name), &header).unwrap();
        for frame in 0..frames {
            let image = RgbImage::from_fn(96, 64, |x, y| {
                let on_square = (frame..frame + 20).contains(&x) && (20..40).contains(&y);
                if on_square { Rgb([220, 60, 30]) } else { Rgb([x as u8 * 2, y as u8 * 3, 90]) }
            });
            let mut jpeg = Vec::new();
            JpegEncoder::new_with_quality(&mut jpeg, 90).encode_image(&image).unwrap();
            writer.push(i64::from(frame) * 40_000, frame.into(), &jpeg).unwrap();
        }
        writer.finish(Report::default()).unwrap();
    }

    fn command(&self, run: &str, set: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dora-train"));
        command.arg("train").arg("--recipe").arg(self.path("recipe.toml"));
        command.arg("--store").arg(self.path("walk.store"));
        command.arg("--run-dir").arg(self.path(run));
        // Tests run side by side; threads of several runs on one core wait for one another.
        command.env("OMP_NUM_THREADS", "1");
        for text in set {
            command.arg("--set").arg(text);
        }
        command
    }

    fn train(&self, run: &str, set: &[&str]) -> Output {
        self.command(run, set).output().unwrap()
    }

    /// Starts a run and waits until `file` of it is there.
    fn start_until(&self, run: &str, set: &[&str], file: &str) -> Child {
        let mut child = self.command(run, set).stderr(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        while !self.path(run).join(file).exists() {
            assert!(Instant::now() < deadline, "{file} of {run} never came");
            assert!(child.try_wait().unwrap().is_none(), "{run} ended before {file} came");
            sleep(Duration::from_millis(5));
        }
        child
    }

    fn checkpoints(&self, run: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(run).join("checkpoints")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// Fails unless two runs ended with the same bytes and went through the same losses.
    fn assert_same_end(&self, one: &str, other: &str) {
        for file in ["student", "teacher", "training"] {
            let read = |run: &str| {
                let path = format!("{run}/checkpoints/step-10/{file}.safetensors");
                fs::read(self.path(&path)).unwrap()
            };
            assert!(read(one) == read(other), "{file} of {one} and {other} differ");
        }
        let losses = |run: &str| -> Vec<(u64, String)> {
            let text = fs::read_to_string(self.path(run).join("metrics.jsonl")).unwrap();
            let lines = text.lines().map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).unwrap();
                (line["step"].as_u64().unwrap(), line["loss"].to_string())
            });
            lines.collect()
        };
        assert_eq!(losses(one), losses(other));
        assert_eq!(losses(one).len(), 10);
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn assert_refused(output: &Output, parts: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.starts_with("error: ") || text.contains("\nerror: "), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[track_caller]
fn assert_trained(output: &Output) {
    assert!(output.status.success(), "{}", stderr(output));
}

#[test]
fn a_run_leaves_what_it_says() {
    let bench = Bench::new();
    let output = bench.train("run", &[]);
    assert_trained(&output);
    for file in ["recipe.toml", "metrics.jsonl", "tracks/step-5.png", "tracks/step-10.png"] {
        assert!(bench.path("run").join(file).exists(), "{file}");
    }
    let text = stderr(&output);
    for part in ["checkpoints/step-10", "metrics.jsonl", "tracks/", "next: cargo xtask"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let strip = image::open(bench.path("run/tracks/step-10.png")).unwrap();
    assert!(strip.width() > 64 && strip.height() > 5 * 32, "{}x{}", strip.width(), strip.height());

    let again = bench.train("run", &[]);
    assert_trained(&again);
    assert!(stderr(&again).contains("finished"), "{}", stderr(&again));
}

#[test]
fn the_baseline_and_both_losses_train() {
    let bench = Bench::new();
    let cases: [(&str, &[&str]); 3] = [
        ("dino", &["method.name=dino", "views.views=2"]),
        ("released", &["method.loss=released", "tracker.threshold=batch"]),
        ("paper", &["views.views=2", "tracker.layer=second_last", "train.precision=bfloat16"]),
    ];
    for (run, set) in cases {
        let short =
            ["train.length=2 steps", "train.lr_warmup=1 steps", "train.freeze_last_layer=1 steps"];
        let set = [set, &short].concat();
        assert_trained(&bench.train(run, &set));
        let text = fs::read_to_string(bench.path(run).join("metrics.jsonl")).unwrap();
        let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        let objects = if run == "dino" { 0 } else { 3 };
        assert_eq!(line["mask_area"].as_array().unwrap().len(), objects);
        let drew = bench.path(run).join("tracks/step-2.png").exists();
        assert_eq!(drew, run != "dino", "{run}");
    }
}

#[test]
fn a_killed_run_goes_on_as_if_nothing_had_happened() {
    let bench = Bench::new();
    assert_trained(&bench.train("whole", &[]));
    let mut killed = bench.start_until("killed", &[], "checkpoints/step-5");
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!bench.path("killed/checkpoints/step-10").exists(), "the run ended before the kill");
    let resumed = bench.train("killed", &[]);
    assert_trained(&resumed);
    assert!(stderr(&resumed).contains("going on from"), "{}", stderr(&resumed));
    bench.assert_same_end("whole", "killed");
}

#[test]
fn a_signal_saves_and_the_next_run_goes_on() {
    let bench = Bench::new();
    assert_trained(&bench.train("whole", &[]));
    let mut asked = bench.start_until("asked", &[], "tracks/step-1.png");
    let kill = Command::new("kill").args(["-TERM", &asked.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(asked.wait().unwrap().code(), Some(143));
    assert_trained(&bench.train("asked", &[]));
    bench.assert_same_end("whole", "asked");
}

#[test]
fn a_cut_checkpoint_is_passed_over_for_the_one_before() {
    let bench = Bench::new();
    assert_trained(&bench.train("whole", &[]));
    let cut = |run: &str, step: u64| {
        let path = format!("{run}/checkpoints/step-{step}/teacher.safetensors");
        let file = OpenOptions::new().write(true).open(bench.path(&path)).unwrap();
        file.set_len(file.metadata().unwrap().len() - 100).unwrap();
    };
    assert_trained(&bench.train("cut", &[]));
    cut("cut", 10);
    let resumed = bench.train("cut", &[]);
    assert_trained(&resumed);
    let text = stderr(&resumed);
    assert!(
        text.contains("step-10") && text.contains("the checkpoint before it is used"),
        "{text}"
    );
    bench.assert_same_end("whole", "cut");
    let checkpoints = bench.checkpoints("cut");
    assert_eq!(checkpoints, ["damaged-step-10", "step-10", "step-5"]);

    cut("cut", 5);
    cut("cut", 10);
    assert_refused(&bench.train("cut", &[]), &["damaged", "--fresh"]);
}

#[test]
fn the_last_two_checkpoints_and_every_nth_are_kept() {
    let bench = Bench::new();
    let set = ["output.checkpoint_every=2 steps", "output.keep_every=3 steps"];
    assert_trained(&bench.train("run", &set));
    assert_eq!(bench.checkpoints("run"), ["step-10", "step-3", "step-6", "step-9"]);
}

#[test]
fn a_damaged_frame_ends_the_run_with_its_steps_saved() {
    let bench = Bench::new();
    let shard = fs::read_dir(bench.path("walk.store"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "jpgs"))
        .unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&shard, bytes).unwrap();
    let output = bench.train("run", &["train.length=200 steps"]);
    assert_refused(&output, &["the run ended early, saved in", "walk.store", "frame"]);
    assert!(!bench.checkpoints("run").is_empty());
}

#[test]
fn another_recipe_or_video_does_not_go_on() {
    let bench = Bench::new();
    assert_trained(&bench.train("run", &[]));
    let before = fs::read(bench.path("run/metrics.jsonl")).unwrap();
    let changed = ["train.lr=0.1", "method.objects=2", "output.tracks_every=3 steps"];
    let output = bench.train("run", &changed);
    assert_refused(&output, &["`train.lr` is 0.1", "`method.objects` is 2", "--fresh"]);
    assert!(!stderr(&output).contains("tracks_every"), "{}", stderr(&output));
    bench.add_store("other.store", 50);
    let mut other = bench.command("run", &[]);
    let output = other.arg("--store").arg(bench.path("other.store")).output().unwrap();
    assert_refused(&output, &["there are 2 videos and were 1"]);
    let mut other = Command::new(env!("CARGO_BIN_EXE_dora-train"));
    other.arg("train").arg("--recipe").arg(bench.path("recipe.toml"));
    other.arg("--run-dir").arg(bench.path("run")).arg("--store").arg(bench.path("other.store"));
    let output = other.output().unwrap();
    assert_refused(&output, &["a video is other.store and was walk.store"]);
    assert_eq!(before, fs::read(bench.path("run/metrics.jsonl")).unwrap());

    let output = bench.command("run", &["train.lr=0.1"]).arg("--fresh").output().unwrap();
    assert_trained(&output);
    assert_eq!(before, fs::read(bench.path("run.old-1/metrics.jsonl")).unwrap());
}

#[test]
fn all_problems_of_a_recipe_are_told_at_once() {
    let bench = Bench::new();
    let check = |set: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dora-train"));
        command.args(["check", "--recipe"]).arg(bench.path("recipe.toml"));
        for text in set {
            command.arg("--set").arg(text);
        }
        command.args(["--video", "a.mp4"]).output().unwrap()
    };
    let structure =
        ["train.clip=4", "modle.arch=vit_tiny", "train.length=ten", "model.arch=vit_huge"];
    assert_refused(
        &check(&structure),
        &[
            "`train.clip`; did you mean `clips`?",
            "[modle]; did you mean `model`?",
            "`train.length` is \"ten\"",
            "`vit_huge`",
            "recipe.toml",
        ],
    );
    let numbers =
        ["train.clips=0", "train.lr=-1", "method.objects=4", "views.global_px=40", "views.views=3"];
    assert_refused(
        &check(&numbers),
        &[
            "`train.clips` is 0",
            "`train.lr` is -1",
            "`method.objects` is 4",
            "`views.global_px` is 40",
            "`views` is 3",
        ],
    );
    assert_refused(&check(&["method.name=dino"]), &["`method.name = \"dino\"` needs 2"]);
    let long = bench.train("run", &["train.lr_warmup=10 steps"]);
    assert_refused(&long, &["`train.lr_warmup` lasts 10 steps, but `train.length` is 10"]);
    let good = check(&[]);
    assert!(good.status.success(), "{}", stderr(&good));
    let needs: serde_json::Value = serde_json::from_slice(&good.stdout).unwrap();
    assert_eq!(needs["videos"][0], "a.mp4");
}

#[test]
fn the_projects_own_recipes_are_good() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let mut checked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dora-train"));
        command.args(["check", "--video", "a.mp4", "--recipe"]).arg(entry.unwrap().path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        checked += 1;
    }
    assert!(checked >= 4, "{checked} recipes");
}

#[test]
fn a_dry_run_shows_the_plan_and_writes_nothing() {
    let bench = Bench::new();
    let output = bench.command("run", &["train.lr=0.128"]).arg("--dry-run").output().unwrap();
    assert_trained(&output);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["[tracker]", "1.000e-3 at its height", "estimated", "one step"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!bench.path("run").exists());
}

#[test]
fn a_non_finite_loss_stops_the_run_and_leaves_what_it_worked_on() {
    let bench = Bench::new();
    let set = ["train.lr=1e30", "train.lr_warmup=0 steps", "train.freeze_last_layer=0 steps"];
    let output = bench.train("run", &set);
    assert_refused(&output, &["not finite", "capture-step-2.safetensors"]);
    assert!(bench.path("run/capture-step-2.safetensors").exists());
}

#[test]
fn too_little_memory_gets_one_sentence() {
    let bench = Bench::new();
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -v 4000000; exec \"$@\"", "bash"]);
    command.arg(env!("CARGO_BIN_EXE_dora-train")).args(["train", "--dry-run", "--recipe"]);
    command.arg(bench.path("recipe.toml")).args(["--set", "train.clips=4000"]);
    let output = command.env("OMP_NUM_THREADS", "1").output().unwrap();
    assert_refused(&output, &["not enough memory", "lower `train.clips`"]);
}

#[test]
fn wrong_folders_get_one_sentence() {
    let bench = Bench::new();
    bench.add_store("short.store", 3);
    let train_on = |store: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dora-train"));
        command.arg("train").arg("--recipe").arg(bench.path("recipe.toml"));
        command.arg("--run-dir").arg(bench.path("run")).arg("--store").arg(bench.path(store));
        command.output().unwrap()
    };
    assert_refused(&train_on("short.store"), &["short.store", "0.2"]);
    assert_refused(&train_on("missing.store"), &["missing.store"]);
    fs::write(bench.path("file"), "").unwrap();
    assert_refused(&bench.train("file/run", &[]), &["cannot make the run folder", "file/run"]);
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let bench = Bench::new();
    let mut first = bench.start_until("run", &["train.length=2000 steps"], "tracks/step-1.png");
    let second = bench.train("run", &["train.length=2000 steps"]);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_refused(&second, &["another training writes to"]);
}

#[test]
fn a_full_disk_loses_no_checkpoint() {
    let bench = Bench::new();
    let small = bench.path("small");
    fs::create_dir(&small).unwrap();
    // A checkpoint of this encoder takes 87 MB: one fits, the next does not.
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=140m", "tmpfs"])
        .arg(&small)
        .output();
    if !mount.is_ok_and(|output| output.status.success()) {
        println!("skipped: mounting a small file system needs rights that this process lacks");
        return;
    }
    let output = bench.train("small/run", &[]);
    let kept = small.join("run/checkpoints/step-5/state.bin").exists();
    let leftovers = fs::read_dir(small.join("run/checkpoints")).unwrap().count();
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    assert_refused(&output, &["cannot save a checkpoint", "free some space", "No space left"]);
    assert!(kept, "the checkpoint before is gone");
    assert_eq!(leftovers, 1, "a torn checkpoint was left behind");
}
