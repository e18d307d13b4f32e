//! `dora-ingest analyze`, the real binary: cuts where scenes join, lightness, classes, bad input.

#![allow(clippy::unwrap_used)]

use opencv::core::{CV_8UC3, Mat, Scalar, Size, Vector};
use opencv::imgcodecs::imwrite;
use opencv::prelude::*;
use opencv::videoio::{CAP_FFMPEG, VideoWriter};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const FPS: f64 = 25.0;

fn command(out: &Path, inputs: &[&Path]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dora-ingest"));
    command.arg("analyze").arg("--out").arg(out).args(inputs);
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What a successful analysis wrote.
struct Written {
    svg: String,
    videos: Vec<HashMap<String, String>>,
    frames: Vec<HashMap<String, String>>,
}

impl Written {
    fn of(output: &Output, out: &Path) -> Self {
        assert!(output.status.success(), "{}", stderr(output));
        let paths = ["figure.svg", "videos.csv", "frames.csv"].map(|name| out.join(name));
        let printed: String = paths.iter().map(|path| format!("{}\n", path.display())).collect();
        assert_eq!(String::from_utf8(output.stdout.clone()).unwrap(), printed);
        assert_eq!(fs::read_dir(out).unwrap().count(), 4, "these and the folder `measured`");
        let rows = |path: &Path| {
            let mut table = csv::Reader::from_path(path).unwrap();
            table.deserialize().map(Result::unwrap).collect()
        };
        Self {
            svg: fs::read_to_string(&paths[0]).unwrap(),
            videos: rows(&paths[1]),
            frames: rows(&paths[2]),
        }
    }

    /// The numbers of the frames that begin a scene.
    fn cuts(&self, video: &str) -> Vec<usize> {
        let rows = self.frames.iter().filter(|row| row["video"] == video && row["cut"] == "1");
        rows.map(|row| row["frame"].parse().unwrap()).collect()
    }
}

fn number(row: &HashMap<String, String>, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column}: `{}`", row[column]))
}

/// A video of plain scenes: colour (blue, green, red) and number of frames.
fn scenes(path: &Path, scenes: &[((f64, f64, f64), usize)]) {
    let fourcc = VideoWriter::fourcc('m', 'p', '4', 'v').unwrap();
    let (name, size) = (path.to_str().unwrap(), Size::new(320, 240));
    let mut writer =
        VideoWriter::new_with_backend(name, CAP_FFMPEG, fourcc, FPS, size, true).unwrap();
    assert!(writer.is_opened().unwrap());
    for (bgr, frames) in scenes {
        let picture = Mat::new_rows_cols_with_default(240, 320, CV_8UC3, Scalar::from(*bgr));
        (0..*frames).for_each(|_| writer.write(picture.as_ref().unwrap()).unwrap());
    }
    writer.release().unwrap();
}

const GREY: (f64, f64, f64) = (119.0, 119.0, 119.0);
const WHITE: (f64, f64, f64) = (255.0, 255.0, 255.0);
const RED: (f64, f64, f64) = (0.0, 0.0, 255.0);

