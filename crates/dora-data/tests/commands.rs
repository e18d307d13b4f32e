//! `dora-data` as users start it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use dora_store::{FrameStore, IngestOptions, Report, Source, StoreHeader, StoreWriter};
use serde_json::Value;
use tempfile::TempDir;
use turbojpeg::{PixelFormat, Subsamp};

/// A store of 20 frames at ten a second, with a pause of 2 s after the tenth.
fn write_store(folder: &Path, is_complete: bool) {
    let options = IngestOptions {
        short_side_px: 120,
        jpeg_quality: 90,
        start_s: Some(1.0),
        end_s: None,
        ..IngestOptions::default()
    };
    let source = Source { name: "walk.mp4".into(), files: 1, size_bytes: 5_000_000, digest: 1 };
    let (width, height) = (160, 120);
    let (width_px, height_px) = (width as u32, height as u32);
    let header = StoreHeader { source, options, width_px, height_px };
    let (mut writer, _) = StoreWriter::create_or_resume(folder, &header).unwrap();
    for frame in 0..20 {
        let pixels: Vec<u8> =
            (0..width * height * 3).map(|at| (at / 7 % 200 + 2 * frame) as u8).collect();
        let (pixels, format) = (pixels.as_slice(), PixelFormat::RGB);
        let image = turbojpeg::Image { pixels, width, pitch: width * 3, height, format };
        let jpeg = turbojpeg::compress(image, 90, Subsamp::Sub2x2).unwrap();
        let pause_us = if frame < 10 { 0 } else { 2_000_000 };
        writer.push(frame as i64 * 100_000 + pause_us, frame as u64, &jpeg).unwrap();
    }
    if is_complete {
        let notes = vec!["3 of 23 frames are missing or damaged".to_owned()];
        writer.finish(Report { expected_s: None, notes }).unwrap();
    } else {
        writer.flush().unwrap();
    }
}

fn dora_data(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_dora-data")).args(words).output().unwrap()
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

fn read_json(path: &str) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn inspect_tells_and_draws_what_a_store_holds() {
    let folder = TempDir::new().unwrap();
    let (store, json) = (path(&folder, "walk.store"), path(&folder, "walk.json"));
    write_store(Path::new(&store), true);
    let output = dora_data(&["inspect", &store, "--json", &json]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in [
        "complete",
        "walk.mp4 (5.0 MB)",
        "short side 120 px, JPEG quality 90, from 1 s",
        "20 of 160x120 px",
        "0:00:03.9 from 0:00:00.0 on",
        "2.1 s at 0:00:00.9",
        "3 of 23 frames are missing or damaged",
    ] {
        assert!(table.contains(part), "no `{part}` in\n{table}");
    }
    let figures = read_json(&json);
    assert_eq!((&figures["frames"], &figures["complete"]), (&20.into(), &true.into()));
    assert_eq!(figures["gaps"][0]["length_s"], 2.1);
    assert_eq!(figures["max_fps"], 10.0);
    let stored: u64 = fs::metadata(format!("{store}/shard-00000.jpgs")).unwrap().len();
    assert_eq!(figures["bytes"], stored);
    assert!(figures["loader"]["clips_per_s"].as_f64().unwrap() > 0.0);
    // Twenty frames are four rows of five.
    let sheet = image::open(path(&folder, "walk.png")).unwrap();
    assert_eq!(sheet.width(), 5 * (256 + 6) + 6);
    assert_eq!(sheet.height(), 4 * (192 + 15 + 12) + 6);
}

#[test]
fn an_incomplete_store_is_shown_as_such() {
    let folder = TempDir::new().unwrap();
    let (store, sheet) = (path(&folder, "half.store"), path(&folder, "sheet.png"));
    write_store(Path::new(&store), false);
    let output = dora_data(&["inspect", &store, "--sheet", &sheet]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("not complete: `cargo xtask ingest` goes on with it"), "{table}");
    assert!(Path::new(&sheet).exists());
    assert_eq!(FrameStore::open(Path::new(&store)).unwrap().len(), 20);
}

#[test]
fn bench_loader_writes_its_figures() {
    let folder = TempDir::new().unwrap();
    let (store, json) = (path(&folder, "walk.store"), path(&folder, "loader.json"));
    write_store(Path::new(&store), true);
    let words = ["bench", "loader", "--store", &store, "--threads", "1,2", "--seconds", "1"];
    let output = dora_data(&[&words[..], &["--json", &json]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures = read_json(&json);
    let of_threads = figures["loader"].as_array().unwrap();
    assert_eq!(of_threads.len(), 2);
    for (rates, threads) in of_threads.iter().zip(1..) {
        assert_eq!(rates["threads"], threads);
        let rate = |key: &str| rates[key].as_f64().unwrap();
        let (decode, crop) = (rate("decode_clips_per_s"), rate("decode_crop_clips_per_s"));
        assert!(rate("bare_jpeg_frames_per_s") > 0.0);
        assert!(rate("views_clips_per_s") > 0.0 && rate("views_clips_per_s") < crop);
        assert!(crop < decode, "cropped {crop}, decoded {decode}");
    }
}

#[test]
fn wrong_inputs_get_a_sentence_and_status_2() {
    let folder = TempDir::new().unwrap();
    let store = path(&folder, "walk.store");
    write_store(Path::new(&store), true);
    let absent = path(&folder, "absent");
    let unwritable = path(&folder, "no/where.json");
    let refused = |words: &[&str], expected: &str| {
        let output = dora_data(words);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {error}");
        assert!(error.contains(expected), "{words:?}: {error}");
        assert!(output.stdout.is_empty());
    };
    refused(&["inspect", &absent], "is not a frame store: there is no such folder");
    refused(&["bench", "loader", "--store", &absent], "there is no such folder");
    let words = ["bench", "loader", "--store", &store, "--json", &unwritable];
    refused(&words, "give --json a file in a folder that exists");
    refused(&["inspect", &store, "--sheet", &unwritable], "give --sheet a file");

    let shard = format!("{store}/shard-00000.jpgs");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[1000] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    refused(&["inspect", &store], "is damaged: frame 0 in `shard-00000.jpgs`");
    refused(&["bench", "loader", "--store", &store], "is damaged");
    fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    refused(&["inspect", &store], "is cut or missing");
    fs::remove_file(format!("{store}/header")).unwrap();
    refused(&["inspect", &store], "is not a frame store: it has no file `header`");
}
