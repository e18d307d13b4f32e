//! Object discovery without labels: a box from the keys of the last block (LOST), masks from the
//! attention of its heads, and how far both fit the objects of a data set.

pub mod attention;
mod boxes;
pub mod data;
mod davis;
mod json;
pub mod lost;
mod score;
mod voc;

pub use boxes::{BACKGROUND, PxBox, boxes_of};
pub use score::{ClassScores, Scores, Tally};

use dora_core::tracker::{cls_attention, patches_of_all_heads};
use dora_model::{TrackerLayer, Vit};
use tch::{Device, Kind, Tensor};

use crate::{
    encoder::NotFinite,
    images::{
        grid::{Grid, cells},
        normalise,
    },
};

/// What the last block knows of one image.
#[derive(Debug)]
pub struct LastBlock {
    /// The patches.
    pub grid: Grid,
    /// Keys of the patches, heads side by side; on the encoder's device.
    pub keys_ND: Tensor,
    /// Attention of the `[CLS]` token to the patches for each head, on the CPU.
    pub attn_HN: Tensor,
}

impl LastBlock {
    /// # Errors
    /// A number in it means nothing.
    pub fn check_finite(&self) -> Result<(), NotFinite> {
        NotFinite::check(&[&self.keys_ND, &self.attn_HN])
    }

    /// Of an image uint8 `[3, H, W]` of any size: it is padded with the mean colour at the right and
    /// the bottom to whole patches, as LOST does.
    pub fn of(vit: &Vit, image_CHW: &Tensor, device: Device) -> Self {
        let size = image_CHW.size();
        let (height, width, patch_px) = (size[1], size[2], vit.config().patch_px);
        let [rows, columns] = [height, width].map(|px| cells(px, patch_px));
        let padding = [0, columns * patch_px - width, 0, rows * patch_px - height];
        let image_CHW = normalise(&image_CHW.to_device(device)).constant_pad_nd(padding);
        let features = vit.features(&image_CHW.unsqueeze(0), TrackerLayer::Last);
        let heads: Vec<i64> = (0..vit.config().heads).collect();
        let attn_1HN = cls_attention(&features.queries_NHSE, &features.keys_NHSE, &heads);
        Self {
            grid: Grid {
                rows: rows as usize,
                columns: columns as usize,
                patch_px: patch_px as usize,
            },
            keys_ND: patches_of_all_heads(&features.keys_NHSE).get(0),
            attn_HN: attn_1HN.get(0).to_kind(Kind::Double).to_device(Device::Cpu),
        }
    }
}
