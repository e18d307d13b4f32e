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

use std::ops::Range;

use rand::rngs::ChaCha8Rng;
use rayon::prelude::*;
use tch::{Device, Kind, Tensor, no_grad};

use crate::arena::{Arena, Slot};
use crate::crop::{CropBox, random_resized_crop};
use crate::rng::{self, Draw};
use color::IMAGENET;
use draws::{Colours, Photometric};
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

/// Makes the views of a batch of clips, `frames_BTCHW` uint8 on any device, on `device`: a
/// [`ViewsPlan`] and its application.
///
/// # Panics
/// If the frames are not `[B, T, 3, H, W]` or `keys` names another number of clips.
pub fn views(frames_BTCHW: &Tensor, spec: &ViewSpec, keys: ViewKeys<'_>, device: Device) -> Views {
    let plan = ViewsPlan::new(spec, keys, frame_shape(frames_BTCHW));
    let bytes = Tensor::from_slice(plan.bytes()).to_device(device);
    plan.apply(&frames_BTCHW.to_device(device), &bytes, Together::on(device))
}

/// The global views as [`views`] cuts them, with all colours as they are: uint8
/// `[V, B, T, 3, global_px, global_px]`, for pictures under what the networks made of the views.
pub fn plain_global_views(
    frames_BTCHW: &Tensor,
    spec: &ViewSpec,
    keys: ViewKeys<'_>,
    device: Device,
) -> Tensor {
    let plan = ViewsPlan::new(spec, keys, frame_shape(frames_BTCHW));
    let bytes = Tensor::from_slice(plan.bytes()).to_device(device);
    let (frames_BTCHW, together) = (frames_BTCHW.to_device(device), Together::on(device));
    together.run(|| {
        plan.global(&frames_BTCHW, &bytes, together, |_, images_CNHW, _| {
            to_u8(&images_CNHW).transpose(0, 1)
        })
    })
}

/// The picture that a normalised float image `[..., 3, H, W]` was made from, as uint8.
pub fn denormalise(images_CHW: &Tensor) -> Tensor {
    let [mean, std] = color::imagenet(images_CHW.device());
    to_u8(&(images_CHW * std + mean))
}

/// How many images pass through an operation together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Together {
    /// One, from its frame to the finished view, so that it stays in the cache of a core.
    One,
    /// All of a kind, so that few operations are launched.
    All,
}

impl Together {
    /// What is fast on a device.
    pub fn on(device: Device) -> Self {
        if device == Device::Cpu { Self::One } else { Self::All }
    }

    /// Runs `work` without gradients. Operations on one image are too small for several threads, which
    /// would only wait for one another.
    fn run<T>(self, work: impl FnOnce() -> T) -> T {
        let threads = tch::get_num_threads();
        let is_alone = self == Self::All || threads == 1;
        let set = |threads| {
            if !is_alone {
                tch::set_num_threads(threads)
            }
        };
        set(1);
        let done = no_grad(work);
        set(threads);
        done
    }

    fn of(self, counts: [usize; 2]) -> [usize; 2] {
        match self {
            Self::One => [1, 1],
            Self::All => counts,
        }
    }
}

/// What chance decides about the views of a batch, computed on the host: boxes, the weights of
/// resampling and blur, and colours, as arrays of one piece of memory that reaches a device in one
/// copy. Its application there asks the host for nothing else.
#[derive(Debug)]
pub struct ViewsPlan {
    arena: Arena,
    clips: usize,
    frames_per_clip: usize,
    imagenet: [Slot; 2],
    /// A box for each clip, colours for each frame.
    global_V: Vec<Part>,
    /// L boxes for each frame, and colours for each of them.
    local: Option<Part>,
    local_crops: usize,
    global_px: i64,
    local_px: i64,
}

/// Views of one kind: their boxes, then their colours.
#[derive(Debug)]
struct Part {
    resize: Resize,
    colours: Photometric,
}

impl ViewsPlan {
    /// Draws and computes on the threads of the current pool. What is planned for a clip depends on
    /// the spec (valid), the size of its frames and its own keys alone.
    ///
    /// # Panics
    /// If `shape`, clips, frames of each, their height and width, has another number of clips than
    /// `keys`.
    pub fn new(spec: &ViewSpec, keys: ViewKeys<'_>, shape: [usize; 4]) -> Self {
        let [clips, frames_per_clip, height, width] = shape;
        assert_eq!(clips, keys.sample_ids.len(), "one sample id for each clip");
        let mut arena = Arena::default();
        let mut part = |boxes: Vec<(CropBox, bool)>, colours: Vec<Colours>, px: u32| Part {
            resize: Resize::new(Kernel::Bicubic, &boxes, px, &mut arena),
            colours: Photometric::new(colours, px, &mut arena),
        };
        let draw_box = |rng: &mut ChaCha8Rng, area| {
            random_resized_crop(rng, width as u32, height as u32, area, spec.ratio)
        };
        let of_frame = |index: usize| {
            (keys.sample_ids[index / frames_per_clip], (index % frames_per_clip) as u64)
        };
        let frames = clips * frames_per_clip;
        let global = |view: u64| {
            let boxes = keys.sample_ids.iter().map(|&sample| {
                let mut rng = keys.stream("global box", &[sample, view]);
                let flip = rng.chance(spec.flip_p);
                (draw_box(&mut rng, spec.global_area), flip)
            });
            let solarize_p = if view == 0 { 0.0 } else { spec.solarize_p };
            let colours = (0..frames).into_par_iter().map(|index| {
                let (sample, frame) = of_frame(index);
                let mut rng = keys.stream("global colour", &[sample, view, frame]);
                Colours::draw(&mut rng, spec, spec.global_blur_p, solarize_p)
            });
            part(boxes.collect(), colours.collect(), spec.global_px)
        };
        let global_V = (0..spec.views.into()).map(global).collect();
        let crops = spec.local_crops as usize;
        let local = (crops > 0).then(|| {
            let drawn = (0..frames * crops).into_par_iter().map(|index| {
                let (sample, frame) = of_frame(index / crops);
                let mut rng = keys.stream("local", &[sample, (index % crops) as u64, frame]);
                let crop = draw_box(&mut rng, spec.local_area);
                ((crop, false), Colours::draw(&mut rng, spec, spec.local_blur_p, 0.0))
            });
            let (boxes, colours) = drawn.unzip();
            part(boxes, colours, spec.local_px)
        });
        Self {
            clips,
            frames_per_clip,
            imagenet: IMAGENET.map(|values| arena.push_f32(&values)),
            arena,
            global_V,
            local,
            local_crops: crops,
            global_px: spec.global_px.into(),
            local_px: spec.local_px.into(),
        }
    }

