//! The views of a clip: global views and local crops, as batched tensor operations on the device
//! that trains.
//!
//! A global view has one box and one mirroring for its whole clip, a local crop has a new box for
//! every frame; both are resized bicubically with antialiasing. Colours, grey, blur and
//! solarisation are drawn anew for every frame of every view.

pub mod color;
mod draws;
pub mod resample;
mod spec;

use tch::{Device, Kind, Tensor, no_grad};

use crate::crop::random_resized_crop;
use crate::rng::{self, Draw};
use draws::Photometric;
use resample::{Kernel, Resize};
pub use spec::ViewSpec;

/// What names the random numbers of a batch.
#[derive(Clone, Copy, Debug)]
pub struct ViewKeys<'a> {
    /// The seed of the run.
    pub seed: u64,
    /// The epoch of the batch.
    pub epoch: u64,
    /// [`crate::sampler::ClipRef::sample_id`] of each clip.
    pub sample_ids: &'a [u64],
}

/// What the networks see, float32 with ImageNet's mean 0 and standard deviation 1, contiguous.
#[derive(Debug)]
pub struct Views {
    /// Global views, `[V, B, T, 3, global_px, global_px]`.
    pub global_VBTCHW: Tensor,
    /// Local crops, `[L, B, T, 3, local_px, local_px]`; L may be 0.
    pub local_LBTCHW: Tensor,
}

/// Makes the views of a batch of clips, `frames_BTCHW` uint8 on any device, on `device`.
///
/// The result for a clip depends on its frames, the spec (valid) and its own keys alone. Call it
/// outside of autocast: the products here resample pixels and need float32.
///
/// # Panics
/// If the frames are not `[B, T, 3, H, W]` or `keys` names another number of clips.
pub fn views(frames_BTCHW: &Tensor, spec: &ViewSpec, keys: ViewKeys<'_>, device: Device) -> Views {
    no_grad(|| {
        let frames = Frames::new(frames_BTCHW, keys, device);
        let global = (0..u64::from(spec.views)).map(|view| {
            let mut draws = Photometric::default();
            let solarize_p = if view == 0 { 0.0 } else { spec.solarize_p };
            frames.each(|sample, frame| {
                let mut rng = keys.stream("global colour", &[sample, view, frame]);
                draws.push(&mut rng, spec, spec.global_blur_p, solarize_p);
            });
            normalise(draws.apply(frames.global(spec, keys, view)))
        });
        let global: Vec<_> = global.collect();
        let global_VBTCHW =
            frames.unflatten(&Tensor::stack(&global, 0), spec.views, spec.global_px);
        let local_LBTCHW =
            frames.unflatten(&frames.local(spec, keys), spec.local_crops, spec.local_px);
        Views { global_VBTCHW, local_LBTCHW }
    })
}

/// The global views as [`views`] cuts them, with all colours as they are: uint8
/// `[V, B, T, 3, global_px, global_px]`, for pictures under what the networks made of the views.
pub fn plain_global_views(
    frames_BTCHW: &Tensor,
    spec: &ViewSpec,
    keys: ViewKeys<'_>,
    device: Device,
) -> Tensor {
    no_grad(|| {
        let frames = Frames::new(frames_BTCHW, keys, device);
        let views: Vec<_> = (0..u64::from(spec.views))
            .map(|view| to_u8(&frames.global(spec, keys, view)).transpose(0, 1))
            .collect();
        frames.unflatten(&Tensor::stack(&views, 0), spec.views, spec.global_px)
    })
}

/// The picture that a normalised float image `[..., 3, H, W]` was made from, as uint8.
pub fn denormalise(images_CHW: &Tensor) -> Tensor {
    let [mean, std] = color::imagenet(images_CHW.device());
    to_u8(&(images_CHW * std + mean))
}

impl ViewKeys<'_> {
    fn stream(&self, name: &str, ids: &[u64]) -> rand::rngs::ChaCha8Rng {
        let ids: Vec<u64> = std::iter::once(self.epoch).chain(ids.iter().copied()).collect();
        rng::stream(self.seed, name, &ids)
    }
}

