//! Crops of a picture's planes, resampled and coloured in strips that stay in the fastest cache.
//!
//! A strip is eight output rows. Summed down first and then turned on its side, it has the eight
//! values of a column in one vector, so that both directions are sums of whole vectors. All numbers
//! are integers of 16 bits, 8 of them behind the point: a result is the same on every machine.

use std::ops::Range;

use wide::{i16x8, u8x16, u16x8};

/// Rows of a strip, values of a vector.
const LANES: usize = 8;

/// One component of a picture and the part of it to resample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plane<'a> {
    /// Row by row without padding.
    pub(crate) samples: &'a [u8],
    /// Samples in a row.
    pub(crate) width: usize,
    /// The part's columns.
    pub(crate) across: Stretch,
    /// The part's rows.
    pub(crate) down: Stretch,
}

/// A part of an axis, in samples; it may begin and end within one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Stretch {
    pub(crate) start: f64,
    pub(crate) length: f64,
}

/// Resamples; keeps its buffers.
#[derive(Debug, Default)]
pub(crate) struct Resampler {
    across: [Axis; 3],
    down: [Axis; 3],
    columns: Vec<u16x8>,
    strips: [Vec<u16x8>; 3],
}

/// Which samples make which output.
#[derive(Debug, Default)]
struct Axis {
    made_for: Option<(Stretch, usize)>,
    /// All samples that are read.
    source: Range<usize>,
    /// For each output, its first sample and where its weights lie.
    taps: Vec<(usize, Range<usize>)>,
    /// Those of one output are 65,535 together.
    weights: Vec<u16>,
}

impl Resampler {
    /// Resamples the parts of luma, blue and red difference to squares of `out_px`, with a triangle
    /// that is as wide as the samples of an output where it shrinks and reads nothing outside of
    /// the part, and writes them as red, green and blue planes into `out_CHW`.
    ///
    /// # Panics
    /// If a part leaves its plane, or `out_CHW` does not hold 3 x `out_px` x `out_px` bytes.
    pub(crate) fn crop_to_rgb(
        &mut self,
        planes: &[Plane<'_>; 3],
        out_px: usize,
        out_CHW: &mut [u8],
    ) {
        let plane_bytes = out_px * out_px;
        assert_eq!(out_CHW.len(), 3 * plane_bytes, "three planes");
        for (index, plane) in planes.iter().enumerate() {
            self.across[index].make_for(plane.across, out_px);
            self.down[index].make_for(plane.down, out_px);
        }
        let (red, rest) = out_CHW.split_at_mut(plane_bytes);
        let (green, blue) = rest.split_at_mut(plane_bytes);
        let strips = |plane| <[u8]>::chunks_mut(plane, LANES * out_px);
        let strips = strips(red).zip(strips(green)).zip(strips(blue));
        for (strip, ((red, green), blue)) in strips.enumerate() {
            for (index, plane) in planes.iter().enumerate() {
                self.sum_down(index, plane, strip * LANES);
                self.sum_across(index, out_px);
            }
            self.write([red, green, blue], out_px);
        }
    }

    /// Fills `columns` with what the output rows from `first_row` on need.
    fn sum_down(&mut self, index: usize, plane: &Plane<'_>, first_row: usize) {
        let (down, source) = (&self.down[index], self.across[index].source.clone());
        self.columns.clear();
        for column in source.step_by(LANES) {
            let rows = std::array::from_fn(|lane| {
                // Rows below the last one are made of nothing and not written.
                let (from, weights) = down.taps(first_row + lane);
                let mut sum = rounding(weights);
                for (row, &weight) in (from..).zip(weights) {
                    let samples = &plane.samples[row * plane.width + column..];
                    sum += raised(samples).mul_keep_high(u16x8::splat(weight));
                }
                sum
            });
            self.columns.extend(u16x8::transpose(rows));
        }
    }

    /// Fills `strips[index]` from `columns`.
    fn sum_across(&mut self, index: usize, out_px: usize) {
        let (across, strip) = (&self.across[index], &mut self.strips[index]);
        strip.clear();
        strip.extend((0..out_px.next_multiple_of(LANES)).map(|x| {
            let (from, weights) = across.taps(x);
            let mut sum = rounding(weights);
            if !weights.is_empty() {
                let columns = &self.columns[from - across.source.start..];
                for (column, &weight) in columns.iter().zip(weights) {
                    sum += column.mul_keep_high(u16x8::splat(weight));
                }
            }
            sum
        }));
    }

    /// Writes the strips as colours, each into its rows of an output plane.
    fn write(&self, mut out: [&mut [u8]; 3], out_px: usize) {
        let [y, cb, cr] = &self.strips;
        for left in (0..out_px).step_by(LANES) {
            let mut blocks = [[u16x8::ZERO; LANES]; 3];
            for (column, x) in (left..left + LANES).enumerate() {
                let rgb = colours(y[x], cb[x], cr[x]);
                blocks.iter_mut().zip(rgb).for_each(|(block, value)| block[column] = value);
            }
            let right = out_px.min(left + LANES);
            for (plane, block) in out.iter_mut().zip(blocks.map(u16x8::transpose)) {
                for (row, values) in plane.chunks_exact_mut(out_px).zip(block) {
                    let bytes = u8x16::narrow_i16x8(signed(values), i16x8::ZERO);
                    row[left..right].copy_from_slice(&bytes.as_array()[..right - left]);
                }
            }
        }
    }
}

impl Axis {
    fn make_for(&mut self, stretch: Stretch, outputs: usize) {
        // The frames of a clip have one box.
        if self.made_for == Some((stretch, outputs)) {
            return;
        }
        self.made_for = Some((stretch, outputs));
        let Stretch { start, length } = stretch;
        let (low, high) = (start.floor(), (start + length).ceil());
        self.source = low as usize..high as usize;
        self.taps.clear();
        self.weights.clear();
        let scale = length / outputs as f64;
        let reach = scale.max(1.0);
        for output in 0..outputs {
            let centre = start + (output as f64 + 0.5) * scale;
            let first = (centre - reach + 0.5).floor().max(low) as usize;
            let after = (centre + reach + 0.5).floor().min(high) as usize;
            let weight = |at: usize| (1.0 - ((at as f64 + 0.5 - centre) / reach).abs()).max(0.0);
            let whole: f64 = (first..after).map(weight).sum();
            let begin = self.weights.len();
            // Rounded as a running sum, so that the whole is exact.
            let (mut sum, mut given) = (0.0, 0);
            for at in first..after {
                sum += weight(at) / whole;
                let rounded = (sum * f64::from(u16::MAX)).round() as u16;
                self.weights.push(rounded - given);
                given = rounded;
            }
            self.taps.push((first, begin..self.weights.len()));
        }
    }

