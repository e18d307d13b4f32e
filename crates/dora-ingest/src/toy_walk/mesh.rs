//! Triangle meshes in world coordinates and the shapes that everything is built from.

use super::cover::Cover;
use super::math::{Place, Vec3, v3};

/// How a face looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Look {
    /// Index of the texture ([`Cover::index`]).
    pub(super) texture: u8,
    /// Linear colour that the texture is multiplied with.
    pub(super) tint: [f32; 3],
    /// Multiplies the texture's gloss.
    pub(super) gloss: f32,
    /// Strength of broad stains, which also keep repetition from showing.
    pub(super) stains: f32,
    /// Seen through where the texture has no coverage, and from both sides.
    pub(super) cut_out: bool,
}

impl Look {
    /// `cover` tinted with a colour as a screen shows it, channels in [0, 1].
    pub(super) fn new(cover: Cover, colour: [f32; 3]) -> Look {
        let cut_out = matches!(cover, Cover::Leaves(_) | Cover::Railing);
        Look {
            texture: cover.index() as u8,
            tint: colour.map(|c| c * c),
            gloss: if cut_out { 0.0 } else { 1.0 },
            stains: 0.0,
            cut_out,
        }
    }

    /// The same look with broad stains.
    pub(super) fn stained(self, stains: f32) -> Look {
        Look { stains, ..self }
    }

    /// The same look with its gloss multiplied.
    pub(super) fn glossy(self, gloss: f32) -> Look {
        Look { gloss, ..self }
    }
}

/// A corner: position, unit normal, texture coordinates in repeats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vertex {
    pub(super) at: Vec3,
    pub(super) normal: Vec3,
    pub(super) uv: [f32; 2],
}

/// Three corners, counter-clockwise as seen from outside, and an index into `looks`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Face {
    pub(super) corners: [u32; 3],
    pub(super) look: u32,
}

/// A growing mesh; shapes are added with the look that was last set.
///
/// A coarse mesh is for things far away: the same shapes come out with fewer faces, and what
/// would be thinner than a pixel is left out.
#[derive(Debug, Default)]
pub(super) struct Mesh {
    pub(super) coarse: bool,
    pub(super) vertices: Vec<Vertex>,
    pub(super) faces: Vec<Face>,
    pub(super) looks: Vec<Look>,
}

impl Mesh {
    /// Shapes added from now on look like this.
    pub(super) fn paint(&mut self, look: Look) -> &mut Mesh {
        if self.looks.last() != Some(&look) {
            self.looks.push(look);
        }
        self
    }

    fn face(&mut self, a: u32, b: u32, c: u32) {
        self.faces
            .push(Face { corners: [a, b, c], look: self.looks.len().saturating_sub(1) as u32 });
    }

    /// A flat quadrilateral: bottom left, bottom right, top right, top left as seen from outside;
    /// `uv` holds the coordinates at bottom left and top right.
    pub(super) fn quad(&mut self, [a, b, c, d]: [Vec3; 4], [u0, v0, u1, v1]: [f32; 4]) {
        let normal = (d - a).cross(b - a).unit();
        let first = self.vertices.len() as u32;
        for (at, uv) in [(a, [u0, v0]), (b, [u1, v0]), (c, [u1, v1]), (d, [u0, v1])] {
            self.vertices.push(Vertex { at, normal, uv });
        }
        self.face(first, first + 1, first + 2);
        self.face(first, first + 2, first + 3);
    }

    /// A quadrilateral whose texture lies on its side: v runs to the right, `repeats` times.
    pub(super) fn quad_turned(&mut self, corners: [Vec3; 4], repeats: f32) {
        let first = self.vertices.len();
        self.quad(corners, [0.0, 0.0, repeats, 1.0]);
        self.vertices[first..].iter_mut().for_each(|v| v.uv.swap(0, 1));
    }

    /// A quadrilateral with given normal (leaves are lit as the ball they form).
    pub(super) fn card(&mut self, centre: Vec3, right: Vec3, up: Vec3, normal: Vec3) {
        let first = self.vertices.len();
        self.quad(
            [centre - right - up, centre + right - up, centre + right + up, centre - right + up],
            [0.0, 0.0, 1.0, 1.0],
        );
        self.vertices[first..].iter_mut().for_each(|v| v.normal = normal);
    }

