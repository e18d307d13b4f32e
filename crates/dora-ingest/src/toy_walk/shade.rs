//! From visible faces to colours and labels.

use super::block::Contact;
use super::cover::Cover;
use super::light::{Light, Shadows};
use super::math::{Vec3, step};
use super::mesh::{Look, Mesh};
use super::project::{Camera, Shard};
use super::raster::{Band, for_pixels, slant};
use super::surface::Point;
use super::texture::Texture;
use super::{Class, Frame, block::Thing};

/// All that the colour of a point depends on.
pub(super) struct Shader<'a> {
    pub(super) camera: &'a Camera,
    pub(super) light: &'a Light,
    pub(super) shadows: &'a Shadows,
    pub(super) textures: &'a [Texture],
    pub(super) shards: &'a [Shard],
    /// From linear light in 1/1024 steps to screen levels.
    pub(super) tone: &'a [u8],
}

/// The table from linear light to screen levels: highlights roll off, mid-tones keep contrast.
pub(super) fn tone_table() -> Vec<u8> {
    (0..4096)
        .map(|i| {
            let x = i as f32 / 1024.0;
            let rolled = x * (1.0 + x / 5.0) / (1.0 + 0.62 * x);
            // A little more contrast in the dark half.
            let rolled = rolled * (0.78 + 0.22 * (rolled * 2.2).min(1.0)) * 1.06;
            (rolled.min(1.0).powf(1.0 / 2.2) * 255.0 + 0.5) as u8
        })
        .collect()
}

impl Shader<'_> {
    /// The finished picture and its labels.
    pub(super) fn finish(&self, contacts: &[Contact]) -> Frame {
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
        Band::fill_all(self.camera, self.shards, self.textures, |band| {
            for y in band.rows.start / 2..band.rows.end / 2 {
                row.fill([0.0; 3]);
                points.clear();
                let (above, below) = (band.row(2 * y), band.row(2 * y + 1));
                let pairs = above.chunks_exact(2).zip(below.chunks_exact(2));
                for (x, ((upper, lower), pixel)) in pairs.zip(&mut row).enumerate() {
                    let four = [upper[0], upper[1], lower[0], lower[1]];
                    self.split(four, [x, y], &mut points, pixel);
                    let (class, id) = self.label(four);
                    frame.classes.push(class as u8);
                    frame.instance_ids.push(id);
                }
                self.shade(&points, &dimmed[y * width..], &mut row);
                for colour in &row {
                    let level = |c: f32| self.tone[((c * 1024.0) as i32).clamp(0, 4095) as usize];
                    frame.bgr.extend([level(colour[2]), level(colour[1]), level(colour[0])]);
                }
            }
        });
        frame
    }

    /// The points to shade for a pixel: its middle if all samples agree, otherwise one for each
    /// face, where its first sample lies. Sky is added at once.
    #[inline(always)]
    fn split(
        &self,
        mut four: [u32; 4],
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
        // Leaves of one tree are alike: one stands for all that meet in a pixel.
        let tree = |seen: u32| match seen.checked_sub(1) {
            Some(index) if self.shards[index as usize].look.cut_out => {
                self.shards[index as usize].id
            }
            _ => 0,
        };
        for k in 1..4 {
            let own = tree(four[k]);
            if let Some(&like) = four[..k].iter().find(|&&other| own > 0 && tree(other) == own) {
                four[k] = like;
            }
        }
        for k in 0..4 {
            if !four[..k].contains(&four[k]) {
                let share = four[k..].iter().filter(|&&f| f == four[k]).count() as f32 * 0.25;
                let row = 2 * y + k / 2;
                add(four[k], (2 * x + k % 2) as f32 + 0.5 + slant(row), row as f32 + 0.5, x, share);
            }
        }
    }

    /// From the eye through a sample, one metre forward.
    #[inline(always)]
    pub(super) fn ray(&self, x: f32, y: f32) -> Vec3 {
        let Camera { place, focal, width, height } = self.camera;
        let inverse = 1.0 / focal;
        let (x, y) = (x - *width as f32 * 0.5, *height as f32 * 0.5 - y);
        place.forward + place.right * (x * inverse) + place.up * (y * inverse)
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
            for_pixels(self.camera, shard, |row, column, u, v| {
                let (u2, v2) = (u * u, v * v);
                let depth = 0.62 * (1.0 - step(0.25, 1.0, u2 * u2 + v2 * v2));
                dimmed[row * self.camera.width / 2 + column] *= 1.0 - depth;
            });
        }
        dimmed
    }

    /// Class and instance that most of a pixel's samples see; of equals the one seen first.
    fn label(&self, four: [u32; 4]) -> (Class, u16) {
        let of = |seen: u32| match seen.checked_sub(1) {
            None => (Class::Sky, 0),
            Some(index) => {
                let shard = &self.shards[index as usize];
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
}
