//! One file over HTTP, whatever happens on the way.
//!
//! Bytes go to `NAME.part`; beside it, `NAME.part.json` says which file they are part of, so that
//! nothing is ever appended to the part of another one. A broken connection is taken up again at the
//! byte where it broke (RFC 9110: `Range`, with `If-Range` where the server gave a strong tag). The
//! part gets its final name once its size and its MD5 are right.

use crate::error::DownloadError;
use crate::http::{Client, Hitch, Patience, Retry, failed};
use crate::progress::{Board, Meter};
use crate::stop::Stop;
use crate::text::bytes;
use dora_store::atomic;
use md5::Digest;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use ureq::Body;
use ureq::http::{HeaderMap, Response, StatusCode, header};

/// Read from the network or the disk at once.
const BUFFER_BYTES: usize = 256 << 10;
/// Far more than a sidecar takes.
const LARGEST_SIDECAR_BYTES: u64 = 64 << 10;

/// An MD5 sum: it tells damage, not malice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Md5([u8; 16]);

/// What to fetch.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What messages call it.
    pub name: &'a str,
    /// Where it is, the best address first.
    pub urls: &'a [String],
    /// Its size.
    pub size_bytes: u64,
    /// Its checksum.
    pub md5: Md5,
    /// Its final name.
    pub to: &'a Path,
}

/// Which file a part belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Sidecar {
    size_bytes: u64,
    md5: Md5,
    /// The server's strong tag for it, in its quotes.
    etag: Option<String>,
}

impl Wanted<'_> {
    /// Fetches the file, or what is missing of it.
    ///
    /// # Errors
    /// Something of the final name is there already; the server does not give the file, or another one
    /// than was listed; the disk is full. What was fetched stays, except where it proved wrong.
    pub fn fetch(
        &self,
        client: &Client,
        retry: Retry,
        board: &Board,
        stop: &Stop,
    ) -> Result<(), DownloadError> {
        check_free(self.to)?;
        let mut part = Part::open(self, board, stop)?;
        let mut second = false;
        loop {
            part.fill(client, retry, stop)?;
            let sum = part.sum();
            if sum == self.md5 {
                return part.publish();
            }
            part.clear()?;
            let expected = self.md5;
            if second {
                return Err(DownloadError::Failed(format!(
                    "{} came twice with the MD5 {sum} instead of {expected}; nothing of it is kept, so \
                     try again another day, or take the original with `--source youtube`",
                    self.name
                )));
            }
            part.meter.say(&format!("its MD5 is {sum} instead of {expected}; fetching it anew"));
            second = true;
        }
    }

    /// How much of the file an earlier run has left.
    pub fn stored_bytes(&self) -> u64 {
        let stored = fs::metadata(part_path(self.to)).map_or(0, |data| data.len());
        let is_ours = self.sidecar().is_some_and(|sidecar| self.owns(&sidecar));
        if is_ours && stored <= self.size_bytes { stored } else { 0 }
    }

    fn owns(&self, sidecar: &Sidecar) -> bool {
        (sidecar.size_bytes, sidecar.md5) == (self.size_bytes, self.md5)
    }

    fn sidecar(&self) -> Option<Sidecar> {
        let mut text = Vec::new();
        let file = File::open(sidecar_path(self.to)).ok()?;
        file.take(LARGEST_SIDECAR_BYTES).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }
}

/// The part of a file that is here.
struct Part<'a> {
    wanted: &'a Wanted<'a>,
    path: PathBuf,
    file: File,
    /// So much of it is right, as far as is known.
    len_bytes: u64,
    /// Over those bytes.
    md5: md5::Md5,
    etag: Option<String>,
    meter: Meter,
}

impl<'a> Part<'a> {
    fn open(wanted: &'a Wanted<'a>, board: &Board, stop: &Stop) -> Result<Self, DownloadError> {
        let path = part_path(wanted.to);
        let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let mut part = Self {
            file: file.map_err(DownloadError::io("write", &path))?,
            path,
            wanted,
            len_bytes: 0,
            md5: md5::Md5::new(),
            etag: None,
            meter: board.meter(wanted.name, "fetching", Some(wanted.size_bytes)),
        };
        let stored = part.file.metadata().map_err(DownloadError::io("read", &part.path))?.len();
        match wanted.sidecar() {
            _ if stored == 0 => part.clear()?,
            Some(sidecar) if wanted.owns(&sidecar) && stored <= wanted.size_bytes => {
                part.etag = sidecar.etag;
                part.take_up(stored, board, stop)?;
            }
            _ => {
                let stored = bytes(stored);
                let line =
                    format!("the {stored} that are here belong to another version; starting anew");
                part.meter.say(&line);
                part.clear()?;
            }
        }
        Ok(part)
    }

