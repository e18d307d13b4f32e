//! A linear classifier on frozen `[CLS]` features, as DINO trains it: SGD with momentum 0.9, no weight
//! decay, a learning rate that falls to 0 by a cosine, another random view of each image in every epoch.

use std::convert::Infallible;

use dora_data::rng::{Draw, stream};
use rand_distr::{Distribution, StandardNormal};
use tch::{Device, Kind, Tensor};

use crate::encoder::cores::on_cores;

const MOMENTUM: f64 = 0.9;
/// Standard deviation of the first weights.
const INIT_STD: f32 = 0.01;
/// Rows that are scored at once.
const ROWS_AT_ONCE: i64 = 1 << 14;

/// How a classifier is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearSpec {
    /// Times that every image is seen.
    pub epochs: u64,
    /// Images of a step; the last one of an epoch may have fewer.
    pub batch: usize,
    /// Learning rate of the first epoch for a batch of 256; scaled linearly with the batch.
    pub lr: f64,
    /// What the first weights and the order of the images are drawn from.
    pub seed: u64,
}

/// Features of images and their labels, on the CPU: of a large set a GPU has no room for all views.
#[derive(Debug)]
pub struct Labelled {
    /// Features of each view, `[N, D]`.
    pub views_V: Vec<Tensor>,
    /// Int64 `[N]`.
    pub labels_N: Tensor,
    /// Number of classes.
    pub classes: i64,
}

/// A trained classifier.
#[derive(Debug)]
pub struct Linear {
    /// Weights, float32.
    pub weight_CD: Tensor,
    /// Biases.
    pub bias_C: Tensor,
    /// Mean cross-entropy over the last epoch; not finite where the learning rate was too high.
    pub loss: f64,
}

/// `[CLS]` features `[N, L, D]` of the last L blocks as the classifier takes them: one after another,
/// `[N, L * D]`.
pub fn flat_features(features_NLD: &Tensor) -> Tensor {
    features_NLD.flatten(1, 2)
}

/// Trains a classifier for each spec, in epoch e on the view `e % V` of the images, and scores `queries_QD`
/// with it, on `device`: classifiers and, on the CPU, scores `[Q, C]` in the order of the specs.
///
/// On the CPU each classifier is one core's, so that no bit depends on the number of cores. `watch` hears
/// of every epoch of any classifier.
pub fn train_and_score(
    data: &Labelled,
    queries_QD: &Tensor,
    device: Device,
    specs: &[LinearSpec],
    watch: &(dyn Fn() + Sync),
) -> Vec<(Linear, Tensor)> {
    let one = |data: &Labelled, queries_QD: &Tensor, spec: &LinearSpec| {
        let linear = Linear::train(data, spec, device, watch);
        let scores_QC = linear.score(queries_QD, device);
        (linear, scores_QC)
    };
    if device != Device::Cpu {
        return specs.iter().map(|spec| one(data, queries_QD, spec)).collect();
    }
    let mut done: Vec<Option<(Linear, Tensor)>> = specs.iter().map(|_| None).collect();
    let Ok(()) = on_cores(
        specs.len(),
        || (data.share(), queries_QD.shallow_clone()),
        |(data, queries_QD), index| Ok::<_, Infallible>(one(data, queries_QD, &specs[index])),
        |index, result| {
            done[index] = Some(result);
            Ok(())
        },
    );
    done.into_iter().flatten().collect()
}

impl Labelled {
    /// The same tensors for another thread.
    fn share(&self) -> Self {
        let views_V = self.views_V.iter().map(Tensor::shallow_clone).collect();
        Self { views_V, labels_N: self.labels_N.shallow_clone(), classes: self.classes }
    }
}

