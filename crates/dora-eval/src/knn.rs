//! Weighted k-nearest-neighbour classification of `[CLS]` features (Wu et al. 2018, as DINO uses it).

use tch::{Kind, Tensor};

/// Queries that are compared with the whole bank at once; bounds the memory.
const QUERIES_AT_ONCE: i64 = 256;

/// Scores `[Q, classes]` of queries: each of a query's `k` nearest features of the bank votes for its
/// label with exp(similarity / `temperature`).
///
/// `bank_ND` and `queries_QD` have rows of length 1, `labels_N` are int64; `k` is at most N.
pub fn knn_scores(
    bank_ND: &Tensor,
    labels_N: &Tensor,
    queries_QD: &Tensor,
    classes: i64,
    k: i64,
    temperature: f64,
) -> Tensor {
    let parts: Vec<Tensor> = queries_QD
        .split(QUERIES_AT_ONCE, 0)
        .iter()
        .map(|queries_QD| {
            let (similarity_QK, index_QK) =
                queries_QD.matmul(&bank_ND.transpose(0, 1)).topk(k, 1, true, true);
            let labels_QK = labels_N.index_select(0, &index_QK.flatten(0, 1)).view_as(&index_QK);
            let votes_QK = (similarity_QK / temperature).exp();
            let scores_QC = Tensor::zeros(
                [queries_QD.size()[0], classes],
                (votes_QK.kind(), votes_QK.device()),
            );
            scores_QC.scatter_add(1, &labels_QK, &votes_QK)
        })
        .collect();
    Tensor::cat(&parts, 0)
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
