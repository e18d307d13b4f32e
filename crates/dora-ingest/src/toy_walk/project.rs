//! From meshes to triangles on the screen.
//!
//! Screen coordinates count samples, two to a pixel each way, from the top left.

use super::Class;
use super::block::Thing;
use super::math::{Place, Vec3};
use super::mesh::Look;

/// Nothing nearer than this is drawn.
const NEAR_M: f32 = 0.12;
/// From here on the coarse meshes are drawn.
const COARSE_M: f32 = 45.0;

/// Where the eye is and how it projects.
pub(super) struct Camera {
    pub(super) place: Place,
    /// Focal length, in samples.
    pub(super) focal: f32,
    /// Samples across and down.
    pub(super) width: usize,
    pub(super) height: usize,
}

/// Value at sample (0, 0) and its steps to the right and down.
#[derive(Clone, Copy, Default)]
pub(super) struct Plane {
    at: f32,
    pub(super) dx: f32,
    pub(super) dy: f32,
}

impl Plane {
    #[inline(always)]
    pub(super) fn value(&self, x: f32, y: f32) -> f32 {
        self.at + self.dx * x + self.dy * y
    }
}

/// A projected triangle; `u`, `v` and `normal` are divided by depth, so that they are flat on the
/// screen.
pub(super) struct Shard {
    /// Corners on the screen.
    pub(super) points: [(f32, f32); 3],
    pub(super) inverse_z: Plane,
    pub(super) u: Plane,
    pub(super) v: Plane,
    pub(super) normal: [Plane; 3],
    /// The normal is the same everywhere.
    pub(super) flat: bool,
    pub(super) look: Look,
    pub(super) class: Class,
    pub(super) id: u16,
}

#[derive(Clone, Copy)]
struct Corner {
    /// Camera coordinates: right, up, forward.
    at: Vec3,
    normal: Vec3,
    uv: [f32; 2],
}

impl Camera {
    /// True when a ball can reach into the picture.
    pub(super) fn sees(&self, centre: Vec3, radius: f32) -> bool {
        let rel = centre - self.place.origin;
        let z = rel.dot(self.place.forward);
        if z < -radius {
            return false;
        }
        let inside = |offset: f32, half: usize| {
            let slope = half as f32 * 0.5 / self.focal;
            offset.abs() - z * slope < radius * (1.0 + slope * slope).sqrt()
        };
        inside(rel.dot(self.place.right), self.width) && inside(rel.dot(self.place.up), self.height)
    }

    fn local(&self, at: Vec3) -> Vec3 {
        let rel = at - self.place.origin;
        Vec3 {
            x: rel.dot(self.place.right),
            y: rel.dot(self.place.up),
            z: rel.dot(self.place.forward),
        }
    }

    /// Projects the faces of a thing that point at the eye.
    pub(super) fn project(&self, thing: &Thing, shards: &mut Vec<Shard>) {
        let away_m = (thing.centre - self.place.origin).length();
        let mesh = thing.far.as_ref().filter(|_| away_m > COARSE_M).unwrap_or(&thing.mesh);
        let local: Vec<Vec3> = mesh.vertices.iter().map(|v| self.local(v.at)).collect();
        for face in &mesh.faces {
            let look = mesh.looks[face.look as usize];
            let corners = face.corners.map(|k| {
                let vertex = &mesh.vertices[k as usize];
                Corner { at: local[k as usize], normal: vertex.normal, uv: vertex.uv }
            });
            let [a, b, c] = corners.map(|k| k.at);
            if a.z < NEAR_M && b.z < NEAR_M && c.z < NEAR_M {
                continue;
            }
            let outward = (c - a).cross(b - a).dot(a);
            if outward >= 0.0 && !look.cut_out {
                continue;
            }
            let mut push = |corners: [Corner; 3]| {
                if let Some(shard) = self.shard(corners, look, thing) {
                    shards.push(shard);
                }
            };
            if a.z >= NEAR_M && b.z >= NEAR_M && c.z >= NEAR_M {
                push(corners);
            } else {
                let clipped = clip(corners);
                for k in 2..clipped.len() {
                    push([clipped[0], clipped[k - 1], clipped[k]]);
                }
            }
        }
    }

