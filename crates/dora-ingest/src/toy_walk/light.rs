//! Sun, sky and haze of a moment, and the shadows that the sun throws.

use super::block::Thing;
use super::cover::Cover;
use super::math::{Place, Vec3, drift, floor, hash, hash_unit, mix, mix3, step, v3};
use super::raster::spans;
use super::texture::Texture;

/// Side of the square that the shadow map covers.
const SHADOW_M: f32 = 48.0;
/// Texels along its side.
const SHADOW_SIZE: usize = 640;
const TEXEL_M: f32 = SHADOW_M / SHADOW_SIZE as f32;
/// How much nearer to the sun a caster must be to throw a shadow.
const BIAS_M: f32 = 0.07;
/// Light that is left in the shade beyond the shadow map: streets lie about half in the sun.
const FAR_SUN: f32 = 0.55;

/// The light of one moment; colours are linear.
pub(super) struct Light {
    /// Towards the sun.
    pub(super) sun_at: Vec3,
    pub(super) sun: [f32; 3],
    /// From above and from below, on all that faces there.
    pub(super) sky: [f32; 3],
    pub(super) bounce: [f32; 3],
    zenith: [f32; 3],
    /// The colour of haze too.
    pub(super) horizon: [f32; 3],
    /// Haze reaches 63 % at the inverse of this.
    per_haze_m: f32,
    cloud_shift: [f32; 2],
    cloud_tone: f32,
}

impl Light {
    /// Light at `t_s`: clouds pass before the sun, the colour and the haze drift.
    pub(super) fn at(seed: u64, t_s: f32) -> Light {
        let salt = hash(seed as u32, (seed >> 32) as i32, 7);
        let azimuth = mix(-2.4, -0.9, hash_unit(salt, 1, 0));
        let height = mix(0.72, 0.95, hash_unit(salt, 2, 0));
        let sun_at = v3(azimuth.sin() * height.cos(), height.sin(), azimuth.cos() * height.cos());
        // Clouds before the sun: mostly open, now and then covered.
        let open =
            step(-0.55, 0.25, drift(salt ^ 11, t_s / 8.0) + 0.3 * drift(salt ^ 12, t_s / 2.7));
        let warm = 0.5 + 0.5 * drift(salt ^ 13, t_s / 23.0 + 0.4);
        let bright = 1.0 + 0.14 * drift(salt ^ 14, t_s / 13.0);
        let sun = mix3([1.0, 0.95, 0.88], [1.0, 0.84, 0.62], warm)
            .map(|c| c * bright * mix(0.16, 2.15, open));
        let sky = mix3([0.52, 0.64, 0.86], [0.66, 0.66, 0.70], warm * 0.6)
            .map(|c| c * bright * mix(0.98, 0.80, open));
        Light {
            sun_at,
            sun,
            sky,
            bounce: mix3([0.30, 0.29, 0.28], [0.36, 0.30, 0.24], warm)
                .map(|c| c * bright * mix(0.55, 1.0, open)),
            zenith: mix3([0.10, 0.26, 0.62], [0.20, 0.32, 0.56], warm)
                .map(|c| c * bright * mix(1.05, 1.2, open)),
            horizon: mix3([0.66, 0.76, 0.86], [0.86, 0.78, 0.66], warm)
                .map(|c| c * bright * mix(0.85, 1.05, open)),
            per_haze_m: 1.0 / mix(190.0, 300.0, 0.5 + 0.5 * drift(salt ^ 15, t_s / 31.0)),
            cloud_shift: [0.0021 * t_s + hash_unit(salt, 3, 0), 0.0013 * t_s],
            cloud_tone: bright * mix(0.78, 1.1, open),
        }
    }

    /// Colour of the sky in a unit direction; `clouds` off gives the smooth sky that glass mirrors.
    #[inline]
    pub(super) fn sky(&self, towards: Vec3, textures: &[Texture], clouds: bool) -> [f32; 3] {
        let high = towards.y.max(0.0);
        let mut colour = mix3(self.horizon, self.zenith, 1.0 - (1.0 - high).powi(4));
        let glow = towards.dot(self.sun_at).max(0.0).powi(8) * 0.25;
        if clouds {
            let k = 0.10 / (high + 0.10);
            let (u, v) = (towards.x * k + self.cloud_shift[0], towards.z * k + self.cloud_shift[1]);
            let lod = (1.2 - high * 4.0).max(0.0);
            let texel = textures[Cover::Sky.index()].sample([u, v], lod as u32, None);
            let white = self.cloud_tone * (0.45 + 0.75 * texel[0]);
            let cover = texel[3] * step(0.0, 0.12, high) * 0.92;
            colour = mix3(colour, [white, white * 0.99, white], cover);
        }
        colour.map(|c| c + glow)
    }

    /// Share of a thing's own colour that comes through `distance_m` of air; the rest is haze.
    #[inline(always)]
    pub(super) fn clear(&self, distance_m: f32) -> f32 {
        // Close to exp(-t), and cheap for many pixels at once.
        let t = distance_m * self.per_haze_m;
        1.0 / (1.0 + t * (1.0 + t * (0.5 + 0.2 * t)))
    }
}

/// Distance to the first caster along the sun's rays, over a square around the walker.
pub(super) struct Shadows {
    /// Across the rays, across the rays, towards the sun.
    axes: Place,
    corner: [f32; 2],
    nearest: Vec<f32>,
}

