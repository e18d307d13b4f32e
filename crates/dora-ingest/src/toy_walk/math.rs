//! Vectors, rigid placements, integer-hash noise and seeded dice.
//!
//! Axes: x right, y up, z forward (left-handed). Lengths in metres, angles in radians.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use std::ops::{Add, Mul, Neg, Sub};

/// A point or direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Vec3 {
    pub(super) x: f32,
    pub(super) y: f32,
    pub(super) z: f32,
}

/// Shorthand for a [`Vec3`].
pub(super) const fn v3(x: f32, y: f32, z: f32) -> Vec3 {
    Vec3 { x, y, z }
}

impl Vec3 {
    pub(super) const UP: Vec3 = v3(0.0, 1.0, 0.0);

    pub(super) fn dot(self, o: Vec3) -> f32 {
        self.x * o.x + self.y * o.y + self.z * o.z
    }

    pub(super) fn cross(self, o: Vec3) -> Vec3 {
        v3(self.y * o.z - self.z * o.y, self.z * o.x - self.x * o.z, self.x * o.y - self.y * o.x)
    }

    pub(super) fn length(self) -> f32 {
        self.dot(self).sqrt()
    }

    /// Unit length; a zero vector becomes "up".
    pub(super) fn unit(self) -> Vec3 {
        let length = self.length();
        if length < 1e-9 { Vec3::UP } else { self * (1.0 / length) }
    }
}

impl Add for Vec3 {
    type Output = Vec3;
    fn add(self, o: Vec3) -> Vec3 {
        v3(self.x + o.x, self.y + o.y, self.z + o.z)
    }
}

impl Sub for Vec3 {
    type Output = Vec3;
    fn sub(self, o: Vec3) -> Vec3 {
        v3(self.x - o.x, self.y - o.y, self.z - o.z)
    }
}

impl Mul<f32> for Vec3 {
    type Output = Vec3;
    fn mul(self, k: f32) -> Vec3 {
        v3(self.x * k, self.y * k, self.z * k)
    }
}

impl Neg for Vec3 {
    type Output = Vec3;
    fn neg(self) -> Vec3 {
        v3(-self.x, -self.y, -self.z)
    }
}

/// A placement: three unit axes and an origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) right: Vec3,
    pub(super) up: Vec3,
    pub(super) forward: Vec3,
    pub(super) origin: Vec3,
}

impl Place {
    /// Upright at `origin`, turned to the right by `heading` from +z.
    pub(super) fn heading(origin: Vec3, heading: f32) -> Place {
        let (sin, cos) = heading.sin_cos();
        Place { right: v3(cos, 0.0, -sin), up: Vec3::UP, forward: v3(sin, 0.0, cos), origin }
    }

    /// World position of a local point.
    pub(super) fn at(&self, x: f32, y: f32, z: f32) -> Vec3 {
        self.origin + self.direction(v3(x, y, z))
    }

    /// World direction of a local direction.
    pub(super) fn direction(&self, d: Vec3) -> Vec3 {
        self.right * d.x + self.up * d.y + self.forward * d.z
    }

    /// The same placement with its origin moved by a local offset.
    pub(super) fn moved(&self, x: f32, y: f32, z: f32) -> Place {
        Place { origin: self.at(x, y, z), ..*self }
    }

    /// Turned about its own up axis, to the right for a positive angle.
    pub(super) fn turned(&self, angle: f32) -> Place {
        let (sin, cos) = angle.sin_cos();
        Place {
            right: self.right * cos - self.forward * sin,
            forward: self.forward * cos + self.right * sin,
            ..*self
        }
    }

    /// Tipped about its own right axis: the up axis leans forward for a positive angle.
    pub(super) fn tipped(&self, angle: f32) -> Place {
        let (sin, cos) = angle.sin_cos();
        Place {
            up: self.up * cos + self.forward * sin,
            forward: self.forward * cos - self.up * sin,
            ..*self
        }
    }

    /// A placement whose up axis is `axis`, with its forward axis as near `facing` as that allows.
    pub(super) fn along(origin: Vec3, axis: Vec3, facing: Vec3) -> Place {
        let up = axis.unit();
        let mut right = up.cross(facing);
        if right.length() < 1e-3 {
            right = up.cross(v3(0.31, 0.2, 0.93));
        }
        let right = right.unit();
        Place { right, up, forward: right.cross(up), origin }
    }
}

