//! What surfaces are covered with: the list of all textures, and the plain materials.

use super::fronts;
use super::math::{clouds, hash_unit, mix, mix3, noise, step};
use super::texture::Texture;
use rayon::prelude::*;

/// A texture by name. Materials repeat in metres (see each painter); windows, doors, shop fronts
/// and faces fill the unit square once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cover {
    /// No pattern, a little grain.
    Plain,
    /// Road surface, repeats every 4 m.
    Asphalt,
    /// Pavement slabs, repeats every 3 m; two patterns.
    Slabs(u8),
    /// Bricks, repeats every 2 m; three colours.
    Brick(u8),
    /// Smooth plaster, repeats every 4 m.
    Plaster,
    /// Cut stone, repeats every 3 m.
    Stone,
    /// Horizontal boards, repeats every 2 m.
    Boards,
    /// Roof tiles, repeats every 2 m.
    Tiles,
    /// Tree bark, repeats every 1 m.
    Bark,
    /// Grass, repeats every 3 m.
    Grass,
    /// Woven cloth: plain, stripes, checks, knitwear, denim.
    Cloth(u8),
    /// Cut-out clusters of leaves; four kinds.
    Leaves(u8),
    /// Cut-out iron railing.
    Railing,
    /// A window with its frame; eight kinds.
    Window(u8),
    /// A door with its frame; four kinds.
    Door(u8),
    /// A shop front with its sign; twelve kinds.
    Shop(u8),
    /// A head all around, the face in the middle; v runs from the chin to the crown.
    Head,
    /// A wheel seen from the side.
    Wheel,
    /// A car's side with its joints and handles.
    CarSide,
    /// Cloud density for the sky, in the fourth channel too.
    Sky,
    /// Broad stains that break the repetition of other textures.
    Stains,
}

impl Cover {
    /// Every texture, in the order of [`Cover::index`].
    pub(super) fn paint_all() -> Vec<Texture> {
        (0..COUNT).into_par_iter().map(|index| Cover::from_index(index).paint()).collect()
    }

    /// Place in the list of [`Cover::paint_all`].
    pub(super) fn index(self) -> usize {
        match self {
            Cover::Plain => 0,
            Cover::Asphalt => 1,
            Cover::Plaster => 2,
            Cover::Stone => 3,
            Cover::Boards => 4,
            Cover::Tiles => 5,
            Cover::Bark => 6,
            Cover::Grass => 7,
            Cover::Railing => 8,
            Cover::Head => 9,
            Cover::Wheel => 10,
            Cover::CarSide => 11,
            Cover::Sky => 12,
            Cover::Stains => 13,
            Cover::Slabs(k) => 14 + usize::from(k % 2),
            Cover::Brick(k) => 16 + usize::from(k % 3),
            Cover::Cloth(k) => 19 + usize::from(k % 5),
            Cover::Leaves(k) => 24 + usize::from(k % 4),
            Cover::Window(k) => 28 + usize::from(k % 8),
            Cover::Door(k) => 36 + usize::from(k % 4),
            Cover::Shop(k) => 40 + usize::from(k % 12),
        }
    }

    fn from_index(index: usize) -> Cover {
        const SINGLES: [Cover; 14] = [
            Cover::Plain,
            Cover::Asphalt,
            Cover::Plaster,
            Cover::Stone,
            Cover::Boards,
            Cover::Tiles,
            Cover::Bark,
            Cover::Grass,
            Cover::Railing,
            Cover::Head,
            Cover::Wheel,
            Cover::CarSide,
            Cover::Sky,
            Cover::Stains,
        ];
        let k = |first: usize| (index - first) as u8;
        match index {
            0..14 => SINGLES[index],
            14..16 => Cover::Slabs(k(14)),
            16..19 => Cover::Brick(k(16)),
            19..24 => Cover::Cloth(k(19)),
            24..28 => Cover::Leaves(k(24)),
            28..36 => Cover::Window(k(28)),
            36..40 => Cover::Door(k(36)),
            _ => Cover::Shop(k(40)),
        }
    }