impl Shadows {
    /// The shadows of `things` around a point.
    pub(super) fn cast<'a>(
        light: &Light,
        around: Vec3,
        things: impl Iterator<Item = &'a Thing>,
        textures: &[Texture],
    ) -> Shadows {
        let axes = Place::along(v3(0.0, 0.0, 0.0), light.sun_at, v3(0.0, 0.0, 1.0));
        // Whole texels only, or the edges of shadows would crawl as the walker moves.
        let snap = |x: f32| floor((x - SHADOW_M * 0.5) / TEXEL_M) as f32 * TEXEL_M;
        let mut map = Shadows {
            corner: [snap(around.dot(axes.right)), snap(around.dot(axes.forward))],
            axes,
            nearest: vec![f32::MIN; SHADOW_SIZE * SHADOW_SIZE],
        };
        for thing in things {
            let [x, y, _] = map.texel(thing.centre);
            let reach = thing.radius / TEXEL_M;
            let size = SHADOW_SIZE as f32;
            if x > -reach && y > -reach && x < size + reach && y < size + reach {
                map.add(thing, textures);
            }
        }
        map
    }

    /// Column, row and height towards the sun of a point.
    #[inline(always)]
    pub(super) fn texel(&self, at: Vec3) -> [f32; 3] {
        [
            (at.dot(self.axes.right) - self.corner[0]) * (1.0 / TEXEL_M),
            (at.dot(self.axes.forward) - self.corner[1]) * (1.0 / TEXEL_M),
            at.dot(self.axes.up),
        ]
    }

    fn add(&mut self, thing: &Thing, textures: &[Texture]) {
        let mesh = &thing.mesh;
        let texels: Vec<[f32; 3]> = mesh.vertices.iter().map(|v| self.texel(v.at)).collect();
        for face in &mesh.faces {
            let [a, b, c] = face.corners.map(|k| texels[k as usize]);
            let area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]);
            let look = mesh.looks[face.look as usize];
            // One side of a closed body is enough: the one that faces the sun.
            if area.abs() < 0.05 || (area > 0.0 && !look.cut_out) {
                continue;
            }
            let over = 1.0 / area;
            let plane = |fa: f32, fb: f32, fc: f32| {
                let (fb, fc) = (fb - fa, fc - fa);
                let dx = (fb * (c[1] - a[1]) - fc * (b[1] - a[1])) * over;
                let dy = (fc * (b[0] - a[0]) - fb * (c[0] - a[0])) * over;
                (fa - dx * a[0] - dy * a[1], dx, dy)
            };
            let depth = plane(a[2], b[2], c[2]);
            let [uv_a, uv_b, uv_c] = face.corners.map(|k| mesh.vertices[k as usize].uv);
            let (u, v) = (plane(uv_a[0], uv_b[0], uv_c[0]), plane(uv_a[1], uv_b[1], uv_c[1]));
            let texture = look.cut_out.then(|| &textures[usize::from(look.texture)]);
            let coverage = texture.map(|t| t.coverage(t.level_for((u.1 * u.1 + v.1 * v.1).sqrt())));
            let nearest = &mut self.nearest;
            spans(
                [(a[0], a[1]), (b[0], b[1]), (c[0], c[1])],
                SHADOW_SIZE,
                0..SHADOW_SIZE,
                |row, from, to| {
                    let y = row as f32 + 0.5;
                    let line = &mut nearest[row * SHADOW_SIZE..][from..to];
                    for (texel, k) in line.iter_mut().zip(from as i32..) {
                        let x = k as f32 + 0.5;
                        let z = depth.0 + depth.1 * x + depth.2 * y;
                        if z > *texel
                            && coverage.as_ref().is_none_or(|c| {
                                let at = |p: (f32, f32, f32)| {
                                    ((p.0 + p.1 * x + p.2 * y) * 65536.0) as i32
                                };
                                c.solid(at(u), at(v))
                            })
                        {
                            *texel = z;
                        }
                    }
                },
            );
        }
    }

    /// Share of the sun that reaches a point given as [`Shadows::texel`], from four neighbouring
    /// rays.
    #[inline(always)]
    pub(super) fn lit(&self, [x, y, z]: [f32; 3]) -> f32 {
        let (x, y) = (x - 0.5, y - 0.5);
        let edge = (SHADOW_SIZE - 1) as f32;
        let inner = x.min(y).min(edge - x).min(edge - y);
        if inner <= 0.0 {
            return FAR_SUN;
        }
        let (xi, yi) = (x as i32 as usize, y as i32 as usize);
        let (fx, fy) = (x - xi as i32 as f32, y - yi as i32 as f32);
        let corner = yi * SHADOW_SIZE + xi;
        let (upper, lower) =
            (&self.nearest[corner..corner + 2], &self.nearest[corner + SHADOW_SIZE..][..2]);
        let free = |nearest: f32| if nearest > z + BIAS_M { 0.0 } else { 1.0 };
        let lit = mix(
            mix(free(upper[0]), free(upper[1]), fx),
            mix(free(lower[0]), free(lower[1]), fx),
            fy,
        );
        mix(FAR_SUN, lit, (inner * (1.0 / 60.0)).min(1.0))
    }
}
