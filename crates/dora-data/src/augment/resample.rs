//! Resizing and blurring as matrices.
//!
//! An image is resampled by one matrix for its rows and one for its columns, `Y x img x X^T`. The
//! few weights that are not zero are computed on the host in float64, so they are the same
//! wherever training runs, and scattered into matrices on the device.

use tch::{Device, Kind, Tensor};

use crate::crop::CropBox;

/// An interpolation kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The triangle, 1 px to each side.
    Bilinear,
    /// Keys' cubic with a = -0.5, 2 px to each side.
    Bicubic,
}

impl Kernel {
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        let x = x.abs();
        match self {
            Self::Bilinear => (1.0 - x).max(0.0),
            Self::Bicubic if x < 1.0 => (1.5 * x - 2.5) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0,
            Self::Bicubic => 0.0,
        }
    }
}

/// Rows of weights, the same number for each matrix of a batch; row r weights the inputs
/// `starts[r]`, `starts[r] + 1`, ... by `weights[r]`.
#[derive(Debug, Default)]
pub struct Rows {
    starts: Vec<i64>,
    weights: Vec<Vec<f32>>,
}

impl Rows {
    /// Adds the `out_px` rows that resample `size_px` pixels from `offset_px` on.
    ///
    /// The grid has half-pixel centres: output i lies at (i + 0.5) * size / out - 0.5. Where the
    /// result is smaller, the kernel grows by the same factor (antialiasing), and pixels outside
    /// the box have no part in it, as in Pillow after a crop. `flip` mirrors the result.
    pub fn resize(
        &mut self,
        kernel: Kernel,
        offset_px: u32,
        size_px: u32,
        out_px: u32,
        flip: bool,
    ) {
        let size = f64::from(size_px);
        let scale = size / f64::from(out_px);
        let stretch = scale.max(1.0);
        let support = kernel.support() * stretch;
        for row in 0..out_px {
            let row = if flip { out_px - 1 - row } else { row };
            let center = (f64::from(row) + 0.5) * scale;
            let first = (center - support + 0.5).floor().max(0.0);
            let end = (center + support + 0.5).floor().min(size);
            let at = |pixel: i64| kernel.at((pixel as f64 + 0.5 - center) / stretch);
            let weights = (first as i64..end as i64).map(at);
            self.push(i64::from(offset_px) + first as i64, weights);
        }
    }

    /// Adds the `px` rows that blur as many pixels with a standard deviation of `radius_px`.
    ///
    /// As in Pillow, a box is applied three times whose variance makes that of a Gaussian; beyond
    /// the border, each time, the line goes on with its last pixel.
    pub fn blur(&mut self, radius_px: f64, px: u32) {
        let kernel = third_of_gaussian(radius_px);
        let (reach, px) = (kernel.len() / 2, px as usize);
        for row in 0..px {
            let first = row.saturating_sub(3 * reach);
            let end = (row + 3 * reach + 1).min(px);
            let mut weights = vec![0.0; end - first];
            weights[row - first] = 1.0;
            for _ in 0..3 {
                let mut wider = vec![0.0; end - first];
                for (at, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0)
                {
                    for (tap, share) in kernel.iter().enumerate() {
                        let to = (first + at + tap).saturating_sub(reach).min(px - 1);
                        wider[to - first] += weight * share;
                    }
                }
                weights = wider;
            }
            self.push(first as i64, weights.into_iter());
        }
    }

    /// The matrices of the batch, float32 `[N, rows / N, in_px]`, on `device`.
    pub fn matrices_NOI(&self, n: usize, in_px: u32, device: Device) -> Tensor {
        let taps = self.weights.iter().map(Vec::len).max().unwrap_or(0);
        let mut weights = vec![0f32; self.weights.len() * taps];
        for (padded, row) in weights.chunks_exact_mut(taps.max(1)).zip(&self.weights) {
            padded[..row.len()].copy_from_slice(row);
        }
        let (n, taps, in_px) = (n as i64, taps as i64, i64::from(in_px));
        let starts = Tensor::from_slice(&self.starts).to_device(device).view([n, -1, 1]);
        let weights = Tensor::from_slice(&weights).to_device(device).view([n, -1, taps]);
        // Padding has no weight, but must point at some input.
        let index = (starts + Tensor::arange(taps, (Kind::Int64, device))).clamp_max_(in_px - 1);
        Tensor::zeros([n, index.size()[1], in_px], (Kind::Float, device))
            .scatter_add_(2, &index, &weights)
    }

