//! What was lost or odd, in sentences.

use crate::pipeline::{Decoded, End};
use crate::source::{Damage, Promise};
use crate::stills::Stretch;
use dora_store::Gap;

/// The most gaps that are listed one by one.
const MOST_GAPS: usize = 10;
/// Sentences about gaps, but for those where frames were left out.
fn gap_notes(gaps: &[Gap], left_out: &[Stretch]) -> Vec<String> {
    let is_left_out = |gap: &Gap| {
        left_out.iter().any(|stretch| stretch.from_us < gap.to_us && gap.from_us < stretch.to_us)
    };
    let gaps: Vec<&Gap> = gaps.iter().filter(|gap| !is_left_out(gap)).collect();
    let sentence = |gap: &&Gap| {
        let at = clock_time(gap.from_us as f64 * 1e-6);
        format!("{:.1} s without a frame at {at}", gap.length_s())
    };
    let mut notes: Vec<String> = gaps.iter().take(MOST_GAPS).map(sentence).collect();
    if gaps.len() > MOST_GAPS {
        notes.push(format!("{} more such gaps", gaps.len() - MOST_GAPS));
    }
    notes
}

/// Everything worth saying about a finished ingest; empty when all was well.
pub(crate) fn notes(
    promise: &Promise,
    decoded: &Decoded,
    gaps: &[Gap],
    left_out: &[Stretch],
    mended: u64,
    damage: Damage,
) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(last_frame) = decoded.last_frame.filter(|_| decoded.end == End::Source) {
        let frames = last_frame + 1;
        let decoded_s = decoded.last_us.saturating_add(promise.interval_us) as f64 * 1e-6;
        if promise.missing_bytes > 0 {
            let missing_mb = promise.missing_bytes as f64 / 1e6;
            notes.push(format!("the file is cut: its last {missing_mb:.1} MB are missing"));
        }
        let much = |expected_s: f64| (expected_s * 0.02).max(1.0);
        let expected_s = promise.duration_s.filter(|&s| decoded_s < s - much(s));
        if let Some(expected_s) = expected_s {
            notes.push(format!("{decoded_s:.1} of {expected_s:.1} s could be decoded"));
        }
        let missing = promise.frames.unwrap_or(0).saturating_sub(frames);
        if missing > 2.max(frames / 1000) {
            notes.push(format!("{missing} of {} frames are missing or damaged", frames + missing));
        }
    }
    if decoded.lost > 0 {
        notes.push(format!("{} frames could not be converted", decoded.lost));
    }
    if decoded.resized > 0 {
        let count = decoded.resized;
        notes
            .push(format!("{count} frames have another size than the first and were scaled to it"));
    }
    if mended > decoded.last_frame.unwrap_or(0) / 100 {
        notes.push(format!("{mended} frames had no good time stamp and were given one"));
    }
    notes.extend(damage.notes());
    notes.extend(left_out.iter().take(MOST_GAPS).map(Stretch::note));
    if left_out.len() > MOST_GAPS {
        notes.push(format!("{} more such stretches", left_out.len() - MOST_GAPS));
    }
    notes.extend(gap_notes(gaps, left_out));
    notes
}

/// Seconds as "0:01:23.4".
pub(crate) fn clock_time(time_s: f64) -> String {
    let tenths = (time_s.max(0.0) * 10.0).round() as u64;
    let seconds = tenths / 10;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours}:{minutes:02}:{seconds:02}.{}", tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_listed_but_for_what_was_left_out() {
        let gap =
            |from_s: i64| Gap { from_us: from_s * 1_000_000, to_us: (from_s + 2) * 1_000_000 };
        let gaps: Vec<Gap> = (0..12).map(|number| gap(number * 10)).collect();
        let notes = gap_notes(&gaps, &[]);
        assert_eq!((notes.len(), notes[1].as_str()), (11, "2.0 s without a frame at 0:00:10.0"));
        assert_eq!(notes[10], "2 more such gaps");
        let blank = Stretch { is_blank: true, from_us: 10_100_000, to_us: 12_000_000, frames: 50 };
        assert_eq!(gap_notes(&gaps[..2], &[blank]), ["2.0 s without a frame at 0:00:00.0"]);
    }

    #[test]
    fn losses_are_told_and_good_files_are_not() {
        let promise = Promise {
            interval_us: 33_333,
            duration_s: Some(10.0),
            frames: Some(300),
            missing_bytes: 0,
        };
        let check = |promise: &Promise, frames: u64, end: End, expected: &[&str]| {
            let last_us = (frames as i64 - 1) * 33_333;
            let last_frame = Some(frames - 1);
            let decoded = Decoded { end, last_frame, last_us, lost: 0, resized: 0 };
            assert_eq!(notes(promise, &decoded, &[], &[], 0, Damage::default()), expected);
        };
        check(&promise, 300, End::Source, &[]);
        check(&promise, 298, End::Source, &[]);
        check(&promise, 150, End::Range, &[]);
        let short = "5.0 of 10.0 s could be decoded";
        let missing = "150 of 300 frames are missing or damaged";
        check(&promise, 150, End::Source, &[short, missing]);
        let cut = Promise { missing_bytes: 1_234_567, ..promise };
        let bytes = "the file is cut: its last 1.2 MB are missing";
        check(&cut, 150, End::Source, &[bytes, short, missing]);
    }

    #[test]
    fn times_read_as_on_a_clock() {
        assert_eq!(clock_time(3723.46), "1:02:03.5");
        assert_eq!(clock_time(59.99), "0:01:00.0");
        assert_eq!(clock_time(f64::NAN), "0:00:00.0");
    }
}
