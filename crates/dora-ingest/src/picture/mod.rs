//! Decoded pictures, and how they become the planes of a stored JPEG.
//!
//! FFmpeg's frames stay what nearly every video holds, luma and chroma in planes: they are scaled
//! down first, and what is left to do (levels, colour matrix, rotation) is done on the small planes.
//! They never become RGB, and no full-size copy is made.

mod area;
mod colour;
mod layout;
mod orient;
mod planes;

pub(crate) use layout::is_deep;
pub(crate) use orient::Orientation;
pub(crate) use planes::{JpegPlanes, PlaneMaker};

use opencv::core::{Mat, MatTraitConst};

/// A picture as its decoder gives it.
pub(crate) enum Picture {
    /// 8 bits for each of blue, green and red, from OpenCV.
    Bgr(Mat),
    /// Planes of any format that FFmpeg knows, and how the picture must be turned.
    Yuv(ffmpeg::frame::Video, Orientation),
}

impl Picture {
    /// Width and height as shown.
    pub(crate) fn size_px(&self) -> (u32, u32) {
        match self {
            Self::Bgr(picture) => (picture.cols().max(0) as u32, picture.rows().max(0) as u32),
            Self::Yuv(frame, orientation) => orientation.size((frame.width(), frame.height())),
        }
    }
}
