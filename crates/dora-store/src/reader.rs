//! Reading a store by memory map.

use crate::error::StoreError;
use crate::format::{
    Complete, ENTRY_BYTES, Entry, IndexHeader, Layout, StoreHeader, lock, shard_name,
};
use crate::gaps::{self, Gap};
use crate::record::{self, Flaw, Record, RecordError};
use memmap2::Mmap;
use std::fs::File;
use std::io;
use std::path::Path;

/// A store open for reading, from any number of threads.
///
/// Frames are numbered from 0 in the order of their time stamps. Every offset and checksum is
/// checked when a frame is read, so damage is an error and never a wrong picture.
#[derive(Debug)]
pub struct FrameStore {
    layout: Layout,
    header: StoreHeader,
    complete: Option<Complete>,
    index: Mmap,
    index_header_bytes: usize,
    shards: Vec<Mmap>,
    frames: usize,
    duration_s: f64,
    /// Holds the shared lock on an incomplete store: a writer would cut what is mapped here.
    _lock: Option<File>,
}

impl FrameStore {
    /// Opens the store in `folder`.
    ///
    /// A store without its end mark opens too, with the frames before a torn tail; while it is
    /// open, no writer can go on with it. Errors when the folder is not a store, a writer is at
    /// work, or a finished store has lost frames.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let layout = Layout::new(folder);
        if !layout.header().exists() {
            let what = match folder.metadata() {
                Ok(data) if data.is_dir() => "it has no file `header`",
                Ok(_) => "it is a file",
                Err(_) => "there is no such folder",
            };
            return Err(StoreError::NotAStore { path: folder.to_owned(), what: what.into() });
        }
        let mut complete = read_complete(&layout)?;
        let mut held = None;
        if complete.is_none() {
            let file = File::open(layout.lock()).map_err(StoreError::io("open", &layout.lock()))?;
            lock(&layout, &file, true)?;
            held = Some(file);
            // The writer may have finished before its lock was free.
            complete = read_complete(&layout)?;
        }
        Self::map(layout, complete, held)
    }

    /// Maps the files. The caller sees to it that nobody cuts them: with the lock in `held`, by an
    /// end mark, or by being the writer.
    pub(crate) fn map(
        layout: Layout,
        complete: Option<Complete>,
        held: Option<File>,
    ) -> Result<Self, StoreError> {
        let folder = layout.folder.as_path();
        let header: StoreHeader = record::read_file(&layout.header())?;
        let index = map(&layout.index())?.ok_or_else(|| StoreError::NotAStore {
            path: layout.folder.clone(),
            what: "it has no file `index`".into(),
        })?;
        let index_header_bytes = match record::read_first::<IndexHeader>(&index) {
            Ok((index_header, bytes)) if index_header.entry_bytes as usize == ENTRY_BYTES => bytes,
            Ok(_) => return Err(StoreError::damaged(folder, "the `index` has odd entries")),
            // The writer makes the index anew when even its first bytes are torn.
            Err(Flaw::Length { .. }) if complete.is_none() => index.len(),
            Err(source) => {
                let flawed =
                    RecordError::Flawed { path: layout.index(), name: IndexHeader::NAME, source };
                return Err(flawed.into());
            }
        };
        let mut store = Self {
            frames: (index.len() - index_header_bytes) / ENTRY_BYTES,
            layout,
            header,
            complete,
            index,
            index_header_bytes,
            shards: Vec::new(),
            duration_s: 0.0,
            _lock: held,
        };
        store.map_shards()?;
        match &store.complete {
            Some(complete) => store.check_whole(complete.frames)?,
            None => store.leave_out_torn_tail(),
        }
        if store.frames > 0 {
            let span_us = store.pts_us(store.frames - 1)?.saturating_sub(store.pts_us(0)?);
            store.duration_s = span_us as f64 * 1e-6;
        }
        Ok(store)
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.frames
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Whether the ingest that wrote it came to its end.
    pub fn is_complete(&self) -> bool {
        self.complete.is_some()
    }

    /// The end mark of a complete store, with what the decoder reported.
    pub fn complete(&self) -> Option<&Complete> {
        self.complete.as_ref()
    }

    /// Source, options and frame size.
    pub fn header(&self) -> &StoreHeader {
        &self.header
    }

    /// The store's folder.
    pub fn folder(&self) -> &Path {
        &self.layout.folder
    }

    /// Stretches without frames. Reads every time stamp.
    ///
    /// # Errors
    /// If a stamp is damaged.
    pub fn gaps(&self) -> Result<Vec<Gap>, StoreError> {
        let stamps_us: Vec<i64> =
            (0..self.frames).map(|frame| self.pts_us(frame)).collect::<Result<_, _>>()?;
        Ok(gaps::between(&stamps_us))
    }

    /// Seconds from the first time stamp to the last.
    pub fn duration_s(&self) -> f64 {
        self.duration_s
    }

    /// Time stamp of a frame in microseconds of the source's time; they rise strictly.
    pub fn pts_us(&self, frame: usize) -> Result<i64, StoreError> {
        Ok(self.entry(frame)?.pts_us)
    }

    /// The frame's number in the source, counted from its first frame, 0.
    pub fn source_frame(&self, frame: usize) -> Result<u64, StoreError> {
        Ok(self.entry(frame)?.source_frame)
    }

    /// The frame whose time stamp is nearest to `time_us`, the earlier of two equally near ones.
    ///
    /// Takes some twenty index reads in a store of hours. Errors when the store is empty.
    pub fn frame_at_us(&self, time_us: i64) -> Result<usize, StoreError> {
        let (mut low, mut high) = (0, self.frames);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.pts_us(middle)? < time_us {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        // `low` is the first frame at or after the time.
        if low == self.frames {
            return low.checked_sub(1).ok_or_else(|| self.out_of_range(0));
        }
        if low == 0 {
            return Ok(0);
        }
        let before_us = time_us.abs_diff(self.pts_us(low - 1)?);
        let after_us = time_us.abs_diff(self.pts_us(low)?);
        Ok(if before_us <= after_us { low - 1 } else { low })
    }

    /// The JPEG file of a frame, its checksum checked.
    ///
    /// Errors name the store, the shard and the frame.
    pub fn jpeg(&self, frame: usize) -> Result<&[u8], StoreError> {
        let entry = self.entry(frame)?;
        let damaged = |what: &str| {
            let shard = shard_name(entry.shard);
            StoreError::damaged(self.folder(), format!("frame {frame} in `{shard}` {what}"))
        };
        let bytes = self.bytes(&entry).ok_or_else(|| damaged("lies beyond the file's end"))?;
        if crc32fast::hash(bytes) != entry.jpeg_crc {
            return Err(damaged("does not match its checksum"));
        }
        Ok(bytes)
    }

    /// Checks the whole index against the end mark of a complete store; milliseconds for hours of
    /// video. The frames themselves are checked when they are read.
    pub fn check_index(&self) -> Result<(), StoreError> {
        match &self.complete {
            Some(complete) if crc32fast::hash(self.entries()) != complete.index_crc => {
                Err(StoreError::damaged(self.folder(), "the `index` does not match its checksum"))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn entry(&self, frame: usize) -> Result<Entry, StoreError> {
        if frame >= self.frames {
            return Err(self.out_of_range(frame));
        }
        let start = self.index_header_bytes + frame * ENTRY_BYTES;
        Entry::from_bytes(&self.index[start..start + ENTRY_BYTES], frame).ok_or_else(|| {
            let what = format!("the `index` entry of frame {frame} does not match its checksum");
            StoreError::damaged(self.folder(), what)
        })
    }

    fn entries(&self) -> &[u8] {
        &self.index[self.index_header_bytes..][..self.frames * ENTRY_BYTES]
    }

    fn bytes(&self, entry: &Entry) -> Option<&[u8]> {
        let shard = self.shards.get(entry.shard as usize)?;
        shard.get(usize::try_from(entry.offset).ok()?..usize::try_from(entry.end()).ok()?)
    }

    fn out_of_range(&self, frame: usize) -> StoreError {
        StoreError::OutOfRange { path: self.folder().to_owned(), frame, frames: self.frames }
    }

    fn map_shards(&mut self) -> Result<(), StoreError> {
        for shard in 0.. {
            match map(&self.layout.shard(shard))? {
                Some(shard) => self.shards.push(shard),
                None => break,
            }
        }
        Ok(())
    }

    /// Looks at the ends only, so that opening does no work for each frame.
    fn check_whole(&self, frames: u64) -> Result<(), StoreError> {
        if frames != self.frames as u64 {
            let what = format!("the `index` has {} of {frames} frames", self.frames);
            return Err(StoreError::damaged(self.folder(), what));
        }
        if let Some(last) = self.frames.checked_sub(1) {
            let entry = self.entry(last)?;
            if self.bytes(&entry).is_none() {
                let shard = shard_name(entry.shard);
                let what = format!("`{shard}` or one before it is cut or missing");
                return Err(StoreError::damaged(self.folder(), what));
            }
        }
        Ok(())
    }

    fn leave_out_torn_tail(&mut self) {
        while let Some(last) = self.frames.checked_sub(1) {
            if self.entry(last).is_ok_and(|entry| self.bytes(&entry).is_some()) {
                break;
            }
            self.frames = last;
        }
    }
}

fn read_complete(layout: &Layout) -> Result<Option<Complete>, StoreError> {
    match record::read_file(&layout.complete()) {
        Ok(complete) => Ok(Some(complete)),
        Err(RecordError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Maps a file for reading; nothing when there is no such file.
pub(crate) fn map(path: &Path) -> Result<Option<Mmap>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("open", path)(error)),
    };
    // SAFETY: a mapped file must not be cut or changed while it is mapped. Only `StoreWriter` does
    // that to a store's files; it never touches a complete store, and the locks keep it away from
    // an incomplete one that is being read. The bytes are used only as bytes, so that changes from
    // elsewhere give a wrong checksum and nothing worse.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) };
    map.map(Some).map_err(StoreError::io("map", path))
}
