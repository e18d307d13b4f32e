//! `dora-eval visualize` as users start it.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

use dora_data::rng::stream;
use dora_model::{Vit, VitConfig};
use dora_store::{IngestOptions, Report, Source, StoreHeader, StoreWriter};
use image::{Rgb, RgbImage};
use tch::no_grad;
use tempfile::TempDir;
use turbojpeg::{PixelFormat, Subsamp};

use crate::workbench::{check_parts, dora_eval, end, path, read_json, refusal, succeed, wait_for};

/// A square that moves over stripes.
fn frame(index: usize, (width, height): (u32, u32)) -> RgbImage {
    let left = 4 * index as u32;
    RgbImage::from_fn(width, height, |x, y| {
        let is_object = (left..left + 40).contains(&x) && (30..80).contains(&y);
        if is_object {
            Rgb([240, 180, 30])
        } else {
            Rgb([(x % 64) as u8 * 2, (y % 50) as u8 * 3, 90])
        }
    })
}

/// A store of frames at ten a second that begins at one minute.
fn write_store(folder: &Path, frames: usize) {
    let source = Source { name: "walk.mp4".into(), files: 1, size_bytes: 5_000_000, digest: 1 };
    let (width_px, height_px) = (160, 120);
    let header = StoreHeader { source, options: IngestOptions::default(), width_px, height_px };
    let (mut writer, _) = StoreWriter::create_or_resume(folder, &header).unwrap();
    for index in 0..frames {
        let picture = frame(index, (width_px, height_px));
        let (width, height) = (width_px as usize, height_px as usize);
        let (pixels, format) = (picture.as_raw().as_slice(), PixelFormat::RGB);
        let image = turbojpeg::Image { pixels, width, pitch: width * 3, height, format };
        let jpeg = turbojpeg::compress(image, 90, Subsamp::Sub2x2).unwrap();
        writer.push(60_000_000 + index as i64 * 100_000, index as u64, &jpeg).unwrap();
    }
    writer.finish(Report::default()).unwrap();
}

fn command(words: &[&str]) -> Command {
    let mut command =
        dora_eval(&["visualize", "--random-init", "--arch", "vit_tiny", "--device", "cpu"]);
    command.args(["--short-side", "70"]).args(words);
    command
}

#[track_caller]
fn drawn(mut command: Command) {
    succeed(&mut command);
}

#[track_caller]
fn refused(mut command: Command, expected: &str) {
    check_parts(&refusal(&mut command), &[expected]);
}

/// Frames of a GIF, and their size.
fn gif(path: &str) -> (usize, (u16, u16)) {
    let mut decoder = gif::DecodeOptions::new().read_info(File::open(path).unwrap()).unwrap();
    let mut frames = 0;
    while decoder.read_next_frame().unwrap().is_some() {
        frames += 1;
    }
    (frames, (decoder.width(), decoder.height()))
}

#[test]
fn a_clip_gives_sheets_and_movies_the_same_at_any_number_of_threads() {
    let folder = TempDir::new().unwrap();
    let (store, out, json) =
        (path(&folder, "a.store"), path(&folder, "out"), path(&folder, "a.json"));
    write_store(Path::new(&store), 20);
    let clip = ["--store", &store, "--out", &out, "--clip", "1:00.2", "--frames", "5"];
    let words = [&clip[..], &["--stride-s", "0.3", "--json", &json]].concat();
    let draw = |threads: &str| {
        let mut command = command(&words);
        command.env("OMP_NUM_THREADS", threads);
        drawn(command);
        ["attention.png", "objects.png", "pca.png", "attention.gif", "tracks.gif", "pca.gif"]
            .map(|name| fs::read(format!("{out}/{name}")).unwrap())
    };
    assert!(draw("1") == draw("2"), "pictures depend on the number of threads");
    // 4 rows of patches of 16 px, and 5 columns.
    let cells = |rows: u32| (14 + 5 * (80 + 4), 23 + rows * (64 + 4));
    for (name, rows) in [("attention", 4), ("objects", 5), ("pca", 2)] {
        let sheet = image::open(format!("{out}/{name}.png")).unwrap();
        assert_eq!((sheet.width(), sheet.height()), cells(rows), "{name}");
    }
    assert_eq!(gif(&format!("{out}/tracks.gif")), (5, (80, 64)));
    assert_eq!(gif(&format!("{out}/pca.gif")), (5, (164, 64)));
    assert_eq!(gif(&format!("{out}/attention.gif")).0, 5);
    let figures = read_json(&json);
    assert_eq!(figures["files"].as_array().unwrap().len(), 6);
    assert_eq!(figures["frames"].as_u64(), Some(5));
    let left: Vec<_> = fs::read_dir(&out).unwrap().collect();
    assert_eq!(left.len(), 6, "{left:?}");
}

