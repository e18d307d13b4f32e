//! Weighted k-nearest-neighbour classification of `[CLS]` features (Wu et al. 2018, as DINO uses it).

use std::convert::Infallible;

use tch::{Device, Kind, Tensor, no_grad};

use crate::encoder::cores::on_cores;

/// Divides similarities before they vote (DINO's value).
pub const TEMPERATURE: f64 = 0.07;
/// The most queries that are compared with the bank at once.
const MOST_QUERIES: i64 = 256;
/// The most similarities that are held at once by a core.
const MOST_SIMILARITIES: i64 = 1 << 24;

/// The nearest features of a bank, nearest first, on the CPU.
#[derive(Debug)]
pub struct Neighbours {
    /// Cosine similarities, `[Q, K]`.
    pub similarity_QK: Tensor,
    /// Rows of the bank, int64 `[Q, K]`.
    pub index_QK: Tensor,
}

/// `[CLS]` features `[N, L, D]` of the last L blocks as k-NN takes them: those of the last one, `[N, D]`, of
/// length 1.
pub fn unit_features(features_NLD: &Tensor) -> Tensor {
    let cls_ND = features_NLD.select(1, features_NLD.size()[1] - 1);
    let norm_N1 = cls_ND.norm_scalaropt_dim(2, [1].as_slice(), true);
    cls_ND / norm_N1.clamp_min(1e-12)
}

impl Neighbours {
    /// Finds each query's `k` nearest features of the bank; both have rows of length 1 and lie on one
    /// device, and `k` is at most the bank's size.
    pub fn find(bank_ND: &Tensor, queries_QD: &Tensor, k: i64) -> Self {
        let at_once = (MOST_SIMILARITIES / bank_ND.size()[0]).clamp(1, MOST_QUERIES);
        let queries = queries_QD.size()[0];
        let piece = |bank_DN: &Tensor, queries_QD: &Tensor, index: i64| {
            let first = index * at_once;
            let queries_QD = queries_QD.narrow(0, first, at_once.min(queries - first));
            let (similarity_QK, index_QK) = queries_QD.matmul(bank_DN).topk(k, 1, true, true);
            [similarity_QK, index_QK].map(|part| part.to_device(Device::Cpu))
        };
        let pieces = (queries + at_once - 1) / at_once;
        let own = || (bank_ND.transpose(0, 1), queries_QD.shallow_clone());
        let mut parts: Vec<Option<[Tensor; 2]>> = (0..pieces).map(|_| None).collect();
        if bank_ND.device() == Device::Cpu {
            let work = |(bank_DN, queries_QD): &mut (Tensor, Tensor), index: usize| {
                Ok::<_, Infallible>(piece(bank_DN, queries_QD, index as i64))
            };
            let Ok(()) = on_cores(pieces as usize, own, work, |index, part| {
                parts[index] = Some(part);
                Ok(())
            });
        } else {
            let (bank_DN, queries_QD) = own();
            let found = (0..pieces).map(|index| no_grad(|| piece(&bank_DN, &queries_QD, index)));
            parts = found.map(Some).collect();
        }
        let (similarity, index): (Vec<_>, Vec<_>) =
            parts.into_iter().flatten().map(|[similarity, index]| (similarity, index)).unzip();
        Self { similarity_QK: Tensor::cat(&similarity, 0), index_QK: Tensor::cat(&index, 0) }
    }

    /// Scores `[Q, classes]`: each of the `k` nearest votes for its label with
    /// exp(similarity / `temperature`). `labels_N` are the bank's, int64; `k` is at most what was found.
    pub fn vote(&self, labels_N: &Tensor, classes: i64, k: i64, temperature: f64) -> Tensor {
        let [similarity_QK, index_QK] =
            [&self.similarity_QK, &self.index_QK].map(|found| found.narrow(1, 0, k));
        let labels_QK = labels_N.index_select(0, &index_QK.flatten(0, 1)).view_as(&index_QK);
        let votes_QK = (similarity_QK / temperature).exp();
        let size = [votes_QK.size()[0], classes];
        Tensor::zeros(size, (votes_QK.kind(), Device::Cpu)).scatter_add(1, &labels_QK, &votes_QK)
    }
}

/// Share of rows of scores whose highest is their label's, and whose five highest hold it.
pub fn top1_top5(scores_QC: &Tensor, labels_Q: &Tensor) -> (f64, f64) {
    let most = scores_QC.size()[1].min(5);
    let (_, order_QK) = scores_QC.topk(most, 1, true, true);
    let hits_QK = order_QK.eq_tensor(&labels_Q.unsqueeze(1)).to_kind(Kind::Double);
    let share = |first: i64| {
        hits_QK
            .narrow(1, 0, first)
            .sum_dim_intlist([1].as_slice(), false, None::<Kind>)
            .mean(None)
            .double_value(&[])
    };
    (share(1), share(most))
}
