//! What a writer finds in a folder: how much of it is good, and what must go.

use crate::atomic;
use crate::error::StoreError;
use crate::format::{ENTRY_BYTES, Entry, IndexHeader, Layout};
use crate::reader::map;
use crate::record::{self, Flaw, Record, RecordError};
use crate::writer::{BATCH_FRAMES, explain};
use std::{fs, io};

/// What of a store can be kept.
pub(crate) struct Good {
    pub(crate) frames: usize,
    pub(crate) last: Option<Entry>,
    pub(crate) crc: crc32fast::Hasher,
}

/// Reads the index from its beginning up to the first entry that is torn, does not follow on the
/// one before, or lies beyond its shard; then drops frames of the last batch whose bytes are wrong.
pub(crate) fn good_prefix(layout: &Layout, index_header_bytes: usize) -> Result<Good, StoreError> {
    let index = map(&layout.index())?;
    let entry_bytes = index.as_deref().and_then(|index| index.get(index_header_bytes..));
    let entry_bytes = entry_bytes.unwrap_or_default();
    let entry = |frame: usize| {
        let bytes = entry_bytes.get(frame * ENTRY_BYTES..(frame + 1) * ENTRY_BYTES)?;
        Entry::from_bytes(bytes, frame)
    };

    let mut frames = 0;
    let mut last: Option<Entry> = None;
    let mut shard_bytes = length_bytes(layout, 0)?;
    while let Some(next) = entry(frames) {
        let follows = match last {
            None => next.shard == 0 && next.offset == 0,
            Some(last) if next.pts_us <= last.pts_us => false,
            Some(last) if next.shard == last.shard => next.offset == last.end(),
            Some(last) => Some(next.shard) == last.shard.checked_add(1) && next.offset == 0,
        };
        if follows && last.is_some_and(|last| next.shard != last.shard) {
            shard_bytes = length_bytes(layout, next.shard)?;
        }
        if !follows || next.end() > shard_bytes {
            break;
        }
        last = Some(next);
        frames += 1;
    }

    let untested = frames.saturating_sub(BATCH_FRAMES);
    let mut good = Good { frames: untested, last: None, crc: crc32fast::Hasher::new() };
    good.last = untested.checked_sub(1).and_then(entry);
    let mut mapped = None;
    while let Some(next) = entry(good.frames).filter(|_| good.frames < frames) {
        if mapped.as_ref().is_none_or(|(shard, _)| *shard != next.shard) {
            mapped = map(&layout.shard(next.shard))?.map(|map| (next.shard, map));
        }
        let range = next.offset as usize..next.end() as usize;
        let bytes = mapped.as_ref().and_then(|(_, shard)| shard.get(range));
        if bytes.is_none_or(|bytes| crc32fast::hash(bytes) != next.jpeg_crc) {
            break;
        }
        good.last = Some(next);
        good.frames += 1;
    }
    good.crc.update(&entry_bytes[..good.frames * ENTRY_BYTES]);
    Ok(good)
}

/// Writes the index's head if it is missing or torn; gives its length.
pub(crate) fn index_header(layout: &Layout) -> Result<usize, StoreError> {
    let path = layout.index();
    let header = IndexHeader { entry_bytes: ENTRY_BYTES as u32 };
    let flawed =
        |source| RecordError::Flawed { path: path.clone(), name: IndexHeader::NAME, source };
    if let Some(index) = map(&path)? {
        match record::read_first::<IndexHeader>(&index) {
            Ok((found, bytes)) if found == header => return Ok(bytes),
            Ok(_) => {
                return Err(StoreError::damaged(&layout.folder, "the `index` has odd entries"));
            }
            Err(Flaw::Length { .. }) => {}
            Err(source) => return Err(flawed(source).into()),
        }
    }
    let bytes = record::write(&header).map_err(flawed)?;
    atomic::write_file(&path, &bytes).map_err(|error| explain(layout, &path, 0, error))?;
    Ok(bytes.len())
}

pub(crate) fn remove_later_shards(layout: &Layout, last: u32) -> Result<u64, StoreError> {
    let mut cut_bytes = 0;
    for shard in last + 1.. {
        let path = layout.shard(shard);
        if !path.exists() {
            break;
        }
        cut_bytes += length_bytes(layout, shard)?;
        fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
    }
    Ok(cut_bytes)
}

/// A folder without a header may hold only what a writer makes before the header.
pub(crate) fn refuse_foreign_content(layout: &Layout) -> Result<(), StoreError> {
    let doing = StoreError::io("read", &layout.folder);
    let names: io::Result<Vec<_>> = fs::read_dir(&layout.folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
    for name in names.map_err(doing)? {
        let name = name.to_string_lossy();
        if name != "lock" && name != "index" && !name.ends_with(".tmp") {
            return Err(StoreError::NotAStore {
                path: layout.folder.clone(),
                what: format!("it has a `{name}` but no `header`"),
            });
        }
    }
    Ok(())
}

fn length_bytes(layout: &Layout, shard: u32) -> Result<u64, StoreError> {
    let path = layout.shard(shard);
    match path.metadata() {
        Ok(data) => Ok(data.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(StoreError::io("read", &path)(error)),
    }
}
