//! What chance decides about a view: drawn on the host, one stream for each image, so that it
//! depends on neither the batch, nor the rank, nor the device.

use rand::rngs::ChaCha8Rng;
use tch::Tensor;

use super::color::{Jitter, grey, jitter, on_some, solarize};
use super::resample::blur;
use super::spec::ViewSpec;
use crate::rng::Draw;

/// The photometric changes of a batch of images, in the order of the images.
#[derive(Debug, Default)]
pub(super) struct Photometric {
    jitter: Vec<Vec<Jitter>>,
    grey: Vec<i64>,
    blur: Vec<i64>,
    blur_radii_px: Vec<f64>,
    solarize: Vec<i64>,
}

impl Photometric {
    /// Draws for the next image.
    pub(super) fn push(
        &mut self,
        rng: &mut ChaCha8Rng,
        spec: &ViewSpec,
        blur_p: f64,
        solarize_p: f64,
    ) {
        let image = self.jitter.len() as i64;
        let mut changes = Vec::new();
        if rng.chance(spec.jitter_p) {
            let mut factor = |range: f64| rng.uniform(1.0 - range, 1.0 + range);
            changes = vec![
                Jitter::Brightness(factor(spec.brightness)),
                Jitter::Contrast(factor(spec.contrast)),
                Jitter::Saturation(factor(spec.saturation)),
                Jitter::Hue(rng.uniform(-spec.hue, spec.hue)),
            ];
            rng.shuffle(&mut changes);
        }
        self.jitter.push(changes);
        if rng.chance(spec.grey_p) {
            self.grey.push(image);
        }
        if rng.chance(blur_p) {
            self.blur.push(image);
            self.blur_radii_px.push(rng.uniform(spec.blur_radius_px[0], spec.blur_radius_px[1]));
        }
        if rng.chance(solarize_p) {
            self.solarize.push(image);
        }
    }

    /// Changes the images `[3, N, px, px]` in [0, 1].
    pub(super) fn apply(&self, images_CNHW: Tensor) -> Tensor {
        let images_CNHW = grey(jitter(images_CNHW, &self.jitter), &self.grey);
        let images_CNHW = on_some(images_CNHW, &self.blur, |some| blur(some, &self.blur_radii_px));
        solarize(images_CNHW, &self.solarize)
    }
}
