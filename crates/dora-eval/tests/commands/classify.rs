//! `dora-eval knn` and `linear` as users start them.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use dora_eval::{
    classification::features::{View, Wanted, cls_features},
    images::{folder::ImageFolder, read_rgb},
    memory::shortage,
};
use image::{Rgb, RgbImage, Rgba, RgbaImage};
use serde_json::Value;
use tempfile::TempDir;

use crate::workbench::{
    check_parts, dora_eval, encoder, read_json, real_data, refusal, stderr, succeed,
};

const CLASSES: [(&str, [u8; 3]); 3] =
    [("grass", [40, 160, 50]), ("sea", [30, 60, 190]), ("brick", [180, 50, 30])];
const TRAIN: u32 = 6;
const VAL: u32 = 3;
/// The smallest encoder on four patches.
const SMALL: [&str; 5] = ["--random-init", "--arch", "vit_tiny", "--image-px", "32"];

/// A folder of images whose classes are colours, and another for what commands write.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: TempDir::new().unwrap() };
        for (split, count) in [("train", TRAIN), ("val", VAL)] {
            for (class, colour) in CLASSES {
                let folder = bench.data().join(split).join(class);
                fs::create_dir_all(&folder).unwrap();
                for index in 0..count {
                    // Longer, wider and smaller than the square that the encoder sees.
                    let (width, height) = [(53, 37), (30, 71), (17, 11)][index as usize % 3];
                    let image = RgbImage::from_fn(width, height, |x, y| {
                        let noise = ((x * 7 + y * 13 + index * 29) % 23) as u8;
                        Rgb(colour.map(|level| level + noise))
                    });
                    let extension = ["png", "jpg", "JPEG"][index as usize % 3];
                    image.save(folder.join(format!("{index}.{extension}"))).unwrap();
                }
            }
        }
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn data(&self) -> PathBuf {
        self.path("images")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = dora_eval(&words[..1]);
        command.args(SMALL).arg("--data").arg(self.data()).args(&words[1..]);
        // Where nothing else is said features go below the current folder.
        command.current_dir(self.folder.path()).env("OMP_NUM_THREADS", "1");
        command
    }

    fn run(&self, words: &[&str]) -> (Value, String) {
        figures(self.command(words), &self.path("figures.json"))
    }

    /// The files of a cache, sorted.
    fn cache(&self, name: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path(name)).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

/// What a command writes as JSON, and says on standard error.
#[track_caller]
fn figures(mut command: Command, json: &Path) -> (Value, String) {
    let output = succeed(command.arg("--json").arg(json));
    assert!(!output.stdout.is_empty());
    (read_json(json), stderr(&output))
}

#[test]
fn colours_are_told_apart() {
    let bench = Bench::new();
    let (knn, _) = bench.run(&["knn", "--k", "1,5"]);
    for name in ["1-NN", "5-NN"] {
        assert_eq!(knn[name]["top1"], 1.0, "{knn}");
    }
    let images = u64::from((TRAIN + VAL) * 3);
    assert_eq!(knn["images_computed"], images);
    for name in ["images_per_s", "matrix_flops_per_s", "share_of_matrix_rate"] {
        assert!(knn[name].as_f64().unwrap() > 0.0, "{knn}");
    }
    let words = ["linear", "--epochs", "30", "--views", "2", "--batch", "7", "--lr", "0.1,1"];
    let (linear, _) = bench.run(&words);
    assert_eq!(linear["top1"], 1.0, "{linear}");
    assert_eq!(linear["per_lr"].as_object().unwrap().len(), 2, "{linear}");
    assert_eq!(linear["is_exact_protocol"], false);
}

