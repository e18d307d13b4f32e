//! Originals from YouTube, through the program `yt-dlp`: it chooses the format, we write it down; it
//! fetches, we show how far it is and say what to do when YouTube refuses.
//!
//! Only the picture is fetched, since nothing here listens: no sound, and no need to join two files.

use crate::child::{self, Ended};
use crate::error::DownloadError;
use crate::http::{Patience, Retry};
use crate::manifest::{Manifest, Tour};
use crate::progress::{Board, Meter};
use crate::record::CONTAINERS;
use crate::stop::Stop;
use crate::text::{bytes, foreign};
use crate::transfer::{check_free, part_path};
use dora_store::atomic;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What OpenCV may be able to read.
const CODECS: &str = "[vcodec~='^(avc1|vp0?9|av01)']";
/// The largest first, then the smoothest. Among those alike, VP9 before H.264, which YouTube compresses
/// harder, and last AV1, which not every build of OpenCV decodes.
const ORDER: &str = "res,fps,hdr:sdr,vcodec:vp9";

/// From this version on, Node.js serves, too, where it is asked for.
const KNOWS_NODE: [u32; 3] = [2025, 11, 12];

/// A `yt-dlp` that runs.
#[derive(Debug, Clone)]
pub(crate) struct Youtube {
    program: PathBuf,
    /// What it says of itself.
    pub(crate) version: String,
    /// The user's own words for it.
    extra: Vec<OsString>,
    max_height_px: u32,
}

/// A stream of a video, as recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Format {
    /// YouTube's number for it.
    pub(crate) id: String,
    pub(crate) codec: String,
    pub(crate) container: String,
    pub(crate) width_px: u32,
    pub(crate) height_px: u32,
    pub(crate) fps: f64,
    /// The program that chose and fetched it.
    pub(crate) by: String,
}

/// What is to be fetched of a tour.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    pub(crate) format: Format,
    pub(crate) size_bytes: Option<u64>,
    /// Whether that is to the byte.
    is_exact: bool,
    pub(crate) author: Option<String>,
    pub(crate) licence: Option<String>,
}

#[derive(Deserialize)]
struct Description {
    id: String,
    format_id: String,
    ext: String,
    #[serde(default)]
    vcodec: Option<String>,
    width: Option<u32>,
    height: Option<u32>,
    fps: Option<f64>,
    filesize: Option<u64>,
    filesize_approx: Option<f64>,
    uploader: Option<String>,
    license: Option<String>,
}

impl Youtube {
    /// The program, if it runs.
    ///
    /// # Errors
    /// It is not there or does not run.
    pub(crate) fn find(
        program: &Path,
        extra: &[OsString],
        max_height_px: u32,
        stop: &Stop,
    ) -> Result<Self, DownloadError> {
        let Some(found) = child::on_path(program) else {
            return Err(DownloadError::Wrong(format!(
                "there is no `{}`, which fetches from YouTube; `cargo xtask download-wt --upgrade-yt-dlp` \
                 brings it, or take `--source figshare`",
                program.display()
            )));
        };
        let mut version = String::new();
        let command = child::tethered(&found, ["--version"]);
        let ended = child::run(command, stop, |line| version = foreign(&line))?;
        if !ended.status.success() || version.is_empty() {
            return Err(DownloadError::Wrong(format!(
                "`{} --version` fails ({}); `cargo xtask download-wt --upgrade-yt-dlp` brings one that runs",
                found.display(),
                foreign(last_error(&ended.complaints))
            )));
        }
        Ok(Self { program: found, version, extra: extra.to_vec(), max_height_px })
    }

    /// Asks which format is the best one of `tour` within the limit.
    ///
    /// # Errors
    /// YouTube or the network refuses, in one sentence with the way out.
    pub(crate) fn choose(
        &self,
        tour: &Tour,
        manifest: &Manifest,
        board: &Board,
        stop: &Stop,
    ) -> Result<Chosen, DownloadError> {
        let limit = format!("bv{CODECS}[height<={}]", self.max_height_px);
        let words = ["--format", &limit, "--format-sort", ORDER, "--dump-json"];
        let command = self.command(tour, &words);
        let mut json = String::new();
        let ended = child::run(command, stop, |line| json.push_str(&line))?;
        if !ended.status.success() {
            return Err(DownloadError::Failed(self.refusal(tour, &ended).1));
        }
        let chosen = self.read(tour, &json)?;
        let expected_px = self.max_height_px.min(manifest.height_px);
        if chosen.format.height_px < expected_px / 2 {
            board.say(&format!(
                "warning: {}: YouTube offers {} lines at most, where {} were published; without a program \
                 that runs JavaScript (deno, Node.js) yt-dlp does not see the better formats",
                tour.word(),
                chosen.format.height_px,
                manifest.height_px
            ));
        }
        Ok(chosen)
    }

