//! `[CLS]` features of whole data sets.

use dora_data::{
    crop::random_resized_crop,
    rng::{Draw, stream},
};
use dora_model::Vit;
use tch::{Device, Kind, Tensor, no_grad};

use crate::{
    encoder::{Encoder, NotFinite, cores::on_cores},
    images::{
        ImageError, crop_and_resize, folder::ImageFolder, normalise, read_rgb, resize_and_crop,
    },
};

/// Images that a core encodes together: enough for its matrix products to be large, few enough to stay
/// in its cache. Part of how results round, so it depends on nothing.
const IMAGES_OF_A_CORE: usize = 8;
/// Images that a GPU encodes together.
const IMAGES_OF_A_GPU: usize = 64;
/// How much longer than wide an image may be, or wider than long: what is cut off is scaled, too.
const MOST_ELONGATED: i64 = 64;
/// Shares of an image's area and ratios of width to height of a random view, torchvision's defaults.
const AREA: [f64; 2] = [0.08, 1.0];
const RATIO: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];

/// Which features of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What part of the image.
    pub view: View,
    /// Side of the square that the encoder sees.
    pub image_px: i64,
    /// The last so many blocks.
    pub blocks: usize,
}

/// What an encoder gets to see of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The short side is scaled to 8/7 of the square's, bicubically, and the centre cut out.
    Centre,
    /// A random box, scaled bilinearly, mirrored or not: a function of the two numbers and of the
    /// image's place in its data set.
    Random {
        /// The run's seed.
        seed: u64,
        /// Number of the view.
        number: u64,
    },
}

/// Why there are no features.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    /// An image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The encoder cannot see a square of this size.
    #[error("images of {image_px} px are no whole number of the encoder's patches of {patch_px} px: give {}", nearest_sizes(*image_px, *patch_px))]
    Size {
        /// The square that was asked for.
        image_px: i64,
        /// Side of a patch.
        patch_px: i64,
    },
    /// The encoder has fewer blocks.
    #[error("features of the last {blocks} blocks were asked for, but the encoder has {depth}")]
    Blocks {
        /// What was asked for.
        blocks: usize,
        /// What there are.
        depth: i64,
    },
    /// The encoder is broken.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
    /// Whoever watches asked to stop.
    #[error("stopped before the features of all images were there")]
    Stopped,
}

impl Wanted {
    /// Whether an encoder can give these features.
    pub fn check(&self, encoder: &Encoder) -> Result<(), FeatureError> {
        let (image_px, patch_px) = (self.image_px, encoder.config.patch_px);
        if image_px <= 0 || image_px % patch_px != 0 {
            return Err(FeatureError::Size { image_px, patch_px });
        }
        let (blocks, depth) = (self.blocks, encoder.config.depth);
        let has = (1..=depth).contains(&(blocks as i64));
        if has { Ok(()) } else { Err(FeatureError::Blocks { blocks, depth }) }
    }

    /// In words; the same words mean the same features of an encoder.
    pub fn describe(&self) -> String {
        let px = self.image_px;
        match self.view {
            View::Centre => format!("short side {} px, centre {px} px", short_side_px(px)),
            View::Random { seed, number } => {
                format!(
                    "random {px} px, area {AREA:?}, ratio {RATIO:?}, seed {seed}, view {number}"
                )
            }
        }
    }

    /// Operations in the products that an image's features take.
    pub fn flops(&self, encoder: &Encoder) -> f64 {
        let patches = (self.image_px as f64 / encoder.config.patch_px as f64).powi(2);
        encoder.config.embed_flops(patches) + encoder.config.cls_flops(patches)
    }