/// All frames of a batch as one list of float images in [0, 1].
struct Frames<'a> {
    images_NHCW: Tensor,
    sample_ids: &'a [u64],
    frames_per_clip: u64,
    width_px: u32,
    height_px: u32,
}

impl<'a> Frames<'a> {
    fn new(frames_BTCHW: &Tensor, keys: ViewKeys<'a>, device: Device) -> Self {
        let [b, t, 3, h, w] = frames_BTCHW.size()[..] else {
            panic!("frames are [B, T, 3, H, W], not {:?}", frames_BTCHW.size());
        };
        assert_eq!(b, keys.sample_ids.len() as i64, "one sample id for each clip");
        let frames_NHCW = frames_BTCHW.to_device(device).view([-1, 3, h, w]).permute([0, 2, 1, 3]);
        Self {
            images_NHCW: frames_NHCW.contiguous().to_kind(Kind::Float) / 255.0,
            sample_ids: keys.sample_ids,
            frames_per_clip: t as u64,
            width_px: w as u32,
            height_px: h as u32,
        }
    }

    /// Calls `body` for each frame, with its sample id and its index in the clip.
    fn each(&self, mut body: impl FnMut(u64, u64)) {
        for &sample in self.sample_ids {
            (0..self.frames_per_clip).for_each(|frame| body(sample, frame));
        }
    }

    /// The resized boxes of a global view, `[3, B * T, px, px]` in [0, 1].
    fn global(&self, spec: &ViewSpec, keys: ViewKeys<'_>, view: u64) -> Tensor {
        let mut resize = Resize::default();
        self.each(|sample, _| {
            let mut rng = keys.stream("global box", &[sample, view]);
            let flip = rng.chance(spec.flip_p);
            let (width, height) = (self.width_px, self.height_px);
            let crop = random_resized_crop(&mut rng, width, height, spec.global_area, spec.ratio);
            resize.push(Kernel::Bicubic, crop, spec.global_px, flip);
        });
        resize.apply(&self.images_NHCW, 1, spec.global_px)
    }

    /// The finished local crops, `[L, B * T, 3, px, px]`.
    fn local(&self, spec: &ViewSpec, keys: ViewKeys<'_>) -> Tensor {
        let (px, device) = (i64::from(spec.local_px), self.images_NHCW.device());
        let crops = i64::from(spec.local_crops);
        if crops == 0 {
            return Tensor::zeros([0, 3, px, px], (Kind::Float, device));
        }
        let mut resize = Resize::default();
        let mut draws = Photometric::default();
        self.each(|sample, frame| {
            for crop in 0..u64::from(spec.local_crops) {
                let mut rng = keys.stream("local", &[sample, crop, frame]);
                let (width, height) = (self.width_px, self.height_px);
                let area =
                    random_resized_crop(&mut rng, width, height, spec.local_area, spec.ratio);
                resize.push(Kernel::Bicubic, area, spec.local_px, false);
                draws.push(&mut rng, spec, spec.local_blur_p, 0.0);
            }
        });
        let images = resize.apply(&self.images_NHCW, crops as usize, spec.local_px);
        normalise(draws.apply(images)).view([-1, crops, 3, px, px]).transpose(0, 1)
    }

    /// `[V, B * T, 3, px, px]` as `[V, B, T, 3, px, px]`.
    fn unflatten(&self, images: &Tensor, views: u32, px: u32) -> Tensor {
        let (b, t) = (self.sample_ids.len() as i64, self.frames_per_clip as i64);
        let px = i64::from(px);
        images.contiguous().view([views.into(), b, t, 3, px, px])
    }
}

/// From colours in [0, 1] `[3, N, H, W]` to what the networks take, `[N, 3, H, W]`.
fn normalise(images_CNHW: Tensor) -> Tensor {
    let [mean, std] = color::imagenet(images_CNHW.device());
    (images_CNHW.transpose(0, 1) - mean) / std
}

fn to_u8(images: &Tensor) -> Tensor {
    (images * 255.0).round().clamp(0.0, 255.0).to_kind(Kind::Uint8)
}
