//! The toy walk: a small software renderer of our own and the data set it writes.
//!
//! A walker goes along a street for a minute: houses and shops, trees, parked and driving cars,
//! people who come, go and stand, clouds before the sun. Everything follows from a seed, bit for
//! bit, on any number of threads. It is the video that a first training runs on, and because the
//! renderer knows what every pixel shows, the set on which segmentation and object discovery are
//! tried without any download.
//!
//! [`World`] draws: [`World::render`] gives the picture of a moment with the class and the
//! instance of every pixel. [`run`] writes a folder:
//!
//! | path | holds |
//! |---|---|
//! | `toy_walk.mp4` | the walk |
//! | `davis/JPEGImages/480p/toy_walk_NN/%05d.jpg` | every frame, in takes of five seconds |
//! | `davis/Annotations/480p/toy_walk_NN/%05d.png` | palette PNGs: the take's objects, 0 elsewhere |
//! | `davis/ImageSets/2017/val.txt` | the takes that have objects |
//! | `semantic/{train,val}/NNNNN.jpg` | two frames a second: the first 70 % of the walk, and the last 25 % |
//! | `semantic/{train,val}annot/NNNNN.png` | their class indices, 8-bit grey |
//! | `semantic/classes.txt` | class names, a line each, from index 0 on; `void` (8) never occurs |
//! | `labels/classes/NNNNN.png` | class indices of every frame, palette PNGs |
//! | `labels/instances/NNNNN.png` | instance ids of every frame, 16-bit grey, 0 for ground and sky |
//! | `manifest.txt` | the options; a later run with the same ones has nothing to do |
//!
//! The objects of a take are the largest people, cars and trees of its first frame, at most eight,
//! each at least 0.3 % of the picture; a take whose first frame has none lies in no list.

mod actors;
mod block;
mod car;
mod cover;
mod film;
mod folder;
mod fronts;
mod furniture;
mod house;
mod labels;
mod light;
mod math;
mod mesh;
mod person;
mod project;
mod raster;
mod shade;
mod street;
mod surface;
mod texture;
mod tree;
mod world;

#[cfg(test)]
mod tests;

pub use world::World;

use anyhow::bail;
use std::path::PathBuf;

/// Metres per second.
const WALK_SPEED: f32 = 1.4;
/// Nothing farther than this is drawn.
const FARTHEST_M: f32 = 220.0;
/// Longest walk: instance ids are given out for an hour.
const MOST_SECONDS: f32 = 3600.0;

/// What a pixel shows. The number is the index in class masks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// The carriageway with its marks and gutters.
    Road = 0,
    /// Pavements, kerbs, the ground behind the houses.
    Pavement = 1,
    /// Houses with their shop fronts, awnings and balconies.
    Building = 2,
    /// Trees and bushes.
    Tree = 3,
    /// Parked and driving cars.
    Car = 4,
    /// People.
    Person = 5,
    /// The sky; the only class that is no thing.
    Sky = 6,
    /// Lamps, signs, benches, bins, tables, planters, fences.
    Furniture = 7,
}

impl Class {
    /// Things of this class are drawn up to here; the haze makes up for what is missing beyond.
    const fn reach_m(self) -> f32 {
        match self {
            Class::Person => 100.0,
            Class::Furniture => 80.0,
            Class::Car | Class::Tree => 150.0,
            _ => FARTHEST_M,
        }
    }

    /// Names in the order of the indices, with `void` last.
    pub const NAMES: [&'static str; 9] =
        ["road", "pavement", "building", "tree", "car", "person", "sky", "furniture", "void"];
}

/// One picture with its labels; all buffers run row by row from the top left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Pixels across.
    pub width_px: usize,
    /// Pixels down.
    pub height_px: usize,
    /// Blue, green, red of every pixel, 0-255.
    pub bgr: Vec<u8>,
    /// Which thing every pixel shows; 0 for road, pavement and sky. An id keeps its thing, and so
    /// its class, through the whole walk.
    pub instance_ids: Vec<u16>,
    /// [`Class`] of every pixel, as its index.
    pub classes: Vec<u8>,
}

/// What `dora-ingest toy-walk` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Folder to write; an older walk in it is replaced
    #[arg(long, value_name = "DIR", default_value = "data/toy-walk")]
    pub out: PathBuf,
    /// Another seed is another street
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Length of the walk, 1 to 3600 seconds
    #[arg(long, default_value_t = 40.0)]
    pub seconds: f64,
    /// Pixels across, even, 64 to 3840
    #[arg(long, value_name = "PIXELS", default_value_t = 640)]
    pub width: usize,
    /// Pixels down, even, 64 to 2160
    #[arg(long, value_name = "PIXELS", default_value_t = 360)]
    pub height: usize,
    /// Frames per second, 1 to 120
    #[arg(long, default_value_t = 24.0)]
    pub fps: f64,
}

impl Args {
    /// Refuses, in a sentence, what cannot be rendered.
    fn check(&self) -> anyhow::Result<()> {
        if !(1.0..=f64::from(MOST_SECONDS)).contains(&self.seconds) {
            bail!("`--seconds {}` is not between 1 and {MOST_SECONDS}", self.seconds);
        }
        if !(1.0..=120.0).contains(&self.fps) {
            bail!("`--fps {}` is not between 1 and 120", self.fps);
        }
        for (name, pixels, most) in [("width", self.width, 3840), ("height", self.height, 2160)] {
            if !(64..=most).contains(&pixels) || pixels % 2 == 1 {
                bail!("`--{name} {pixels}` is not an even number between 64 and {most}");
            }
        }
        Ok(())
    }

    /// Frames of the whole walk.
    fn frames(&self) -> usize {
        (self.seconds * self.fps).round() as usize
    }
}

/// Renders the walk into `args.out` and gives the MP4's path.
///
/// Nothing is done when the folder already holds the walk of the same options. The folder appears
/// whole or not at all: an interrupted run leaves what was there before.
///
/// # Errors
/// An option out of range, an output folder that holds something else or cannot be written, a full
/// disk: one sentence each.
pub fn run(args: &Args) -> anyhow::Result<PathBuf> {
    args.check()?;
    folder::write(args)
}
