//! Houses: walls, rows of windows, shops with awnings, balconies, roofs and chimneys.

use super::cover::Cover;
use super::math::{Dice, Place, v3};
use super::mesh::{Look, Mesh};

/// A house on a plot: the origin of `place` is the left end of its front as seen from the street,
/// right runs along the front, forward leads into the house.
pub(super) fn house(mesh: &mut Mesh, place: &Place, width: f32, depth: f32, dice: &mut Dice) {
    let style = Style::draw(dice);
    let ground_h = if style.shop { dice.range(3.5, 4.0) } else { dice.range(3.0, 3.4) };
    let floor_h = dice.range(2.9, 3.3);
    let floors = dice.pick(&[1, 2, 2, 3, 3, 4]);
    let height = ground_h + floor_h * floors as f32;

    mesh.paint(style.wall);
    mesh.block(place, v3(0.0, 0.0, 0.0), v3(width, height, depth), style.repeat_m);
    mesh.paint(style.plinth);
    mesh.block(place, v3(0.0, 0.0, -0.06), v3(width, 0.45, 0.0), 3.0);
    if style.shop {
        shops(mesh, place, width, ground_h, dice);
    } else {
        entrance(mesh, place, width, &style, dice);
    }
    for floor in 0..floors {
        upper_floor(mesh, place, width, ground_h + floor_h * floor as f32, floor_h, &style, dice);
    }
    mesh.paint(style.trim);
    mesh.block(
        place,
        v3(-0.05, ground_h - 0.12, -0.14),
        v3(width + 0.05, ground_h + 0.08, 0.0),
        1.0,
    );
    let eaves = if style.pitched { 0.35 } else { 0.22 };
    mesh.block(place, v3(-0.1, height - 0.25, -eaves), v3(width + 0.1, height + 0.05, 0.1), 1.0);
    if style.pitched {
        pitched_roof(mesh, &place.moved(0.0, height, 0.0), width, depth, &style, dice);
    } else {
        mesh.block(
            place,
            v3(0.0, height, -0.1),
            v3(width, height + dice.range(0.4, 0.9), 0.2),
            1.0,
        );
    }
    // A rain pipe at one end of the front.
    mesh.paint(Look::new(Cover::Plain, [0.40, 0.42, 0.42]));
    mesh.post(
        &place.moved(if dice.chance(0.5) { 0.2 } else { width - 0.2 }, 0.0, -0.1),
        height - 0.2,
        0.05,
        5,
    );
}

struct Style {
    wall: Look,
    repeat_m: f32,
    plinth: Look,
    trim: Look,
    roof: Look,
    paintwork: [f32; 3],
    window: u8,
    shop: bool,
    pitched: bool,
    shutters: bool,
    balconies: bool,
    surrounds: bool,
}

