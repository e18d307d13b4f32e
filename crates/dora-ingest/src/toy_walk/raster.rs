//! From meshes to the face that each sample of the picture sees.
//!
//! Every pixel has four samples, two rows of two, the rows shifted against each other so that
//! near-vertical edges get four steps. Coordinates here count samples: two to a pixel each way.

use super::Class;
use super::block::Thing;
use super::math::{Place, Vec3};
use super::mesh::Look;
use super::texture::Texture;

/// Nothing nearer than this is drawn.
const NEAR_M: f32 = 0.12;
/// Samples over which the texture of a cut-out face may be taken as straight.
const STRETCH: usize = 16;

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
    points: [(f32, f32); 3],
    pub(super) inverse_z: Plane,
    pub(super) u: Plane,
    pub(super) v: Plane,
    pub(super) normal: [Plane; 3],
    pub(super) look: Look,
    pub(super) class: Class,
    pub(super) id: u16,
}

/// What each sample sees: 0 for the sky, otherwise one more than the index of a shard.
pub(super) struct Visible {
    pub(super) shards: Vec<Shard>,
    pub(super) seen: Vec<u32>,
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
        let local: Vec<Vec3> = thing.mesh.vertices.iter().map(|v| self.local(v.at)).collect();
        for face in &thing.mesh.faces {
            let look = thing.mesh.looks[face.look as usize];
            let corners = face.corners.map(|k| {
                let vertex = &thing.mesh.vertices[k as usize];
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
            look,
            class: thing.class,
            id: thing.id,
        })
    }

    /// Fills the samples, nearest face first; `shards` should come roughly from near to far.
    pub(super) fn rasterise(&self, shards: Vec<Shard>, textures: &[Texture]) -> Visible {
        let mut seen = vec![0_u32; self.width * self.height];
        let mut inverse_z = vec![0.0_f32; self.width * self.height];
        for (index, shard) in shards.iter().enumerate() {
            let name = index as u32 + 1;
            let cut_out = shard.look.cut_out.then(|| {
                let texture = &textures[usize::from(shard.look.texture)];
                (texture, texture.level_for(shard.repeats_per_sample()))
            });
            spans(shard.points, self.width, self.height, |row, from, to| {
                let range = row * self.width + from..row * self.width + to;
                let (seen, depth) = (&mut seen[range.clone()], &mut inverse_z[range]);
                let (x, y) = (from as f32 + 0.5 + slant(row), row as f32 + 0.5);
                let (start, step) = (shard.inverse_z.value(x, y), shard.inverse_z.dx);
                let Some((texture, level)) = cut_out else {
                    fill(seen, depth, name, start, step);
                    return;
                };
                let ends = |k: usize| {
                    let x = x + k as f32;
                    let w = 65536.0 / shard.inverse_z.value(x, y);
                    ((shard.u.value(x, y) * w) as i32, (shard.v.value(x, y) * w) as i32)
                };
                // Straight between exact points a few samples apart.
                let count = to - from;
                for begin in (0..count).step_by(STRETCH) {
                    let long = (count - begin).min(STRETCH);
                    let ((mut u, mut v), (u1, v1)) = (ends(begin), ends(begin + long));
                    let (du, dv) = ((u1 - u) / long as i32, (v1 - v) / long as i32);
                    let (seen, depth) =
                        (&mut seen[begin..begin + long], &mut depth[begin..begin + long]);
                    for ((seen, depth), k) in seen.iter_mut().zip(depth).zip(begin as i32..) {
                        let z = start + step * k as f32;
                        if z > *depth && texture.coverage(u, v, level) > 110 {
                            *depth = z;
                            *seen = name;
                        }
                        u += du;
                        v += dv;
                    }
                }
            });
        }
        Visible { shards, seen }
    }
}

impl Visible {
    /// Runs over the pixels that a flat shard covers: pixel row, pixel column, its u and v.
    pub(super) fn for_pixels(
        camera: &Camera,
        shard: &Shard,
        mut paint: impl FnMut(usize, usize, f32, f32),
    ) {
        let halved = shard.points.map(|(x, y)| (x * 0.5, y * 0.5));
        spans(halved, camera.width / 2, camera.height / 2, |row, from, to| {
            for column in from..to {
                let (x, y) = (2.0 * column as f32 + 1.0, 2.0 * row as f32 + 1.0);
                let w = 1.0 / shard.inverse_z.value(x, y);
                paint(row, column, shard.u.value(x, y) * w, shard.v.value(x, y) * w);
            }
        });
    }
}

impl Shard {
    /// Texture repeats that one sample spans at the middle of the shard.
    fn repeats_per_sample(&self) -> f32 {
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

/// Writes `name` wherever a face, whose inverse depth starts at `start` and grows by `step`, is
/// nearer than what was there. Whole groups of samples at a time: they become vector instructions.
fn fill(seen: &mut [u32], depth: &mut [f32], name: u32, start: f32, step: f32) {
    const GROUP: usize = 8;
    let (seen_groups, seen_rest) = seen.as_chunks_mut::<GROUP>();
    let (depth_groups, depth_rest) = depth.as_chunks_mut::<GROUP>();
    let offsets: [f32; GROUP] = std::array::from_fn(|k| step * k as f32);
    let mut at = start;
    for (seen, depth) in seen_groups.iter_mut().zip(depth_groups) {
        let z: [f32; GROUP] = std::array::from_fn(|k| at + offsets[k]);
        let (old_seen, old_depth) = (*seen, *depth);
        *depth = std::array::from_fn(|k| if z[k] > old_depth[k] { z[k] } else { old_depth[k] });
        *seen = std::array::from_fn(|k| if z[k] > old_depth[k] { name } else { old_seen[k] });
        at += step * GROUP as f32;
    }
    for (seen, depth) in seen_rest.iter_mut().zip(depth_rest) {
        if at > *depth {
            (*seen, *depth) = (name, at);
        }
        at += step;
    }
}

/// How far the samples of a row are shifted to the right.
#[inline(always)]
pub(super) fn slant(row: usize) -> f32 {
    if row % 2 == 0 { -0.25 } else { 0.25 }
}

/// Calls `emit(row, from, to)` for every row of samples whose centres a triangle holds. Triangles
/// that share an edge neither overlap nor leave a gap: an edge gives the same crossings for both.
pub(super) fn spans(
    mut points: [(f32, f32); 3],
    width: usize,
    height: usize,
    mut emit: impl FnMut(usize, usize, usize),
) {
    points.sort_by(|a, b| a.1.total_cmp(&b.1));
    let [top, middle, bottom] = points;
    let ceil = |x: f32| -super::math::floor(-x);
    let first = ceil(top.1.max(-1.0) - 0.5).max(0);
    let last = ceil(bottom.1.min(height as f32 + 1.0) - 0.5).min(height as i32);
    let slope = |a: (f32, f32), b: (f32, f32)| (b.0 - a.0) / (b.1 - a.1);
    let (long, upper, lower) = (slope(top, bottom), slope(top, middle), slope(middle, bottom));
    for row in first..last {
        let y = row as f32 + 0.5;
        let one = top.0 + (y - top.1) * long;
        let other = if y < middle.1 {
            top.0 + (y - top.1) * upper
        } else {
            middle.0 + (y - middle.1) * lower
        };
        let shift = 0.5 + slant(row as usize);
        let from = ceil((one.min(other) - shift).clamp(-1.0, width as f32 + 1.0)).max(0);
        let to = ceil((one.max(other) - shift).clamp(-1.0, width as f32 + 1.0)).min(width as i32);
        if from < to {
            emit(row as usize, from as usize, to as usize);
        }
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
