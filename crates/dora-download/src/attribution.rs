//! What the licence asks of whoever passes the videos on: who made them, under which licence they are,
//! and what was changed. Written beside them, with the licence's own text.

use crate::error::DownloadError;
use crate::manifest::Manifest;
use crate::record::{self, Record};
use dora_store::atomic;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The licence's text, word for word as published.
const CC_BY_4_0: &str = include_str!("../licences/CC-BY-4.0.txt");

/// Writes the two files into `folder`, for the videos that are recorded there, if any.
pub(crate) fn write(folder: &Path, manifest: &Manifest) -> Result<(), DownloadError> {
    let records = record::all(folder);
    if records.is_empty() {
        return Ok(());
    }
    let put = |path: PathBuf, text: &str| {
        atomic::write_file(&path, text.as_bytes()).map_err(DownloadError::io("write", &path))
    };
    put(folder.join("Walking_Tours_ATTRIBUTION.md"), &text(manifest, &records))?;
    put(folder.join("Walking_Tours_CC-BY-4.0.txt"), CC_BY_4_0)
}

fn text(manifest: &Manifest, records: &[Record]) -> String {
    let Manifest { title, authors, paper, list, licence, licence_url, .. } = manifest;
    let mut text = format!(
        "# {title}\n\n\
         Collected by {authors}: {paper}. Published list: {list}.\n\n\
         Licence: {licence}, {licence_url}; its text lies beside this file. Whoever passes the videos or \
         pictures of them on names their authors and this licence, and says what was changed.\n"
    );
    for record in records {
        let Some(tour) = manifest.tours.iter().find(|tour| tour.name == record.tour) else {
            continue;
        };
        let _ = write!(text, "\n## {}\n\n", record.file);
        let author = record.author.as_deref().unwrap_or("see the page of the original");
        let licence = record.licence.as_deref().unwrap_or(licence);
        let changes = record.changes.as_deref().unwrap_or("none by us");
        for (what, value) in [
            ("Author", author),
            ("Original", &tour.youtube_url()),
            ("Fetched from", &record.url),
            ("Fetched", &record.fetched),
            ("Licence as stated there", licence),
            ("Changes", changes),
        ] {
            let _ = writeln!(text, "- {what}: {value}");
        }
    }
    text
}
