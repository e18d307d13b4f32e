//! Cars: a lofted body with glass, wheels and lights; parked and driving.

use super::cover::Cover;
use super::math::{Dice, Place, Vec3, v3};
use super::mesh::{Look, Mesh};

/// Proportions of a body, in metres from the middle of the car, forward positive.
struct Shape {
    half_length: f32,
    half_width: f32,
    waist: f32,
    roof: f32,
    bonnet: f32,
    /// Foot and head of the windscreen, head and foot of the rear window.
    cabin: [f32; 4],
}

const SALOON: Shape = Shape {
    half_length: 2.25,
    half_width: 0.88,
    waist: 0.92,
    roof: 1.43,
    bonnet: 0.84,
    cabin: [0.85, 0.15, -1.05, -1.65],
};
const HATCHBACK: Shape = Shape {
    half_length: 1.98,
    half_width: 0.86,
    waist: 0.95,
    roof: 1.50,
    bonnet: 0.90,
    cabin: [0.95, 0.30, -1.45, -1.85],
};
const ESTATE: Shape = Shape {
    half_length: 2.3,
    half_width: 0.90,
    waist: 0.95,
    roof: 1.50,
    bonnet: 0.88,
    cabin: [0.85, 0.15, -1.85, -2.2],
};
const OFF_ROADER: Shape = Shape {
    half_length: 2.2,
    half_width: 0.93,
    waist: 1.08,
    roof: 1.72,
    bonnet: 1.05,
    cabin: [0.85, 0.40, -1.85, -2.1],
};
const VAN: Shape = Shape {
    half_length: 2.45,
    half_width: 0.98,
    waist: 1.15,
    roof: 2.05,
    bonnet: 1.15,
    cabin: [1.75, 1.15, -2.3, -2.42],
};

/// A car standing at the origin of `place`, facing forward; `rolled_m` turns its wheels.
pub(super) fn car(mesh: &mut Mesh, place: &Place, rolled_m: f32, dice: &mut Dice) {
    const PAINTS: [[f32; 3]; 13] = [
        [0.78, 0.79, 0.80],
        [0.93, 0.93, 0.92],
        [0.20, 0.21, 0.23],
        [0.45, 0.47, 0.50],
        [0.66, 0.12, 0.12],
        [0.14, 0.26, 0.55],
        [0.12, 0.36, 0.30],
        [0.88, 0.70, 0.18],
        [0.34, 0.56, 0.72],
        [0.55, 0.22, 0.30],
        [0.80, 0.42, 0.14],
        [0.74, 0.68, 0.56],
        [0.30, 0.50, 0.24],
    ];
    let shape = [&SALOON, &HATCHBACK, &ESTATE, &OFF_ROADER, &VAN, &HATCHBACK][dice.below(6)];
    let paint = dice.pick(&PAINTS);
    let paint = dice.vary(paint, 0.03);
    body(mesh, place, shape, paint);
    cabin(mesh, place, shape, paint);
    ends(mesh, place, shape, dice);
    wheels(mesh, place, shape, rolled_m);
}

