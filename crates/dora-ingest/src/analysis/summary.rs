//! A video over the length at which all are compared: its frames, cuts, classes, and their figures.

use super::detections::{ClassCount, Detections};
use super::scenes;
use serde::{Deserialize, Serialize};

/// One frame, measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Frame {
    /// Number in the source, from 0.
    pub(super) source_frame: u64,
    /// Microseconds since the start of the source.
    pub(super) pts_us: i64,
    /// Mean L* of CIELAB, 0 to 100.
    pub(super) lightness: f64,
    /// Content score against the frame before, 0 to 255; the first frame has none.
    pub(super) score: Option<f64>,
}

/// A video, cut to the length at which all are compared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Video {
    /// For legend and tables.
    pub(super) name: String,
    /// At least one, in the order of time.
    pub(super) frames: Vec<Frame>,
    /// Positions in `frames` where a new scene begins, rising.
    pub(super) cuts: Vec<usize>,
    /// Classes of the frames that a detector looked at, by position in `frames`; nothing without a
    /// file of detections.
    pub(super) classes: Option<Vec<(usize, ClassCount)>>,
}

/// The figures of a video.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Summary {
    /// Mean over the frames, L*.
    pub(super) lightness_mean: f64,
    /// Standard deviation over the frames, L*.
    pub(super) lightness_sd: f64,
    /// The largest change between neighbouring frames, L*.
    pub(super) lightness_largest_step: f64,
    /// Mean number of classes over the frames that a detector looked at, ...
    pub(super) classes_per_frame: Option<f64>,
    /// ... and the number of different ones in all of them.
    pub(super) classes: Option<usize>,
}

impl Video {
    /// Cuts a video that was read at least that far to `length_us`; none when no frame is left.
    pub(super) fn new(
        name: String,
        mut frames: Vec<Frame>,
        detections: Option<&Detections>,
        length_us: i64,
    ) -> Option<Self> {
        frames.truncate(frames.partition_point(|frame| frame.pts_us < length_us));
        if frames.is_empty() {
            return None;
        }
        let scores = frames.iter().map(|frame| (frame.pts_us, frame.score.unwrap_or(0.0)));
        let cuts = scenes::cuts(scores);
        let classes = detections.map(|detections| classes_of(&frames, detections));
        Some(Self { name, frames, cuts, classes })
    }

    /// Its figures.
    pub(super) fn summary(&self) -> Summary {
        let lightness = || self.frames.iter().map(|frame| frame.lightness);
        let lightness_mean = mean(lightness()).unwrap_or(0.0);
        let variance = mean(lightness().map(|lightness| (lightness - lightness_mean).powi(2)));
        let looked_at = || self.classes.iter().flatten();
        let step = |pair: &[Frame]| (pair[1].lightness - pair[0].lightness).abs();
        Summary {
            lightness_mean,
            lightness_sd: variance.unwrap_or(0.0).sqrt(),
            lightness_largest_step: self.frames.windows(2).map(step).fold(0.0, f64::max),
            classes_per_frame: mean(looked_at().map(|(_, count)| count.here as f64)),
            classes: looked_at().last().map(|(_, count)| count.so_far),
        }
    }
}

/// The counts of those frames that are here.
fn classes_of(frames: &[Frame], detections: &Detections) -> Vec<(usize, ClassCount)> {
    // Both rise, so that classes seen so far are those up to each frame.
    let counts = detections.counts();
    let position = |count: ClassCount| {
        let found = frames.binary_search_by_key(&count.source_frame, |frame| frame.source_frame);
        Some((found.ok()?, count))
    };
    counts.into_iter().filter_map(position).collect()
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (count, sum) = values.fold((0u64, 0.0), |(count, sum), value| (count + 1, sum + value));
    (count > 0).then(|| sum / count as f64)
}