    /// Fetches it to `to`, going on with what an earlier run has left.
    ///
    /// # Errors
    /// As for [`Youtube::choose`]; what was fetched stays.
    pub(crate) fn fetch(
        &self,
        tour: &Tour,
        chosen: &Chosen,
        to: &Path,
        retry: Retry,
        board: &Board,
        stop: &Stop,
    ) -> Result<(), DownloadError> {
        check_free(to)?;
        let half_way = half_way(to, tour, &chosen.format);
        let mut meter = board.meter(&tour.word(), "fetching", chosen.size_bytes);
        discard_others(&half_way, tour, &meter)?;
        let mut patience = Patience::new(retry, stop);
        let mut stored = stored_bytes(&half_way);
        if stored > 0 {
            meter.say(&format!("going on after {}", bytes(stored)));
            meter.start_at(stored);
        }
        loop {
            let ended = self.run(tour, chosen, &half_way, &mut meter, stop)?;
            if ended.status.success() {
                break;
            }
            let (is_passing, sentence) = self.refusal(tour, &ended);
            let gained = stored_bytes(&half_way);
            if gained > stored {
                stored = gained;
                patience.renew();
            }
            if !is_passing {
                return Err(DownloadError::Failed(sentence));
            }
            patience.wait(&sentence, None, |line| board.say(line))?;
        }
        let size = fs::metadata(&half_way).map(|data| data.len()).map_err(|_| {
            let version = &self.version;
            DownloadError::Failed(format!(
                "{}: yt-dlp {version} ended well but left no `{}`; `cargo xtask download-wt \
                 --upgrade-yt-dlp` brings the newest one",
                tour.word(),
                half_way.display()
            ))
        })?;
        let expected = chosen.size_bytes.filter(|_| chosen.is_exact).unwrap_or(size);
        if size != expected || size == 0 {
            // Under its own name yt-dlp would take it for whole the next time.
            fs::remove_file(&half_way).map_err(DownloadError::io("remove", &half_way))?;
            return Err(DownloadError::Failed(format!(
                "{}: yt-dlp left {size} bytes where YouTube lists {expected}; run the same command again",
                tour.word()
            )));
        }
        publish(&half_way, to)
    }

    fn run(
        &self,
        tour: &Tour,
        chosen: &Chosen,
        half_way: &Path,
        meter: &mut Meter,
        stop: &Stop,
    ) -> Result<Ended, DownloadError> {
        // In a template of yt-dlp a lone `%` opens a field.
        let output = half_way.to_str().map(|path| path.replace('%', "%%")).ok_or_else(|| {
            let path = half_way.display();
            DownloadError::Wrong(format!("yt-dlp cannot write `{path}`, whose name is not UTF-8"))
        })?;
        let mut words = vec!["--format", &chosen.format.id, "--output", &output];
        words.extend(["--continue", "--part", "--no-mtime", "--newline", "--progress"]);
        words.extend(["--progress-template", "download:at %(progress.downloaded_bytes)s"]);
        let command = self.command(tour, &words);
        child::run(command, stop, |line| {
            let at = line.strip_prefix("at ").and_then(|at| at.parse().ok());
            at.into_iter().for_each(|at| meter.set(at));
        })
    }

    /// The program with what every call has. The user's own configuration may ask for sound, other names
    /// or other formats, so it is left out; what it is needed for (cookies, a proxy) comes after `--`.
    fn command(&self, tour: &Tour, words: &[&str]) -> Command {
        let mut command = child::tethered(&self.program, ["--ignore-config", "--no-playlist"]);
        command.args(["--no-warnings", "--no-update", "--color", "never"]);
        if numbers(&self.version) >= KNOWS_NODE && child::on_path(Path::new("node")).is_some() {
            command.args(["--js-runtimes", "node"]);
        }
        // Of two words that contradict each other the last one counts: ours.
        command.args(&self.extra).args(words).arg(tour.youtube_url());
        command
    }

