//! Street furniture: lamp posts, benches, bins, bollards, signs, tables, planters.

use super::cover::Cover;
use super::math::{Dice, Place, v3};
use super::mesh::{Look, Mesh};
use super::tree;

const IRON: [f32; 3] = [0.20, 0.22, 0.22];

/// A lamp post at the origin of `place`; its arm reaches towards forward.
pub(super) fn lamp(mesh: &mut Mesh, place: &Place) {
    mesh.paint(Look::new(Cover::Plain, IRON));
    let foot = [
        (0.0, 0.14, 0.14),
        (0.5, 0.11, 0.11),
        (0.6, 0.065, 0.065),
        (4.6, 0.045, 0.045),
        (4.62, 0.0, 0.0),
    ];
    mesh.round(place, &foot, 7, [1.0, 4.0]);
    mesh.limb([place.at(0.0, 4.5, 0.0), place.at(0.0, 4.95, 1.1)], [0.04, 0.03], place.right, 5);
    let lantern = place.moved(0.0, 4.62, 1.15);
    mesh.round(
        &lantern,
        &[(0.34, 0.05, 0.05), (0.30, 0.20, 0.20), (0.42, 0.03, 0.03)],
        7,
        [1.0, 1.0],
    );
    mesh.paint(Look::new(Cover::Plain, [0.98, 0.95, 0.84]));
    mesh.round(
        &lantern,
        &[(0.0, 0.08, 0.08), (0.12, 0.16, 0.16), (0.31, 0.17, 0.17)],
        7,
        [1.0, 1.0],
    );
}

/// A wooden bench whose sitter looks towards forward.
pub(super) fn bench(mesh: &mut Mesh, place: &Place, dice: &mut Dice) {
    let wood = dice.vary([0.58, 0.40, 0.26], 0.08);
    mesh.paint(Look::new(Cover::Boards, wood));
    for z in [-0.18_f32, 0.0, 0.18] {
        mesh.block(place, v3(-0.85, 0.42, z - 0.075), v3(0.85, 0.46, z + 0.075), 1.0);
    }
    for y in [0.58_f32, 0.76] {
        mesh.block(place, v3(-0.85, y, -0.34), v3(0.85, y + 0.12, -0.30), 1.0);
    }
    mesh.paint(Look::new(Cover::Plain, IRON));
    for x in [-0.7_f32, 0.7] {
        mesh.block(place, v3(x - 0.03, 0.0, -0.32), v3(x + 0.03, 0.42, 0.26), 1.0);
        mesh.block(place, v3(x - 0.03, 0.42, -0.36), v3(x + 0.03, 0.88, -0.32), 1.0);
    }
}

/// A litter bin.
pub(super) fn bin(mesh: &mut Mesh, place: &Place, dice: &mut Dice) {
    let colour = dice.pick(&[
        [0.22, 0.36, 0.26],
        [0.30, 0.30, 0.32],
        [0.66, 0.36, 0.14],
        [0.20, 0.30, 0.48],
    ]);
    mesh.paint(Look::new(Cover::Cloth(1), colour));
    mesh.round(place, &[(0.0, 0.20, 0.20), (0.06, 0.24, 0.24), (0.80, 0.27, 0.27)], 9, [1.0, 0.5]);
    mesh.paint(Look::new(Cover::Plain, IRON));
    mesh.round(
        place,
        &[(0.80, 0.30, 0.30), (0.88, 0.28, 0.28), (0.98, 0.12, 0.12), (1.0, 0.0, 0.0)],
        9,
        [1.0, 1.0],
    );
}

/// A bollard.
pub(super) fn bollard(mesh: &mut Mesh, place: &Place) {
    mesh.paint(Look::new(Cover::Plain, IRON));
    mesh.round(
        place,
        &[
            (0.0, 0.10, 0.10),
            (0.7, 0.07, 0.07),
            (0.78, 0.10, 0.10),
            (0.92, 0.07, 0.07),
            (0.95, 0.0, 0.0),
        ],
        7,
        [1.0, 1.0],
    );
    mesh.paint(Look::new(Cover::Plain, [0.92, 0.9, 0.88]));
    mesh.round(place, &[(0.58, 0.082, 0.082), (0.68, 0.078, 0.078)], 7, [1.0, 1.0]);
}

/// A traffic sign: a disc, a triangle of colour or a board on a pole, facing -forward.
pub(super) fn sign(mesh: &mut Mesh, place: &Place, dice: &mut Dice) {
    mesh.paint(Look::new(Cover::Plain, [0.62, 0.63, 0.64]));
    mesh.post(place, 2.9, 0.035, 5);
    let face = place.moved(0.0, 2.5, -0.05);
    let (rim, field) = dice.pick(&[
        ([0.80, 0.12, 0.12], [0.94, 0.93, 0.92]),
        ([0.92, 0.92, 0.92], [0.14, 0.30, 0.66]),
        ([0.80, 0.12, 0.12], [0.16, 0.30, 0.64]),
        ([0.92, 0.92, 0.90], [0.80, 0.14, 0.14]),
    ]);
    let sides = dice.pick(&[3, 16, 16, 8]);
    for (radius, z, colour) in [(0.34, 0.0, rim), (0.26, -0.01, field), (0.08, -0.02, rim)] {
        mesh.paint(Look::new(Cover::Plain, colour));
        mesh.disc(&face.moved(0.0, 0.0, z), radius, 0.0, sides);
    }
    // Its grey back.
    mesh.paint(Look::new(Cover::Plain, [0.55, 0.56, 0.57]));
    mesh.disc(&face.turned(std::f32::consts::PI), 0.34, 0.0, sides);
}