impl Style {
    fn draw(dice: &mut Dice) -> Style {
        const PLASTERS: [[f32; 3]; 10] = [
            [0.96, 0.90, 0.76],
            [0.94, 0.80, 0.62],
            [0.86, 0.66, 0.54],
            [0.78, 0.84, 0.82],
            [0.96, 0.95, 0.92],
            [0.72, 0.80, 0.90],
            [0.92, 0.76, 0.74],
            [0.80, 0.82, 0.66],
            [0.94, 0.86, 0.50],
            [0.70, 0.72, 0.74],
        ];
        const WORK: [[f32; 3]; 7] = [
            [0.20, 0.34, 0.26],
            [0.18, 0.26, 0.42],
            [0.46, 0.14, 0.14],
            [0.36, 0.24, 0.16],
            [0.70, 0.70, 0.66],
            [0.24, 0.24, 0.26],
            [0.30, 0.50, 0.56],
        ];
        let (cover, colour, repeat_m) = match dice.below(10) {
            0..=3 => (Cover::Brick(dice.below(3) as u8), [1.0, 1.0, 1.0], 2.0),
            4..=7 => (Cover::Plaster, dice.pick(&PLASTERS), 4.0),
            8 => (Cover::Stone, dice.pick(&[[0.92, 0.88, 0.78], [0.80, 0.80, 0.80]]), 3.0),
            _ => (Cover::Boards, dice.pick(&PLASTERS), 2.0),
        };
        let shop = dice.chance(0.55);
        let roofs = [[0.66, 0.36, 0.28], [0.42, 0.40, 0.42], [0.56, 0.42, 0.34]];
        Style {
            wall: Look::new(cover, dice.vary(colour, 0.04)).stained(0.35),
            repeat_m,
            plinth: Look::new(Cover::Stone, [0.66, 0.64, 0.62]).stained(0.4),
            trim: Look::new(
                Cover::Plain,
                dice.pick(&[[0.92, 0.90, 0.85], [0.80, 0.76, 0.68], [0.62, 0.58, 0.54]]),
            )
            .stained(0.2),
            roof: Look::new(Cover::Tiles, dice.pick(&roofs)).stained(0.4),
            paintwork: dice.pick(&WORK),
            window: dice.below(8) as u8,
            shop,
            pitched: dice.chance(0.6),
            shutters: dice.chance(0.3),
            balconies: dice.chance(0.25),
            surrounds: dice.chance(0.5),
        }
    }
}

/// Shop fronts side by side, each with its own sign, most with an awning.
fn shops(mesh: &mut Mesh, place: &Place, width: f32, ground_h: f32, dice: &mut Dice) {
    let count = (width / 4.6).round().max(1.0);
    let each = width / count;
    for k in 0..count as usize {
        let (x0, x1) = (k as f32 * each + 0.25, (k + 1) as f32 * each - 0.25);
        mesh.paint(Look::new(Cover::Shop(dice.below(12) as u8), [1.0, 1.0, 1.0]));
        mesh.panel(place, [x0, 0.0, x1, ground_h - 0.2], -0.09);
        if dice.chance(0.6) {
            awning(mesh, place, [x0 + 0.1, x1 - 0.1], ground_h * 0.78, dice);
        }
        if dice.chance(0.5) {
            // A sign board that stands out from the wall.
            let colour = dice.vary([0.5, 0.4, 0.4], 0.35);
            mesh.paint(Look::new(Cover::Cloth(dice.below(3) as u8), colour));
            let y = ground_h + dice.range(0.25, 0.5);
            mesh.block(place, v3(x0, y, -0.85), v3(x0 + 0.08, y + 0.7, -0.15), 0.9);
        }
    }
}

fn awning(mesh: &mut Mesh, place: &Place, [x0, x1]: [f32; 2], y: f32, dice: &mut Dice) {
    const CLOTHS: [[f32; 3]; 7] = [
        [0.78, 0.20, 0.18],
        [0.18, 0.40, 0.30],
        [0.20, 0.32, 0.58],
        [0.90, 0.72, 0.30],
        [0.88, 0.86, 0.80],
        [0.48, 0.20, 0.32],
        [0.24, 0.24, 0.26],
    ];
    let reach = dice.range(0.9, 1.4);
    let cloth = dice.pick(&CLOTHS);
    let drop = reach * 0.42;
    let stripes = (x1 - x0).round() * 0.5;
    let striped = Look {
        cut_out: false,
        ..Look::new(if dice.chance(0.7) { Cover::Cloth(1) } else { Cover::Cloth(0) }, cloth)
    };
    mesh.paint(striped);
    let [a, b] = [place.at(x0, y - drop, -reach), place.at(x1, y - drop, -reach)];
    let [c, d] = [place.at(x1, y, -0.1), place.at(x0, y, -0.1)];
    mesh.quad_turned([a, b, c, d], stripes);
    let low = place.up * 0.22;
    mesh.quad_turned([a - low, b - low, b, a], stripes);
    // Underside.
    mesh.paint(Look::new(Cover::Plain, cloth.map(|c| c * 0.8)));
    mesh.quad([b, a, d, c], [0.0, 0.0, 1.0, 1.0]);
}

