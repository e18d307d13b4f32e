//! A seeded permutation of 0..n that is computed, not stored.

use rand::Rng;
use rand::rngs::ChaCha8Rng;

use crate::rng::mix;

const ROUNDS: usize = 8;

/// A bijection of 0..n onto itself in constant memory: a Feistel network over the smallest even
/// number of bits that holds n, walked along its cycles until it comes back below n (fewer than
/// four steps on average).
#[derive(Clone, Debug)]
pub struct Permutation {
    n: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// A permutation of `n` items with keys drawn from `rng`.
    pub fn new(n: u64, rng: &mut ChaCha8Rng) -> Self {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        Self {
            n,
            half_bits: bits.div_ceil(2).max(1),
            keys: std::array::from_fn(|_| rng.next_u64()),
        }
    }

    /// The item at position `index`, which must lie below n.
    ///
    /// # Panics
    /// If `index` is not below n.
    pub fn get(&self, index: u64) -> u64 {
        assert!(index < self.n, "position {index} of {}", self.n);
        // A walk that starts below n follows a cycle through `index`, so it ends.
        let mut item = self.network(index);
        while item >= self.n {
            item = self.network(item);
        }
        item
    }

    fn network(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half_bits | right
    }
}
