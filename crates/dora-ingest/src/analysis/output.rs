//! The folder that an analysis writes: its files appear whole, and together at the end.

use super::figure;
use super::summary::Video;
use super::table;
use anyhow::Context;
use dora_store::atomic::temporary_name;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The names of the files, in the order in which they are printed.
const NAMES: [&str; 3] = ["figure.svg", "videos.csv", "frames.csv"];

/// The folder inside that keeps what was measured.
const MEASURED: &str = "measured";

/// A folder with files that are not there yet.
pub(super) struct Output {
    folder: PathBuf,
    parts: [(File, PathBuf); 3],
}

impl Output {
    /// Where to keep what was measured.
    pub(super) fn measured(&self) -> PathBuf {
        self.folder.join(MEASURED)
    }

    /// Begins the files, so that a folder that cannot be written is known before hours of decoding.
    pub(super) fn create(folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder.join(MEASURED))
            .with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
        let part = |name: &str| {
            let path = temporary_name(&folder.join(name));
            let begun = path.and_then(|path| Ok((File::create(&path)?, path)));
            begun.with_context(|| format!("cannot write into `{}`", folder.display()))
        };
        let [figure, videos, frames] = NAMES;
        Ok(Self { folder: folder.to_owned(), parts: [part(figure)?, part(videos)?, part(frames)?] })
    }

    /// Writes everything and gives the files' paths; older ones of these names are replaced.
    pub(super) fn finish(self, videos: &[Video], length_us: i64) -> anyhow::Result<Vec<PathBuf>> {
        let [(figure_file, _), (videos_file, _), (frames_file, _)] = &self.parts;
        let mut figure_file: &File = figure_file;
        let cannot = |name: &str| format!("cannot write `{}`", self.folder.join(name).display());
        let svg = figure::svg(videos, length_us);
        figure_file.write_all(svg.as_bytes()).with_context(|| cannot(NAMES[0]))?;
        table::write_videos(BufWriter::new(videos_file), videos, length_us)
            .with_context(|| cannot(NAMES[1]))?;
        table::write_frames(BufWriter::new(frames_file), videos)
            .with_context(|| cannot(NAMES[2]))?;
        let mut paths = Vec::with_capacity(NAMES.len());
        for ((file, part), name) in self.parts.iter().zip(NAMES) {
            let path = self.folder.join(name);
            file.sync_all().and_then(|()| fs::rename(part, &path)).with_context(|| cannot(name))?;
            paths.push(path);
        }
        Ok(paths)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        for (_, part) in &self.parts {
            // Those that were finished have another name by now.
            let _ = fs::remove_file(part);
        }
    }
}
