//! Colours: jitter, grey and solarisation of a batch, each image with its own numbers.
//!
//! Images are float in [0, 1], `[C, N, H, W]` with red, green and blue; so are results. Each channel
//! of the batch is one piece of memory, because most of the work is done channel by channel.

use std::ops::Range;

use tch::{Device, Kind, Tensor};

use crate::arena::{Arena, Slot};

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

/// The changes of a batch of images, each step with its numbers in an arena.
#[derive(Debug)]
pub(super) struct JitterSteps(Vec<JitterStep>);

/// One change of each image.
#[derive(Debug)]
struct JitterStep {
    changes: Vec<Option<Jitter>>,
    /// For each image the weights of itself, its mean grey and each pixel's grey, `[N, 3]`.
    coefficients: Slot,
    hue: Picked,
    /// By how much those turn.
    turns: Slot,
}

/// Some images of a batch, in rising order.
#[derive(Debug)]
pub(super) struct Picked {
    images: Vec<i64>,
    slot: Slot,
}

/// Applies to each image its own changes, one after the other, in its own order; every step ends
/// in [0, 1]. `changes` holds one list for each image; an empty one leaves it as it is.
pub fn jitter(images_CNHW: Tensor, changes: &[Vec<Jitter>]) -> Tensor {
    let mut arena = Arena::default();
    let steps = JitterSteps::new(changes, &mut arena);
    let bytes = Tensor::from_slice(arena.bytes()).to_device(images_CNHW.device());
    steps.apply(images_CNHW, 0..changes.len(), &bytes)
}

impl JitterSteps {
    /// Puts the numbers of `changes`, one list for each image, into `arena`.
    pub(super) fn new(changes: &[Vec<Jitter>], arena: &mut Arena) -> Self {
        let steps = changes.iter().map(Vec::len).max().unwrap_or(0);
        let step =
            |step| JitterStep::new(changes.iter().map(|list| list.get(step).copied()), arena);
        Self((0..steps).map(step).collect())
    }

    /// Changes the images `which` of the batch, `[C, N, H, W]`.
    pub(super) fn apply(&self, images_CNHW: Tensor, which: Range<usize>, bytes: &Tensor) -> Tensor {
        self.0.iter().fold(images_CNHW, |images, step| step.apply(images, &which, bytes))
    }
}

impl JitterStep {
    fn new(changes: impl Iterator<Item = Option<Jitter>>, arena: &mut Arena) -> Self {
        let changes: Vec<_> = changes.collect();
        let coefficients = changes.iter().flat_map(|change| match *change {
            Some(Jitter::Brightness(f)) => [f, 0.0, 0.0],
            Some(Jitter::Contrast(f)) => [f, 1.0 - f, 0.0],
            Some(Jitter::Saturation(f)) => [f, 0.0, 1.0 - f],
            Some(Jitter::Hue(_)) | None => [1.0, 0.0, 0.0],
        });
        let coefficients: Vec<_> = coefficients.map(|value| value as f32).collect();
        let (hue, turns): (Vec<i64>, Vec<f32>) = (0..)
            .zip(&changes)
            .filter_map(|(n, change)| match change {
                Some(Jitter::Hue(turn)) => Some((n, *turn as f32)),
                _ => None,
            })
            .unzip();
        Self {
            coefficients: arena.push_f32(&coefficients),
            hue: Picked::new(hue, arena),
            turns: arena.push_f32(&turns),
            changes,
        }
    }

    fn apply(&self, images_CNHW: Tensor, which: &Range<usize>, bytes: &Tensor) -> Tensor {
        let blended = self.blend(images_CNHW, which, bytes);
        self.hue.change(blended, which, bytes, |some, picked| {
            let turns = self.turns.tensor(bytes);
            turn_hue(some, &turns.narrow(0, picked.start as i64, picked.len() as i64))
        })
    }

