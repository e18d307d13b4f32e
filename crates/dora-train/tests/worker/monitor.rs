//! `[monitor]`: the teacher judged while it trains.

use std::{fs, process::Command};

use image::{GrayImage, Luma, Rgb, RgbImage};
use serde_json::Value;

use crate::workbench::{Workbench, assert_refused, assert_trained, stderr};

/// A folder of images whose classes are colours; gives the overrides that judge by them.
fn images(bench: &Workbench, train: u32) -> [String; 3] {
    let root = bench.path("colours");
    for (split, count) in [("train", train), ("val", 4)] {
        for (class, colour) in [("red", [200, 40, 40]), ("blue", [40, 40, 200])] {
            let folder = root.join(split).join(class);
            fs::create_dir_all(&folder).unwrap();
            for index in 0..count {
                let noise = |x, y| ((x * 7 + y * 11 + index * 5) % 40) as u8;
                let paint = |x, y| Rgb(colour.map(|level| level + noise(x, y)));
                RgbImage::from_fn(40, 33, paint).save(folder.join(format!("{index}.png"))).unwrap();
            }
        }
    }
    [
        format!("monitor.knn={}", root.display()),
        "monitor.every=4 steps".to_owned(),
        "monitor.knn_k=3".to_owned(),
    ]
}

/// A folder of two videos with a moving square and its masks; gives the overrides that judge by them.
fn videos(bench: &Workbench) -> [String; 2] {
    let root = bench.path("squares");
    for sequence in ["left", "right"] {
        let [frames, masks] = ["JPEGImages", "Annotations"].map(|kind| {
            let folder = root.join(kind).join("480p").join(sequence);
            fs::create_dir_all(&folder).unwrap();
            folder
        });
        for frame in 0..5 {
            let x0 = if sequence == "left" { 20 + 2 * frame } else { 90 - 2 * frame };
            let is_on = |x, y| (x0..x0 + 24).contains(&x) && (16..40).contains(&y);
            let paint = |x, y| if is_on(x, y) { Rgb([230, 60, 30]) } else { Rgb([20, 60, 90]) };
            let image = RgbImage::from_fn(128, 64, paint);
            image.save(frames.join(format!("{frame:05}.jpg"))).unwrap();
            let mask = GrayImage::from_fn(128, 64, |x, y| Luma([u8::from(is_on(x, y))]));
            mask.save(masks.join(format!("{frame:05}.png"))).unwrap();
        }
    }
    let lists = root.join("ImageSets/2017");
    fs::create_dir_all(&lists).unwrap();
    fs::write(lists.join("val.txt"), "left\nright\n").unwrap();
    [format!("monitor.davis={}", root.display()), "monitor.davis_short_side_px=64".to_owned()]
}

fn words(set: &[String]) -> Vec<&str> {
    set.iter().map(String::as_str).collect()
}