#[test]
fn features_are_the_same_on_any_number_of_threads_in_any_company() {
    let bench = Bench::new();
    let run = |threads: &str| {
        let cache = format!("cache-{threads}");
        let words = ["linear", "--epochs", "3", "--views", "2", "--cache", &cache];
        let mut command = bench.command(&words);
        command.env("OMP_NUM_THREADS", threads);
        let (mut figures, _) = figures(command, &bench.path("figures.json"));
        let figures = figures.as_object_mut().unwrap();
        figures.retain(|name, _| !name.contains("per_s") && !name.contains("second"));
        figures.remove("share_of_matrix_rate");
        let files = bench.cache(&cache).into_iter().map(|path| fs::read(path).unwrap());
        (figures.clone(), files.collect::<Vec<_>>())
    };
    let (one, files) = run("1");
    assert_eq!(files.len(), 3);
    for threads in ["2", "3"] {
        let (other, other_files) = run(threads);
        assert_eq!(one, other);
        assert!(files == other_files, "features with {threads} threads differ");
    }

    let encoder = encoder(&["--random-init", "--arch", "vit_tiny"]);
    let wanted = Wanted { view: View::Centre, image_px: 32, blocks: 4 };
    let features =
        |images: &ImageFolder| cls_features(&encoder, images, wanted, &mut |_| true).unwrap();
    let mut images = ImageFolder::read(&bench.data(), "train").unwrap();
    let whole_NLD = features(&images);
    images.samples.drain(..5);
    let rest_NLD = features(&images);
    let apart = (whole_NLD.narrow(0, 5, rest_NLD.size()[0]) - &rest_NLD).abs().max();
    assert!(apart.double_value(&[]) < 1e-5, "{apart:?}");
    let cls_ND = features(&images).select(1, 3);
    let last = Wanted { blocks: 1, ..wanted };
    let alone_NLD = cls_features(&encoder, &images, last, &mut |_| true).unwrap();
    assert!(cls_ND.equal(&alone_NLD.select(1, 0)));
}

#[test]
fn an_encoder_sees_an_image_once() {
    let bench = Bench::new();
    let (train, val) = (u64::from(TRAIN * 3), u64::from(VAL * 3));
    let linear = ["linear", "--epochs", "4", "--views", "2"];
    let (first, _) = bench.run(&linear);
    assert_eq!(first["images_computed"], 2 * train + val);
    let (second, _) = bench.run(&linear);
    assert_eq!(second["images_computed"], 0);
    assert_eq!(second["images_cached"], 2 * train + val);
    assert_eq!(second["per_lr"], first["per_lr"]);
    // Whoever wants less of val finds it; the centres of train are new.
    let (knn, _) = bench.run(&["knn", "--k", "3"]);
    assert_eq!(knn["images_cached"], val);
    assert_eq!(knn["images_computed"], train);
    // Another seed, size, and image.
    let (other, _) = bench.run(&["knn", "--k", "3", "--seed", "1"]);
    assert_eq!(other["images_cached"], 0);
    let (other, _) = bench.run(&["knn", "--k", "3", "--no-cache"]);
    assert_eq!(other["images_cached"], 0);
    fs::copy(bench.data().join("val/sea/0.png"), bench.data().join("val/sea/9.png")).unwrap();
    let (other, _) = bench.run(&["knn", "--k", "3"]);
    assert_eq!(other["images_cached"], train);
    assert_eq!(other["images_computed"], val + 1);
}

#[test]
fn damaged_features_are_computed_anew() {
    let bench = Bench::new();
    let words = ["knn", "--k", "3", "--cache", "cache"];
    let (whole, said) = bench.run(&words);
    assert!(!said.contains("warning"), "{said}");
    let file = bench.cache("cache").remove(0);
    let bytes = fs::read(&file).unwrap();
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 0x10;
    for damaged in [&bytes[..bytes.len() / 2], &flipped, b"no features", b""] {
        fs::write(&file, damaged).unwrap();
        let (again, said) = bench.run(&words);
        assert!(said.contains("computed anew"), "{said}");
        assert!(said.contains(&*file.file_name().unwrap().to_string_lossy()), "{said}");
        assert_eq!(again["3-NN"], whole["3-NN"]);
        assert!(fs::read(&file).unwrap() == bytes, "the file is not whole again");
    }
    assert_eq!(bench.run(&words).0["images_computed"], 0);
}

#[test]
fn more_neighbours_than_images_are_left_out_and_it_is_said() {
    let bench = Bench::new();
    let (knn, said) = bench.run(&["knn"]);
    assert!(
        said.contains("20, 100, 200 neighbours are left out: train has only 18 images"),
        "{said}"
    );
    assert!(knn["20-NN"].is_null() && knn["10-NN"]["top1"].is_number(), "{knn}");
    let said = refusal(&mut bench.command(&["knn", "--k", "19,20"]));
    check_parts(&said, &["--k 19, 20", "only 18 images"]);
}

