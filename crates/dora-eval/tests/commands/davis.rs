//! Video object segmentation as users start it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use dora_data::rng::stream;
use dora_eval::{
    images::masks::read_mask,
    video_segmentation::dataset::{Dataset, DatasetArgs},
};
use dora_model::{StateDict, Vit, VitConfig};
use image::{Rgb, RgbImage};
use serde_json::Value;
use tempfile::TempDir;

use crate::workbench::{dora_eval, read_json, real_data, refusal, succeed, write_mask};

const SIZE: (usize, usize) = (160, 120);
const FRAMES: usize = 8;

/// Options for an encoder that is ready at once.
const QUICK: &[&str] = &["--random-init", "--arch", "vit_tiny", "--window", "3"];

/// A short side for it.
const SMALL: [&str; 2] = ["--short-side", "128"];

#[test]
fn objects_are_followed_whatever_the_threads() {
    let folder = TempDir::new().unwrap();
    let data = made_up(folder.path());
    let run = |name: &str, threads: &str| {
        let (out, json) = (folder.path().join(name), folder.path().join(format!("{name}.json")));
        let mut davis = davis(&data, &out);
        davis.args(SMALL).args(["--video", "--json"]).arg(&json);
        davis.env("OMP_NUM_THREADS", threads).env("RAYON_NUM_THREADS", threads);
        let output = davis.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        (String::from_utf8(output.stdout).unwrap(), files(&out), read_json(&json))
    };
    let (table, one, mut figures) = run("one", "1");
    for part in ["J&F", "two ", "  object 2", "square", "frames/s", "TFLOP/s"] {
        assert!(table.contains(part), "no `{part}` in\n{table}");
    }
    assert_eq!(one.len(), 2 * FRAMES + 2, "{:?}", one.keys());
    // A square in another colour than all around it is easy to follow.
    let mean = |value: &Value| value["J-Mean"].as_f64().unwrap();
    assert!(mean(&figures["per_sequence"]["square"]) > 0.6, "{figures}");
    assert!(mean(&figures["per_sequence"]["two"]["per_object"]["2"]) > 0.6, "{figures}");
    assert_eq!(figures["per_sequence"]["two"]["frames"].as_array().unwrap().len(), FRAMES - 2);

    for threads in ["2", "8"] {
        let (_, others, _) = run(threads, threads);
        assert!(one == others, "files differ between one thread and {threads}");
    }
    let first = read_mask(&folder.path().join("one/two/00000.png")).unwrap();
    let annotation = data.join("Annotations/480p/two/00000.png");
    assert_eq!(first, read_mask(&annotation).unwrap(), "the first mask is the annotation");
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
    let mut animation = options.read_info(&one["two.gif"][..]).unwrap();
    assert_eq!((animation.width(), animation.height()), (SIZE.0 as u16, SIZE.1 as u16));
    let mut frames = 0;
    while animation.read_next_frame().unwrap().is_some() {
        frames += 1;
    }
    assert_eq!(frames, FRAMES);

    // The masks are as good when they are read again.
    let json = folder.path().join("again.json");
    let output =
        metrics(&data, &folder.path().join("one")).arg("--json").arg(&json).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let again = read_json(&json);
    figures.as_object_mut().unwrap().remove("speed");
    for key in ["per_sequence", "J&F-Mean", "J-Decay", "F-Recall"] {
        assert_eq!(again[key], figures[key], "{key}");
    }
}

#[test]
fn an_encoder_has_a_folder_of_its_own() {
    let folder = TempDir::new().unwrap();
    let data = made_up(folder.path());
    let masks = |seed: &str| {
        let root = folder.path().join(format!("root-{seed}"));
        let mut davis = dora_eval(&["davis", "--seed", seed, "--sequences", "square"]);
        davis.args(QUICK).args(SMALL).arg("--data").arg(&data).arg("--out-root").arg(&root);
        succeed(&mut davis);
        let names: Vec<_> =
            fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 1, "{names:?}");
        names[0].to_string_lossy().into_owned()
    };
    let name = data.file_name().unwrap().to_string_lossy().into_owned();
    let (first, second) = (masks("0"), masks("1"));
    assert!(first.starts_with(&format!("{name}-")) && second.starts_with(&format!("{name}-")));
    assert_ne!(first, second);
    assert_eq!(first, masks("0"));
}

