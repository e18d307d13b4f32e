//! `dora-eval semantic` as users start it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use dora_eval::images::masks::read_mask;
use image::{Rgb, RgbImage};
use serde_json::Value;
use tempfile::TempDir;

use crate::workbench::{
    check_parts, dora_eval, end, read_json, real_data, refusal, succeed, wait_for, write_mask,
};

const COLOURS: [[u8; 3]; 3] = [[220, 30, 30], [30, 200, 40], [40, 50, 220]];
const WIDTH: u32 = 96;
const HEIGHT: u32 = 64;
const SIZE: (usize, usize) = (WIDTH as usize, HEIGHT as usize);

const LINEAR: &str = r#"
    [data]
    long_px = 0
    short_px = 0
    [head]
    kind = "linear"
    dropout = 0.0
    [augment]
    flip = true
    [train]
    backbone = "frozen"
    patches = 64
    iterations = 120
    lr = 1e-2
    warmup_iterations = 5
    weight_decay = 0.0
    checkpoint_every = 50
    [test]
    window_px = 0
"#;

const UPERNET: &str = r#"
    [data]
    long_px = 0
    short_px = 0
    [head]
    channels = 16
    auxiliary_channels = 16
    [augment]
    crop_px = 64
    scale_min = 0.8
    scale_max = 1.2
    [train]
    iterations = 30
    batch = 4
    lr = 2e-3
    warmup_iterations = 3
    drop_path = 0.0
    checkpoint_every = 10
    [test]
    window_px = 64
    stride_px = 32
"#;

/// Where the made set's images and annotations lie.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    Ade20k,
    Plain,
}

/// A folder with a made set, recipes, and what commands write.
struct Bench {
    folder: TempDir,
}

