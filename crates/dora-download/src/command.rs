//! The command line: what is here, what is missing, and how it comes.

mod fetch;
mod list;
mod next;

use crate::disk;
use crate::error::DownloadError;
use crate::figshare;
use crate::http::Retry;
use crate::manifest::{Manifest, Source, Tour};
use crate::progress::Board;
use crate::record::{self, Present};
use crate::stop::Stop;
use crate::text::bytes;
use crate::{attribution, blur};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What `dora-download` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Tours to fetch, or `all`; none lists them
    #[arg(value_name = "CITY")]
    pub cities: Vec<String>,
    /// Where from
    #[arg(long, value_enum, default_value_t = Source::Figshare)]
    pub source: Source,
    /// YouTube only: the best format of at most so many lines
    #[arg(long, value_name = "PX", value_parser = clap::value_parser!(u32).range(144..=8192))]
    pub max_height: Option<u32>,
    /// Folder for the videos
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub out: PathBuf,
    /// Files to fetch at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub jobs: u8,
    /// List what would be fetched, and how large it is
    #[arg(long)]
    pub dry_run: bool,
    /// Then write a copy with blurred faces beside each video, with the program `deface`
    #[arg(long)]
    pub blur_faces: bool,
    /// The list of tours
    #[arg(long, value_name = "FILE", default_value = "data/walking_tours.toml")]
    pub manifest: PathBuf,
    /// The program that fetches from YouTube
    #[arg(long, value_name = "PROGRAM", default_value = "yt-dlp")]
    pub yt_dlp: PathBuf,
    /// The program that blurs faces
    #[arg(long, value_name = "PROGRAM", default_value = "deface")]
    pub deface: PathBuf,
    /// Where figshare's API is
    #[arg(long, value_name = "URL", default_value = figshare::API)]
    pub figshare: String,
    /// Tries in a row that bring nothing before a download is given up
    #[arg(long, value_name = "N", default_value_t = Retry::default().tries, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub tries: u32,
    /// YouTube only: options for yt-dlp, such as `--cookies-from-browser firefox`
    #[arg(last = true, value_name = "ARG")]
    pub extra: Vec<OsString>,
}

/// Fetches what is asked for and is not here; prints each video's path on stdout, everything else on
/// stderr.
///
/// A tour that fails is reported and the others go on. The exit status is 0; 2 when something failed
/// that the user can put right, else 1 when something failed; 128 + n when signal n interrupted.
///
/// # Errors
/// What is wrong with all of it: arguments, manifest, room, network.
pub fn run(args: &Args) -> Result<ExitCode, DownloadError> {
    check(args)?;
    let manifest = Manifest::read(&args.manifest)?;
    if args.cities.is_empty() {
        print(&list::tours(&manifest, &args.out))?;
        return Ok(ExitCode::SUCCESS);
    }
    let tours = manifest.select(&args.cities)?;
    let deface = args.blur_faces.then(|| blur::find(&args.deface)).transpose()?;
    let stop = Stop::on_signals().map_err(DownloadError::io("listen for", Path::new("Ctrl-C")))?;
    let board = Board::new();
    match work(args, &manifest, tours, deface.as_deref(), &board, &stop) {
        Err(DownloadError::Stopped) => {
            board.say("interrupted; what was fetched stays, run the same command again to go on");
            Ok(ExitCode::from(stop.status()))
        }
        outcome => outcome,
    }
}

/// The exit status for an error that [`run`] gives.
pub fn status_of(error: &DownloadError) -> u8 {
    if error.is_fixable() { 2 } else { 1 }
}

fn check(args: &Args) -> Result<(), DownloadError> {
    let wrong = |what: &str| Err(DownloadError::Wrong(what.to_owned()));
    if args.source == Source::Figshare && args.max_height.is_some() {
        return wrong(
            "`--max-height` chooses among YouTube's formats, and figshare has one file of each tour; add \
             `--source youtube`",
        );
    }
    if args.source == Source::Figshare && !args.extra.is_empty() {
        return wrong("what follows `--` is for yt-dlp; add `--source youtube`");
    }
    if args.out.exists() && !args.out.is_dir() {
        return Err(DownloadError::Wrong(format!(
            "`{}` is no folder; give one with `--out DIR`",
            args.out.display()
        )));
    }
    Ok(())
}

/// How the tours fared.
#[derive(Default)]
struct Outcome {
    /// The worst exit status so far.
    status: u8,
    /// What to read, in the manifest's order once all are there.
    videos: Vec<Video>,
}

/// A video that is here.
struct Video {
    tour: Tour,
    path: PathBuf,
    source: Source,
}

impl Outcome {
    fn failed(&mut self, error: DownloadError, board: &Board) {
        self.status = self.status.max(status_of(&error));
        board.say(&format!("error: {:#}", anyhow::Error::from(error)));
    }
}