    /// Reads what an earlier run has stored, for the checksum.
    fn take_up(&mut self, stored: u64, board: &Board, stop: &Stop) -> Result<(), DownloadError> {
        self.meter = board.meter(self.wanted.name, "checking", Some(stored));
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            stop.check()?;
            let read =
                self.file.read(&mut buffer).map_err(DownloadError::io("read", &self.path))?;
            if read == 0 {
                break;
            }
            self.md5.update(&buffer[..read]);
            self.len_bytes += read as u64;
            self.meter.set(self.len_bytes);
        }
        self.meter = board.meter(self.wanted.name, "fetching", Some(self.wanted.size_bytes));
        self.meter.say(&format!("going on after {}", bytes(self.len_bytes)));
        self.meter.start_at(self.len_bytes);
        Ok(())
    }

    /// Asks for what is missing until nothing is.
    fn fill(&mut self, client: &Client, retry: Retry, stop: &Stop) -> Result<(), DownloadError> {
        let mut patience = Patience::new(retry, stop);
        let mut address = 0;
        // Beyond this, bytes are news: a server that always starts over must not go on for ever.
        let mut furthest = self.len_bytes;
        while self.len_bytes < self.wanted.size_bytes {
            stop.check()?;
            let outcome = self.wanted.urls.get(address).map(|url| self.ask(client, url, stop));
            if self.len_bytes > furthest {
                furthest = self.len_bytes;
                patience.renew();
            }
            match outcome {
                Some(Ok(())) => {}
                Some(Err(Hitch::Refused(what))) if address + 1 < self.wanted.urls.len() => {
                    self.meter.say(&format!("{what}; trying its other address"));
                    address += 1;
                }
                Some(Err(Hitch::Refused(what))) => {
                    let way_out = "take the original with `--source youtube`";
                    return Err(self.gave_up(&what, way_out));
                }
                Some(Err(Hitch::Passing { what, wait })) => {
                    let meter = &self.meter;
                    let waited = patience.wait(&what, wait, |line| meter.say(line));
                    waited.map_err(|error| match error {
                        DownloadError::Failed(what) => {
                            self.gave_up(&what, "run the same command again to go on")
                        }
                        error => error,
                    })?;
                }
                Some(Err(Hitch::Final(error))) => return Err(error),
                None => return Err(self.gave_up("it has no address", "look at the manifest")),
            }
        }
        Ok(())
    }

    fn gave_up(&self, what: &str, way_out: &str) -> DownloadError {
        let (name, here) = (self.wanted.name, bytes(self.len_bytes));
        let kept = if self.len_bytes > 0 { format!(" ({here} are kept)") } else { String::new() };
        DownloadError::Failed(format!("{name}: {what}; {way_out}{kept}"))
    }

    /// One request, and as much as it brings.
    fn ask(&mut self, client: &Client, url: &str, stop: &Stop) -> Result<(), Hitch> {
        let mut headers = Vec::new();
        if self.len_bytes > 0 {
            headers.push((header::RANGE, format!("bytes={}-", self.len_bytes)));
            headers.extend(self.etag.clone().map(|etag| (header::IF_RANGE, etag)));
        }
        let statuses =
            [StatusCode::OK, StatusCode::PARTIAL_CONTENT, StatusCode::RANGE_NOT_SATISFIABLE];
        let response = client.get(url, &headers, &statuses)?;
        let etag = strong_etag(response.headers());
        match response.status() {
            StatusCode::PARTIAL_CONTENT if self.len_bytes > 0 => {
                // A server may not know `If-Range`.
                if self.etag.is_some() && etag.is_some() && etag != self.etag {
                    return Err(self.start_over("the file has changed on the server")?);
                }
                self.check_range(response.headers())?;
            }
            StatusCode::OK => {
                match response.body().content_length() {
                    Some(whole) if whole != self.wanted.size_bytes => {
                        return Err(self.other_size(whole));
                    }
                    // Perhaps no file at all: too little to give up for it what is here.
                    None if self.len_bytes > 0 => {
                        return Err(Hitch::passing("the server does not say how much it sends"));
                    }
                    _ => {}
                }
                if self.len_bytes > 0 {
                    let changed = self.etag.is_some() && etag != self.etag;
                    self.meter.say(if changed {
                        "the file has changed on the server; starting anew"
                    } else {
                        "the server does not go on where it stopped; starting anew"
                    });
                    self.clear()?;
                }
            }
            StatusCode::RANGE_NOT_SATISFIABLE if self.len_bytes > 0 => {
                return Err(self.start_over("the server has no more of the file")?);
            }
            status => {
                let code = status.as_u16();
                return Err(Hitch::passing(format!("the server answers {code} out of place")));
            }
        }
        self.keep_etag(etag)?;
        self.append(response, stop)
    }

    /// Whether `Content-Range` is what was asked for.
    fn check_range(&self, headers: &HeaderMap) -> Result<(), Hitch> {
        let value = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
        match value.and_then(content_range) {
            Some((_, Some(total))) if total != self.wanted.size_bytes => {
                Err(self.other_size(total))
            }
            Some((start, _)) if start == self.len_bytes => Ok(()),
            _ => Err(Hitch::passing("the server sends another piece than was asked for")),
        }
    }

    fn other_size(&self, size_bytes: u64) -> Hitch {
        let (name, listed) = (self.wanted.name, self.wanted.size_bytes);
        failed(format!(
            "{name}: the server has a file of {size_bytes} bytes where {listed} are listed; \
             run the same command later, or take the original with `--source youtube`"
        ))
    }

    fn append(&mut self, response: Response<Body>, stop: &Stop) -> Result<(), Hitch> {
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        let broke = |at: u64, why: String| {
            Hitch::passing(format!("the connection broke after {} ({why})", bytes(at)))
        };
        loop {
            stop.check()?;
            let read = match body.read(&mut buffer) {
                Ok(0) if self.len_bytes == self.wanted.size_bytes => return Ok(()),
                Ok(0) => return Err(broke(self.len_bytes, "it ended too early".to_owned())),
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(broke(self.len_bytes, crate::text::foreign(&error.to_string())));
                }
            };
            let missing = self.wanted.size_bytes - self.len_bytes;
            if read as u64 > missing {
                return Err(
                    self.other_size(self.wanted.size_bytes.saturating_add(read as u64 - missing))
                );
            }
            self.file.write_all(&buffer[..read]).map_err(|error| self.cannot_write(error))?;
            self.md5.update(&buffer[..read]);
            self.len_bytes += read as u64;
            self.meter.set(self.len_bytes);
        }
    }

    fn cannot_write(&self, error: std::io::Error) -> DownloadError {
        if error.kind() != std::io::ErrorKind::StorageFull {
            return DownloadError::io("write", &self.path)(error);
        }
        let (name, here, path) = (self.wanted.name, bytes(self.len_bytes), self.path.display());
        DownloadError::Wrong(format!(
            "{name}: the disk is full after {here} in `{path}`; make room, then run the same command again \
             to go on"
        ))
    }

    /// Throws away what is here, which turned out to be of no use.
    fn start_over(&mut self, why: &str) -> Result<Hitch, DownloadError> {
        self.clear()?;
        Ok(Hitch::passing(why))
    }

    fn clear(&mut self) -> Result<(), DownloadError> {
        let cleared = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        cleared.map_err(DownloadError::io("write", &self.path))?;
        (self.len_bytes, self.md5, self.etag) = (0, md5::Md5::new(), None);
        self.meter.start_at(0);
        self.write_sidecar()
    }

    fn keep_etag(&mut self, etag: Option<String>) -> Result<(), DownloadError> {
        // A server may leave it out when it sends the rest.
        if etag == self.etag || (etag.is_none() && self.len_bytes > 0) {
            return Ok(());
        }
        self.etag = etag;
        self.write_sidecar()
    }

    fn write_sidecar(&self) -> Result<(), DownloadError> {
        let Wanted { size_bytes, md5, to, .. } = *self.wanted;
        let sidecar = Sidecar { size_bytes, md5, etag: self.etag.clone() };
        let path = sidecar_path(to);
        serde_json::to_vec(&sidecar)
            .map_err(std::io::Error::from)
            .and_then(|json| atomic::write_file(&path, &json))
            .map_err(DownloadError::io("write", &path))
    }

    fn sum(&self) -> Md5 {
        Md5(self.md5.clone().finalize().into())
    }

    fn publish(self) -> Result<(), DownloadError> {
        let to = self.wanted.to;
        self.file.sync_all().map_err(DownloadError::io("write", &self.path))?;
        check_free(to)?;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
        fs::rename(&self.path, to)
            .and_then(|()| atomic::sync_folder(folder.unwrap_or(Path::new("."))))
            .map_err(DownloadError::io("write", to))?;
        // Without a part it says nothing; what cannot be removed is only a leftover.
        let _ = fs::remove_file(sidecar_path(to));
        Ok(())
    }
}