/// Front door with steps, windows beside it.
fn entrance(mesh: &mut Mesh, place: &Place, width: f32, style: &Style, dice: &mut Dice) {
    let columns = (width / 2.6).floor().max(2.0) as usize;
    let pitch = width / columns as f32;
    let door_at = dice.below(columns);
    let colour = dice.vary(style.paintwork, 0.08);
    for k in 0..columns {
        let x = (k as f32 + 0.5) * pitch;
        if k == door_at {
            mesh.paint(style.trim);
            mesh.block(place, v3(x - 0.75, 0.0, -0.5), v3(x + 0.75, 0.16, 0.0), 1.0);
            mesh.block(place, v3(x - 0.72, 2.55, -0.25), v3(x + 0.72, 2.7, 0.0), 1.0);
            mesh.paint(Look::new(Cover::Door(dice.below(4) as u8), colour));
            mesh.panel(place, [x - 0.58, 0.16, x + 0.58, 2.55], -0.07);
        } else {
            window(mesh, place, [x, 0.95, 0.62, 1.55], style, false, dice);
        }
    }
}

fn upper_floor(
    mesh: &mut Mesh,
    place: &Place,
    width: f32,
    y: f32,
    floor_h: f32,
    style: &Style,
    dice: &mut Dice,
) {
    let pitch_m = 2.3 + 0.3 * f32::from(style.window % 4);
    let columns = (width / pitch_m).floor().max(2.0);
    let pitch = width / columns;
    let half = (pitch * 0.24).min(0.75);
    for k in 0..columns as usize {
        let x = (k as f32 + 0.5) * pitch;
        window(mesh, place, [x, y + 0.75, half, floor_h * 0.55], style, style.shutters, dice);
        if style.balconies && k % 2 == 0 {
            balcony(mesh, &place.moved(x, y + 0.1, 0.0), half + 0.4);
        }
    }
}

/// One window: centre and foot, half width, height; with sill and perhaps surround and shutters.
fn window(
    mesh: &mut Mesh,
    place: &Place,
    [x, y, half, high]: [f32; 4],
    style: &Style,
    shutters: bool,
    dice: &mut Dice,
) {
    // The same joinery in the whole house, with different curtains.
    let kind = if dice.chance(0.7) { style.window } else { style.window + 4 };
    mesh.paint(style.trim);
    if style.surrounds {
        let rim = 0.14;
        mesh.panel(place, [x - half - rim, y - 0.05, x + half + rim, y + high + rim], -0.025);
        mesh.block(
            place,
            v3(x - half - 0.2, y + high + rim, -0.14),
            v3(x + half + 0.2, y + high + rim + 0.1, 0.0),
            1.0,
        );
    }
    mesh.block(place, v3(x - half - 0.12, y - 0.1, -0.17), v3(x + half + 0.12, y, 0.0), 1.0);
    mesh.paint(Look::new(Cover::Window(kind), [1.0, 1.0, 1.0]));
    mesh.panel(place, [x - half, y, x + half, y + high], -0.045);
    if shutters {
        mesh.paint(Look::new(Cover::Boards, style.paintwork));
        let wide = half * 0.85;
        mesh.block(place, v3(x - half - wide, y, -0.08), v3(x - half - 0.02, y + high, 0.0), 0.9);
        mesh.block(place, v3(x + half + 0.02, y, -0.08), v3(x + half + wide, y + high, 0.0), 0.9);
    }
    if dice.chance(0.08) {
        // A flower box.
        mesh.paint(Look::new(Cover::Bark, [0.5, 0.3, 0.2]));
        mesh.block(place, v3(x - half, y, -0.32), v3(x + half, y + 0.2, -0.12), 1.0);
        mesh.paint(Look { cut_out: false, ..Look::new(Cover::Grass, [1.0, 0.62, 0.8]) });
        mesh.block(
            place,
            v3(x - half + 0.04, y + 0.2, -0.30),
            v3(x + half - 0.04, y + 0.34, -0.13),
            0.6,
        );
    }
}

