//! Stores that were cut, flipped, locked, made otherwise, or hold hours of frames.

#![allow(clippy::unwrap_used)]

use dora_store::{FrameStore, IngestOptions, Report, Resumed, Source, StoreError};
use dora_store::{StoreHeader, StoreWriter};
use proptest::prelude::*;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

fn header() -> StoreHeader {
    StoreHeader {
        source: Source { name: "walk.mp4".into(), files: 1, size_bytes: 5, digest: 6 },
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

/// Frame `i` of every test: its own length and bytes.
fn jpeg(i: usize) -> Vec<u8> {
    (0..20 + i * 7 % 40).map(|byte| (byte * 31 + i * 17) as u8).collect()
}

/// Uneven, as in a video of variable frame rate.
fn pts_us(i: usize) -> i64 {
    i as i64 * 33_000 + (i as i64 % 3) * 900 - 40_000
}

fn write(folder: &Path, frames: usize, finish: bool) {
    let (mut writer, _) = StoreWriter::create_or_resume(folder, &header()).unwrap();
    push(&mut writer, frames);
    match finish {
        true => writer.finish(Report::default()).unwrap(),
        false => writer.flush().unwrap(),
    }
}

fn push(writer: &mut StoreWriter, to: usize) {
    for i in writer.len()..to {
        writer.push(pts_us(i), 2 * i as u64, &jpeg(i)).unwrap();
    }
}

/// Every frame is the one that was pushed.
fn check_frames(store: &FrameStore, frames: usize) {
    assert_eq!(store.len(), frames);
    for i in 0..frames {
        assert_eq!(store.jpeg(i).unwrap(), jpeg(i), "frame {i}");
        assert_eq!(store.pts_us(i).unwrap(), pts_us(i));
        assert_eq!(store.source_frame(i).unwrap(), 2 * i as u64);
    }
    assert!(matches!(store.jpeg(frames), Err(StoreError::OutOfRange { .. })));
}

#[test]
fn a_finished_store_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/walk.store");
    let (mut writer, resumed) = StoreWriter::create_or_resume(&path, &header()).unwrap();
    assert_eq!(resumed, Resumed { frames: 0, cut_bytes: 0 });
    assert_eq!(writer.last_pts_us(), None);
    push(&mut writer, 150);
    assert_eq!(writer.last_pts_us(), Some(pts_us(149)));
    // What is on disk can be read under the writer: two batches of 64.
    check_frames(&writer.stored().unwrap(), 128);
    let report = Report { expected_s: Some(5.5), notes: vec!["0.5 s are missing".into()] };
    writer.finish(report.clone()).unwrap();

    let store = FrameStore::open(&path).unwrap();
    check_frames(&store, 150);
    store.check_index().unwrap();
    assert!(store.is_complete());
    assert_eq!(store.complete().unwrap().report, report);
    assert_eq!(store.header(), &header());
    let span_us = pts_us(149) - pts_us(0);
    assert!((store.duration_s() - span_us as f64 * 1e-6).abs() < 1e-9);
}

#[test]
fn a_store_can_be_read_from_many_threads() {
    fn check<T: Send + Sync>() {}
    check::<FrameStore>();
}

#[test]
fn the_nearest_frame_is_found() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 100, true);
    let store = FrameStore::open(folder.path()).unwrap();
    for time_us in (-100_000..3_500_000).step_by(777) {
        let nearest = (0..100).min_by_key(|&i| time_us_distance(i, time_us)).unwrap();
        assert_eq!(store.frame_at_us(time_us).unwrap(), nearest, "{time_us} us");
    }
    // Between two frames, at the same distance from both: the earlier one.
    let middle_us = (pts_us(3) + pts_us(4)) / 2;
    assert_eq!(pts_us(4) - middle_us, middle_us - pts_us(3));
    assert_eq!(store.frame_at_us(middle_us).unwrap(), 3);
    assert_eq!(store.frame_at_us(i64::MIN).unwrap(), 0);
    assert_eq!(store.frame_at_us(i64::MAX).unwrap(), 99);
}

fn time_us_distance(i: usize, time_us: i64) -> u64 {
    pts_us(i).abs_diff(time_us)
}

