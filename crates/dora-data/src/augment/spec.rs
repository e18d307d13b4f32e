//! What the views of a clip look like, as a recipe states it.

use serde::{Deserialize, Serialize};

use crate::crop::check_range;

/// Sizes and odds of the global views and local crops. A recipe may leave out any key; the
/// defaults are the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ViewSpec {
    /// Global views of a clip, 1 or 2; each has a box of its own, the second one may be solarised.
    pub views: u32,
    /// Side of a global view.
    pub global_px: u32,
    /// Range of a global view's share of the frame's area.
    pub global_area: [f64; 2],
    /// Local crops of each frame.
    pub local_crops: u32,
    /// Side of a local crop.
    pub local_px: u32,
    /// Range of a local crop's share of the frame's area.
    pub local_area: [f64; 2],
    /// Range of the ratio of width to height, for global views and local crops.
    pub ratio: [f64; 2],
    /// Probability that a global view is mirrored, the whole clip alike.
    pub flip_p: f64,
    /// Probability that the four colours below are changed.
    pub jitter_p: f64,
    /// Brightness is multiplied by a factor of 1 +- this.
    pub brightness: f64,
    /// Contrast is multiplied by a factor of 1 +- this.
    pub contrast: f64,
    /// Saturation is multiplied by a factor of 1 +- this.
    pub saturation: f64,
    /// Hue is turned by up to this share of the circle, either way; at most 0.5.
    pub hue: f64,
    /// Probability of grey.
    pub grey_p: f64,
    /// Probability that a frame of a global view is blurred.
    pub global_blur_p: f64,
    /// Probability that a local crop is blurred.
    pub local_blur_p: f64,
    /// Range of the blur's standard deviation.
    pub blur_radius_px: [f64; 2],
    /// Probability that a frame of the second global view is solarised.
    pub solarize_p: f64,
}

impl Default for ViewSpec {
    fn default() -> Self {
        Self {
            views: 1,
            global_px: 224,
            global_area: [0.4, 1.0],
            local_crops: 6,
            local_px: 112,
            local_area: [0.05, 0.4],
            ratio: [3.0 / 4.0, 4.0 / 3.0],
            flip_p: 0.5,
            jitter_p: 0.8,
            brightness: 0.4,
            contrast: 0.4,
            saturation: 0.2,
            hue: 0.1,
            grey_p: 0.2,
            global_blur_p: 0.1,
            local_blur_p: 0.5,
            blur_radius_px: [0.1, 2.0],
            solarize_p: 0.2,
        }
    }
}

impl ViewSpec {
    /// Everything wrong with it, one sentence each.
    pub fn validate(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !(1..=2).contains(&self.views) {
            problems.push(format!("`views` is {}, but must be 1 or 2", self.views));
        }
        for (key, px) in [("global_px", self.global_px), ("local_px", self.local_px)] {
            if !(1..=4096).contains(&px) {
                problems.push(format!("`{key}` is {px}, but must lie between 1 and 4096"));
            }
        }
        if self.local_crops > 64 {
            problems.push(format!("`local_crops` is {}, but 64 are the most", self.local_crops));
        }
        let ranges = [
            ("global_area", self.global_area, 1.0),
            ("local_area", self.local_area, 1.0),
            ("ratio", self.ratio, 100.0),
            ("blur_radius_px", self.blur_radius_px, 100.0),
        ];
        problems
            .extend(ranges.into_iter().filter_map(|(k, range, most)| check_range(k, range, most)));
        let numbers = [
            ("flip_p", self.flip_p, 1.0),
            ("jitter_p", self.jitter_p, 1.0),
            ("brightness", self.brightness, 1.0),
            ("contrast", self.contrast, 1.0),
            ("saturation", self.saturation, 1.0),
            ("hue", self.hue, 0.5),
            ("grey_p", self.grey_p, 1.0),
            ("global_blur_p", self.global_blur_p, 1.0),
            ("local_blur_p", self.local_blur_p, 1.0),
            ("solarize_p", self.solarize_p, 1.0),
        ];
        for (key, value, most) in numbers {
            if !(0.0..=most).contains(&value) {
                problems.push(format!("`{key}` is {value}, but must lie between 0 and {most}"));
            }
        }
        problems
    }
}
