//! One process: whole runs, interrupted ones, and wrong input.

use std::{
    fs::{self, OpenOptions},
    path::Path,
    process::Command,
};

use dora_store::Source;

use crate::workbench::{SmallDisk, Workbench, assert_refused, assert_trained, stderr};

#[test]
fn a_run_leaves_what_it_says() {
    let bench = Workbench::new();
    let output = bench.train("run", &[]);
    assert_trained(&output);
    for file in ["recipe.toml", "metrics.jsonl", "tracks/step-5.png", "tracks/step-10.png"] {
        assert!(bench.path("run").join(file).exists(), "{file}");
    }
    let text = stderr(&output);
    for part in [
        "checkpoints/step-10",
        "metrics.jsonl",
        "tracks/",
        "tensorboard/",
        "next: cargo xtask",
        " --store ",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // The picture of the last step is in it, and after that no more than figures.
    let events = fs::read(&bench.event_files("run")[0]).unwrap();
    let picture = fs::read(bench.path("run/tracks/step-10.png")).unwrap();
    let at = events.windows(picture.len()).position(|window| window == picture).unwrap();
    assert!(events.len() - at - picture.len() < 100, "{} bytes follow", events.len() - at);
    let strip = image::open(bench.path("run/tracks/step-10.png")).unwrap();
    assert!(strip.width() > 64 && strip.height() > 5 * 32, "{}x{}", strip.width(), strip.height());

    let again = bench.train("run", &[]);
    assert_trained(&again);
    assert!(stderr(&again).contains("finished"), "{}", stderr(&again));
}

#[test]
fn the_baseline_and_both_losses_train() {
    let bench = Workbench::new();
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
    let bench = Workbench::new();
    assert_trained(&bench.train("whole", &[]));
    let mut killed = bench.start_until("killed", &[], "checkpoints/step-5");
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!bench.path("killed/checkpoints/step-10").exists(), "the run ended before the kill");
    let resumed = bench.train("killed", &[]);
    assert_trained(&resumed);
    assert!(stderr(&resumed).contains("going on from"), "{}", stderr(&resumed));
    bench.assert_same_end("whole", "killed");
    let counts = ["whole", "killed"].map(|run| bench.event_files(run).len());
    assert_eq!(counts, [1, 2]);
}

#[test]
fn a_signal_saves_and_the_next_run_goes_on() {
    let bench = Workbench::new();
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
    let bench = Workbench::new();
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
    let bench = Workbench::new();
    let set = ["output.checkpoint_every=2 steps", "output.keep_every=3 steps"];
    assert_trained(&bench.train("run", &set));
    assert_eq!(bench.checkpoints("run"), ["step-10", "step-3", "step-6", "step-9"]);
}

#[test]
fn a_damaged_frame_ends_the_run_with_its_steps_saved() {
    let bench = Workbench::new();
    bench.damage("walk.store");
    let output = bench.train("run", &["train.length=200 steps"]);
    assert_refused(&output, &["the run ended early, saved in", "walk.store", "frame"]);
    assert!(!bench.checkpoints("run").is_empty());
}

#[test]
fn another_recipe_or_video_does_not_go_on() {
    let bench = Workbench::new();
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

    let mut put_aside = Command::new(env!("CARGO_BIN_EXE_dora-train"));
    let output = put_aside.arg("put-aside").arg("--run-dir").arg(bench.path("run")).output();
    assert_trained(&output.unwrap());
    assert_trained(&bench.train("run", &["train.lr=0.1"]));
    assert_eq!(before, fs::read(bench.path("run.old-1/metrics.jsonl")).unwrap());
}

