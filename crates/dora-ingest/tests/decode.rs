//! Frames of every kind of video against those of the `ffmpeg` program: how many, when, and their
//! pixels.

#![allow(clippy::unwrap_used)]

use dora_store::FrameStore;
use opencv::core::{Mat, Vector};
use opencv::imgcodecs::{IMREAD_COLOR, imdecode};
use opencv::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Stored frames have this short side.
const SHORT_SIDE: &str = "180";

/// A few seconds of the toy walk, rendered once; nothing where there is no `ffmpeg` to compare with.
fn walk() -> Option<&'static Path> {
    static WALK: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let walk = WALK.get_or_init(|| {
        for program in ["ffmpeg", "ffprobe"] {
            if Command::new(program).arg("-version").output().is_err() {
                println!("skipped: there is no program `{program}`");
                return None;
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let mut render = Command::new(env!("CARGO_BIN_EXE_dora-ingest"));
        render.args(["toy-walk", "--seconds", "4", "--out"]).arg(folder.path());
        let output = render.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let path = folder.path().join("toy_walk.mp4");
        Some((folder, path))
    });
    walk.as_ref().map(|(_, path)| path.as_path())
}

/// The folder with a video that `ffmpeg` made of the walk with these words.
fn make(walk: &Path, name: &str, words: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-i"]).arg(walk).args(words.split_whitespace()).arg(&path);
    let output = ffmpeg.output().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    (folder, path)
}

fn ingest(path: &Path, stores: &Path, options: &[&str]) -> (FrameStore, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dora-ingest"));
    command.args(["ingest", "--keep-stills", "--short-side", SHORT_SIDE, "--stores"]).arg(stores);
    let output = command.args(options).arg(path).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let store = FrameStore::open(Path::new(String::from_utf8(output.stdout).unwrap().trim_end()));
    (store.unwrap(), said)
}

/// Time stamps in seconds since the first frame, as FFmpeg's programs take them.
fn stamps(path: &Path) -> Vec<f64> {
    stamps_named(path, "best_effort_timestamp_time")
}

fn stamps_named(path: &Path, name: &str) -> Vec<f64> {
    let mut probe = Command::new("ffprobe");
    probe.args(["-v", "quiet", "-select_streams", "v:0", "-of", "csv=p=0", "-show_entries"]);
    let output = probe.arg(format!("frame={name}")).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines =
        text.lines().map(|line| line.trim_matches([',', ' '])).filter(|line| !line.is_empty());
    // A frame without a stamp has nothing to be compared with.
    let stamps: Vec<f64> = lines.map(|line| line.parse().unwrap_or(f64::NAN)).collect();
    let first = stamps.first().copied().unwrap_or(0.0);
    stamps.into_iter().map(|stamp| stamp - first).collect()
}

/// Blue, green and red of every frame, as the `ffmpeg` program scales them.
fn frames(path: &Path, store: &FrameStore) -> Vec<Vec<u8>> {
    let (width, height) = (store.header().width_px, store.header().height_px);
    let scale = format!("scale={width}:{height}:flags=area+accurate_rnd+full_chroma_int");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "quiet", "-i"]).arg(path).args(["-map", "0:v:0", "-vsync", "passthrough"]);
    ffmpeg.args(["-vf", &scale, "-f", "rawvideo", "-pix_fmt", "bgr24", "-"]);
    let output = ffmpeg.output().unwrap();
    let frames = output.stdout.chunks_exact(width as usize * height as usize * 3);
    frames.map(<[u8]>::to_vec).collect()
}

fn pixels(store: &FrameStore, frame: usize) -> Mat {
    imdecode(&Vector::from_slice(store.jpeg(frame).unwrap()), IMREAD_COLOR).unwrap()
}

fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let squares = a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    let mean = squares.sum::<f64>() / a.len() as f64;
    10.0 * (255.0 * 255.0 / mean.max(1e-9)).log10()
}

