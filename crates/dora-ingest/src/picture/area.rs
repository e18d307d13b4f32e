//! Scaling one plane down by area: every new sample is the average of all old ones under it, the
//! partly covered ones by their share. No aliasing at any factor, and no sample is looked at twice.

/// One plane of a picture, borrowed from its decoder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plane<'a> {
    /// Rows of samples, one or two bytes each (little endian).
    pub(crate) bytes: &'a [u8],
    /// From one row to the next.
    pub(crate) stride_bytes: usize,
    /// Bits that a sample has; above 8 it takes two bytes. The upper 8 of them are kept.
    pub(crate) bits: u32,
    /// From one sample to the next: 2 where two planes are interleaved, the second behind by
    /// [`Plane::offset`].
    pub(crate) step: usize,
    /// Samples before the plane's first.
    pub(crate) offset: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

/// What the samples of a plane mean: `out = gain * (in - zero) + level`, clamped to 0..=255.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Levels {
    pub(crate) gain: f64,
    pub(crate) zero: f64,
    pub(crate) level: f64,
}

impl Levels {
    /// Full range in, full range out.
    pub(crate) const FULL: Self = Self { gain: 1.0, zero: 0.0, level: 0.0 };
    /// Video's 16..=235 to 0..=255.
    pub(crate) const LIMITED_LUMA: Self = Self { gain: 255.0 / 219.0, zero: 16.0, level: 0.0 };
    /// Video's 16..=240 around 128 to 0..=255 around 128.
    pub(crate) const LIMITED_CHROMA: Self = Self { gain: 255.0 / 224.0, zero: 128.0, level: 128.0 };
}

/// The weights of a column add up to 2 to this, ...
const COLUMN_BITS: u32 = 8;
/// ... or to this, where samples have more bits or a new row has many old ones, ...
const WIDE_BITS: u32 = 16;
const MOST_ROWS: f64 = 8.0;
/// ... and those of a row to 2 to this times the gain, which is below 1.2: sums stay below 2^32.
const ROW_BITS: u32 = 15;
const SHIFT: u32 = COLUMN_BITS + ROW_BITS;

/// Scales planes of one size to another, never up, with its tables and buffers.
#[derive(Debug)]
pub(crate) struct AreaScaler {
    from_px: (usize, usize),
    to_px: (usize, usize),
    step: usize,
    levels: Levels,
    /// For each new column, where its old ones begin ...
    starts: Vec<u32>,
    /// ... and the weights of `taps` of them.
    weights: Vec<u16>,
    taps: usize,
    /// The weighted sum of the old rows under a new one.
    sums: Vec<u16>,
    wide_sums: Vec<u32>,
}

impl AreaScaler {
    /// From planes like `plane` to `width` x `height` samples, neither of them larger or 0.
    pub(crate) fn new(plane: &Plane<'_>, (width, height): (usize, usize), levels: Levels) -> Self {
        let scale = plane.width as f64 / width as f64;
        let taps = (scale.ceil() as usize + 1).min(plane.width);
        let one = (levels.gain * f64::from(1u32 << ROW_BITS)).round() as i64;
        let mut starts = Vec::with_capacity(width);
        let mut weights = vec![0; taps * width];
        for (column, weights) in weights.chunks_exact_mut(taps).enumerate() {
            let (from, to) = (column as f64 * scale, (column + 1) as f64 * scale);
            let start = (from as usize).min(plane.width - taps);
            starts.push(start as u32);
            let mut given = 0;
            for (tap, weight) in weights.iter_mut().enumerate() {
                // Rounding the sum, not the shares, keeps the whole exact.
                let covered = ((start + tap + 1) as f64).clamp(from, to) - from;
                let upto = (covered / scale * one as f64).round() as i64;
                *weight = (upto - given) as u16;
                given = upto;
            }
        }
        Self {
            from_px: (plane.width, plane.height),
            to_px: (width, height),
            step: plane.step,
            levels,
            starts,
            weights,
            taps,
            sums: Vec::new(),
            wide_sums: Vec::new(),
        }
    }

    /// Whether it was made for planes like this one.
    pub(crate) fn fits(&self, plane: &Plane<'_>, to_px: (usize, usize), levels: Levels) -> bool {
        (self.from_px, self.step) == ((plane.width, plane.height), plane.step)
            && (self.to_px, self.levels) == (to_px, levels)
    }