#[test]
fn cuts_lie_at_the_joins_and_lightness_is_that_of_the_scenes() {
    let folder = tempfile::tempdir().unwrap();
    let (calm, film) = (folder.path().join("calm.mp4"), folder.path().join("film <1>.mp4"));
    scenes(&calm, &[(GREY, 80)]);
    // Its last scene begins after the end of the other.
    scenes(&film, &[(GREY, 30), (WHITE, 20), (RED, 40), (WHITE, 60)]);
    let out = folder.path().join("out");
    let output = command(&out, &[&calm, &film]).output().unwrap();
    let written = Written::of(&output, &out);

    // At equal length: the 80 frames of the shorter one.
    assert_eq!(written.frames.len(), 160);
    assert_eq!(written.cuts("calm.mp4"), Vec::<usize>::new());
    assert_eq!(written.cuts("film <1>.mp4"), [30, 50]);
    for row in &written.frames {
        let frame = number(row, "frame");
        assert!((number(row, "time_s") - frame / FPS).abs() < 1e-6);
        let expected = match (&*row["video"], frame as usize) {
            ("calm.mp4", _) | (_, ..30) => 50.0,
            (_, 30..50) => 100.0,
            _ => 53.2,
        };
        assert!((number(row, "lightness") - expected).abs() < 2.0, "{row:?}");
        assert_eq!(row["score"].is_empty(), frame == 0.0);
        assert!(row["classes"].is_empty() && row["classes_so_far"].is_empty());
    }
    let [calm_row, film_row] = &written.videos[..] else { panic!() };
    assert_eq!((&*calm_row["compared_s"], &*calm_row["cuts"]), ("3.200", "0"));
    assert_eq!((&*film_row["compared_s"], &*film_row["cuts"]), ("3.200", "2"));
    assert!(number(calm_row, "lightness_largest_step") < 1.0);
    assert!((number(film_row, "lightness_largest_step") - 50.0).abs() < 2.0);

    assert!(
        written.svg.contains("2 videos at equal length") && written.svg.contains("first 3.2 s")
    );
    assert!(written.svg.contains("film &lt;1&gt;.mp4: 2 cuts"), "{}", written.svg);
    assert!(written.svg.contains("calm.mp4: 0 cuts") && !written.svg.contains("Classes"));
    assert!(stderr(&output).contains("film <1>.mp4: 2 cuts in 3.2 s"), "{}", stderr(&output));

    // Shorter on demand, and what is there is replaced.
    let output = command(&out, &[&film]).args(["--seconds", "1.6"]).output().unwrap();
    let written = Written::of(&output, &out);
    assert_eq!((written.frames.len(), written.cuts("film <1>.mp4")), (40, vec![30]));
}

#[test]
fn classes_come_from_a_file_of_detections() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.mp4"), folder.path().join("b.mp4"));
    scenes(&a, &[(GREY, 50)]);
    scenes(&b, &[(RED, 75)]);
    let file = folder.path().join("found.csv");
    let rows = "video,frame,class\na,0,car\na,0,person\na,0,car\na,20,\na,40,tree\n\
                b,10,car\nb,49,car\nb,60,person\nb,9999,dog\n";
    fs::write(&file, rows).unwrap();
    let out = folder.path().join("out");
    let output = command(&out, &[&a, &b]).arg("--detections").arg(&file).output().unwrap();
    let written = Written::of(&output, &out);
    let looked_at: Vec<_> = written
        .frames
        .iter()
        .filter(|row| !row["classes"].is_empty())
        .map(|row| ["video", "frame", "classes", "classes_so_far"].map(|column| &*row[column]))
        .collect();
    // Only the two seconds that both have.
    let expected = [
        ["a.mp4", "0", "2", "2"],
        ["a.mp4", "20", "0", "2"],
        ["a.mp4", "40", "1", "3"],
        ["b.mp4", "10", "1", "1"],
        ["b.mp4", "49", "1", "1"],
    ];
    assert_eq!(looked_at, expected);
    let figures =
        |row: &HashMap<String, String>| (row["classes_per_frame"].clone(), row["classes"].clone());
    assert_eq!(figures(&written.videos[0]), ("1.000".into(), "3".into()));
    assert_eq!(figures(&written.videos[1]), ("1.000".into(), "1".into()));
    let warning = "b.mp4: ends with frame 74, but detections name 9999";
    assert!(stderr(&output).contains(warning), "{}", stderr(&output));
    assert!(written.svg.contains("(b) Classes per frame") && written.svg.contains("(d) Cuts"));
}

#[test]
fn images_are_a_video_too() {
    let folder = tempfile::tempdir().unwrap();
    let images = folder.path().join("images");
    fs::create_dir(&images).unwrap();
    for (frame, bgr) in [GREY, GREY, RED, RED].into_iter().enumerate() {
        let picture = Mat::new_rows_cols_with_default(48, 64, CV_8UC3, Scalar::from(bgr)).unwrap();
        let path = images.join(format!("{frame}.png"));
        imwrite(path.to_str().unwrap(), &picture, &Vector::new()).unwrap();
    }
    let out = folder.path().join("out");
    let output = command(&out, &[&images]).args(["--fps", "2"]).output().unwrap();
    let written = Written::of(&output, &out);
    assert_eq!((written.frames.len(), written.cuts("images")), (4, vec![2]));
    assert_eq!(written.videos[0]["compared_s"], "2.000");
}

