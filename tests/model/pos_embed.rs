//! Position embeddings for other grids, against libtorch's bicubic interpolation.

use dora_data::rng::stream;
use dora_model::{Vit, VitConfig};
use tch::{Device, Kind, Tensor};

use crate::method::{largest_difference, uniform};

const SIDE: i64 = 5;
const CONFIG: VitConfig = VitConfig {
    patch_px: 4,
    width: 64,
    depth: 0,
    heads: 1,
    mlp_ratio: 1,
    image_px: 4 * SIDE,
    norm_eps: 1e-6,
};

#[test]
fn grids_and_gradients_are_those_of_bicubic_interpolation() {
    for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 1e-6)] {
        for (rows, columns) in [(2, 3), (5, 5), (5, 7), (3, 5), (1, 1), (11, 4), (23, 40)] {
            let embed = uniform(1, &[1, 1 + SIDE * SIDE, 64], kind).set_requires_grad(true);
            let mut state = Vit::init(&CONFIG, &mut stream(0, "weights", &[])).copy_to(
                Device::Cpu,
                kind,
                false,
            );
            state.insert("pos_embed", embed.shallow_clone());
            let vit = Vit::from_state(&CONFIG, &state).unwrap();
            // Without blocks and pixels a token is the bias, or [CLS], and its position.
            let [bias, cls] = ["patch_embed.proj.bias", "cls_token"].map(|n| state.get(n).unwrap());
            let tokens = bias.expand([1, rows * columns, 64], false);
            let tokens = Tensor::cat(&[cls, tokens], 1);
            let image = Tensor::zeros([1, 3, 4 * rows, 4 * columns], (kind, Device::Cpu));
            let upstream = uniform(2, &tokens.size(), kind);
            let found = vit.forward(&image, None);
            let expected = (tokens + interpolated(&embed, rows, columns)).layer_norm(
                [64],
                None::<Tensor>,
                None::<Tensor>,
                CONFIG.norm_eps,
                true,
            );
            let what = format!("{rows} x {columns} in {kind:?}");
            let off = largest_difference(&found, &expected);
            assert!(off < 4.0 * tolerance, "{what}: {off}");
            let [found, expected] = [found, expected].map(|tokens| {
                let loss = (tokens * &upstream).sum(kind);
                Tensor::run_backward(&[loss], &[&embed], false, false).remove(0)
            });
            let off =
                largest_difference(&found, &expected) / expected.abs().max().double_value(&[]);
            assert!(off < 4.0 * tolerance, "gradient of {what}: {off}");
        }
    }
}

/// As PyTorch's `interpolate` and DINO's factors make it.
fn interpolated(embed_1SD: &Tensor, rows: i64, columns: i64) -> Tensor {
    if (rows, columns) == (SIDE, SIDE) {
        return embed_1SD.shallow_clone();
    }
    let patches = embed_1SD.narrow(1, 1, SIDE * SIDE).reshape([1, SIDE, SIDE, -1]);
    let scale = |cells: i64| (cells as f64 + 0.1) / SIDE as f64;
    let resized = patches.permute([0, 3, 1, 2]).upsample_bicubic2d(
        [rows, columns],
        false,
        scale(rows),
        scale(columns),
    );
    Tensor::cat(&[embed_1SD.narrow(1, 0, 1), resized.flatten(2, 3).transpose(1, 2)], 1)
}