    fn push(&mut self, start: i64, weights: impl Iterator<Item = f64> + Clone) {
        let sum: f64 = weights.clone().sum();
        self.starts.push(start);
        self.weights.push(weights.map(|weight| (weight / sum) as f32).collect());
    }
}

/// The rows and columns of a batch of resized boxes.
#[derive(Debug, Default)]
pub struct Resize {
    y: Rows,
    x: Rows,
}

impl Resize {
    /// Adds one box, resized to a square of `out_px` and mirrored if `flip`.
    pub fn push(&mut self, kernel: Kernel, crop: CropBox, out_px: u32, flip: bool) {
        self.y.resize(kernel, crop.top_px, crop.height_px, out_px, false);
        self.x.resize(kernel, crop.left_px, crop.width_px, out_px, flip);
    }

    /// Resizes: from each of the N images with values in [0, 1], `[N, H, C, W]`, the next K boxes,
    /// to `[C, N * K, out, out]`; what the kernel overshoots is cut off.
    ///
    /// Rows come before channels in the images, because then both products are plain ones over
    /// contiguous memory, and the K boxes of an image share the first.
    pub fn apply(&self, images_NHCW: &Tensor, boxes_per_image: usize, out_px: u32) -> Tensor {
        let (n, h, c, w) = images_NHCW.size4().expect("images are NHCW");
        let (k, o) = (boxes_per_image as i64, i64::from(out_px));
        let device = images_NHCW.device();
        let y = self.y.matrices_NOI(n as usize, h as u32, device);
        let x = self.x.matrices_NOI((n * k) as usize, w as u32, device);
        let rows = y.bmm(&images_NHCW.view([n, h, c * w]));
        let mut resized = rows.view([n * k, o * c, w]).bmm(&x.transpose(1, 2));
        resized.clamp_(0.0, 1.0).view([n * k, o, c, o]).permute([2, 0, 1, 3]).contiguous()
    }
}

/// Blurs square images `[C, N, px, px]`, each of the N with its own standard deviation.
pub fn blur(images_CNHW: &Tensor, radii_px: &[f64]) -> Tensor {
    let (c, n, px, _) = images_CNHW.size4().expect("images are CNHW");
    let mut rows = Rows::default();
    radii_px.iter().for_each(|&radius| rows.blur(radius, px as u32));
    let matrices = rows.matrices_NOI(radii_px.len(), px as u32, images_CNHW.device());
    let images_NHCW = images_CNHW.permute([1, 2, 0, 3]).contiguous();
    let rows = matrices.bmm(&images_NHCW.view([n, px, c * px]));
    let blurred = rows.view([n, px * c, px]).bmm(&matrices.transpose(1, 2));
    blurred.view([n, px, c, px]).permute([2, 0, 1, 3])
}

/// A box of fractional width whose variance is a third of `radius_px` squared.
fn third_of_gaussian(radius_px: f64) -> Vec<f64> {
    let variance = radius_px * radius_px / 3.0;
    // The widest box of whole pixels that is not too wide, then the share of its two neighbours.
    let reach = (((12.0 * variance + 1.0).sqrt() - 1.0) / 2.0).floor();
    let whole = 2.0 * reach + 1.0;
    let share = whole * (reach * (reach + 1.0) - 3.0 * variance)
        / (6.0 * (variance - (reach + 1.0) * (reach + 1.0)));
    let mut kernel = vec![1.0; whole as usize + 2];
    let last = kernel.len() - 1;
    (kernel[0], kernel[last]) = (share, share);
    kernel.iter().map(|weight| weight / (whole + 2.0 * share)).collect()
}