    /// Writes the scaled plane into `out`, row by row.
    ///
    /// # Panics
    /// If the plane's bytes are fewer than its size tells, or `out` is not the new size.
    pub(crate) fn scale(&mut self, plane: &Plane<'_>, out: &mut [u8]) {
        let scale = self.from_px.1 as f64 / self.to_px.1 as f64;
        let Levels { gain, zero, level } = self.levels;
        let offset = ((gain * zero - level) * f64::from(1u32 << SHIFT)).round() as u32;
        for (row, out) in out.chunks_exact_mut(self.to_px.0).enumerate() {
            self.sum_rows(plane, row as f64 * scale, (row + 1) as f64 * scale);
            let sums = &self.sums[plane.offset..];
            let taps = Taps { starts: &self.starts, weights: &self.weights, sums };
            match (self.taps, self.step) {
                (2, 1) => gather::<2, 1>(&taps, out, offset),
                (3, 1) => gather::<3, 1>(&taps, out, offset),
                (4, 1) => gather::<4, 1>(&taps, out, offset),
                (5, 1) => gather::<5, 1>(&taps, out, offset),
                (6, 1) => gather::<6, 1>(&taps, out, offset),
                (7, 1) => gather::<7, 1>(&taps, out, offset),
                (5, 2) => gather::<5, 2>(&taps, out, offset),
                (count, step) => taps.gather_any(count, step, out, offset),
            }
        }
    }

    /// The old rows from `from` to `to`, weighted by their share, into `sums`: 8 bits and 8 more.
    fn sum_rows(&mut self, plane: &Plane<'_>, from: f64, to: f64) {
        let samples = (plane.width - 1) * plane.step + plane.offset + 1;
        // Interleaved planes are summed together, so room for what lies behind the last sample.
        self.sums.resize(plane.width * plane.step + plane.offset, 0);
        let (first, last) = (from as usize, (to.ceil() as usize).min(plane.height));
        let is_wide = plane.bits > 8 || to - from > MOST_ROWS;
        let one =
            if is_wide { f64::from(1u32 << WIDE_BITS) } else { f64::from(1u32 << COLUMN_BITS) };
        self.wide_sums.clear();
        self.wide_sums.resize(if is_wide { samples } else { 0 }, 0);
        let mut given = 0;
        for row in first..last {
            let covered = ((row + 1) as f64).clamp(from, to) - from;
            let upto = (covered / (to - from) * one).round() as u32;
            let weight = upto - given;
            given = upto;
            let bytes = &plane.bytes[row * plane.stride_bytes..];
            match (is_wide, plane.bits > 8) {
                (true, true) => {
                    let pairs = bytes[..samples * 2].chunks_exact(2);
                    let values = pairs.map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
                    add(&mut self.wide_sums, values.map(u32::from), weight);
                }
                (true, false) => {
                    add(
                        &mut self.wide_sums,
                        bytes[..samples].iter().map(|&b| u32::from(b)),
                        weight,
                    );
                }
                (false, _) => {
                    add_narrow(&mut self.sums, &bytes[..samples], weight as u16, row == first);
                }
            }
        }
        let shift = WIDE_BITS - COLUMN_BITS + plane.bits - 8;
        for (sum, &wide) in self.sums.iter_mut().zip(&self.wide_sums) {
            // A sample may have more bits than it should.
            *sum = (wide >> shift).min(u32::from(u16::MAX)) as u16;
        }
    }
}

/// Adds weighted samples to the sums.
fn add(sums: &mut [u32], samples: impl Iterator<Item = u32>, weight: u32) {
    for (sum, sample) in sums.iter_mut().zip(samples) {
        *sum = sum.wrapping_add(weight.wrapping_mul(sample));
    }
}

/// Adds weighted samples to the sums, or replaces them by the first ones.
///
/// Nothing wraps, and not to check it makes vectors of the loops.
fn add_narrow(sums: &mut [u16], samples: &[u8], weight: u16, is_first: bool) {
    let pairs = sums.iter_mut().zip(samples);
    let weighted = |sample: u8| weight.wrapping_mul(u16::from(sample));
    if is_first {
        pairs.for_each(|(sum, &sample)| *sum = weighted(sample));
    } else {
        pairs.for_each(|(sum, &sample)| *sum = sum.wrapping_add(weighted(sample)));
    }
}

/// Averages along a row, for numbers known while compiling, which makes it twice as fast.
fn gather<const TAPS: usize, const STEP: usize>(taps: &Taps<'_>, out: &mut [u8], offset: u32) {
    let columns = taps.starts.iter().zip(taps.weights.chunks_exact(TAPS));
    for (out, (&start, weights)) in out.iter_mut().zip(columns) {
        let sums = &taps.sums[start as usize * STEP..][..(TAPS - 1) * STEP + 1];
        let mut sum = 0u32;
        for tap in 0..TAPS {
            let product = u32::from(sums[tap * STEP]).wrapping_mul(u32::from(weights[tap]));
            sum = sum.wrapping_add(product);
        }
        *out = finish(sum, offset);
    }
}

