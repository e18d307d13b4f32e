//! Figures of davis2017-evaluation: J and F of each frame and object, and what sums them up.

use super::boundary::boundary_f;

/// Share of J or F over which an object counts as found.
const RECALL_THRESHOLD: f64 = 0.5;

/// Parts of a sequence whose first and last are compared.
const DECAY_BINS: usize = 4;

/// J and F of one object in the frames that count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectScores {
    /// Region similarity of each frame.
    pub j: Vec<f64>,
    /// Boundary measure of each frame.
    pub f: Vec<f64>,
}

/// What sums up J or F.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// Mean over the frames.
    pub mean: f64,
    /// Share of frames over a half.
    pub recall: f64,
    /// What is lost from the first quarter of the frames to the last.
    pub decay: f64,
}

/// J: intersection over union of two masks; 1 where both are empty.
pub fn jaccard(a: &[bool], b: &[bool]) -> f64 {
    let (mut intersection, mut union) = (0_usize, 0_usize);
    for (a, b) in a.iter().zip(b) {
        intersection += usize::from(*a && *b);
        union += usize::from(*a || *b);
    }
    if union == 0 { 1.0 } else { intersection as f64 / union as f64 }
}

/// J and F of objects 1 to `objects` in one frame, whose label maps have `width` columns.
pub fn score_frame(
    annotation: &[u8],
    result: &[u8],
    width: usize,
    objects: usize,
) -> Vec<(f64, f64)> {
    let of_object = |object: usize| {
        let [annotated, found] = [annotation, result].map(|labels| -> Vec<bool> {
            labels.iter().map(|label| usize::from(*label) == object).collect()
        });
        (jaccard(&annotated, &found), boundary_f(&annotated, &found, width))
    };
    (1..=objects).map(of_object).collect()
}

impl Statistics {
    /// The statistics of at least one frame's values.
    pub fn of(values: &[f64]) -> Self {
        // Ends of the quarters, rounded to a frame; the official code lets a half go up.
        let bound = |bin: usize| ((values.len() - 1) * bin + DECAY_BINS / 2) / DECAY_BINS;
        let bin = |bin: usize| mean(&values[bound(bin)..=bound(bin + 1)]);
        let found = values.iter().filter(|value| **value > RECALL_THRESHOLD).count();
        Self {
            mean: mean(values),
            recall: found as f64 / values.len() as f64,
            decay: bin(0) - bin(DECAY_BINS - 1),
        }
    }

    /// The mean of each figure over objects or sequences, of which there is at least one.
    pub fn mean_of(all: &[Self]) -> Self {
        let mean_of = |figure: fn(&Self) -> f64| mean(&all.iter().map(figure).collect::<Vec<_>>());
        Self {
            mean: mean_of(|s| s.mean),
            recall: mean_of(|s| s.recall),
            decay: mean_of(|s| s.decay),
        }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
