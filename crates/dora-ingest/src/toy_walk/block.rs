//! The standing things of one 40 m piece of the street: plots with houses and gardens, trees,
//! parked cars, furniture, people who stand about.

use super::math::{Dice, Place, Vec3, hash_unit, v3};
use super::mesh::Mesh;
use super::person::Person;
use super::street::{BLOCK_M, FRONTS_M, KERB_M, START_M, Street};
use super::{Class, car, furniture, house, tree};

/// Most numbered things that one block holds.
const MOST_THINGS: u16 = 120;
/// Dice streams: one for each use, so that a change in one leaves the others alone.
const PLOTS: u32 = 1;
const KERBSIDE: u32 = 2;
const GROUND: u32 = 3;

/// One thing that is drawn: its mesh, class, instance and the shade it lays on the ground.
pub(super) struct Thing {
    /// 0 where instances are not told apart (road, pavement).
    pub(super) id: u16,
    pub(super) class: Class,
    pub(super) mesh: Mesh,
    /// What is drawn from far away, if that is another mesh.
    pub(super) far: Option<Mesh>,
    pub(super) centre: Vec3,
    pub(super) radius: f32,
    pub(super) contact: Option<Contact>,
}

/// A soft dark ellipse on the ground under a thing.
#[derive(Clone, Copy)]
pub(super) struct Contact {
    pub(super) place: Place,
    pub(super) half_x: f32,
    pub(super) half_z: f32,
}

impl Thing {
    pub(super) fn new(id: u16, class: Class, mesh: Mesh, contact: Option<Contact>) -> Thing {
        let (centre, radius) = mesh.bound();
        Thing { id, class, mesh, far: None, centre, radius, contact }
    }
}

/// Builds block number `index`; numbered things get ids from `index * 120 + 1` on.
pub(super) fn build(seed: u64, street: &Street, index: usize) -> Vec<Thing> {
    let from_s = START_M + index as f32 * BLOCK_M;
    let mut ground = Dice::new(seed, GROUND, index as i32);
    let crossing_s = ground.chance(0.35).then(|| from_s + ground.range(8.0, 32.0));
    let mut block = Block {
        street,
        from_s,
        crossing_s,
        next: index as u16 * MOST_THINGS + 1,
        things: Vec::new(),
    };
    let road = street.road(from_s, crossing_s, &mut ground);
    let pavements = street.pavements(from_s, &mut ground);
    block.things.push(Thing::new(0, Class::Road, road, None));
    block.things.push(Thing::new(0, Class::Pavement, pavements, None));
    for side in [-1.0, 1.0] {
        let stream = index as i32 * 2 + i32::from(side > 0.0);
        block.plots(side, &mut Dice::new(seed, PLOTS, stream));
        block.kerbside(side, &mut Dice::new(seed, KERBSIDE, stream));
    }
    block.things
}

struct Block<'a> {
    street: &'a Street,
    from_s: f32,
    crossing_s: Option<f32>,
    next: u16,
    things: Vec<Thing>,
}

