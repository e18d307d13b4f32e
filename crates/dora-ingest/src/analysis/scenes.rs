//! Cuts: how much the picture changes from frame to frame, and where it changes too much.
//!
//! Score and cuts are those of PySceneDetect's content detector (release 0.7) with its defaults, so
//! that counts can be set beside those of others. What it does not see, this does not see either: hue
//! is compared as a number (red at 0 and red at 179 are far apart), and a slow fade is no cut.

use opencv::core::{Mat, MatTraitConstManual};
use opencv::imgproc::{COLOR_BGR2HSV, cvt_color_def};

/// A score from here on is a cut, unless another is too near.
const THRESHOLD: f64 = 27.0;
/// No scene is shorter.
const SHORTEST_SCENE_US: i64 = 600_000;

/// Scores one frame after the other.
#[derive(Debug, Default)]
pub(super) struct ContentMeter {
    hsv: Mat,
    before: Vec<u8>,
}

impl ContentMeter {
    /// The score of the next frame; nothing for the first one. `bgr` has 8 bits for each channel and
    /// always the same size.
    pub(super) fn score(&mut self, bgr: &Mat) -> opencv::Result<Option<f64>> {
        cvt_color_def(bgr, &mut self.hsv, COLOR_BGR2HSV)?;
        let hsv = self.hsv.data_bytes()?;
        let score = (self.before.len() == hsv.len()).then(|| content_score(&self.before, hsv));
        self.before.clear();
        self.before.extend_from_slice(hsv);
        Ok(score)
    }
}

/// The mean of |dH|, |dS| and |dV| over all pixels of two pictures, 0 to 255.
///
/// Both hold hue (0 to 179, as OpenCV counts it in 8 bits), saturation and value (0 to 255) of one
/// pixel after the other, and are equally large.
fn content_score(before: &[u8], after: &[u8]) -> f64 {
    // Every pixel has all three, so the mean of their means is that of all bytes.
    let distance = before.iter().zip(after).map(|(b, a)| u64::from(b.abs_diff(*a))).sum::<u64>();
    distance as f64 / before.len().max(1) as f64
}

/// The positions of the frames that begin a new scene.
///
/// `frames` gives time in microseconds, rising, and score. Cuts that follow one another faster than
/// the shortest scene are merged: after a first cut that counts, those too near to the one before wait
/// until the picture has been still for as long as a scene must last; then the last of them counts, if
/// they span as long as well. What still waits at the end is dropped, and so is a cut too near to the
/// first frame.
pub(super) fn cuts(frames: impl IntoIterator<Item = (i64, f64)>) -> Vec<usize> {
    let mut cuts = Vec::new();
    let mut last_change = None;
    let mut merging_since_us = None;
    for (position, (time_us, score)) in frames.into_iter().enumerate() {
        let (last_position, last_us) = *last_change.get_or_insert((position, time_us));
        let is_long = |from_us: i64, to_us: i64| to_us.saturating_sub(from_us) >= SHORTEST_SCENE_US;
        let changes = score >= THRESHOLD;
        match merging_since_us {
            Some(since_us) => {
                let is_still = !changes && is_long(last_us, time_us);
                if is_still && is_long(since_us, last_us) {
                    merging_since_us = None;
                    cuts.push(last_position);
                }
            }
            None if changes && is_long(last_us, time_us) => cuts.push(position),
            None if changes && !cuts.is_empty() => merging_since_us = Some(time_us),
            None => {}
        }
        if changes {
            last_change = Some((position, time_us));
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;
    use opencv::core::{CV_8UC3, Scalar};

    #[test]
    fn scores_are_mean_distances_in_hsv() {
        assert_eq!(content_score(&[0, 10, 255, 179, 0, 0], &[0, 10, 255, 179, 0, 0]), 0.0);
        assert_eq!(content_score(&[0, 0, 0], &[179, 255, 255]), 689.0 / 3.0);
        assert_eq!(content_score(&[9, 8, 7, 0, 0, 0], &[7, 8, 9, 0, 0, 2]), 1.0);

        let picture =
            |bgr| Mat::new_rows_cols_with_default(4, 6, CV_8UC3, Scalar::from(bgr)).unwrap();
        let mut meter = ContentMeter::default();
        assert_eq!(meter.score(&picture((0.0, 0.0, 0.0))).unwrap(), None);
        // Pure blue: hue 240 degrees, half of that in 8 bits, saturation and value full.
        assert_eq!(meter.score(&picture((255.0, 0.0, 0.0))).unwrap(), Some(630.0 / 3.0));
        assert_eq!(meter.score(&picture((255.0, 0.0, 0.0))).unwrap(), Some(0.0));
    }

    /// Ten frames a second, of which those at `changes` score 27 and the others just below.
    fn check(frames: usize, changes: &[usize], expected: &[usize]) {
        let score = |frame| if changes.contains(&frame) { 27.0 } else { 26.999 };
        let found = cuts((0..frames).map(|frame| (frame as i64 * 100_000, score(frame))));
        assert_eq!(found, expected, "{changes:?}");
    }

    #[test]
    fn far_cuts_all_count() {
        check(0, &[], &[]);
        check(60, &[], &[]);
        check(60, &[10, 16, 40, 59], &[10, 16, 40, 59]);
    }

    #[test]
    fn a_scene_lasts_at_least_as_long_as_the_shortest() {
        // The first scene too; what is dropped still counts as the last change.
        check(60, &[5], &[]);
        check(60, &[6], &[6]);
        check(60, &[5, 10], &[]);
        check(60, &[5, 11], &[11]);
    }

    #[test]
    fn near_cuts_are_merged() {
        // A flash: the way back is no scene, and waits in vain for others.
        check(60, &[10, 12], &[10]);
        // Many changes that span 0.6 s: the last counts when it has been still for as long.
        check(60, &[10, 12, 14, 16, 18], &[10, 18]);
        check(24, &[10, 12, 14, 16, 18], &[10]);
        check(25, &[10, 12, 14, 16, 18], &[10, 18]);
        // What waits takes up the next cut, however far, and gives it once.
        check(60, &[10, 12, 40], &[10, 40]);
        check(60, &[10, 12, 40, 50], &[10, 40, 50]);
    }
}