    /// Brightness, contrast and saturation, for all images at once: each is `f x + (1 - f) other`,
    /// with black, the mean grey or the pixel's own grey for `other`.
    fn blend(&self, images_CNHW: Tensor, which: &Range<usize>, bytes: &Tensor) -> Tensor {
        let changes = &self.changes[which.clone()];
        let has = |is: fn(&Jitter) -> bool| changes.iter().flatten().any(is);
        let contrast = has(|change| matches!(change, Jitter::Contrast(_)));
        let saturation = has(|change| matches!(change, Jitter::Saturation(_)));
        if !(contrast || saturation || has(|change| matches!(change, Jitter::Brightness(_)))) {
            return images_CNHW;
        }
        let coefficients = self.coefficients.tensor(bytes).view([-1, 3, 1, 1]);
        let coefficients = coefficients.narrow(0, which.start as i64, which.len() as i64);
        let [own, mean, pixel] =
            [0, 1, 2].map(|column| coefficients.narrow(1, column, 1).transpose(0, 1));
        if !(contrast || saturation) {
            return (images_CNHW * own).clamp_(0.0, 1.0);
        }
        let grey = luma(&images_CNHW);
        let mut other = if saturation { &grey * pixel } else { grey.zeros_like() };
        if contrast {
            let mean_grey = grey.mean_dim([2i64, 3].as_slice(), true, Kind::Float);
            other = other.addcmul_(&mean_grey, &mean);
        }
        other.addcmul(&images_CNHW, &own).clamp_(0.0, 1.0)
    }
}

impl Picked {
    /// Puts the numbers of `images`, which rise, into `arena`.
    pub(super) fn new(images: Vec<i64>, arena: &mut Arena) -> Self {
        Self { slot: arena.push_i64(&images), images }
    }

    /// Replaces the picked ones of the images `which`, `[C, N, H, W]`, by what `change` makes of them;
    /// it is also given their places among all that are picked.
    pub(super) fn change(
        &self,
        mut images_CNHW: Tensor,
        which: &Range<usize>,
        bytes: &Tensor,
        change: impl FnOnce(&Tensor, Range<usize>) -> Tensor,
    ) -> Tensor {
        let place = |image: usize| self.images.partition_point(|&other| other < image as i64);
        let picked = place(which.start)..place(which.end);
        if picked.is_empty() {
            return images_CNHW;
        }
        if picked.len() == which.len() {
            return change(&images_CNHW, picked);
        }
        let index = self.slot.tensor(bytes).narrow(0, picked.start as i64, picked.len() as i64);
        let index = index - which.start as i64;
        let changed = change(&images_CNHW.index_select(1, &index), picked);
        images_CNHW.index_copy_(1, &index, &changed)
    }
}

/// Grey images.
pub fn grey(images_CNHW: &Tensor) -> Tensor {
    luma(images_CNHW).expand_as(images_CNHW).contiguous()
}

/// Images with their bright half (from 128 of 255 on) inverted.
pub fn solarize(images_CNHW: &Tensor) -> Tensor {
    let inverted: Tensor = 1.0 - images_CNHW;
    inverted.where_self(&images_CNHW.ge(128.0 / 255.0), images_CNHW)
}

/// Turns the hue of each image by its share of the circle, keeping value and saturation (HSV).
fn turn_hue(images_CNHW: &Tensor, turns_N: &Tensor) -> Tensor {
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
    let hue = hue + turns_N.view([-1, 1, 1]) * 6.0;
    let hue = &hue - (&hue / 6.0).floor_() * 6.0;
    // A channel's distance from the value, in units of chroma, rises from 0 to 1 over the second
    // sixth away from its own hue (red 0, green 2, blue 4) and stays there up to the opposite.
    let channel = Tensor::arange(3, (Kind::Float, images_CNHW.device())).view([3, 1, 1, 1]);
    let distance =
        (hue - (channel * 2.0 + 3.0).fmod(6.0)).abs_().g_sub_scalar_(3.0).abs_().clamp_(1.0, 2.0);
    (&value + &chroma).addcmul(&distance, &-chroma)
}

/// The grey of each pixel, `[1, N, H, W]`.
fn luma(images_CNHW: &Tensor) -> Tensor {
    let [red, green, blue] = [0, 1, 2].map(|c| images_CNHW.narrow(0, c, 1));
    red * 0.2989 + green * 0.587 + blue * 0.114
}

/// Mean and standard deviation of ImageNet's pixels, by channel.
pub(super) const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// Both, `[3, 1, 1]` each.
pub(super) fn imagenet(device: Device) -> [Tensor; 2] {
    IMAGENET.map(|values| Tensor::from_slice(&values).to_device(device).view([3, 1, 1]))
}