    /// What its application needs on the device.
    pub fn bytes(&self) -> &[u8] {
        self.arena.bytes()
    }

    /// Makes the views of the planned clips from their frames, uint8 `[B, T, 3, H, W]`; `bytes` is
    /// [`ViewsPlan::bytes`] as a uint8 tensor on the same device.
    ///
    /// Call it outside of autocast: the products here resample pixels and need float32.
    pub fn apply(&self, frames_BTCHW: &Tensor, bytes: &Tensor, together: Together) -> Views {
        together.run(|| {
            let [mean, std] = self.imagenet.map(|slot| slot.tensor(bytes).view([3, 1, 1]));
            let normalise = |images_CNHW: Tensor| (images_CNHW.transpose(0, 1) - &mean) / &std;
            let global_VBTCHW =
                self.global(frames_BTCHW, bytes, together, |part, images, which| {
                    normalise(part.colours.apply(images, which, bytes, together))
                });
            let local_LBTCHW = self.local(frames_BTCHW, bytes, together, normalise);
            Views { global_VBTCHW, local_LBTCHW }
        })
    }

    /// The global views after `finish`, which is given some of a part's images, `[3, N, px, px]`, and
    /// which they are, and returns `[N, 3, px, px]`.
    fn global(
        &self,
        frames_BTCHW: &Tensor,
        bytes: &Tensor,
        together: Together,
        finish: impl Fn(&Part, Tensor, Range<usize>) -> Tensor,
    ) -> Tensor {
        let (clips, frames) = (self.clips, self.frames_per_clip);
        let [clips_at_once, frames_at_once] = together.of([clips, frames]);
        let frames_NCHW = frames_BTCHW.flatten(0, 1);
        let mut made = Vec::new();
        for part in &self.global_V {
            for clip in (0..clips).step_by(clips_at_once) {
                let (boxes, each) = (clip..clip + clips_at_once, frames_at_once as i64);
                let boxes = part.resize.matrices(boxes, each, bytes, together);
                for frame in (0..frames).step_by(frames_at_once) {
                    let first = clip * frames + frame;
                    let which = first..first + clips_at_once * frames_at_once;
                    let images = frames_NCHW.narrow(0, first as i64, which.len() as i64);
                    made.push(finish(part, boxes.apply(&images), which));
                }
            }
        }
        let (v, px) = (self.global_V.len() as i64, self.global_px);
        Tensor::cat(&made, 0).view([v, clips as i64, frames as i64, 3, px, px])
    }

    /// The finished local crops.
    fn local(
        &self,
        frames_BTCHW: &Tensor,
        bytes: &Tensor,
        together: Together,
        normalise: impl Fn(Tensor) -> Tensor,
    ) -> Tensor {
        let (crops, frames) = (self.local_crops, self.clips * self.frames_per_clip);
        let [b, t, l] = [self.clips, self.frames_per_clip, crops].map(|size| size as i64);
        let shape = [l, b, t, 3, self.local_px, self.local_px];
        let Some(part) = &self.local else {
            return Tensor::zeros(shape, (Kind::Float, frames_BTCHW.device()));
        };
        let [frames_at_once, crops_at_once] = together.of([frames, crops]);
        let frames_NCHW = frames_BTCHW.flatten(0, 1);
        let mut made = Vec::new();
        for crop in (0..crops).step_by(crops_at_once) {
            for frame in (0..frames).step_by(frames_at_once) {
                let first = frame * crops + crop;
                let which = first..first + frames_at_once * crops_at_once;
                let images = frames_NCHW.narrow(0, frame as i64, frames_at_once as i64);
                let boxes = part.resize.matrices(which.clone(), 1, bytes, together);
                let images = part.colours.apply(boxes.apply(&images), which, bytes, together);
                let by_frame = normalise(images).unflatten(0, [-1, crops_at_once as i64]);
                made.push(by_frame.transpose(0, 1).flatten(0, 1));
            }
        }
        Tensor::cat(&made, 0).view(shape)
    }
}

fn frame_shape(frames_BTCHW: &Tensor) -> [usize; 4] {
    let [b, t, 3, h, w] = frames_BTCHW.size()[..] else {
        panic!("frames are [B, T, 3, H, W], not {:?}", frames_BTCHW.size());
    };
    [b, t, h, w].map(|size| size as usize)
}

impl ViewKeys<'_> {
    fn stream(&self, name: &str, ids: &[u64]) -> ChaCha8Rng {
        let ids: Vec<u64> = std::iter::once(self.epoch).chain(ids.iter().copied()).collect();
        rng::stream(self.seed, name, &ids)
    }
}

fn to_u8(images: &Tensor) -> Tensor {
    (images * 255.0).round().clamp(0.0, 255.0).to_kind(Kind::Uint8)
}
