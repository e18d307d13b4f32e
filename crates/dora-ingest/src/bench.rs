//! `dora-ingest bench`: how fast a 4K video becomes a frame store, beside what the `ffmpeg` program
//! needs to decode it, and to decode it into JPEG files.

use crate::command::stop_on_signals;
use crate::ingest::{Outcome, ingest};
use crate::input::{Input, Means};
use crate::usage::{cpu_s, peak_memory_bytes};
use anyhow::{Context, bail, ensure};
use dora_store::IngestOptions;
use serde::Serialize;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Seconds of video for each core: some key frames for every decoder.
const SECONDS_PER_CORE: u64 = 10;
/// How often to look whether a program has ended.
const POLL: Duration = Duration::from_millis(10);

/// What `dora-ingest bench` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The video that is scaled to 4K and repeated; not changed
    #[arg(long, value_name = "FILE")]
    pub video: PathBuf,
    /// How long a video to measure (default: 10 for each core)
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: Option<u64>,
    /// How often to measure; medians count
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub rounds: u32,
    /// Folder for the 4K video, which is kept, and for what is written while measuring
    #[arg(long, value_name = "DIR", default_value = "data/bench")]
    pub work: PathBuf,
    /// Write the figures to a file, too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// The figures; medians of the rounds.
#[derive(Debug, Serialize)]
struct Figures {
    ours_fps: f64,
    ffmpeg_extract_fps: f64,
    decode_only_fps: f64,
    /// Of the ingest.
    peak_memory_bytes: u64,
    ours_cpu_ms_per_frame: f64,
    ffmpeg_extract_cpu_ms_per_frame: f64,
    decode_only_cpu_ms_per_frame: f64,
    frames: usize,
    video_bytes: u64,
    cores: usize,
    rounds: Vec<Round>,
}

/// Frames a second, in the order in which they were measured.
#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    decode_only: Pace,
    ours: Pace,
    ffmpeg_extract: Pace,
}

/// How fast frames went by.
#[derive(Debug, Clone, Copy, Serialize)]
struct Pace {
    fps: f64,
    cpu_ms_per_frame: f64,
}

/// Measures and prints; the exit status is 128 + n when signal n interrupted.
///
/// # Errors
/// There is no `ffmpeg`, it cannot read the video, or the disk is full.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let version = Command::new("ffmpeg").arg("-version").stderr(Stdio::null()).output();
    ensure!(
        version.is_ok_and(|output| output.status.success()),
        "there is no program `ffmpeg`, which makes the 4K video and is measured beside the ingest; \
         install the package `ffmpeg`"
    );
    ensure!(args.video.is_file(), "`{}` is not a video file", args.video.display());
    if let Some(path) = &args.json {
        // Before minutes of measuring.
        dora_store::atomic::check_writable(path).with_context(|| cannot_write(path))?;
    }
    crate::quiet::silence_ffmpeg(true);
    let (stop, signal) = stop_on_signals().context("cannot listen for Ctrl-C")?;
    let measured = measure(args, &stop);
    if stop.load(Ordering::Relaxed) {
        return Ok(ExitCode::from(128 + signal.load(Ordering::Relaxed) as u8));
    }
    let figures = measured?;
    write!(std::io::stdout(), "{}", figures.table()).context("cannot write to stdout")?;
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&figures)? + "\n";
        dora_store::atomic::write_file(path, text.as_bytes())
            .with_context(|| cannot_write(path))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn cannot_write(path: &Path) -> String {
    format!(
        "cannot write `{}`; give --json a file in a folder that exists and may be written",
        path.display()
    )
}

fn measure(args: &Args, stop: &AtomicBool) -> anyhow::Result<Figures> {
    let work = &args.work;
    fs::create_dir_all(work).with_context(|| format!("cannot make `{}`", work.display()))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let seconds = args.seconds.unwrap_or(SECONDS_PER_CORE * cores as u64);
    let video = make_video(&args.video, work, seconds, stop)?;
    let scratch = tempfile::tempdir_in(work)
        .with_context(|| format!("cannot write into `{}`", work.display()))?;

    let mut rounds = Vec::new();
    let (mut frames, mut peak_bytes) = (0, 0);
    for number in 1..=args.rounds {
        eprintln!("round {number} of {}: decoding only", args.rounds);
        let mut decode = ffmpeg();
        decode.arg("-i").arg(&video).args(["-map", "0:v:0", "-f", "null", "-"]);
        let decode = timed(|| run_to_end(&mut decode, stop))?;

        eprintln!("round {number} of {}: ingest", args.rounds);
        let stores = scratch.path().join("stores");
        let ours = timed(|| {
            let input = Input::identify(&video)?;
            match ingest(&input, &IngestOptions::default(), &Means::default(), &stores, stop)? {
                Outcome::Complete { frames: stored, .. } => frames = stored,
                _ => bail!("interrupted"),
            }
            Ok(())
        })?;
        peak_bytes = peak_memory_bytes().unwrap_or(0);
        remove(&stores)?;

        eprintln!("round {number} of {}: ffmpeg into JPEG files", args.rounds);
        let jpegs = scratch.path().join("jpegs");
        fs::create_dir(&jpegs).with_context(|| format!("cannot make `{}`", jpegs.display()))?;
        let mut extract = ffmpeg();
        extract.arg("-i").arg(&video).args(["-vf", "scale=-2:576:flags=area", "-q:v", "3"]);
        let extract = timed(|| run_to_end(extract.arg(jpegs.join("%06d.jpg")), stop))?;
        remove(&jpegs)?;

        let pace = |(wall_s, cpu_s): (f64, f64)| Pace {
            fps: frames as f64 / wall_s,
            cpu_ms_per_frame: cpu_s * 1e3 / frames as f64,
        };
        rounds.push(Round {
            decode_only: pace(decode),
            ours: pace(ours),
            ffmpeg_extract: pace(extract),
        });
    }
    let fps = |of: fn(&Round) -> Pace| median(rounds.iter().map(|round| of(round).fps).collect());
    let cpu = |of: fn(&Round) -> Pace| {
        median(rounds.iter().map(|round| of(round).cpu_ms_per_frame).collect())
    };
    Ok(Figures {
        ours_fps: fps(|round| round.ours),
        ffmpeg_extract_fps: fps(|round| round.ffmpeg_extract),
        decode_only_fps: fps(|round| round.decode_only),
        peak_memory_bytes: peak_bytes,
        ours_cpu_ms_per_frame: cpu(|round| round.ours),
        ffmpeg_extract_cpu_ms_per_frame: cpu(|round| round.ffmpeg_extract),
        decode_only_cpu_ms_per_frame: cpu(|round| round.decode_only),
        frames,
        video_bytes: fs::metadata(&video).map_or(0, |data| data.len()),
        cores,
        rounds,
    })
}

