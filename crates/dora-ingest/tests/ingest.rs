//! The real binary on real files: good, odd, cut, damaged and interrupted ones.

#![allow(clippy::unwrap_used)]

use dora_store::FrameStore;
use opencv::core::{Mat, Rect, Scalar, Size, Vector};
use opencv::imgcodecs::{IMREAD_COLOR, imdecode, imwrite};
use opencv::imgproc::{FILLED, LINE_8, rectangle};
use opencv::prelude::*;
use opencv::videoio::{CAP_FFMPEG, VideoWriter};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A few frames are not two seconds: going on after them starts again, later a seek is tried.
const FPS: f64 = 50.0;

fn command(stores: &Path, inputs: &[&Path]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dora-ingest"));
    command.arg("ingest").arg("--stores").arg(stores).args(inputs);
    command
}

fn ingest<S: AsRef<OsStr>>(stores: &Path, input: &Path, options: &[S]) -> Output {
    command(stores, &[input]).args(options).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The store that a successful run printed.
fn store_of(output: &Output) -> PathBuf {
    assert!(output.status.success(), "{}", stderr(output));
    let stdout = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
    PathBuf::from(stdout.trim_end())
}

fn open(output: &Output) -> FrameStore {
    FrameStore::open(&store_of(output)).unwrap()
}

const NONE: [&str; 0] = [];

/// A picture that tells its number: a bright square walks over a background that brightens.
fn picture(number: usize, width_px: i32, height_px: i32) -> Mat {
    let level = background(number);
    let mut picture = Mat::new_rows_cols_with_default(
        height_px,
        width_px,
        opencv::core::CV_8UC3,
        Scalar::all(level),
    )
    .unwrap();
    let x = (number as i32 * 5) % (width_px - 20);
    let square = Rect::new(x, height_px / 2, 20, 20);
    rectangle(&mut picture, square, Scalar::all(255.0), FILLED, LINE_8, 0).unwrap();
    picture
}

fn background(number: usize) -> f64 {
    20.0 + (number % 60) as f64 * 3.0
}

/// The background of a stored frame, and its size.
fn look(store: &FrameStore, frame: usize) -> (f64, i32, i32) {
    let bytes = Vector::from_slice(store.jpeg(frame).unwrap());
    let picture = imdecode(&bytes, IMREAD_COLOR).unwrap();
    let corner = picture.at_2d::<opencv::core::Vec3b>(2, 2).unwrap();
    (f64::from(corner[1]), picture.cols(), picture.rows())
}

/// An MPEG-4 file with its index at the end, as OpenCV writes it.
fn video(path: &Path, frames: usize, width_px: i32, height_px: i32) {
    let pictures = (0..frames).map(|number| picture(number, width_px, height_px));
    write_video(path, pictures, width_px, height_px);
}

fn write_video(path: &Path, pictures: impl Iterator<Item = Mat>, width_px: i32, height_px: i32) {
    let fourcc = VideoWriter::fourcc('m', 'p', '4', 'v').unwrap();
    let size = Size::new(width_px, height_px);
    let path = path.to_str().unwrap();
    let mut writer =
        VideoWriter::new_with_backend(path, CAP_FFMPEG, fourcc, FPS, size, true).unwrap();
    assert!(writer.is_opened().unwrap());
    for picture in pictures {
        writer.write(&picture).unwrap();
    }
    writer.release().unwrap();
}

/// The same file with the index before the frames: `moov` moves, its chunk offsets grow.
fn index_first(mp4: &[u8]) -> Vec<u8> {
    let u32_at = |at: usize| u32::from_be_bytes(mp4[at..at + 4].try_into().unwrap()) as usize;
    let (mut before, mut frames, mut index) = (Vec::new(), Vec::new(), Vec::new());
    let mut at = 0;
    while at < mp4.len() {
        let found = &mp4[at..at + u32_at(at)];
        match &found[4..8] {
            b"moov" => index.extend_from_slice(found),
            b"mdat" => frames.extend_from_slice(found),
            _ => before.extend_from_slice(found),
        }
        at += found.len();
    }
    let offsets = index.windows(4).position(|name| name == b"stco").unwrap() + 8;
    let count = u32::from_be_bytes(index[offsets..offsets + 4].try_into().unwrap()) as usize;
    let moved = index.len() as u32;
    for entry in index[offsets + 4..].chunks_exact_mut(4).take(count) {
        let offset = u32::from_be_bytes(entry.try_into().unwrap()) + moved;
        entry.copy_from_slice(&offset.to_be_bytes());
    }
    [before, index, frames].concat()
}

/// All stamps, frame numbers and JPEGs.
fn content(store: &Path) -> Vec<(i64, u64, Vec<u8>)> {
    let store = FrameStore::open(store).unwrap();
    assert!(store.is_complete());
    let frame = |i| {
        let jpeg = store.jpeg(i).unwrap().to_vec();
        (store.pts_us(i).unwrap(), store.source_frame(i).unwrap(), jpeg)
    };
    (0..store.len()).map(frame).collect()
}

#[test]
fn a_video_is_stored_in_order_scaled_and_stamped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("walk.mp4");
    video(&path, 90, 320, 240);
    let output = ingest(folder.path(), &path, &["--short-side", "120"]);
    let said = stderr(&output);
    assert!(said.starts_with(&format!("{}: 90 frames stored", path.display())), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let store = open(&output);
    assert!(store.is_complete() && store.len() == 90);
    assert!(store.complete().unwrap().report.notes.is_empty());
    for frame in 0..90 {
        assert_eq!(store.pts_us(frame).unwrap(), frame as i64 * 20_000);
        assert_eq!(store.source_frame(frame).unwrap(), frame as u64);
        let (level, width_px, height_px) = look(&store, frame);
        assert_eq!((width_px, height_px), (160, 120));
        assert!((level - background(frame)).abs() < 2.5, "frame {frame}: {level}");
    }

    // The best of three, so that a busy machine does not fail the test.
    let again = || {
        let started = Instant::now();
        let output = ingest(folder.path(), &path, &["--short-side", "120"]);
        (started.elapsed(), output)
    };
    let (took, again) = (0..3).map(|_| again()).min_by_key(|(took, _)| *took).unwrap();
    assert!(took < Duration::from_secs(1), "nothing took {took:?}");
    assert!(stderr(&again).contains("nothing to do, its 90 frames are stored"));
    assert_eq!(store_of(&again), store.folder());
    // Never up; and another option is another store.
    let whole = open(&ingest(folder.path(), &path, &NONE));
    assert_eq!((whole.header().width_px, whole.header().height_px), (320, 240));
}

#[test]
fn start_and_end_cut_at_their_times() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("walk.mp4");
    video(&path, 120, 160, 120);
    let output = ingest(folder.path(), &path, &["--start", "0:01.2", "--end", "2"]);
    let store = open(&output);
    // From 1.2 s, the frame 60, to before 2 s, the frame 100.
    let stamps: Vec<i64> = (0..store.len()).map(|i| store.pts_us(i).unwrap()).collect();
    assert_eq!(stamps, (60..100).map(|frame| frame * 20_000).collect::<Vec<i64>>());
    assert!((look(&store, 0).0 - background(60)).abs() < 2.5);
}

