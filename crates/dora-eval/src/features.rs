//! Features of whole data sets.

use rayon::prelude::*;
use tch::{Kind, Tensor, no_grad};

use crate::{
    encoder::Encoder,
    image_folder::ImageFolder,
    images::{ImageError, normalise, read_rgb, resize_and_crop},
    progress::Progress,
};

const BATCH: usize = 32;

/// `[CLS]` features `[N, D]` of every image, of length 1, on the CPU: the short side scaled to 8/7 of
/// `image_px`, the centre square of `image_px` taken.
pub fn cls_features(
    encoder: &Encoder,
    images: &ImageFolder,
    image_px: i64,
    what: &str,
) -> Result<Tensor, ImageError> {
    let mut progress = Progress::new(what, images.samples.len() as u64);
    let mut parts = Vec::new();
    for batch in images.samples.chunks(BATCH) {
        let pictures: Vec<Tensor> = batch
            .par_iter()
            .map(|(path, _)| Ok(resize_and_crop(&read_rgb(path)?, image_px * 8 / 7, image_px)))
            .collect::<Result<_, ImageError>>()?;
        let images_NCHW = normalise(&Tensor::stack(&pictures, 0).to_device(encoder.device));
        let cls_ND = no_grad(|| encoder.vit.cls(&images_NCHW, None));
        let norm_N1 = cls_ND.norm_scalaropt_dim(2, [1].as_slice(), true);
        parts.push((cls_ND / norm_N1.clamp_min(1e-12)).to_kind(Kind::Float).to(tch::Device::Cpu));
        progress.advance(batch.len() as u64);
    }
    Ok(Tensor::cat(&parts, 0))
}
