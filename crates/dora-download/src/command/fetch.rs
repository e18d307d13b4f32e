//! From tours that are missing to videos that are here.

use super::{Args, Outcome, Video};
use crate::disk;
use crate::error::DownloadError;
use crate::figshare::{self, RemoteFile};
use crate::http::{Client, Retry};
use crate::manifest::{Manifest, Source, Tour};
use crate::progress::Board;
use crate::queue;
use crate::record::Record;
use crate::stop::Stop;
use crate::text::bytes;
use crate::transfer::{Md5, Wanted};
use crate::youtube::{Chosen, Youtube};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The lines of a video as published; what is above has no use here.
const DEFAULT_MAX_HEIGHT_PX: u32 = 2160;

/// What will be fetched.
pub(super) struct Plan {
    jobs: Vec<Job>,
}

struct Job {
    tour: Tour,
    to: PathBuf,
    from: Origin,
}

/// Where a video comes from, with what fetches it.
enum Origin {
    Figshare { client: Client, file: RemoteFile, page: String, licence: Option<String> },
    Youtube { youtube: Youtube, chosen: Chosen },
}

impl Plan {
    /// Bytes still to come, as far as known.
    pub(super) fn missing_bytes(&self) -> u64 {
        self.jobs
            .iter()
            .map(|job| job.whole_bytes().unwrap_or(0).saturating_sub(job.stored_bytes()))
            .sum()
    }

    /// Bytes of the whole videos, as far as known.
    pub(super) fn whole_bytes(&self) -> u64 {
        self.jobs.iter().filter_map(Job::whole_bytes).sum()
    }

    /// What would be fetched, for people.
    pub(super) fn table(&self, out: &Path) -> Result<String, DownloadError> {
        let mut text = String::new();
        for job in &self.jobs {
            let size = job.whole_bytes().map_or("unknown".to_owned(), bytes);
            let what = match &job.from {
                Origin::Figshare { file, .. } => format!("figshare, MD5 {}", file.md5),
                Origin::Youtube { chosen: Chosen { format, .. }, .. } => format!(
                    "YouTube, {}x{}, {} frames/s, {}, format {}",
                    format.width_px, format.height_px, format.fps, format.codec, format.id
                ),
            };
            let stored = match job.stored_bytes() {
                0 => String::new(),
                stored => format!(", {} of it here", bytes(stored)),
            };
            let (word, to) = (job.tour.word(), job.to.display());
            let _ = writeln!(text, "{word:<13} {size:>9}  {to}  ({what}{stored})");
        }
        let (missing, free) = (bytes(self.missing_bytes()), bytes(disk::free_bytes(out)?));
        let _ = writeln!(text, "{:<13} {missing:>9}  to fetch; {free} are free", "together");
        Ok(text)
    }
}

impl Job {
    fn whole_bytes(&self) -> Option<u64> {
        match &self.from {
            Origin::Figshare { file, .. } => Some(file.size_bytes),
            Origin::Youtube { chosen, .. } => chosen.size_bytes,
        }
    }

    fn stored_bytes(&self) -> u64 {
        match &self.from {
            Origin::Figshare { file, .. } => {
                wanted(&self.tour.word(), file, &self.to).stored_bytes()
            }
            Origin::Youtube { chosen, .. } => chosen.stored_bytes(&self.to, &self.tour),
        }
    }

    fn fetch(&self, retry: Retry, board: &Board, stop: &Stop) -> Result<Record, DownloadError> {
        match &self.from {
            Origin::Figshare { client, file, page, licence } => {
                let word = self.tour.word();
                wanted(&word, file, &self.to).fetch(client, retry, board, stop)?;
                deposited(&self.tour, file, page, licence, &self.to)
            }
            Origin::Youtube { youtube, chosen } => {
                youtube.fetch(&self.tour, chosen, &self.to, retry, board, stop)?;
                let url = self.tour.youtube_url();
                let mut record = Record::new(&self.tour, Source::Youtube, url, &self.to)?;
                record.author.clone_from(&chosen.author);
                record.licence.clone_from(&chosen.licence);
                record.format = Some(chosen.format.clone());
                Ok(record)
            }
        }
    }
}

/// Finds out where each of `missing` comes from and how large it is. Videos in `unknown` that prove to be
/// the deposited ones are recorded as such; the others are left as they are.
pub(super) fn plan(
    args: &Args,
    manifest: &Manifest,
    missing: &[&Tour],
    unknown: &[(&Tour, PathBuf)],
    outcome: &mut Outcome,
    board: &Board,
    stop: &Stop,
) -> Result<Plan, DownloadError> {
    match args.source {
        Source::Figshare => figshare_plan(args, manifest, missing, unknown, outcome, board, stop),
        Source::Youtube => {
            for (tour, path) in unknown {
                outcome.failed(in_the_way(tour, path, "nothing says where it is from"), board);
            }
            let max_height_px = args.max_height.unwrap_or(DEFAULT_MAX_HEIGHT_PX);
            let youtube = Youtube::find(&args.yt_dlp, &args.extra, max_height_px, stop)?;
            let mut jobs = Vec::new();
            for &tour in missing {
                match youtube.choose(tour, manifest, board, stop) {
                    Ok(chosen) => jobs.push(Job {
                        to: args.out.join(format!("{}.{}", tour.stem(), chosen.format.container)),
                        tour: tour.clone(),
                        from: Origin::Youtube { youtube: youtube.clone(), chosen },
                    }),
                    Err(DownloadError::Stopped) => return Err(DownloadError::Stopped),
                    Err(error) => outcome.failed(error, board),
                }
            }
            Ok(Plan { jobs })
        }
    }
}