#[test]
fn other_sources_and_options_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 3, false);
    let mut other = header();
    other.options.short_side_px = 288;
    other.source.name = "run.mp4".into();
    let error = StoreWriter::create_or_resume(folder.path(), &other).unwrap_err().to_string();
    assert!(error.contains("source.name is \"walk.mp4\" in the store, \"run.mp4\" now"), "{error}");
    assert!(error.contains("options.short_side_px is 576 in the store, 288 now"), "{error}");
    check_frames(&FrameStore::open(folder.path()).unwrap(), 3);
}

#[test]
fn a_complete_store_and_foreign_folders_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 3, true);
    let again = StoreWriter::create_or_resume(folder.path(), &header());
    assert!(matches!(again, Err(StoreError::Complete { .. })));

    let foreign = tempfile::tempdir().unwrap();
    fs::write(foreign.path().join("thesis.tex"), "years").unwrap();
    let error = StoreWriter::create_or_resume(foreign.path(), &header()).unwrap_err();
    assert!(error.to_string().contains("it has a `thesis.tex` but no `header`"));
    assert_eq!(fs::read_dir(foreign.path()).unwrap().count(), 1);

    for (path, what) in [
        (foreign.path().to_owned(), "it has no file `header`"),
        (foreign.path().join("thesis.tex"), "it is a file"),
        (foreign.path().join("none"), "there is no such folder"),
    ] {
        let error = FrameStore::open(&path).unwrap_err().to_string();
        assert!(error.ends_with(what), "{error}");
    }
}

#[test]
fn only_empty_stores_are_discarded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("walk.store");
    for (frames, exists) in [(0, false), (1, true)] {
        let (mut writer, _) = StoreWriter::create_or_resume(&path, &header()).unwrap();
        push(&mut writer, frames);
        writer.flush().unwrap();
        writer.discard().unwrap();
        assert_eq!(path.exists(), exists);
    }
}

/// The steps of making a store, interrupted after each: the next writer goes on.
#[test]
fn a_half_made_store_is_made() {
    let whole = tempfile::tempdir().unwrap();
    write(whole.path(), 0, false);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".index.1-0.tmp"), "half").unwrap();
    for name in ["lock", "index", "header", "shard-00000.jpgs"] {
        fs::copy(whole.path().join(name), folder.path().join(name)).unwrap();
        let (mut writer, _) = StoreWriter::create_or_resume(folder.path(), &header()).unwrap();
        push(&mut writer, 2);
        writer.flush().unwrap();
        drop(writer);
        check_frames(&FrameStore::open(folder.path()).unwrap(), 2);
        for made in ["header", "shard-00000.jpgs", "index"] {
            fs::copy(whole.path().join(made), folder.path().join(made)).unwrap();
        }
        if name != "shard-00000.jpgs" {
            fs::remove_file(folder.path().join("shard-00000.jpgs")).unwrap();
        }
        if name != "header" {
            fs::remove_file(folder.path().join("header")).unwrap();
        }
    }
}

#[test]
fn stamps_must_rise() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, _) = StoreWriter::create_or_resume(folder.path(), &header()).unwrap();
    writer.push(5, 0, b"a").unwrap();
    assert!(matches!(writer.push(5, 1, b"b"), Err(StoreError::Order { pts_us: 5, last_us: 5 })));
    writer.flush().unwrap();
    assert!(matches!(writer.push(4, 1, b"b"), Err(StoreError::Order { .. })));
    writer.push(6, 1, b"b").unwrap();
}

#[test]
fn one_writer_at_a_time_and_no_writer_under_a_reader() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, _) = StoreWriter::create_or_resume(folder.path(), &header()).unwrap();
    push(&mut writer, 3);
    writer.flush().unwrap();
    let in_use = |error: Option<StoreError>| matches!(error, Some(StoreError::InUse { .. }));
    assert!(in_use(StoreWriter::create_or_resume(folder.path(), &header()).err()));
    assert!(in_use(FrameStore::open(folder.path()).err()));
    drop(writer);

    let readers =
        [FrameStore::open(folder.path()).unwrap(), FrameStore::open(folder.path()).unwrap()];
    assert!(!readers[0].is_complete());
    assert!(in_use(StoreWriter::create_or_resume(folder.path(), &header()).err()));
    drop(readers);
    write(folder.path(), 5, true);
    check_frames(&FrameStore::open(folder.path()).unwrap(), 5);
}