/// As many frames as `ffmpeg` gives, each at its time and over 35 dB.
fn compare(path: &Path, options: &[&str], said_nothing: bool) -> FrameStore {
    let stores = tempfile::tempdir().unwrap();
    let (store, said) = ingest(path, stores.path(), options);
    let (stamps, frames) = (stamps(path), frames(path, &store));
    let name = path.display();
    assert!(!said_nothing || !said.contains("warning"), "{said}");
    assert!(frames.len() >= 48 || !said_nothing, "{name}: only {} frames", frames.len());
    assert_eq!((store.len(), stamps.len()), (frames.len(), frames.len()), "{name}: {said}");
    let half_s = store.duration_s() / (store.len() - 1) as f64 / 2.0;
    let first_us = store.pts_us(0).unwrap();
    for (frame, (expected, expected_s)) in frames.iter().zip(stamps).enumerate() {
        let time_s = (store.pts_us(frame).unwrap() - first_us) as f64 * 1e-6;
        let off_s = (time_s - expected_s).abs();
        assert!(expected_s.is_nan() || off_s < half_s, "{name}, {frame}: {time_s} {expected_s}");
        let psnr = psnr(pixels(&store, frame).data_bytes().unwrap(), expected);
        assert!(psnr > 35.0, "{name}, frame {frame}: {psnr:.1} dB");
    }
    store
}

fn check(name: &str, words: &str) {
    let Some(walk) = walk() else { return };
    let (_folder, path) = make(walk, name, words);
    compare(&path, &[], true);
}

const X264: &str = "-c:v libx264 -preset veryfast -crf 18 -g 24";

#[test]
fn h264() {
    check("closed.mp4", X264);
    check("front.mp4", &format!("{X264} -movflags +faststart"));
    check("open.mkv", &format!("{X264} -bf 3 -b_strategy 0 -x264-params open-gop=1:scenecut=0"));
    check("one_key.mp4", "-c:v libx264 -preset veryfast -g 999");
    check("stream.ts", X264);
    check("fragments.mp4", &format!("{X264} -movflags frag_keyframe+empty_moov"));
}

#[test]
fn interlaced_odd_and_deep() {
    check("interlaced.mp4", &format!("{X264} -flags +ildct+ilme -x264-params tff=1"));
    check("odd.mp4", &format!("{X264} -vf scale=455:257 -pix_fmt yuv444p"));
    check(
        "odd.webm",
        "-vf scale=455:257 -c:v libvpx-vp9 -deadline realtime -cpu-used 8 -crf 20 -g 24",
    );
    check("deep.mp4", &format!("{X264} -pix_fmt yuv420p10le"));
    check("deep422.mkv", &format!("{X264} -pix_fmt yuv422p10le"));
}

#[test]
fn hevc() {
    let x265 = "-c:v libx265 -preset ultrafast -crf 18 -g 24 -x265-params log-level=none";
    check("hevc.mp4", x265);
    check("hevc10.mp4", &format!("{x265} -pix_fmt yuv420p10le"));
}

#[test]
fn vp9_and_av1() {
    check("vp9.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -crf 20 -g 24");
    check("av1.mp4", "-c:v libsvtav1 -preset 12 -crf 20 -g 24");
}

#[test]
fn mpeg4_and_formats_without_planes() {
    check("mpeg4.mp4", "-c:v mpeg4 -q:v 2 -bf 2 -g 24");
    check("mpeg4.avi", "-c:v mpeg4 -q:v 2 -bf 2 -g 24");
    check("motion.avi", "-c:v mjpeg -q:v 2 -pix_fmt yuvj422p");
    check("rgb.mkv", "-c:v ffv1 -pix_fmt bgr0");
    check("grey.mkv", "-c:v ffv1 -pix_fmt gray");
}

#[test]
fn colours_of_the_matrix_that_the_file_names() {
    for matrix in ["bt709", "smpte240m", "bt2020nc"] {
        let scale = matrix.trim_end_matches("nc");
        let words = format!("-vf scale=out_color_matrix={scale} {X264} -colorspace {matrix}");
        check("colours.mp4", &words);
    }
    check("full.mp4", &format!("-vf scale=out_range=full {X264} -color_range pc"));
}

#[test]
fn variable_rate() {
    let Some(walk) = walk() else { return };
    // Every tenth frame is shown for half a second.
    let words = format!("-vf setpts=PTS+floor(N/10)*0.5/TB -vsync vfr {X264}");
    let (_folder, path) = make(walk, "variable.mp4", &words);
    let all = compare(&path, &[], false);
    // Thinned out, no frame is further than a step from one that is kept.
    let stores = tempfile::tempdir().unwrap();
    let (some, _) = ingest(&path, stores.path(), &["--store-fps", "4"]);
    assert!(some.len() < all.len() / 2, "{} of {}", some.len(), all.len());
    for frame in 0..all.len() {
        let pts_us = all.pts_us(frame).unwrap();
        let kept_us = some.pts_us(some.frame_at_us(pts_us).unwrap()).unwrap();
        assert!(kept_us.abs_diff(pts_us) <= 260_000, "frame {frame}: {pts_us} {kept_us}");
    }
}

