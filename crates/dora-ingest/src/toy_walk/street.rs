//! The line of the street and its ground: road, kerbs, pavements, marks.
//!
//! Places along the street are (s, d): metres along the middle of the road and metres to its
//! right. The walker keeps to the right pavement.

use super::cover::Cover;
use super::math::{Dice, Place, drift, hash, v3};
use super::mesh::{Look, Mesh};

/// Half the width of the road, parking lanes included.
pub(super) const KERB_M: f32 = 5.2;
/// Distance of the house fronts from the middle of the road.
pub(super) const FRONTS_M: f32 = 10.4;
/// Height of the pavement above the road.
pub(super) const PAVEMENT_H: f32 = 0.13;
/// Length of the piece of street that is generated at once.
pub(super) const BLOCK_M: f32 = 40.0;
/// Where the first block begins.
pub(super) const START_M: f32 = -BLOCK_M;

/// The middle line of the road: a gently winding curve, known to the metre.
pub(super) struct Street {
    /// Position and heading every metre from [`START_M`].
    line: Vec<(f32, f32, f32)>,
}

impl Street {
    /// A line of `length_m` metres from [`START_M`].
    pub(super) fn new(seed: u64, length_m: usize) -> Street {
        let salt = hash(seed as u32, (seed >> 32) as i32, 1);
        let (mut x, mut z) = (0.0_f64, f64::from(START_M));
        let line = (0..=length_m)
            .map(|i| {
                let s = i as f32 + START_M;
                let heading = 0.42 * drift(salt, s / 75.0) + 0.10 * drift(salt ^ 0x5A5A, s / 31.0);
                let here = (x as f32, z as f32, heading);
                x += f64::from(heading.sin());
                z += f64::from(heading.cos());
                here
            })
            .collect();
        Street { line }
    }

    /// The place at (s, d) on the road's level, facing along the street. Beyond the ends of the
    /// line it goes straight on.
    pub(super) fn place(&self, s: f32, d: f32) -> Place {
        let at = s - START_M;
        let whole = (at.max(0.0) as usize).min(self.line.len() - 2);
        let part = at - whole as f32;
        let (a, b) = (self.line[whole], self.line[whole + 1]);
        let heading = a.2 + (b.2 - a.2) * part.clamp(0.0, 1.0);
        let middle =
            Place::heading(v3(a.0 + (b.0 - a.0) * part, 0.0, a.1 + (b.1 - a.1) * part), heading);
        middle.moved(d, 0.0, 0.0)
    }

    /// The place at (s, d) on the pavement.
    pub(super) fn pavement(&self, s: f32, d: f32) -> Place {
        self.place(s, d).moved(0.0, PAVEMENT_H, 0.0)
    }

    /// A strip of ground between two distances to the side; `repeat_m` metres to a repeat.
    fn strip(&self, mesh: &mut Mesh, from_s: f32, [d0, d1]: [f32; 2], y: f32, repeat_m: f32) {
        let k = 1.0 / repeat_m;
        let rows: Vec<f32> = (0..=10).map(|i| from_s + i as f32 * BLOCK_M / 10.0).collect();
        for pair in rows.windows(2) {
            let (s0, s1) = (pair[0], pair[1]);
            let corner = |s: f32, d: f32| self.place(s, d).at(0.0, y, 0.0);
            // Texture coordinates start anew at each block, which the repeat divides.
            let (v0, v1) = ((s0 - from_s) * k, (s1 - from_s) * k);
            mesh.quad(
                [corner(s0, d0), corner(s0, d1), corner(s1, d1), corner(s1, d0)],
                [d0 * k, v0, d1 * k, v1],
            );
        }
    }

