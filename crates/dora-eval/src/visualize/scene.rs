//! Frames painted with what an encoder makes of them.

use image::RgbImage;
use rayon::prelude::*;
use tch::{Kind, Tensor};

use crate::{
    discovery::attention::{MASS, attention_masks},
    encoder::cores::on_one_core,
    images::grid::Grid,
    pictures::{heat_over, masks, objects_over, one_object, to_images},
    visualize::{pca::Pca, tracking::Sight},
};

/// Shares of a head's attention values that are drawn cold, and below full heat: single patches often
/// draw far more than all others.
const HEAT_QUANTILES: [f64; 2] = [0.01, 0.995];

/// What colours mean, the same for all frames.
#[derive(Debug)]
pub struct Scale {
    pca: Pca,
    /// Attention that is drawn cold, and as full heat, for each head.
    heat_2H: [Tensor; 2],
    only_foreground: bool,
}

/// A frame in all its pictures, of one size.
#[derive(Debug)]
pub struct Painted {
    /// As it is.
    pub frame: RgbImage,
    /// Attention of the `[CLS]` token, for each head.
    pub attention: Vec<RgbImage>,
    /// All objects in colour.
    pub objects: RgbImage,
    /// Each object with everything else dimmed.
    pub alone: Vec<RgbImage>,
    /// Principal components of the patch features as colour.
    pub pca: RgbImage,
}

impl Scale {
    /// Fits colours to some of the frames. With `only_foreground`, features count and are coloured only
    /// where the heads' mean attention lies: on the patches that hold 60 % of it.
    ///
    /// # Panics
    /// Without a frame.
    pub fn fit(sights: &[Sight], only_foreground: bool) -> Self {
        let features: Vec<Tensor> = sights
            .iter()
            .map(|sight| {
                let tokens_MD = sight.tokens_TND.flatten(0, 1);
                if !only_foreground {
                    return tokens_MD;
                }
                let kept: Vec<bool> = foreground(sight).concat();
                let kept: Vec<i64> =
                    (0..).zip(kept).filter(|(_, is_kept)| *is_kept).map(|(at, _)| at).collect();
                tokens_MD.index_select(0, &Tensor::from_slice(&kept))
            })
            .collect();
        let attn: Vec<&Tensor> = sights.iter().map(|sight| &sight.attn_THN).collect();
        on_one_core(|| Self {
            pca: Pca::fit(&Tensor::cat(&features, 0)),
            heat_2H: heat_range(&Tensor::cat(&attn, 0)),
            only_foreground,
        })
    }
}

/// Paints frames with what was seen in them, on all cores.
pub fn paint(sight: &Sight, scale: &Scale, grid: Grid) -> Vec<Painted> {
    let (heat_THV, pca) =
        on_one_core(|| (heat(sight, scale, grid), pca_images(sight, scale, grid)));
    let masks_TKN = masks(&sight.masks_TKN);
    let parts: Vec<_> = sight.frames.iter().zip(heat_THV).zip(masks_TKN).zip(pca).collect();
    parts
        .into_par_iter()
        .map(|(((frame, heat_HV), masks_KN), pca)| Painted {
            frame: frame.clone(),
            attention: heat_HV.iter().map(|values| heat_over(frame, values)).collect(),
            objects: objects_over(frame, &masks_KN, grid),
            alone: masks_KN.iter().map(|patches| one_object(frame, patches, grid)).collect(),
            pca,
        })
        .collect()
}

/// The quantiles of each head's attention, `[H]`.
fn heat_range(attn_THN: &Tensor) -> [Tensor; 2] {
    let attn_HM = attn_THN.transpose(0, 1).flatten(1, 2);
    let (sorted_HM, _) = attn_HM.sort(1, false);
    let last = (sorted_HM.size()[1] - 1) as f64;
    HEAT_QUANTILES.map(|share| sorted_HM.select(1, (last * share).round() as i64))
}

/// Attention at every pixel, between patches in proportion, from 0 (cold) to 1 (full heat).
fn heat(sight: &Sight, scale: &Scale, grid: Grid) -> Vec<Vec<Vec<f32>>> {
    let [cold_H11, full_H11] = scale.heat_2H.each_ref().map(|heat_H| heat_H.reshape([-1, 1, 1]));
    let range_H11 = (full_H11 - &cold_H11).clamp_min(f64::from(f32::MIN_POSITIVE));
    let pixels_THYX = (enlarge(&sight.attn_THN, grid) - cold_H11) / range_H11;
    let frames = pixels_THYX.flatten(2, 3).unbind(0);
    frames.iter().map(|frame_HV| Vec::try_from(frame_HV).unwrap_or_default()).collect()
}

fn pca_images(sight: &Sight, scale: &Scale, grid: Grid) -> Vec<RgbImage> {
    let size = sight.tokens_TND.size();
    let colours_MC = scale.pca.colours(&sight.tokens_TND.flatten(0, 1));
    let colours_TCN = colours_MC.reshape([size[0], size[1], -1]).transpose(1, 2);
    let mut pixels_TCYX = enlarge(&colours_TCN, grid);
    if scale.only_foreground {
        let kept: Vec<f32> = foreground(sight)
            .concat()
            .into_iter()
            .map(|is_kept| f32::from(u8::from(is_kept)))
            .collect();
        let kept_T1YX = Tensor::from_slice(&kept)
            .reshape([size[0], 1, grid.rows as i64, grid.columns as i64])
            .upsample_nearest2d(pixels_px(grid), None::<f64>, None::<f64>);
        pixels_TCYX *= kept_T1YX;
    }
    to_images(&(pixels_TCYX * 255.0).round().to_kind(Kind::Uint8))
}

/// The patches of each frame that hold most of the heads' mean attention.
fn foreground(sight: &Sight) -> Vec<Vec<bool>> {
    attention_masks(&sight.attn_THN.mean_dim([1].as_slice(), false, None::<Kind>), MASS)
}

/// `[T, C, N]` to `[T, C, H, W]` in pixels, bilinearly.
fn enlarge(patches_TCN: &Tensor, grid: Grid) -> Tensor {
    let size = patches_TCN.size();
    patches_TCN
        .reshape([size[0], size[1], grid.rows as i64, grid.columns as i64])
        .upsample_bilinear2d(pixels_px(grid), false, None::<f64>, None::<f64>)
}

fn pixels_px(grid: Grid) -> [i64; 2] {
    [(grid.rows * grid.patch_px) as i64, (grid.columns * grid.patch_px) as i64]
}
