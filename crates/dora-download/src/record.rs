//! What lies beside each video, `NAME.toml`: where it came from, in which format, under which licence.

use crate::error::DownloadError;
use crate::manifest::{Source, Tour};
use crate::transfer::Md5;
use crate::youtube::Format;
use dora_store::atomic;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The containers that videos come in.
pub(crate) const CONTAINERS: [&str; 3] = ["mp4", "webm", "mkv"];

/// Where a video came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) tour: String,
    /// Its name in the same folder.
    pub(crate) file: String,
    pub(crate) size_bytes: u64,
    pub(crate) source: Source,
    pub(crate) url: String,
    pub(crate) fetched: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) md5: Option<Md5>,
    /// As the source names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) author: Option<String>,
    /// As the source names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) licence: Option<String>,
    /// What was done to the video since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) changes: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<Format>,
}

/// What is here of a video.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Present {
    Nothing,
    /// Fetched by us and still of the same size.
    Whole(PathBuf, Box<Record>),
    /// A file of that name that we know nothing of.
    Unknown(PathBuf),
}

impl Record {
    /// One of a video fetched now.
    pub(crate) fn new(
        tour: &Tour,
        source: Source,
        url: String,
        path: &Path,
    ) -> Result<Self, DownloadError> {
        let data = fs::metadata(path).map_err(DownloadError::io("read", path))?;
        Ok(Self {
            tour: tour.name.clone(),
            file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            size_bytes: data.len(),
            source,
            url,
            fetched: httpdate::fmt_http_date(SystemTime::now()),
            md5: None,
            author: None,
            licence: None,
            changes: None,
            format: None,
        })
    }

    /// Writes it into `folder` as that of `stem`.
    pub(crate) fn write(&self, folder: &Path, stem: &str) -> Result<(), DownloadError> {
        let path = path_of(folder, stem);
        let text = toml::to_string(self).map_err(|error| {
            DownloadError::Failed(format!("cannot describe `{}`: {error}", self.file))
        })?;
        atomic::write_file(&path, text.as_bytes()).map_err(DownloadError::io("write", &path))
    }
}

/// Looks for the video `stem` in `folder`.
///
/// # Errors
/// What we fetched has another size now.
pub(crate) fn look(folder: &Path, stem: &str) -> Result<Present, DownloadError> {
    let names = CONTAINERS.map(|container| format!("{stem}.{container}"));
    let text = fs::read_to_string(path_of(folder, stem)).unwrap_or_default();
    let record = toml::from_str(&text).ok().filter(|record: &Record| names.contains(&record.file));
    if let Some(record) = record {
        let path = folder.join(&record.file);
        match fs::metadata(&path) {
            Ok(data) if data.len() == record.size_bytes => {
                return Ok(Present::Whole(path, Box::new(record)));
            }
            Ok(data) => {
                return Err(DownloadError::Wrong(format!(
                    "`{}` has {} bytes, but {} were fetched; move it away, then run this again",
                    path.display(),
                    data.len(),
                    record.size_bytes
                )));
            }
            Err(_) => {}
        }
    }
    let unknown = names.iter().map(|name| folder.join(name)).find(|path| path.exists());
    Ok(unknown.map_or(Present::Nothing, Present::Unknown))
}

/// Every record in `folder`, by name.
pub(crate) fn all(folder: &Path) -> Vec<Record> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let records =
        paths.iter().filter(|path| path.extension().is_some_and(|ending| ending == "toml"));
    records
        .filter_map(|path| toml::from_str(&fs::read_to_string(path).ok()?).ok())
        .filter(|record: &Record| folder.join(&record.file).exists())
        .collect()
}

fn path_of(folder: &Path, stem: &str) -> PathBuf {
    folder.join(format!("{stem}.toml"))
}
