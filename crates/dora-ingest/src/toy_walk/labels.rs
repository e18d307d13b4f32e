//! Label pictures: palette and grey PNGs, and the choice of a take's objects.

use super::{Class, Frame};
use anyhow::Context;
use std::collections::BTreeMap;
use std::path::Path;

/// Most objects of a take.
const MOST_OBJECTS: usize = 8;
/// Least share of the picture that an object fills in the first frame of its take.
const LEAST_SHARE: f64 = 0.003;

/// The objects of a take: instance ids in the order of their indices, from 1 on.
pub(super) struct Objects(Vec<u16>);

impl Objects {
    /// The largest people, cars and trees of a take's first frame.
    pub(super) fn choose(first: &Frame) -> Objects {
        let wanted = [Class::Person, Class::Car, Class::Tree].map(|class| class as u8);
        let mut areas = BTreeMap::new();
        for (&id, class) in first.instance_ids.iter().zip(&first.classes) {
            if wanted.contains(class) {
                *areas.entry(id).or_insert(0_usize) += 1;
            }
        }
        let least = (LEAST_SHARE * first.classes.len() as f64).ceil() as usize;
        let mut found: Vec<_> = areas.into_iter().filter(|&(_, area)| area >= least).collect();
        found.sort_by_key(|&(id, area)| (std::cmp::Reverse(area), id));
        Objects(found.into_iter().take(MOST_OBJECTS).map(|(id, _)| id).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Object index of every pixel of a frame, 0 where there is none.
    pub(super) fn indices(&self, frame: &Frame) -> Vec<u8> {
        let index = |id: &u16| self.0.iter().position(|o| o == id).map_or(0, |k| k as u8 + 1);
        frame.instance_ids.iter().map(index).collect()
    }
}

/// The 256 colours of the DAVIS palette: the bits of an index, three at a time, become the high
/// bits of red, green and blue.
pub(super) fn davis_palette() -> Vec<u8> {
    let channel = |index: usize, c: usize| {
        (0..3).fold(0, |level, k| level | (index >> (3 * k + c) & 1) << (7 - k))
    };
    (0..256).flat_map(|index| [0, 1, 2].map(|c| channel(index, c) as u8)).collect()
}

/// A colour for each class.
pub(super) fn class_palette() -> Vec<u8> {
    const COLOURS: [[u8; 3]; 9] = [
        [110, 80, 120],
        [220, 150, 190],
        [120, 110, 100],
        [90, 150, 60],
        [40, 70, 190],
        [225, 60, 60],
        [120, 180, 230],
        [230, 200, 60],
        [0, 0, 0],
    ];
    COLOURS.concat()
}

/// How the numbers of a label picture are stored.
pub(super) enum Depth<'a> {
    /// 8 bits with a palette of RGB triples.
    Palette(&'a [u8]),
    /// 8-bit grey.
    Grey,
    /// 16-bit grey; two bytes a pixel, the high one first.
    Grey16,
}

/// Writes a label picture.
pub(super) fn write_png(
    path: &Path,
    frame: &Frame,
    depth: Depth,
    data: &[u8],
) -> anyhow::Result<()> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, frame.width_px as u32, frame.height_px as u32);
    match depth {
        Depth::Palette(colours) => {
            encoder.set_color(png::ColorType::Indexed);
            encoder.set_palette(colours);
        }
        Depth::Grey | Depth::Grey16 => encoder.set_color(png::ColorType::Grayscale),
    }
    encoder.set_depth(if matches!(depth, Depth::Grey16) {
        png::BitDepth::Sixteen
    } else {
        png::BitDepth::Eight
    });
    encoder.set_compression(png::Compression::Fast);
    encoder.set_filter(png::Filter::Up);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(data)?;
    writer.finish()?;
    std::fs::write(path, file).with_context(|| format!("cannot write `{}`", path.display()))
}
