//! The losses, against their definitions written out as loops.

use dora_core::loss::{Reduction, cross_entropy_loss, teacher_probs};
use proptest::prelude::*;
use tch::{Kind, Tensor};

use super::{cases, largest_difference, uniform};

/// Divides logits in [-1, 1].
const TEMP: f64 = 0.1;
const OUT_DIM: i64 = 7;

/// Views, clips, frames, objects and crops.
type Sizes = (i64, i64, i64, i64, i64);

struct Batch {
    probs_VBTD: Tensor,
    global_VBTKD: Tensor,
    local_BTLD: Tensor,
}

impl Batch {
    fn new(seed: u64, sizes: Sizes) -> Self {
        let (v, b, t, k, l) = sizes;
        let center = uniform(seed, &[1, OUT_DIM], Kind::Double);
        let teacher = uniform(seed ^ 1, &[v, b, t, OUT_DIM], Kind::Double);
        Self {
            probs_VBTD: teacher_probs(&teacher, &center, 0.3),
            global_VBTKD: uniform(seed ^ 2, &[v, b, t, k, OUT_DIM], Kind::Double) / TEMP,
            local_BTLD: uniform(seed ^ 3, &[b, t, l, OUT_DIM], Kind::Double) / TEMP,
        }
    }

    fn loss(&self, reduction: Reduction) -> f64 {
        let Self { probs_VBTD, global_VBTKD, local_BTLD, .. } = self;
        let loss = cross_entropy_loss(probs_VBTD, global_VBTKD, local_BTLD, reduction);
        loss.total.double_value(&[])
    }

    /// Mean over the clips of H(p_u, student(view v masked by object k)) in frame t.
    fn object(&self, u: i64, v: i64, t: i64, k: i64) -> f64 {
        let p = self.probs_VBTD.get(u).select(1, t);
        entropy_between(&p, &self.global_VBTKD.get(v).select(1, t).select(1, k))
    }

    /// Mean over the clips of H(p_u, student(crop l)) in frame t.
    fn crop(&self, u: i64, t: i64, l: i64) -> f64 {
        let p = self.probs_VBTD.get(u).select(1, t);
        entropy_between(&p, &self.local_BTLD.select(1, t).select(1, l))
    }
}

fn entropy_between(p_BD: &Tensor, logits_BD: &Tensor) -> f64 {
    let log_q = logits_BD.log_softmax(-1, None::<Kind>);
    let sums = (p_BD * log_q).sum_dim_intlist([-1].as_slice(), false, None::<Kind>);
    -sums.mean(Kind::Double).double_value(&[])
}

fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.into_iter().collect();
    values.iter().sum::<f64>() / values.len() as f64
}

fn pairs(n: i64, m: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..n).flat_map(move |i| (0..m).map(move |j| (i, j)))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn one_view_mean((b, t, k, l) in (1..4i64, 1..5i64, 1..4i64, 1..5i64), seed: u64) {
        let batch = Batch::new(seed, (1, b, t, k, l));
        let expected = mean((0..t).map(|t| {
            let objects = mean((0..k).map(|k| batch.object(0, 0, t, k)));
            let crops = mean((0..l).map(|l| batch.crop(0, t, l)));
            0.5 * (objects + crops)
        }));
        prop_assert!((batch.loss(Reduction::Mean) - expected).abs() < 1e-9);
    }

    #[test]
    fn two_views_mean((b, t, k, l) in (1..4i64, 1..5i64, 1..4i64, 1..5i64), seed: u64) {
        let batch = Batch::new(seed, (2, b, t, k, l));
        let objects = mean(
            [(0, 1), (1, 0)]
                .into_iter()
                .flat_map(|(u, v)| pairs(t, k).map(move |(t, k)| (u, v, t, k)))
                .map(|(u, v, t, k)| batch.object(u, v, t, k)),
        );
        let crops = mean(
            (0..2).flat_map(|u| pairs(t, l).map(move |(t, l)| (u, t, l)))
                .map(|(u, t, l)| batch.crop(u, t, l)),
        );
        prop_assert!((batch.loss(Reduction::Mean) - 0.5 * (objects + crops)).abs() < 1e-9);
    }

    #[test]
    fn released((b, t, k, l) in (1..4i64, 1..5i64, 1..4i64, 2..5i64), seed: u64) {
        let batch = Batch::new(seed, (1, b, t, k, l));
        let (mut running, mut total) = (0.0, 0.0);
        for k in 0..k {
            for t in 0..t {
                let crops = mean((1..l).map(|l| batch.crop(0, t, l)));
                running += 0.5 * (batch.object(0, 0, t, k) + crops);
            }
            running /= t as f64;
            total += running;
        }
        let expected = total / k as f64;
        prop_assert!((batch.loss(Reduction::Released) - expected).abs() < 1e-9);
    }

    #[test]
    fn dino_weighs_every_pair_of_views_the_same(
        (b, t, l) in (1..4i64, 1..5i64, 1..5i64), seed: u64,
    ) {
        let batch = Batch::new(seed, (2, b, t, 1, l));
        let expected = mean((0..t).map(|t| {
            let others = [batch.object(0, 1, t, 0), batch.object(1, 0, t, 0)];
            mean(others.into_iter().chain(pairs(2, l).map(|(u, l)| batch.crop(u, t, l))))
        }));
        prop_assert!((batch.loss(Reduction::Pairs) - expected).abs() < 1e-9);
    }

    #[test]
    fn a_student_that_answers_as_the_teacher_has_no_divergence(
        (b, t, k) in (1..4i64, 1..5i64, 1..4i64), seed: u64,
    ) {
        let batch = Batch::new(seed, (1, b, t, k, 2));
        let same = batch.probs_VBTD.log().unsqueeze(3);
        let global_VBTKD = same.expand([1, b, t, k, OUT_DIM], false);
        let loss = cross_entropy_loss(
            &batch.probs_VBTD, &global_VBTKD, &batch.local_BTLD, Reduction::Mean,
        );
        prop_assert!(loss.kl.double_value(&[]).abs() < 1e-9);
        prop_assert!(largest_difference(&loss.global, &loss.teacher_entropy) < 1e-9);
    }
}