/// Exit status 2, nothing on stdout, one line, and no file.
fn check_bad(inputs: &[&Path], options: &[&str], expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let output = command(&out, inputs).args(options).output().unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(output.stdout.is_empty());
    assert!(said.starts_with("error: ") && said.lines().count() == 1, "{said}");
    assert!(said.contains(expected), "{said}");
    assert!(!out.exists(), "it is wrong before anything is begun");
}

#[test]
fn bad_input_gets_one_clear_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (good, other) = (path("good.mp4"), path("other.mp4"));
    scenes(&good, &[(GREY, 25)]);
    scenes(&other, &[(GREY, 50)]);
    fs::write(path("text.mp4"), "no video\n".repeat(99)).unwrap();
    fs::write(path("found.csv"), "frame,class\n0,car\nx,car\n").unwrap();
    let found = path("found.csv");
    let detections = ["--detections", found.to_str().unwrap()];

    check_bad(&[&good, &path("missing.mp4")], &[], "missing.mp4` does not exist");
    check_bad(&[&good, &path("text.mp4")], &[], "text.mp4` is not a video that FFmpeg can read");
    check_bad(&[&good, &other, &good], &[], "good.mp4` is there twice");
    check_bad(&[&other, &good], &["--seconds", "1.5"], "good.mp4` lasts 1.0 s, less than");
    check_bad(&[&good], &["--seconds", "0"], "`--seconds 0` leaves nothing");
    check_bad(&[&good], &["--fps", "5"], "`--fps` is for images");
    check_bad(&[&good], &detections, "found.csv` is wrong on line 3: the frame is `x`");
    check_bad(&[&good, &other], &detections, "of which of the 2 videos");
    check_bad(&[&good], &["--detections", "/dev/zero"], "`/dev/zero` is no file");

    let output = command(Path::new("/proc/out"), &[&good]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("cannot make the folder `/proc/out`"));
}

#[test]
fn an_interrupted_analysis_goes_on_with_the_next_video() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.mp4"), folder.path().join("b.mp4"));
    scenes(&a, &[(GREY, 500), (RED, 500)]);
    fs::copy(&a, &b).unwrap();
    let out = folder.path().join("out");
    let kept = || {
        let files = fs::read_dir(out.join("measured")).into_iter().flatten();
        let mut files = files.map(|file| file.unwrap().path());
        files.find(|path| path.extension().is_some_and(|extension| extension == "measured"))
    };
    let mut running =
        command(&out, &[&a, &b]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while kept().is_none() && running.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    Command::new("kill").args(["-INT", &running.id().to_string()]).status().unwrap();
    let output = running.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    let said = "interrupted with 1 of 2 videos measured; run the same command again to go on\n";
    assert_eq!(stderr(&output), said);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1, "no tables, none begun");

    let kept = kept().unwrap();
    let (bytes, written) = (fs::read(&kept).unwrap(), fs::metadata(&kept).unwrap().modified());
    let whole = Written::of(&command(&out, &[&a, &b]).output().unwrap(), &out);
    assert_eq!((whole.frames.len(), whole.cuts("a.mp4")), (2000, vec![500]));
    assert_eq!(fs::metadata(&kept).unwrap().modified().unwrap(), written.unwrap());
    // A damaged file is not believed but made again.
    for damaged in [&bytes[..bytes.len() / 2], b"", &[bytes.clone(), vec![0]].concat()] {
        fs::write(&kept, damaged).unwrap();
        let again = Written::of(&command(&out, &[&a, &b]).output().unwrap(), &out);
        assert!(again.frames == whole.frames && fs::read(&kept).unwrap() == bytes);
    }
}

