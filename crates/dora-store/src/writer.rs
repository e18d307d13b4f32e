//! Appending to a store so that any interruption leaves a good prefix.

use crate::atomic;
use crate::error::StoreError;
use crate::format::{Complete, ENTRY_BYTES, Entry, Layout, Report, StoreHeader, lock};
use crate::reader::FrameStore;
use crate::record::{self, RecordError};
use crate::recover::{good_prefix, index_header, refuse_foreign_content, remove_later_shards};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// A shard is closed before it would grow over this.
const SHARD_BYTES: u64 = 1 << 30;
/// A batch is written when it has this many frames, ...
pub(crate) const BATCH_FRAMES: usize = 64;
/// ... or is this old when a frame comes, so that a slow source loses little.
const BATCH_AGE: Duration = Duration::from_secs(2);

/// Appends frames to a store; one writer at a time.
///
/// Frames are gathered in batches. A batch's JPEG bytes reach the disk before the index entries
/// that name them. Dropping a writer loses the frames since the last [`StoreWriter::flush`].
#[derive(Debug)]
pub struct StoreWriter {
    layout: Layout,
    index: Tail,
    shard: Tail,
    shard_number: u32,
    shard_limit_bytes: u64,
    /// Frames on disk.
    stored: usize,
    last_stored: Option<Entry>,
    index_crc: crc32fast::Hasher,
    batch: Batch,
    /// An earlier write failed: what is on disk is good but no longer known.
    broken: bool,
    _lock: File,
}

/// What a writer found in the folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resumed {
    /// Good frames that are kept.
    pub frames: usize,
    /// Bytes of half-written frames and entries that were cut.
    pub cut_bytes: u64,
}

/// The growing end of a file.
#[derive(Debug)]
struct Tail {
    file: File,
    length_bytes: u64,
}

/// Frames that are not on disk yet.
#[derive(Debug)]
struct Batch {
    jpegs: Vec<u8>,
    entries: Vec<Entry>,
    since: Instant,
}

impl StoreWriter {
    /// Makes a store in `folder`, or goes on with the one that is there.
    ///
    /// A torn tail (half a frame or entry, a wrong checksum, bytes that no entry names) is cut back
    /// to the last good frame. Errors when the store was made from another source or with other
    /// options, is complete, is used by another process, or when the folder holds something else.
    pub fn create_or_resume(
        folder: &Path,
        header: &StoreHeader,
    ) -> Result<(Self, Resumed), StoreError> {
        Self::open(folder, header, SHARD_BYTES)
    }

    /// Adds a frame.
    ///
    /// `pts_us` is its time stamp in microseconds, above the last one's; `source_frame` its number
    /// in the source, from 0; `jpeg` a JPEG file of the header's size.
    pub fn push(&mut self, pts_us: i64, source_frame: u64, jpeg: &[u8]) -> Result<(), StoreError> {
        self.refuse_when_broken()?;
        if let Some(last_us) = self.last_pts_us().filter(|&last_us| pts_us <= last_us) {
            return Err(StoreError::Order { pts_us, last_us });
        }
        let length = u32::try_from(jpeg.len())
            .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
            .map_err(StoreError::io("write a frame of over 4 GB to", &self.layout.folder))?;
        let mut offset = self.shard.length_bytes + self.batch.jpegs.len() as u64;
        if offset > 0 && offset + u64::from(length) > self.shard_limit_bytes {
            self.flush()?;
            self.next_shard()?;
            offset = 0;
        }
        if self.batch.entries.is_empty() {
            self.batch.since = Instant::now();
        }
        self.batch.jpegs.extend_from_slice(jpeg);
        self.batch.entries.push(Entry {
            shard: self.shard_number,
            offset,
            length,
            pts_us,
            source_frame,
            jpeg_crc: crc32fast::hash(jpeg),
        });
        if self.batch.entries.len() >= BATCH_FRAMES || self.batch.since.elapsed() >= BATCH_AGE {
            self.flush()?;
        }
        Ok(())
    }

    /// Number of frames pushed, those kept from before included.
    pub fn len(&self) -> usize {
        self.stored + self.batch.entries.len()
    }

    /// Whether there is no frame yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Time stamp of the last frame.
    pub fn last_pts_us(&self) -> Option<i64> {
        Some(self.batch.entries.last().or(self.last_stored.as_ref())?.pts_us)
    }

    /// The frames on disk, for reading while the writer lives; later ones are not in it.
    pub fn stored(&self) -> Result<FrameStore, StoreError> {
        FrameStore::map(self.layout.clone(), None, None)
    }

