//! From visible faces to colours and labels.

use super::block::Contact;
use super::cover::Cover;
use super::light::{Light, Shadows};
use super::math::{Vec3, step, v3};
use super::mesh::{Look, Mesh};
use super::raster::{Camera, Shard, Visible, slant};
use super::texture::{Texture, log2};
use super::{Class, Frame, block::Thing};

/// All that the colour of a point depends on.
pub(super) struct Shader<'a> {
    pub(super) camera: &'a Camera,
    pub(super) light: &'a Light,
    pub(super) shadows: &'a Shadows,
    pub(super) textures: &'a [Texture],
    /// From linear light in 1/1024 steps to screen levels.
    pub(super) tone: &'a [u8],
}

/// The table from linear light to screen levels: highlights roll off, mid-tones keep contrast.
pub(super) fn tone_table() -> Vec<u8> {
    (0..4096)
        .map(|i| {
            let x = i as f32 / 1024.0;
            let rolled = x * (1.0 + x / 6.0) / (1.0 + 0.62 * x);
            (rolled.min(1.0).powf(1.0 / 2.2) * 255.0 + 0.5) as u8
        })
        .collect()
}

/// Points that are shaded together, so that the arithmetic becomes vector instructions.
const LANES: usize = 8;

/// One point to shade: the shard seen, where, and its share in a pixel.
#[derive(Clone, Copy, Default)]
struct Point {
    shard: u32,
    column: u32,
    x: f32,
    y: f32,
    share: f32,
}

