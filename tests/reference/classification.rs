//! k-NN and the linear probe.

use dora_eval::classification::{
    knn::{Neighbours, unit_features},
    linear::{Labelled, LinearSpec, train_and_score},
};
use tch::{Device, Kind, Reduction, Tensor, no_grad};

use super::{FORWARD, Golden, check};
use crate::method::uniform;

#[test]
fn neighbours_vote_as_stated() {
    let golden = Golden::read("knn");
    let [bank_ND, queries_QD] =
        ["bank", "queries"].map(|name| unit_features(&golden.get(name).unsqueeze(1)));
    let (classes, temperature) = (golden.integer("classes"), golden.number("temperature"));
    let expected: Vec<(i64, Tensor)> = golden
        .tensors
        .iter()
        .filter_map(|(name, scores)| {
            Some((name.strip_prefix("scores_")?.parse().ok()?, scores.copy()))
        })
        .collect();
    assert!(!expected.is_empty());
    let most = expected.iter().map(|(k, _)| *k).max().unwrap();
    let neighbours = Neighbours::find(&bank_ND, &queries_QD, most);
    for (k, scores_QC) in expected {
        let found = neighbours.vote(&golden.on_cpu("labels"), classes, k, temperature);
        check(&format!("scores of {k} neighbours"), &found, &scores_QC, FORWARD);
    }
}

/// Gradients by hand, momentum and the cosine against libtorch's autograd and optimiser.
#[test]
fn the_probe_takes_the_steps_of_sgd() {
    const CLASSES: i64 = 4;
    const EPOCHS: u64 = 6;
    const IMAGES: i64 = 20;
    let view_ND = uniform(11, &[IMAGES, 7], Kind::Float);
    let labels_N = Tensor::arange(IMAGES, (Kind::Int64, Device::Cpu)).remainder(CLASSES);
    let other_ND = uniform(12, &[IMAGES, 7], Kind::Float);
    let data = Labelled {
        views_V: vec![view_ND.copy(), other_ND.copy()],
        labels_N: labels_N.copy(),
        classes: CLASSES,
    };
    let queries_QD = uniform(13, &[5, 7], Kind::Float);
    let spec = |epochs| LinearSpec { epochs, batch: 32, lr: 2.0, seed: 5 };
    let mut trained =
        train_and_score(&data, &queries_QD, Device::Cpu, &[spec(0), spec(EPOCHS)], &|| ());
    let (found, found_QC) = trained.pop().unwrap();
    let (first, _) = trained.pop().unwrap();

    let mut weight_CD = first.weight_CD.set_requires_grad(true);
    let mut bias_C = first.bias_C.set_requires_grad(true);
    let mut sgd = tch::COptimizer::sgd(0.0, 0.9, 0.0, 0.0, false).unwrap();
    sgd.add_parameters(&weight_CD, 0).unwrap();
    sgd.add_parameters(&bias_C, 0).unwrap();
    for epoch in 0..EPOCHS {
        let progress = epoch as f64 / EPOCHS as f64;
        // 2.0 * 32 / 256 at the height.
        sgd.set_learning_rate(0.125 * (1.0 + (progress * std::f64::consts::PI).cos())).unwrap();
        let inputs_ND = if epoch % 2 == 0 { &view_ND } else { &other_ND };
        let scores_NC = inputs_ND.linear(&weight_CD, Some(&bias_C));
        let none = None::<Tensor>;
        let loss = scores_NC.cross_entropy_loss(&labels_N, none, Reduction::Mean, -100, 0.0);
        sgd.zero_grad().unwrap();
        loss.backward();
        no_grad(|| sgd.step().unwrap());
    }
    let _ = (weight_CD.requires_grad_(false), bias_C.requires_grad_(false));
    check("weights", &found.weight_CD, &weight_CD, FORWARD);
    check("biases", &found.bias_C, &bias_C, FORWARD);
    let expected_QC = queries_QD.linear(&weight_CD, Some(&bias_C));
    check("scores", &found_QC, &expected_QC, FORWARD);
}