    fn paint(self) -> Texture {
        match self {
            Cover::Plain => {
                Texture::paint(6, 1, |u, v| grey(0.94 + 0.12 * (noise(3, u, v, 32) - 0.5), 0.0))
            }
            Cover::Asphalt => Texture::paint(9, 1, asphalt),
            Cover::Slabs(k) => Texture::paint(9, 2, move |u, v| slabs(k, u, v)),
            Cover::Brick(k) => Texture::paint(8, 2, move |u, v| brick(k, u, v)),
            Cover::Plaster => Texture::paint(8, 1, |u, v| {
                grey(
                    0.80 + 0.14 * clouds(21, u, v, 4, 5) + 0.05 * (noise(22, u, v, 128) - 0.5),
                    0.0,
                )
            }),
            Cover::Stone => Texture::paint(8, 2, stone),
            Cover::Boards => Texture::paint(8, 2, boards),
            Cover::Tiles => Texture::paint(8, 2, tiles),
            Cover::Bark => Texture::paint(7, 1, |u, v| {
                let ridge = noise(31, u, v * 0.25, 24) * 0.6 + noise(32, u, v, 16) * 0.4;
                grey(0.55 + 0.45 * ridge, 0.0)
            }),
            Cover::Grass => Texture::paint(8, 1, |u, v| {
                let blade = noise(35, u, v, 96);
                let patch = clouds(36, u, v, 4, 3);
                [0.30 + 0.25 * patch + 0.1 * blade, 0.42 + 0.22 * blade, 0.16 + 0.12 * patch, 0.0]
            }),
            Cover::Cloth(k) => Texture::paint(6, 2, move |u, v| cloth(k, u, v)),
            Cover::Leaves(k) => Texture::paint(7, 2, leaf_painter(k)),
            Cover::Railing => Texture::paint(6, 2, |u, v| {
                let bar = (u * 8.0).fract() < 0.22 || !(0.08..0.9).contains(&v);
                [0.9, 0.9, 0.9, if bar { 1.0 } else { 0.0 }]
            }),
            Cover::Window(k) => Texture::paint(7, 2, move |u, v| fronts::window(k, u, v)),
            Cover::Door(k) => Texture::paint(7, 2, move |u, v| fronts::door(k, u, v)),
            Cover::Shop(k) => Texture::paint(8, 2, fronts::shop_painter(k)),
            Cover::Head => Texture::paint(6, 2, head),
            Cover::Wheel => Texture::paint(6, 2, wheel),
            Cover::CarSide => Texture::paint(7, 2, car_side),
            Cover::Sky => Texture::paint(9, 1, |u, v| {
                let billow = clouds(51, u, v, 5, 6);
                let density = step(0.44, 0.66, billow);
                let lit = clouds(51, u + 0.012, v + 0.02, 5, 6);
                grey(0.5 + 2.2 * (billow - lit).clamp(-0.2, 0.2), density)
            }),
            Cover::Stains => Texture::paint(7, 1, |u, v| grey(clouds(61, u, v, 5, 4), 0.0)),
        }
    }
}

const COUNT: usize = 52;

/// A grey texel with a given gloss.
fn grey(level: f32, gloss: f32) -> [f32; 4] {
    [level, level, level, gloss]
}

fn asphalt(u: f32, v: f32) -> [f32; 4] {
    let grain = noise(11, u, v, 256) - 0.5;
    let speck = step(0.86, 0.95, noise(12, u, v, 200)) * 0.22;
    let patch = clouds(13, u, v, 3, 4) - 0.5;
    let crack = (clouds(14, u, v, 3, 5) - 0.5).abs();
    let crack = 0.16 * (1.0 - step(0.0, 0.006, crack)) * step(0.5, 0.6, noise(15, u, v, 3));
    let level = 0.52 + 0.22 * grain + speck + 0.16 * patch - crack;
    [level, level, level * 1.02, 0.0]
}

fn slabs(kind: u8, u: f32, v: f32) -> [f32; 4] {
    let (rows, columns) = if kind == 0 { (6, 4) } else { (10, 10) };
    let y = v * rows as f32;
    let row = y as i32;
    let x = u * columns as f32 + if row % 2 == 1 { 0.5 } else { 0.0 };
    let column = (x as i32) % columns;
    let (fx, fy) = (x.fract(), y.fract());
    let edge_m =
        (fx.min(1.0 - fx) * 3.0 / columns as f32).min(fy.min(1.0 - fy) * 3.0 / rows as f32);
    let tone = hash_unit(71 + u32::from(kind), column, row) - 0.5;
    let grain = noise(72, u, v, 200) - 0.5;
    let dirt = clouds(73, u, v, 5, 4) - 0.5;
    let joint = step(0.006, 0.016, edge_m);
    let level = mix(0.40, 0.74 + 0.16 * tone + 0.12 * grain + 0.14 * dirt, joint);
    let warm = hash_unit(74, column, row) * 0.05;
    [level + warm * 0.5, level, level - warm, 0.0]
}

