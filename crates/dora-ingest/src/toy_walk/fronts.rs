//! The parts of a house front that fill their rectangle once: windows, doors, shop fronts.

use super::math::{clouds, hash_unit, mix, noise, step};

/// Frame, panes with a dim room or curtains behind, and gloss where there is glass.
pub(super) fn window(kind: u8, u: f32, v: f32) -> [f32; 4] {
    let seed = 200 + u32::from(kind);
    let (columns, rows) =
        [(2, 1), (2, 2), (2, 3), (1, 2), (3, 2), (1, 1), (2, 2), (3, 1)][usize::from(kind % 8)];
    let frame = if kind % 3 == 1 { [0.42, 0.30, 0.22] } else { [0.92, 0.91, 0.88] };
    let frame = if kind % 8 == 7 { [0.22, 0.25, 0.28] } else { frame };
    let border = 0.06;
    let (x, y) = ((u - border) / (1.0 - 2.0 * border), (v - border) / (1.0 - 2.0 * border));
    let bar = |t: f32, n: i32| {
        let cell = (t * n as f32).fract();
        cell.min(1.0 - cell) / (n as f32)
    };
    let outside = !(0.0..1.0).contains(&x) || !(0.0..1.0).contains(&y);
    if outside || bar(x, columns) < 0.018 || bar(y, rows) < 0.018 {
        let shade = if outside && (v > 1.0 - border || u < border) { 0.72 } else { 1.0 };
        return [frame[0] * shade, frame[1] * shade, frame[2] * shade, 0.05];
    }
    let room = 0.10 + 0.10 * clouds(seed, x, y, 3, 3);
    let mut glass = [room * 0.95, room * 1.02, room * 1.15];
    let curtain = match kind % 4 {
        0 => (x - 0.5).abs() > 0.30 + 0.06 * y,
        1 => y > 0.55,
        2 => false,
        _ => (x * 1.3).fract() < 0.35 && hash_unit(seed, 5, 5) > 0.3,
    };
    if curtain {
        let fold = 0.72 + 0.16 * (x * 70.0).sin();
        let hue = [[1.0, 0.98, 0.92], [0.95, 0.86, 0.72], [0.82, 0.88, 0.95], [0.95, 0.8, 0.78]];
        glass = hue[(kind / 2 % 4) as usize].map(|c| c * fold * 0.85);
    }
    // The head of the opening throws a shade on the glass.
    let shade = mix(1.0, 0.55, step(0.86, 1.0, y)) * mix(1.0, 0.75, 1.0 - step(0.0, 0.08, x));
    [glass[0] * shade, glass[1] * shade, glass[2] * shade, 0.55]
}

/// A panelled door in its frame, with a knob and a light above; white, to be tinted.
pub(super) fn door(kind: u8, u: f32, v: f32) -> [f32; 4] {
    if !(0.09..0.91).contains(&u) || v > 0.96 {
        return [0.95, 0.94, 0.90, 0.0];
    }
    let x = (u - 0.09) / 0.82;
    if v > 0.82 {
        return if v < 0.84 { [0.9, 0.9, 0.88, 0.0] } else { [0.16, 0.18, 0.21, 0.5] };
    }
    let y = v / 0.82;
    let (knob_x, knob_y) = ((x - 0.88) / 0.04, (y - 0.48) / 0.02);
    if knob_x * knob_x + knob_y * knob_y < 1.0 {
        return [0.95, 0.85, 0.45, 0.6];
    }
    let (columns, rows) = [(2.0, 3.0), (1.0, 4.0), (2.0, 2.0), (1.0, 2.0)][usize::from(kind % 4)];
    let (px, py): (f32, f32) = ((x * columns).fract(), (y * rows).fract());
    let inset = px.min(1.0 - px).min(py.min(1.0 - py) * 1.4);
    if kind % 2 == 1 && y > 0.55 && inset > 0.16 {
        return [0.18, 0.2, 0.24, 0.5];
    }
    let relief = if (0.10..0.15).contains(&inset) {
        0.62
    } else if (0.15..0.19).contains(&inset) {
        1.0
    } else {
        0.86
    };
    let grain = 0.06 * (noise(230, u * 2.0, v * 0.3, 64) - 0.5);
    [relief + grain, relief + grain, relief + grain, 0.12]
}

