//! The objects of a sequence's first annotation followed through its frames.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use dora_model::Vit;
use tch::{Device, Kind, Tensor, no_grad};

use super::{
    dataset::{DatasetError, Frame, Sequence},
    propagation::{LabelledPatches, Propagation, unit_features},
};
use crate::{
    encoder::{Encoder, NotFinite, look::look_in_order, rate::wait_for},
    images::{ImageError, grid::MOST_PATCHES, masks::Mask, read_rgb},
};

/// The long side is a multiple of this.
const LONG_SIDE_MULTIPLE_PX: i64 = 64;

/// Mean and standard deviation of red, green and blue in this protocol; the latter begins with 0.228,
/// where encoders are trained with 0.229.
const MEAN_STD: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.228, 0.224, 0.225]);

/// How objects are followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protocol {
    /// Short side that frames are scaled to.
    pub short_side_px: i64,
    /// Frames before the target that labels come from, beside the first.
    pub last_frames: usize,
    /// How labels go from patch to patch.
    pub propagation: Propagation,
}

/// A frame with the mask that was found.
#[derive(Debug)]
pub struct FollowedFrame {
    /// Its place in the sequence.
    pub index: usize,
    /// The picture, uint8 `[3, H, W]`.
    pub image_CHW: Tensor,
    /// Its mask of the same size; the annotation in the first frame.
    pub mask: Mask,
}

/// Where the time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct FollowTime {
    /// In the encoder; on the CPU the sum of what cores spend side by side.
    pub encoder: Duration,
    /// In the comparison of patches.
    pub propagation: Duration,
}

