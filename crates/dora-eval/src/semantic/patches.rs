//! Features of all training images at once, patch by patch: what a small set's linear head learns from.
//!
//! The target of a patch is the share of each class in its pixels; what is void there has no share.

use std::path::Path;

use dora_model::{StateDict, Vit, VitConfig};
use md5::{Digest, Md5};
use tch::{Device, Kind, Tensor};

use super::{
    augment::{labels_tensor, resize_image, resize_labels, scaled_size},
    batches::order,
    dataset::{Dataset, DatasetError},
    features::block_maps,
    recipe::Recipe,
};
use crate::{
    encoder::{Encoder, cores::on_cores},
    feature_file::{self, FeatureFileError},
    hex,
    images::{grid::cells, masks::VOID, normalise},
    memory::{Shortage, shortage},
    progress::Progress,
};

/// Rises when the same images give other features, or a file is laid out otherwise.
const VERSION: u32 = 2;

/// Features and targets of every patch of a training set, float16, on the CPU: a GPU may have no room.
#[derive(Debug)]
pub struct PatchBank {
    /// The four blocks', one after the other: `[M, 4 * D]`.
    features_MX: Tensor,
    /// Shares of the classes: `[M, C]`.
    shares_MC: Tensor,
}

/// Patches of a step, float32.
#[derive(Debug)]
pub struct Patches {
    /// `[B, 4 * D]`
    pub features_BX: Tensor,
    /// `[B, C]`
    pub shares_BC: Tensor,
}