/// Kills the binary as soon as the store has a number of frames; gives how many it has then.
fn kill_at(stores: &Path, path: &Path, frames: usize, signal: &str) -> (Output, usize) {
    kill_at_with(stores, path, frames, signal, &[])
}

fn kill_at_with(
    stores: &Path,
    path: &Path,
    frames: usize,
    signal: &str,
    options: &[&str],
) -> (Output, usize) {
    let mut running = command(stores, &[path]);
    running.args(options).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = running.spawn().unwrap();
    let index = || {
        let store = fs::read_dir(stores).ok()?.find_map(|entry| {
            let path = entry.ok()?.path();
            path.extension().is_some_and(|extension| extension == "store").then_some(path)
        })?;
        fs::metadata(store.join("index")).ok()
    };
    let stored = || index().map_or(0, |data| (data.len() as usize).saturating_sub(28) / 40);
    while stored() < frames && running.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_micros(200));
    }
    let id = running.id().to_string();
    let _ = Command::new("kill").args([signal, &id]).stderr(Stdio::null()).status().unwrap();
    let output = running.wait_with_output().unwrap();
    (output, stored())
}

#[test]
fn a_killed_ingest_goes_on_with_the_same_result() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("walk.mp4");
    video(&path, 400, 320, 240);
    let whole = content(&store_of(&ingest(&folder.path().join("whole"), &path, &NONE)));
    assert_eq!(whole.len(), 400);

    let stores = folder.path().join("killed");
    let mut resumed = 0;
    // Before the first batch, then early, where there is nothing to seek, then late.
    for frames in [0, 1, 128, 256, 320] {
        let (output, stored) = kill_at(&stores, &path, frames, "-KILL");
        let going_on = format!("going on after {stored} frames");
        if output.status.success() {
            break;
        }
        if stored > 0 && stored < 400 {
            let (next, _) = kill_at(&stores, &path, stored + 1, "-KILL");
            assert!(stderr(&next).contains(&going_on), "{going_on}: {}", stderr(&next));
            resumed += 1;
        }
    }
    assert!(resumed > 0, "the ingest was too quick to be killed");
    let output = ingest(&stores, &path, &NONE);
    assert!(content(&store_of(&output)) == whole, "{}", stderr(&output));
    assert_eq!(fs::read_dir(&stores).unwrap().count(), 1);
}