#[test]
fn what_was_measured_serves_another_length() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.mp4"), folder.path().join("b.mp4"));
    scenes(&a, &[(GREY, 100)]);
    scenes(&b, &[(RED, 20), (WHITE, 20)]);
    let out = folder.path().join("out");
    let analysed = |inputs: &[&Path], options: &[&str]| {
        let output = command(&out, inputs).args(options).output().unwrap();
        Written::of(&output, &out)
            .videos
            .iter()
            .map(|row| row["frames"].clone())
            .collect::<Vec<_>>()
    };
    let kept = || {
        let files = fs::read_dir(out.join("measured")).unwrap();
        let mut times: Vec<_> =
            files.map(|file| file.unwrap().metadata().unwrap().modified().unwrap()).collect();
        times.sort();
        times
    };
    // The first one is read a little farther than the second goes; alone, it must be read again.
    assert_eq!(analysed(&[&a, &b], &[]), ["40", "40"]);
    let first = kept();
    assert_eq!(analysed(&[&b], &["--seconds", "1"]), ["25"]);
    assert_eq!(analysed(&[&b, &a], &["--seconds", "0.5"]), ["13", "13"]);
    assert_eq!(kept(), first);
    assert_eq!(analysed(&[&a], &[]), ["100"]);
    assert_ne!(kept(), first);
    let whole = kept();
    assert_eq!(analysed(&[&a, &b], &[]), ["40", "40"]);
    assert_eq!(kept(), whole);
}

/// The folder of real footage, and whether the program `ffmpeg` is there.
fn shared_data() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let shared = std::env::var_os("DORA_SHARED").map_or(beside, PathBuf::from);
    let data = shared.join("data");
    if !data.is_dir() {
        println!("skipped: `{}` does not exist", data.display());
        return None;
    }
    let ffmpeg = Command::new("ffmpeg").arg("-version").stdout(Stdio::null()).status();
    if ffmpeg.is_err() {
        println!("skipped: there is no program `ffmpeg`");
        return None;
    }
    Some(data)
}

#[test]
fn a_walk_has_no_cuts_and_joined_clips_have_theirs() {
    let Some(data) = shared_data() else { return };
    let walk = data.join("walk/walk_a.mp4");
    let clips = ["walk/walk_a.mp4", "handheld/video-1.m4v", "walk/walk_b.mp4"];
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-y"]);
    clips.iter().for_each(|clip| _ = ffmpeg.arg("-i").arg(data.join(clip)));
    // Three seconds of each, at one rate: joins at known frames.
    let pieces: String = (0..clips.len())
        .map(|clip| {
            format!("[{clip}:v]fps=30,setsar=1,trim=end_frame=90,setpts=PTS-STARTPTS[v{clip}];")
        })
        .collect();
    let filter = format!("{pieces}[v0][v1][v2]concat=n=3:v=1[out]");
    let folder = tempfile::tempdir().unwrap();
    let joined = folder.path().join("joined.mp4");
    ffmpeg.args(["-filter_complex", &filter, "-map", "[out]", "-crf", "20"]).arg(&joined);
    let done = ffmpeg.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    let out = folder.path().join("out");
    let output = command(&out, &[&walk, &joined]).output().unwrap();
    let written = Written::of(&output, &out);
    assert_eq!(written.cuts("walk_a.mp4"), Vec::<usize>::new());
    let cuts = written.cuts("joined.mp4");
    assert_eq!(cuts.len(), 2, "{cuts:?}");
    for (cut, join) in cuts.iter().zip([90, 180]) {
        assert!(cut.abs_diff(join) <= 1, "a cut at {cut}, a join at {join}");
    }
    let score = |row: &HashMap<String, String>| row["score"].parse().unwrap_or(0.0);
    let largest = |video: &str| {
        let rows = written.frames.iter().filter(|row| row["video"] == video);
        rows.map(score).fold(0.0, f64::max)
    };
    assert!(largest("walk_a.mp4") < 20.0 && largest("joined.mp4") > 27.0);
}