/// Why there is no bank.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// Too much for this machine.
    #[error(
        "the features of {images} images need {shortage}: set `train.patches=0` to learn from images instead"
    )]
    Large {
        /// Training images.
        images: usize,
        /// What they would take.
        shortage: Shortage,
    },
    /// The data cannot be read.
    #[error(transparent)]
    Data(#[from] DatasetError),
    /// The user has asked to end.
    #[error("interrupted")]
    Interrupted,
    /// The features cannot be kept.
    #[error(transparent)]
    File(#[from] FeatureFileError),
}

impl PatchBank {
    /// Features of the training images, without variation but, if the recipe flips, each one mirrored, too;
    /// from a file in the folder `cache` if they were computed before. Says how many images a second were seen, where
    /// they were.
    ///
    /// # Errors
    /// If they are too many, an image cannot be read, `is_interrupted` says so, or `cache` cannot be written.
    pub fn open(
        encoder: &Encoder,
        dataset: &Dataset,
        recipe: &Recipe,
        cache: Option<&Path>,
        is_interrupted: impl Fn() -> bool + Sync,
    ) -> Result<(Self, Option<f64>), PatchError> {
        let flips: &[bool] = if recipe.augment.flip { &[false, true] } else { &[false] };
        let patches: Vec<i64> = dataset
            .train
            .iter()
            .map(|sample| {
                let (rows, columns) = scaled_size(sample.rows, sample.columns, &recipe.data, 1.0);
                cells(rows, encoder.config.patch_px) * cells(columns, encoder.config.patch_px)
            })
            .collect();
        let (width, classes) = (4 * encoder.config.width, dataset.classes.len() as i64);
        let total = patches.iter().sum::<i64>() * flips.len() as i64;
        // Two bytes a number, and all of them once more while a file of them is written or read.
        let copies = if cache.is_some() { 2 } else { 1 };
        if let Some(shortage) = shortage(2 * copies * (total * (width + classes)) as u64) {
            return Err(PatchError::Large { images: dataset.train.len(), shortage });
        }
        let path = cache.map(|cache| cache.join(file_name(encoder, dataset, recipe)));
        let sizes = [[total, width], [total, classes]];
        if let Some(bank) = path.as_deref().and_then(|path| Self::read(path, sizes)) {
            return Ok((bank, None));
        }
        let (bank, images_per_s) =
            Self::encode(encoder, dataset, recipe, (&patches, flips), sizes, is_interrupted)?;
        path.map_or(Ok(()), |path| bank.write(&path))?;
        Ok((bank, Some(images_per_s)))
    }

    /// Has the encoder see every image, on all cores; gives the images per second, too. `patches` are those
    /// of each image, which is mirrored where `flips` says so.
    fn encode(
        encoder: &Encoder,
        dataset: &Dataset,
        recipe: &Recipe,
        (patches, flips): (&[i64], &[bool]),
        sizes: [[i64; 2]; 2],
        is_interrupted: impl Fn() -> bool + Sync,
    ) -> Result<(Self, f64), PatchError> {
        let [features_MX, shares_MC] =
            sizes.map(|size| Tensor::zeros(size, (Kind::Half, Device::Cpu)));
        let classes = dataset.classes.len() as i64;
        let bank = Self { features_MX, shares_MC };
        let mut starts = vec![0];
        for pieces in patches.iter().flat_map(|patches| vec![*patches; flips.len()]) {
            starts.push(starts[starts.len() - 1] + pieces);
        }
        let images = dataset.train.len() * flips.len();
        let mut progress = Progress::new("features of the training images", images as u64);
        let (config, device, blocks) = (encoder.config, encoder.device, recipe.head.blocks);
        on_cores(
            images,
            || Vit::from_state(&encoder.config, &encoder.state).expect("the network of this state"),
            |vit, piece| {
                if is_interrupted() {
                    return Err(PatchError::Interrupted);
                }
                let sample = &dataset.train[piece / flips.len()];
                let (image_CHW, labels) = sample.read(&dataset.classes)?;
                let (rows, columns) = scaled_size(sample.rows, sample.columns, &recipe.data, 1.0);
                let mut image_CHW = resize_image(&image_CHW, rows, columns);
                let mut labels_HW = resize_labels(&labels_tensor(&labels), rows, columns);
                if flips[piece % flips.len()] {
                    (image_CHW, labels_HW) = (image_CHW.flip([2]), labels_HW.flip([1]));
                }
                Ok((
                    features(vit, &config, &image_CHW.to_device(device), blocks)
                        .to_kind(Kind::Half)
                        .to(Device::Cpu),
                    shares(&labels_HW, config.patch_px, classes).to_kind(Kind::Half),
                ))
            },
            |piece, (features_PX, shares_PC)| {
                let (start, length) = (starts[piece], starts[piece + 1] - starts[piece]);
                bank.features_MX.narrow(0, start, length).copy_(&features_PX);
                bank.shares_MC.narrow(0, start, length).copy_(&shares_PC);
                progress.advance(1);
                Ok(())
            },
        )?;
        Ok((bank, images as f64 / progress.elapsed_s()))
    }

    /// The patches of a step, on `device`.
    pub fn batch(&self, recipe: &Recipe, iteration: u64, device: Device) -> Patches {
        let (count, size) = (self.features_MX.size()[0] as u64, recipe.train.patches as u64);
        let positions: Vec<u64> = (iteration * size..(iteration + 1) * size).collect();
        let index: Vec<i64> =
            order(recipe.train.seed, &positions, count).into_iter().map(|at| at as i64).collect();
        let index = Tensor::from_slice(&index);
        let of = |all: &Tensor| all.index_select(0, &index).to_device(device).to_kind(Kind::Float);
        Patches { features_BX: of(&self.features_MX), shares_BC: of(&self.shares_MC) }
    }

    /// What a file holds, if it is whole and of these sizes; it is computed again otherwise.
    fn read(path: &Path, sizes: [[i64; 2]; 2]) -> Option<Self> {
        let state = feature_file::read(path).ok()?;
        let [features_MX, shares_MC] = ["features", "shares"].map(|name| state.get(name));
        let bank = Self { features_MX: features_MX.ok()?, shares_MC: shares_MC.ok()? };
        let fits = |tensor: &Tensor, size| tensor.size() == size && tensor.kind() == Kind::Half;
        let is_whole = fits(&bank.features_MX, sizes[0]) && fits(&bank.shares_MC, sizes[1]);
        is_whole.then_some(bank)
    }

    fn write(&self, path: &Path) -> Result<(), FeatureFileError> {
        let mut state = StateDict::default();
        state.insert("features", self.features_MX.shallow_clone());
        state.insert("shares", self.shares_MC.shallow_clone());
        feature_file::write(path, state)
    }
}

/// Everything that features and targets depend on, as the name of a file.
fn file_name(encoder: &Encoder, dataset: &Dataset, recipe: &Recipe) -> String {
    let Encoder { config, digest, device, .. } = encoder;
    let data = &recipe.data;
    let (size, blocks, flip) =
        ((data.long_px, data.short_px), recipe.head.blocks, recipe.augment.flip);
    let key = format!(
        "{VERSION}\n{digest}\n{config:?}\n{device:?}\n{}\n{size:?}\n{blocks:?}\n{flip}",
        dataset.dated_digest
    );
    format!("patches-{}.safetensors", hex(&Md5::digest(key)))
}

/// Features `[P, 4 * D]` of an image, uint8 `[3, H, W]`.
fn features(vit: &Vit, config: &VitConfig, image_CHW: &Tensor, blocks: [usize; 4]) -> Tensor {
    let image_1CHW = normalise(&image_CHW.unsqueeze(0));
    let maps = block_maps(vit, config, &image_1CHW, blocks, None);
    Tensor::cat(&maps, 1).squeeze_dim(0).flatten(1, 2).transpose(0, 1)
}

/// Share of each class in the pixels of each patch, `[P, C]`, of labels `[H, W]`; patches that reach
/// beyond have void there.
fn shares(labels_HW: &Tensor, patch_px: i64, classes: i64) -> Tensor {
    let (rows, columns) = labels_HW.size2().expect("labels are [H, W]");
    let across = cells(columns, patch_px);
    let patches = cells(rows, patch_px) * across;
    let mut shares = vec![0f32; (patches * classes) as usize];
    let labels = Vec::<u8>::try_from(labels_HW.flatten(0, 1)).expect("labels are bytes");
    let each = 1.0 / (patch_px * patch_px) as f32;
    for (row, line) in (0..).zip(labels.chunks(columns as usize)) {
        for (column, &label) in (0..).zip(line).filter(|(_, label)| **label != VOID) {
            let patch: i64 = row / patch_px * across + column / patch_px;
            shares[(patch * classes) as usize + usize::from(label)] += each;
        }
    }
    Tensor::from_slice(&shares).reshape([patches, classes])
}