impl Block<'_> {
    /// Builds one numbered thing, with a contact shade of the given half sizes. `build` is called
    /// again for the coarse mesh of what can be seen from far.
    fn add(
        &mut self,
        class: Class,
        place: &Place,
        half: Option<[f32; 2]>,
        dice: &mut Dice,
        build: impl Fn(&mut Mesh, &mut Dice),
    ) {
        let key = dice.key();
        let far = (class != Class::Furniture).then(|| {
            let mut coarse = Mesh { coarse: true, ..Mesh::default() };
            build(&mut coarse, &mut Dice::from_key(key));
            coarse
        });
        let mut mesh = Mesh::default();
        build(&mut mesh, &mut Dice::from_key(key));
        let contact = half.map(|[half_x, half_z]| Contact { place: *place, half_x, half_z });
        self.things.push(Thing { far, ..Thing::new(self.next, class, mesh, contact) });
        self.next += 1;
    }

    fn near_crossing(&self, s: f32, within_m: f32) -> bool {
        self.crossing_s.is_some_and(|c| (c - s).abs() < within_m)
    }

    /// The place of a front between two distances along the street, seen from the street.
    fn front(&self, s0: f32, s1: f32, side: f32) -> (Place, f32) {
        let (left, right) = if side > 0.0 { (s1, s0) } else { (s0, s1) };
        let a = self.street.place(left, side * FRONTS_M).origin;
        let b = self.street.place(right, side * FRONTS_M).origin;
        let along = (b - a).unit();
        (
            Place { right: along, up: Vec3::UP, forward: along.cross(Vec3::UP), origin: a },
            (b - a).length(),
        )
    }

    /// Houses shoulder to shoulder, now and then a fenced garden with a house behind.
    fn plots(&mut self, side: f32, dice: &mut Dice) {
        let mut s = 0.0;
        let mut garden_before = true;
        while s < BLOCK_M {
            let mut wide = dice.range(7.0, 13.5);
            if BLOCK_M - s - wide < 7.0 {
                wide = BLOCK_M - s;
            }
            let (place, width) = self.front(self.from_s + s, self.from_s + s + wide, side);
            let garden = !garden_before && dice.chance(0.2);
            if garden {
                self.garden(&place, width, dice);
            } else {
                let set_back = place.moved(0.0, 0.0, dice.range(0.0, 0.35));
                self.add(Class::Building, &place, None, dice, |mesh, dice| {
                    house::house(mesh, &set_back, width, 11.0, dice)
                });
            }
            garden_before = garden;
            s += wide;
        }
    }

    fn garden(&mut self, place: &Place, width: f32, dice: &mut Dice) {
        self.add(Class::Furniture, place, None, dice, |mesh, _| {
            furniture::fence(mesh, place, width)
        });
        for k in 0..(width / 3.5) as usize {
            let foot = place
                .moved((k as f32 + 0.5) * 3.5, 0.13, dice.range(1.8, 4.5))
                .turned(dice.range(0.0, 6.0));
            self.add(Class::Tree, &foot, Some([0.5, 0.5]), dice, |mesh, dice| {
                tree::tree(mesh, &foot, dice)
            });
        }
        for _ in 0..4 {
            let foot = place.moved(dice.range(0.8, width - 0.8), 0.13, dice.range(0.9, 1.6));
            let radii = v3(dice.range(0.5, 1.0), dice.range(0.5, 0.9), dice.range(0.4, 0.6));
            self.add(Class::Tree, &foot, None, dice, |mesh, dice| {
                tree::bush(mesh, &foot, radii, dice)
            });
        }
        let behind = place.moved(0.0, 0.0, 8.0);
        self.add(Class::Building, place, None, dice, |mesh, dice| {
            house::house(mesh, &behind, width, 8.0, dice)
        });
    }

    /// Parked cars on the road; trees, lamps and furniture on the pavement.
    fn kerbside(&mut self, side: f32, dice: &mut Dice) {
        let street = self.street;
        let from_s = self.from_s;
        for bay in 0..7 {
            let s = from_s + 2.9 + 5.7 * bay as f32;
            if dice.chance(0.58) && !self.near_crossing(s, 6.0) {
                let against = dice.chance(0.12) != (side < 0.0);
                let place = street.place(s + dice.range(-0.25, 0.25), side * (KERB_M - 1.1));
                let place = if against { place.turned(std::f32::consts::PI) } else { place }
                    .turned(dice.range(-0.03, 0.03));
                self.add(Class::Car, &place, Some([1.15, 2.6]), dice, |mesh, dice| {
                    car::car(mesh, &place, 0.0, dice)
                });
            }
        }
        let inward = -side * std::f32::consts::FRAC_PI_2;
        for k in 0..4 {
            let s = from_s + 4.0 + 10.0 * k as f32 + dice.range(-1.2, 1.2);
            if dice.chance(0.72) && !self.near_crossing(s, 3.0) {
                let place = street.pavement(s, side * (KERB_M + 0.75)).turned(dice.range(0.0, 6.0));
                self.add(Class::Tree, &place, Some([0.55, 0.55]), dice, |mesh, dice| {
                    tree::tree(mesh, &place, dice)
                });
            }
        }
        for k in 0..2 {
            let s = from_s + 9.0 + 20.0 * k as f32 + if side > 0.0 { 0.0 } else { 10.0 };
            let place = street.pavement(s, side * (KERB_M + 0.5)).turned(inward);
            self.add(Class::Furniture, &place, Some([0.3, 0.3]), dice, |mesh, _| {
                furniture::lamp(mesh, &place)
            });
        }
        for k in 0..6 {
            let s = from_s + 6.5 + 6.2 * k as f32 + dice.range(-0.8, 0.8);
            let along = street.pavement(s, side * (KERB_M + 0.7));
            let kind = dice.below(8);
            match kind {
                0 | 1 => {
                    let place = along.turned(-inward);
                    self.add(Class::Furniture, &place, Some([1.0, 0.5]), dice, |mesh, dice| {
                        furniture::bench(mesh, &place, dice)
                    });
                }
                2 | 3 => {
                    self.add(Class::Furniture, &along, Some([0.4, 0.4]), dice, |mesh, dice| {
                        furniture::bin(mesh, &along, dice)
                    })
                }
                4 => {
                    let place = if side > 0.0 { along } else { along.turned(std::f32::consts::PI) };
                    self.add(Class::Furniture, &place, None, dice, |mesh, dice| {
                        furniture::sign(mesh, &place, dice)
                    });
                }
                5 => {
                    for j in 0..3 {
                        let place = street.pavement(s + 1.3 * j as f32, side * (KERB_M + 0.4));
                        self.add(Class::Furniture, &place, Some([0.2, 0.2]), dice, |mesh, _| {
                            furniture::bollard(mesh, &place)
                        });
                    }
                }
                _ => {}
            }
        }
        self.along_fronts(side, dice);
    }

    /// What stands before the house fronts, people included.
    fn along_fronts(&mut self, side: f32, dice: &mut Dice) {
        for k in 0..5 {
            let s = self.from_s + 3.5 + 7.6 * k as f32 + dice.range(-1.5, 1.5);
            let place = self.street.pavement(s, side * (FRONTS_M - 0.62));
            match dice.below(8) {
                0 | 1 => {
                    self.add(Class::Furniture, &place, Some([0.9, 1.1]), dice, |mesh, dice| {
                        furniture::table(mesh, &place, dice)
                    })
                }
                2 | 3 => {
                    self.add(Class::Furniture, &place, Some([0.5, 0.5]), dice, |mesh, dice| {
                        furniture::planter(mesh, &place, dice)
                    })
                }
                4 => self.add(Class::Furniture, &place, Some([0.4, 0.4]), dice, |mesh, dice| {
                    furniture::board(mesh, &place, dice)
                }),
                5 | 6 => {
                    let person = Person::new(dice);
                    let facing = hash_unit(self.next.into(), k, 3) * std::f32::consts::TAU;
                    let place = place.turned(facing);
                    self.add(Class::Person, &place, Some([0.4, 0.4]), dice, |mesh, _| {
                        person.pose(mesh, &place, None, 8)
                    });
                }
                _ => {}
            }
        }
    }
}