    /// Brings all pushed frames to the disk.
    ///
    /// After an error the frames stored before stay valid, and the writer takes no more.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        self.refuse_when_broken()?;
        if self.batch.entries.is_empty() {
            return Ok(());
        }
        let entries: Vec<u8> = (self.stored..)
            .zip(&self.batch.entries)
            .flat_map(|(frame, entry)| entry.to_bytes(frame))
            .collect();
        let shard_path = self.layout.shard(self.shard_number);
        let written = self.shard.append(&self.batch.jpegs).map_err(|error| (shard_path, error));
        let written = written.and_then(|()| {
            self.index.append(&entries).map_err(|error| (self.layout.index(), error))
        });
        if let Err((path, error)) = written {
            self.broken = true;
            return Err(self.explain(&path, error));
        }
        self.index_crc.update(&entries);
        self.stored += self.batch.entries.len();
        self.last_stored = self.batch.entries.last().copied();
        self.batch.jpegs.clear();
        self.batch.entries.clear();
        Ok(())
    }

    /// Brings the last frames to the disk and marks the store complete.
    pub fn finish(mut self, report: Report) -> Result<(), StoreError> {
        self.flush()?;
        let complete = Complete {
            frames: self.stored as u64,
            index_crc: self.index_crc.clone().finalize(),
            report,
        };
        let path = self.layout.complete();
        record::write_file(&path, &complete).map_err(|error| self.explain_record(&path, error))
    }

    /// Removes a store that got no frame; one with frames is left as it is.
    pub fn discard(self) -> Result<(), StoreError> {
        if !self.is_empty() {
            return Ok(());
        }
        let folder = &self.layout.folder;
        fs::remove_dir_all(folder).map_err(StoreError::io("remove", folder))
    }

    fn open(
        folder: &Path,
        header: &StoreHeader,
        shard_limit_bytes: u64,
    ) -> Result<(Self, Resumed), StoreError> {
        let layout = Layout::new(folder);
        fs::create_dir_all(folder).map_err(|error| explain(&layout, folder, 0, error))?;
        if !layout.header().exists() {
            refuse_foreign_content(&layout)?;
        }
        let lock_path = layout.lock();
        let lock_file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(|error| explain(&layout, &lock_path, 0, error))?;
        lock(&layout, &lock_file, false)?;
        if layout.complete().exists() {
            return Err(StoreError::Complete { path: folder.to_owned() });
        }
        // The header comes last: a folder that has one has the other files too.
        let index_header_bytes = index_header(&layout)?;
        write_or_compare_header(&layout, header)?;
        let good = good_prefix(&layout, index_header_bytes)?;

        let index_bytes = (index_header_bytes + good.frames * ENTRY_BYTES) as u64;
        let (shard_number, shard_bytes) =
            good.last.map_or((0, 0), |entry| (entry.shard, entry.end()));
        // Entries first: a shard must never be shorter than the index says.
        let (index, cut_index) = Tail::open(&layout, &layout.index(), index_bytes)?;
        let (shard, cut_shard) = Tail::open(&layout, &layout.shard(shard_number), shard_bytes)?;
        let cut_later = remove_later_shards(&layout, shard_number)?;
        atomic::sync_folder(folder).map_err(StoreError::io("write", folder))?;

        let resumed = Resumed { frames: good.frames, cut_bytes: cut_index + cut_shard + cut_later };
        let batch = Batch { jpegs: Vec::new(), entries: Vec::new(), since: Instant::now() };
        let writer = Self {
            layout,
            index,
            shard,
            shard_number,
            shard_limit_bytes,
            stored: good.frames,
            last_stored: good.last,
            index_crc: good.crc,
            batch,
            broken: false,
            _lock: lock_file,
        };
        Ok((writer, resumed))
    }

    fn refuse_when_broken(&self) -> Result<(), StoreError> {
        if self.broken {
            return Err(StoreError::Broken { path: self.layout.folder.clone() });
        }
        Ok(())
    }

    fn next_shard(&mut self) -> Result<(), StoreError> {
        let path = self.layout.shard(self.shard_number + 1);
        let (shard, _) = Tail::open(&self.layout, &path, 0)
            .and_then(|opened| {
                atomic::sync_folder(&self.layout.folder)
                    .map_err(|error| self.explain(&path, error))?;
                Ok(opened)
            })
            .inspect_err(|_| self.broken = true)?;
        self.shard = shard;
        self.shard_number += 1;
        Ok(())
    }

    fn explain(&self, path: &Path, error: io::Error) -> StoreError {
        explain(&self.layout, path, self.stored, error)
    }

    fn explain_record(&self, path: &Path, error: RecordError) -> StoreError {
        match error {
            RecordError::Io { source, .. } => self.explain(path, source),
            other => other.into(),
        }
    }
}

