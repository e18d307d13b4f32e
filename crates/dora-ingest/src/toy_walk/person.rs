//! People: a body of limbs with hair, clothes and things to carry, who walk or stand.

use super::cover::Cover;
use super::math::{Dice, Place, v3};
use super::mesh::{Look, Mesh};

/// What a person looks like; drawn once, the same in every frame.
pub(super) struct Person {
    height: f32,
    girth: f32,
    skin: Look,
    hair: Look,
    long_hair: bool,
    hat: Option<Look>,
    top: Look,
    sleeves: Look,
    legs: Look,
    skirt: Option<f32>,
    coat: bool,
    shoes: Look,
    load: Load,
    swing: f32,
}

enum Load {
    None,
    Backpack(Look),
    Bag(Look),
}

impl Person {
    pub(super) fn new(dice: &mut Dice) -> Person {
        const CLOTHES: [[f32; 3]; 16] = [
            [0.80, 0.18, 0.16],
            [0.16, 0.28, 0.60],
            [0.90, 0.88, 0.84],
            [0.14, 0.14, 0.16],
            [0.22, 0.50, 0.34],
            [0.92, 0.74, 0.20],
            [0.56, 0.30, 0.58],
            [0.88, 0.48, 0.18],
            [0.44, 0.64, 0.78],
            [0.80, 0.50, 0.58],
            [0.56, 0.46, 0.34],
            [0.42, 0.44, 0.48],
            [0.18, 0.56, 0.60],
            [0.70, 0.78, 0.34],
            [0.50, 0.14, 0.24],
            [0.78, 0.70, 0.56],
        ];
        const TROUSERS: [[f32; 3]; 7] = [
            [0.18, 0.22, 0.36],
            [0.14, 0.14, 0.15],
            [0.30, 0.38, 0.55],
            [0.62, 0.54, 0.42],
            [0.36, 0.36, 0.38],
            [0.42, 0.30, 0.24],
            [0.80, 0.78, 0.72],
        ];
        const SKINS: [[f32; 3]; 5] = [
            [0.90, 0.74, 0.64],
            [0.82, 0.62, 0.50],
            [0.66, 0.46, 0.34],
            [0.46, 0.31, 0.23],
            [0.94, 0.80, 0.72],
        ];
        const HAIRS: [[f32; 3]; 6] = [
            [0.12, 0.09, 0.08],
            [0.30, 0.20, 0.13],
            [0.50, 0.36, 0.20],
            [0.78, 0.64, 0.38],
            [0.62, 0.61, 0.60],
            [0.48, 0.22, 0.12],
        ];
        let cloth = |dice: &mut Dice, colours: &[[f32; 3]]| {
            let colour = dice.pick(colours);
            let colour = dice.vary(colour, 0.05);
            let kind = if dice.chance(0.5) { 0 } else { dice.below(5) as u8 };
            Look::new(Cover::Cloth(kind), colour)
        };
        let child = dice.chance(0.12);
        let skin_colour = dice.pick(&SKINS);
        let skin = Look::new(Cover::Plain, skin_colour);
        let hair_colour = dice.pick(&HAIRS);
        let top = cloth(dice, &CLOTHES);
        let bare_arms = dice.chance(0.3);
        let skirt = dice.chance(0.22).then(|| dice.range(0.35, 0.75));
        let legs = if skirt.is_some() { cloth(dice, &CLOTHES) } else { cloth(dice, &TROUSERS) };
        let shoe = dice.pick(&[
            [0.12, 0.11, 0.11],
            [0.88, 0.87, 0.85],
            [0.40, 0.26, 0.16],
            [0.70, 0.2, 0.2],
        ]);
        let load = match dice.below(5) {
            0 | 1 => Load::None,
            2 => Load::Backpack(cloth(dice, &CLOTHES)),
            _ => Load::Bag(cloth(dice, &CLOTHES)),
        };
        Person {
            height: if child { dice.range(1.1, 1.4) } else { dice.range(1.56, 1.88) },
            girth: dice.range(0.92, 1.2),
            skin,
            hair: Look::new(Cover::Bark, hair_colour),
            long_hair: dice.chance(0.4),
            hat: dice.chance(0.22).then(|| cloth(dice, &CLOTHES)),
            top,
            sleeves: if bare_arms { skin } else { top },
            legs,
            skirt,
            coat: skirt.is_none() && dice.chance(0.3),
            shoes: Look::new(Cover::Plain, shoe),
            load,
            swing: dice.range(0.8, 1.15),
        }
    }