    /// A rectangle in the plane z = `z` of `place`, facing its -z, textured once over its area.
    pub(super) fn panel(&mut self, place: &Place, [x0, y0, x1, y1]: [f32; 4], z: f32) {
        let corners =
            [place.at(x0, y0, z), place.at(x1, y0, z), place.at(x1, y1, z), place.at(x0, y1, z)];
        self.quad(corners, [0.0, 0.0, 1.0, 1.0]);
    }

    /// A disc about the origin of `place`, facing its -z; its texture is turned by `turn`.
    pub(super) fn disc(&mut self, place: &Place, radius: f32, turn: f32, sides: u32) {
        let sides = if self.coarse { sides.min(7) } else { sides };
        let first = self.vertices.len() as u32;
        let normal = -place.forward;
        self.vertices.push(Vertex { at: place.origin, normal, uv: [0.5, 0.5] });
        for side in 0..sides {
            // A triangle stands on its side.
            let angle = (0.25 + side as f32 / sides as f32) * std::f32::consts::TAU;
            let (sin, cos) = angle.sin_cos();
            let (v, u) = (angle + turn).sin_cos();
            self.vertices.push(Vertex {
                at: place.at(radius * cos, radius * sin, 0.0),
                normal,
                uv: [0.5 + 0.49 * u, 0.5 + 0.49 * v],
            });
            self.face(first, first + 1 + side, first + 1 + (side + 1) % sides);
        }
    }

    /// A box without its floor, between two local corners; `repeat_m` metres to a texture repeat.
    pub(super) fn block(&mut self, place: &Place, low: Vec3, high: Vec3, repeat_m: f32) {
        let mut sides = [high.x - low.x, high.y - low.y, high.z - low.z];
        sides.sort_by(f32::total_cmp);
        if self.coarse && sides[1] < 0.3 {
            return;
        }
        let p = |x, y, z| place.at(x, y, z);
        let (Vec3 { x: x0, y: y0, z: z0 }, Vec3 { x: x1, y: y1, z: z1 }) = (low, high);
        let k = 1.0 / repeat_m;
        let (w, h, l) = ((x1 - x0) * k, (y1 - y0) * k, (z1 - z0) * k);
        let (u, v, s) = (x0 * k, y0 * k, z0 * k);
        self.quad(
            [p(x0, y0, z0), p(x1, y0, z0), p(x1, y1, z0), p(x0, y1, z0)],
            [u, v, u + w, v + h],
        );
        self.quad(
            [p(x1, y0, z1), p(x0, y0, z1), p(x0, y1, z1), p(x1, y1, z1)],
            [u, v, u + w, v + h],
        );
        self.quad(
            [p(x1, y0, z0), p(x1, y0, z1), p(x1, y1, z1), p(x1, y1, z0)],
            [s, v, s + l, v + h],
        );
        self.quad(
            [p(x0, y0, z1), p(x0, y0, z0), p(x0, y1, z0), p(x0, y1, z1)],
            [s, v, s + l, v + h],
        );
        self.quad(
            [p(x0, y1, z0), p(x1, y1, z0), p(x1, y1, z1), p(x0, y1, z1)],
            [u, s, u + w, s + l],
        );
    }

    /// A smooth surface through `rows` of points, all of one length: rows go up, points go right
    /// as seen from outside. `closed` joins the last column to the first. The texture covers
    /// `repeats` over the whole.
    pub(super) fn sheet(&mut self, rows: &[Vec<Vec3>], closed: bool, repeats: [f32; 2]) {
        let (height, width) = (rows.len(), rows.first().map_or(0, Vec::len));
        if height < 2 || width < 2 {
            return;
        }
        let first = self.vertices.len() as u32;
        let columns = if closed { width + 1 } else { width };
        for (i, row) in rows.iter().enumerate() {
            for j in 0..columns {
                let (left, right) = if closed {
                    (row[(j + width - 1) % width], row[(j + 1) % width])
                } else {
                    (row[j.saturating_sub(1)], row[(j + 1).min(width - 1)])
                };
                let (below, above) = (
                    rows[i.saturating_sub(1)][j % width],
                    rows[(i + 1).min(height - 1)][j % width],
                );
                self.vertices.push(Vertex {
                    at: row[j % width],
                    normal: (above - below).cross(right - left).unit(),
                    uv: [
                        repeats[0] * j as f32 / (columns - 1) as f32,
                        repeats[1] * i as f32 / (height - 1) as f32,
                    ],
                });
            }
        }
        for i in 0..height as u32 - 1 {
            for j in 0..columns as u32 - 1 {
                let a = first + i * columns as u32 + j;
                let d = a + columns as u32;
                self.face(a, a + 1, d + 1);
                self.face(a, d + 1, d);
            }
        }
    }