/// Blank and frozen stretches, long ones and short ones: what is left out, and what is thinned out,
/// does not depend on where a run was killed.
#[test]
fn killed_runs_leave_out_the_same_stretches() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("still.mp4");
    let (width_px, height_px) = (160, 120);
    let black =
        || Mat::new_rows_cols_with_default(120, 160, opencv::core::CV_8UC3, Scalar::all(0.0));
    let still = |number: usize, frames: usize| std::iter::repeat_n(number, frames);
    let numbers = (0..60)
        .chain(still(60, 70))
        .chain(61..100)
        .chain(still(usize::MAX, 70))
        .chain(100..140)
        .chain(still(140, 130))
        .chain(141..180)
        .chain(still(usize::MAX, 130))
        .chain(180..240);
    let pictures = numbers.map(|number| match number {
        usize::MAX => black().unwrap(),
        number => picture(number, width_px, height_px),
    });
    write_video(&path, pictures, width_px, height_px);
    for options in [&[][..], &["--store-fps", "10"], &["--decoder", "opencv"], &["--start", "1.5"]]
    {
        let stores = folder.path().join(options.join(""));
        let whole = ingest(&stores.join("whole"), &path, options);
        let left_out = stderr(&whole).matches("left out").count();
        assert_eq!(left_out, 2, "{options:?}: {}", stderr(&whole));
        let whole = content(&store_of(&whole));
        let mut resumed = 0;
        for frames in (1..whole.len()).step_by(whole.len() / 8 + 1) {
            let stores = stores.join(frames.to_string());
            let (_, stored) = kill_at_with(&stores, &path, frames, "-KILL", options);
            resumed += usize::from(stored > 0 && stored < whole.len());
            let output = ingest(&stores, &path, options);
            let same = content(&store_of(&output)) == whole;
            assert!(same, "{options:?} after {stored}: {}", stderr(&output));
        }
        assert!(resumed > 0, "{options:?}: every run was too quick to be killed");
    }
}

#[test]
fn an_interrupted_ingest_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("walk.mp4");
    video(&path, 400, 480, 360);
    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        let stores = folder.path().join(signal);
        let (output, stored) = kill_at(&stores, &path, 64, signal);
        assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
        assert!(output.stdout.is_empty() && (64..400).contains(&stored));
        let message =
            format!("interrupted, {stored} frames are stored; run the same command again to go on");
        assert!(stderr(&output).contains(&message), "{}", stderr(&output));
        assert_eq!(open(&ingest(&stores, &path, &NONE)).len(), 400);
    }
}

#[test]
fn images_of_a_folder_or_a_list_are_a_video() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    fs::create_dir(&images).unwrap();
    let name = |number: usize| images.join(format!("f{number}.png"));
    for number in 0..12 {
        let path = name(number);
        imwrite(path.to_str().unwrap(), &picture(number, 80, 64), &Vector::new()).unwrap();
    }
    fs::write(images.join("notes.md"), "not an image").unwrap();
    let store = open(&ingest(folder.path(), &images, &["--fps", "2", "--end", "5"]));
    // Natural order: f9 before f10.
    for frame in 0..10 {
        assert_eq!(store.pts_us(frame).unwrap(), frame as i64 * 500_000);
        assert!((look(&store, frame).0 - background(frame)).abs() < 2.5);
    }
    assert_eq!(store.len(), 10);

    let list = images.join("take.txt");
    fs::write(&list, "images/f7.png\nimages/f3.png\n").unwrap();
    let store = open(&ingest(folder.path(), &list, &["--fps", "1"]));
    assert!((look(&store, 0).0 - background(7)).abs() < 2.5);
    assert!((look(&store, 1).0 - background(3)).abs() < 2.5);

    // A video beside images keeps its own times.
    let path = folder.path().join("walk.mp4");
    video(&path, 50, 80, 64);
    let alone = content(&store_of(&ingest(&folder.path().join("alone"), &path, &NONE)));
    let stores = folder.path().join("mixed");
    let output = command(&stores, &[&list, &path]).args(["--fps", "1"]).output().unwrap();
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    let folders: Vec<&Path> = printed.lines().map(Path::new).collect();
    assert_eq!(folders.len(), 2, "{}", stderr(&output));
    assert_eq!(FrameStore::open(folders[0]).unwrap().pts_us(1).unwrap(), 1_000_000);
    assert_eq!(content(folders[1]), alone);

    imwrite(name(3).to_str().unwrap(), &picture(3, 64, 64), &Vector::new()).unwrap();
    check_bad(&list, &["--fps", "1"], "is 64x64 where the images before are 80x64");
    fs::write(name(3), "no picture").unwrap();
    check_bad(&list, &["--fps", "1"], "f3.png` is not an image that OpenCV can read");
    fs::remove_file(name(3)).unwrap();
    check_bad(&list, &["--fps", "1"], "names `images/f3.png` on line 2, which does not exist");
    check_bad(&images, &NONE, "say with `--fps` how many of them are a second");
}

