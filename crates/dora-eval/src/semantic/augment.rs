//! Variation of training images as mmsegmentation draws it: scale, crop, mirror, colours.
//!
//! What is drawn is a function of the generator alone, and the work is the same on any number of
//! threads.

use dora_data::{
    augment::color::{Jitter, jitter},
    rng::Draw,
};
use rand::rngs::ChaCha8Rng;
use tch::{Kind, Tensor};

use super::recipe::{AugmentSection, DataSection};
use crate::images::{
    masks::{Mask, VOID},
    normalise,
};

/// Crops that are drawn before one with too much of one class is taken as it is.
const CROP_TRIES: usize = 10;

/// Image and labels for a training step: normalised float32 `[3, crop, crop]` and int64 `[crop, crop]`.
///
/// `image_CHW` is uint8. What the crop has beyond the image is 0 after normalisation, and void.
pub fn training_crop(
    image_CHW: &Tensor,
    labels: &Mask,
    data: &DataSection,
    augment: &AugmentSection,
    rng: &mut ChaCha8Rng,
) -> (Tensor, Tensor) {
    let labels_HW = labels_tensor(labels);
    let factor = rng.uniform(augment.scale_min, augment.scale_max);
    let (_, rows, columns) = image_CHW.size3().expect("an image is [3, H, W]");
    let (rows, columns) = scaled_size(rows, columns, data, factor);
    let labels_HW = resize_labels(&labels_HW, rows, columns);
    let (top, left, height, width) = choose_crop(&labels_HW, augment, rng);
    let labels_HW = labels_HW.narrow(0, top, height).narrow(1, left, width);
    let image_CHW =
        resize_image(image_CHW, rows, columns).narrow(1, top, height).narrow(2, left, width);
    let is_flipped = augment.flip && rng.chance(0.5);
    let flip = |tensor: Tensor, axis: i64| if is_flipped { tensor.flip([axis]) } else { tensor };
    let (image_CHW, labels_HW) = (flip(image_CHW, 2), flip(labels_HW, 1));
    let image_CHW =
        if augment.photometric { distort(&image_CHW, rng) } else { image_CHW.shallow_clone() };
    let (right, below) = (augment.crop_px - width, augment.crop_px - height);
    let image_CHW = normalise(&image_CHW).constant_pad_nd([0, right, 0, below]);
    let labels_HW = labels_HW.to_kind(Kind::Int64);
    let padded_HW = Tensor::full(
        [augment.crop_px, augment.crop_px],
        i64::from(VOID),
        (Kind::Int64, labels_HW.device()),
    );
    padded_HW.narrow(0, 0, height).narrow(1, 0, width).copy_(&labels_HW);
    (image_CHW, padded_HW)
}

/// Labels as uint8 `[H, W]`.
pub fn labels_tensor(labels: &Mask) -> Tensor {
    Tensor::from_slice(&labels.labels).reshape([labels.height as i64, labels.width as i64])
}

/// Rows and columns of an image after it was scaled, its shape kept, to fit into `factor` times the box
/// of the recipe; at least 1.
pub fn scaled_size(rows: i64, columns: i64, data: &DataSection, factor: f64) -> (i64, i64) {
    let factor = if data.long_px == 0 {
        factor
    } else {
        // The box is of whole pixels, as mmcv has it.
        let side = |px: i64| (px as f64 * factor).floor().max(1.0);
        let long = side(data.long_px) / rows.max(columns) as f64;
        long.min(side(data.short_px) / rows.min(columns) as f64)
    };
    let scaled = |size: i64| ((size as f64 * factor + 0.5).floor() as i64).max(1);
    (scaled(rows), scaled(columns))
}

/// uint8 `[3, H, W]` in another size, bilinearly on half-pixel centres without antialiasing, rounded.
pub fn resize_image(image_CHW: &Tensor, rows: i64, columns: i64) -> Tensor {
    if image_CHW.size()[1..] == [rows, columns] {
        return image_CHW.shallow_clone();
    }
    let image = image_CHW.to_kind(Kind::Float).unsqueeze(0);
    let resized = image.upsample_bilinear2d([rows, columns], false, None::<f64>, None::<f64>);
    resized.round().to_kind(Kind::Uint8).squeeze_dim(0)
}

