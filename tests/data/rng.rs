//! Streams that can never change silently, and permutations.

use dora_data::permutation::Permutation;
use dora_data::rng::{Draw, stream};
use proptest::prelude::*;
use rand::Rng;

/// Computed by a second statement of the key and of ChaCha with 8 rounds (RFC 8439 describes 20),
/// in Python's integers. A change here would change every run.
#[test]
fn first_words_are_frozen() {
    let words = |seed, name, ids: &[u64]| {
        let mut rng = stream(seed, name, ids);
        [rng.next_u64(), rng.next_u64()]
    };
    assert_eq!(words(0, "", &[]), GOLDEN[0]);
    assert_eq!(words(42, "crop", &[3, 123_456]), GOLDEN[1]);
    assert_eq!(words(u64::MAX, "global colour", &[0, 0, 1, 7]), GOLDEN[2]);
}

const GOLDEN: [[u64; 2]; 3] = [
    [0x811a_564c_fbcf_ef58, 0x79b3_4a28_6542_2884],
    [0x90dd_3da6_ca4c_d631, 0x37a4_207b_b3b4_a0e1],
    [0xfdc4_2daa_2bae_0875, 0x6959_a62b_8f8f_e013],
];

#[test]
fn draws_are_frozen() {
    let mut rng = stream(7, "draws", &[]);
    let mut order = [0, 1, 2, 3, 4];
    rng.shuffle(&mut order);
    let drawn = (rng.unit(), rng.uniform(-2.0, 3.0), rng.below(1000), rng.chance(0.5), order);
    assert_eq!(drawn, (0.6004348238633902, 2.5251553450764845, 935, false, [1, 2, 0, 4, 3]));
}

#[test]
fn streams_differ_in_every_part_of_their_name() {
    let names: [(u64, &str, &[u64]); 8] = [
        (1, "a", &[]),
        (2, "a", &[]),
        (1, "b", &[]),
        (1, "a\0", &[]),
        (1, "a", &[0]),
        (1, "a", &[0, 0]),
        (1, "", &[97]),
        (1, "abcdefgha", &[]),
    ];
    let mut words: Vec<_> = names.iter().map(|(s, n, i)| stream(*s, n, i).next_u64()).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), names.len());
}

#[test]
fn draws_are_spread_evenly() {
    let mut tenths = [0; 10];
    let mut mean = 0.0;
    for id in 0..20_000 {
        let unit = stream(5, "spread", &[id]).unit();
        assert!((0.0..1.0).contains(&unit));
        tenths[(unit * 10.0) as usize] += 1;
        mean += unit / 20_000.0;
    }
    assert!((mean - 0.5).abs() < 0.01, "{mean}");
    assert!(tenths.iter().all(|count| (1800..2200).contains(count)), "{tenths:?}");
}

proptest! {
    #[test]
    fn below_stays_below(seed: u64, n in 1..u64::MAX) {
        prop_assert!(stream(seed, "below", &[]).below(n) < n);
    }

    #[test]
    fn permutations_are_bijections(n in 1..5000u64, seed: u64) {
        let order = Permutation::new(n, &mut stream(seed, "test", &[]));
        let mut seen = vec![false; n as usize];
        for index in 0..n {
            let item = order.get(index) as usize;
            prop_assert!(!std::mem::replace(&mut seen[item], true), "{item} twice");
        }
    }

    #[test]
    fn large_permutations_stay_below_n(n in 1..=u64::MAX, index: u64, seed: u64) {
        let order = Permutation::new(n, &mut stream(seed, "test", &[]));
        prop_assert!(order.get(index % n) < n);
    }
}

#[test]
fn permutations_mix() {
    // Neighbours end up far from one another: the mean distance in a random order is n / 3.
    let n = 100_000;
    let order = Permutation::new(n, &mut stream(3, "test", &[]));
    let distance: u64 = (1..n).map(|i| order.get(i).abs_diff(order.get(i - 1))).sum();
    let mean = distance as f64 / (n - 1) as f64 / n as f64;
    assert!((mean - 1.0 / 3.0).abs() < 0.01, "{mean}");
    // Each of the 24 orders of four items comes up about equally often.
    let mut counts = std::collections::BTreeMap::new();
    for seed in 0..4800 {
        let order = Permutation::new(4, &mut stream(seed, "test", &[]));
        let order = [order.get(0), order.get(1), order.get(2), order.get(3)];
        *counts.entry(order).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 24);
    assert!(counts.values().all(|count| (130..280).contains(count)), "{counts:?}");
}
