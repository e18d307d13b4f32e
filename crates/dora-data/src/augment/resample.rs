//! Resizing and blurring as matrices.
//!
//! An image is resampled by one matrix for its rows and one for its columns, `Y x img x X^T`. The
//! few weights that are not zero are computed on the host in float64, so they are the same
//! wherever training runs, and scattered into matrices on the device.

use std::ops::Range;

use rayon::prelude::*;
use tch::{Kind, Tensor};

use super::Together;
use crate::arena::{Arena, Slot};
use crate::crop::CropBox;

/// Rows of a matrix that are multiplied at a time where images come one by one, with the inputs that
/// they weigh and no others: a row weighs a tenth of its inputs or fewer.
const BLOCK: usize = 32;

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

/// The part of an axis that is resized, and whether the result is mirrored.
#[derive(Clone, Copy, Debug)]
struct Line {
    offset_px: u32,
    size_px: u32,
    flip: bool,
}

/// Matrices of one height as their rows: row r weights the inputs `starts[r]`, `starts[r] + 1`, ... up
/// to `ends[r]`. The weights lie in an arena, padded by zeros to the same number for each row.
#[derive(Debug)]
struct Rows {
    rows: usize,
    taps: usize,
    starts: Vec<i64>,
    ends: Vec<i64>,
    starts_slot: Slot,
    weights_slot: Slot,
}

/// Matrices on a device.
#[derive(Debug)]
struct Matrices {
    /// `[N, rows, inputs]`; input 0 is pixel `first` of the axis.
    weights_NOI: Tensor,
    first: i64,
    blocks: Vec<Block>,
}

/// Some rows of matrices, and all inputs that they weigh.
#[derive(Debug)]
struct Block {
    rows: Range<i64>,
    inputs: Range<i64>,
}

impl Rows {
    /// Matrices with a row for each of `out_px` outputs that resample lines of pixels.
    ///
    /// The grid has half-pixel centres: output i lies at (i + 0.5) * size / out - 0.5. Where the
    /// result is smaller, the kernel grows by the same factor (antialiasing), and pixels outside
    /// the line have no part in it, as in Pillow after a crop.
    fn resize(kernel: Kernel, lines: &[Line], out_px: u32, arena: &mut Arena) -> Self {
        let scale = |line: &Line| f64::from(line.size_px) / f64::from(out_px);
        let support = |line: &Line| kernel.support() * scale(line).max(1.0);
        let taps = lines.iter().map(|line| (2.0 * support(line)) as usize + 2).max().unwrap_or(0);
        Self::new(lines, out_px, taps, arena, |line, rows| {
            let (scale, support) = (scale(line), support(line));
            let (size, stretch) = (f64::from(line.size_px), scale.max(1.0));
            for (row, out) in (0..out_px).zip(rows) {
                let row = if line.flip { out_px - 1 - row } else { row };
                let center = (f64::from(row) + 0.5) * scale;
                let first = (center - support + 0.5).floor().max(0.0);
                let end = (center + support + 0.5).floor().min(size);
                let at = |pixel: i64| kernel.at((pixel as f64 + 0.5 - center) / stretch);
                out.put(
                    i64::from(line.offset_px) + first as i64,
                    (first as i64..end as i64).map(at),
                );
            }
        })
    }

    /// Square matrices that blur lines of `px` pixels, each with its own standard deviation.
    ///
    /// As in Pillow, a box is applied three times whose variance makes that of a Gaussian; beyond
    /// the border, each time, the line continues with its last pixel.
    fn blur(radii_px: &[f64], px: u32, arena: &mut Arena) -> Self {
        let widest = radii_px.iter().copied().fold(0.0, f64::max);
        let taps = (6 * (third_of_gaussian(widest).len() / 2) + 1).min(px as usize);
        Self::new(radii_px, px, taps, arena, |&radius_px, rows| {
            let kernel = third_of_gaussian(radius_px);
            let (reach, px) = (3 * (kernel.len() / 2), px as usize);
            let mut inner: Option<Vec<f64>> = None;
            for (row, out) in rows.enumerate() {
                let first = row.saturating_sub(reach);
                // Far from both borders all rows are alike.
                let is_inner = row >= reach && row + reach < px;
                let weights = match inner.take_if(|_| is_inner) {
                    Some(weights) => weights,
                    None => blur_row(&kernel, row, px),
                };
                out.put(first as i64, weights.iter().copied());
                if is_inner {
                    inner = Some(weights);
                }
            }
        })
    }