#[test]
fn rotated() {
    let Some(walk) = walk() else { return };
    let (folder, path) = make(walk, "straight.mp4", X264);
    for (degrees, is_upright) in [(90, true), (180, false), (270, true)] {
        let turned = folder.path().join(format!("{degrees}.mp4"));
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-i"]).arg(&path).args(["-c", "copy", "-metadata:s:v:0"]);
        assert!(ffmpeg.arg(format!("rotate={degrees}")).arg(&turned).status().unwrap().success());
        let store = compare(&turned, &[], true);
        let header = store.header();
        assert_eq!(header.width_px < header.height_px, is_upright, "{degrees}");
    }
}

#[test]
fn a_damaged_middle() {
    let Some(walk) = walk() else { return };
    let (_folder, path) = make(walk, "damaged.mp4", &format!("{X264} -movflags +faststart"));
    let mut bytes = fs::read(&path).unwrap();
    let (from, to) = (bytes.len() * 5 / 10, bytes.len() * 6 / 10);
    bytes[from..to].fill(0);
    fs::write(&path, bytes).unwrap();
    let stores = tempfile::tempdir().unwrap();
    let (store, said) = ingest(&path, stores.path(), &[]);
    let (stamps, frames) = (stamps(&path), frames(&path, &store));
    // How holes are filled depends on threads, so that a few frames may come or go.
    let (ours, theirs) = (store.len(), frames.len());
    assert!(ours.abs_diff(theirs) <= 5, "{ours} {theirs} {said}");
    assert!(said.contains("damaged"), "{said}");
    for frame in [0, 10, 20] {
        let psnr = psnr(pixels(&store, frame).data_bytes().unwrap(), &frames[frame]);
        assert!(psnr > 35.0, "frame {frame}: {psnr:.1} dB");
        let end = psnr_at(&store, ours - 1 - frame, &frames[theirs - 1 - frame]);
        assert!(end > 35.0, "frame {frame} from the end: {end:.1} dB");
    }
    let last_s = store.pts_us(ours - 1).unwrap() as f64 * 1e-6;
    assert!((last_s - stamps.last().unwrap()).abs() < 0.02);
}

fn psnr_at(store: &FrameStore, frame: usize, expected: &[u8]) -> f64 {
    psnr(pixels(store, frame).data_bytes().unwrap(), expected)
}

#[test]
fn both_decoders_agree() {
    let Some(walk) = walk() else { return };
    let (_folder, path) = make(walk, "both.mp4", X264);
    let ours = compare(&path, &[], true);
    let opencv = compare(&path, &["--decoder", "opencv"], true);
    assert_eq!(ours.len(), opencv.len());
    for frame in 0..ours.len() {
        // OpenCV reckons in floating point.
        assert!(ours.pts_us(frame).unwrap().abs_diff(opencv.pts_us(frame).unwrap()) <= 1);
        let other = pixels(&opencv, frame);
        let psnr = psnr_at(&ours, frame, other.data_bytes().unwrap());
        assert!(psnr > 35.0, "frame {frame}: {psnr:.1} dB");
    }
}

#[test]
fn fewer_frames_are_the_same_frames() {
    let Some(walk) = walk() else { return };
    for (name, words) in [
        ("thin.mp4", format!("{X264} -bf 3 -b_strategy 0")),
        ("thin.webm", "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -crf 20 -g 24".into()),
    ] {
        let (_folder, path) = make(walk, name, &words);
        let stores = tempfile::tempdir().unwrap();
        let (all, _) = ingest(&path, stores.path(), &[]);
        let (some, said) = ingest(&path, stores.path(), &["--store-fps", "4"]);
        assert!(!said.contains("warning"), "{said}");
        assert_eq!((all.len(), some.len()), (96, 16));
        for frame in 0..16 {
            assert_eq!(some.pts_us(frame).unwrap(), all.pts_us(frame * 6).unwrap());
            assert_eq!(some.jpeg(frame).unwrap(), all.jpeg(frame * 6).unwrap(), "frame {frame}");
        }
    }
}

