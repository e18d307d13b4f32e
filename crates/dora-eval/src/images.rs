//! Images from files to what an encoder takes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use dora_data::crop::CropBox;
use image::ImageReader;
use tch::{Kind, Tensor};
use turbojpeg::Colorspace;

/// More pixels than any photograph or video frame: a file cannot ask for more memory.
pub(crate) const MOST_PX: u32 = 1 << 14;

/// ImageNet's mean and standard deviation of red, green and blue in [0, 1], with which encoders of
/// this family are trained.
pub const MEAN_STD: ([f32; 3], [f32; 3]) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {reason}", path.display())]
pub struct ImageError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads a JPEG or PNG file as uint8 `[3, H, W]`.
pub fn read_rgb(path: &Path) -> Result<Tensor, ImageError> {
    let failed = |reason: String| ImageError { path: path.into(), reason };
    let bytes = fs::read(path).map_err(|error| failed(error.to_string()))?;
    let jpeg = bytes.starts_with(&[0xff, 0xd8]).then(|| decode_jpeg(&bytes).map_err(failed));
    let (width, height, pixels) = if let Some(decoded) = jpeg.transpose()?.flatten() {
        decoded
    } else {
        let mut reader = ImageReader::new(std::io::Cursor::new(&bytes))
            .with_guessed_format()
            .map_err(|error| failed(error.to_string()))?;
        let mut limits = image::Limits::default();
        limits.max_image_width = Some(MOST_PX);
        limits.max_image_height = Some(MOST_PX);
        reader.limits(limits);
        let rgb = reader.decode().map_err(|error| failed(error.to_string()))?.into_rgb8();
        (rgb.width(), rgb.height(), rgb.into_raw())
    };
    let image_HWC = Tensor::from_slice(&pixels).reshape([i64::from(height), i64::from(width), 3]);
    Ok(image_HWC.permute([2, 0, 1]).contiguous())
}

/// uint8 `[..., 3, H, W]` to what encoders take: [0, 1], less the mean, over the standard deviation.
pub fn normalise(images: &Tensor) -> Tensor {
    let (mean, std) = MEAN_STD;
    let channels =
        |values: &[f32]| Tensor::from_slice(values).reshape([3, 1, 1]).to_device(images.device());
    (images.to_kind(Kind::Float) / 255.0 - channels(&mean)) / channels(&std)
}

/// Scales uint8 `[3, H, W]` so that its short side has `short_px`, bicubically with antialiasing as
/// Pillow does (the long side is rounded down), and takes the square of `crop_px` at its centre.
pub fn resize_and_crop(image_CHW: &Tensor, short_px: i64, crop_px: i64) -> Tensor {
    let (_, height, width) = image_CHW.size3().expect("an image is [3, H, W]");
    let (rows, columns) = if height <= width {
        (short_px, short_px * width / height)
    } else {
        (short_px * height / width, short_px)
    };
    let resized_CHW = if (rows, columns) == (height, width) {
        image_CHW.shallow_clone()
    } else {
        let image = image_CHW.to_kind(Kind::Float).unsqueeze(0);
        let resized =
            image.internal_upsample_bicubic2d_aa([rows, columns], false, None::<f64>, None::<f64>);
        to_levels(&resized)
    };
    // As torchvision: half a pixel is rounded to even.
    let start = |size: i64| (((size - crop_px) as f64) / 2.0).round_ties_even() as i64;
    resized_CHW.narrow(1, start(rows), crop_px).narrow(2, start(columns), crop_px).contiguous()
}

/// Scales a box of uint8 `[3, H, W]` to a square of `crop_px`, bilinearly with antialiasing as Pillow does,
/// mirrored if `flip`. The box lies within the image.
pub fn crop_and_resize(image_CHW: &Tensor, crop: CropBox, crop_px: i64, flip: bool) -> Tensor {
    let CropBox { left_px, top_px, width_px, height_px } = crop;
    let box_CHW = image_CHW.narrow(1, top_px.into(), height_px.into()).narrow(
        2,
        left_px.into(),
        width_px.into(),
    );
    let image = box_CHW.to_kind(Kind::Float).contiguous().unsqueeze(0);
    let size = [crop_px, crop_px];
    let resized_CHW =
        to_levels(&image.internal_upsample_bilinear2d_aa(size, false, None::<f64>, None::<f64>));
    if flip { resized_CHW.flip([2]) } else { resized_CHW }
}

/// `[1, 3, H, W]` as uint8 `[3, H, W]`. libtorch's resampling of uint8 is not that of other types;
/// float32 rounded is Pillow's to a level.
fn to_levels(image: &Tensor) -> Tensor {
    image.round().clamp(0.0, 255.0).to_kind(Kind::Uint8).squeeze_dim(0)
}

/// `None` for the colours of print, which libjpeg-turbo does not turn into red, green and blue.
fn decode_jpeg(bytes: &[u8]) -> Result<Option<(u32, u32, Vec<u8>)>, String> {
    let header = turbojpeg::read_header(bytes).map_err(|error| error.to_string())?;
    if matches!(header.colorspace, Colorspace::CMYK | Colorspace::YCCK) {
        return Ok(None);
    }
    if header.width.max(header.height) > MOST_PX as usize {
        return Err(format!(
            "it has {}x{} px, and {MOST_PX} on a side are the most",
            header.width, header.height
        ));
    }
    let image = turbojpeg::decompress(bytes, turbojpeg::PixelFormat::RGB)
        .map_err(|error| error.to_string())?;
    Ok(Some((image.width as u32, image.height as u32, image.pixels)))
}