#[test]
fn memory_that_is_not_there_is_missed() {
    assert_eq!(shortage(1), None);
    let shortage = shortage(u64::MAX).unwrap().to_string();
    assert!(shortage.starts_with("17179869184.0 GiB of memory, and "), "{shortage}");
}

#[test]
fn wrong_input_gets_a_sentence() {
    let bench = Bench::new();
    let refuse = |words: &[&str], parts: &[&str]| {
        let mut command = dora_eval(&words[..1]);
        if !words.contains(&"--checkpoint") {
            command.args(["--random-init", "--arch", "vit_tiny"]);
        }
        command.args(["--data", "images"]).args(&words[1..]).current_dir(bench.folder.path());
        check_parts(&refusal(&mut command), parts);
    };
    for command in ["knn", "linear"] {
        refuse(&[command, "--image-px", "40"], &["40 px", "patches of 16 px", "give 32 or 48"]);
        refuse(&[command, "--image-px", "8"], &["give 16"]);
        refuse(&[command, "--json", "no/such/folder.json"], &["no/such/folder.json"]);
        refuse(
            &[command, "--cache", "images/val/sea/0.png"],
            &["images/val/sea/0.png", "--no-cache"],
        );
        refuse(&[command, "--checkpoint", "nowhere"], &["nowhere", "does not exist"]);
        refuse(&[command, "--checkpoint", "images/val/sea/0.png"], &["0.png is no encoder"]);
    }
    refuse(&["knn", "--check", "--image-px", "40"], &["give 32 or 48"]);
    refuse(&["knn", "--checkpoint", "x", "--arch", "vit_tiny"], &["--arch", "--checkpoint"]);
    refuse(&["linear", "--lr", "0.1,-1"], &["--lr -1"]);
    refuse(&["linear", "--blocks", "13"], &["last 13 blocks", "has 12"]);
    refuse(&["linear", "--epochs", "5", "--lr", "1e38", "--image-px", "16"], &["--lr smaller"]);

    let empty = bench.data().join("train/zebra");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("notes.txt"), "none yet").unwrap();
    refuse(&["knn"], &["train/zebra is empty"]);
    fs::copy(bench.data().join("val/sea/0.png"), empty.join("0.png")).unwrap();
    refuse(&["knn"], &["`zebra` is in", "images/train and not in", "images/val"]);
    fs::remove_dir_all(&empty).unwrap();

    // The last image is found to be none before there is an encoder.
    let last = bench.data().join("val/sea/2.JPEG");
    let bytes = fs::read(&last).unwrap();
    for (damaged, reason) in
        [(&b""[..], "it is empty"), (b"no image", "Format error"), (&bytes[..20], "val/sea/2.JPEG")]
    {
        fs::write(&last, damaged).unwrap();
        refuse(&["linear", "--checkpoint", "nowhere"], &["cannot read", "val/sea/2.JPEG", reason]);
    }
    fs::remove_file(&last).unwrap();
    symlink("nowhere.jpg", &last).unwrap();
    refuse(&["knn", "--checkpoint", "nowhere"], &["cannot read", "val/sea/2.JPEG", "No such file"]);
    fs::remove_file(&last).unwrap();
    fs::write(&last, bytes).unwrap();

    let image = bench.data().join("train/sea/0.png");
    let bytes = fs::read(&image).unwrap();
    fs::write(&image, &bytes[..bytes.len() / 2]).unwrap();
    refuse(&["knn"], &["cannot read", "train/sea/0.png"]);
    RgbImage::new(1, 2000).save(&image).unwrap();
    refuse(&["linear"], &["train/sea/0.png", "1x2000 px"]);
    fs::write(&image, bytes).unwrap();

    fs::rename(bench.data().join("val"), bench.data().join("test")).unwrap();
    refuse(
        &["knn"],
        &["no folder `val` (it holds `test`, `train`)", "expected ROOT/train/CLASS/IMAGE"],
    );
    let one = bench.path("one");
    fs::create_dir(&one).unwrap();
    let refusal = || refusal(dora_eval(&["knn", "--random-init", "--data"]).arg(&one));
    check_parts(&refusal(), &["no folder `train` (it is empty)"]);
    fs::rename(bench.data(), one.join("train")).unwrap();
    check_parts(&refusal(), &["the class", "is empty"]);
    fs::remove_dir_all(one.join("train/test")).unwrap();
    check_parts(&refusal(), &["the class", "is empty"]);
}