    fn read(&self, tour: &Tour, json: &str) -> Result<Chosen, DownloadError> {
        let strange = |what: String| {
            DownloadError::Failed(format!(
                "{}: yt-dlp {} describes the video in an unknown way ({what}); `cargo xtask download-wt \
                 --upgrade-yt-dlp` brings the newest one",
                tour.word(),
                self.version
            ))
        };
        let video: Description =
            serde_json::from_str(json).map_err(|error| strange(foreign(&error.to_string())))?;
        let plain = |text: &str| {
            (1..=32).contains(&text.len())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        };
        if video.id != tour.youtube.id {
            return Err(strange(format!("id `{}`", foreign(&video.id))));
        }
        if !plain(&video.format_id) || video.format_id.starts_with('-') {
            return Err(strange(format!("format `{}`", foreign(&video.format_id))));
        }
        if !CONTAINERS.contains(&video.ext.as_str()) {
            return Err(strange(format!("container `{}`", foreign(&video.ext))));
        }
        let approximate = video.filesize_approx.filter(|size| *size >= 0.0).map(|size| size as u64);
        Ok(Chosen {
            size_bytes: video.filesize.or(approximate),
            is_exact: video.filesize.is_some(),
            author: video.uploader.map(|name| foreign(&name)),
            licence: video.license.map(|name| foreign(&name)),
            format: Format {
                id: video.format_id,
                codec: foreign(&video.vcodec.unwrap_or_default()),
                container: video.ext,
                width_px: video.width.unwrap_or(0),
                height_px: video.height.unwrap_or(0),
                fps: video.fps.unwrap_or(0.0),
                by: format!("yt-dlp {}", self.version),
            },
        })
    }

    /// Whether another try may help, and the sentence for the user.
    fn refusal(&self, tour: &Tour, ended: &Ended) -> (bool, String) {
        let error = last_error(&ended.complaints);
        let (is_passing, way_out) = advice(error);
        let error = match error {
            "" => format!("it ended without a word ({})", ended.status),
            error => foreign(error.trim_start_matches("ERROR: ")),
        };
        let (word, version) = (tour.word(), &self.version);
        (is_passing, format!("{word}: yt-dlp {version}: {error}; {way_out}"))
    }
}

impl Chosen {
    /// How much of it an earlier run has left beside `to`.
    pub(crate) fn stored_bytes(&self, to: &Path, tour: &Tour) -> u64 {
        stored_bytes(&half_way(to, tour, &self.format))
    }
}

/// What yt-dlp's way of failing asks for: whether the same again may help, and what the user can do.
fn advice(error: &str) -> (bool, &'static str) {
    const UPGRADE: &str = "YouTube may have changed: `cargo xtask download-wt --upgrade-yt-dlp` brings the \
                           newest yt-dlp; else take `--source figshare`";
    const CASES: &[(&[&str], bool, &str)] = &[
        (
            &["confirm you", "Sign in", "cookies", "age-restricted"],
            false,
            "let it use your browser's session with `-- --cookies-from-browser firefox` (or chrome), or \
             take `--source figshare`",
        ),
        (
            &["429", "Too Many Requests", "rate-limited", "try again later"],
            false,
            "YouTube wants fewer requests: try again in an hour, or take `--source figshare`",
        ),
        (&["No space left"], false, "make room, then run the same command again to go on"),
        (
            &["no such option", "ambiguous option", "Python version"],
            false,
            "`cargo xtask download-wt --upgrade-yt-dlp` brings a newer yt-dlp",
        ),
        (
            &[
                "resolve",
                "Name or service not known",
                "unreachable",
                "Connection refused",
                "No route",
            ],
            false,
            "look for the network and, behind a proxy, at HTTPS_PROXY; then run the same command again \
             to go on",
        ),
        (
            &[
                "timed out",
                "reset by peer",
                "IncompleteRead",
                "bytes read",
                "Connection aborted",
                "HTTP Error 5",
            ],
            true,
            "run the same command again to go on",
        ),
        // An address has expired, or the program is too old: another try tells which.
        (&["HTTP Error 403"], true, UPGRADE),
        (
            &[
                "Private video",
                "removed",
                "terminated",
                "not available in your",
                "Video unavailable",
            ],
            false,
            "take the deposited copy with `--source figshare`",
        ),
    ];
    let case = CASES.iter().find(|(words, ..)| words.iter().any(|word| error.contains(word)));
    case.map_or((false, UPGRADE), |(_, is_passing, way_out)| (*is_passing, *way_out))
}