fn work(
    args: &Args,
    manifest: &Manifest,
    tours: Vec<&Tour>,
    deface: Option<&Path>,
    board: &Board,
    stop: &Stop,
) -> Result<ExitCode, DownloadError> {
    let mut outcome = Outcome::default();
    let (missing, unknown) = look_for(&tours, args, &mut outcome, board);
    let mut lock = None;
    if !missing.is_empty() || !unknown.is_empty() {
        let plan = fetch::plan(args, manifest, &missing, &unknown, &mut outcome, board, stop)?;
        if args.dry_run {
            print(&plan.table(&args.out)?)?;
            return Ok(ExitCode::from(outcome.status));
        }
        let blurred_bytes = if deface.is_some() { plan.whole_bytes() } else { 0 };
        disk::check_room(&args.out, plan.missing_bytes().saturating_add(blurred_bytes))?;
        lock = Some(lock_folder(&args.out)?);
        fetch::fetch(args, plan, &mut outcome, board, stop);
        attribution::write(&args.out, manifest)?;
        stop.check()?;
    }
    if args.dry_run {
        return Ok(ExitCode::from(outcome.status));
    }
    if let Some(deface) = deface {
        if lock.is_none() {
            lock = Some(lock_folder(&args.out)?);
        }
        blur_all(args, deface, &mut outcome, board, stop)?;
        attribution::write(&args.out, manifest)?;
    }
    drop(lock);
    let place = |video: &Video| tours.iter().position(|tour| tour.name == video.tour.name);
    outcome.videos.sort_by_key(place);
    for video in &outcome.videos {
        print(&format!("{}\n", video.path.display()))?;
    }
    next::lines(&outcome.videos).iter().for_each(|line| board.say(line));
    Ok(ExitCode::from(outcome.status))
}

/// Tours that are not here, and files that have a tour's name but no record.
type Wanting<'a> = (Vec<&'a Tour>, Vec<(&'a Tour, PathBuf)>);

/// Looks what is here and tells of what needs no more work.
fn look_for<'a>(
    tours: &[&'a Tour],
    args: &Args,
    outcome: &mut Outcome,
    board: &Board,
) -> Wanting<'a> {
    let (mut missing, mut unknown) = (Vec::new(), Vec::new());
    for &tour in tours {
        let blurred = record::look(&args.out, &blur::stem(tour.stem()));
        let (path, record, is_done) = match (blurred, record::look(&args.out, tour.stem())) {
            (Ok(Present::Whole(path, record)), _) if args.blur_faces => (path, record, true),
            (_, Ok(Present::Whole(path, record))) => (path, record, !args.blur_faces),
            (_, Ok(Present::Unknown(path))) => {
                unknown.push((tour, path));
                continue;
            }
            (_, Ok(Present::Nothing)) => {
                missing.push(tour);
                continue;
            }
            (_, Err(error)) => {
                outcome.failed(error, board);
                continue;
            }
        };
        if is_done {
            let (word, shown, source) = (tour.word(), path.display(), record.source);
            board.say(&format!("{word}: nothing to do, `{shown}` is here (from {source})"));
        }
        outcome.videos.push(Video { tour: tour.clone(), path, source: record.source });
    }
    (missing, unknown)
}

/// Blurs one after the other: `deface` takes the whole machine.
fn blur_all(
    args: &Args,
    deface: &Path,
    outcome: &mut Outcome,
    board: &Board,
    stop: &Stop,
) -> Result<(), DownloadError> {
    for video in std::mem::take(&mut outcome.videos) {
        let stem = blur::stem(video.tour.stem());
        let to = args.out.join(format!("{stem}.mp4"));
        if video.path == to {
            outcome.videos.push(video);
            continue;
        }
        let blurred = blur_one(args, deface, &video, &to, board, stop);
        match blurred {
            Ok(()) => outcome.videos.push(Video { path: to, ..video }),
            Err(DownloadError::Stopped) => {
                let word = video.tour.word();
                board.say(&format!("{word}: blurring broke off and begins anew the next time"));
                return Err(DownloadError::Stopped);
            }
            Err(error) => outcome.failed(error, board),
        }
    }
    Ok(())
}

fn blur_one(
    args: &Args,
    deface: &Path,
    video: &Video,
    to: &Path,
    board: &Board,
    stop: &Stop,
) -> Result<(), DownloadError> {
    if to.exists() {
        return Err(DownloadError::Wrong(format!(
            "`{}` is here, but nothing says how it was made; move it away, then run this again",
            to.display()
        )));
    }
    let Present::Whole(_, of_original) = record::look(&args.out, video.tour.stem())? else {
        return Err(DownloadError::Wrong(format!(
            "`{}` is gone; run this again to fetch it",
            video.path.display()
        )));
    };
    let word = video.tour.word();
    disk::check_room(&args.out, of_original.size_bytes)?;
    board.say(&format!("{word}: blurring faces with `{}`; this takes hours", deface.display()));
    blur::blur(deface, &video.path, to, stop)?;
    let mut record = record::Record::new(&video.tour, video.source, of_original.url.clone(), to)?;
    record.changes = Some("faces blurred with deface".to_owned());
    record.fetched = of_original.fetched;
    (record.author, record.licence) = (of_original.author, of_original.licence);
    record.write(&args.out, &blur::stem(video.tour.stem()))?;
    let original = bytes(of_original.size_bytes);
    board.say(&format!(
        "{word}: the original `{}` ({original}) is no longer needed for training",
        video.path.display()
    ));
    Ok(())
}

/// Keeps a second process from writing the same files.
fn lock_folder(folder: &Path) -> Result<File, DownloadError> {
    fs::create_dir_all(folder).map_err(DownloadError::io("make the folder", folder))?;
    let path = folder.join(".walking_tours.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(DownloadError::io("write", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(DownloadError::Wrong(format!(
            "another download writes into `{}`; wait for it, or give another folder with `--out DIR`",
            folder.display()
        ))),
        Err(fs::TryLockError::Error(error)) => Err(DownloadError::io("lock", &path)(error)),
    }
}

fn print(text: &str) -> Result<(), DownloadError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(DownloadError::io("write to", Path::new("stdout"))),
    }
}
