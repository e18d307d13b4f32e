//! The overview of all tours.

use crate::blur;
use crate::manifest::Manifest;
use crate::record::{self, Present};
use crate::text::bytes;
use std::fmt::Write as _;
use std::path::Path;

/// One line for each tour, and how to go on.
pub(super) fn tours(manifest: &Manifest, out: &Path) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{:<13} {:<8} {:>3}  {:<12} here", "tour", "length", "fps", "YouTube");
    for tour in &manifest.tours {
        let here = [tour.stem().to_owned(), blur::stem(tour.stem())];
        let here: Vec<String> = here.iter().filter_map(|stem| shown(out, stem)).collect();
        let here = if here.is_empty() { "-".to_owned() } else { here.join(", ") };
        let length = tour.duration.as_deref().unwrap_or("");
        let (word, fps, id) = (tour.word(), tour.fps, &tour.youtube.id);
        let _ = writeln!(text, "{word:<13} {length:<8} {fps:>3}  {id:<12} {here}");
    }
    let (width, height) = (manifest.width_px, manifest.height_px);
    let _ = writeln!(
        text,
        "\n{width}x{height}, {}; name the ones to fetch, or `all`; `--dry-run` tells how large they are",
        manifest.licence
    );
    text
}

fn shown(out: &Path, stem: &str) -> Option<String> {
    match record::look(out, stem) {
        Ok(Present::Nothing) => None,
        Ok(Present::Whole(path, record)) => {
            Some(format!("{} ({}, {})", path.display(), bytes(record.size_bytes), record.source))
        }
        Ok(Present::Unknown(path)) => Some(format!("{} (not fetched here)", path.display())),
        Err(error) => Some(error.to_string()),
    }
}
