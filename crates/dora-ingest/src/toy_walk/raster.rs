//! From triangles on the screen to the face that each sample sees.
//!
//! Every pixel has four samples, two rows of two, the rows shifted against each other so that
//! near-vertical edges get four steps. The screen is filled band by band, so that the samples in
//! work stay in the processor's cache.

use super::project::{Camera, Shard};
use super::texture::Texture;
use std::ops::Range;

/// Rows of samples in a band.
const BAND_ROWS: usize = 48;
/// Samples over which the texture of a cut-out face may be taken as straight.
const STRETCH: usize = 16;

/// A band of rows: what each sample sees, 0 for the sky, otherwise one more than the index of a
/// shard.
pub(super) struct Band {
    pub(super) rows: Range<usize>,
    width: usize,
    seen: Vec<u32>,
    inverse_z: Vec<f32>,
}

impl Band {
    /// Fills the screen and hands each band to `done`, from the top down. `shards` should come
    /// roughly from near to far.
    pub(super) fn fill_all(
        camera: &Camera,
        shards: &[Shard],
        textures: &[Texture],
        mut done: impl FnMut(&Band),
    ) {
        let mut bins = vec![Vec::new(); camera.height.div_ceil(BAND_ROWS)];
        let last = bins.len() - 1;
        for (index, shard) in shards.iter().enumerate() {
            let bin = |y: f32| ((y.max(0.0) as usize) / BAND_ROWS).min(last);
            let [(_, a), (_, b), (_, c)] = shard.points;
            for bin in &mut bins[bin(a.min(b).min(c))..=bin(a.max(b).max(c))] {
                bin.push(index as u32);
            }
        }
        let samples = camera.width * BAND_ROWS;
        let mut band = Band {
            rows: 0..0,
            width: camera.width,
            seen: vec![0; samples],
            inverse_z: vec![0.0; samples],
        };
        for (number, bin) in bins.iter().enumerate() {
            band.rows = number * BAND_ROWS..((number + 1) * BAND_ROWS).min(camera.height);
            band.seen.fill(0);
            band.inverse_z.fill(0.0);
            bin.iter().for_each(|&index| band.draw(index + 1, &shards[index as usize], textures));
            done(&band);
        }
    }

    /// What the samples of a row see.
    pub(super) fn row(&self, row: usize) -> &[u32] {
        &self.seen[(row - self.rows.start) * self.width..][..self.width]
    }

    fn draw(&mut self, name: u32, shard: &Shard, textures: &[Texture]) {
        let cut_out = shard.look.cut_out.then(|| {
            let texture = &textures[usize::from(shard.look.texture)];
            texture.coverage(texture.level_for(shard.repeats_per_sample()))
        });
        let (width, top) = (self.width, self.rows.start);
        spans(shard.points, width, self.rows.clone(), |row, from, to| {
            let start = (row - top) * width;
            let range = start + from..start + to;
            let (seen, depth) = (&mut self.seen[range.clone()], &mut self.inverse_z[range]);
            let (x, y) = (from as f32 + 0.5 + slant(row), row as f32 + 0.5);
            let (start, step) = (shard.inverse_z.value(x, y), shard.inverse_z.dx);
            let Some(coverage) = &cut_out else {
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
                    if z > *depth && coverage.solid(u, v) {
                        *depth = z;
                        *seen = name;
                    }
                    u += du;
                    v += dv;
                }
            }
        });
    }
}

/// Runs over the pixels that a shard covers: pixel row, pixel column, its u and v.
pub(super) fn for_pixels(
    camera: &Camera,
    shard: &Shard,
    mut paint: impl FnMut(usize, usize, f32, f32),
) {
    let halved = shard.points.map(|(x, y)| (x * 0.5, y * 0.5));
    spans(halved, camera.width / 2, 0..camera.height / 2, |row, from, to| {
        for column in from..to {
            let (x, y) = (2.0 * column as f32 + 1.0, 2.0 * row as f32 + 1.0);
            let w = 1.0 / shard.inverse_z.value(x, y);
            paint(row, column, shard.u.value(x, y) * w, shard.v.value(x, y) * w);
        }
    });
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
    if row.is_multiple_of(2) { -0.25 } else { 0.25 }
}

/// Calls `emit(row, from, to)` for every row of samples in `rows` whose centres a
/// triangle holds. Triangles
/// that share an edge neither overlap nor leave a gap: an edge gives the same crossings for both.
pub(super) fn spans(
    mut points: [(f32, f32); 3],
    width: usize,
    rows: Range<usize>,
    mut emit: impl FnMut(usize, usize, usize),
) {
    points.sort_by(|a, b| a.1.total_cmp(&b.1));
    let [top, middle, bottom] = points;
    let ceil = |x: f32| -super::math::floor(-x);
    let (start, end) = (rows.start as i32, rows.end as i32);
    let first = ceil(top.1.max(-1.0) - 0.5).max(start);
    let last = ceil(bottom.1.min(end as f32 + 1.0) - 0.5).min(end);
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