/// Mixes `a` and `b`: `a` at `t` = 0.
pub(super) fn mix(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// Mixes two colours.
pub(super) fn mix3(a: [f32; 3], b: [f32; 3], t: f32) -> [f32; 3] {
    [mix(a[0], b[0], t), mix(a[1], b[1], t), mix(a[2], b[2], t)]
}

/// 0 below `low`, 1 above `high`, smooth between.
pub(super) fn step(low: f32, high: f32, x: f32) -> f32 {
    let t = ((x - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Largest whole number not above `x`, for |x| < 4 million; far cheaper than `f32::floor` without
/// SSE4. A whole `x` may give `x - 1`, which no caller minds.
#[inline(always)]
pub(super) fn floor(x: f32) -> i32 {
    // Adding 1.5 * 2^23 leaves the number, rounded, in the low bits.
    (((x - 0.5) + 12_582_912.0).to_bits() as i32) - 0x4B40_0000
}

/// Mixes three whole numbers into 32 well-spread bits.
pub(super) fn hash(seed: u32, x: i32, y: i32) -> u32 {
    let mut h = seed
        ^ (x as u32).wrapping_mul(0x9E37_79B1)
        ^ (y as u32).wrapping_mul(0x85EB_CA77).rotate_left(13);
    h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    h = (h ^ (h >> 15)).wrapping_mul(0x846C_A68B);
    h ^ (h >> 16)
}

/// [`hash`] as a number in [0, 1).
pub(super) fn hash_unit(seed: u32, x: i32, y: i32) -> f32 {
    (hash(seed, x, y) >> 8) as f32 / (1 << 24) as f32
}

/// Smooth noise in [0, 1] on the unit square, which repeats without a seam; `cells` to a side.
pub(super) fn noise(seed: u32, u: f32, v: f32, cells: i32) -> f32 {
    let (x, y) = (u * cells as f32, v * cells as f32);
    let (xi, yi) = (floor(x), floor(y));
    let ease = |t: f32| t * t * (3.0 - 2.0 * t);
    let (fx, fy) = (ease(x - xi as f32), ease(y - yi as f32));
    // Divisions are slow, and seldom needed.
    let wrap = |i: i32| if (0..cells).contains(&i) { i } else { i.rem_euclid(cells) };
    let (x0, y0, x1, y1) = (wrap(xi), wrap(yi), wrap(xi + 1), wrap(yi + 1));
    mix(
        mix(hash_unit(seed, x0, y0), hash_unit(seed, x1, y0), fx),
        mix(hash_unit(seed, x0, y1), hash_unit(seed, x1, y1), fx),
        fy,
    )
}

/// `octaves` of [`noise`], each twice as fine and half as strong, in [0, 1].
pub(super) fn clouds(seed: u32, u: f32, v: f32, cells: i32, octaves: u32) -> f32 {
    let (mut sum, mut weight, mut total) = (0.0, 1.0, 0.0);
    for octave in 0..octaves {
        sum += weight * noise(seed.wrapping_add(octave * 7919), u, v, cells << octave);
        total += weight;
        weight *= 0.5;
    }
    sum / total
}

/// Smooth noise over time in [-1, 1]; changes over about one unit of `t`.
pub(super) fn drift(seed: u32, t: f32) -> f32 {
    let whole = floor(t);
    let f = t - whole as f32;
    let f = f * f * f * (f * (6.0 * f - 15.0) + 10.0);
    2.0 * mix(hash_unit(seed, whole, 17), hash_unit(seed, whole + 1, 17), f) - 1.0
}

/// Randomness for one thing of the world: a function of the seed, the stream and the index alone.
pub(super) struct Dice(ChaCha8Rng);

impl Dice {
    pub(super) fn new(seed: u64, stream: u32, index: i32) -> Dice {
        let mut key = [0_u8; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..12].copy_from_slice(&stream.to_le_bytes());
        key[12..16].copy_from_slice(&index.to_le_bytes());
        Dice::from_key(key)
    }

    /// The dice that [`Dice::key`] stands for: the same key gives the same throws.
    pub(super) fn from_key(key: [u8; 32]) -> Dice {
        Dice(ChaCha8Rng::from_seed(key))
    }

    /// A key drawn from these dice, for throws that are needed more than once.
    pub(super) fn key(&mut self) -> [u8; 32] {
        self.0.random()
    }

    /// Uniform in [low, high).
    pub(super) fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.0.random::<f32>()
    }

    /// True with probability `p`.
    pub(super) fn chance(&mut self, p: f32) -> bool {
        self.0.random::<f32>() < p
    }

    /// A whole number in [0, n); `n` > 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    /// One of the choices, which must not be empty.
    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// `colour` with every channel varied by up to `by`, and its brightness too.
    pub(super) fn vary(&mut self, colour: [f32; 3], by: f32) -> [f32; 3] {
        let bright = self.range(-by, by);
        colour.map(|c| (c + bright + self.range(-by, by) * 0.4).clamp(0.02, 1.0))
    }
}
