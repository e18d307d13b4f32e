//! Colours: jitter, grey and solarisation of a batch, each image with its own numbers.
//!
//! Images are float in [0, 1], `[C, N, H, W]` with red, green and blue; so are results. Each channel
//! of the batch is one piece of memory, because most of the work is done channel by channel.

use tch::{Device, Kind, Tensor};

/// One of the four changes of colour jitter, with its number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Jitter {
    /// Multiplies everything by a factor.
    Brightness(f64),
    /// Multiplies the distance from the mean grey of the image by a factor.
    Contrast(f64),
    /// Multiplies the distance from the pixel's own grey by a factor.
    Saturation(f64),
    /// Turns the hue by a share of the circle.
    Hue(f64),
}

/// Applies to each image its own changes, one after the other, in its own order; every step ends
/// in [0, 1]. `changes` holds one list for each image; an empty one leaves it as it is.
pub fn jitter(mut images_CNHW: Tensor, changes: &[Vec<Jitter>]) -> Tensor {
    let slots = changes.iter().map(Vec::len).max().unwrap_or(0);
    for slot in 0..slots {
        let step: Vec<_> = changes.iter().map(|list| list.get(slot).copied()).collect();
        images_CNHW = blend(images_CNHW, &step);
        let (index, turns): (Vec<i64>, Vec<f32>) = (0..)
            .zip(&step)
            .filter_map(|(n, change)| match change {
                Some(Jitter::Hue(turn)) => Some((n, *turn as f32)),
                _ => None,
            })
            .unzip();
        images_CNHW = on_some(images_CNHW, &index, |some| turn_hue(some, &turns));
    }
    images_CNHW
}

/// Grey images in place of those at `index`.
pub fn grey(images_CNHW: Tensor, index: &[i64]) -> Tensor {
    on_some(images_CNHW, index, |some| luma(some).expand_as(some))
}

/// Inverts the bright half (from 128 of 255 on) of the images at `index`.
pub fn solarize(images_CNHW: Tensor, index: &[i64]) -> Tensor {
    on_some(images_CNHW, index, |some| {
        let inverted: Tensor = 1.0 - some;
        inverted.where_self(&some.ge(128.0 / 255.0), some)
    })
}

/// Replaces the images at `index` by what `change` makes of them.
pub fn on_some(
    mut images_CNHW: Tensor,
    index: &[i64],
    change: impl FnOnce(&Tensor) -> Tensor,
) -> Tensor {
    if index.is_empty() {
        return images_CNHW;
    }
    let index = Tensor::from_slice(index).to_device(images_CNHW.device());
    let changed = change(&images_CNHW.index_select(1, &index));
    images_CNHW.index_copy_(1, &index, &changed)
}

/// Brightness, contrast and saturation, for all images at once: each is `f x + (1 - f) other`,
/// with black, the mean grey or the pixel's own grey for `other`.
fn blend(images_CNHW: Tensor, step: &[Option<Jitter>]) -> Tensor {
    let coefficients = |change: &Option<Jitter>| match *change {
        Some(Jitter::Brightness(f)) => [f, 0.0, 0.0],
        Some(Jitter::Contrast(f)) => [f, 1.0 - f, 0.0],
        Some(Jitter::Saturation(f)) => [f, 0.0, 1.0 - f],
        Some(Jitter::Hue(_)) | None => [1.0, 0.0, 0.0],
    };
    let coefficients: Vec<_> =
        step.iter().flat_map(coefficients).map(|value| value as f32).collect();
    let coefficients =
        Tensor::from_slice(&coefficients).to_device(images_CNHW.device()).view([-1, 3, 1, 1]);
    let [own, mean, pixel] =
        [0, 1, 2].map(|column| coefficients.narrow(1, column, 1).transpose(0, 1));
    let grey = luma(&images_CNHW);
    let other =
        (&grey * pixel).addcmul_(&grey.mean_dim([2i64, 3].as_slice(), true, Kind::Float), &mean);
    other.addcmul(&images_CNHW, &own).clamp_(0.0, 1.0)
}

/// Turns the hue of each image by its share of the circle, keeping value and saturation (HSV).
fn turn_hue(images_CNHW: &Tensor, turns: &[f32]) -> Tensor {
    let device = images_CNHW.device();
    let [red, green, blue] = [0, 1, 2].map(|c| images_CNHW.narrow(0, c, 1));
    let value = red.maximum(&green).maximum(&blue);
    let chroma = &value - red.minimum(&green).minimum(&blue);
    // The hue in sixths of the circle; where there is no chroma, any hue will do.
    let divisor = chroma.clamp_min(1e-12);
    let from_red = (&green - &blue) / &divisor;
    let from_green = (&blue - &red) / &divisor + 2.0;
    let from_blue = (&red - &green) / &divisor + 4.0;
    let hue = from_red.where_self(
        &value.eq_tensor(&red),
        &from_green.where_self(&value.eq_tensor(&green), &from_blue),
    );
    let turns = Tensor::from_slice(turns).to_device(device).view([-1, 1, 1]) * 6.0;
    let hue = hue + turns;
    let hue = &hue - (&hue / 6.0).floor_() * 6.0;
    // A channel's distance from the value, in units of chroma, rises from 0 to 1 over the second
    // sixth away from its own hue (red 0, green 2, blue 4) and stays there up to the opposite.
    let behind = Tensor::from_slice(&[3f32, 5.0, 1.0]).to_device(device).view([3, 1, 1, 1]);
    let distance = (hue - behind).abs_().g_sub_scalar_(3.0).abs_().clamp_(1.0, 2.0);
    (&value + &chroma).addcmul(&distance, &-chroma)
}

/// The grey of each pixel, `[1, N, H, W]`.
fn luma(images_CNHW: &Tensor) -> Tensor {
    let [red, green, blue] = [0, 1, 2].map(|c| images_CNHW.narrow(0, c, 1));
    red * 0.2989 + green * 0.587 + blue * 0.114
}

/// The mean (first) and standard deviation of ImageNet's pixels, `[3, 1, 1]` each.
pub(super) fn imagenet(device: Device) -> [Tensor; 2] {
    [[0.485f32, 0.456, 0.406], [0.229, 0.224, 0.225]]
        .map(|values| Tensor::from_slice(&values).to_device(device).view([3, 1, 1]))
}
