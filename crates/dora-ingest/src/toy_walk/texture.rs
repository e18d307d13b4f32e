//! Square textures with mip levels, sampled smoothly at any distance.
//!
//! Texels hold the square root of linear light, so that eight bits suffice and dark tones keep
//! their steps; the shader squares what it reads. The fourth channel is gloss in solid textures
//! and coverage in cut-out ones.

use super::math::floor;

/// A repeating square picture with its mip levels, finest first.
pub(super) struct Texture {
    /// All levels one after the other.
    texels: Vec<[u8; 4]>,
    /// Where each level begins.
    starts: Vec<usize>,
    log2: u32,
}

impl Texture {
    /// Paints a texture `2^log2` texels wide: `paint(u, v)` gives channels in [0, 1] for a point
    /// of the unit square, v upwards. Patterns with hard edges want `taps` = 2 to a texel side.
    pub(super) fn paint(log2: u32, taps: usize, paint: impl Fn(f32, f32) -> [f32; 4]) -> Texture {
        let size = 1_usize << log2;
        let share = 1.0 / (taps * taps) as f32;
        let mut finest = Vec::with_capacity(size * size);
        for texel in 0..size * size {
            let mut sum = [0.0_f32; 4];
            for tap in 0..taps * taps {
                let at = |texel: usize, tap: usize| {
                    (texel as f32 + (tap as f32 + 0.5) / taps as f32) / size as f32
                };
                let colour = paint(at(texel % size, tap % taps), at(texel / size, tap / taps));
                sum.iter_mut().zip(colour).for_each(|(s, c)| *s += share * c);
            }
            finest.push(sum.map(|s| (s.clamp(0.0, 1.0) * 255.0 + 0.5) as u8));
        }
        let (mut texels, mut starts) = (finest, vec![0]);
        for level in 1..=log2 {
            let (start, wide) = (starts[level as usize - 1], size >> (level - 1));
            let narrow = wide / 2;
            starts.push(texels.len());
            for i in 0..narrow * narrow {
                let corner = start + (i / narrow) * 2 * wide + (i % narrow) * 2;
                let four =
                    [corner, corner + 1, corner + wide, corner + wide + 1].map(|k| texels[k]);
                texels.push(std::array::from_fn(|c| {
                    ((four.iter().map(|t| u32::from(t[c])).sum::<u32>() + 2) / 4) as u8
                }));
            }
        }
        Texture { texels, starts, log2 }
    }

    /// Channels in [0, 1] at (u, v) of one mip level; with a second tap `apart` from the first
    /// when the surface is seen at a grazing angle.
    #[inline(always)]
    pub(super) fn sample(&self, [u, v]: [f32; 2], level: u32, apart: Option<[f32; 2]>) -> [f32; 4] {
        let level = level.min(self.log2);
        match apart {
            None => unpack(self.bilinear(u, v, level)).map(|c| c * (1.0 / 255.0)),
            Some([du, dv]) => {
                let (du, dv) = (du * 0.5, dv * 0.5);
                let sum =
                    self.bilinear(u - du, v - dv, level) + self.bilinear(u + du, v + dv, level);
                unpack(sum).map(|c| c * (0.5 / 255.0))
            }
        }
    }

    /// Base-two logarithm of the finest level's side.
    #[inline(always)]
    pub(super) fn log2(&self) -> f32 {
        self.log2 as f32
    }

    /// The first channel of the nearest texel of the finest level.
    #[inline(always)]
    pub(super) fn nearest(&self, u: f32, v: f32) -> f32 {
        let size = 1_i32 << self.log2;
        let (x, y) = (floor(u * size as f32) & (size - 1), floor(v * size as f32) & (size - 1));
        f32::from(self.texels[(y * size + x) as usize][0]) * (1.0 / 255.0)
    }

    /// The coverage of a mip level; look-ups then cost little.
    #[inline(always)]
    pub(super) fn coverage(&self, level: u32) -> Coverage<'_> {
        let (start, bits) = (self.starts[level as usize], self.log2 - level);
        Coverage { texels: &self.texels[start..start + (1 << (2 * bits))], bits }
    }

    /// The mip level whose texels are nearest to `repeats_per_sample` in size.
    pub(super) fn level_for(&self, repeats_per_sample: f32) -> u32 {
        let texels = repeats_per_sample * (1_u32 << self.log2) as f32;
        (log2(texels.max(1e-6)) + 0.5).clamp(0.0, self.log2 as f32) as u32
    }

    /// The four channels, 0-255 each, in four lanes of 16 bits.
    #[inline(always)]
    fn bilinear(&self, u: f32, v: f32, level: u32) -> u64 {
        let size = 1_i32 << (self.log2 - level);
        // Positions in 1/256 of a texel.
        let fixed = (size * 256) as f32;
        let (x, y) = (floor(u * fixed) - 128, floor(v * fixed) - 128);
        let (fx, fy) = ((x & 255) as u64, (y & 255) as u64);
        let (xi, yi, mask) = (x >> 8, y >> 8, size - 1);
        let (x0, x1) = ((xi & mask) as usize, ((xi + 1) & mask) as usize);
        let (y0, y1) = (((yi & mask) * size) as usize, (((yi + 1) & mask) * size) as usize);
        let texels = &self.texels[self.starts[level as usize]..][..(size * size) as usize];
        let lane = |k: usize| {
            let texel = u64::from(u32::from_le_bytes(texels[k]));
            (texel | texel << 24) & LANES
        };
        let upper = ((lane(y0 + x0) * (256 - fx) + lane(y0 + x1) * fx) >> 8) & LANES;
        let lower = ((lane(y1 + x0) * (256 - fx) + lane(y1 + x1) * fx) >> 8) & LANES;
        ((upper * (256 - fy) + lower * fy) >> 8) & LANES
    }
}

/// Where one mip level of a cut-out texture is solid.
pub(super) struct Coverage<'a> {
    texels: &'a [[u8; 4]],
    bits: u32,
}

impl Coverage<'_> {
    /// Whether the nearest texel is solid; u and v in 1/65536 repeats.
    #[inline(always)]
    pub(super) fn solid(&self, u: i32, v: i32) -> bool {
        let mask = (1 << self.bits) - 1;
        let (x, y) = ((u >> (16 - self.bits)) & mask, (v >> (16 - self.bits)) & mask);
        self.texels[((y << self.bits) | x) as usize][3] > 110
    }
}

/// The low bytes of four 16-bit lanes; channel 1 sits in the third lane.
const LANES: u64 = 0x00FF_00FF_00FF_00FF;

/// The lanes as numbers, in the order of the channels.
#[inline(always)]
fn unpack(lanes: u64) -> [f32; 4] {
    [0, 32, 16, 48].map(|shift| ((lanes >> shift) & 0xFFFF) as i32 as f32)
}

/// Base-two logarithm to about 0.01, enough to choose a mip level; `x` > 0.
#[inline(always)]
pub(super) fn log2(x: f32) -> f32 {
    let bits = x.to_bits();
    let exponent = (bits >> 23) as i32 - 127;
    let mantissa = f32::from_bits((bits & 0x007F_FFFF) | 0x3F80_0000);
    exponent as f32 + (-1.0 / 3.0 * mantissa + 2.0) * mantissa - 5.0 / 3.0
}
