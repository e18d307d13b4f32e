//! The store's files: names, records and index entries.

use crate::error::StoreError;
use crate::record::{self, Record};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// What a store was made of and how; the writer goes on only with an equal one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreHeader {
    /// The video or the images.
    pub source: Source,
    /// How they were ingested.
    pub options: IngestOptions,
    /// Width of every frame.
    pub width_px: u32,
    /// Height of every frame.
    pub height_px: u32,
}

/// The video file, or the list of images, that was decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// File or folder name, without the path.
    pub name: String,
    /// 1 for a video, the number of images otherwise.
    pub files: u64,
    /// Size of all files together.
    pub size_bytes: u64,
    /// A digest that changes when the files do; its maker decides over what.
    pub digest: u64,
}

/// What the user chose, with the defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IngestOptions {
    /// Frames are scaled down until their shorter side has at most this many pixels.
    pub short_side_px: u32,
    /// libjpeg quality, 1 to 100.
    pub jpeg_quality: u8,
    /// Frames before this time are left out.
    pub start_s: Option<f64>,
    /// Frames at or after this time are left out.
    pub end_s: Option<f64>,
    /// Images only: frames per second.
    pub images_fps: Option<f64>,
    /// At most so many frames a second are kept; all where nothing is said.
    pub store_fps: Option<f64>,
    /// Whether blank and frozen stretches are kept.
    pub keep_stills: bool,
    /// What decoded the video: the pixels differ a little.
    pub decoder: Decoder,
}

impl Default for IngestOptions {
    /// Everything, at 576 lines and quality 90.
    fn default() -> Self {
        Self {
            short_side_px: 576,
            jpeg_quality: 90,
            start_s: None,
            end_s: None,
            images_fps: None,
            store_fps: None,
            keep_stills: false,
            decoder: Decoder::Ffmpeg,
        }
    }
}

/// A video decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decoder {
    /// FFmpeg's libraries: luma and chroma are scaled as they are.
    Ffmpeg,
    /// OpenCV: by way of RGB.
    OpenCv,
}

/// Written when the last frame is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Complete {
    /// Number of frames.
    pub frames: u64,
    /// CRC-32 over all index entries.
    pub index_crc: u32,
    /// What the decoder had to say.
    pub report: Report,
}

/// What was lost or odd while decoding.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The duration that the container claims, if it claims one.
    pub expected_s: Option<f64>,
    /// Sentences: cut ends, damaged stretches, odd time stamps. Empty when all was well.
    pub notes: Vec<String>,
}

/// Opens the index file; entries of [`ENTRY_BYTES`] follow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct IndexHeader {
    pub(crate) entry_bytes: u32,
}

impl Record for StoreHeader {
    const NAME: &'static str = "frame store header";
    const MAGIC: [u8; 8] = *b"DORAHEAD";
    const VERSION: u32 = 2;
}

impl Record for Complete {
    const NAME: &'static str = "frame store end mark";
    const MAGIC: [u8; 8] = *b"DORADONE";
    const VERSION: u32 = 1;
}

impl Record for IndexHeader {
    const NAME: &'static str = "frame store index";
    const MAGIC: [u8; 8] = *b"DORAINDX";
    const VERSION: u32 = 1;
}

impl StoreHeader {
    /// Errors with every differing field when `now` is not what the store in `folder` was made of.
    pub fn expect_equal(&self, now: &Self, folder: &Path) -> Result<(), StoreError> {
        let differences = self.differences(now);
        if differences.is_empty() {
            return Ok(());
        }
        Err(StoreError::Differs { path: folder.to_owned(), differences })
    }

    fn differences(&self, now: &Self) -> String {
        let mut differences = Vec::new();
        let mut compare = |name: &str, stored: String, now: String| {
            if stored != now {
                differences.push(format!("{name} is {stored} in the store, {now} now"));
            }
        };
        macro_rules! compare {
            ($($($field:ident).+),*) => {
                $(compare(
                    stringify!($($field).+),
                    format!("{:?}", self.$($field).+),
                    format!("{:?}", now.$($field).+),
                );)*
            };
        }
        compare!(
            source.name,
            source.files,
            source.size_bytes,
            source.digest,
            options.short_side_px,
            options.jpeg_quality,
            options.start_s,
            options.end_s,
            options.images_fps,
            options.store_fps,
            options.keep_stills,
            options.decoder,
            width_px,
            height_px
        );
        differences.join(", ")
    }
}

/// One frame's place in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) shard: u32,
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) pts_us: i64,
    pub(crate) source_frame: u64,
    pub(crate) jpeg_crc: u32,
}

/// An entry's fields and their checksum.
pub(crate) const ENTRY_BYTES: usize = FIELDS_BYTES + 4;
const FIELDS_BYTES: usize = 36;

