//! The colour of surfaces: texture, sun and shade, gloss, haze.

use super::Class;
use super::cover::Cover;
use super::math::{Vec3, floor, step, v3};
use super::project::Shard;
use super::shade::Shader;
use super::texture::log2;

/// Pixels after which the slowly changing properties of a face are worked out anew.
const STRETCH: u32 = 4;

/// One point to shade: the shard seen, where, and its share in a pixel.
#[derive(Clone, Copy, Default)]
pub(super) struct Point {
    pub(super) shard: u32,
    pub(super) column: u32,
    /// In samples.
    pub(super) x: f32,
    pub(super) y: f32,
    pub(super) share: f32,
}

/// What changes slowly over a face: worked out once for a few pixels.
struct Facet {
    shard: u32,
    /// First column that needs a new one.
    until: u32,
    normal: Vec3,
    /// Light on the face in the shade, and what full sun adds; times the tint.
    shaded: [f32; 3],
    sunned: [f32; 3],
    /// Mip level, and for surfaces seen at a grazing angle the way from tap to tap.
    level: f32,
    apart: Option<[f32; 2]>,
    /// Share of the own colour that comes through the haze.
    clear: f32,
}

impl Shader<'_> {
    /// Shades the points of one row and adds them to their pixels; `dimmed` is the light left on
    /// the ground of each pixel.
    pub(super) fn shade(&self, points: &[Point], dimmed: &[f32], row: &mut [[f32; 3]]) {
        let mut last: Option<Facet> = None;
        for point in points {
            let shard = &self.shards[point.shard as usize];
            let z = 1.0 / shard.inverse_z.value(point.x, point.y);
            let uv = [&shard.u, &shard.v].map(|plane| plane.value(point.x, point.y) * z);
            let away = self.ray(point.x, point.y) * z;
            let kept = last.take().filter(|f| f.shard == point.shard && point.column < f.until);
            let facet = kept.unwrap_or_else(|| self.facet(point, shard, z, uv, away));
            let colour =
                self.surface(shard, &facet, uv, away, point, dimmed[point.column as usize]);
            let pixel = &mut row[point.column as usize];
            for c in 0..3 {
                let haze = self.light.horizon[c];
                // Bright edges would flicker if light beyond white counted in full.
                pixel[c] += point.share * (haze + (colour[c] - haze) * facet.clear).min(1.6);
            }
            last = Some(facet);
        }
    }

    fn facet(&self, point: &Point, shard: &Shard, z: f32, [u, v]: [f32; 2], away: Vec3) -> Facet {
        // Steps of the texture coordinates to the next pixel, two samples on.
        let double = 2.0 * z;
        let (w, pu, pv) = (&shard.inverse_z, &shard.u, &shard.v);
        let right = [(pu.dx - u * w.dx) * double, (pv.dx - v * w.dx) * double];
        let down = [(pu.dy - u * w.dy) * double, (pv.dy - v * w.dy) * double];
        let square = |e: [f32; 2]| e[0] * e[0] + e[1] * e[1];
        let (right2, down2) = (square(right), square(down));
        let (long, long2, short2) =
            if right2 > down2 { (right, right2, down2) } else { (down, down2, right2) };
        // A footprint much longer than wide gets two taps of about half its length.
        let grazing = long2 > 3.0 * short2;
        let texels2 = long2.max(1e-12) * if grazing { 0.2 } else { 1.0 };
        let texture = &self.textures[usize::from(shard.look.texture)];

        let [x, y, w] = shard.normal.map(|plane| plane.value(point.x, point.y));
        let normal = v3(x, y, w).unit();
        let light = self.light;
        let (up, towards) = (0.5 + 0.5 * normal.y, normal.dot(light.sun_at).max(0.0));
        Facet {
            shard: point.shard,
            until: point.column + if shard.flat { STRETCH } else { 0 },
            normal,
            shaded: std::array::from_fn(|c| {
                (light.sky[c] * up + light.bounce[c] * (1.0 - up)) * shard.look.tint[c]
            }),
            sunned: std::array::from_fn(|c| light.sun[c] * towards * shard.look.tint[c]),
            level: 0.5 * log2(texels2) + texture.log2(),
            apart: grazing.then_some(long.map(|e| 0.5 * e)),
            clear: light.clear(away.length()),
        }
    }

    /// Colour of one point before the haze; `away` is its place relative to the eye.
    #[inline(always)]
    fn surface(
        &self,
        shard: &Shard,
        facet: &Facet,
        [u, v]: [f32; 2],
        away: Vec3,
        point: &Point,
        dim: f32,
    ) -> [f32; 3] {
        let look = &shard.look;
        let place = self.camera.place.origin + away;

        // Levels are mixed by a fixed pattern of pixels instead of by two look-ups.
        const PATTERN: [f32; 4] = [0.125, 0.625, 0.875, 0.375];
        let pattern = PATTERN[(point.column & 1 | (floor(point.y) as u32 & 2)) as usize];
        let texture = &self.textures[usize::from(look.texture)];
        let level = floor((facet.level + pattern).max(0.0)).max(0) as u32;
        let texel = texture.sample([u, v], level, facet.apart);

        let mut shade = match shard.class {
            Class::Road | Class::Pavement => dim,
            // Walls are darker near the ground.
            Class::Building if place.y < 1.2 => 0.72 + 0.28 * step(0.0, 1.2, place.y),
            _ => 1.0,
        };
        if look.stains > 0.0 {
            let broad = self.textures[Cover::Stains.index()].nearest(u * 0.137, v * 0.093);
            shade *= 1.0 + look.stains * (2.0 * broad - 1.0);
        }
        let mut lit = 0.0;
        if facet.sunned[1] > 0.0 {
            lit = self.shadows.lit(self.shadows.texel(place + facet.normal * 0.05));
            if look.cut_out {
                // Light passes through leaves.
                lit = 0.25 + 0.75 * lit;
            }
        }
        let colour = [0, 1, 2]
            .map(|c| texel[c] * texel[c] * (facet.shaded[c] + facet.sunned[c] * lit) * shade);
        let gloss = texel[3] * look.gloss;
        if gloss > 0.01 && !look.cut_out {
            self.mirror(colour, away.unit(), facet.normal, gloss, lit)
        } else {
            colour
        }
    }

    /// Adds what a glossy surface mirrors: sky or street, and the sun.
    fn mirror(&self, colour: [f32; 3], view: Vec3, normal: Vec3, gloss: f32, lit: f32) -> [f32; 3] {
        let facing = -view.dot(normal);
        let mirrored = view + normal * (2.0 * facing);
        let fresnel = gloss * (0.10 + 0.65 * (1.0 - facing.clamp(0.0, 1.0)).powi(4));
        let around = if mirrored.y > 0.05 {
            self.light.sky(mirrored, self.textures, false)
        } else {
            [0.16, 0.15, 0.14]
        };
        let spark = mirrored.dot(self.light.sun_at).max(0.0).powi(40) * lit * gloss * 1.2;
        std::array::from_fn(|c| colour[c] * (1.0 - fresnel) + around[c] * fresnel + spark)
    }
}