impl Shader<'_> {
    /// The finished picture and its labels.
    pub(super) fn finish(&self, visible: &Visible, contacts: &[Contact]) -> Frame {
        let (width, height) = (self.camera.width / 2, self.camera.height / 2);
        let dimmed = self.contact_shades(contacts);
        let mut frame = Frame {
            width_px: width,
            height_px: height,
            bgr: Vec::with_capacity(width * height * 3),
            instance_ids: Vec::with_capacity(width * height),
            classes: Vec::with_capacity(width * height),
        };
        let mut points = Vec::with_capacity(4 * width);
        let mut row = vec![[0.0_f32; 3]; width];
        for y in 0..height {
            row.fill([0.0; 3]);
            points.clear();
            for x in 0..width {
                let at = 2 * y * self.camera.width + 2 * x;
                let below = at + self.camera.width;
                let four = [
                    visible.seen[at],
                    visible.seen[at + 1],
                    visible.seen[below],
                    visible.seen[below + 1],
                ];
                self.split(four, [x, y], &mut points, &mut row[x]);
                let (class, id) = label(visible, four);
                frame.classes.push(class as u8);
                frame.instance_ids.push(id);
            }
            for eight in points.chunks(LANES) {
                self.shade(visible, eight, &dimmed[y * width..], &mut row);
            }
            for colour in &row {
                let level = |c: f32| self.tone[((c * 1024.0) as i32).clamp(0, 4095) as usize];
                frame.bgr.extend([level(colour[2]), level(colour[1]), level(colour[0])]);
            }
        }
        frame
    }

    /// The points to shade for a pixel: its middle if all samples agree, otherwise one for each
    /// face, where its first sample lies. Sky is added at once.
    #[inline(always)]
    fn split(
        &self,
        four: [u32; 4],
        [x, y]: [usize; 2],
        points: &mut Vec<Point>,
        pixel: &mut [f32; 3],
    ) {
        let mut add = |seen: u32, x: f32, y: f32, column: usize, share: f32| {
            if seen > 0 {
                points.push(Point { shard: seen - 1, column: column as u32, x, y, share });
            } else {
                let sky = self.light.sky(self.ray(x, y).unit(), self.textures, true);
                pixel.iter_mut().zip(sky).for_each(|(p, s)| *p += share * s);
            }
        };
        if four[1..] == [four[0]; 3] {
            return add(four[0], 2.0 * x as f32 + 1.0, 2.0 * y as f32 + 1.0, x, 1.0);
        }
        for k in 0..4 {
            if !four[..k].contains(&four[k]) {
                let share = four[k..].iter().filter(|&&f| f == four[k]).count() as f32 * 0.25;
                let row = 2 * y + k / 2;
                add(four[k], (2 * x + k % 2) as f32 + 0.5 + slant(row), row as f32 + 0.5, x, share);
            }
        }
    }

    #[inline(always)]
    fn ray(&self, x: f32, y: f32) -> Vec3 {
        let camera = self.camera;
        camera.place.direction(v3(
            (x - camera.width as f32 * 0.5) / camera.focal,
            (camera.height as f32 * 0.5 - y) / camera.focal,
            1.0,
        ))
    }

    /// Shades up to [`LANES`] points of one row and adds them to their pixels.
    fn shade(&self, visible: &Visible, points: &[Point], dimmed: &[f32], row: &mut [[f32; 3]]) {
        let mut at: [Point; LANES] = [points[0]; LANES];
        at[..points.len()].copy_from_slice(points);
        let shards: [&Shard; LANES] = at.map(|p| &visible.shards[p.shard as usize]);

        // From planes on the screen to texture coordinates, their steps to the next pixel (two
        // samples on), and the unit normal.
        let z = each(|k| 1.0 / shards[k].inverse_z.value(at[k].x, at[k].y));
        let u = each(|k| shards[k].u.value(at[k].x, at[k].y) * z[k]);
        let v = each(|k| shards[k].v.value(at[k].x, at[k].y) * z[k]);
        let right_u = each(|k| 2.0 * (shards[k].u.dx - u[k] * shards[k].inverse_z.dx) * z[k]);
        let right_v = each(|k| 2.0 * (shards[k].v.dx - v[k] * shards[k].inverse_z.dx) * z[k]);
        let down_u = each(|k| 2.0 * (shards[k].u.dy - u[k] * shards[k].inverse_z.dy) * z[k]);
        let down_v = each(|k| 2.0 * (shards[k].v.dy - v[k] * shards[k].inverse_z.dy) * z[k]);
        let normal = [0, 1, 2].map(|c| each(|k| shards[k].normal[c].value(at[k].x, at[k].y)));
        let unit = each(|k| {
            let n = normal.map(|n| n[k]);
            1.0 / (n[0] * n[0] + n[1] * n[1] + n[2] * n[2]).max(1e-20).sqrt()
        });
        let normal = normal.map(|n| each(|k| n[k] * unit[k]));

        // Mip level: for a footprint much longer than wide, two taps of half its length.
        let right = each(|k| right_u[k] * right_u[k] + right_v[k] * right_v[k]);
        let down = each(|k| down_u[k] * down_u[k] + down_v[k] * down_v[k]);
        let long = each(|k| right[k].max(down[k]).max(1e-12));
        let grazing = each(|k| if long[k] > 3.0 * right[k].min(down[k]) { 1.0 } else { 0.0 });
        let texels = each(|k| {
            let size = self.textures[usize::from(shards[k].look.texture)].size();
            size * size * long[k] * (1.0 - 0.8 * grazing[k])
        });
        let level = each(|k| 0.5 * log2(texels[k]));

        // Sun, haze and light.
        let ray = at.map(|p| self.ray(p.x, p.y));
        let far = each(|k| ray[k].dot(ray[k]).sqrt());
        let clear = each(|k| self.light.clear(z[k] * far[k]));
        let sun = self.light.sun_at;
        let towards =
            each(|k| (normal[0][k] * sun.x + normal[1][k] * sun.y + normal[2][k] * sun.z).max(0.0));
        for (k, point) in points.iter().enumerate() {
            let shard = shards[k];
            let look = &shard.look;
            let place = self.camera.place.origin + ray[k] * z[k];
            let normal = v3(normal[0][k], normal[1][k], normal[2][k]);

            // Levels are mixed by a fixed pattern of pixels instead of by two look-ups.
            let pattern =
                [0.125, 0.625, 0.875, 0.375][(point.column & 1 | (point.y as u32 & 2)) as usize];
            let apart = (grazing[k] > 0.0).then_some(if right[k] > down[k] {
                [right_u[k] * 0.5, right_v[k] * 0.5]
            } else {
                [down_u[k] * 0.5, down_v[k] * 0.5]
            });
            let texture = &self.textures[usize::from(look.texture)];
            let texel =
                texture.sample([u[k], v[k]], (level[k] + pattern).max(0.0) as i32 as u32, apart);

            let mut lit = if towards[k] > 0.0 {
                self.shadows.lit(self.shadows.texel(place + normal * 0.05))
            } else {
                0.0
            };
            let mut shade = match shard.class {
                Class::Road | Class::Pavement => dimmed[point.column as usize],
                // Walls are darker near the ground.
                Class::Building => 0.72 + 0.28 * step(0.0, 1.2, place.y),
                _ => 1.0,
            };
            if look.cut_out {
                // Light passes through leaves.
                lit = 0.25 + 0.75 * lit;
            }
            if look.stains > 0.0 {
                let stains = &self.textures[Cover::Stains.index()];
                shade *= 1.0
                    + look.stains
                        * (2.0 * stains.sample([u[k] * 0.137, v[k] * 0.093], 0, None)[0] - 1.0);
            }
            let up = 0.5 + 0.5 * normal.y;
            let light = self.light;
            let mut colour: [f32; 3] = std::array::from_fn(|c| {
                let falls = light.sky[c] * up
                    + light.bounce[c] * (1.0 - up)
                    + light.sun[c] * towards[k] * lit;
                texel[c] * texel[c] * look.tint[c] * falls * shade
            });
            let gloss = texel[3] * look.gloss;
            if gloss > 0.01 && !look.cut_out {
                colour = self.mirror(colour, ray[k] * (1.0 / far[k]), normal, gloss, lit);
            }
            for (c, pixel) in row[point.column as usize].iter_mut().enumerate() {
                let seen = light.horizon[c] + (colour[c] - light.horizon[c]) * clear[k];
                // Bright edges would flicker if light beyond white counted in full.
                *pixel += point.share * seen.min(1.6);
            }
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

    /// Light left on the ground of each pixel under and beside things.
    fn contact_shades(&self, contacts: &[Contact]) -> Vec<f32> {
        let mut dimmed = vec![1.0_f32; self.camera.width * self.camera.height / 4];
        let mut mesh = Mesh::default();
        mesh.paint(Look::new(Cover::Plain, [0.0; 3]));
        for contact in contacts {
            let corner =
                |x: f32, z: f32| contact.place.at(x * contact.half_x, 0.01, z * contact.half_z);
            mesh.quad(
                [corner(-1.0, -1.0), corner(1.0, -1.0), corner(1.0, 1.0), corner(-1.0, 1.0)],
                [-1.0, -1.0, 1.0, 1.0],
            );
        }
        if contacts.is_empty() {
            return dimmed;
        }
        let mut shards = Vec::new();
        self.camera.project(&Thing::new(0, Class::Road, mesh, None), &mut shards);
        for shard in &shards {
            Visible::for_pixels(self.camera, shard, |row, column, u, v| {
                let (u2, v2) = (u * u, v * v);
                let depth = 0.62 * (1.0 - step(0.25, 1.0, u2 * u2 + v2 * v2));
                dimmed[row * self.camera.width / 2 + column] *= 1.0 - depth;
            });
        }
        dimmed
    }
}

#[inline(always)]
fn each(of: impl FnMut(usize) -> f32) -> [f32; LANES] {
    std::array::from_fn(of)
}

/// Class and instance that most of a pixel's samples see; of equals the one seen first.
fn label(visible: &Visible, four: [u32; 4]) -> (Class, u16) {
    let of = |seen: u32| match seen.checked_sub(1) {
        None => (Class::Sky, 0),
        Some(index) => {
            let shard = &visible.shards[index as usize];
            (shard.class, shard.id)
        }
    };
    if four[1..] == [four[0]; 3] {
        return of(four[0]);
    }
    let labels = four.map(of);
    let votes = |label: &(Class, u16)| labels.iter().filter(|other| *other == label).count();
    let mut best = labels[0];
    for label in &labels[1..] {
        if votes(label) > votes(&best) {
            best = *label;
        }
    }
    best
}