fn figshare_plan(
    args: &Args,
    manifest: &Manifest,
    missing: &[&Tour],
    unknown: &[(&Tour, PathBuf)],
    outcome: &mut Outcome,
    board: &Board,
    stop: &Stop,
) -> Result<Plan, DownloadError> {
    let api = args.figshare.trim_end_matches('/');
    let client = Client::new(api);
    let tours: Vec<&Tour> =
        missing.iter().chain(unknown.iter().map(|(tour, _)| tour)).copied().collect();
    let article = manifest.figshare_article;
    let item =
        figshare::item(&client, api, article, &tours, retry(args), stop, |line| board.say(line))?;
    for (tour, path) in unknown {
        let adopted = item.file_of(tour).and_then(|file| {
            if !is_deposited(tour, file, path, args.dry_run, board, stop)? {
                return Err(in_the_way(tour, path, "it is not figshare's copy"));
            }
            if !args.dry_run {
                let record = deposited(tour, file, &item.page, &item.licence, path)?;
                record.write(&args.out, tour.stem())?;
            }
            Ok(())
        });
        match adopted {
            Ok(()) => {
                let (word, shown) = (tour.word(), path.display());
                board.say(&format!("{word}: nothing to do, `{shown}` is figshare's copy"));
                let (tour, path) = ((*tour).clone(), path.clone());
                outcome.videos.push(Video { tour, path, source: Source::Figshare });
            }
            Err(DownloadError::Stopped) => return Err(DownloadError::Stopped),
            Err(error) => outcome.failed(error, board),
        }
    }
    let mut jobs = Vec::new();
    for &tour in missing {
        match item.file_of(tour) {
            Ok(file) => jobs.push(Job {
                tour: tour.clone(),
                to: args.out.join(&tour.figshare.file),
                from: Origin::Figshare {
                    client: client.clone(),
                    file: file.clone(),
                    page: item.page.clone(),
                    licence: item.licence.clone(),
                },
            }),
            Err(error) => outcome.failed(error, board),
        }
    }
    Ok(Plan { jobs })
}

/// Fetches all of it, several at a time.
pub(super) fn fetch(args: &Args, plan: Plan, outcome: &mut Outcome, board: &Board, stop: &Stop) {
    let retry = retry(args);
    let places: Vec<(Tour, PathBuf)> =
        plan.jobs.iter().map(|job| (job.tour.clone(), job.to.clone())).collect();
    let work = {
        let (board, stop) = (board.clone(), stop.clone());
        move |job: &Job| job.fetch(retry, &board, &stop)
    };
    queue::run(plan.jobs, usize::from(args.jobs), stop, work, |place, result| {
        let (tour, path) = places[place].clone();
        let recorded = result.and_then(|record| {
            record.write(&args.out, tour.stem())?;
            Ok(record)
        });
        match recorded {
            Ok(record) => {
                let (word, size, shown) = (tour.word(), bytes(record.size_bytes), path.display());
                let checked = if record.md5.is_some() { ", checksum right" } else { "" };
                board.say(&format!("{word}: fetched, `{shown}` ({size}{checked})"));
                outcome.videos.push(Video { tour, path, source: record.source });
            }
            Err(DownloadError::Stopped) => {}
            Err(error) => outcome.failed(error, board),
        }
    });
}

fn retry(args: &Args) -> Retry {
    Retry { tries: args.tries, ..Retry::default() }
}

fn wanted<'a>(word: &'a str, file: &'a RemoteFile, to: &'a Path) -> Wanted<'a> {
    Wanted { name: word, urls: &file.urls, size_bytes: file.size_bytes, md5: file.md5, to }
}

fn deposited(
    tour: &Tour,
    file: &RemoteFile,
    page: &str,
    licence: &Option<String>,
    path: &Path,
) -> Result<Record, DownloadError> {
    let mut record = Record::new(tour, Source::Figshare, page.to_owned(), path)?;
    record.md5 = Some(file.md5);
    record.licence.clone_from(licence);
    Ok(record)
}

/// Whether a video that lies there is the deposited one: to the byte, or `by_size` alone.
fn is_deposited(
    tour: &Tour,
    file: &RemoteFile,
    path: &Path,
    by_size: bool,
    board: &Board,
    stop: &Stop,
) -> Result<bool, DownloadError> {
    let size = std::fs::metadata(path).map_err(DownloadError::io("read", path))?.len();
    if size != file.size_bytes || by_size {
        return Ok(size == file.size_bytes);
    }
    let mut meter = board.meter(&tour.word(), "checking", Some(size));
    Ok(Md5::of_file(path, &mut meter, stop)? == file.md5)
}

fn in_the_way(tour: &Tour, path: &Path, why: &str) -> DownloadError {
    DownloadError::Wrong(format!(
        "{}: `{}` is here and stays, but {why}; use it as it is, or move it away and run this again",
        tour.word(),
        path.display()
    ))
}
