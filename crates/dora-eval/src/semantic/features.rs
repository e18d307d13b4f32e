//! What heads take of an encoder: the patch tokens of four blocks as maps.

use dora_model::{DropPath, Vit, VitConfig};
use tch::Tensor;

use crate::images::grid::cells;

/// Maps `[N, D, h, w]` of four blocks, each through the final norm, of normalised images
/// `[N, 3, H, W]`. Where the patches do not fill the image, zeros are added on the right and below, and
/// the maps hold a cell for each patch that was begun.
///
/// # Panics
/// If the encoder has no such block.
pub fn block_maps(
    vit: &Vit,
    config: &VitConfig,
    images_NCHW: &Tensor,
    blocks: [usize; 4],
    drop_path: Option<&DropPath>,
) -> [Tensor; 4] {
    let (_, _, height, width) = images_NCHW.size4().expect("images are [N, C, H, W]");
    let [rows, columns] = [height, width].map(|size| cells(size, config.patch_px));
    let (below, right) = (rows * config.patch_px - height, columns * config.patch_px - width);
    let padded_NCHW = images_NCHW.constant_pad_nd([0, right, 0, below]);
    let tokens = vit.intermediate_tokens(&padded_NCHW, drop_path);
    blocks.map(|block| {
        let tokens_NSD = &tokens[block];
        let patches_NPD = tokens_NSD.narrow(1, 1, rows * columns);
        patches_NPD.transpose(1, 2).unflatten(2, [rows, columns])
    })
}