/// A shop: plinth, glazed door and display with goods, and a sign with the shop's name on top.
pub(super) fn shop_painter(kind: u8) -> impl Fn(f32, f32) -> [f32; 4] {
    const NAMES: [&str; 12] = [
        "BAKERY", "BOOKS", "CAFE", "FLORIST", "SHOES", "TAILOR", "MARKET", "HOTEL", "MUSIC",
        "BARBER", "TOYS", "PIANOS",
    ];
    const SIGNS: [[f32; 3]; 12] = [
        [0.55, 0.16, 0.14],
        [0.12, 0.25, 0.42],
        [0.20, 0.38, 0.24],
        [0.88, 0.84, 0.72],
        [0.14, 0.14, 0.16],
        [0.42, 0.22, 0.42],
        [0.90, 0.66, 0.18],
        [0.32, 0.20, 0.12],
        [0.15, 0.45, 0.50],
        [0.80, 0.78, 0.80],
        [0.85, 0.35, 0.15],
        [0.60, 0.58, 0.40],
    ];
    let at = usize::from(kind % 12);
    let (name, sign) = (NAMES[at], SIGNS[at]);
    let seed = 300 + u32::from(kind);
    let door_left = if kind.is_multiple_of(3) {
        0.70
    } else if kind % 3 == 1 {
        0.05
    } else {
        0.38
    };
    move |u, v| {
        let trim = sign.map(|c| (c * 0.7 + 0.05).min(1.0));
        if v > 0.80 {
            return sign_texel(name, sign, u, (v - 0.80) / 0.20);
        }
        let in_door = (door_left..door_left + 0.24).contains(&u);
        if v < 0.16 && !in_door || v > 0.775 {
            let panel = if (u * 9.0).fract() < 0.06 { 0.75 } else { 1.0 };
            return [trim[0] * panel, trim[1] * panel, trim[2] * panel, 0.08];
        }
        let left = if in_door { (u - door_left) / 0.24 } else { (u * 3.2 + 0.03).fract() };
        let bar = if in_door { 0.10 } else { 0.045 };
        if left < bar || left > 1.0 - bar || (in_door && v < 0.10) {
            return [trim[0], trim[1], trim[2], 0.1];
        }
        let depth = clouds(seed, u, v, 4, 3);
        let lit = 0.20 + 0.22 * v + 0.14 * depth;
        let mut colour = [lit * 1.15, lit * 1.0, lit * 0.78];
        if let (false, Some(goods)) = (in_door, goods(seed, u, v)) {
            colour = goods;
        }
        [colour[0], colour[1], colour[2], 0.4]
    }
}

/// Goods on three shelves: boxes of every colour, some places empty.
fn goods(seed: u32, u: f32, v: f32) -> Option<[f32; 3]> {
    let shelf = [0.16, 0.34, 0.52].iter().rposition(|&floor| v >= floor)? as i32;
    let base = 0.16 + 0.18 * shelf as f32;
    let x = u * (14.0 + 5.0 * hash_unit(seed, 1, shelf));
    let slot = x as i32;
    let high = 0.05 + 0.09 * hash_unit(seed, slot, 10 + shelf);
    if v - base < 0.012 {
        return Some([0.42, 0.34, 0.26]);
    }
    let wide = 0.25 + 0.2 * hash_unit(seed, slot, 20 + shelf);
    if hash_unit(seed, slot, 30 + shelf) < 0.25 || v - base > high || (x.fract() - 0.5).abs() > wide
    {
        return None;
    }
    Some(std::array::from_fn(|c| 0.25 + 0.65 * hash_unit(seed, slot, 40 + 8 * shelf + c as i32)))
}

/// The sign board: `name` in block letters on `board`.
fn sign_texel(name: &str, board: [f32; 3], u: f32, v: f32) -> [f32; 4] {
    let bright = board.iter().sum::<f32>() > 1.5;
    let ink = if bright { [0.12, 0.1, 0.1] } else { [0.96, 0.92, 0.8] };
    let rim = !(0.012..0.988).contains(&u) || !(0.06..0.94).contains(&v);
    let columns = name.len() as f32 * 6.0 - 1.0;
    let cell = 0.011_f32.max(0.5 / columns).min(0.016);
    let x = (u - 0.5) / cell + columns / 2.0;
    let y = (0.5 - v) / 0.085 + 3.5;
    let inked = x >= 0.0 && x < columns && (0.0..7.0).contains(&y) && {
        let (letter, column, row) = ((x / 6.0) as usize, (x % 6.0) as u32, y as usize);
        column < 5 && glyph(name.as_bytes()[letter])[row] >> (4 - column) & 1 == 1
    };
    let [r, g, b] = if inked || rim { ink } else { board };
    [r, g, b, 0.08]
}

/// Seven rows of five bits, the leftmost highest.
fn glyph(letter: u8) -> [u8; 7] {
    match letter {
        b'A' => [14, 17, 17, 31, 17, 17, 17],
        b'B' => [30, 17, 17, 30, 17, 17, 30],
        b'C' => [14, 17, 16, 16, 16, 17, 14],
        b'E' => [31, 16, 16, 30, 16, 16, 31],
        b'F' => [31, 16, 16, 30, 16, 16, 16],
        b'H' => [17, 17, 17, 31, 17, 17, 17],
        b'I' => [14, 4, 4, 4, 4, 4, 14],
        b'K' => [17, 18, 20, 24, 20, 18, 17],
        b'L' => [16, 16, 16, 16, 16, 16, 31],
        b'M' => [17, 27, 21, 21, 17, 17, 17],
        b'N' => [17, 25, 21, 19, 17, 17, 17],
        b'O' => [14, 17, 17, 17, 17, 17, 14],
        b'P' => [30, 17, 17, 30, 16, 16, 16],
        b'R' => [30, 17, 17, 30, 20, 18, 17],
        b'S' => [15, 16, 16, 14, 1, 1, 30],
        b'T' => [31, 4, 4, 4, 4, 4, 4],
        b'U' => [17, 17, 17, 17, 17, 17, 14],
        _ => [17, 17, 10, 4, 4, 4, 4],
    }
}
