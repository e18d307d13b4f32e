//! Where decoding can begin: key frames, found by seeking.

use super::{Track, open_input};
use crate::error::IngestError;
use crate::source::{Begin, Span};
use ffmpeg::format::context::Input;
use std::path::Path;

/// Spans are about this long at least, so that going to their beginning is rare.
const SHORTEST_US: i64 = 1_000_000;
/// With longer spans, cores would wait for one another: a frame stored must wait for all before it.
const LONGEST_US: i64 = 20_000_000;
/// After a resumed run, the key frame before the last stored frame may itself not be stored.
const MOST_TRIES: usize = 64;

/// Finds key frames, with a demuxer of its own; decodes nothing.
pub(super) struct KeyFrames {
    track: Track,
    input: Input,
}

impl KeyFrames {
    pub(super) fn open(path: &Path, track: &Track) -> Result<Self, IngestError> {
        Ok(Self { track: track.clone(), input: open_input(path)? })
    }

    /// The key frame at a time or before it.
    fn at(&mut self, pts_us: i64) -> Option<i64> {
        let seek_us = self.track.seek_us(pts_us);
        self.input.seek(seek_us, ..=seek_us).ok()?;
        self.landed()
    }

    /// The first key frame that lies about [`SHORTEST_US`] after another, or more.
    fn after(&mut self, from_us: i64) -> Option<i64> {
        let seek_us = self.track.seek_us(from_us).saturating_add(SHORTEST_US);
        self.input.seek(seek_us, seek_us..).ok()?;
        self.landed().filter(|&key_us| key_us > from_us)
    }

    /// The key frame that a seek led to.
    fn landed(&mut self) -> Option<i64> {
        // A damaged packet is no place to begin.
        for (stream, packet) in self.input.packets().map_while(Result::ok) {
            if stream.index() == self.track.index {
                return packet.pts().filter(|_| packet.is_key()).map(|pts| self.track.us(pts));
            }
        }
        None
    }

    /// Where to begin: the key frame from which the wanted frames can be decoded, and its number.
    pub(super) fn before(&mut self, begin: &Begin<'_>) -> (Option<i64>, u64) {
        if !self.track.has_index {
            return (None, 0);
        }
        let mut target_us = begin.anchor.map_or(0, |anchor| anchor.pts_us);
        for _ in 0..MOST_TRIES {
            if target_us <= 0 {
                break;
            }
            let Some(key_us) = self.at(target_us) else { break };
            // Frames are numbered as in the first run: by a key frame that it stored.
            if let Some(number) = (begin.stored)(key_us) {
                return (Some(key_us), number);
            }
            target_us = key_us.saturating_sub(1 + self.track.promise.interval_us);
        }
        let start_us = Some(begin.start_us).filter(|&start_us| start_us > 0);
        (start_us.and_then(|start_us| self.at(start_us)), 0)
    }

    /// Every span from a key frame on.
    pub(super) fn spans(mut self, from_us: Option<i64>) -> impl Iterator<Item = Span> + Send {
        let mut next = Some(from_us);
        std::iter::from_fn(move || {
            let from_us = next.take()?;
            let until_us = self.after(from_us.unwrap_or(0));
            next = until_us.map(Some);
            Some(Span { from_us, until_us })
        })
    }
}

/// For how many decoders there are enough key frames, at most `decoders`.
pub(super) fn decoders(path: &Path, track: &Track, decoders: usize) -> Result<usize, IngestError> {
    let spans: Vec<Span> = KeyFrames::open(path, track)?.spans(None).take(decoders).collect();
    let length_us = |span: &Span| Some(span.until_us? - span.from_us.unwrap_or(0));
    let is_long = spans.iter().filter_map(length_us).any(|length_us| length_us > LONGEST_US);
    Ok(if is_long { 1 } else { spans.len() })
}
