//! The random resized crop: where a view looks.

use rand::rngs::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::rng::Draw;

const TRIES: usize = 10;

/// The crop that the loader takes from the frames of a clip. A recipe may leave out any key; the
/// defaults are the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CropSpec {
    /// Side of the result.
    pub px: u32,
    /// Range of its share of the frame's area.
    pub area: [f64; 2],
    /// Range of its ratio of width to height in the frame.
    pub ratio: [f64; 2],
}

impl Default for CropSpec {
    fn default() -> Self {
        Self { px: 300, area: [0.2, 1.0], ratio: [3.0 / 4.0, 4.0 / 3.0] }
    }
}

impl CropSpec {
    /// Everything wrong with it, one sentence each.
    pub fn validate(&self) -> Vec<String> {
        let px = (!(1..=4096).contains(&self.px))
            .then(|| format!("`px` is {}, but must lie between 1 and 4096", self.px));
        let ranges = [("area", self.area, 1.0), ("ratio", self.ratio, 100.0)];
        let ranges =
            ranges.into_iter().filter_map(|(key, range, most)| check_range(key, range, most));
        px.into_iter().chain(ranges).collect()
    }
}

/// A rectangle of whole pixels inside an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CropBox {
    /// Columns to the left of it.
    pub left_px: u32,
    /// Rows above it.
    pub top_px: u32,
    /// Columns it spans.
    pub width_px: u32,
    /// Rows it spans.
    pub height_px: u32,
}

impl CropBox {
    /// Whether it holds a pixel and leaves an image of this size nowhere.
    pub(crate) fn is_within(&self, width_px: u32, height_px: u32) -> bool {
        let fits = |start: u32, length: u32, whole: u32| {
            length > 0 && start.checked_add(length).is_some_and(|end| end <= whole)
        };
        fits(self.left_px, self.width_px, width_px) && fits(self.top_px, self.height_px, height_px)
    }
}

/// Draws a box of a random share of the image and a random ratio of width to height.
///
/// `area` is the range of its share of the image's area (uniform), `ratio` the range of its ratio
/// (uniform in the logarithm). Ten tries; if none fits into the image, the largest central box
/// whose ratio is within the range. The image has at least one pixel. This is torchvision's rule.
pub fn random_resized_crop(
    rng: &mut ChaCha8Rng,
    width_px: u32,
    height_px: u32,
    area: [f64; 2],
    ratio: [f64; 2],
) -> CropBox {
    let (width, height) = (f64::from(width_px), f64::from(height_px));
    for _ in 0..TRIES {
        let area_px = width * height * rng.uniform(area[0], area[1]);
        let ratio = rng.uniform(ratio[0].ln(), ratio[1].ln()).exp();
        let w = (area_px * ratio).sqrt().round_ties_even();
        let h = (area_px / ratio).sqrt().round_ties_even();
        if (1.0..=width).contains(&w) && (1.0..=height).contains(&h) {
            let (w, h) = (w as u32, h as u32);
            return CropBox {
                top_px: rng.below(u64::from(height_px - h) + 1) as u32,
                left_px: rng.below(u64::from(width_px - w) + 1) as u32,
                width_px: w,
                height_px: h,
            };
        }
    }
    let clamped = (width / height).clamp(ratio[0], ratio[1]);
    let w = (height * clamped).round_ties_even().min(width).max(1.0) as u32;
    let h = (width / clamped).round_ties_even().min(height).max(1.0) as u32;
    CropBox {
        left_px: width_px.saturating_sub(w) / 2,
        top_px: height_px.saturating_sub(h) / 2,
        width_px: w,
        height_px: h,
    }
}

/// Says what is wrong with a range of a recipe: it must rise, lie above 0 and end at most at
/// `most`.
pub(crate) fn check_range(key: &str, [low, high]: [f64; 2], most: f64) -> Option<String> {
    let right = 0.0 < low && low <= high && high <= most;
    (!right).then(|| {
        format!(
            "`{key}` is [{low}, {high}], but must be two rising numbers above 0 and up to {most}"
        )
    })
}
