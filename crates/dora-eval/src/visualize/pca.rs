//! Principal components of patch features as colours.

use tch::{Device, Kind, Tensor};

/// Shares of the values that are drawn as black and beyond, and as full colour and beyond.
const QUANTILES: [f64; 2] = [0.01, 0.99];
const COLOURS: i64 = 3;

/// The first three principal components of features, and how they become red, green and blue.
#[derive(Debug)]
pub struct Pca {
    mean_D: Tensor,
    components_DC: Tensor,
    low_C: Tensor,
    high_C: Tensor,
}

impl Pca {
    /// Of features `[M, D]`, in float64 on the CPU, so that the same features give the same colours.
    ///
    /// Components come in the order of their variance; each has the sign in which its largest part is
    /// positive. Values between the 1st and the 99th percentile are stretched over a colour's range.
    pub fn fit(features_MD: &Tensor) -> Self {
        let features_MD = to_double(features_MD);
        let mean_D = features_MD.mean_dim([0].as_slice(), false, None::<Kind>);
        let centred_MD = &features_MD - &mean_D;
        let covariance_DD = centred_MD.transpose(0, 1).matmul(&centred_MD);
        let (_, vectors_DD) = covariance_DD.linalg_eigh("L");
        let width = vectors_DD.size()[1];
        let components_DC = vectors_DD.narrow(1, width - COLOURS, COLOURS).flip([1]);
        let largest_1C = components_DC.abs().argmax(0, true);
        let components_DC = &components_DC * components_DC.gather(0, &largest_1C, false).sign();
        let (sorted_MC, _) = centred_MD.matmul(&components_DC).sort(0, false);
        let quantile =
            |share: f64| sorted_MC.get(((sorted_MC.size()[0] - 1) as f64 * share).round() as i64);
        let [low_C, high_C] = QUANTILES.map(quantile);
        Self { mean_D, components_DC, low_C, high_C }
    }

    /// Colours float32 `[N, 3]` from 0 to 1, on the CPU, of features `[N, D]`.
    pub fn colours(&self, features_ND: &Tensor) -> Tensor {
        let values_NC = (to_double(features_ND) - &self.mean_D).matmul(&self.components_DC);
        let range_C = (&self.high_C - &self.low_C).clamp_min(f64::MIN_POSITIVE);
        ((values_NC - &self.low_C) / range_C).clamp(0.0, 1.0).to_kind(Kind::Float)
    }
}

fn to_double(features: &Tensor) -> Tensor {
    features.to_device(Device::Cpu).to_kind(Kind::Double)
}
