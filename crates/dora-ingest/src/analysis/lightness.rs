//! Lightness of a frame: the mean of CIELAB's L*.
//!
//! L* is what colorimetry calls lightness (CIE 15): 0 for black, 100 for white, and equal steps look
//! equal. The mean of luma or of HSV's value would follow the display's coding instead: value calls a
//! pure blue as light as white.

/// Levels of luminance between black and white: L* is off by 0.1 at most, next to black.
const LEVELS: usize = 4096;

/// Tables for pictures in sRGB with 8 bits for each channel.
#[derive(Debug)]
pub(super) struct LightMeter {
    /// What a value of blue, green or red adds to the luminance, in levels.
    luminance: [[f32; 256]; 3],
    /// L* of each level.
    lightness: Vec<f32>,
}

impl LightMeter {
    pub(super) fn new() -> Self {
        // The rows of sRGB's matrix (IEC 61966-2-1) that give Y, for blue, green and red.
        let luminance = [0.0722, 0.7152, 0.2126].map(|weight| {
            std::array::from_fn(|value| {
                (weight * linear(value as f64 / 255.0) * (LEVELS - 1) as f64) as f32
            })
        });
        let level = |level| lightness(level as f64 / (LEVELS - 1) as f64) as f32;
        Self { luminance, lightness: (0..LEVELS).map(level).collect() }
    }

    /// The mean L* of pixels that hold blue, green and red each; 0 to 100.
    pub(super) fn mean(&self, bgr: &[u8]) -> f64 {
        let (pixels, _) = bgr.as_chunks::<3>();
        let [blues, greens, reds] = &self.luminance;
        let lightness = |[b, g, r]: &[u8; 3]| {
            let level = blues[usize::from(*b)] + greens[usize::from(*g)] + reds[usize::from(*r)];
            f64::from(self.lightness[((level + 0.5) as usize).min(LEVELS - 1)])
        };
        pixels.iter().map(lightness).sum::<f64>() / pixels.len().max(1) as f64
    }
}

/// The light that an sRGB value stands for; both 0 to 1.
fn linear(value: f64) -> f64 {
    if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
}

/// L* of a luminance from 0 to 1, where 1 is white.
fn lightness(luminance: f64) -> f64 {
    if luminance <= 216.0 / 24389.0 {
        luminance * 24389.0 / 27.0
    } else {
        116.0 * luminance.cbrt() - 16.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opencv::core::{CV_8UC3, Mat, MatTraitConst, MatTraitConstManual, Scalar, Vec3b};
    use opencv::imgproc::{COLOR_BGR2Lab, cvt_color_def};

    #[test]
    fn lightness_is_that_of_cielab() {
        let meter = LightMeter::new();
        for (bgr, expected) in [
            ([0, 0, 0], 0.0),
            ([255, 255, 255], 100.0),
            ([119, 119, 119], 50.034),
            ([255, 0, 0], 32.297),
            ([0, 255, 0], 87.735),
            ([0, 0, 255], 53.241),
            ([5, 5, 5], 1.371),
        ] {
            let lightness = meter.mean(&bgr);
            assert!((lightness - expected).abs() < 0.1, "{bgr:?}: {lightness}");
        }
        let mean = meter.mean(&[0, 0, 0, 255, 255, 255]);
        assert!((mean - 50.0).abs() < 1e-3, "{mean}");
    }

    #[test]
    fn lightness_is_that_of_opencv() {
        let meter = LightMeter::new();
        let mut lab = Mat::default();
        for value in 0..512u32 {
            let bgr = [value * 7 % 256, value * 31 % 256, value * 101 % 256].map(|v| v as u8);
            let [b, g, r] = bgr.map(f64::from);
            let scalar = Scalar::new(b, g, r, 0.0);
            let pixel = Mat::new_rows_cols_with_default(1, 1, CV_8UC3, scalar).unwrap();
            cvt_color_def(&pixel, &mut lab, COLOR_BGR2Lab).unwrap();
            let expected = f64::from(lab.at_2d::<Vec3b>(0, 0).unwrap()[0]) * 100.0 / 255.0;
            let lightness = meter.mean(pixel.data_bytes().unwrap());
            // OpenCV has 8 bits, a step of 0.4.
            assert!((lightness - expected).abs() < 0.5, "{bgr:?}: {lightness}, {expected}");
        }
    }
}