/// A 4K video at 60 frames a second and about 40 Mbit/s, with a key frame every 5 seconds; made once.
fn make_video(
    from: &Path,
    work: &Path,
    seconds: u64,
    stop: &AtomicBool,
) -> anyhow::Result<PathBuf> {
    let stem = from.file_stem().unwrap_or_default().to_string_lossy();
    let video = work.join(format!("{stem}-4k60-{seconds}s.mp4"));
    if video.exists() {
        return Ok(video);
    }
    eprintln!("making `{}`: this takes several times its {seconds} s, once", video.display());
    let part = work.join(format!("{stem}-4k60-{seconds}s.part.mp4"));
    let mut make = ffmpeg();
    make.args(["-y", "-stream_loop", "-1", "-i"]).arg(from).args(["-t", &seconds.to_string()]);
    // A camera's noise, without which the file would be smaller and decode faster.
    make.args(["-vf", "scale=3840:2160,fps=60,noise=alls=5:allf=t", "-pix_fmt", "yuv420p", "-an"]);
    make.args(["-c:v", "libx264", "-preset", "veryfast", "-b:v", "40M", "-maxrate", "48M"]);
    make.args(["-bufsize", "80M", "-g", "300", "-keyint_min", "300", "-sc_threshold", "0"]);
    let made = run_to_end(make.arg(&part), stop);
    let made = made.and_then(|()| Ok(fs::rename(&part, &video)?));
    if made.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&part);
    }
    made.with_context(|| format!("cannot make a 4K video of `{}`", from.display()))?;
    Ok(video)
}

fn ffmpeg() -> Command {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin"]);
    ffmpeg
}

/// Runs a program to its end; ends it when a signal comes.
fn run_to_end(command: &mut Command, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut child = command.spawn().context("cannot start `ffmpeg`")?;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for `ffmpeg`")? {
            ensure!(status.success(), "`ffmpeg` failed");
            return Ok(());
        }
        if stop.load(Ordering::Relaxed) {
            let _ = child.kill();
            let _ = child.wait();
            bail!("interrupted");
        }
        sleep(POLL);
    }
}

/// Seconds on the clock and of processor time.
fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<(f64, f64)> {
    let (started, before_s) = (Instant::now(), cpu_s().unwrap_or(0.0));
    work()?;
    Ok((started.elapsed().as_secs_f64(), cpu_s().unwrap_or(0.0) - before_s))
}

fn remove(folder: &Path) -> anyhow::Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove `{}`", folder.display()))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

impl Figures {
    fn table(&self) -> String {
        let seconds = self.frames as f64 / 60.0;
        let mut text = format!(
            "3840x2160 H.264, 60 frames/s, {:.0} Mbit/s, {} frames, {} core(s); medians of {}\n",
            self.video_bytes as f64 * 8e-6 / seconds,
            self.frames,
            self.cores,
            self.rounds.len(),
        );
        let rows = [
            ("decode only", self.decode_only_fps, self.decode_only_cpu_ms_per_frame),
            ("ingest", self.ours_fps, self.ours_cpu_ms_per_frame),
            ("ffmpeg to JPEGs", self.ffmpeg_extract_fps, self.ffmpeg_extract_cpu_ms_per_frame),
        ];
        for (name, fps, cpu_ms) in rows {
            let ratio = fps / self.decode_only_fps;
            text += &format!(
                "{name:<15}  {fps:6.1} frames/s  {ratio:.2} of decoding  {cpu_ms:5.1} ms of CPU a frame\n"
            );
        }
        text + &format!(
            "ingest is {:.2} times as fast as ffmpeg; its memory was {:.0} MB at most\n",
            self.ours_fps / self.ffmpeg_extract_fps,
            self.peak_memory_bytes as f64 / 1e6,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
    }
}