fn judgements(bench: &Workbench, run: &str) -> Vec<Value> {
    let text = fs::read_to_string(bench.path(run).join("monitor.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Steps and figures; seconds differ from run to run.
fn figures(bench: &Workbench, run: &str) -> Vec<(u64, String)> {
    let line = |line: &Value| (line["step"].as_u64().unwrap(), line["figures"].to_string());
    judgements(bench, run).iter().map(line).collect()
}

#[test]
fn judging_changes_nothing_and_goes_on_where_a_run_was_killed() {
    let bench = Workbench::new();
    let set = [&images(&bench, 6)[..], &videos(&bench)].concat();
    assert_trained(&bench.train("unwatched", &[]));
    let output = bench.train("watched", &words(&set));
    assert_trained(&output);
    bench.assert_same_end("unwatched", "watched");
    let whole = figures(&bench, "watched");
    assert_eq!(whole.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [0, 0, 4, 4, 8, 8, 10, 10]);
    for (line, name) in judgements(&bench, "watched").iter().zip(["knn", "davis"].iter().cycle()) {
        assert_eq!(line["name"], *name);
        let main = if *name == "knn" { "top1" } else { "J&F-Mean" };
        let figure = line["figures"][main].as_f64().unwrap();
        // An untrained encoder tells red from blue; what ten steps make of it is theirs.
        let least = if line["step"] == 0 { if *name == "knn" { 1.0 } else { 0.2 } } else { 0.0 };
        assert!((least..=1.0).contains(&figure), "{line}");
        assert!(line["seconds"].as_f64().unwrap() > 0.0, "{line}");
    }
    let said = stderr(&output);
    assert!(said.contains("step 0: knn top1 100.00 %, top5 100.00 %"), "{said}");
    assert!(!bench.path("unwatched/monitor.jsonl").exists());

    // Killed with lines that the checkpoint does not know of.
    let mut killed = bench.start_until("killed", &words(&set), "checkpoints/step-5");
    killed.kill().unwrap();
    killed.wait().unwrap();
    let lines = bench.path("killed/monitor.jsonl");
    let written = fs::read_to_string(&lines).unwrap();
    let torn =
        "{\"step\":8,\"name\":\"knn\",\"figures\":{\"top1\":0.0},\"seconds\":1.0}\n{\"step\":10,";
    fs::write(&lines, written + torn).unwrap();
    assert_trained(&bench.train("killed", &words(&set)));
    assert_eq!(figures(&bench, "killed"), whole);
    bench.assert_same_end("unwatched", "killed");
}

#[test]
fn a_run_that_was_asked_to_end_is_judged_when_it_goes_on() {
    let bench = Workbench::new();
    let set = images(&bench, 400);
    let mut asked = bench.start_until("asked", &words(&set), "monitor.jsonl");
    assert!(
        Command::new("kill").args(["-INT", &asked.id().to_string()]).status().unwrap().success()
    );
    assert_eq!(asked.wait().unwrap().code(), Some(130));
    assert_eq!(judgements(&bench, "asked"), [] as [Value; 0]);
    assert_eq!(bench.checkpoints("asked"), ["step-0"]);
    images(&bench, 6);
    let fewer = [&words(&set)[..], &["monitor.every=20 steps"]].concat();
    assert_trained(&bench.train("asked", &fewer));
    let steps: Vec<u64> = figures(&bench, "asked").iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [0, 10]);
    assert_trained(&bench.train("unwatched", &[]));
    bench.assert_same_end("unwatched", "asked");
}

#[test]
fn only_the_first_of_two_ranks_judges() {
    let bench = Workbench::new();
    let set = images(&bench, 6);
    for (run, set) in [("unwatched", vec![]), ("watched", words(&set))] {
        let ends = bench.start_ranks(run, 2, &set, |_, _| ()).wait(120);
        assert!(ends.iter().all(|(status, _)| *status == 0), "{ends:?}");
        assert_eq!(ends[1].1, "");
    }
    assert_eq!(figures(&bench, "watched").len(), 4);
    bench.assert_same_end("unwatched", "watched");
}

#[test]
fn wrong_folders_are_refused_before_the_first_step_and_images_that_vanish_end_nothing() {
    let bench = Workbench::new();
    let set = images(&bench, 6);
    let refuse = |set: &[&str], parts: &[&str]| {
        assert_refused(&bench.train("run", set), parts);
        assert!(!bench.path("run").exists());
    };
    refuse(&["monitor.knn=nowhere"], &["nowhere", "no such folder", "ROOT/train/CLASS/IMAGE"]);
    let [knn, every, _] = &set;
    refuse(&[knn, every, "monitor.knn_k=13"], &["`monitor.knn_k` is 13", "only 12 images"]);
    refuse(&[knn, "monitor.every=0 steps"], &["`monitor.every` must be above 0"]);
    refuse(&[knn, "monitor.image_px=40"], &["`monitor.image_px` is 40", "a multiple of"]);
    refuse(&[knn, "monitor.image_px=-16"], &["`monitor.image_px` is -16"]);
    refuse(&["monitor.davis=nowhere"], &["nowhere"]);
    let [davis, _] = &videos(&bench);
    fs::remove_file(bench.path("squares/Annotations/480p/left/00003.png")).unwrap();
    refuse(&[davis], &["sequence `left`", "00003.png is missing"]);
    let mut check = Command::new(env!("CARGO_BIN_EXE_dora-train"));
    check.arg("check").arg("--recipe").arg(bench.path("recipe.toml"));
    check.args(["--video", "walk.mp4", "--set", "monitor.knn=nowhere"]);
    assert_refused(&check.output().unwrap(), &["nowhere", "no such folder"]);

    let image = bench.path("colours/val/red/0.png");
    fs::write(&image, "no longer").unwrap();
    refuse(&words(&set), &["red/0.png", "cannot read"]);
    // What only decoding finds.
    images(&bench, 6);
    let whole = fs::read(&image).unwrap();
    fs::write(&image, &whole[..whole.len() - 20]).unwrap();
    let output = bench.train("run", &words(&set));
    assert_trained(&output);
    let said = stderr(&output);
    assert!(said.contains("warning: step 4 is not judged by knn: cannot read"), "{said}");
    assert_eq!(judgements(&bench, "run"), [] as [Value; 0]);
}