/// The sample of a weighted sum.
#[inline(always)]
fn finish(sum: u32, offset: u32) -> u8 {
    (sum.saturating_add(1 << (SHIFT - 1)).saturating_sub(offset) >> SHIFT).min(255) as u8
}

struct Taps<'a> {
    starts: &'a [u32],
    weights: &'a [u16],
    sums: &'a [u16],
}

impl Taps<'_> {
    fn gather_any(&self, count: usize, step: usize, out: &mut [u8], offset: u32) {
        let columns = self.starts.iter().zip(self.weights.chunks_exact(count));
        for (out, (&start, weights)) in out.iter_mut().zip(columns) {
            let sums = self.sums[start as usize * step..].iter().step_by(step);
            let products =
                sums.zip(weights).map(|(&sum, &weight)| u32::from(sum) * u32::from(weight));
            *out = finish(products.sum(), offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::ChaCha8Rng;
    use rand::{RngExt, SeedableRng};

    /// The average under each new sample, in floating point.
    fn expected(plane: &Plane<'_>, (width, height): (usize, usize), levels: Levels) -> Vec<f64> {
        let sample = |x: usize, y: usize| {
            let at = x * plane.step + plane.offset;
            let row = &plane.bytes[y * plane.stride_bytes..];
            if plane.bits == 8 {
                return f64::from(row[at]);
            }
            let value = u16::from_le_bytes([row[2 * at], row[2 * at + 1]]);
            f64::from(value) / f64::from(1u32 << (plane.bits - 8))
        };
        let cover = |old: usize, new: usize, scale: f64| {
            let (from, to) = (new as f64 * scale, (new + 1) as f64 * scale);
            ((old as f64 + 1.0).min(to) - (old as f64).max(from)).max(0.0) / scale
        };
        let (sx, sy) = (plane.width as f64 / width as f64, plane.height as f64 / height as f64);
        let mut out = Vec::new();
        for row in 0..height {
            for column in 0..width {
                let mut sum = 0.0;
                for y in 0..plane.height {
                    for x in 0..plane.width {
                        sum += cover(x, column, sx) * cover(y, row, sy) * sample(x, y);
                    }
                }
                out.push((levels.gain * (sum - levels.zero) + levels.level).clamp(0.0, 255.0));
            }
        }
        out
    }

    #[test]
    fn every_new_sample_is_the_average_under_it() {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        for case in 0..400 {
            let (width, height) = (rng.random_range(1..60), rng.random_range(1..40));
            let bits = [8, 8, 10, 12, 16][case % 5];
            let step = 1 + case % 2;
            let offset = if step == 2 { case / 2 % 2 } else { 0 };
            let sample_bytes = if bits > 8 { 2 } else { 1 };
            let stride_bytes = (width * step + rng.random_range(0..9)) * sample_bytes;
            let mut bytes = vec![0u8; stride_bytes * height];
            rng.fill(&mut bytes[..]);
            if bits > 8 {
                for sample in bytes.chunks_exact_mut(2) {
                    sample[1] &= (1u32 << (bits - 8)).wrapping_sub(1) as u8;
                }
            }
            let plane = Plane { bytes: &bytes, stride_bytes, bits, step, offset, width, height };
            let to = (rng.random_range(1..=width), rng.random_range(1..=height));
            let levels = [Levels::FULL, Levels::LIMITED_LUMA, Levels::LIMITED_CHROMA][case % 3];
            let mut scaler = AreaScaler::new(&plane, to, levels);
            let mut out = vec![0; to.0 * to.1];
            // Twice: nothing stays behind in the buffers.
            scaler.scale(&plane, &mut out);
            out.fill(7);
            scaler.scale(&plane, &mut out);
            for (at, (&got, want)) in out.iter().zip(expected(&plane, to, levels)).enumerate() {
                let off = (f64::from(got) - want).abs();
                assert!(off < 1.6, "case {case}: {width}x{height} to {to:?} at {at}: {got} {want}");
            }
        }
    }

    #[test]
    fn black_and_white_stay_what_they_are() {
        for (levels, black, white) in [(Levels::FULL, 0, 255), (Levels::LIMITED_LUMA, 16, 235)] {
            for (level, expected) in [(black, 0), (white, 255)] {
                let bytes = vec![level; 640 * 360];
                let plane = Plane {
                    bytes: &bytes,
                    stride_bytes: 640,
                    bits: 8,
                    step: 1,
                    offset: 0,
                    width: 640,
                    height: 360,
                };
                let mut out = vec![9; 171 * 96];
                AreaScaler::new(&plane, (171, 96), levels).scale(&plane, &mut out);
                assert!(out.iter().all(|&out| out == expected), "{levels:?} {level}");
            }
        }
    }
}