fn balcony(mesh: &mut Mesh, place: &Place, half: f32) {
    mesh.paint(Look::new(Cover::Plain, [0.7, 0.68, 0.65]));
    mesh.block(place, v3(-half, 0.0, -0.8), v3(half, 0.14, 0.0), 1.0);
    mesh.paint(Look::new(Cover::Railing, [0.16, 0.17, 0.18]));
    let [a, b, c, d] = [(-half, -0.8), (half, -0.8), (half, 0.0), (-half, 0.0)];
    for ((x0, z0), (x1, z1)) in [(a, b), (b, c), (d, a)] {
        let corners = [
            place.at(x0, 0.14, z0),
            place.at(x1, 0.14, z1),
            place.at(x1, 1.1, z1),
            place.at(x0, 1.1, z0),
        ];
        mesh.quad(corners, [0.0, 0.0, (half * 1.5).round().max(1.0), 1.0]);
    }
}

/// A saddle roof with its ridge along the street, gables at the ends, dormers and chimneys.
fn pitched_roof(
    mesh: &mut Mesh,
    place: &Place,
    width: f32,
    depth: f32,
    style: &Style,
    dice: &mut Dice,
) {
    let middle = depth * 0.5;
    let rise = dice.range(2.0, 3.6);
    let p = |x, y, z| place.at(x, y, z);
    let slope = (middle * middle + rise * rise).sqrt();
    mesh.paint(style.roof);
    let (x0, x1) = (-0.1, width + 0.1);
    let uv = [0.0, 0.0, width * 0.5, slope * 0.5];
    mesh.quad([p(x0, 0.0, -0.4), p(x1, 0.0, -0.4), p(x1, rise, middle), p(x0, rise, middle)], uv);
    mesh.quad(
        [
            p(x1, 0.0, depth + 0.4),
            p(x0, 0.0, depth + 0.4),
            p(x0, rise, middle),
            p(x1, rise, middle),
        ],
        uv,
    );
    mesh.paint(style.wall);
    let ridge = 0.02;
    for (x, front, back) in [(width, 0.0, depth), (0.0, depth, 0.0)] {
        let top = [p(x, rise, middle - ridge), p(x, rise, middle + ridge)];
        let top = if front < back { [top[1], top[0]] } else { top };
        mesh.quad(
            [p(x, 0.0, front), p(x, 0.0, back), top[0], top[1]],
            [0.0, 0.0, depth / style.repeat_m, rise / style.repeat_m],
        );
    }
    let dormers = if dice.chance(0.5) { (width / 3.4) as usize } else { 0 };
    for k in 0..dormers {
        let x = (k as f32 + 0.5) * width / dormers as f32;
        mesh.paint(style.trim);
        mesh.block(place, v3(x - 0.7, 0.3, 0.4), v3(x + 0.7, 1.75, middle), 2.0);
        mesh.paint(Look::new(Cover::Window(style.window), [1.0, 1.0, 1.0]));
        mesh.panel(place, [x - 0.5, 0.5, x + 0.5, 1.6], 0.38);
    }
    for _ in 0..1 + dice.below(2) {
        let x = dice.range(0.5, width - 1.2);
        mesh.paint(Look::new(Cover::Brick(0), [0.95, 0.95, 0.95]).stained(0.4));
        mesh.block(
            place,
            v3(x, rise * 0.6, middle - 0.5),
            v3(x + 0.8, rise + 0.9, middle + 0.3),
            2.0,
        );
        mesh.paint(Look::new(Cover::Plain, [0.62, 0.34, 0.24]));
        mesh.post(&place.moved(x + 0.25, rise + 0.9, middle), 0.4, 0.11, 6);
    }
}
