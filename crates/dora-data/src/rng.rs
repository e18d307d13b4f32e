//! The project's one source of randomness: named streams of a seed.
//!
//! Whoever needs random numbers names what they are for (`"crop"`) and for whom (epoch, sample,
//! frame), and gets a generator of its own. So nothing depends on the order of calls, on threads
//! or on the number of ranks, and a run that resumes draws what it would have drawn.

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

/// Opens the stream `name` of `seed` for the things numbered `ids`.
///
/// The same three arguments give the same numbers on every platform and in every version; streams
/// that differ in any of them are independent. The 256-bit key is made of four 64-bit lanes that
/// start from different constants; each absorbs the words of the message (seed, length of the
/// name, its bytes in little-endian words padded by zeros, number of ids, ids) by exclusive or,
/// and mixes after every word with the finaliser of splitmix64.
pub fn stream(seed: u64, name: &str, ids: &[u64]) -> ChaCha8Rng {
    let mut lanes = [mix(1), mix(2), mix(3), mix(4)];
    let mut absorb = |word: u64| lanes = lanes.map(|lane| mix(lane ^ word));
    absorb(seed);
    absorb(name.len() as u64);
    for bytes in name.as_bytes().chunks(8) {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        absorb(u64::from_le_bytes(word));
    }
    absorb(ids.len() as u64);
    ids.iter().copied().for_each(absorb);

    let mut key = [0; 32];
    for (bytes, lane) in key.chunks_exact_mut(8).zip(lanes) {
        bytes.copy_from_slice(&lane.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Draws from a stream, defined here bit for bit, so that no dependency can change them.
pub trait Draw {
    /// A number in [0, 1), from the upper 53 bits of one 64-bit word.
    fn unit(&mut self) -> f64;

    /// A number in [`low`, `high`); `low` where both are equal.
    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with probability `p`.
    fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// An integer in 0..`n`, or 0 for `n` = 0; its bias is below n / 2^64.
    fn below(&mut self, n: u64) -> u64;

    /// A random order of `items`, in place.
    fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

impl Draw for ChaCha8Rng {
    fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    fn below(&mut self, n: u64) -> u64 {
        ((self.next_u64() as u128 * n as u128) >> 64) as u64
    }
}

/// The output function of splitmix64 one step after the state `x`: a bijection that mixes well.
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
