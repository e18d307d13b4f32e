//! A trained head on whole images: windows slide over an image, their logits are averaged.

use dora_model::{Vit, VitConfig};
use tch::{Device, Kind, Tensor};

use super::{
    augment::{resize_image, scaled_size},
    features::block_maps,
    heads::{Head, Mode},
    recipe::Recipe,
};
use crate::images::normalise;

/// Classes whose logits are enlarged at once; bounds the memory for large images.
const CLASSES_AT_ONCE: i64 = 16;

/// An encoder and a head that were trained.
#[derive(Debug)]
pub struct Segmenter {
    /// The encoder.
    pub vit: Vit,
    /// Its sizes.
    pub config: VitConfig,
    /// The head.
    pub head: Head,
    /// How images are looked at.
    pub recipe: Recipe,
    /// Where to compute.
    pub device: Device,
}

impl Segmenter {
    /// The most likely class of each pixel, uint8 `[H, W]` on the CPU, of an image, uint8 `[3, H, W]`.
    pub fn predict(&self, image_CHW: &Tensor) -> Tensor {
        let (_, height, width) = image_CHW.size3().expect("an image is [3, H, W]");
        let (rows, columns) = scaled_size(height, width, &self.recipe.data, 1.0);
        let resized_CHW = resize_image(image_CHW, rows, columns);
        let image_1CHW = normalise(&resized_CHW.unsqueeze(0).to_device(self.device));
        let logits = self.slide(&image_1CHW);
        most_likely(&logits, height, width).to_device(Device::Cpu)
    }

    /// Logits `[1, C, H, W]` of a normalised image `[1, 3, H, W]`: the mean of all windows over a pixel.
    pub fn slide(&self, image_1CHW: &Tensor) -> Tensor {
        let (_, _, rows, columns) = image_1CHW.size4().expect("an image is [1, 3, H, W]");
        let test = &self.recipe.test;
        let tops = starts(rows, test.window_px, test.stride_px);
        let lefts = starts(columns, test.window_px, test.stride_px);
        if let ([_], [_]) = (tops.as_slice(), lefts.as_slice()) {
            return self.logits(image_1CHW);
        }
        let (height, width) = (rows.min(test.window_px), columns.min(test.window_px));
        let mut sum: Option<Tensor> = None;
        let count = Tensor::zeros([1, 1, rows, columns], (Kind::Float, self.device));
        for &top in &tops {
            for &left in &lefts {
                let part = |all: &Tensor| all.narrow(2, top, height).narrow(3, left, width);
                let logits = self.logits(&part(image_1CHW));
                let sum = sum.get_or_insert_with(|| {
                    let size = [1, logits.size()[1], rows, columns];
                    Tensor::zeros(size, (Kind::Float, self.device))
                });
                let _ = part(sum).g_add_(&logits);
                let _ = part(&count).g_add_scalar_(1.0);
            }
        }
        sum.expect("at least one window") / count
    }

    /// Logits `[1, C, h, w]` of a normalised window `[1, 3, h, w]`, at its size.
    pub fn logits(&self, window_1CHW: &Tensor) -> Tensor {
        let size = &window_1CHW.size()[2..];
        let (vit, blocks) = (&self.vit, self.recipe.head.blocks);
        let maps = block_maps(vit, &self.config, window_1CHW, blocks, None);
        let logits = self.head.forward(&maps, &mut Mode::Test).main;
        logits.upsample_bilinear2d(size, false, None::<f64>, None::<f64>)
    }
}

/// Where windows begin so that they cover `size_px`: the last one ends with it. One window covers what is
/// not larger than it, or anything if its side is 0.
pub fn starts(size_px: i64, window_px: i64, stride_px: i64) -> Vec<i64> {
    if window_px == 0 || size_px <= window_px {
        return vec![0];
    }
    let windows = (size_px - window_px + stride_px - 1) / stride_px + 1;
    (0..windows).map(|index| (index * stride_px).min(size_px - window_px)).collect()
}

/// The class of the largest logit at each pixel of the enlarged logits; the first of equals.
fn most_likely(logits_1Chw: &Tensor, height: i64, width: i64) -> Tensor {
    let size = [height, width];
    let mut best: Option<(Tensor, Tensor)> = None;
    for (part, logits) in (0..).zip(logits_1Chw.split(CLASSES_AT_ONCE, 1)) {
        let enlarged = if logits.size()[2..] == size {
            logits
        } else {
            logits.upsample_bilinear2d(size, false, None::<f64>, None::<f64>)
        };
        let (value_HW, class_HW) = enlarged.squeeze_dim(0).max_dim(0, false);
        let class_HW = class_HW + part * CLASSES_AT_ONCE;
        best = Some(match best {
            None => (value_HW, class_HW),
            Some((best_HW, of_HW)) => {
                let is_better = value_HW.gt_tensor(&best_HW);
                (value_HW.where_self(&is_better, &best_HW), class_HW.where_self(&is_better, &of_HW))
            }
        });
    }
    let (_, class_HW) = best.expect("at least one class");
    class_HW.to_kind(Kind::Uint8)
}