/// uint8 `[H, W]` in another size, each pixel that of the old pixel in which its corner lies.
pub fn resize_labels(labels_HW: &Tensor, rows: i64, columns: i64) -> Tensor {
    let size = labels_HW.size();
    if size == [rows, columns] {
        return labels_HW.shallow_clone();
    }
    let index = |new: i64, old: i64| {
        let of: Vec<i64> = (0..new).map(|at| (at * old / new).min(old - 1)).collect();
        Tensor::from_slice(&of)
    };
    labels_HW.index_select(0, &index(rows, size[0])).index_select(1, &index(columns, size[1]))
}

/// Top, left, height and width of a crop.
fn choose_crop(
    labels_HW: &Tensor,
    augment: &AugmentSection,
    rng: &mut ChaCha8Rng,
) -> (i64, i64, i64, i64) {
    let (rows, columns) = labels_HW.size2().expect("labels are [H, W]");
    let (height, width) = (rows.min(augment.crop_px), columns.min(augment.crop_px));
    let mut start = |size: i64, part: i64| rng.below((size - part + 1) as u64) as i64;
    let mut crop = (0, 0, height, width);
    for _ in 0..CROP_TRIES {
        crop = (start(rows, height), start(columns, width), height, width);
        if augment.cat_max_ratio >= 1.0 {
            break;
        }
        let part = labels_HW.narrow(0, crop.0, height).narrow(1, crop.1, width).flatten(0, 1);
        let counts = part.bincount(None::<Tensor>, 256).narrow(0, 0, i64::from(VOID));
        let (most, all) = (counts.max().int64_value(&[]), counts.sum(Kind::Int64).int64_value(&[]));
        if most < all && (most as f64) < augment.cat_max_ratio * all as f64 {
            break;
        }
    }
    crop
}

/// Changes of colour, each with probability 1/2: brightness by up to 32 levels, contrast by a factor of
/// 0.5 to 1.5 before or after saturation by such a factor and hue by up to a tenth of the circle.
fn distort(image_CHW: &Tensor, rng: &mut ChaCha8Rng) -> Tensor {
    const LEVELS: f64 = 32.0;
    const HUE: f64 = 0.1;
    let mut image_CHW = image_CHW.to_kind(Kind::Float) / 255.0;
    if rng.chance(0.5) {
        image_CHW = (image_CHW + rng.uniform(-LEVELS, LEVELS) / 255.0).clamp(0.0, 1.0);
    }
    let is_contrast_first = rng.chance(0.5);
    let contrast = rng.chance(0.5).then(|| rng.uniform(0.5, 1.5));
    let with_contrast = |image_CHW: Tensor| match contrast {
        Some(factor) => (image_CHW * factor).clamp(0.0, 1.0),
        None => image_CHW,
    };
    if is_contrast_first {
        image_CHW = with_contrast(image_CHW);
    }
    if rng.chance(0.5) {
        image_CHW = saturate(&image_CHW, rng.uniform(0.5, 1.5));
    }
    if rng.chance(0.5) {
        let turn = Jitter::Hue(rng.uniform(-HUE, HUE));
        image_CHW = jitter(image_CHW.unsqueeze(1), &[vec![turn]]).squeeze_dim(1);
    }
    if !is_contrast_first {
        image_CHW = with_contrast(image_CHW);
    }
    (image_CHW * 255.0).round().to_kind(Kind::Uint8)
}

/// Multiplies the saturation (HSV), at most to 1.
fn saturate(image_CHW: &Tensor, factor: f64) -> Tensor {
    let value_1HW = image_CHW.amax([0i64].as_slice(), true);
    let chroma_1HW = &value_1HW - image_CHW.amin([0i64].as_slice(), true);
    let most_1HW = &value_1HW / chroma_1HW.clamp_min(1e-6);
    let factor_1HW = most_1HW.clamp_max(factor);
    &value_1HW - (&value_1HW - image_CHW) * factor_1HW
}
