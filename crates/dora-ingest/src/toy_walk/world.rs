//! The world of one seed, and its picture at any time.

use super::block::{self, Thing};
use super::cover::Cover;
use super::light::{Light, Shadows};
use super::math::{Place, Vec3, drift, floor, hash, v3};
use super::project::Camera;
use super::shade::{Shader, tone_table};
use super::street::{BLOCK_M, START_M, Street};
use super::texture::Texture;
use super::{FARTHEST_M, Frame, MOST_SECONDS, WALK_SPEED, actors};
use std::sync::OnceLock;

/// Height of the eye above the pavement, and the walker's lane to the right of the road's middle.
const EYE_M: f32 = 1.62;
const LANE_M: f32 = 7.6;
/// Steps a second of the walker.
const STEPS_HZ: f32 = 1.85;
/// Things this far behind the eye still throw shadows into the picture.
const BEHIND_M: f32 = 22.0;
/// Tangent of half the horizontal angle of view (74 degrees in all).
const HALF_VIEW: f32 = 0.753;

/// Everything that follows from a seed: the street, its things, its textures.
///
/// Blocks of the street are built when a picture first needs them; every picture is a function of
/// the seed, the time and the size alone, whatever was drawn before and on how many threads.
pub struct World {
    seed: u64,
    street: Street,
    blocks: Vec<OnceLock<Vec<Thing>>>,
    textures: Vec<Texture>,
    tone: Vec<u8>,
}

impl World {
    /// The world of a seed. Paints the textures, on all threads; the street itself is built when
    /// it comes into sight.
    pub fn new(seed: u64) -> World {
        let length_m = MOST_SECONDS * WALK_SPEED + FARTHEST_M + 2.0 * BLOCK_M;
        let count = (length_m / BLOCK_M) as usize + 1;
        World {
            seed,
            street: Street::new(seed, (count as f32 * BLOCK_M) as usize),
            blocks: (0..count).map(|_| OnceLock::new()).collect(),
            textures: Cover::paint_all(),
            tone: tone_table(),
        }
    }

    /// The picture at `t_s` (0 to an hour), with the class and instance of every pixel.
    ///
    /// Sizes are in pixels, at least 2 each way.
    pub fn render(&self, t_s: f32, width_px: usize, height_px: usize) -> Frame {
        let (eye_s, place) = self.eye(t_s);
        let (width, height) = (2 * width_px, 2 * height_px);
        let camera = Camera { place, focal: width as f32 * 0.5 / HALF_VIEW, width, height };
        let light = Light::at(self.seed, t_s);
        let moving = actors::at(self.seed, &self.street, t_s, eye_s, BEHIND_M);
        let near: Vec<&Thing> = self.standing(eye_s).chain(&moving).collect();

        let ahead = place.origin + v3(place.forward.x, 0.0, place.forward.z).unit() * 20.0;
        let shadows = Shadows::cast(&light, ahead, near.iter().copied(), &self.textures);

        // From near to far and the ground last, so that most hidden samples are rejected at once.
        let distance = |thing: &Thing| (thing.centre - place.origin).length() - thing.radius;
        let order =
            |thing: &Thing| distance(thing) + if thing.id == 0 { 2.0 * FARTHEST_M } else { 0.0 };
        let mut seen: Vec<&Thing> = near
            .into_iter()
            .filter(|t| distance(t) < t.class.reach_m() && camera.sees(t.centre, t.radius))
            .collect();
        seen.sort_by(|a, b| order(a).total_cmp(&order(b)));
        let mut shards = Vec::new();
        seen.iter().for_each(|thing| camera.project(thing, &mut shards));
        let contacts: Vec<_> =
            seen.iter().filter(|t| distance(t) < 60.0).filter_map(|t| t.contact).collect();
        let shader = Shader {
            camera: &camera,
            light: &light,
            shadows: &shadows,
            textures: &self.textures,
            shards: &shards,
            tone: &self.tone,
        };
        shader.finish(&contacts)
    }

    /// The blocks from a little behind the walker to the end of sight.
    fn standing(&self, eye_s: f32) -> impl Iterator<Item = &Thing> {
        let block =
            |s: f32| floor((s - START_M) / BLOCK_M).clamp(0, self.blocks.len() as i32 - 1) as usize;
        (block(eye_s - BEHIND_M)..=block(eye_s + FARTHEST_M))
            .flat_map(|k| self.blocks[k].get_or_init(|| block::build(self.seed, &self.street, k)))
    }

    /// How far the walker has come and where the eye looks: it bobs with the steps, sways, and
    /// the head turns slowly, more often to the street than to the houses.
    fn eye(&self, t_s: f32) -> (f32, Place) {
        let salt = hash(self.seed as u32, (self.seed >> 32) as i32, 3);
        let slow = |k: u32, period_s: f32| drift(salt ^ k, t_s / period_s);
        let s = WALK_SPEED * t_s + 0.25 * slow(1, 3.0);
        let step = STEPS_HZ * t_s * std::f32::consts::TAU;
        let d = LANE_M + 0.16 * slow(2, 6.0) + 0.018 * (step * 0.5).sin();
        let height = EYE_M + 0.024 * step.cos() + 0.01 * slow(3, 1.3);
        let turn = -0.13 + 0.34 * slow(4, 4.7) + 0.12 * slow(5, 1.9) + 0.006 * (step * 0.5).cos();
        let nod = 0.06 + 0.06 * slow(6, 5.3) + 0.007 * (step + 0.8).sin();
        let roll = 0.010 * (step * 0.5).sin() + 0.012 * slow(7, 2.9);
        let place = self.street.pavement(s, d).moved(0.0, height, 0.0).turned(turn).tipped(nod);
        let (sin, cos) = roll.sin_cos();
        let (right, up): (Vec3, Vec3) =
            (place.right * cos + place.up * sin, place.up * cos - place.right * sin);
        (s, Place { right, up, ..place })
    }
}