    /// The road of one block with its lane marks; a zebra crossing at `crossing_s`.
    pub(super) fn road(&self, from_s: f32, crossing_s: Option<f32>, dice: &mut Dice) -> Mesh {
        let mut mesh = Mesh::default();
        mesh.paint(Look::new(Cover::Asphalt, [0.78, 0.78, 0.80]).stained(0.5));
        self.strip(&mut mesh, from_s, [-KERB_M, KERB_M], 0.0, 4.0);
        // Gutters, darker.
        mesh.paint(Look::new(Cover::Stone, [0.50, 0.50, 0.50]).stained(0.5));
        for side in [-1.0_f32, 1.0] {
            let (a, b) = (side * KERB_M, side * (KERB_M - 0.3));
            self.strip(&mut mesh, from_s, [a.min(b), a.max(b)], 0.006, 4.0);
        }
        let white = Look::new(Cover::Asphalt, [1.0, 1.0, 0.98]);
        let mark = |mesh: &mut Mesh, s: f32, d: f32, long: f32, wide: f32| {
            let place = self.place(s, d);
            let p = |x: f32, z: f32| place.at(x * wide * 0.5, 0.012, z * long * 0.5);
            mesh.quad(
                [p(-1.0, -1.0), p(1.0, -1.0), p(1.0, 1.0), p(-1.0, 1.0)],
                [0.0, 0.0, wide * 0.3, long * 0.3],
            );
        };
        mesh.paint(Look { tint: [1.9, 1.9, 1.85], ..white });
        let clear = |s: f32| crossing_s.is_none_or(|c| (s - c).abs() > 4.5);
        for k in 0..8 {
            let s = from_s + 2.5 + 5.0 * k as f32;
            if clear(s) {
                mark(&mut mesh, s, 0.0, 2.4, 0.14);
            }
            for side in [-1.0_f32, 1.0] {
                if clear(s) {
                    mark(&mut mesh, s, side * 3.05, 5.0, 0.09);
                    mark(&mut mesh, s, side * 4.05, 0.1, 1.9);
                }
            }
        }
        if let Some(s) = crossing_s {
            for k in 0..10 {
                mark(&mut mesh, s, -4.5 + k as f32, 3.4, 0.5);
            }
        }
        // Manhole covers and mended patches.
        for _ in 0..3 {
            let s = from_s + dice.range(2.0, BLOCK_M - 2.0);
            let tone = dice.range(0.55, 0.72);
            mesh.paint(Look::new(Cover::Asphalt, [tone, tone, tone]));
            mark(&mut mesh, s, dice.range(-3.0, 3.0), dice.range(0.8, 4.0), dice.range(0.7, 1.8));
        }
        mesh
    }

    /// Both pavements of one block with their kerbs and the ground behind the fronts.
    pub(super) fn pavements(&self, from_s: f32, dice: &mut Dice) -> Mesh {
        let mut mesh = Mesh::default();
        for side in [-1.0_f32, 1.0] {
            let band = |a: f32, b: f32| [(side * a).min(side * b), (side * a).max(side * b)];
            let tone = dice.pick(&[[0.86, 0.84, 0.80], [0.80, 0.80, 0.80], [0.88, 0.80, 0.74]]);
            mesh.paint(Look::new(Cover::Slabs(dice.below(2) as u8), tone).stained(0.55));
            self.strip(&mut mesh, from_s, band(KERB_M + 0.28, FRONTS_M + 1.5), PAVEMENT_H, 2.5);
            mesh.paint(Look::new(Cover::Grass, [0.95, 0.95, 0.9]).stained(0.5));
            self.strip(&mut mesh, from_s, band(FRONTS_M + 1.5, 60.0), PAVEMENT_H, 4.0);
            mesh.paint(Look::new(Cover::Stone, [0.84, 0.83, 0.81]).stained(0.3));
            self.strip(&mut mesh, from_s, band(KERB_M, KERB_M + 0.28), PAVEMENT_H, 4.0);
            for k in 0..10 {
                let (s0, s1) = (from_s + 4.0 * k as f32, from_s + 4.0 * (k + 1) as f32);
                let (near, far) = if side > 0.0 { (s1, s0) } else { (s0, s1) };
                let p = |s: f32, y: f32| self.place(s, side * KERB_M).at(0.0, y, 0.0);
                mesh.quad(
                    [p(near, 0.0), p(far, 0.0), p(far, PAVEMENT_H), p(near, PAVEMENT_H)],
                    [0.0, 0.0, 4.0, 0.2],
                );
            }
        }
        mesh
    }
}