#[test]
fn masks_that_change_while_they_are_read_are_refused() {
    let folder = TempDir::new().unwrap();
    let data = made_up(folder.path());
    let dataset = Dataset::open(&DatasetArgs::of(&data)).unwrap();
    let square = dataset.sequences.iter().find(|sequence| sequence.name == "square").unwrap();
    let frame = &square.frames[0];
    // What nobody follows is background.
    write_mask(&frame.annotation, SIZE, |x, _| if x < 8 { 7 } else { 1 });
    let mask = square.annotation(frame).unwrap();
    assert_eq!((square.objects, mask.labels[0], mask.labels[8]), (1, 0, 1));
    write_mask(&frame.annotation, (80, 60), |_, _| 1);
    let error = square.annotation(frame).unwrap_err().to_string();
    assert!(error.contains("00000.png has 80x60 px, but its frames have 160x120"), "{error}");
}

#[test]
fn masks_that_are_the_annotation_are_perfect() {
    let folder = TempDir::new().unwrap();
    let data = made_up(folder.path());
    let json = folder.path().join("figures.json");
    let masks = data.join("Annotations/480p");
    let output = metrics(&data, &masks).arg("--json").arg(&json).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures = read_json(&json);
    for (key, expected) in [("J&F-Mean", 1.0), ("J-Recall", 1.0), ("F-Mean", 1.0), ("F-Decay", 0.0)]
    {
        assert_eq!(figures[key], expected, "{key}");
    }
    // Void is nobody's, also in the masks that are judged.
    for at in 0..FRAMES {
        write_mask(&masks.join(format!("square/{at:05}.png")), SIZE, |x, y| match (x, y) {
            (40..60, 60..90) => 1,
            (30..70, 50..100) => 255,
            _ => 0,
        });
    }
    succeed(metrics(&data, &masks).args(["--sequences", "square,square", "--json"]).arg(&json));
    let figures = read_json(&json);
    assert_eq!((&figures["J-Mean"], &figures["F-Mean"]), (&1.0.into(), &1.0.into()), "{figures}");
    // The list of 2016 means one object, whatever the parts are; its lines are paths.
    let output = metrics(&data, &masks).args(["--year", "2016"]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("ImageSets/2016/train.txt, 1 sequences"), "{table}");
    assert!(!table.contains("object"), "{table}");
}

#[test]
fn figures_are_those_of_the_official_code() {
    let (Some(published), Some(davis16)) = (real_data("davis_metrics"), real_data("davis16"))
    else {
        return;
    };
    let folder = TempDir::new().unwrap();
    let json = folder.path().join("figures.json");
    let mut command = metrics(&davis16, &published.join("osvos"));
    let output = command.arg("--json").arg(&json).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures = read_json(&json);
    let check = |what: &str, found: &Value, expected: &str| {
        let (found, expected) = (found.as_f64().unwrap(), expected.parse::<f64>().unwrap());
        assert!((found - expected).abs() < 1e-5, "{what}: {found} is not {expected}");
    };
    let frames = rows(&published.join("osvos_binary_vs_davis16_val_per_frame.csv"));
    for row in &frames {
        let sequence = &figures["per_sequence"][&row["sequence"]];
        let names = sequence["frames"].as_array().unwrap();
        let at = names.iter().position(|name| *name == row["frame"]).unwrap();
        for name in ["J", "F"] {
            check(&format!("{row:?}"), &sequence["per_object"]["1"][name][at], &row[name]);
        }
    }
    let counted: usize = figures["per_sequence"]
        .as_object()
        .unwrap()
        .values()
        .map(|sequence| sequence["frames"].as_array().unwrap().len())
        .sum();
    assert_eq!(frames.len(), counted);
    for row in rows(&published.join("osvos_binary_vs_davis16_val.csv")) {
        for name in ["J-Mean", "J-Recall", "J-Decay", "F-Mean", "F-Recall", "F-Decay"] {
            let found = &figures["per_sequence"][&row["sequence"]][name];
            check(&format!("{name} of {}", row["sequence"]), found, &row[name]);
        }
    }
}