/// The last line that is marked as an error, else the last one.
fn last_error(complaints: &str) -> &str {
    let lines = || complaints.lines().map(str::trim).filter(|line| !line.is_empty());
    lines()
        .rfind(|line| line.contains("ERROR:") || line.contains("error:"))
        .or_else(|| lines().next_back())
        .unwrap_or("")
}

/// Where yt-dlp writes: with the format in the name, it never goes on with the part of another one.
fn half_way(to: &Path, tour: &Tour, format: &Format) -> PathBuf {
    to.with_file_name(format!("{}.f{}.{}", tour.stem(), format.id, format.container))
}

fn stored_bytes(half_way: &Path) -> u64 {
    let part = part_path(half_way);
    [half_way, &part].iter().find_map(|path| Some(fs::metadata(path).ok()?.len())).unwrap_or(0)
}

/// Removes the parts of formats that are no longer wanted.
fn discard_others(half_way: &Path, tour: &Tour, meter: &Meter) -> Result<(), DownloadError> {
    let folder = half_way.parent().filter(|folder| !folder.as_os_str().is_empty());
    let wanted = half_way.file_name().unwrap_or_default().to_string_lossy();
    let prefix = format!("{}.f", tour.stem());
    for entry in fs::read_dir(folder.unwrap_or(Path::new("."))).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_part = name.ends_with(".part") || name.ends_with(".ytdl");
        if name.starts_with(&prefix) && is_part && !name.starts_with(wanted.as_ref()) {
            let size = entry.metadata().map_or(0, |data| data.len());
            fs::remove_file(entry.path()).map_err(DownloadError::io("remove", &entry.path()))?;
            meter.say(&format!("removed `{name}` ({}), a part of another format", bytes(size)));
        }
    }
    Ok(())
}

fn publish(half_way: &Path, to: &Path) -> Result<(), DownloadError> {
    check_free(to)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    fs::File::open(half_way)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(half_way, to))
        .and_then(|()| atomic::sync_folder(folder.unwrap_or(Path::new("."))))
        .map_err(DownloadError::io("write", to))
}

/// `2025.11.12` as numbers; other words as zeros.
fn numbers(version: &str) -> [u32; 3] {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    [(); 3].map(|()| parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_of_failing_has_its_way_out() {
        for (error, is_passing, expected) in [
            (
                "ERROR: [youtube] fGX0Te6pFvk: Sign in to confirm you\u{2019}re not a bot. Use \
                 --cookies-from-browser or --cookies for the authentication.",
                false,
                "--cookies-from-browser firefox",
            ),
            (
                "ERROR: [youtube] x: Video unavailable. This video has been removed",
                false,
                "figshare",
            ),
            (
                "ERROR: [youtube] x: Requested format is not available. Use --list-formats",
                false,
                "--upgrade-yt-dlp",
            ),
            (
                "ERROR: unable to download video data: HTTP Error 403: Forbidden",
                true,
                "--upgrade-yt-dlp",
            ),
            (
                "ERROR: Unable to download API page: HTTP Error 429: Too Many Requests",
                false,
                "an hour",
            ),
            (
                "ERROR: [youtube] x: Unable to download API page: Failed to resolve 'www.youtube.com'",
                false,
                "HTTPS_PROXY",
            ),
            ("ERROR: unable to write data: [Errno 28] No space left on device", false, "make room"),
            ("ERROR: 4096 bytes read, 100 more expected", true, "same command"),
            ("yt-dlp: error: no such option: --js-runtimes", false, "newer yt-dlp"),
        ] {
            let (passing, way_out) = advice(error);
            assert!(passing == is_passing && way_out.contains(expected), "{error}: {way_out}");
        }
    }

    #[test]
    fn the_error_is_told_from_the_rest() {
        let complaints = "WARNING: old\nERROR: [youtube] x: gone\n  at line 5\n\n";
        assert_eq!(last_error(complaints), "ERROR: [youtube] x: gone");
        assert_eq!(last_error("Traceback\nImportError\n"), "ImportError");
        assert_eq!(last_error(""), "");
    }

    #[test]
    fn versions_are_dates() {
        assert!(numbers("2026.08.19") >= KNOWS_NODE && numbers("2025.11.12") >= KNOWS_NODE);
        assert!(numbers("2025.10.22") < KNOWS_NODE && numbers("unknown") < KNOWS_NODE);
        assert!(numbers("2025.11.12.232933") >= KNOWS_NODE);
    }
}