/// Why a sequence cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// A file cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The annotation to begin with cannot be used.
    #[error(transparent)]
    Annotation(#[from] DatasetError),
    /// Its sizes do not work.
    #[error("sequence `{name}`: {problem}")]
    Size {
        /// The sequence.
        name: String,
        /// Which size, and what would do.
        problem: String,
    },
    /// Features of a frame are no numbers.
    #[error(transparent)]
    NotFinite(#[from] NotFinite),
}

impl Default for Protocol {
    /// DINO's on DAVIS.
    fn default() -> Self {
        Self { short_side_px: 480, last_frames: 7, propagation: Propagation::default() }
    }
}

impl Protocol {
    /// Rows and columns in pixels that a sequence's frames are scaled to: the long side rounded down to
    /// a multiple of 64, and both to whole patches.
    ///
    /// # Errors
    /// They hold less than a patch, or more patches than fit into memory.
    pub fn scaled_size(
        &self,
        sequence: &Sequence,
        patch_px: i64,
    ) -> Result<(i64, i64), FollowError> {
        let wrong = |problem| FollowError::Size { name: sequence.name.clone(), problem };
        let (width, height) = (sequence.size.0 as i64, sequence.size.1 as i64);
        let short = self.short_side_px;
        let long = |long: i64, side: i64| {
            short * long / side / LONG_SIDE_MULTIPLE_PX * LONG_SIDE_MULTIPLE_PX
        };
        let (rows, columns) = if height > width {
            (long(height, width), short)
        } else {
            (short, long(width, height))
        };
        let [rows, columns] = [rows, columns].map(|side| side / patch_px * patch_px);
        if rows.min(columns) == 0 {
            return Err(wrong(format!(
                "scaled to a short side of {short} px, frames of {width}x{height} px have {columns}x{rows}, \
                 with sides in whole patches and multiples of 64; give a longer one"
            )));
        }
        if rows / patch_px * (columns / patch_px) > MOST_PATCHES {
            return Err(wrong(format!(
                "scaled to a short side of {short} px, frames of {width}x{height} px have more than \
                 {MOST_PATCHES} patches; give a shorter one"
            )));
        }
        Ok((rows, columns))
    }

    /// Follows the objects, and gives each frame with its mask to `take`, in order. Frames are read and, on
    /// the CPU, encoded meanwhile, each by a core alone. Ends early when `take` says so by `false`.
    ///
    /// # Errors
    /// A file cannot be read, a frame has another size than the first, or the encoder gives no numbers.
    pub fn follow(
        &self,
        encoder: &Encoder,
        sequence: &Sequence,
        mut take: impl FnMut(FollowedFrame) -> bool,
    ) -> Result<FollowTime, FollowError> {
        let (patch_px, device) = (encoder.config.patch_px, encoder.device);
        let size = self.scaled_size(sequence, patch_px)?;
        let grid = (size.0 / patch_px, size.1 / patch_px);
        let first_mask = sequence.annotation(&sequence.frames[0])?;
        let mut tracker = LabelTracker::new(*self, grid);
        let mut time = FollowTime::default();
        let mut index = 0;
        let read = |index: usize| {
            read_frame(sequence, &sequence.frames[index], size).map_err(Ending::Failed)
        };
        let look = |vit: &Vit, _, (image_CHW, input_1CHW): ReadFrame| {
            let started = Instant::now();
            let tokens_1SD = vit.forward(&input_1CHW.to_device(device), None);
            // Finite only where all are, and what they are divided by.
            if !tokens_1SD.norm().double_value(&[]).is_finite() {
                return Err(Ending::Failed(NotFinite.into()));
            }
            let features_PD = unit_features(&tokens_1SD.select(0, 0).narrow(0, 1, grid.0 * grid.1));
            wait_for(device);
            Ok((image_CHW, features_PD, started.elapsed()))
        };
        let label = |(image_CHW, features_PD, encoding): (Tensor, Tensor, Duration)| {
            let started = Instant::now();
            let mask = if index == 0 {
                let labels_PC = labels_of(&first_mask, sequence.objects, grid);
                tracker.start(features_PD, labels_PC.to_device(device));
                first_mask.clone()
            } else {
                let labels_PC = no_grad(|| tracker.label(features_PD));
                wait_for(device);
                time.propagation += started.elapsed();
                no_grad(|| mask_of(&labels_PC, grid, patch_px, sequence.size))
            };
            time.encoder += encoding;
            let frame = FollowedFrame { index, image_CHW, mask };
            index += 1;
            if take(frame) { Ok(()) } else { Err(Ending::Asked) }
        };
        match look_in_order(encoder, sequence.frames.len(), read, look, label) {
            Ok(()) | Err(Ending::Asked) => Ok(time),
            Err(Ending::Failed(error)) => Err(error),
        }
    }
}

/// Why a sequence is not followed to its end.
enum Ending {
    /// Whoever takes the frames wants no more.
    Asked,
    Failed(FollowError),
}

/// What labels come from: the first frame, and the last ones.
#[derive(Debug)]
pub struct LabelTracker {
    protocol: Protocol,
    grid: (i64, i64),
    first: Option<LabelledPatches>,
    last: VecDeque<LabelledPatches>,
}

impl LabelTracker {
    /// Of frames with so many rows and columns of patches.
    pub fn new(protocol: Protocol, grid: (i64, i64)) -> Self {
        Self { protocol, grid, first: None, last: VecDeque::new() }
    }

    /// Takes the first frame: unit features `[P, D]` and labels `[P, C]` that sum to 1.
    pub fn start(&mut self, features_PD: Tensor, labels_PC: Tensor) {
        self.first = Some(LabelledPatches { features_PD, labels_PC });
    }

    /// Labels `[P, C]` of the next frame, of which later ones take theirs.
    pub fn label(&mut self, features_PD: Tensor) -> Tensor {
        let sources: Vec<&LabelledPatches> = self.first.iter().chain(&self.last).collect();
        let labels_PC = self.protocol.propagation.propagate(&sources, &features_PD, self.grid);
        self.last.push_back(LabelledPatches { features_PD, labels_PC: labels_PC.shallow_clone() });
        if self.last.len() > self.protocol.last_frames {
            self.last.pop_front();
        }
        labels_PC
    }
}

/// A frame as it is, and as the encoder takes it.
type ReadFrame = (Tensor, Tensor);

fn read_frame(
    sequence: &Sequence,
    frame: &Frame,
    size: (i64, i64),
) -> Result<ReadFrame, FollowError> {
    let image_CHW = read_rgb(&frame.image)?;
    let (_, rows, columns) = image_CHW.size3().unwrap_or_default();
    let found = (columns as usize, rows as usize);
    if found != sequence.size {
        let (expected, path) = (sequence.size, frame.image.display());
        return Err(FollowError::Size {
            name: sequence.name.clone(),
            problem: format!(
                "{path} has {}x{} px, but the first frame has {}x{}",
                found.0, found.1, expected.0, expected.1
            ),
        });
    }
    let input_1CHW = no_grad(|| prepare(&image_CHW, size));
    Ok((image_CHW, input_1CHW))
}

/// What the encoder takes `[1, 3, rows, columns]` of a picture, uint8 `[3, H, W]`: scaled bilinearly on
/// half-pixel centres without antialiasing, and normalised.
pub fn prepare(image_CHW: &Tensor, (rows, columns): (i64, i64)) -> Tensor {
    let (mean, std) = MEAN_STD;
    let channels = |values: &[f32]| Tensor::from_slice(values).reshape([1, 3, 1, 1]);
    let image_1CHW = image_CHW.unsqueeze(0).to_kind(Kind::Float) / 255.0;
    let scaled = image_1CHW.upsample_bilinear2d([rows, columns], false, None::<f64>, None::<f64>);
    (scaled - channels(&mean)) / channels(&std)
}

/// A mask's labels on the patch grid, the nearest pixel's, one-hot `[P, 1 + objects]`.
pub fn labels_of(mask: &Mask, objects: usize, (rows, columns): (i64, i64)) -> Tensor {
    let small =
        resize_nearest(&mask.labels, (mask.height, mask.width), (rows as usize, columns as usize));
    let small: Vec<i64> = small.into_iter().map(i64::from).collect();
    Tensor::from_slice(&small).one_hot(1 + objects as i64).to_kind(Kind::Float)
}

/// The mask (of columns, rows) that soft labels `[P, C]` mean: enlarged bilinearly by the patch, each
/// label stretched to [0, 1], the highest taken, and the nearest pixel's in the frame's own size.
pub fn mask_of(
    labels_PC: &Tensor,
    (rows, columns): (i64, i64),
    patch_px: i64,
    (width, height): (usize, usize),
) -> Mask {
    let labels_1CHW = labels_PC.transpose(0, 1).contiguous().view([1, -1, rows, columns]);
    let large = (rows * patch_px, columns * patch_px);
    let large_CHW = labels_1CHW
        .upsample_bilinear2d([large.0, large.1], false, None::<f64>, None::<f64>)
        .squeeze_dim(0);
    let lowest_C11 = large_CHW.amin([1, 2].as_slice(), true);
    let range_C11 = large_CHW.amax([1, 2].as_slice(), true) - &lowest_C11;
    // A label that is the same everywhere says nothing of where it is, and stays as it is.
    let is_constant_C11 = range_C11.eq(0.0);
    let stretched_CHW = (&large_CHW - &lowest_C11) / range_C11;
    let best_HW =
        stretched_CHW.where_self(&is_constant_C11.logical_not(), &large_CHW).argmax(0, false);
    let best: Vec<u8> =
        Vec::try_from(best_HW.to_kind(Kind::Uint8).to_device(Device::Cpu).flatten(0, -1))
            .expect("labels are bytes in a row");
    let labels = resize_nearest(&best, (large.0 as usize, large.1 as usize), (height, width));
    Mask { width, height, labels }
}

/// Rows and columns to others, each pixel the one in which its centre falls. Centres are added up as
/// Pillow's NEAREST does: where one falls between two pixels, how the sum rounds decides.
fn resize_nearest(values: &[u8], from: (usize, usize), to: (usize, usize)) -> Vec<u8> {
    let sources = |from: usize, to: usize| {
        let step = from as f64 / to as f64;
        let next = move |centre: &f64| Some(centre + step);
        let centres = std::iter::successors(Some(0.5 * step), next).take(to);
        centres.map(move |centre| (centre as usize).min(from - 1))
    };
    let columns: Vec<usize> = sources(from.1, to.1).collect();
    let rows = sources(from.0, to.0).map(|row| &values[row * from.1..][..from.1]);
    rows.flat_map(|row| columns.iter().map(|&x| row[x])).collect()
}
