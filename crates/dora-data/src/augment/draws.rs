//! What chance decides about a view: drawn on the host, one stream for each image, so that it
//! depends on neither the batch, nor the rank, nor the device.

use std::ops::Range;

use rand::rngs::ChaCha8Rng;
use tch::Tensor;

use super::Together;
use super::color::{Jitter, JitterSteps, Picked, grey, solarize};
use super::resample::Blur;
use super::spec::ViewSpec;
use crate::arena::Arena;
use crate::rng::Draw;

/// The photometric changes of one image.
#[derive(Debug)]
pub(super) struct Colours {
    jitter: Vec<Jitter>,
    grey: bool,
    blur_radius_px: Option<f64>,
    solarize: bool,
}

impl Colours {
    pub(super) fn draw(
        rng: &mut ChaCha8Rng,
        spec: &ViewSpec,
        blur_p: f64,
        solarize_p: f64,
    ) -> Self {
        let mut jitter = Vec::new();
        if rng.chance(spec.jitter_p) {
            let mut factor = |range: f64| rng.uniform(1.0 - range, 1.0 + range);
            jitter = vec![
                Jitter::Brightness(factor(spec.brightness)),
                Jitter::Contrast(factor(spec.contrast)),
                Jitter::Saturation(factor(spec.saturation)),
                Jitter::Hue(rng.uniform(-spec.hue, spec.hue)),
            ];
            rng.shuffle(&mut jitter);
        }
        let grey = rng.chance(spec.grey_p);
        let [low, high] = spec.blur_radius_px;
        let blur_radius_px = rng.chance(blur_p).then(|| rng.uniform(low, high));
        Self { jitter, grey, blur_radius_px, solarize: rng.chance(solarize_p) }
    }
}

/// The photometric changes of a batch of images, with their numbers in an arena.
#[derive(Debug)]
pub(super) struct Photometric {
    jitter: JitterSteps,
    grey: Picked,
    blurred: Picked,
    blur: Blur,
    solarize: Picked,
}

impl Photometric {
    /// Puts what images of `px` need into `arena`.
    pub(super) fn new(images: Vec<Colours>, px: u32, arena: &mut Arena) -> Self {
        let radii_px: Vec<f64> = images.iter().filter_map(|image| image.blur_radius_px).collect();
        let mut picked = |is: fn(&Colours) -> bool| {
            let images = (0..).zip(&images).filter(|(_, image)| is(image));
            Picked::new(images.map(|(index, _)| index).collect(), arena)
        };
        let grey = picked(|image| image.grey);
        let blurred = picked(|image| image.blur_radius_px.is_some());
        let solarize = picked(|image| image.solarize);
        let jitter: Vec<_> = images.into_iter().map(|image| image.jitter).collect();
        let jitter = JitterSteps::new(&jitter, arena);
        Self { jitter, grey, blurred, blur: Blur::new(&radii_px, px, arena), solarize }
    }

    /// Changes the images `which` of the batch, `[3, N, px, px]` in [0, 1].
    pub(super) fn apply(
        &self,
        images_CNHW: Tensor,
        which: Range<usize>,
        bytes: &Tensor,
        together: Together,
    ) -> Tensor {
        let Self { jitter, grey: to_grey, blurred, blur, solarize: to_solarize } = self;
        let images_CNHW = jitter.apply(images_CNHW, which.clone(), bytes);
        let images_CNHW = to_grey.change(images_CNHW, &which, bytes, |some, _| grey(some));
        let images_CNHW = blurred.change(images_CNHW, &which, bytes, |some, picked| {
            blur.apply(some, picked, bytes, together)
        });
        to_solarize.change(images_CNHW, &which, bytes, |some, _| solarize(some))
    }
}