/// A café table with two chairs and a parasol.
pub(super) fn table(mesh: &mut Mesh, place: &Place, dice: &mut Dice) {
    mesh.paint(Look::new(Cover::Plain, [0.70, 0.64, 0.56]));
    mesh.round(
        place,
        &[
            (0.0, 0.22, 0.22),
            (0.03, 0.04, 0.04),
            (0.70, 0.04, 0.04),
            (0.72, 0.36, 0.36),
            (0.75, 0.36, 0.36),
            (0.76, 0.0, 0.0),
        ],
        10,
        [1.0, 1.0],
    );
    let colour = dice.pick(&[
        [0.72, 0.22, 0.18],
        [0.24, 0.42, 0.34],
        [0.40, 0.28, 0.18],
        [0.24, 0.34, 0.54],
    ]);
    for (z, turn) in [(-0.62_f32, 0.0), (0.62, std::f32::consts::PI)] {
        let chair = place.moved(0.0, 0.0, z).turned(turn + dice.range(-0.3, 0.3));
        mesh.paint(Look::new(Cover::Cloth(0), colour));
        mesh.block(&chair, v3(-0.2, 0.43, -0.2), v3(0.2, 0.47, 0.2), 1.0);
        mesh.block(&chair, v3(-0.2, 0.55, -0.22), v3(0.2, 0.88, -0.19), 1.0);
        mesh.paint(Look::new(Cover::Plain, IRON));
        for (x, z) in [(-0.18_f32, -0.2_f32), (0.18, -0.2), (-0.18, 0.18), (0.18, 0.18)] {
            let top = if z < 0.0 { 0.55 } else { 0.43 };
            mesh.block(&chair, v3(x - 0.018, 0.0, z - 0.018), v3(x + 0.018, top, z + 0.018), 1.0);
        }
    }
    if dice.chance(0.6) {
        mesh.paint(Look::new(Cover::Plain, [0.85, 0.8, 0.7]));
        mesh.post(place, 2.3, 0.025, 5);
        let cloth = dice.pick(&[
            [0.88, 0.84, 0.74],
            [0.72, 0.20, 0.18],
            [0.20, 0.42, 0.34],
            [0.88, 0.62, 0.24],
        ]);
        mesh.paint(Look::new(Cover::Cloth(0), cloth));
        mesh.round(
            place,
            &[(2.0, 1.0, 1.0), (2.12, 1.0, 1.0), (2.36, 0.45, 0.45), (2.5, 0.0, 0.0)],
            8,
            [2.0, 1.0],
        );
        mesh.round(place, &[(2.44, 0.0, 0.0), (2.02, 0.99, 0.99)], 8, [2.0, 1.0]);
    }
}

/// A stone tub with a bush.
pub(super) fn planter(mesh: &mut Mesh, place: &Place, dice: &mut Dice) {
    mesh.paint(Look::new(Cover::Stone, dice.vary([0.70, 0.66, 0.60], 0.1)));
    mesh.block(place, v3(-0.35, 0.0, -0.35), v3(0.35, 0.5, 0.35), 1.5);
    tree::bush(mesh, &place.moved(0.0, 0.5, 0.0), v3(0.38, 0.42, 0.38), dice);
}

/// A folding advertising board.
pub(super) fn board(mesh: &mut Mesh, place: &Place, dice: &mut Dice) {
    mesh.paint(Look::new(Cover::Shop(dice.below(12) as u8), [1.0, 1.0, 1.0]).glossy(0.0));
    let p = |x, y, z| place.at(x, y, z);
    for s in [-1.0_f32, 1.0] {
        mesh.quad(
            [
                p(-0.32 * s, 0.0, -0.28 * s),
                p(0.32 * s, 0.0, -0.28 * s),
                p(0.32 * s, 1.0, 0.0),
                p(-0.32 * s, 1.0, 0.0),
            ],
            [0.0, 0.0, 1.0, 1.0],
        );
    }
}

/// A low wall with an iron fence along right, `length` metres from the origin of `place`.
pub(super) fn fence(mesh: &mut Mesh, place: &Place, length: f32) {
    mesh.paint(Look::new(Cover::Stone, [0.76, 0.73, 0.68]).stained(0.4));
    mesh.block(place, v3(0.0, 0.0, 0.0), v3(length, 0.6, 0.3), 3.0);
    mesh.paint(Look::new(Cover::Railing, [0.14, 0.16, 0.15]));
    let corners =
        [(0.0, 0.6), (length, 0.6), (length, 1.6), (0.0, 1.6)].map(|(x, y)| place.at(x, y, 0.15));
    mesh.quad(corners, [0.0, 0.0, (length / 1.1).round().max(1.0), 1.0]);
}