    /// Adds the body standing at the origin of `place`, facing forward. `walked_m` sets the phase
    /// of the stride; None stands still. `sides` is the roundness (5 far away, 9 near).
    pub(super) fn pose(&self, mesh: &mut Mesh, place: &Place, walked_m: Option<f32>, sides: usize) {
        // Built for a height of 1.75 m and scaled.
        let k = self.height / 1.75;
        let place = Place {
            right: place.right * k,
            up: place.up * k,
            forward: place.forward * k,
            ..*place
        };
        let phase = walked_m.map_or(0.0, |m| m / (1.42 * k) * std::f32::consts::TAU);
        let amount = if walked_m.is_some() { self.swing } else { 0.0 };
        let bounce = 0.022 * amount * (2.0 * phase).cos();
        let hips = place.moved(0.0, 0.93 + bounce - 0.02 * amount, 0.0);
        let girth = self.girth;
        self.torso(mesh, &hips, sides);
        self.head(mesh, &hips.moved(0.0, 0.56, 0.025), sides);
        for side in [-1.0_f32, 1.0] {
            let step = phase + if side > 0.0 { 0.0 } else { std::f32::consts::PI };
            let swing = 0.44 * amount * step.sin();
            let knee = amount * (0.12 + 0.75 * (step + 0.95).cos().max(0.0).powi(2));
            let hip = v3(side * 0.085 * girth, 0.0, 0.0);
            let mid = hip + v3(0.0, -0.44 * swing.cos(), 0.44 * swing.sin());
            let lower = swing - knee;
            let ankle = mid + v3(0.0, -0.42 * lower.cos(), 0.42 * lower.sin());
            let [hip, mid, ankle] = [hip, mid, ankle].map(|p| hips.at(p.x, p.y, p.z));
            let bare = self.skirt.is_some();
            mesh.paint(self.legs);
            if bare {
                mesh.paint(self.skin);
            }
            mesh.limb([hip, mid], [0.082 * girth * k, 0.060 * k], place.forward, sides);
            mesh.limb([mid, ankle], [0.060 * k, 0.042 * k], place.forward, sides);
            mesh.paint(self.shoes);
            let foot = Place { origin: ankle, ..place }.tipped(-(lower * 0.7).clamp(-0.9, 0.5));
            mesh.ball(&foot.moved(0.0, -0.035, 0.06), v3(0.05, 0.05, 0.135), sides.min(6), 4);

            let shoulder = v3(side * 0.195 * girth, 0.47, 0.0);
            let carries = matches!(self.load, Load::Bag(_)) && side > 0.0;
            let arm = -0.42 * amount * step.sin() * if carries { 0.4 } else { 1.0 };
            let elbow = shoulder + v3(side * 0.04, -0.28 * arm.cos(), 0.28 * arm.sin());
            let bend = arm + 0.15 + 0.25 * amount;
            let hand = elbow + v3(0.0, -0.25 * bend.cos(), 0.25 * bend.sin());
            let [shoulder, elbow, hand] = [shoulder, elbow, hand].map(|p| hips.at(p.x, p.y, p.z));
            mesh.paint(self.top);
            mesh.limb([shoulder, elbow], [0.060 * girth * k, 0.046 * k], place.forward, sides);
            mesh.paint(self.sleeves);
            mesh.limb([elbow, hand], [0.044 * k, 0.034 * k], place.forward, sides);
            mesh.paint(self.skin);
            mesh.ball(
                &Place { origin: hand, ..place }.moved(0.0, -0.05, 0.01),
                v3(0.032, 0.065, 0.042),
                sides.min(6),
                4,
            );
            if let (Load::Bag(look), true) = (&self.load, carries) {
                mesh.paint(*look);
                let bag = Place { origin: hand, ..place }.tipped(-0.3 * arm);
                mesh.block(&bag, v3(-0.05, -0.42, -0.16), v3(0.05, -0.10, 0.16), 0.5);
            }
        }
    }