impl Md5 {
    /// 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut sum = [0; 16];
        for (byte, pair) in sum.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(sum))
    }

    /// That of a file.
    ///
    /// # Errors
    /// It cannot be read; a signal.
    pub fn of_file(path: &Path, meter: &mut Meter, stop: &Stop) -> Result<Self, DownloadError> {
        let mut file = File::open(path).map_err(DownloadError::io("read", path))?;
        let (mut md5, mut done, mut buffer) = (md5::Md5::new(), 0, vec![0; BUFFER_BYTES]);
        loop {
            stop.check()?;
            let read = file.read(&mut buffer).map_err(DownloadError::io("read", path))?;
            if read == 0 {
                return Ok(Self(md5.finalize().into()));
            }
            md5.update(&buffer[..read]);
            done += read as u64;
            meter.set(done);
        }
    }
}

impl fmt::Display for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl TryFrom<String> for Md5 {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| "no MD5".to_owned())
    }
}

impl From<Md5> for String {
    fn from(sum: Md5) -> Self {
        sum.to_string()
    }
}

/// Whether nothing has the name `to`.
///
/// # Errors
/// Something has: it stays.
pub(crate) fn check_free(to: &Path) -> Result<(), DownloadError> {
    if !to.exists() {
        return Ok(());
    }
    Err(DownloadError::Wrong(format!(
        "`{}` is here already; move it away, then run this again",
        to.display()
    )))
}

