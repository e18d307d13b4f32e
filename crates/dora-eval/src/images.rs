//! Images from files to what an encoder takes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use image::ImageReader;
use tch::{Kind, Tensor};

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
    if bytes.starts_with(&[0xff, 0xd8]) {
        return decode_jpeg(&bytes).map_err(failed);
    }
    let (width, height, pixels) = {
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
    Ok(planes(&pixels, height as usize, width as usize))
}

/// Width and height of a JPEG or PNG file, of which no more than the header is read.
pub fn image_size(path: &Path) -> Result<(u32, u32), ImageError> {
    let failed = |reason: String| ImageError { path: path.into(), reason };
    let reader = ImageReader::open(path).map_err(|error| failed(error.to_string()))?;
    let reader = reader.with_guessed_format().map_err(|error| failed(error.to_string()))?;
    reader.into_dimensions().map_err(|error| failed(error.to_string()))
}

/// uint8 `[..., 3, H, W]` to what encoders take: [0, 1], less the mean, over the standard deviation.
pub fn normalise(images: &Tensor) -> Tensor {
    let (mean, std) = MEAN_STD;
    let channels =
        |values: &[f32]| Tensor::from_slice(values).reshape([3, 1, 1]).to_device(images.device());
    (images.to_kind(Kind::Float) / 255.0 - channels(&mean)) / channels(&std)
}

/// Scales uint8 `[3, H, W]` to `rows` x `columns`, bilinearly with antialiasing as Pillow does.
pub fn resize(image_CHW: &Tensor, rows: i64, columns: i64) -> Tensor {
    if image_CHW.size()[1..] == [rows, columns] {
        return image_CHW.shallow_clone();
    }
    // libtorch's kernel for uint8 is not that of other types.
    let image = image_CHW.to_kind(Kind::Float).unsqueeze(0);
    let resized =
        image.internal_upsample_bilinear2d_aa([rows, columns], false, None::<f64>, None::<f64>);
    resized.round().clamp(0.0, 255.0).to_kind(Kind::Uint8).squeeze_dim(0)
}

/// Scales uint8 `[3, H, W]` as [`resize`] does until it covers `rows` x `columns`, and takes that size
/// from its middle.
pub fn cover(image_CHW: &Tensor, rows: i64, columns: i64) -> Tensor {
    let size = image_CHW.size();
    let (height, width) = (size[1].max(1), size[2].max(1));
    let scale = (rows as f64 / height as f64).max(columns as f64 / width as f64);
    let scaled = |px: i64, least: i64| ((px as f64 * scale).round() as i64).max(least);
    let (high, wide) = (scaled(height, rows), scaled(width, columns));
    let resized_CHW = resize(image_CHW, high, wide);
    let cut_CHW = resized_CHW.narrow(1, (high - rows) / 2, rows);
    cut_CHW.narrow(2, (wide - columns) / 2, columns).contiguous()
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
        // libtorch's kernel for uint8 is not that of other types; float32 rounded is Pillow's to a level.
        let image = image_CHW.to_kind(Kind::Float).unsqueeze(0);
        let resized =
            image.internal_upsample_bicubic2d_aa([rows, columns], false, None::<f64>, None::<f64>);
        resized.round().clamp(0.0, 255.0).to_kind(Kind::Uint8).squeeze_dim(0)
    };
    // As torchvision: half a pixel is rounded to even.
    let start = |size: i64| (((size - crop_px) as f64) / 2.0).round_ties_even() as i64;
    resized_CHW.narrow(1, start(rows), crop_px).narrow(2, start(columns), crop_px).contiguous()
}

/// Decodes a JPEG file's bytes to uint8 `[3, H, W]`.
///
/// # Errors
/// What is wrong with them.
pub fn decode_jpeg(bytes: &[u8]) -> Result<Tensor, String> {
    let header = turbojpeg::read_header(bytes).map_err(|error| error.to_string())?;
    if header.width.max(header.height) > MOST_PX as usize {
        return Err(format!(
            "it has {}x{} px, and {MOST_PX} on a side are the most",
            header.width, header.height
        ));
    }
    let image = turbojpeg::decompress(bytes, turbojpeg::PixelFormat::RGB)
        .map_err(|error| error.to_string())?;
    Ok(planes(&image.pixels, image.height, image.width))
}

/// `[H, W, 3]` to `[3, H, W]`.
fn planes(pixels: &[u8], height: usize, width: usize) -> Tensor {
    let image_HWC = Tensor::from_slice(pixels).reshape([height as i64, width as i64, 3]);
    image_HWC.permute([2, 0, 1]).contiguous()
}