fn brick(kind: u8, u: f32, v: f32) -> [f32; 4] {
    const COLOURS: [[f32; 3]; 3] = [[0.66, 0.36, 0.28], [0.80, 0.68, 0.48], [0.48, 0.36, 0.32]];
    let y = v * 26.0;
    let row = y as i32;
    let x = u * 9.0 + if row % 2 == 1 { 0.5 } else { 0.0 };
    let column = (x as i32) % 9;
    let (fx, fy) = (x.fract(), y.fract());
    let mortar = fx < 0.055 || fy < 0.17;
    let tone = hash_unit(81, column, row) - 0.5;
    let grain = 0.10 * (noise(82, u, v, 128) - 0.5);
    if mortar {
        return [0.78 + grain, 0.75 + grain, 0.70 + grain, 0.0];
    }
    let base = COLOURS[usize::from(kind % 3)];
    let burnt = if hash_unit(83, column, row) > 0.9 { 0.78 } else { 1.0 };
    let [r, g, b] = base.map(|c| c * burnt * (1.0 + 0.28 * tone) + grain);
    [r + 0.05 * (hash_unit(84, column, row) - 0.5), g, b, 0.0]
}

fn stone(u: f32, v: f32) -> [f32; 4] {
    let y = v * 6.0;
    let row = y as i32;
    let x = u * 4.0 + hash_unit(91, 0, row) * 4.0;
    let column = (x as i32) % 4;
    let (fx, fy) = (x.fract(), y.fract());
    let joint = step(0.01, 0.03, (fx.min(1.0 - fx) * 0.75).min(fy.min(1.0 - fy) * 0.5));
    let tone = hash_unit(92, column, row) - 0.5;
    let grain = clouds(93, u, v, 12, 4) - 0.5;
    let level = mix(0.55, 0.82 + 0.12 * tone + 0.22 * grain, joint);
    [level + 0.02, level, level - 0.03, 0.0]
}

fn boards(u: f32, v: f32) -> [f32; 4] {
    let y = v * 12.0;
    let row = y as i32;
    let tone = hash_unit(95, 0, row) - 0.5;
    let grain = noise(96, u * 0.5, v, 128) - 0.5;
    let shade = step(0.0, 0.12, y.fract()) * 0.35 + 0.65;
    grey((0.86 + 0.08 * tone + 0.10 * grain) * shade, 0.0)
}

fn tiles(u: f32, v: f32) -> [f32; 4] {
    let y = v * 8.0;
    let row = y as i32;
    let x = u * 10.0 + if row % 2 == 1 { 0.5 } else { 0.0 };
    let column = (x as i32) % 10;
    let round = 0.75 + 0.25 * (std::f32::consts::PI * x.fract()).sin();
    let shade = mix(0.62, 1.0, step(0.0, 0.3, y.fract()));
    let tone = hash_unit(98, column, row) - 0.5;
    grey((0.80 + 0.22 * tone + 0.1 * (clouds(99, u, v, 4, 3) - 0.5)) * round * shade, 0.0)
}

fn cloth(kind: u8, u: f32, v: f32) -> [f32; 4] {
    let weave = 0.10 * (noise(101, u, v, 32) - 0.5);
    let fold = 0.20 * (noise(102, u, v * 0.5, 6) - 0.5);
    let pattern = match kind {
        1 => {
            if (v * 8.0).fract() < 0.45 {
                0.42
            } else {
                0.95
            }
        }
        2 => {
            let across = if (u * 6.0).fract() < 0.4 { 0.72 } else { 1.0 };
            let along = if (v * 6.0).fract() < 0.4 { 0.66 } else { 1.0 };
            0.95 * across * along
        }
        3 => {
            0.78 + 0.16
                * ((u * 24.0 + (v * 24.0).floor() * 0.5) * std::f32::consts::TAU).sin().abs()
        }
        4 => 0.74 + 0.22 * noise(103, u * 2.0, v, 20),
        _ => 0.92,
    };
    grey(pattern + weave + fold, 0.0)
}