/// The lower body: one sheet from sill over the bonnet to the other sill, station by station.
fn body(mesh: &mut Mesh, place: &Place, s: &Shape, paint: [f32; 3]) {
    let (l, w) = (s.half_length, s.half_width);
    // (z, height of the top, share of the width)
    let tail = s.waist - 0.02;
    let stations = [
        (-l, tail - 0.22, 0.84),
        (-l + 0.06, tail - 0.05, 0.92),
        (-l + 0.30, tail, 0.98),
        (s.cabin[0] - 0.6, s.waist, 1.0),
        (s.cabin[0], s.waist - 0.01, 1.0),
        (l - 0.55, s.bonnet, 0.97),
        (l - 0.10, s.bonnet - 0.10, 0.90),
        (l, s.bonnet - 0.26, 0.80),
    ];
    let outline = |side: f32| -> Vec<Vec<Vec3>> {
        let points: [(f32, f32); 4] = [(0.97, 0.24), (1.0, 0.52), (0.985, 0.86), (0.90, 1.0)];
        points
            .iter()
            .map(|&(wide, high)| {
                let at = |&(z, top, share): &(f32, f32, f32)| {
                    let y = if high < 0.3 {
                        high
                    } else {
                        0.24 + (top - 0.24) * ((high - 0.24) / 0.76)
                    };
                    place.at(side * w * wide * share, y, z)
                };
                if side > 0.0 {
                    stations.iter().map(at).collect()
                } else {
                    stations.iter().rev().map(at).collect()
                }
            })
            .collect()
    };
    let enamel = Look::new(Cover::CarSide, paint);
    mesh.paint(enamel);
    let (left, right) = (outline(-1.0), outline(1.0));
    mesh.sheet(&left, false, [1.0, 1.0]);
    // The left side runs backwards; mirror the texture so that the doors match.
    mesh.sheet(&right, false, [-1.0, 1.0]);
    mesh.paint(Look { texture: Cover::Plain.index() as u8, ..enamel });
    let top: Vec<Vec<Vec3>> = stations
        .iter()
        .map(|&(z, top, share)| {
            [-0.90, -0.5, 0.5, 0.90]
                .map(|x: f32| place.at(x * w * share, top + 0.05 * (0.81 - x * x), z))
                .to_vec()
        })
        .collect();
    mesh.sheet(&top, false, [1.0, 1.0]);
    // Front and rear faces with dark bumpers.
    let front = place.moved(0.0, 0.0, l).turned(std::f32::consts::PI);
    let rear = place.moved(0.0, 0.0, -l);
    for (end, top, share) in [(&front, s.bonnet - 0.26, 0.80), (&rear, tail - 0.22, 0.84)] {
        let x = w * share;
        mesh.panel(end, [-x, 0.45, x, top + 0.04], 0.0);
    }
    mesh.paint(Look::new(Cover::Plain, [0.22, 0.22, 0.23]));
    for (end, share) in [(&front, 0.86), (&rear, 0.88)] {
        mesh.block(end, v3(-w * share, 0.22, -0.06), v3(w * share, 0.50, 0.12), 1.0);
    }
    mesh.paint(Look::new(Cover::Plain, [0.08, 0.08, 0.08]));
    mesh.block(place, v3(-w * 0.9, 0.18, -l + 0.2), v3(w * 0.9, 0.3, l - 0.2), 1.0);
}

/// Roof, pillars and glass.
fn cabin(mesh: &mut Mesh, place: &Place, s: &Shape, paint: [f32; 3]) {
    let [front_foot, front_head, rear_head, rear_foot] = s.cabin;
    let (wide, narrow) = (s.half_width * 0.90, s.half_width * 0.74);
    let (low, high) = (s.waist - 0.03, s.roof);
    let foot = |x: f32, z: f32| place.at(x * wide, low, z);
    let head = |x: f32, z: f32| place.at(x * narrow, high, z);
    let enamel = Look::new(Cover::CarSide, paint);
    mesh.paint(Look { texture: Cover::Plain.index() as u8, ..enamel });
    let roof: Vec<Vec<Vec3>> = [
        (rear_head, 0.0),
        (rear_head + 0.25, 0.035),
        (front_head - 0.25, 0.035),
        (front_head, 0.0),
    ]
    .iter()
    .map(|&(z, up)| {
        [-1.0, -0.6, 0.6, 1.0]
            .map(|x: f32| place.at(x * narrow, high + up + 0.03 * (1.0 - x * x), z))
            .to_vec()
    })
    .collect();
    mesh.sheet(&roof, false, [1.0, 1.0]);
    let sides = [
        // Windscreen (seen from ahead), rear window, right side, left side.
        [
            foot(1.0, front_foot),
            foot(-1.0, front_foot),
            head(-1.0, front_head),
            head(1.0, front_head),
        ],
        [foot(-1.0, rear_foot), foot(1.0, rear_foot), head(1.0, rear_head), head(-1.0, rear_head)],
        [foot(1.0, rear_foot), foot(1.0, front_foot), head(1.0, front_head), head(1.0, rear_head)],
        [
            foot(-1.0, front_foot),
            foot(-1.0, rear_foot),
            head(-1.0, rear_head),
            head(-1.0, front_head),
        ],
    ];
    let inside = |[a, b, c, d]: [Vec3; 4], [x0, y0, x1, y1]: [f32; 4]| {
        let out = (d - a).cross(b - a).unit() * 0.012;
        let at = |x: f32, y: f32| {
            (a * (1.0 - x) + b * x) * (1.0 - y) + (d * (1.0 - x) + c * x) * y + out
        };
        [at(x0, y0), at(x1, y0), at(x1, y1), at(x0, y1)]
    };
    for (k, side) in sides.into_iter().enumerate() {
        mesh.paint(Look { texture: Cover::Plain.index() as u8, ..enamel });
        mesh.quad(side, [0.0, 0.0, 1.0, 1.0]);
        // The pane sits inside its frame; panes of the door glass stay clear of curtains.
        mesh.paint(Look {
            texture: Cover::CarSide.index() as u8,
            tint: [0.018, 0.022, 0.028],
            gloss: 2.0,
            stains: 0.0,
            cut_out: false,
        });
        let clear = [0.8, 0.3, 0.85, 0.72];
        if k < 2 {
            let corners = inside(side, [0.07, 0.06, 0.93, 0.90]);
            mesh.quad(corners, clear);
        } else {
            let van = s.roof > 1.9;
            let panes: &[[f32; 2]] = match (van, k) {
                (true, 2) => &[[0.76, 0.94]],
                (true, _) => &[[0.06, 0.24]],
                (false, 2) => &[[0.13, 0.46], [0.50, 0.86]],
                (false, _) => &[[0.14, 0.50], [0.54, 0.87]],
            };
            for &[x0, x1] in panes {
                let corners = inside(side, [x0, 0.10, x1, 0.88]);
                mesh.quad(corners, clear);
            }
        }
    }
}