#[test]
fn a_run_is_extended_and_changed_where_that_is_allowed() {
    let bench = Workbench::new();
    assert_trained(&bench.train("run", &[]));
    let train = |set: &[&str]| bench.command("run", set).arg("--allow-changes").output().unwrap();
    let longer = ["train.length=14 steps", "train.lr=0.1"];
    assert_refused(
        &bench.train("run", &longer),
        &["`train.length` is \"14 steps\" and was \"10 steps\"", "with --allow-changes"],
    );
    let output = train(&[&longer[..], &["model.out_dim=64"]].concat());
    assert_refused(&output, &["`model.out_dim` is 64 and was 32", "--fresh"]);
    let text = stderr(&output);
    assert!(!text.contains("train.lr") && !text.contains("with --allow-changes"), "{text}");
    // Neither left a trace.
    assert!(!bench.path("run/changes.jsonl").exists());
    let recipe = || fs::read_to_string(bench.path("run/recipe.toml")).unwrap();
    assert!(recipe().contains("length = \"10 steps\""));

    let output = train(&longer);
    assert_trained(&output);
    let text = stderr(&output);
    for part in ["going on from", "changed from here on: `train.lr` is 0.1", "trained 14 steps"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(recipe().contains("length = \"14 steps\""));
    let lines = |file: &str| -> Vec<serde_json::Value> {
        let text = fs::read_to_string(bench.path(file)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let changes = lines("run/changes.jsonl");
    assert_eq!((changes.len(), &changes[0]["step"]), (1, &10.into()));
    assert_eq!(changes[0]["changes"].as_array().unwrap().len(), 2, "{changes:?}");
    let metrics = lines("run/metrics.jsonl");
    assert_eq!(metrics.len(), 14);
    // From the eleventh step on, the cosine of 14 steps with the new height, 0.1 x 2 clips / 256.
    let lr = |step: usize| metrics[step - 1]["lr"].as_f64().unwrap();
    assert!(lr(11) > 20.0 * lr(10) && lr(14) < lr(11), "{} {} {}", lr(10), lr(11), lr(14));

    // The same command goes on without a word, also after the newest checkpoint is lost, whose
    // predecessor is the one that was changed.
    assert!(stderr(&bench.train("run", &longer)).contains("finished"));
    fs::remove_dir_all(bench.path("run/checkpoints/step-14")).unwrap();
    assert_trained(&train(&longer));
    assert_eq!(lines("run/changes.jsonl"), changes);
}

#[test]
fn a_run_goes_on_over_a_copy_of_its_video() {
    let bench = Workbench::new();
    let source = |size_bytes, digest| {
        let name = "walk.store".into();
        Source { name, files: 1, size_bytes, digest }
    };
    let ingest_again = |source, frames| {
        fs::remove_dir_all(bench.path("walk.store")).unwrap();
        bench.add_store_of(source, frames);
    };
    assert_trained(&bench.train("run", &[]));
    fs::remove_dir_all(bench.path("run/checkpoints/step-10")).unwrap();
    ingest_again(source(1, 77), 45);
    let output = bench.train("run", &[]);
    assert_trained(&output);
    assert!(stderr(&output).contains("going on from"), "{}", stderr(&output));
    ingest_again(source(2, 77), 45);
    assert_refused(&bench.train("run", &[]), &["walk.store has 2 bytes and had 1"]);
    ingest_again(source(1, 1), 44);
    assert_refused(&bench.train("run", &[]), &["ingested differently: 44 frames and 45 before"]);
}

#[test]
fn all_problems_of_a_recipe_are_told_at_once() {
    let bench = Workbench::new();
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
    let numbers = [
        "train.clips=0",
        "train.lr=-1",
        "method.objects=4",
        "views.global_px=40",
        "views.views=3",
        "train.checkpoint_blocks=13",
    ];
    assert_refused(
        &check(&numbers),
        &[
            "`train.clips` is 0",
            "`train.lr` is -1",
            "`method.objects` is 4",
            "`views.global_px` is 40",
            "`views` is 3",
            "`train.checkpoint_blocks` is 13, but must lie between 0 and 12",
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
    let bench = Workbench::new();
    let output = bench.command("run", &["train.lr=0.128"]).arg("--dry-run").output().unwrap();
    assert_trained(&output);
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["[tracker]", "1.000e-3 at its height", "estimated", "one step"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!bench.path("run").exists());
}

#[test]
fn steps_that_stay_non_finite_stop_the_run_and_leave_what_they_worked_on() {
    let bench = Workbench::new();
    let set = ["train.lr=1e30", "train.lr_warmup=0 steps", "train.freeze_last_layer=0 steps"];
    let output = bench.train("run", &set);
    // The first step is finite and ruins the weights; the seventh is queued when the fifth bad one is read.
    assert_refused(&output, &["step 7", "6 steps in a row", "capture-step-7.safetensors"]);
    assert!(bench.path("run/capture-step-7.safetensors").exists());
    let text = fs::read_to_string(bench.path("run/metrics.jsonl")).unwrap();
    let skipped = text.lines().filter(|line| line.contains("\"is_skipped\":true")).count();
    assert_eq!((text.lines().count(), skipped), (7, 6), "{text}");
}

#[test]
fn too_little_memory_gets_one_sentence() {
    let bench = Workbench::new();
    let mut command = Command::new("bash");
    command.args(["-c", "ulimit -v 4000000; exec \"$@\"", "bash"]);
    command.arg(env!("CARGO_BIN_EXE_dora-train")).args(["train", "--dry-run", "--recipe"]);
    command.arg(bench.path("recipe.toml")).args(["--set", "train.clips=4000"]);
    let output = command.env("OMP_NUM_THREADS", "1").output().unwrap();
    assert_refused(&output, &["not enough memory", "lower `train.clips`"]);
}

#[test]
fn wrong_folders_get_one_sentence() {
    let bench = Workbench::new();
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
    assert_refused(&bench.train("file/run", &[]), &["cannot write to", "file/run"]);
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let bench = Workbench::new();
    let mut first = bench.start_until("run", &["train.length=2000 steps"], "tracks/step-1.png");
    let second = bench.train("run", &["train.length=2000 steps"]);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_refused(&second, &["another training writes to"]);
}

#[test]
fn a_full_disk_loses_no_checkpoint() {
    let bench = Workbench::new();
    let Some(disk) = SmallDisk::new(&bench) else { return };
    let output = bench.train("small/run", &[]);
    let kept = bench.path("small/run/checkpoints/step-5/state.bin").exists();
    let checkpoints = bench.checkpoints("small/run");
    disk.take_away();
    assert_refused(&output, &["cannot save a checkpoint", "free some space", "No space left"]);
    assert!(kept, "the checkpoint before is gone");
    assert_eq!(checkpoints, ["step-5"], "a torn checkpoint was left behind");
}