/// Leaves strewn in a disc: each an ellipse with its own tone, the later over the earlier.
fn leaf_painter(kind: u8) -> impl Fn(f32, f32) -> [f32; 4] {
    let seed = 111 + u32::from(kind);
    let leaves: Vec<_> = (0..110)
        .map(|i| {
            let turn = hash_unit(seed, i, 0) * std::f32::consts::TAU;
            let far = 0.46
                * hash_unit(seed, i, 1).sqrt()
                * (0.75 + 0.25 * (turn * 3.0 + f32::from(kind)).sin());
            let (sin, cos) = (hash_unit(seed, i, 2) * std::f32::consts::TAU).sin_cos();
            let long = 0.045 + 0.03 * hash_unit(seed, i, 3);
            (0.5 + far * turn.cos(), 0.5 + far * turn.sin(), sin, cos, long, hash_unit(seed, i, 4))
        })
        .collect();
    move |u, v| {
        let mut texel = [0.55, 0.6, 0.5, 0.0];
        for &(x, y, sin, cos, long, tone) in &leaves {
            let (dx, dy) = (u - x, v - y);
            let (a, b) = ((dx * cos + dy * sin) / long, (dy * cos - dx * sin) / (long * 0.55));
            let inside = a * a + b * b;
            if inside < 1.0 {
                let vein = if b.abs() < 0.12 { 0.9 } else { 1.0 };
                let level = (0.55 + 0.42 * tone) * (1.0 - 0.2 * inside) * vein;
                texel = [level * (0.92 + 0.12 * tone), level, level * 0.85, 1.0];
            }
        }
        texel
    }
}

/// Skin with eyes, brows, mouth and a shade under the nose; u = 0.5 is straight ahead.
fn head(u: f32, v: f32) -> [f32; 4] {
    let skin = [0.96, 0.94, 0.92];
    let (x, y) = ((u - 0.5).abs() * 2.0, v);
    let spot = |cx: f32, cy: f32, rx: f32, ry: f32| {
        let (dx, dy) = ((x - cx) / rx, (y - cy) / ry);
        1.0 - step(0.7, 1.1, dx * dx + dy * dy)
    };
    let mut colour = mix3(skin, [0.97, 0.97, 0.97], spot(0.11, 0.55, 0.045, 0.03));
    colour = mix3(colour, [0.12, 0.08, 0.06], spot(0.11, 0.55, 0.022, 0.028));
    colour = mix3(colour, [0.30, 0.2, 0.15], spot(0.115, 0.635, 0.06, 0.014));
    colour = mix3(colour, [0.72, 0.35, 0.33], spot(0.0, 0.27, 0.085, 0.022));
    colour = mix3(colour, [0.78, 0.66, 0.6], spot(0.0, 0.40, 0.035, 0.03));
    colour = mix3(colour, [0.85, 0.72, 0.68], spot(0.5, 0.48, 0.05, 0.09));
    [colour[0], colour[1], colour[2], 0.0]
}

fn wheel(u: f32, v: f32) -> [f32; 4] {
    let (dx, dy) = (u - 0.5, v - 0.5);
    let radius = 2.0 * (dx * dx + dy * dy).sqrt();
    let spoke = (dy.atan2(dx) * 5.0).cos();
    if radius > 0.68 {
        grey(0.16 + 0.03 * (radius * 60.0).sin(), 0.0)
    } else if !(0.16..=0.60).contains(&radius) || spoke > 0.1 {
        grey(0.78, 0.25)
    } else {
        grey(0.22, 0.0)
    }
}

fn car_side(u: f32, v: f32) -> [f32; 4] {
    let near = |at: f32| (u - at).abs() < 0.006;
    let joint = (near(0.30) || near(0.52) || near(0.73)) && v > 0.18;
    let handle = v > 0.76 && v < 0.82 && ((0.455..0.50).contains(&u) || (0.255..0.29).contains(&u));
    let sill = v < 0.16;
    if joint || sill {
        grey(0.35, 0.1)
    } else if handle {
        grey(0.6, 0.5)
    } else {
        grey(0.97, 0.42)
    }
}