/// Lamps, number plates and grille.
fn ends(mesh: &mut Mesh, place: &Place, s: &Shape, dice: &mut Dice) {
    let (l, w) = (s.half_length + 0.075, s.half_width);
    let front = place.moved(0.0, 0.0, l).turned(std::f32::consts::PI);
    let rear = place.moved(0.0, 0.0, -l);
    let lamp_y = s.bonnet - 0.34;
    for side in [-1.0_f32, 1.0] {
        let x = side * w * 0.62;
        mesh.paint(Look::new(Cover::Plain, [0.97, 0.97, 0.93]));
        mesh.panel(&front, [x - 0.17, lamp_y - 0.01, x + 0.17, lamp_y + 0.13], 0.06);
        mesh.paint(Look::new(Cover::Plain, [0.80, 0.08, 0.07]));
        let x = side * w * 0.70;
        mesh.panel(&rear, [x - 0.12, s.waist - 0.36, x + 0.12, s.waist - 0.12], 0.06);
        mesh.paint(Look::new(Cover::Plain, [0.12, 0.12, 0.13]));
        let mirror = place.moved(side * (w + 0.06), s.waist + 0.03, s.cabin[0] - 0.25);
        mesh.block(&mirror, v3(-0.08, -0.02, -0.05), v3(0.08, 0.12, 0.05), 1.0);
    }
    mesh.paint(Look::new(Cover::Boards, [0.14, 0.14, 0.15]));
    mesh.panel(&front, [-w * 0.42, lamp_y - 0.06, w * 0.42, lamp_y + 0.10], 0.065);
    let plate = dice.pick(&[[0.93, 0.93, 0.9], [0.93, 0.83, 0.35]]);
    mesh.paint(Look::new(Cover::Cloth(3), plate));
    for end in [&front, &rear] {
        mesh.panel(end, [-0.26, 0.37, 0.26, 0.48], -0.01);
    }
}

/// Four wheels in front of dark arches.
fn wheels(mesh: &mut Mesh, place: &Place, s: &Shape, rolled_m: f32) {
    let radius = if s.roof > 1.6 { 0.36 } else { 0.32 };
    let base = s.half_length * 0.60;
    for (side, z) in [(-1.0_f32, -base), (1.0, -base), (-1.0, base), (1.0, base)] {
        let hub =
            place.moved(side * s.half_width, radius, z).turned(-side * std::f32::consts::FRAC_PI_2);
        mesh.paint(Look::new(Cover::Plain, [0.07, 0.07, 0.08]));
        mesh.disc(&hub.moved(0.0, 0.04, -0.006), radius * 1.18, 0.0, 14);
        mesh.paint(Look::new(Cover::Wheel, [1.0, 1.0, 1.0]));
        mesh.disc(&hub.moved(0.0, 0.0, -0.02), radius, -side * rolled_m / radius, 14);
    }
}
