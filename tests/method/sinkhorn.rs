//! Sinkhorn-Knopp.

use dora_core::sinkhorn_knopp;
use proptest::prelude::*;
use tch::Kind;

use super::{cases, largest_difference, order, sizes, uniform};

const EPS: f64 = 0.05;

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn both_marginals_are_uniform((b, n, k) in sizes(), seed: u64) {
        let plan_BNK = sinkhorn_knopp(&uniform(seed, &[b, n, k], Kind::Double), EPS, 3000);
        let of_patches = plan_BNK.sum_dim_intlist([2].as_slice(), false, Kind::Double);
        prop_assert!((of_patches - 1.0).abs().max().double_value(&[]) < 1e-12);
        let of_objects = plan_BNK.sum_dim_intlist([1].as_slice(), false, Kind::Double);
        let expected = n as f64 / k as f64;
        let error = (of_objects - expected).abs().max().double_value(&[]) / expected;
        prop_assert!(error < 1e-3, "objects are off by {error}");
        prop_assert!(plan_BNK.min().double_value(&[]) >= 0.0);
    }

    #[test]
    fn patches_and_objects_may_come_in_any_order((b, n, k) in sizes(), seed: u64) {
        let scores = uniform(seed, &[b, n, k], Kind::Double);
        let (patches, objects) = (order(seed ^ 1, n), order(seed ^ 2, k));
        let reordered =
            |t: &tch::Tensor| t.index_select(1, &patches).index_select(2, &objects);
        let expected = reordered(&sinkhorn_knopp(&scores, EPS, 30));
        let found = sinkhorn_knopp(&reordered(&scores), EPS, 30);
        prop_assert!(largest_difference(&expected, &found) < 1e-9);
    }

    #[test]
    fn only_differences_of_scores_in_units_of_eps_count(
        (b, n, k) in sizes(), seed: u64, shift in -50.0..50.0f64, scale in 0.1..20.0f64,
    ) {
        let scores = uniform(seed, &[b, n, k], Kind::Double);
        let plan = sinkhorn_knopp(&scores, EPS, 30);
        let shifts_B1K = uniform(seed ^ 1, &[b, 1, k], Kind::Double) * shift;
        let moved = (&scores + shifts_B1K) * scale;
        // The first scaling of the objects takes away what was added to one of them.
        let found = sinkhorn_knopp(&moved, EPS * scale, 30);
        prop_assert!(largest_difference(&plan, &found) < 1e-7);
    }

    #[test]
    fn huge_scores_give_finite_plans((b, n, k) in sizes(), seed: u64, log10 in 0.0..4.0f64) {
        let scores = uniform(seed, &[b, n, k], Kind::Float) * 10f64.powf(log10);
        let plan = sinkhorn_knopp(&scores, EPS, 30);
        prop_assert_eq!(plan.isfinite().all().int64_value(&[]), 1);
        let of_patches = plan.sum_dim_intlist([2].as_slice(), false, Kind::Float);
        prop_assert!((of_patches - 1.0).abs().max().double_value(&[]) < 0.1);
    }
}