#[test]
fn a_video_is_shown_whole_and_in_mp4_where_there_is_ffmpeg() {
    let folder = TempDir::new().unwrap();
    let (store, out) = (path(&folder, "a.store"), path(&folder, "out"));
    write_store(Path::new(&store), 20);
    let words = ["--store", &store, "--out", &out, "--whole", "--frames", "4", "--heads", "2,0"];
    drawn(command(&[&words[..], &["--movie", "gif", "--foreground"]].concat()));
    // 1.9 s, one frame every 0.2 s.
    assert_eq!(gif(&format!("{out}/tracks.gif")).0, 10);

    let mut without = command(&words);
    without.env("PATH", folder.path());
    refused(without, "--movie gif");
    if Command::new("ffmpeg").arg("-version").output().is_err() {
        eprintln!("skipped: MP4 needs the program ffmpeg, which is not here");
        return;
    }
    drawn(command(&words));
    let film = fs::read(format!("{out}/tracks.mp4")).unwrap();
    assert_eq!(&film[4..8], b"ftyp");
    let is_nothing_hidden = |out: &str| {
        let mut files = fs::read_dir(out).unwrap().flatten();
        files.all(|file| !file.file_name().to_string_lossy().starts_with('.'))
    };
    assert!(is_nothing_hidden(&out));

    // What an interrupted one has begun is removed.
    let (store, out) = (path(&folder, "long.store"), path(&folder, "interrupted"));
    write_store(Path::new(&store), 2000);
    let words = ["--store", &store, "--out", &out, "--whole", "--stride-s", "0.1"];
    let mut child = command(&words).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Path::new(&out).join(".pca.mp4.part");
    wait_for("a movie", &mut child, || begun.exists());
    let said = end(child, "TERM", 143);
    check_parts(&said, &["the same command draws anew"]);
    assert!(is_nothing_hidden(&out));
}

#[test]
fn images_are_a_clip_at_the_first_one_s_size() {
    let folder = TempDir::new().unwrap();
    let out = path(&folder, "out");
    let images = [("a.png", (160, 120)), ("b.jpg", (90, 200)), ("c.png", (33, 20))];
    let images = images.map(|(name, size)| {
        frame(3, size).save(path(&folder, name)).unwrap();
        path(&folder, name)
    });
    let words: Vec<&str> = images.iter().map(String::as_str).collect();
    drawn(command(&[&["--out", &out], &words[..]].concat()));
    assert_eq!(gif(&format!("{out}/tracks.gif")), (3, (80, 64)));
    // A single image is a clip, too.
    drawn(command(&["--out", &out, "--layer", "second_last", "--no-sinkhorn", words[0]]));
    assert_eq!(gif(&format!("{out}/tracks.gif")).0, 1);
    refused(command(&["--out", &out, "--whole", words[0]]), "--whole");
    refused(command(&["--out", &out, words[0], "no.png"]), "`no.png` does not exist");
    fs::write(&images[2], "not a picture").unwrap();
    refused(command(&["--out", &out, words[0], words[2]]), "c.png");
    assert_eq!(gif(&format!("{out}/tracks.gif")).0, 1, "an earlier movie is left alone");
}

