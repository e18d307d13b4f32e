//! Stretches of time without frames.

/// Shorter pauses are no news.
const SHORTEST_US: i64 = 500_000;
/// Nor is a pause of fewer usual intervals.
const INTERVALS: i64 = 5;

/// Half a second or more without a frame, and at least five usual intervals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Time stamp of the frame before it, in microseconds.
    pub from_us: i64,
    /// Time stamp of the frame behind it.
    pub to_us: i64,
}

impl Gap {
    /// Seconds from the one frame to the other.
    pub fn length_s(self) -> f64 {
        self.to_us.saturating_sub(self.from_us) as f64 * 1e-6
    }
}

/// The gaps between rising time stamps in microseconds.
pub(crate) fn between(stamps_us: &[i64]) -> Vec<Gap> {
    let length_us = |pair: &[i64]| pair[1].saturating_sub(pair[0]);
    let mut lengths_us: Vec<i64> = stamps_us.windows(2).map(length_us).collect();
    if lengths_us.is_empty() {
        return Vec::new();
    }
    // The middle one: gaps must not hide themselves.
    let middle = lengths_us.len() / 2;
    let usual_us = *lengths_us.select_nth_unstable(middle).1;
    let least_us = SHORTEST_US.max(usual_us.saturating_mul(INTERVALS));
    let pairs = stamps_us.windows(2).filter(|pair| length_us(pair) >= least_us);
    pairs.map(|pair| Gap { from_us: pair[0], to_us: pair[1] }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_found_against_the_usual_interval() {
        let late = |frame: i64| frame * 33_333 + if frame > 60 { 2_000_000 } else { 0 };
        let stamps_us: Vec<i64> = (0..100).map(late).collect();
        let gaps = between(&stamps_us);
        assert_eq!(gaps, [Gap { from_us: late(60), to_us: late(61) }]);
        assert!((gaps[0].length_s() - 2.033).abs() < 0.001);
        // One image a second has no gaps, and neither has what has no interval.
        let slow: Vec<i64> = (0..100).map(|frame| frame * 1_000_000).collect();
        assert!(between(&slow).is_empty());
        assert!(between(&[]).is_empty() && between(&[5]).is_empty());
        let torn: Vec<i64> =
            (0..100i64).map(|frame| frame * 33_333 + frame / 6 * 900_000).collect();
        assert_eq!(between(&torn).len(), 16);
        // Stamps that no video has are cut to what a number holds.
        let endless = Gap { from_us: i64::MIN, to_us: i64::MAX };
        assert_eq!(between(&[i64::MIN, i64::MAX]), [endless]);
        assert_eq!(endless.length_s(), i64::MAX as f64 * 1e-6);
    }
}
