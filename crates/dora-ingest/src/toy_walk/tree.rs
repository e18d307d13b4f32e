//! Street trees: a trunk with branches and a crown of leaf cards.

use super::cover::Cover;
use super::math::{Dice, Place, Vec3, v3};
use super::mesh::{Look, Mesh};

/// A tree with its foot at the origin of `place`, 5-9 m high.
pub(super) fn tree(mesh: &mut Mesh, place: &Place, dice: &mut Dice) {
    const GREENS: [[f32; 3]; 6] = [
        [0.48, 0.62, 0.26],
        [0.38, 0.54, 0.24],
        [0.56, 0.64, 0.30],
        [0.40, 0.58, 0.34],
        [0.70, 0.60, 0.26],
        [0.62, 0.42, 0.24],
    ];
    let bark = dice.vary([0.50, 0.42, 0.34], 0.06);
    let green = dice.pick(&GREENS);
    let green = dice.vary(green, 0.05);
    let kind = dice.below(4) as u8;
    let fork_m = dice.range(2.1, 2.9);
    let (wide_m, high_m) = (dice.range(1.3, 2.2), dice.range(1.6, 2.7));
    let lean = dice.range(-0.06, 0.06);
    let thick_m = dice.range(0.10, 0.17);
    let fork = place.at(lean, fork_m, lean);
    let centre = place.at(lean * 2.0, fork_m + high_m * 0.72, lean * 2.0);

    mesh.paint(Look::new(Cover::Bark, bark));
    let foot = Place::along(place.origin, fork - place.origin, place.forward);
    let rings = [
        (0.0, thick_m * 1.5, thick_m * 1.5),
        (0.25, thick_m * 1.1, thick_m * 1.1),
        (fork_m * 0.6, thick_m * 0.9, thick_m * 0.9),
        (fork_m + 0.3, thick_m * 0.7, thick_m * 0.7),
    ];
    mesh.round(&foot, &rings, 8, [1.0, fork_m]);
    for branch in 0..5 {
        let (sin, cos) = (branch as f32 * 1.257 + dice.range(-0.4, 0.4)).sin_cos();
        let tip =
            centre + v3(sin * wide_m * 0.55, dice.range(-0.2, 0.5) * high_m, cos * wide_m * 0.55);
        mesh.limb([fork - v3(0.0, 0.15, 0.0), tip], [thick_m * 0.55, 0.03], place.forward, 5);
    }
    crown(mesh, centre, v3(wide_m, high_m, wide_m), 84, (kind, green), dice);
}

/// A bush: a small crown on the ground at the origin of `place`.
pub(super) fn bush(mesh: &mut Mesh, place: &Place, radii: Vec3, dice: &mut Dice) {
    let green =
        dice.pick(&[[0.42, 0.56, 0.28], [0.36, 0.5, 0.26], [0.52, 0.60, 0.30], [0.66, 0.42, 0.46]]);
    let cards = (24.0 * radii.x * radii.z / (radii.y * radii.y)).clamp(14.0, 60.0) as usize;
    crown(
        mesh,
        place.at(0.0, radii.y * 0.8, 0.0),
        radii,
        cards,
        (dice.below(4) as u8, green),
        dice,
    );
}

/// Leaf cards over a ball: the outer ones lighter, the lower ones in their own shade.
fn crown(
    mesh: &mut Mesh,
    centre: Vec3,
    radii: Vec3,
    cards: usize,
    (kind, green): (u8, [f32; 3]),
    dice: &mut Dice,
) {
    let size = 0.36 * (radii.x * radii.y * radii.z).cbrt();
    let (cards, size) = if mesh.coarse { (cards * 2 / 5, size * 1.45) } else { (cards, size) };
    for card in 0..cards {
        // Golden-angle steps spread the cards evenly over the ball.
        let y = 1.0 - 2.0 * (card as f32 + 0.5) / cards as f32;
        let around = (1.0 - y * y).sqrt();
        let (sin, cos) = (card as f32 * 2.399_963 + dice.range(-0.3, 0.3)).sin_cos();
        let out = v3(around * sin, y, around * cos);
        let far = if card % 4 == 0 { dice.range(0.25, 0.6) } else { dice.range(0.68, 0.98) };
        let at = centre + v3(out.x * radii.x, out.y * radii.y, out.z * radii.z) * far;
        let tilt = v3(dice.range(-0.7, 0.7), dice.range(-0.7, 0.7), dice.range(-0.7, 0.7));
        let facing = (out + tilt).unit();
        let right = facing.cross(v3(dice.range(-1.0, 1.0), 1.0, dice.range(-1.0, 1.0))).unit();
        let up = right.cross(facing);
        let half = size * dice.range(0.8, 1.3);
        let depth = 0.55 + 0.45 * far * (0.72 + 0.28 * y);
        let tone = dice.range(0.86, 1.1) * depth;
        mesh.paint(Look::new(
            Cover::Leaves(kind + (card % 3 == 0) as u8),
            green.map(|c| (c * tone * 1.22).min(1.0)),
        ));
        let normal = (out + Vec3::UP * 0.25).unit();
        mesh.card(at, right * half, up * half, normal);
    }
}