    /// Lets `fill` set the rows of each matrix, on the threads of the current pool.
    fn new<M: Sync>(
        matrices: &[M],
        rows: u32,
        taps: usize,
        arena: &mut Arena,
        fill: impl Fn(&M, &mut dyn Iterator<Item = Row<'_>>) + Sync,
    ) -> Self {
        let (rows, taps) = (rows as usize, taps.max(1));
        let all = matrices.len() * rows;
        let (mut starts, mut ends, mut weights) =
            (vec![0; all], vec![0; all], vec![0.0; all * taps]);
        let parts = starts.par_chunks_mut(rows).zip(ends.par_chunks_mut(rows));
        let parts = parts.zip(weights.par_chunks_mut(rows * taps)).zip(matrices);
        parts.for_each(|(((starts, ends), weights), matrix)| {
            let rows = starts.iter_mut().zip(ends).zip(weights.chunks_exact_mut(taps));
            let mut rows = rows.map(|((start, end), weights)| Row { start, end, weights });
            fill(matrix, &mut rows);
        });
        let (starts_slot, weights_slot) = (arena.push_i64(&starts), arena.push_f32(&weights));
        Self { rows, taps, starts, ends, starts_slot, weights_slot }
    }

    /// The matrices `which`, from the arena's `bytes` on the device that is to use them.
    fn matrices(&self, which: Range<usize>, bytes: &Tensor, together: Together) -> Matrices {
        let hull = |rows: Range<usize>| {
            let rows = which.clone().flat_map(|m| rows.clone().map(move |row| m * self.rows + row));
            rows.fold((i64::MAX, 0), |(first, end), row| {
                (first.min(self.starts[row]), end.max(self.ends[row]))
            })
        };
        let (first, end) = hull(0..self.rows);
        let height = match together {
            Together::One => BLOCK,
            Together::All => self.rows,
        };
        let blocks = (0..self.rows).step_by(height).map(|row| {
            let rows = row..(row + height).min(self.rows);
            let (low, high) = hull(rows.clone());
            Block { rows: rows.start as i64..rows.end as i64, inputs: low - first..high - first }
        });
        let (n, rows, taps) = (which.len() as i64, self.rows as i64, self.taps as i64);
        let part = |slot: Slot, values: i64| {
            let whole = slot.tensor(bytes).view([-1, rows, values]);
            whole.narrow(0, which.start as i64, n)
        };
        let (starts, weights) = (part(self.starts_slot, 1), part(self.weights_slot, taps));
        // Padding has no weight, but must point at some input.
        let offsets = Tensor::arange(taps, (Kind::Int64, bytes.device())) - first;
        let index = (starts + offsets).clamp_max_(end - first - 1);
        let weights_NOI = Tensor::zeros([n, rows, end - first], (Kind::Float, bytes.device()))
            .scatter_add_(2, &index, &weights);
        Matrices { weights_NOI, first, blocks: blocks.collect() }
    }
}

/// A row to be filled.
struct Row<'a> {
    start: &'a mut i64,
    end: &'a mut i64,
    weights: &'a mut [f32],
}

impl Row<'_> {
    /// Weighs the inputs from `start` on; the sum becomes 1.
    fn put(self, start: i64, weights: impl Iterator<Item = f64> + Clone) {
        let sum: f64 = weights.clone().sum();
        *self.start = start;
        *self.end = start;
        for (slot, weight) in self.weights.iter_mut().zip(weights) {
            *slot = (weight / sum) as f32;
            *self.end += 1;
        }
    }
}