#[test]
fn damage_in_a_finished_store_is_named() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 70, true);
    let shard = folder.path().join("shard-00000.jpgs");
    let good = fs::read(&shard).unwrap();

    let mut flipped = good.clone();
    flipped[jpeg(0).len() + 4] ^= 1;
    fs::write(&shard, &flipped).unwrap();
    let store = FrameStore::open(folder.path()).unwrap();
    assert_eq!(store.jpeg(0).unwrap(), jpeg(0));
    let error = store.jpeg(1).unwrap_err().to_string();
    let what = "is damaged: frame 1 in `shard-00000.jpgs` does not match its checksum";
    assert!(error.contains(what) && error.contains(folder.path().to_str().unwrap()), "{error}");

    fs::write(&shard, &good[..good.len() - 1]).unwrap();
    let error = FrameStore::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("`shard-00000.jpgs` or one before it is cut or missing"), "{error}");
    fs::write(&shard, &good).unwrap();

    let index = folder.path().join("index");
    let good = fs::read(&index).unwrap();
    let mut flipped = good.clone();
    flipped[28 + 40 * 5 + 17] ^= 4;
    fs::write(&index, &flipped).unwrap();
    let store = FrameStore::open(folder.path()).unwrap();
    assert!(store.check_index().is_err());
    let error = store.pts_us(5).unwrap_err().to_string();
    assert!(error.contains("the `index` entry of frame 5 does not match its checksum"), "{error}");

    fs::write(&index, &good[..good.len() - 40]).unwrap();
    let error = FrameStore::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("the `index` has 69 of 70 frames"), "{error}");
    fs::remove_file(&index).unwrap();
    assert!(matches!(FrameStore::open(folder.path()), Err(StoreError::NotAStore { .. })));
}

/// 400,000 entries of 60 kB frames over 24 GB of sparse shards.
#[test]
fn hours_of_frames_open_at_once() {
    const FRAMES: usize = 400_000;
    const FRAME_BYTES: usize = 60_000;
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), 0, false);
    // The entries as the format module lays them out; all frames are zeros.
    let jpeg_crc = crc32fast::hash(&[0; FRAME_BYTES]);
    let frames_per_shard = (1 << 30) / FRAME_BYTES;
    let mut entries = Vec::with_capacity(FRAMES * 40);
    for frame in 0..FRAMES {
        let start = entries.len();
        entries.extend_from_slice(&((frame / frames_per_shard) as u32).to_le_bytes());
        entries.extend_from_slice(&((frame % frames_per_shard * FRAME_BYTES) as u64).to_le_bytes());
        entries.extend_from_slice(&(FRAME_BYTES as u32).to_le_bytes());
        entries.extend_from_slice(&(frame as i64 * 16_683).to_le_bytes());
        entries.extend_from_slice(&(frame as u64).to_le_bytes());
        entries.extend_from_slice(&jpeg_crc.to_le_bytes());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&entries[start..]);
        hasher.update(&(frame as u64).to_le_bytes());
        entries.extend_from_slice(&hasher.finalize().to_le_bytes());
    }
    let mut index = fs::read(folder.path().join("index")).unwrap();
    index.extend_from_slice(&entries);
    fs::write(folder.path().join("index"), index).unwrap();
    for shard in 0..FRAMES.div_ceil(frames_per_shard) {
        let file = fs::File::create(folder.path().join(format!("shard-{shard:05}.jpgs"))).unwrap();
        file.set_len((frames_per_shard * FRAME_BYTES) as u64).unwrap();
    }
    // As an unfinished store, which looks for a torn tail; then finished by the writer.
    let incomplete = open_quickly(folder.path());
    assert_eq!(incomplete.len(), FRAMES);
    drop(incomplete);
    let (writer, resumed) = StoreWriter::create_or_resume(folder.path(), &header()).unwrap();
    assert_eq!(resumed.frames, FRAMES);
    writer.finish(Report::default()).unwrap();

    let store = open_quickly(folder.path());
    store.check_index().unwrap();
    assert_eq!(store.len(), FRAMES);
    assert_eq!(store.frame_at_us(300_000 * 16_683 + 8_000).unwrap(), 300_000);
    assert_eq!(store.jpeg(FRAMES - 1).unwrap().len(), FRAME_BYTES);
}