    fn torso(&self, mesh: &mut Mesh, hips: &Place, sides: usize) {
        let g = self.girth;
        mesh.paint(self.legs);
        let seat = [
            (-0.10, 0.10 * g, 0.09 * g),
            (-0.04, 0.165 * g, 0.12 * g),
            (0.10, 0.155 * g, 0.11 * g),
        ];
        mesh.round(hips, &seat, sides, [1.0, 0.5]);
        if let Some(length) = self.skirt {
            let hem = [
                (-length, 0.20 * g + 0.12 * length, 0.17 * g + 0.12 * length),
                (0.11, 0.15 * g, 0.115 * g),
            ];
            mesh.round(hips, &hem, sides, [2.0, 1.0]);
        }
        mesh.paint(self.top);
        let low = if self.coat { -0.38 } else { 0.02 };
        let chest = [
            (low, 0.172 * g, 0.13 * g),
            (0.08, 0.165 * g, 0.122 * g),
            (0.20, 0.158 * g, 0.115 * g),
            (0.38, 0.188 * g, 0.125 * g),
            (0.48, 0.170 * g, 0.10 * g),
            (0.535, 0.075, 0.07),
        ];
        mesh.round(hips, &chest, sides, [2.0, 1.5]);
        if let Load::Backpack(look) = &self.load {
            mesh.paint(*look);
            let pack =
                [(0.06, 0.10, 0.06), (0.10, 0.155, 0.10), (0.38, 0.15, 0.09), (0.47, 0.08, 0.05)];
            mesh.round(&hips.moved(0.0, 0.0, -0.19), &pack, sides, [1.0, 1.0]);
        }
    }

    fn head(&self, mesh: &mut Mesh, neck: &Place, sides: usize) {
        mesh.paint(self.skin);
        mesh.round(neck, &[(-0.06, 0.055, 0.055), (0.08, 0.050, 0.052)], sides, [1.0, 1.0]);
        let skull = neck.moved(0.0, 0.155, 0.012);
        mesh.paint(Look { texture: Cover::Head.index() as u8, ..self.skin });
        mesh.ball(&skull, v3(0.078, 0.118, 0.095), sides + 3, 7);
        mesh.paint(self.hair);
        // A cap of hair, tipped back so that the face stays free.
        let cap = skull.moved(0.0, 0.022, -0.016).tipped(-0.35);
        let rings = [
            (-0.012, 0.090, 0.098),
            (0.05, 0.083, 0.092),
            (0.092, 0.052, 0.060),
            (0.110, 0.0, 0.0),
        ];
        mesh.round(&cap, &rings, sides, [2.0, 0.5]);
        let nape = if self.long_hair { -0.20 } else { -0.06 };
        mesh.ball(
            &skull.moved(0.0, nape * 0.5, -0.055),
            v3(0.082, 0.10 - nape * 0.5, 0.058),
            sides,
            5,
        );
        if let Some(look) = self.hat {
            mesh.paint(look);
            let brim = skull.moved(0.0, 0.06, 0.0);
            let rings =
                [(-0.005, 0.15, 0.17), (0.01, 0.10, 0.115), (0.07, 0.088, 0.10), (0.085, 0.0, 0.0)];
            mesh.round(&brim, &rings, sides, [1.0, 0.5]);
        }
    }
}