/// Where the bytes of `to` lie until they are complete.
pub(crate) fn part_path(to: &Path) -> PathBuf {
    with_ending(to, ".part")
}

fn sidecar_path(to: &Path) -> PathBuf {
    with_ending(to, ".part.json")
}

fn with_ending(to: &Path, ending: &str) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// `bytes 5-9/10` as start and total; a total of `*` is unknown.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((range.split_once('-')?.0.parse().ok()?, total))
}

/// Weak tags do not say that bytes are the same, so they cannot serve `If-Range`.
fn strong_etag(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get(header::ETAG)?.to_str().ok()?;
    (tag.len() >= 2 && tag.len() < 1000 && tag.starts_with('"') && tag.ends_with('"'))
        .then(|| tag.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_md5_is_32_digits() {
        let text = "900150983cd24fb0d6963f7d28e17f72";
        assert_eq!(Md5::parse(text).unwrap().to_string(), text);
        assert_eq!(Md5::parse(&text.to_uppercase()), Md5::parse(text));
        for wrong in ["", "9001", &text[1..], &format!("{text}0"), &text.replace('9', "+")] {
            assert_eq!(Md5::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn ranges_are_read_as_the_standard_writes_them() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for wrong in ["", "bytes */10", "bytes 5-9", "5-9/10", "items 5-9/10", "bytes x-9/10"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_strong_tags_are_kept() {
        for (tag, is_strong) in [("\"a\"", true), ("W/\"a\"", false), ("a", false), ("\"", false)] {
            let headers = HeaderMap::from_iter([(header::ETAG, tag.parse().unwrap())]);
            assert_eq!(strong_etag(&headers).is_some(), is_strong, "{tag}");
        }
    }
}
