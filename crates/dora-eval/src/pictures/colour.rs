//! Colours of objects and of heat.

use image::Rgb;

/// Colours of the objects, in their order; told apart by people with colour-blindness too (Okabe and
/// Ito 2008).
const OBJECTS: [[u8; 3]; 8] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 158, 115],
    [240, 228, 66],
    [0, 114, 178],
    [213, 94, 0],
    [204, 121, 167],
    [255, 255, 255],
];

/// From nothing to the most, always lighter; close to the colour map `inferno` (van der Walt and
/// Smith 2015).
const HEAT: [[u8; 3]; 8] = [
    [0, 0, 4],
    [40, 11, 84],
    [101, 21, 110],
    [159, 42, 99],
    [212, 72, 66],
    [245, 125, 21],
    [250, 193, 39],
    [252, 255, 164],
];

pub(super) const BACKGROUND: Rgb<u8> = Rgb([24, 24, 24]);

/// The colour of an object, by its number.
pub fn object_colour(object: usize) -> Rgb<u8> {
    Rgb(OBJECTS[object % OBJECTS.len()])
}

/// The colour of a value from 0 to 1.
pub(super) fn heat(value: f32) -> Rgb<u8> {
    let place = value.clamp(0.0, 1.0) * (HEAT.len() - 1) as f32;
    let below = (place as usize).min(HEAT.len() - 2);
    blend(Rgb(HEAT[below]), Rgb(HEAT[below + 1]), place - below as f32)
}

/// Where objects overlap, none of them hides another.
pub(super) fn mean_colour(colours: &[Rgb<u8>]) -> Rgb<u8> {
    let channel = |c: usize| {
        let sum: u32 = colours.iter().map(|colour| u32::from(colour.0[c])).sum();
        (sum / colours.len().max(1) as u32) as u8
    };
    Rgb([channel(0), channel(1), channel(2)])
}

pub(super) fn blend(Rgb(from): Rgb<u8>, Rgb(to): Rgb<u8>, share: f32) -> Rgb<u8> {
    let mix = |a: u8, b: u8| (f32::from(a) * (1.0 - share) + f32::from(b) * share).round() as u8;
    Rgb([mix(from[0], to[0]), mix(from[1], to[1]), mix(from[2], to[2])])
}

/// The same lightness without colour.
pub(super) fn grey(Rgb([r, g, b]): Rgb<u8>) -> Rgb<u8> {
    let luma = (299 * u32::from(r) + 587 * u32::from(g) + 114 * u32::from(b)) / 1000;
    Rgb([luma as u8; 3])
}
