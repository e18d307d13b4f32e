//! Schedules.

use dora_core::schedule::{Cosine, linear};
use proptest::prelude::*;

use super::cases;

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_cosine_rises_to_its_base_then_falls_to_its_end(
        base in 0.1..10.0f64, share in 0.0..1.0f64, warmup_steps in 2..50u64, rest in 1..500u64,
    ) {
        let (end, total_steps) = (base * share, warmup_steps + rest);
        let cosine = Cosine { base, end, start: 0.0, warmup_steps, total_steps };
        prop_assert_eq!(cosine.at(0), 0.0);
        prop_assert!((cosine.at(warmup_steps - 1) - base).abs() < 1e-12);
        prop_assert!((cosine.at(warmup_steps) - base).abs() < 1e-12);
        prop_assert_eq!(cosine.at(total_steps), end);
        prop_assert_eq!(cosine.at(total_steps + 1000), end);
        for step in 1..total_steps {
            let (before, now) = (cosine.at(step - 1), cosine.at(step));
            if step < warmup_steps {
                prop_assert!(now > before);
            } else {
                prop_assert!(now <= before + 1e-12 && now >= end);
            }
        }
    }

    #[test]
    fn a_rising_cosine_stays_between_its_ends(base in 0.9..1.0f64, total_steps in 1..500u64) {
        let momentum = Cosine::new(base, 1.0, total_steps);
        prop_assert_eq!(momentum.at(0), base);
        for step in 1..=total_steps {
            prop_assert!(momentum.at(step) >= momentum.at(step - 1) - 1e-15);
            prop_assert!(momentum.at(step) <= 1.0);
        }
    }

    #[test]
    fn a_line_holds_both_its_ends(start in -1.0..1.0f64, end in -1.0..1.0f64, steps in 2..100u64) {
        prop_assert_eq!(linear(start, end, steps, 0), start);
        prop_assert!((linear(start, end, steps, steps - 1) - end).abs() < 1e-12);
        prop_assert_eq!(linear(start, end, steps, steps), end);
    }
}
