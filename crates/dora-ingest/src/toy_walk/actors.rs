//! Who moves: streams of people on the pavements and of cars on the road.
//!
//! A stream is an endless row of numbered slots that moves along the street at one speed, so the
//! actors near any moment follow from the time alone: frames can be drawn in any order.

use super::Class;
use super::block::{Contact, Thing};
use super::car;
use super::math::{Dice, drift, floor, hash};
use super::mesh::Mesh;
use super::person::Person;
use super::street::Street;

/// First instance id of the moving things; below lie those of the blocks.
const FIRST_ID: u16 = 20_000;
/// Slots of one stream that have an id of their own; half of them begin behind the walker.
const SLOTS: i32 = 3_000;
/// Dice stream of the first stream of actors.
const DICE: u32 = 100;

struct Stream {
    class: Class,
    /// Metres to the right of the middle of the road.
    d: f32,
    /// Metres per second along the street.
    speed: f32,
    spacing_m: f32,
    /// Share of the slots that are taken.
    taken: f32,
    /// Slots before this one stay empty (nobody walks on the walker's own spot).
    first_slot: i32,
}

const fn people(d: f32, speed: f32, spacing_m: f32, taken: f32) -> Stream {
    Stream { class: Class::Person, d, speed, spacing_m, taken, first_slot: i32::MIN }
}

const STREAMS: [Stream; 9] = [
    people(8.55, -1.25, 7.0, 0.62),
    people(6.72, 1.02, 9.0, 0.5),
    people(9.15, 1.72, 17.0, 0.6),
    Stream { first_slot: 1, ..people(7.6, super::WALK_SPEED, 7.5, 0.6) },
    people(-6.8, 1.30, 8.0, 0.55),
    people(-7.7, -1.20, 8.0, 0.55),
    people(-8.7, 1.55, 13.0, 0.5),
    Stream {
        class: Class::Car,
        d: 1.5,
        speed: 7.6,
        spacing_m: 33.0,
        taken: 0.62,
        first_slot: i32::MIN,
    },
    Stream {
        class: Class::Car,
        d: -1.5,
        speed: -8.3,
        spacing_m: 30.0,
        taken: 0.66,
        first_slot: i32::MIN,
    },
];

/// All moving things between `behind_m` and the farthest view at time `t_s`, the walker at `eye_s`.
pub(super) fn at(seed: u64, street: &Street, t_s: f32, eye_s: f32, behind_m: f32) -> Vec<Thing> {
    let mut things = Vec::new();
    for (number, stream) in STREAMS.iter().enumerate() {
        let moved = stream.speed * t_s;
        let first = floor((eye_s - behind_m - moved) / stream.spacing_m) - 1;
        let reach_m = stream.class.reach_m();
        let last = floor((eye_s + reach_m - moved) / stream.spacing_m) + 1;
        for slot in first.max(stream.first_slot).max(-SLOTS / 2)..=last.min(SLOTS / 2 - 1) {
            let mut dice = Dice::new(seed, DICE + number as u32, slot);
            if !dice.chance(stream.taken) {
                continue;
            }
            let salt = hash(seed as u32, number as i32, slot);
            let start_s = (slot as f32 + dice.range(-0.3, 0.3)) * stream.spacing_m;
            let s = start_s + moved + 0.5 * drift(salt, t_s / 5.0);
            let d = stream.d + 0.1 * drift(salt ^ 1, t_s / 4.0);
            let id = FIRST_ID + number as u16 * SLOTS as u16 + (slot + SLOTS / 2) as u16;
            things.push(actor(street, stream, [s, d], eye_s, id, &mut dice));
        }
    }
    things
}

fn actor(
    street: &Street,
    stream: &Stream,
    [s, d]: [f32; 2],
    eye_s: f32,
    id: u16,
    dice: &mut Dice,
) -> Thing {
    let towards = if stream.speed < 0.0 { std::f32::consts::PI } else { 0.0 };
    let travelled_m = s * stream.speed.signum();
    let far_m = (s - eye_s).abs() + (d - 7.0).abs();
    let mut mesh = Mesh { coarse: far_m > 25.0, ..Mesh::default() };
    let contact = if stream.class == Class::Car {
        let place = street.place(s, d).turned(towards);
        car::car(&mut mesh, &place, travelled_m, dice);
        Contact { place, half_x: 1.15, half_z: 2.6 }
    } else {
        let place = street.pavement(s, d).turned(towards);
        let person = Person::new(dice);
        let sides = if far_m < 8.0 { 10 } else { 7 };
        person.pose(&mut mesh, &place, Some(travelled_m), sides);
        Contact { place, half_x: 0.42, half_z: 0.5 }
    };
    Thing::new(id, stream.class, mesh, Some(contact))
}