/// Exit status 2, nothing on stdout, and one line that names the way out; no store is complete.
fn check_bad<S: AsRef<OsStr>>(input: &Path, options: &[S], expected: &str) {
    let stores = tempfile::tempdir().unwrap();
    let output = ingest(stores.path(), input, options);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(output.stdout.is_empty());
    assert!(said.starts_with("error: ") && said.lines().count() == 1, "{said}");
    assert!(said.contains(expected), "{said}");
    let complete = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().path().join("complete");
    assert!(!fs::read_dir(stores.path()).unwrap().map(complete).any(|path| path.exists()));
}

#[test]
fn bad_input_gets_one_clear_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let good = path("good.mp4");
    video(&good, 50, 160, 120);
    let bytes = fs::read(&good).unwrap();
    fs::write(path("empty.mp4"), "").unwrap();
    fs::write(path("text.mp4"), "this is no video, whatever its name says\n".repeat(50)).unwrap();
    fs::write(path("cut.mp4"), &bytes[..bytes.len() / 2]).unwrap();
    fs::create_dir(path("folder")).unwrap();
    fs::copy(&good, path("folder/a.mp4")).unwrap();

    for (name, expected) in [
        ("missing.mp4", "missing.mp4` does not exist"),
        ("empty.mp4", "empty.mp4` is empty; copy or download it again"),
        ("text.mp4", "text.mp4` is not a video that FFmpeg can read"),
        ("cut.mp4", "cut.mp4` is cut: its index (`moov`) is missing"),
        ("folder", "folder` is a folder without images; name the video files in it"),
    ] {
        check_bad(&path(name), &NONE, expected);
    }
    check_bad(
        &good,
        &["--start", "9"],
        "from 0:00:09.0 to its end: its last frame is at 0:00:01.0",
    );
    check_bad(&good, &["--start", "0.605", "--end", "0.615"], "give a longer range");
    check_bad(&good, &["--start", "2", "--end", "1"], "`--start` is at 2 s, not before `--end`");
    check_bad(&good, &["--fps", "5"], "is a video with time stamps of its own; leave out `--fps`");

    let output = ingest(Path::new("/proc/stores"), &good, &NONE);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("cannot make the folder `/proc/stores`"));
    // A bad one beside a good one: known before anything is decoded.
    let missing = path("missing.mp4");
    let output = command(&path("stores"), &[&good, &missing]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(!path("stores").exists());
    // One that fails later does not stop the others.
    let cut = path("cut.mp4");
    let output = command(&path("stores"), &[&cut, &good]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(FrameStore::open(Path::new(stdout.trim_end())).unwrap().len(), 50);
}

#[test]
fn what_decodes_of_a_cut_or_damaged_video_is_kept_and_the_loss_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("walk.mp4");
    video(&path, 300, 320, 240);
    let bytes = index_first(&fs::read(&path).unwrap());
    fs::write(&path, &bytes).unwrap();
    let whole = open(&ingest(folder.path(), &path, &NONE));
    assert_eq!(whole.len(), 300);

    let cut_path = folder.path().join("cut.mp4");
    fs::write(&cut_path, &bytes[..bytes.len() * 6 / 10]).unwrap();
    let output = ingest(folder.path(), &cut_path, &NONE);
    let cut = open(&output);
    assert!((120..220).contains(&cut.len()), "{} frames", cut.len());
    for frame in 0..cut.len() - 1 {
        assert_eq!(cut.jpeg(frame).unwrap(), whole.jpeg(frame).unwrap());
        assert_eq!(cut.pts_us(frame).unwrap(), whole.pts_us(frame).unwrap());
    }
    let said = stderr(&output);
    assert!(said.contains("the file is cut: its last "), "{said}");
    assert!(said.contains(" of 6.0 s could be decoded"), "{said}");
    let notes = &cut.complete().unwrap().report.notes;
    assert!(notes.len() >= 2 && notes.iter().all(|note| said.contains(note)));

    let mut damaged = bytes.clone();
    let (from, to) = (bytes.len() * 5 / 10, bytes.len() * 6 / 10);
    damaged[from..to].fill(0);
    let damaged_path = folder.path().join("damaged.mp4");
    fs::write(&damaged_path, &damaged).unwrap();
    let output = ingest(folder.path(), &damaged_path, &NONE);
    let store = open(&output);
    // The end is there, at its time; something in the middle is reported.
    let last = store.len() - 1;
    assert_eq!(store.pts_us(last).unwrap(), whole.pts_us(299).unwrap());
    assert_eq!(store.jpeg(last).unwrap(), whole.jpeg(299).unwrap());
    assert!(stderr(&output).contains("damaged"), "{}", stderr(&output));
}
