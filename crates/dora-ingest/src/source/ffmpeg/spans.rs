//! Where decoding can begin: key frames, found by seeking.

use super::{Track, open_input};
use crate::error::IngestError;
use crate::source::{Begin, Span};
use ffmpeg::format::context::Input;
use std::path::Path;

/// Spans are at least this long, so that going to their beginning is rare.
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
        // A damaged packet is no place to begin.
        for packet in self.input.packets().map_while(Result::ok) {
            let (stream, packet) = packet;
            if stream.index() == self.track.index {
                return packet.pts().filter(|_| packet.is_key()).map(|pts| self.track.us(pts));
            }
        }
        None
    }

    /// The first key frame that lies at least [`SHORTEST_US`] after another.
    fn after(&mut self, from_us: i64) -> Option<i64> {
        let end_us = self.track.promise.duration_s.map_or(0, |s| (s * 1e6) as i64);
        let mut target_us = from_us.saturating_add(SHORTEST_US);
        let mut found = None;
        // Steps forward until a seek lands on another one, ...
        while found.is_none() && target_us <= end_us {
            found = self.at(target_us).filter(|&key_us| key_us > from_us);
            if found.is_none() {
                target_us = target_us.saturating_add(SHORTEST_US);
            }
        }
        // ... which may be long after `from_us`, but none is skipped that matters.
        found
    }

    /// Where to begin: the key frame from which the wanted frames can be decoded, and its number.
    pub(super) fn before(&mut self, begin: &Begin<'_>) -> Result<(Option<i64>, u64), IngestError> {
        let Some(anchor) = begin.anchor else {
            let key_us =
                (begin.start_us > 0 && self.track.has_index).then(|| self.at(begin.start_us));
            return Ok((key_us.flatten(), 0));
        };
        let mut target_us = anchor.pts_us;
        for _ in 0..MOST_TRIES {
            if !self.track.has_index || target_us <= 0 {
                break;
            }
            let Some(key_us) = self.at(target_us) else { break };
            // Frames are numbered as in the first run: by a key frame that it stored.
            if let Some(number) = (begin.stored)(key_us) {
                return Ok((Some(key_us), number));
            }
            target_us = key_us.saturating_sub(1 + self.track.promise.interval_us);
        }
        let from_us = (begin.start_us > 0 && self.track.has_index).then(|| self.at(begin.start_us));
        Ok((from_us.flatten(), 0))
    }

    /// Every span from a key frame on.
    pub(super) fn spans(
        mut self,
        from_us: Option<i64>,
    ) -> impl Iterator<Item = Result<Span, IngestError>> + Send {
        let mut next = Some(from_us);
        std::iter::from_fn(move || {
            let from_us = next.take()?;
            let until_us = self.after(from_us.unwrap_or(0));
            next = until_us.map(Some);
            Some(Ok(Span { from_us, until_us }))
        })
    }
}

/// Whether there are enough key frames for this many decoders.
pub(super) fn are_worth_it(
    path: &Path,
    track: &Track,
    decoders: usize,
) -> Result<bool, IngestError> {
    let spans = KeyFrames::open(path, track)?.spans(None).take(decoders + 1);
    let spans: Vec<Span> = spans.collect::<Result<_, _>>()?;
    let whole = spans.iter().filter_map(|span| Some(span.until_us? - span.from_us.unwrap_or(0)));
    Ok(spans.len() >= decoders && whole.clone().count() > 0 && whole.max() <= Some(LONGEST_US))
}