fn open_quickly(folder: &Path) -> FrameStore {
    // The best of three, so that a busy machine does not fail the test.
    let open = || {
        let start = Instant::now();
        let store = FrameStore::open(folder).unwrap();
        (start.elapsed(), store)
    };
    let (took, store) = (0..3).map(|_| open()).min_by_key(|(took, _)| *took).unwrap();
    assert!(took < Duration::from_millis(50), "opening took {took:?}");
    store
}

fn cut(path: &Path, length_bytes: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length_bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A file cut anywhere: reader and writer agree on a prefix, and the writer goes on from it.
    #[test]
    fn a_cut_store_is_a_prefix(frames in 1usize..140, of_index: bool, at in 0.0f64..1.0) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), frames, false);
        let path = folder.path().join(if of_index { "index" } else { "shard-00000.jpgs" });
        let length_bytes = (at * path.metadata().unwrap().len() as f64) as u64;
        cut(&path, length_bytes);
        let whole = if of_index {
            (length_bytes.saturating_sub(28) / 40) as usize
        } else {
            (0..frames)
                .scan(0, |end, i| { *end += jpeg(i).len() as u64; Some(*end) })
                .filter(|&end| end <= length_bytes)
                .count()
        };
        check_frames(&FrameStore::open(folder.path()).unwrap(), whole);

        let (mut writer, resumed) = StoreWriter::create_or_resume(folder.path(), &header()).unwrap();
        prop_assert_eq!(resumed.frames, whole);
        push(&mut writer, frames + 3);
        writer.finish(Report::default()).unwrap();
        let store = FrameStore::open(folder.path()).unwrap();
        check_frames(&store, frames + 3);
        store.check_index().unwrap();
    }

    /// Bytes after the last whole batch (a crash between shard and index, or inside the index).
    #[test]
    fn bytes_after_the_end_are_cut(in_shard in prop::collection::vec(any::<u8>(), 0..200),
                                   in_index in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 10, false);
        for (name, bytes) in [("shard-00000.jpgs", &in_shard), ("index", &in_index)] {
            let path = folder.path().join(name);
            let mut content = fs::read(&path).unwrap();
            content.extend_from_slice(bytes);
            fs::write(path, content).unwrap();
        }
        check_frames(&FrameStore::open(folder.path()).unwrap(), 10);
        let (mut writer, resumed) = StoreWriter::create_or_resume(folder.path(), &header()).unwrap();
        let cut_bytes = (in_shard.len() + in_index.len()) as u64;
        prop_assert_eq!(resumed, Resumed { frames: 10, cut_bytes });
        push(&mut writer, 12);
        writer.finish(Report::default()).unwrap();
        check_frames(&FrameStore::open(folder.path()).unwrap(), 12);
    }

    /// One wrong bit anywhere: a frame is right or an error, and the writer cuts or refuses.
    #[test]
    fn a_flipped_bit_never_gives_a_wrong_frame(
        file in 0usize..4, at in 0.0f64..1.0, bit in 0u8..8, finished: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), 50, finished);
        let name = ["index", "shard-00000.jpgs", "header", "complete"][file];
        let path = folder.path().join(name);
        if path.exists() {
            let mut content = fs::read(&path).unwrap();
            let at = (at * content.len() as f64) as usize;
            content[at] ^= 1 << bit;
            fs::write(&path, content).unwrap();
        }
        if let Ok(store) = FrameStore::open(folder.path()) {
            let mut errors = 0;
            for i in 0..store.len() {
                match (store.jpeg(i), store.pts_us(i)) {
                    (Ok(bytes), Ok(time_us)) => {
                        prop_assert_eq!(bytes, jpeg(i));
                        prop_assert_eq!(time_us, pts_us(i));
                    }
                    _ => errors += 1,
                }
            }
            prop_assert!(errors <= 1);
            prop_assert!(!finished || errors == 1);
        }
        if let Ok((mut writer, resumed)) = StoreWriter::create_or_resume(folder.path(), &header()) {
            prop_assert!(!finished);
            prop_assert!(file > 1 || resumed.frames < 50);
            push(&mut writer, 60);
            writer.finish(Report::default()).unwrap();
            check_frames(&FrameStore::open(folder.path()).unwrap(), 60);
        }
    }
}