#[test]
fn what_is_wrong_with_the_data_is_said_in_one_sentence() {
    /// What is done to the data, options, and what must be said.
    type Case = (&'static str, fn(&Path), &'static [&'static str], &'static str);
    let cases: &[Case] = &[
        (
            "layout",
            |data| fs::rename(data.join("Annotations"), data.join("Labels")).unwrap(),
            &[],
            "is no DAVIS folder: it holds ImageSets, JPEGImages, Labels; expected JPEGImages/480p/SEQUENCE",
        ),
        (
            "no lists",
            |data| fs::remove_dir_all(data.join("ImageSets")).unwrap(),
            &[],
            "is no DAVIS folder: it has no folder ImageSets",
        ),
        (
            "empty list",
            |data| fs::write(data.join("ImageSets/2017/val.txt"), "\n").unwrap(),
            &[],
            "val.txt names no sequence",
        ),
        (
            "list that leads elsewhere",
            |data| fs::write(data.join("ImageSets/2017/val.txt"), "/x/../00000.jpg\n").unwrap(),
            &[],
            "has the line `/x/../00000.jpg`",
        ),
        ("unknown year", |_| {}, &["--year", "2018"], "there is no year `2018` in"),
        ("unknown split", |_| {}, &["--split", "test"], "there is no split `test` in"),
        (
            "unknown sequence",
            |_| {},
            &["--sequences", "two,three"],
            "there is no sequence `three` in",
        ),
        (
            "unknown resolution",
            |_| {},
            &["--resolution", "1080p"],
            "there is no resolution `1080p` in",
        ),
        (
            "listed sequence",
            |data| fs::remove_dir_all(data.join("JPEGImages/480p/two")).unwrap(),
            &[],
            "there is no sequence `two` in",
        ),
        (
            "missing annotation",
            |data| fs::remove_file(data.join("Annotations/480p/two/00003.png")).unwrap(),
            &[],
            "Annotations/480p/two/00003.png is missing",
        ),
        (
            "missing frame",
            |data| fs::remove_file(data.join("JPEGImages/480p/two/00003.jpg")).unwrap(),
            &[],
            "Annotations/480p/two/00003.png has no frame in JPEGImages",
        ),
        (
            "mask of another size",
            |data| write_mask(&data.join("Annotations/480p/two/00004.png"), (80, 60), |_, _| 1),
            &[],
            "00004.png has 80x60 px, but its frames have 160x120",
        ),
        (
            "frame of another size",
            |data| RgbImage::new(80, 60).save(data.join("JPEGImages/480p/two/00004.jpg")).unwrap(),
            &[],
            "00004.jpg has 80x60 px, but the first frame has 160x120",
        ),
        (
            "grey levels",
            |data| write_mask(&data.join("Annotations/480p/two/00000.png"), SIZE, |x, _| x as u8),
            &[],
            "has the label 159, and labels are objects 1, 2, 3 and so on, 64 at the most",
        ),
        (
            "no object",
            |data| write_mask(&data.join("Annotations/480p/two/00000.png"), SIZE, |_, _| 0),
            &[],
            "00000.png has no object to follow",
        ),
        (
            "colours",
            |data| {
                RgbImage::new(160, 120).save(data.join("Annotations/480p/two/00002.png")).unwrap()
            },
            &[],
            "its pixels are Rgb of 8 bits; expected a palette or grey PNG",
        ),
        (
            "cut annotation",
            |data| cut(&data.join("Annotations/480p/two/00000.png")),
            &[],
            "cannot read",
        ),
        ("cut frame", |data| cut(&data.join("JPEGImages/480p/two/00005.jpg")), &[], "00005.jpg"),
        ("short side", |_| {}, &["--short-side", "8"], "give a longer one"),
        (
            "a file in the way",
            |data| fs::write(data.join("../out"), "").unwrap(),
            &[],
            "give --out another folder",
        ),
        (
            "few frames",
            |data| {
                for index in 2..FRAMES {
                    fs::remove_file(data.join(format!("JPEGImages/480p/two/{index:05}.jpg")))
                        .unwrap();
                    fs::remove_file(data.join(format!("Annotations/480p/two/{index:05}.png")))
                        .unwrap();
                }
            },
            &[],
            "holds 2 frames; the first and the last do not count",
        ),
    ];
    for (name, spoil, options, expected) in cases {
        let folder = TempDir::new().unwrap();
        let data = made_up(folder.path());
        spoil(&data);
        let mut command = davis(&data, &folder.path().join("out"));
        if !options.contains(&SMALL[0]) {
            command.args(SMALL);
        }
        fails(name, command.args(*options), expected);
    }
}

#[test]
fn an_encoder_that_gives_no_numbers_is_refused() {
    let folder = TempDir::new().unwrap();
    let (data, weights) = (made_up(folder.path()), folder.path().join("large.safetensors"));
    let config = VitConfig { depth: 2, ..VitConfig::standard(1, 16) };
    let fresh = Vit::init(&config, &mut stream(0, "test", &[]));
    let large: StateDict =
        fresh.iter().map(|(name, tensor)| (name.to_owned(), tensor * 1e15)).collect();
    large.write(&weights).unwrap();
    let mut command = dora_eval(&["davis", "--device", "cpu", "--window", "3", "--checkpoint"]);
    command.arg(&weights);
    command.arg("--data").arg(&data).arg("--out").arg(folder.path().join("out")).args(SMALL);
    fails("large weights", &mut command, "are not finite: its weights are no use");
}

#[test]
fn what_is_wrong_with_masks_made_elsewhere_is_said_in_one_sentence() {
    /// What is done to the masks, and what must be said.
    type Case = (fn(&Path), &'static str);
    let cases: &[Case] = &[
        (|masks| fs::remove_file(masks.join("two/00003.png")).unwrap(), "two/00003.png is missing"),
        (
            |masks| write_mask(&masks.join("two/00003.png"), (16, 12), |_, _| 1),
            "00003.png has 16x12 px",
        ),
        (
            |masks| write_mask(&masks.join("two/00003.png"), SIZE, |_, _| 7),
            "00003.png has the label 7, but the sequence has 2 objects",
        ),
        (|masks| fs::write(masks.join("two/00003.png"), "no picture").unwrap(), "cannot read"),
    ];
    for (spoil, expected) in cases {
        let folder = TempDir::new().unwrap();
        let data = made_up(folder.path());
        let masks = folder.path().join("masks");
        made_up(&folder.path().join("other"));
        fs::rename(folder.path().join("other/data/Annotations/480p"), &masks).unwrap();
        spoil(&masks);
        fails(expected, &mut metrics(&data, &masks), expected);
    }
}

#[test]
fn propagation_at_1080p_takes_little_memory() {
    let folder = TempDir::new().unwrap();
    let json = folder.path().join("figures.json");
    let words = ["bench-propagation", "--rounds", "1", "--device", "cpu", "--short-side", "1080"];
    succeed(dora_eval(&words).arg("--json").arg(&json));
    let figures = read_json(&json);
    assert_eq!(figures["grid"], serde_json::json!([67, 120]));
    // One matrix of all patches with those of one frame would take 259 MB.
    assert!(figures["windowed_memory_bytes"].as_u64().unwrap() < 100 << 20, "{figures}");
}

#[test]
fn windowed_propagation_gives_the_labels_of_the_dense_one_at_480p() {
    let folder = TempDir::new().unwrap();
    let json = folder.path().join("figures.json");
    let words = ["bench-propagation", "--rounds", "3", "--device", "cpu"];
    succeed(dora_eval(&words).arg("--json").arg(&json));
    let figures = read_json(&json);
    println!("{} times as fast as the dense form", figures["ratio"]);
    assert_eq!(figures["grid"], serde_json::json!([30, 52]));
    assert_eq!(figures["differing_labels"], 0, "{figures}");
}

/// Two sequences in DAVIS' layout: a square alone, and two of which one comes from the left.
fn made_up(folder: &Path) -> PathBuf {
    let data = folder.join("data");
    let square = |at: usize, side: usize, (left, top): (usize, usize)| {
        move |x: usize, y: usize| {
            let left = left + 3 * at;
            (left..left + side).contains(&x) && (top..top + side).contains(&y)
        }
    };
    for sequence in ["square", "two"] {
        let [images, masks] =
            ["JPEGImages", "Annotations"].map(|dir| data.join(dir).join("480p").join(sequence));
        fs::create_dir_all(&images).unwrap();
        fs::create_dir_all(&masks).unwrap();
        for at in 0..FRAMES {
            let (near, far) = (square(at, 56, (16, 40)), square(at, 40, (96, 16)));
            let label = |x: usize, y: usize| match sequence {
                _ if near(x, y) => 1,
                "two" if far(x, y) => 2,
                _ => 0,
            };
            write_mask(&masks.join(format!("{at:05}.png")), SIZE, label);
            let picture = RgbImage::from_fn(SIZE.0 as u32, SIZE.1 as u32, |x, y| {
                let ripple = ((x * 7 + y * 13) % 32) as u8;
                match label(x as usize, y as usize) {
                    0 => Rgb([40 + ripple, 90, 60]),
                    1 => Rgb([220, 60 + ripple, 40]),
                    _ => Rgb([30, 60, 200 + ripple]),
                }
            });
            picture.save(images.join(format!("{at:05}.jpg"))).unwrap();
        }
    }
    for (list, text) in [
        (
            "2016/train.txt",
            "/JPEGImages/480p/two/00000.jpg /Annotations/480p/two/00000.png\n/JPEGImages/480p/two/00001.jpg /Annotations/480p/two/00001.png\n",
        ),
        ("2017/train.txt", "square\n"),
        ("2017/val.txt", "square\ntwo\n"),
    ] {
        let path = data.join("ImageSets").join(list);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    data
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn davis(data: &Path, out: &Path) -> Command {
    let mut command = dora_eval(&["davis"]);
    command.args(QUICK).arg("--data").arg(data).arg("--out").arg(out);
    command
}

fn metrics(data: &Path, results: &Path) -> Command {
    let mut command = dora_eval(&["davis-metrics"]);
    command.arg("--data").arg(data).arg("--results").arg(results);
    command
}

#[track_caller]
fn fails(what: &str, command: &mut Command, expected: &str) {
    let said = refusal(command);
    // A busy machine is slow enough for lines of progress.
    let lines = said.lines().filter(|line| !line.starts_with("frames "));
    let error = lines.collect::<Vec<_>>().join("\n");
    assert!(error.contains(expected), "{what}: no `{expected}` in {error}");
    assert_eq!(error.trim().lines().count(), 1, "{what}: {error}");
}

/// Content of all files below a folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(
                files(&path).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)),
            );
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
    found
}

/// Rows of a table by the names in its first line.
fn rows(path: &Path) -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned));
    let names: Vec<String> = lines.next().unwrap().collect();
    lines.map(|values| names.iter().cloned().zip(values).collect()).collect()
}