#[test]
fn objects_are_tracked_as_the_recipe_of_the_run_says() {
    let folder = TempDir::new().unwrap();
    let (store, out, json) =
        (path(&folder, "a.store"), path(&folder, "out"), path(&folder, "a.json"));
    write_store(Path::new(&store), 3);
    let (run, config) =
        (path(&folder, "run"), VitConfig { depth: 2, ..VitConfig::standard(1, 16) });
    let step = format!("{run}/checkpoints/step-1");
    fs::create_dir_all(&step).unwrap();
    let state = Vit::init(&config, &mut stream(0, "test", &[]));
    state.write(Path::new(&format!("{step}/teacher.safetensors"))).unwrap();
    let show = |recipe: &str, words: &[&str]| {
        fs::write(format!("{run}/recipe.toml"), recipe).unwrap();
        let mut command = dora_eval(&["visualize", "--checkpoint", &run, "--device", "cpu"]);
        command.args(["--store", &store, "--out", &out, "--json", &json, "--objects", "1"]);
        if !words.contains(&"--short-side") {
            command.args(["--short-side", "70"]);
        }
        command.args(["--frames", "2"]).args(words);
        command
    };
    let shown = |recipe: &str, words: &[&str]| {
        drawn(show(recipe, words));
        let figures = read_json(&json);
        (figures["layer"].as_str().unwrap().to_owned(), figures["sinkhorn"].as_bool().unwrap())
    };
    let recipe =
        "[model]\narch = \"vit_tiny\"\n[tracker]\nlayer = \"second_last\"\nsinkhorn = false\n";
    assert_eq!(shown("", &[]), ("last".to_owned(), true));
    assert_eq!(shown(recipe, &[]), ("second_last".to_owned(), false));
    assert_eq!(shown(recipe, &["--layer", "last"]), ("last".to_owned(), false));
    refused(
        show("[tracker]\nlayer = \"third\"\n", &[]),
        "recipe.toml, which the encoder was trained by",
    );
    refused(show("[tracker]\neps = 0.0\n", &[]), "`tracker.eps` is 0");
    refused(show("", &["--arch", "vit_tiny"]), "--arch");
    refused(show("", &["--short-side", "4096"]), "patches are the most");
}

#[test]
fn a_wrong_input_gets_one_sentence() {
    let folder = TempDir::new().unwrap();
    let (store, out) = (path(&folder, "a.store"), path(&folder, "out"));
    write_store(Path::new(&store), 20);
    let with = |words: &[&str]| command(&[&["--store", &store, "--out", &out], words].concat());
    refused(with(&["--clip", "0"]), "not within the video, which has 60.0 s to 61.9 s");
    refused(with(&["--clip", "1:02"]), "not within the video");
    refused(with(&["--clip", "60", "--stride-s", "1"]), "not within the video");
    refused(with(&["--clip", "1:2:3:4"]), "h:mm:ss");
    refused(with(&["--clip=-3"]), "h:mm:ss");
    refused(with(&["--stride-s", "0"]), "at least 0.001 s");
    refused(with(&["--frames", "0"]), "--frames");
    refused(with(&["--objects", "4"]), "has 3 heads");
    refused(with(&["--heads", "0,3"]), "the heads 0 to 2");
    refused(with(&["--heads", "1,1"]), "head 1 twice");
    refused(with(&["x.png"]), "--store");
    refused(command(&["--out", &out]), "--store");
    refused(command(&["--out", &out, "--store", &path(&folder, "no")]), "no such folder");
    let file = path(&folder, "file");
    fs::write(&file, "").unwrap();
    refused(command(&["--store", &store, "--out", &file]), "give --out a folder");
    let weights = path(&folder, "nan.safetensors");
    let config = VitConfig { depth: 2, ..VitConfig::standard(1, 16) };
    let state = Vit::init(&config, &mut stream(0, "test", &[]));
    let _ = no_grad(|| state.get("norm.weight").unwrap().fill_(f64::NAN));
    state.write(Path::new(&weights)).unwrap();
    let mut broken = dora_eval(&["visualize", "--checkpoint", &weights, "--device", "cpu"]);
    broken.args(["--objects", "1"]);
    broken.args(["--store", &store, "--out", &path(&folder, "broken")]);
    refused(broken, "not finite");
    let weights = path(&folder, "one.safetensors");
    let config = VitConfig { depth: 1, ..config };
    Vit::init(&config, &mut stream(0, "test", &[])).write(Path::new(&weights)).unwrap();
    let of_one_block = |layer: &str, out: &str| {
        let mut one = Command::new(env!("CARGO_BIN_EXE_dora-eval"));
        one.args(["visualize", "--checkpoint", &weights, "--device", "cpu", "--layer", layer]);
        one.args(["--store", &store, "--out", out, "--objects", "1", "--short-side", "70"]);
        one
    };
    refused(of_one_block("second_last", &out), "--layer second_last: the encoder has one block");
    drawn(of_one_block("last", &path(&folder, "one")));
    let empty = path(&folder, "empty.store");
    write_store(Path::new(&empty), 0);
    refused(command(&["--store", &empty, "--out", &out]), "has no frame");
    assert!(!Path::new(&out).exists(), "nothing is written before the words are checked");
}