    /// What the encoder sees of the image of a path and place: uint8 `[3, px, px]`.
    fn read(&self, images: &ImageFolder, index: usize) -> Result<Tensor, ImageError> {
        let path = &images.samples[index].0;
        let image_CHW = read_rgb(path)?;
        let (height, width) = (image_CHW.size()[1], image_CHW.size()[2]);
        if height.max(width) > MOST_ELONGATED * height.min(width) {
            let reason = format!(
                "it has {width}x{height} px, and one side may be {MOST_ELONGATED} times the other"
            );
            return Err(ImageError { path: path.clone(), reason });
        }
        Ok(match self.view {
            View::Centre => {
                resize_and_crop(&image_CHW, short_side_px(self.image_px), self.image_px)
            }
            View::Random { seed, number } => {
                let mut rng = stream(seed, "probe view", &[number, index as u64]);
                let (w, h) = (width as u32, height as u32);
                let area = random_resized_crop(&mut rng, w, h, AREA, RATIO);
                crop_and_resize(&image_CHW, area, self.image_px, rng.chance(0.5))
            }
        })
    }
}

/// `[CLS]` tokens `[N, L, D]` of every image after each of the last L blocks and the final norm, float32
/// on the CPU, in the order of the images.
///
/// On the CPU a core reads and encodes images on its own, so that every bit is the same with any number
/// of cores; on a GPU all cores read ahead for it. `watch` hears after every few images how many more are
/// done, and tells whether to go on.
///
/// # Errors
/// If the encoder cannot give the features ([`Wanted::check`]) or an image cannot be read.
pub fn cls_features(
    encoder: &Encoder,
    images: &ImageFolder,
    wanted: Wanted,
    watch: &mut dyn FnMut(u64) -> bool,
) -> Result<Tensor, FeatureError> {
    wanted.check(encoder)?;
    let is_cpu = encoder.device == Device::Cpu;
    let at_once = if is_cpu { IMAGES_OF_A_CORE } else { IMAGES_OF_A_GPU };
    let count = images.samples.len();
    let read = |piece: usize| -> Result<Tensor, FeatureError> {
        let indices = piece * at_once..count.min((piece + 1) * at_once);
        let pictures: Result<Vec<Tensor>, _> =
            indices.map(|index| wanted.read(images, index)).collect();
        Ok(Tensor::stack(&pictures?, 0))
    };
    let size = [count as i64, wanted.blocks as i64, encoder.config.width];
    let features_NLD = Tensor::zeros(size, (Kind::Float, Device::Cpu));
    let mut keep = |piece: usize, part_NLD: Tensor| {
        let images = part_NLD.size()[0];
        features_NLD.narrow(0, (piece * at_once) as i64, images).copy_(&part_NLD);
        if watch(images as u64) { Ok(()) } else { Err(FeatureError::Stopped) }
    };
    let pieces = count.div_ceil(at_once);
    let (config, blocks, device) = (encoder.config, wanted.blocks, encoder.device);
    if is_cpu {
        let own = || Vit::from_state(&config, &encoder.state).expect("the network of this state");
        let work = |vit: &mut Vit, piece| Ok(encode(vit, &read(piece)?, blocks, Device::Cpu));
        on_cores(pieces, own, work, keep)?;
    } else {
        let take = |piece, images| keep(piece, encode(&encoder.vit, &images, blocks, device));
        on_cores(pieces, || (), |(), piece| read(piece), take)?;
    }
    NotFinite::check(&[&features_NLD])?;
    Ok(features_NLD)
}

fn encode(vit: &Vit, images_NCHW: &Tensor, blocks: usize, device: Device) -> Tensor {
    let images_NCHW = normalise(&images_NCHW.to_device(device));
    no_grad(|| vit.cls_of_last(&images_NCHW, blocks)).to_device(Device::Cpu)
}

/// The sizes around one that are whole patches, in words.
fn nearest_sizes(image_px: i64, patch_px: i64) -> String {
    match image_px / patch_px * patch_px {
        0 => patch_px.to_string(),
        below => format!("{below} or {}", below + patch_px),
    }
}

/// Short side for a centre of this side: 256 for 224.
fn short_side_px(image_px: i64) -> i64 {
    image_px * 8 / 7
}