    fn shard(&self, corners: [Corner; 3], look: Look, thing: &Thing) -> Option<Shard> {
        let (cx, cy) = (self.width as f32 * 0.5, self.height as f32 * 0.5);
        let inverse = corners.map(|c| 1.0 / c.at.z);
        let points: [(f32, f32); 3] = std::array::from_fn(|k| {
            let scale = self.focal * inverse[k];
            (cx + corners[k].at.x * scale, cy - corners[k].at.y * scale)
        });
        let [(x0, y0), (x1, y1), (x2, y2)] = points;
        let area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0);
        let (low_x, high_x) = (x0.min(x1).min(x2), x0.max(x1).max(x2));
        let (low_y, high_y) = (y0.min(y1).min(y2), y0.max(y1).max(y2));
        let outside =
            high_x < 0.0 || high_y < 0.0 || low_x > self.width as f32 || low_y > self.height as f32;
        // Between two rows, or between all columns of both kinds of row: no sample can lie inside.
        let between = |low: f32, high: f32, at: f32| {
            super::math::floor(at - low) == super::math::floor(at - high)
        };
        if outside
            || area.abs() < 1e-4
            || between(low_y, high_y, 0.5)
            || (high_x - low_x < 0.5
                && between(low_x, high_x, 0.25)
                && between(low_x, high_x, 0.75))
        {
            return None;
        }
        let over = 1.0 / area;
        let plane = |[a, b, c]: [f32; 3]| {
            let (b, c) = (b - a, c - a);
            let dx = (b * (y2 - y0) - c * (y1 - y0)) * over;
            let dy = (c * (x1 - x0) - b * (x2 - x0)) * over;
            Plane { at: a - dx * x0 - dy * y0, dx, dy }
        };
        let over_z = |pick: fn(&Corner) -> f32| {
            plane(std::array::from_fn(|k| pick(&corners[k]) * inverse[k]))
        };
        Some(Shard {
            points,
            inverse_z: plane(inverse),
            u: over_z(|c| c.uv[0]),
            v: over_z(|c| c.uv[1]),
            normal: [over_z(|c| c.normal.x), over_z(|c| c.normal.y), over_z(|c| c.normal.z)],
            flat: corners[0].normal == corners[1].normal && corners[0].normal == corners[2].normal,
            look,
            class: thing.class,
            id: thing.id,
        })
    }
}

impl Shard {
    /// Texture repeats that one sample spans at the middle of the shard.
    pub(super) fn repeats_per_sample(&self) -> f32 {
        let [(x0, y0), (x1, y1), (x2, y2)] = self.points;
        let (x, y) = ((x0 + x1 + x2) / 3.0, (y0 + y1 + y2) / 3.0);
        let w = 1.0 / self.inverse_z.value(x, y);
        let (u, v) = (self.u.value(x, y) * w, self.v.value(x, y) * w);
        let edge =
            |du: f32, dv: f32, dz: f32| ((du - u * dz).powi(2) + (dv - v * dz).powi(2)).sqrt() * w;
        let across = edge(self.u.dx, self.v.dx, self.inverse_z.dx);
        let down = edge(self.u.dy, self.v.dy, self.inverse_z.dy);
        across.min(down)
    }
}

/// The part of a triangle in front of the near plane.
fn clip(corners: [Corner; 3]) -> Vec<Corner> {
    let mut kept = Vec::with_capacity(4);
    for k in 0..3 {
        let (a, b) = (corners[k], corners[(k + 1) % 3]);
        if a.at.z >= NEAR_M {
            kept.push(a);
        }
        if (a.at.z >= NEAR_M) != (b.at.z >= NEAR_M) {
            let t = (NEAR_M - a.at.z) / (b.at.z - a.at.z);
            kept.push(Corner {
                at: a.at + (b.at - a.at) * t,
                normal: a.normal + (b.normal - a.normal) * t,
                uv: std::array::from_fn(|c| a.uv[c] + (b.uv[c] - a.uv[c]) * t),
            });
        }
    }
    kept
}