impl Matrices {
    /// Each matrix `times` times in a row.
    fn repeat_each(self, times: i64) -> Self {
        if times == 1 {
            return self;
        }
        let n = self.weights_NOI.size()[0];
        let weights_NOI = self.weights_NOI.repeat_interleave_self_int(times, 0, n * times);
        Self { weights_NOI, ..self }
    }

    /// Pixels of the axis that the matrices weigh.
    fn inputs(&self) -> i64 {
        self.weights_NOI.size()[2]
    }

    /// `M x input` for inputs `[N / K, I, J]`, each for K matrices: `[N / K, K * O, J]`.
    fn apply_to_rows(&self, inputs_NIJ: &Tensor) -> Tensor {
        let (n, i, j) = inputs_NIJ.size3().expect("inputs are [N, I, J]");
        let [matrices, o] = [0, 1].map(|axis| self.weights_NOI.size()[axis]);
        if matrices != n || self.blocks.len() == 1 {
            return self.weights_NOI.view([n, -1, i]).bmm(inputs_NIJ);
        }
        let out = Tensor::empty([n, o, j], (Kind::Float, inputs_NIJ.device()));
        for Block { rows, inputs } in &self.blocks {
            let (height, width) = (rows.end - rows.start, inputs.end - inputs.start);
            let matrices = self.weights_NOI.narrow(1, rows.start, height);
            let matrices = matrices.narrow(2, inputs.start, width);
            let inputs = inputs_NIJ.narrow(1, inputs.start, width);
            let _ = matrices.bmm_out(&out.narrow(1, rows.start, height), &inputs);
        }
        out
    }

    /// `input x M^T` for inputs `[N, J, I]`: `[N, J, O]`.
    fn apply_to_columns(&self, inputs_NJI: &Tensor) -> Tensor {
        let (n, j, _) = inputs_NJI.size3().expect("inputs are [N, J, I]");
        let o = self.weights_NOI.size()[1];
        let out = Tensor::empty([n, j, o], (Kind::Float, inputs_NJI.device()));
        for Block { rows, inputs } in &self.blocks {
            let (height, width) = (rows.end - rows.start, inputs.end - inputs.start);
            let matrices = self.weights_NOI.narrow(1, rows.start, height);
            let matrices = matrices.narrow(2, inputs.start, width).transpose(1, 2);
            let inputs = inputs_NJI.narrow(2, inputs.start, width);
            let _ = inputs.bmm_out(&out.narrow(2, rows.start, height), &matrices);
        }
        out
    }
}

/// Boxes of images, each resized to a square of the same size.
#[derive(Debug)]
pub struct Resize {
    y: Rows,
    x: Rows,
    out_px: i64,
}

impl Resize {
    /// Computes the weights of boxes, each mirrored or not, and puts them into `arena`.
    pub fn new(kernel: Kernel, boxes: &[(CropBox, bool)], out_px: u32, arena: &mut Arena) -> Self {
        let lines = |line: fn(&(CropBox, bool)) -> Line| boxes.iter().map(line).collect::<Vec<_>>();
        let y = lines(|(crop, _)| Line {
            offset_px: crop.top_px,
            size_px: crop.height_px,
            flip: false,
        });
        let x =
            lines(|&(crop, flip)| Line { offset_px: crop.left_px, size_px: crop.width_px, flip });
        Self {
            y: Rows::resize(kernel, &y, out_px, arena),
            x: Rows::resize(kernel, &x, out_px, arena),
            out_px: out_px.into(),
        }
    }

    /// The boxes `which`, each of the next `images_per_box` images.
    pub(super) fn matrices(
        &self,
        which: Range<usize>,
        images_per_box: i64,
        bytes: &Tensor,
        together: Together,
    ) -> ResizeMatrices {
        let [y, x] = [&self.y, &self.x]
            .map(|rows| rows.matrices(which.clone(), bytes, together).repeat_each(images_per_box));
        ResizeMatrices { y, x, out_px: self.out_px }
    }

    /// Resizes: from each of N images `[N, C, H, W]`, uint8 or float32 in [0, 1], the next K boxes, to
    /// float32 `[C, N * K, out, out]` in [0, 1]; what the kernel overshoots is cut off. `bytes` is the
    /// arena on the device of the images.
    pub fn apply(&self, images_NCHW: &Tensor, boxes: usize, bytes: &Tensor) -> Tensor {
        self.matrices(0..boxes, 1, bytes, Together::All).apply(images_NCHW)
    }
}