    /// A round body about the up axis of `place`: `rings` of (height, half width, half depth).
    pub(super) fn round(
        &mut self,
        place: &Place,
        rings: &[(f32, f32, f32)],
        sides: usize,
        repeats: [f32; 2],
    ) {
        let sides = if self.coarse { sides.min(5) } else { sides };
        let rows: Vec<Vec<Vec3>> = rings
            .iter()
            .map(|&(y, rx, rz)| {
                (0..sides)
                    .map(|k| {
                        let (sin, cos) =
                            (k as f32 / sides as f32 * std::f32::consts::TAU).sin_cos();
                        place.at(rx.max(1e-3) * sin, y, -rz.max(1e-3) * cos)
                    })
                    .collect()
            })
            .collect();
        self.sheet(&rows, true, repeats);
    }

    /// A ball stretched along the axes of `place`.
    pub(super) fn ball(&mut self, place: &Place, radii: Vec3, sides: usize, rings: usize) {
        let rings = if self.coarse { 3 } else { rings };
        let rings: Vec<_> = (0..=rings)
            .map(|i| {
                let (sin, cos) = (i as f32 / rings as f32 * std::f32::consts::PI).sin_cos();
                (-radii.y * cos, radii.x * sin, radii.z * sin)
            })
            .collect();
        self.round(place, &rings, sides, [1.0, 1.0]);
    }

    /// A limb from `a` to `b` with rounded ends.
    pub(super) fn limb(
        &mut self,
        [a, b]: [Vec3; 2],
        [ra, rb]: [f32; 2],
        facing: Vec3,
        sides: usize,
    ) {
        let length = (b - a).length();
        let place = Place::along(a, b - a, facing);
        let repeats = [1.0, (length * 2.0).max(0.5)];
        if self.coarse {
            return self.round(
                &place,
                &[(-0.4 * ra, ra, ra), (length + 0.4 * rb, rb, rb)],
                sides,
                repeats,
            );
        }
        let bulge = (ra + rb) * 0.5 * 1.04;
        let rings = [
            (-0.7 * ra, 0.5 * ra, 0.5 * ra),
            (0.0, ra, ra),
            (length * 0.45, bulge, bulge),
            (length, rb, rb),
            (length + 0.7 * rb, 0.5 * rb, 0.5 * rb),
        ];
        self.round(&place, &rings, sides, repeats);
    }

    /// A straight post of one radius, with a flat-looking top.
    pub(super) fn post(&mut self, place: &Place, height: f32, radius: f32, sides: usize) {
        if self.coarse {
            return;
        }
        let rings = [(0.0, radius, radius), (height, radius, radius), (height + 0.01, 0.0, 0.0)];
        self.round(place, &rings, sides, [1.0, height]);
    }

    /// Centre and radius of a ball that holds every vertex.
    pub(super) fn bound(&self) -> (Vec3, f32) {
        let (mut low, mut high) =
            (v3(f32::MAX, f32::MAX, f32::MAX), v3(f32::MIN, f32::MIN, f32::MIN));
        for Vertex { at, .. } in &self.vertices {
            low = v3(low.x.min(at.x), low.y.min(at.y), low.z.min(at.z));
            high = v3(high.x.max(at.x), high.y.max(at.y), high.z.max(at.z));
        }
        let centre = (low + high) * 0.5;
        let radius = self.vertices.iter().map(|v| (v.at - centre).length()).fold(0.0, f32::max);
        (centre, radius)
    }
}