impl Bench {
    /// Images whose classes are their colours, in cells of 32 px, with a void column on the left.
    fn new(layout: Layout) -> Self {
        let bench = Self { folder: TempDir::new().unwrap() };
        for (split, count) in [("train", 6), ("val", 3)] {
            let [images, annotations] = bench.split(layout, split);
            for index in 0..count {
                let class = |x: u32, y: u32| (x / 32 + 2 * (y / 32) + index) % 3;
                let image = RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
                    let noise = (x * 7 + y * 13 + index * 29) % 23;
                    Rgb(COLOURS[class(x, y) as usize].map(|level| level + noise as u8))
                });
                image.save(images.join(format!("{index}.a.png"))).unwrap();
                // Classes 1 to 3 after void 0, or 0 to 2 before void 3.
                let (first, void) = if layout == Layout::Ade20k { (1, 0) } else { (0, 3) };
                let label = |x: usize, y: usize| {
                    if x == 0 { void } else { first + class(x as u32, y as u32) as u8 }
                };
                write_mask(&annotations.join(format!("{index}.a.png")), SIZE, label);
            }
        }
        if layout == Layout::Plain {
            bench.write("set/classes.txt", "red 255 0 0\ngreen\nblue\nvoid\n");
        }
        bench.write("linear.toml", LINEAR);
        bench.write("upernet.toml", UPERNET);
        bench
    }

    /// Folders of a split's images and annotations, which it makes.
    fn split(&self, layout: Layout, split: &str) -> [PathBuf; 2] {
        let of_ade20k = if split == "train" { "training" } else { "validation" };
        let names = match layout {
            Layout::Ade20k => ["images", "annotations"].map(|kind| format!("{kind}/{of_ade20k}")),
            Layout::Plain => [split.to_owned(), format!("{split}annot")],
        };
        names.map(|name| {
            let folder = self.data(&name);
            fs::create_dir_all(&folder).unwrap();
            folder
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn data(&self, name: &str) -> PathBuf {
        self.path("set").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, recipe: &str, words: &[&str]) -> Command {
        let mut command = dora_eval(&["semantic", "--random-init", "--device", "cpu"]);
        if !words.contains(&"--arch") {
            command.args(["--arch", "vit_tiny"]);
        }
        command.arg("--data").arg(self.path("set")).arg("--recipe").arg(self.path(recipe));
        // Where nothing else is said results go below the current folder. Tests run side by side.
        command.args(words).current_dir(self.folder.path()).env("OMP_NUM_THREADS", "1");
        command
    }

    fn run(&self, recipe: &str, words: &[&str]) -> (Value, String) {
        let json = self.path("figures.json");
        let output = succeed(self.command(recipe, words).arg("--json").arg(&json));
        (read_json(json), String::from_utf8(output.stdout).unwrap())
    }

    /// The sentence that a wrong input gets.
    fn refusal(&self, recipe: &str, words: &[&str]) -> String {
        let text = refusal(&mut self.command(recipe, words));
        text[text.find("error: ").unwrap()..].to_owned()
    }
}

fn colours(path: &Path) -> BTreeSet<[u8; 3]> {
    image::open(path).unwrap().into_rgb8().pixels().map(|pixel| pixel.0).collect()
}

#[track_caller]
fn check_figures(figures: &Value, table: &str) {
    for key in ["mIoU", "aAcc", "mAcc"] {
        let share = figures[key].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share));
        assert!(table.contains(key), "{table}");
    }
    assert!(figures["test_images_per_s"].as_f64().unwrap() > 0.0);
    assert!(figures["matrix_flops_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_linear_head_learns_colours_and_paints_them() {
    let bench = Bench::new(Layout::Plain);
    let (figures, table) = bench.run("linear.toml", &["--out", "out"]);
    check_figures(&figures, &table);
    assert!(figures["mIoU"].as_f64().unwrap() > 0.9, "{table}");
    assert!(figures["features_images_per_s"].as_f64().unwrap() > 0.0);
    let green = &figures["per_class"]["green"];
    assert!(green["IoU"].as_f64().unwrap() > 0.9 && green["Acc"].as_f64().unwrap() > 0.9);
    let rows = figures["confusion_matrix"].as_array().unwrap();
    let counts = rows.iter().flat_map(|row| row.as_array().unwrap());
    let pixels: i64 = counts.map(|count| count.as_i64().unwrap()).sum();
    assert_eq!(pixels, i64::from(3 * (WIDTH - 1) * HEIGHT), "void is not judged");

    let painted = bench.path("out/predictions/0.a.png");
    let labels: BTreeSet<u8> = read_mask(&painted).unwrap().labels.into_iter().collect();
    assert_eq!(labels, BTreeSet::from([0, 1, 2]));
    // The colour of the list, then those of the palette of PASCAL VOC.
    assert_eq!(colours(&painted), BTreeSet::from([[255, 0, 0], [128, 0, 0], [0, 128, 0]]));

    // The same command judges the same head again.
    let (again, _) = bench.run("linear.toml", &["--out", "out"]);
    assert_eq!(again["confusion_matrix"], figures["confusion_matrix"]);
    let lines = fs::read_to_string(bench.path("out/losses.jsonl")).unwrap().lines().count();
    assert_eq!(lines, 120);
}

#[test]
fn figures_do_not_depend_on_threads() {
    let bench = Bench::new(Layout::Plain);
    let with = |threads: &str, out: &str| {
        let json = bench.path("threads.json");
        let mut command = bench.command("linear.toml", &["--out", out, "--no-cache"]);
        let output =
            command.arg("--json").arg(&json).env("OMP_NUM_THREADS", threads).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let figures: Value = serde_json::from_slice(&fs::read(json).unwrap()).unwrap();
        (
            figures["confusion_matrix"].clone(),
            fs::read(bench.path(out).join("losses.jsonl")).unwrap(),
        )
    };
    assert!(with("1", "one") == with("3", "three"));
}

#[test]
fn upernet_learns_in_the_layout_of_ade20k() {
    let bench = Bench::new(Layout::Ade20k);
    // Three of 150 classes are there.
    let said = bench.refusal("upernet.toml", &["--out", "out"]);
    check_parts(&said, &["the class `floor`, `tree`", "has no pixel"]);
    let allowed = ["--out", "out", "--set", "data.require_all_classes=false"];
    let (figures, table) = bench.run("upernet.toml", &allowed);
    check_figures(&figures, &table);
    assert!(figures["mIoU"].as_f64().unwrap() > 0.8, "{table}");
    assert_eq!(figures["classes"].as_array().unwrap().len(), 150);
    assert_eq!(figures["per_class"]["flag"]["IoU"], Value::Null);
    assert!(figures["train_images_per_s"].as_f64().unwrap() > 0.0);
    // Numbers of the annotations, colours of the data set: wall, building, sky.
    let painted = bench.path("out/predictions/0.a.png");
    let labels: BTreeSet<u8> = read_mask(&painted).unwrap().labels.into_iter().collect();
    assert_eq!(labels, BTreeSet::from([1, 2, 3]));
    assert_eq!(
        colours(&painted),
        BTreeSet::from([[120, 120, 120], [180, 120, 120], [6, 230, 230]])
    );
}

#[test]
fn an_interrupted_training_goes_on_to_the_same_head() {
    let bench = Bench::new(Layout::Plain);
    let words = |out: &'static str| {
        ["--out", out, "--set", "train.iterations=16", "--set", "train.checkpoint_every=4"]
    };
    bench.run("upernet.toml", &words("whole"));
    let mut command = bench.command("upernet.toml", &words("halved"));
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_for("a checkpoint", &mut child, || bench.path("halved/checkpoint-4").exists());
    let said = end(child, "INT", 130);
    check_parts(&said, &["of 16 iterations", "the same command goes on"]);
    assert!(!bench.path("halved/checkpoint-16").exists());

    // Another recipe, another encoder and another width are refused.
    let with = |more: &[&'static str]| {
        let words = [&words("halved")[..], more].concat();
        bench.refusal("upernet.toml", &words)
    };
    let parts = ["`train.lr` is 0.0001 and was 0.002", "--out", "--fresh"];
    check_parts(&with(&["--set", "train.lr=1e-4"]), &parts);
    check_parts(
        &with(&["--seed", "1"]),
        &["the encoder is random initialisation", "(seed 1) and was"],
    );
    check_parts(&with(&["--arch", "vit_small"]), &["the encoder has width 384 and had 192"]);

    bench.run("upernet.toml", &words("halved"));
    for file in ["head.safetensors", "backbone.safetensors", "optimizer.safetensors"] {
        let read = |out: &str| fs::read(bench.path(out).join("checkpoint-16").join(file)).unwrap();
        assert!(read("whole") == read("halved"), "{file}");
    }
    let losses = |out: &str| fs::read_to_string(bench.path(out).join("losses.jsonl")).unwrap();
    assert_eq!(losses("whole"), losses("halved"));

    // A new start leaves the old one beside it.
    bench.run("upernet.toml", &["--out", "halved", "--fresh", "--set", "train.iterations=2"]);
    assert!(bench.path("halved/checkpoint-2").exists());
    assert!(bench.path("halved.old-1/checkpoint-16").exists());
}

#[track_caller]
fn check_refused(damage: impl FnOnce(&Bench), parts: &[&str]) {
    let bench = Bench::new(Layout::Plain);
    damage(&bench);
    check_parts(&bench.refusal("linear.toml", &["--out", "out"]), parts);
    assert!(!bench.path("out").exists());
}

#[test]
fn a_wrong_layout_is_told_with_what_was_expected() {
    check_refused(
        |bench| fs::remove_dir_all(bench.data("valannot")).unwrap(),
        &[
            "it has no folder valannot, it has classes.txt, train, trainannot, val",
            "expected ADE20K's images/{training,validation}",
        ],
    );
    check_refused(
        |bench| {
            fs::remove_dir_all(bench.data("val")).unwrap();
            fs::create_dir(bench.data("val")).unwrap();
        },
        &["its folder val holds no JPEG or PNG file"],
    );
}

#[test]
fn annotations_that_do_not_fit_are_told() {
    check_refused(
        |bench| fs::remove_file(bench.data("trainannot/2.a.png")).unwrap(),
        &["train/2.a.png has no annotation", "trainannot/2.a.png is missing"],
    );
    check_refused(
        |bench| write_mask(&bench.data("valannot/1.a.png"), (8, 4), |_, _| 0),
        &["valannot/1.a.png has 8x4 px, but its image has 96x64 px"],
    );
    check_refused(
        |bench| {
            write_mask(&bench.data("trainannot/1.a.png"), SIZE, |_, _| 9);
        },
        &["trainannot/1.a.png has pixels of index 9", "0 to 2 for classes and 3 or 255 for void"],
    );
    check_refused(
        |bench| RgbImage::new(WIDTH, HEIGHT).save(bench.data("trainannot/0.a.png")).unwrap(),
        &["trainannot/0.a.png", "its pixels are Rgb"],
    );
    check_refused(
        |bench| bench.write("set/val/0.a.png", "no image"),
        &["cannot read", "val/0.a.png"],
    );
}

#[test]
fn classes_that_cannot_be_learnt_are_told() {
    check_refused(
        |bench| bench.write("set/classes.txt", "red\ngreen\nblue\nvoid\nrain"),
        &["the class `rain` has no pixel", "data.require_all_classes=false"],
    );
    check_refused(
        |bench| bench.write("set/classes.txt", "red\nred\nblue\nvoid"),
        &["classes.txt is no list of classes", "`red` twice"],
    );
    check_refused(
        |bench| fs::remove_file(bench.data("classes.txt")).unwrap(),
        &["nothing says which classes", "`data.classes`"],
    );
}

#[test]
fn wrong_words_are_refused_before_any_work() {
    let bench = Bench::new(Layout::Plain);
    check_parts(&bench.refusal("none.toml", &[]), &["none.toml cannot be used"]);
    let said = bench.refusal("linear.toml", &["--set", "head.blocks=[3, 5, 7, 12]"]);
    check_parts(&said, &["the encoder has 12 blocks, but `head.blocks` takes block 12"]);
    let said = bench.refusal("linear.toml", &["--json", "no/folder.json"]);
    check_parts(&said, &["no/folder.json", "--json"]);
    bench.write("file", "");
    let said = bench.refusal("linear.toml", &["--out", "file"]);
    check_parts(&said, &["choose another folder with --out"]);
}

#[test]
fn camvid_is_read_and_judged() {
    let Some(camvid) = real_data("camvid") else { return };
    let bench = Bench::new(Layout::Plain);
    fs::remove_dir_all(bench.path("set")).unwrap();
    for (split, every) in [("train", 40), ("val", 50)] {
        let [images, annotations] = bench.split(Layout::Plain, split);
        let entries = fs::read_dir(camvid.join(split)).unwrap();
        let mut names: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for image in names.iter().step_by(every) {
            let name = Path::new(image.file_name().unwrap());
            let annotation = name.with_extension("png");
            fs::copy(image, images.join(name)).unwrap();
            let from = camvid.join(format!("{split}annot")).join(&annotation);
            fs::copy(from, annotations.join(&annotation)).unwrap();
        }
    }
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/small_linear.toml");
    fs::copy(recipe, bench.path("small.toml")).unwrap();
    let few =
        ["--out", "out", "--set", "train.iterations=60", "--set", "train.warmup_iterations=5"];
    let (figures, table) = bench.run("small.toml", &few);
    assert_eq!(figures["classes"].as_array().unwrap().len(), 11);
    // Far above chance even so: road, sky and building fill most of every image.
    assert!(figures["aAcc"].as_f64().unwrap() > 0.4, "{table}");
}