#[test]
fn every_kind_of_image_is_read() {
    let folder = TempDir::new().unwrap();
    let check = |name: &str, bytes: Option<Vec<u8>>, expected: [i64; 3]| {
        let path = folder.path().join(name);
        if let Some(bytes) = bytes {
            fs::write(&path, bytes).unwrap();
        }
        let image_CHW = read_rgb(&path).unwrap();
        assert_eq!(image_CHW.size(), [3, 12, 20], "{name}");
        for (channel, expected) in (0..).zip(expected) {
            let found =
                image_CHW.get(channel).to_kind(tch::Kind::Float).mean(None).double_value(&[]);
            assert!((found - expected as f64).abs() < 3.0, "{name}: {found} in channel {channel}");
        }
    };
    let path = |name: &str| folder.path().join(name);
    RgbaImage::from_pixel(20, 12, Rgba([200, 100, 50, 7])).save(path("clear.png")).unwrap();
    check("clear.png", None, [200, 100, 50]);
    image::GrayImage::from_pixel(20, 12, image::Luma([80])).save(path("grey.jpg")).unwrap();
    check("grey.jpg", None, [80, 80, 80]);
    // A PNG by the name of a JPEG, as ImageNet has one.
    fs::copy(path("clear.png"), path("named.JPEG")).unwrap();
    check("named.JPEG", None, [200, 100, 50]);
    // Bytes that mean nothing before the end, as some editors leave them; but not a cut file with them.
    let mut grey = fs::read(path("grey.jpg")).unwrap();
    grey.splice(grey.len() - 2..grey.len() - 2, [7; 8]);
    check("stray.jpg", Some(grey.clone()), [80, 80, 80]);
    fs::write(path("cut.jpg"), &grey[..grey.len() - 2]).unwrap();
    assert!(read_rgb(&path("cut.jpg")).is_err());
    // Colours of print, as ImageNet has some: 255 is no ink.
    let pixels: Vec<u8> = [255, 128, 255, 255].repeat(20 * 12);
    let image = turbojpeg::Image {
        pixels: pixels.as_slice(),
        width: 20,
        pitch: 80,
        height: 12,
        format: turbojpeg::PixelFormat::CMYK,
    };
    let printed = turbojpeg::compress(image, 95, turbojpeg::Subsamp::None).unwrap();
    check("printed.jpg", Some(printed.to_vec()), [255, 128, 255]);
}

#[test]
fn photographs_are_classified() {
    let Some(root) = real_data("imagenette") else { return };
    let bench = Bench::new();
    let data = bench.path("photographs");
    for (split, count) in [("train", 50), ("val", 40)] {
        let mut classes: Vec<_> =
            fs::read_dir(root.join(split)).unwrap().map(|entry| entry.unwrap().path()).collect();
        classes.sort();
        assert_eq!(classes.len(), 10);
        for class in classes {
            let to = data.join(split).join(class.file_name().unwrap());
            fs::create_dir_all(&to).unwrap();
            let mut images: Vec<_> =
                fs::read_dir(&class).unwrap().map(|entry| entry.unwrap().path()).collect();
            images.sort();
            for image in images.iter().take(count) {
                fs::copy(image, to.join(image.file_name().unwrap())).unwrap();
            }
        }
    }
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dora-eval"));
        command.arg(words[0]).arg("--data").arg(&data).args(&words[1..]);
        command.args(["--random-init", "--arch", "vit_tiny", "--image-px", "64", "--no-cache"]);
        figures(command, &bench.path("figures.json")).0
    };
    // Chance is 0.5; even an untrained encoder tells colours of photographs apart. Of 60 images a random
    // encoder classifies 0.55 to 0.67 by its seed, which is why there are 400.
    let knn = run(&["knn", "--k", "10"]);
    assert!(knn["10-NN"]["top5"].as_f64().unwrap() > 0.6, "{knn}");
    let linear = run(&["linear", "--epochs", "20", "--views", "2", "--lr", "0.1,1"]);
    assert!(linear["top5"].as_f64().unwrap() > 0.65, "{linear}");
    assert_eq!(linear["images_computed"], 10 * (2 * 50 + 40));
}