impl Entry {
    /// The bytes of the entry for frame number `frame`; the number goes into the checksum, so that
    /// an entry in another's place is seen.
    pub(crate) fn to_bytes(self, frame: usize) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        let written =
            bincode::serde::encode_into_slice(self, &mut bytes[..FIELDS_BYTES], record::config());
        debug_assert!(matches!(written, Ok(FIELDS_BYTES)));
        let crc = Self::checksum(&bytes[..FIELDS_BYTES], frame);
        bytes[FIELDS_BYTES..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The entry of frame number `frame`, or nothing when its checksum does not match.
    pub(crate) fn from_bytes(bytes: &[u8], frame: usize) -> Option<Self> {
        let (fields, rest) = bytes.split_at_checked(FIELDS_BYTES)?;
        let crc: [u8; 4] = rest.try_into().ok()?;
        if Self::checksum(fields, frame) != u32::from_le_bytes(crc) {
            return None;
        }
        let (entry, _) = bincode::serde::decode_from_slice(fields, record::config()).ok()?;
        Some(entry)
    }

    /// Where the frame ends in its shard.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(u64::from(self.length))
    }

    fn checksum(fields: &[u8], frame: usize) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(fields);
        hasher.update(&(frame as u64).to_le_bytes());
        hasher.finalize()
    }
}

/// The paths in a store's folder.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) folder: PathBuf,
}

impl Layout {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    pub(crate) fn header(&self) -> PathBuf {
        self.folder.join("header")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.folder.join("index")
    }

    pub(crate) fn complete(&self) -> PathBuf {
        self.folder.join("complete")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.folder.join("lock")
    }

    pub(crate) fn shard(&self, shard: u32) -> PathBuf {
        self.folder.join(shard_name(shard))
    }
}

pub(crate) fn shard_name(shard: u32) -> String {
    format!("shard-{shard:05}.jpgs")
}

/// Locks `file` for one process alone, or for many readers; errors when others hold it otherwise.
pub(crate) fn lock(layout: &Layout, file: &File, shared: bool) -> Result<(), StoreError> {
    use rustix::fs::FlockOperation::{NonBlockingLockExclusive, NonBlockingLockShared};
    let operation = if shared { NonBlockingLockShared } else { NonBlockingLockExclusive };
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(StoreError::InUse { path: layout.folder.clone() })
        }
        Err(error) => Err(StoreError::io("lock", &layout.lock())(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: Entry = Entry {
        shard: 3,
        offset: 1 << 33,
        length: 70_000,
        pts_us: -5,
        source_frame: 9,
        jpeg_crc: 0xdead_beef,
    };

    #[test]
    fn entries_have_a_fixed_layout() {
        let bytes = ENTRY.to_bytes(7);
        assert_eq!(bytes[..4], 3u32.to_le_bytes());
        assert_eq!(bytes[4..12], (1u64 << 33).to_le_bytes());
        assert_eq!(bytes[12..16], 70_000u32.to_le_bytes());
        assert_eq!(bytes[16..24], (-5i64).to_le_bytes());
        assert_eq!(bytes[24..32], 9u64.to_le_bytes());
        assert_eq!(bytes[32..36], 0xdead_beef_u32.to_le_bytes());
        assert_eq!(Entry::from_bytes(&bytes, 7), Some(ENTRY));
    }

    #[test]
    fn changed_moved_and_empty_entries_are_refused() {
        let bytes = ENTRY.to_bytes(7);
        assert_eq!(Entry::from_bytes(&bytes, 8), None);
        assert_eq!(Entry::from_bytes(&bytes[..ENTRY_BYTES - 1], 7), None);
        assert_eq!(Entry::from_bytes(&[0; ENTRY_BYTES], 0), None);
        for bit in 0..ENTRY_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Entry::from_bytes(&flipped, 7), None, "bit {bit}");
        }
    }

    #[test]
    fn differences_name_the_fields_and_both_values() {
        let header = StoreHeader {
            source: Source { name: "a.mp4".into(), files: 1, size_bytes: 5, digest: 6 },
            options: IngestOptions {
                short_side_px: 576,
                jpeg_quality: 90,
                start_s: None,
                end_s: Some(2.5),
                ..IngestOptions::default()
            },
            width_px: 1024,
            height_px: 576,
        };
        assert_eq!(header.differences(&header), "");
        let mut other = header.clone();
        other.options.jpeg_quality = 80;
        other.options.end_s = None;
        assert_eq!(
            header.differences(&other),
            "options.jpeg_quality is 90 in the store, 80 now, \
             options.end_s is Some(2.5) in the store, None now"
        );
    }
}