/// The matrices of some boxes on a device.
pub(super) struct ResizeMatrices {
    y: Matrices,
    x: Matrices,
    out_px: i64,
}

impl ResizeMatrices {
    /// See [`Resize::apply`].
    ///
    /// Rows come before channels in the products, because then both are plain ones over contiguous
    /// memory, and the K boxes of an image share the first.
    pub(super) fn apply(&self, images_NCHW: &Tensor) -> Tensor {
        let Self { y, x, out_px: o } = self;
        let (n, c, _, _) = images_NCHW.size4().expect("images are NCHW");
        let boxes = y.weights_NOI.size()[0];
        let (height, width) = (y.inputs(), x.inputs());
        let window = images_NCHW.narrow(2, y.first, height).narrow(3, x.first, width);
        let images_NHCW = as_float(&window.permute([0, 2, 1, 3]).contiguous());
        let rows = y.apply_to_rows(&images_NHCW.view([n, height, c * width]));
        let mut resized = x.apply_to_columns(&rows.view([boxes, o * c, width]));
        resized.clamp_(0.0, 1.0).view([boxes, *o, c, *o]).permute([2, 0, 1, 3]).contiguous()
    }
}

/// Blurs of square images, each with its own standard deviation.
#[derive(Debug)]
pub(super) struct Blur(Rows);

impl Blur {
    /// Computes the weights for images of `px` and puts them into `arena`.
    pub(super) fn new(radii_px: &[f64], px: u32, arena: &mut Arena) -> Self {
        Self(Rows::blur(radii_px, px, arena))
    }

    /// Blurs images `[C, N, px, px]` by those of `which`, N in number.
    pub(super) fn apply(
        &self,
        images_CNHW: &Tensor,
        which: Range<usize>,
        bytes: &Tensor,
        together: Together,
    ) -> Tensor {
        let (c, n, px, _) = images_CNHW.size4().expect("images are CNHW");
        let matrices = self.0.matrices(which, bytes, together);
        let images_NHCW = images_CNHW.permute([1, 2, 0, 3]).contiguous();
        let rows = matrices.apply_to_rows(&images_NHCW.view([n, px, c * px]));
        let blurred = matrices.apply_to_columns(&rows.view([n, px * c, px]));
        blurred.view([n, px, c, px]).permute([2, 0, 1, 3])
    }
}

/// Blurs square images `[C, N, px, px]`, each of the N with its own standard deviation.
pub fn blur(images_CNHW: &Tensor, radii_px: &[f64]) -> Tensor {
    let mut arena = Arena::default();
    let px = images_CNHW.size()[3] as u32;
    let blur = Blur::new(radii_px, px, &mut arena);
    let bytes = Tensor::from_slice(arena.bytes()).to_device(images_CNHW.device());
    blur.apply(images_CNHW, 0..radii_px.len(), &bytes, Together::All)
}

/// Images as float32 in [0, 1].
fn as_float(images: &Tensor) -> Tensor {
    match images.kind() {
        Kind::Uint8 => images.to_kind(Kind::Float) / 255.0,
        _ => images.shallow_clone(),
    }
}

/// What a row of `px` pixels weighs after three boxes, from the first pixel in reach on.
fn blur_row(kernel: &[f64], row: usize, px: usize) -> Vec<f64> {
    let reach = kernel.len() / 2;
    let first = row.saturating_sub(3 * reach);
    let end = (row + 3 * reach + 1).min(px);
    let mut weights = vec![0.0; end - first];
    weights[row - first] = 1.0;
    for _ in 0..3 {
        let mut wider = vec![0.0; end - first];
        for (at, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            for (tap, share) in kernel.iter().enumerate() {
                let to = (first + at + tap).saturating_sub(reach).min(px - 1);
                wider[to - first] += weight * share;
            }
        }
        weights = wider;
    }
    weights
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
