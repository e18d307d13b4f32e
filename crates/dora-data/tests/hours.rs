//! Ten walks of hours: 3.5 million frames. A process of its own, because it measures its memory.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use dora_data::sampler::{ClipSpec, Sampler, Share};
use dora_store::{FrameStore, IngestOptions, Source, StoreHeader, StoreWriter};

const FRAMES: usize = 350_000;

/// A store with a whole index of frames at 60 a second, of which none has a byte.
fn write_store(folder: &Path) {
    let options = IngestOptions::default();
    let source = Source { name: "walk.mp4".into(), files: 1, size_bytes: 1, digest: 1 };
    let header = StoreHeader { source, options, width_px: 1024, height_px: 576 };
    let (mut writer, _) = StoreWriter::create_or_resume(folder, &header).unwrap();
    writer.push(0, 0, &[]).unwrap();
    writer.flush().unwrap();
    drop(writer);
    // The other entries as the format lays them out: shard, offset, length, time stamp, number in
    // the source, checksum of no bytes, and a checksum of all these and the frame's number.
    let mut index = fs::read(folder.join("index")).unwrap();
    for frame in 1..FRAMES {
        let start = index.len();
        index.extend([0; 4 + 8 + 4]);
        index.extend((frame as i64 * 1_000_000 / 60).to_le_bytes());
        index.extend((frame as u64).to_le_bytes());
        index.extend([0; 4]);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&index[start..]);
        hasher.update(&(frame as u64).to_le_bytes());
        index.extend(hasher.finalize().to_le_bytes());
    }
    fs::write(folder.join("index"), index).unwrap();
}

/// Memory of this process that is no file's.
fn own_memory_bytes() -> i64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    let pages: Vec<i64> = statm.split(' ').take(3).map(|pages| pages.parse().unwrap()).collect();
    (pages[1] - pages[2]) * 4096
}

#[test]
fn ten_stores_need_neither_time_nor_memory_for_their_frames() {
    let folder = tempfile::tempdir().unwrap();
    let folders: Vec<_> = (0..10).map(|walk| folder.path().join(walk.to_string())).collect();
    write_store(&folders[0]);
    for other in &folders[1..] {
        fs::create_dir(other).unwrap();
        for file in fs::read_dir(&folders[0]).unwrap() {
            let file = file.unwrap();
            fs::hard_link(file.path(), other.join(file.file_name())).unwrap();
        }
    }

    let (start, before_bytes) = (Instant::now(), own_memory_bytes());
    let stores = folders.iter().map(|folder| Arc::new(FrameStore::open(folder).unwrap())).collect();
    let sampler = Sampler::new(stores, ClipSpec::default(), Share::default(), 1).unwrap();
    for position in 0..2000 {
        let clip = sampler.clip(7, position * 1700).unwrap();
        let first = clip.frames[0];
        assert_eq!(clip.frames, (0..8).map(|j| first + 60 * j).collect::<Vec<_>>());
    }
    let (elapsed, grown_bytes) = (start.elapsed(), own_memory_bytes() - before_bytes);
    assert_eq!(sampler.clips_per_epoch(), 10 * (FRAMES as u64 - 420));
    assert!(elapsed.as_secs_f64() < 1.0, "{elapsed:?}");
    // One byte for each frame would be 3.5 million.
    assert!(grown_bytes < 1_000_000, "{grown_bytes} bytes for {} frames", 10 * FRAMES);
}
