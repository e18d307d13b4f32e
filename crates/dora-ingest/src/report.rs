//! What was lost or odd, in sentences.

use crate::pipeline::{Decoded, End};
use crate::source::{Damage, Promise};
use crate::stills::Stretch;

/// The most gaps that are listed one by one.
const MOST_GAPS: usize = 10;
/// Shorter pauses are no news.
const SHORTEST_GAP_US: i64 = 500_000;

/// Finds stretches without frames while the time stamps pass by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gaps {
    first_us: Option<i64>,
    last_us: i64,
    frames: i64,
    found: Vec<(i64, i64)>,
    count: usize,
}

impl Gaps {
    /// Takes the next stored frame's stamp.
    pub(crate) fn see(&mut self, pts_us: i64) {
        let first_us = *self.first_us.get_or_insert(pts_us);
        let gap_us = pts_us.saturating_sub(self.last_us);
        if self.frames > 1 && gap_us >= SHORTEST_GAP_US {
            let mean_us = self.last_us.saturating_sub(first_us) / (self.frames - 1);
            if gap_us > mean_us.saturating_mul(5) {
                self.count += 1;
                if self.found.len() < MOST_GAPS {
                    self.found.push((self.last_us, pts_us));
                }
            }
        }
        self.last_us = pts_us;
        self.frames += 1;
    }

    /// Sentences about them, but for those where frames were left out.
    fn notes(&self, left_out: &[Stretch]) -> Vec<String> {
        let is_left_out = |&&(from_us, to_us): &&(i64, i64)| {
            left_out.iter().any(|stretch| stretch.from_us < to_us && from_us < stretch.to_us)
        };
        let mut notes: Vec<String> = self
            .found
            .iter()
            .filter(|gap| !is_left_out(gap))
            .map(|&(from_us, to_us)| {
                let gap_s = to_us.saturating_sub(from_us) as f64 * 1e-6;
                format!("{gap_s:.1} s without a frame at {}", clock_time(from_us as f64 * 1e-6))
            })
            .collect();
        if self.count > self.found.len() {
            notes.push(format!("{} more such gaps", self.count - self.found.len()));
        }
        notes
    }
}

/// Everything worth saying about a finished ingest; empty when all was well.
pub(crate) fn notes(
    promise: &Promise,
    decoded: &Decoded,
    gaps: &Gaps,
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
    notes.extend(gaps.notes(left_out));
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
    fn gaps_are_found_against_the_usual_interval() {
        let mut gaps = Gaps::default();
        for frame in 0..100 {
            gaps.see(frame * 33_333 + if frame > 60 { 2_000_000 } else { 0 });
        }
        assert_eq!(gaps.notes(&[]), ["2.0 s without a frame at 0:00:02.0"]);
        // One image a second has no gaps.
        let mut slow = Gaps::default();
        (0..100).for_each(|frame| slow.see(frame * 1_000_000));
        assert!(slow.notes(&[]).is_empty());
        let mut torn = Gaps::default();
        (0..100i64).for_each(|frame| torn.see(frame * 33_333 + frame / 6 * 900_000));
        assert_eq!(torn.notes(&[]).len(), MOST_GAPS + 1);
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
            assert_eq!(
                notes(promise, &decoded, &Gaps::default(), &[], 0, Damage::default()),
                expected
            );
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