impl Tail {
    /// Opens or makes the file and cuts it at `length_bytes`; also gives what was cut.
    fn open(layout: &Layout, path: &Path, length_bytes: u64) -> Result<(Self, u64), StoreError> {
        let open = || {
            let mut file =
                OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            let cut_bytes = file.metadata()?.len().saturating_sub(length_bytes);
            if cut_bytes > 0 {
                file.set_len(length_bytes)?;
                file.sync_all()?;
            }
            file.seek(SeekFrom::Start(length_bytes))?;
            Ok((Self { file, length_bytes }, cut_bytes))
        };
        open().map_err(|error| explain(layout, path, 0, error))
    }

    /// Adds bytes and waits until they are on disk; takes back what it wrote when that fails.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => self.length_bytes += bytes.len() as u64,
            // If this fails too, the next writer cuts the tail.
            Err(_) => _ = self.file.set_len(self.length_bytes),
        }
        written
    }
}

fn write_or_compare_header(layout: &Layout, header: &StoreHeader) -> Result<(), StoreError> {
    let path = layout.header();
    if !path.exists() {
        return record::write_file(&path, header).map_err(|error| match error {
            RecordError::Io { source, .. } => explain(layout, &path, 0, source),
            other => other.into(),
        });
    }
    let stored: StoreHeader = record::read_file(&path)?;
    stored.expect_equal(header, &layout.folder)
}

/// A full disk gets its own sentence; everything else says which file could not be written.
pub(crate) fn explain(layout: &Layout, path: &Path, frames: usize, error: io::Error) -> StoreError {
    let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    if !full {
        return StoreError::io("write", path)(error);
    }
    // The store's folder may be what could not be made: ask for the nearest one that exists.
    let free_bytes = layout
        .folder
        .ancestors()
        .find_map(|folder| rustix::fs::statvfs(folder).ok())
        .map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
    StoreError::Full { path: layout.folder.clone(), free_bytes, frames }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IngestOptions, Source};

    fn header() -> StoreHeader {
        StoreHeader {
            source: Source { name: "a.mp4".into(), files: 1, size_bytes: 5, digest: 6 },
            options: IngestOptions {
                short_side_px: 576,
                jpeg_quality: 90,
                start_s: None,
                end_s: None,
                ..IngestOptions::default()
            },
            width_px: 1024,
            height_px: 576,
        }
    }

    #[test]
    fn shards_roll_over_and_resume() {
        let folder = tempfile::tempdir().unwrap();
        let frame = |i: usize| vec![i as u8; 30 + i];
        for (from, to) in [(0, 5), (5, 12)] {
            let (mut writer, resumed) = StoreWriter::open(folder.path(), &header(), 100).unwrap();
            assert_eq!(resumed, Resumed { frames: from, cut_bytes: 0 });
            for i in from..to {
                writer.push(i as i64, i as u64, &frame(i)).unwrap();
            }
            writer.flush().unwrap();
        }
        // Frames of 30 to 41 bytes: three of the first, then two, fit in 100 bytes.
        assert!(folder.path().join("shard-00004.jpgs").exists());
        let store = FrameStore::open(folder.path()).unwrap();
        assert_eq!(store.len(), 12);
        for i in 0..12 {
            assert_eq!(store.jpeg(i).unwrap(), frame(i));
        }
        for entry in folder.path().read_dir().unwrap() {
            assert!(entry.unwrap().metadata().unwrap().len() <= 12 * ENTRY_BYTES as u64 + 28);
        }
    }

    #[test]
    fn a_full_disk_is_explained_and_the_store_stays_valid() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, _) = StoreWriter::create_or_resume(folder.path(), &header()).unwrap();
        writer.push(1, 0, b"kept").unwrap();
        writer.flush().unwrap();
        writer.index.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        writer.push(2, 1, b"lost").unwrap();
        let error = writer.flush().unwrap_err();
        assert!(matches!(error, StoreError::Full { frames: 1, .. }), "{error}");
        assert!(error.to_string().contains("MB are free"));
        assert!(matches!(writer.push(3, 2, b"x"), Err(StoreError::Broken { .. })));
        assert!(matches!(writer.flush(), Err(StoreError::Broken { .. })));
        drop(writer);

        let (mut writer, resumed) =
            StoreWriter::create_or_resume(folder.path(), &header()).unwrap();
        assert_eq!(resumed, Resumed { frames: 1, cut_bytes: 4 });
        writer.push(2, 1, b"again").unwrap();
        writer.finish(Report::default()).unwrap();
        let store = FrameStore::open(folder.path()).unwrap();
        assert_eq!((store.jpeg(0).unwrap(), store.jpeg(1).unwrap()), (&b"kept"[..], &b"again"[..]));
    }
}