    /// The first sample of an output and the weights from there on; none beyond the last output.
    fn taps(&self, output: usize) -> (usize, &[u16]) {
        let known = self.taps.get(output);
        known.map_or((0, &[]), |(first, weights)| (*first, &self.weights[weights.clone()]))
    }
}

/// What products lose when their low halves are left out: half of a step each, in the mean.
fn rounding(weights: &[u16]) -> u16x8 {
    u16x8::splat(weights.len() as u16 / 2)
}

/// The first eight samples, in front of the point. Those beyond a part's end are never used.
fn raised(samples: &[u8]) -> u16x8 {
    let sixteen = match samples.first_chunk() {
        Some(sixteen) => *sixteen,
        None => {
            let mut sixteen = [0; 16];
            let known = samples.len();
            sixteen[..known].copy_from_slice(samples);
            sixteen
        }
    };
    u16x8::from_u8x16_low(u8x16::new(sixteen)) * u16x8::splat(1 << 8)
}

/// Red, green and blue as JFIF says, ITU-R BT.601 in its full range; signed, and beyond 0 to 255 where
/// no such colour is.
fn colours(y: u16x8, cb: u16x8, cr: u16x8) -> [u16x8; 3] {
    // A factor has 14 bits behind the point: with 16 bits left out of a product, 6 remain behind
    // the point of a colour.
    const fn factor(value: f64) -> i16x8 {
        i16x8::splat((value * 16_384.0 + 0.5) as i16)
    }
    // High halves of products are shifts, and faster ones than those by a number.
    let (half, quarter) = (i16x8::splat(1 << 5), u16x8::splat(1 << 14));
    let luma = signed(y.mul_keep_high(quarter)) + half;
    let grey = u16x8::splat(1 << 15);
    let (cb, cr) = (signed(cb ^ grey), signed(cr ^ grey));
    let red = luma + cr.mul_keep_high(factor(1.402));
    let green = luma - cb.mul_keep_high(factor(0.344_136)) - cr.mul_keep_high(factor(0.714_136));
    let blue = luma + cb.mul_keep_high(factor(1.772));
    [red, green, blue].map(|colour| {
        let whole = colour.mul_keep_high(i16x8::splat(1 << 10));
        u16x8::new(whole.to_array().map(|value| value as u16))
    })
}

/// The same bits with a sign.
fn signed(values: u16x8) -> i16x8 {
    i16x8::new(values.to_array().map(|value| value as i16))
}