#[test]
fn the_number_of_cores_changes_nothing() {
    let Some(walk) = walk() else { return };
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let core = allowed.trim().split(['-', ',']).next().unwrap();
    if Command::new("taskset").args(["-c", core, "true"]).status().is_err() {
        println!("skipped: there is no program `taskset`");
        return;
    }
    let words = format!("{X264} -bf 3 -b_strategy 0 -x264-params open-gop=1:scenecut=0");
    let (_folder, path) = make(walk, "cores.mp4", &words);
    let stores = tempfile::tempdir().unwrap();
    let (several, said) = ingest(&path, &stores.path().join("several"), &[]);
    // Where there is one core alone, there is nothing to compare.
    let cores = std::thread::available_parallelism().unwrap().get();
    assert!(cores == 1 || said.contains("decoders side by side"), "{said}");
    let mut command = Command::new("taskset");
    command.args([
        "-c",
        core,
        env!("CARGO_BIN_EXE_dora-ingest"),
        "ingest",
        "--short-side",
        SHORT_SIDE,
    ]);
    command.args(["--keep-stills", "--stores"]).arg(stores.path().join("one")).arg(&path);
    let output = command.output().unwrap();
    let one = FrameStore::open(Path::new(String::from_utf8(output.stdout).unwrap().trim_end()));
    let one = one.unwrap();
    assert_eq!((one.len(), several.len()), (96, 96));
    for frame in 0..96 {
        assert_eq!(one.pts_us(frame).unwrap(), several.pts_us(frame).unwrap());
        assert_eq!(one.jpeg(frame).unwrap(), several.jpeg(frame).unwrap(), "frame {frame}");
    }
}

#[test]
fn a_hardware_decoder_that_is_not_there_is_no_reason_to_stop() {
    let Some(walk) = walk() else { return };
    let (_folder, path) = make(walk, "hardware.mp4", X264);
    let stores = tempfile::tempdir().unwrap();
    let (store, said) = ingest(&path, stores.path(), &["--hwaccel", "nonsense"]);
    assert!(said.contains("no hardware decoder `nonsense`"), "{said}");
    assert_eq!(said.matches("no hardware decoder").count(), 1, "{said}");
    assert_eq!(store.len(), 96);
}

#[test]
fn blank_and_frozen_stretches_are_left_out() {
    let Some(walk) = walk() else { return };
    // A second of walk, three black, the last picture of another second for five, and a second.
    let filter = "[0:v]trim=0:1,setpts=PTS-STARTPTS[a];\
                  [0:v]trim=1:2,setpts=PTS-STARTPTS,tpad=stop_mode=clone:stop_duration=5[c];\
                  [0:v]trim=2:3,setpts=PTS-STARTPTS[d];\
                  color=black:s=640x360:r=24:d=3,format=yuv420p[b];\
                  [a][b][c][d]concat=n=4:v=1";
    let (_folder, path) = make(walk, "still.mp4", &format!("-filter_complex {filter} {X264}"));
    let stores = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dora-ingest"));
    command.args(["ingest", "--short-side", SHORT_SIDE, "--stores"]).arg(stores.path());
    let output = command.arg(&path).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let store = FrameStore::open(Path::new(String::from_utf8(output.stdout).unwrap().trim_end()));
    assert!(said.contains("0:00:01.0 to 0:00:04.0 is blank: its 72 frames are left out"), "{said}");
    // Compression may change the frozen picture a little once.
    assert!(said.contains("0:00:10.0 is frozen: its 1"), "{said}");
    assert!((72..=75).contains(&store.unwrap().len()), "{said}");
    assert_eq!(said.matches("warning").count(), 2, "{said}");
    let (all, _) = ingest(&path, stores.path(), &[]);
    assert_eq!(all.len(), 72 + 72 + 120);
}

#[test]
fn stamps_of_real_footage_with_variable_rate() {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("DORA_SHARED").map_or(beside, PathBuf::from);
    let data = shared.join("data/handheld");
    if !data.is_dir() {
        println!("skipped: `{}` does not exist", data.display());
        return;
    }
    if walk().is_none() {
        return;
    }
    for name in ["video-2.m4v", "video-5.m4v"] {
        let path = data.join(name);
        for options in [&[][..], &["--decoder", "opencv"]] {
            let stores = tempfile::tempdir().unwrap();
            let (store, _) = ingest(&path, stores.path(), options);
            let stamps = stamps_named(&path, "pts_time");
            assert_eq!(store.len(), stamps.len());
            let half_s = store.duration_s() / (store.len() - 1) as f64 / 2.0;
            let mut highest_s = f64::NEG_INFINITY;
            for (frame, &expected_s) in stamps.iter().enumerate() {
                // Where the file's own stamps do not rise there is nothing to agree with.
                if expected_s > highest_s {
                    highest_s = expected_s;
                    let off_s = store.pts_us(frame).unwrap() as f64 * 1e-6 - expected_s;
                    assert!(off_s.abs() <= half_s, "{name}, {options:?}, {frame}: {off_s} s off");
                }
            }
        }
    }
}