impl Linear {
    /// Trains one classifier.
    fn train(
        data: &Labelled,
        spec: &LinearSpec,
        device: Device,
        watch: &(dyn Fn() + Sync),
    ) -> Self {
        let (images, width) = (data.labels_N.size()[0], data.views_V[0].size()[1]);
        let mut linear = Self::init(data.classes, width, spec.seed, device);
        let mut velocities = [linear.weight_CD.zeros_like(), linear.bias_C.zeros_like()];
        let height = spec.lr * spec.batch as f64 / 256.0;
        for epoch in 0..spec.epochs {
            let at = epoch as f64 / spec.epochs as f64;
            let lr = height * 0.5 * (1.0 + (std::f64::consts::PI * at).cos());
            let view_ND = &data.views_V[(epoch % data.views_V.len() as u64) as usize];
            let mut order: Vec<i64> = (0..images).collect();
            stream(spec.seed, "probe order", &[epoch]).shuffle(&mut order);
            let losses: Vec<Tensor> = order
                .chunks(spec.batch)
                .map(|batch| {
                    let index_B = Tensor::from_slice(batch);
                    let inputs_BD = view_ND.index_select(0, &index_B).to_device(device);
                    let labels_B = data.labels_N.index_select(0, &index_B).to_device(device);
                    linear.step(&mut velocities, &inputs_BD, &labels_B, lr)
                })
                .collect();
            let sum = Tensor::stack(&losses, 0).to_kind(Kind::Double).sum(None).double_value(&[]);
            linear.loss = sum / images as f64;
            watch();
        }
        linear
    }

    fn init(classes: i64, width: i64, seed: u64, device: Device) -> Self {
        let mut rng = stream(seed, "probe weights", &[]);
        let draw = || {
            let normal: f32 = StandardNormal.sample(&mut rng);
            normal * INIT_STD
        };
        let weights: Vec<f32> =
            std::iter::repeat_with(draw).take((classes * width) as usize).collect();
        Self {
            weight_CD: Tensor::from_slice(&weights).reshape([classes, width]).to_device(device),
            bias_C: Tensor::zeros([classes], (Kind::Float, device)),
            loss: f64::NAN,
        }
    }

    /// One step of SGD on the mean cross-entropy; gives the sum of the batch's.
    ///
    /// The gradient of a row's cross-entropy for its scores is softmax(scores) less 1 at the label.
    fn step(
        &mut self,
        [weight_velocity, bias_velocity]: &mut [Tensor; 2],
        inputs_BD: &Tensor,
        labels_B: &Tensor,
        lr: f64,
    ) -> Tensor {
        let log_BC = self.scores(inputs_BD).log_softmax(1, Kind::Float);
        let labels_B1 = labels_B.unsqueeze(1);
        let ones_B1 = Tensor::ones_like(&labels_B1).to_kind(Kind::Float);
        let at_scores_BC = (log_BC.exp() - log_BC.zeros_like().scatter(1, &labels_B1, &ones_B1))
            / inputs_BD.size()[0] as f64;
        let gradients = [
            at_scores_BC.transpose(0, 1).matmul(inputs_BD),
            at_scores_BC.sum_dim_intlist([0].as_slice(), false, None::<Kind>),
        ];
        let parameters = [&mut self.weight_CD, &mut self.bias_C];
        let velocities = [weight_velocity, bias_velocity];
        for ((parameter, velocity), gradient) in
            parameters.into_iter().zip(velocities).zip(gradients)
        {
            *velocity = &*velocity * MOMENTUM + gradient;
            *parameter = &*parameter - &*velocity * lr;
        }
        -log_BC.gather(1, &labels_B1, false).sum(None)
    }

    /// Scores `[N, C]` of features `[N, D]`.
    pub fn scores(&self, inputs_ND: &Tensor) -> Tensor {
        inputs_ND.linear(&self.weight_CD, Some(&self.bias_C))
    }

    /// The same for many on the CPU, computed on `device`.
    fn score(&self, queries_QD: &Tensor, device: Device) -> Tensor {
        let parts = queries_QD.split(ROWS_AT_ONCE, 0);
        let scores: Vec<Tensor> = parts
            .iter()
            .map(|part| self.scores(&part.to_device(device)).to_device(Device::Cpu))
            .collect();
        Tensor::cat(&scores, 0)
    }
}
