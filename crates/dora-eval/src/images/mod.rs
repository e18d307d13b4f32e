//! Images from files to what an encoder takes.

pub mod folder;
pub mod footage;
pub mod grid;
pub mod masks;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use dora_data::crop::CropBox;
use image::ImageReader;
use tch::{Kind, Tensor};
use turbojpeg::{Colorspace, Decompressor};

/// More pixels than any photograph or video frame: a file cannot ask for more memory.
pub const MOST_PX: u32 = 1 << 14;

/// The first bytes of a JPEG file.
const JPEG_START: [u8; 2] = [0xff, 0xd8];
/// What ends the image in it.
const JPEG_END: [u8; 2] = [0xff, 0xd9];

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
    decode_rgb(&bytes).map_err(failed)
}

/// Decodes the bytes of a JPEG or PNG file to uint8 `[3, H, W]`.
///
/// # Errors
/// What is wrong with them.
pub fn decode_rgb(bytes: &[u8]) -> Result<Tensor, String> {
    if bytes.starts_with(&JPEG_START)
        && let Some(image_CHW) = decode_jpeg(bytes)?
    {
        return Ok(image_CHW);
    }
    let reader = ImageReader::new(std::io::Cursor::new(bytes));
    let mut reader = reader.with_guessed_format().map_err(|error| error.to_string())?;
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MOST_PX);
    limits.max_image_height = Some(MOST_PX);
    reader.limits(limits);
    let rgb = reader.decode().map_err(|error| error.to_string())?.into_rgb8();
    Ok(planes(rgb.as_raw(), rgb.height() as usize, rgb.width() as usize))
}

/// Width and height of a JPEG or PNG file as its header says: finds what is empty or something else
/// without decoding.
pub fn image_size(path: &Path) -> Result<(u32, u32), ImageError> {
    /// Enough for most headers; the whole file is looked at where it is not.
    const HEAD_BYTES: u64 = 1 << 16;
    let failed = |reason: String| ImageError { path: path.into(), reason };
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head))
        .map_err(|error| failed(error.to_string()))?;
    if head.is_empty() {
        return Err(failed("it is empty".into()));
    }
    if head.starts_with(&JPEG_START)
        && let Ok(header) = turbojpeg::read_header(&head)
    {
        return Ok((header.width as u32, header.height as u32));
    }
    let reader = ImageReader::open(path).map_err(|error| failed(error.to_string()))?;
    let reader = reader.with_guessed_format().map_err(|error| failed(error.to_string()))?;
    reader.into_dimensions().map_err(|error| failed(error.to_string()))
}

/// Size and date of a file: others where it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its size.
    pub bytes: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub date_ns: u128,
}

impl Stamp {
    /// Of a file as it is now.
    pub fn of(path: &Path) -> io::Result<Self> {
        let data = fs::metadata(path)?;
        let since = data.modified()?.duration_since(UNIX_EPOCH);
        Ok(Self { bytes: data.len(), date_ns: since.map_or(0, |since| since.as_nanos()) })
    }
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
    let image = image_CHW.to_kind(Kind::Float).unsqueeze(0);
    let size = [rows, columns];
    to_levels(&image.internal_upsample_bilinear2d_aa(size, false, None::<f64>, None::<f64>))
}

/// Takes from the middle of uint8 `[3, H, W]` as much as has the shape of `rows` x `columns`, and scales
/// it to that size as [`resize`] does.
pub fn cover(image_CHW: &Tensor, rows: i64, columns: i64) -> Tensor {
    let size = image_CHW.size();
    let (height, width) = (size[1], size[2]);
    let scale = (rows as f64 / height as f64).max(columns as f64 / width as f64);
    let taken = |px: i64, of: i64| ((px as f64 / scale).round() as i64).clamp(1, of);
    let (high, wide) = (taken(rows, height), taken(columns, width));
    let cut_CHW = image_CHW.narrow(1, (height - high) / 2, high);
    resize(&cut_CHW.narrow(2, (width - wide) / 2, wide), rows, columns).contiguous()
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
        // Pillow rounds and cuts off what the kernel overshoots after each direction, across first.
        let scaled = |image_CHW: &Tensor, size: [i64; 2]| {
            let image = image_CHW.to_kind(Kind::Float).unsqueeze(0);
            to_levels(&image.internal_upsample_bicubic2d_aa(size, false, None::<f64>, None::<f64>))
        };
        scaled(&scaled(image_CHW, [height, columns]), [rows, columns])
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
fn decode_jpeg(bytes: &[u8]) -> Result<Option<Tensor>, String> {
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
    let (width, height) = (header.width, header.height);
    let mut pixels = vec![0; 3 * width * height];
    let format = turbojpeg::PixelFormat::RGB;
    let image =
        turbojpeg::Image { pixels: &mut pixels[..], width, pitch: 3 * width, height, format };
    match Decompressor::new().and_then(|mut decoder| decoder.decompress(bytes, image)) {
        Err(error) if !is_harmless(&error, bytes) => Err(error.to_string()),
        _ => Ok(Some(planes(&pixels, height, width))),
    }
}

/// Whether an image is whole all the same: bytes between its parts that mean nothing, as some cameras and
/// editors leave them, are passed over by every decoder. Only the first complaint is told, so the end is
/// looked for, too.
fn is_harmless(complaint: &turbojpeg::Error, bytes: &[u8]) -> bool {
    /// How far from the end of the file an image may end.
    const TAIL_BYTES: usize = 1 << 12;
    let tail = &bytes[bytes.len().saturating_sub(TAIL_BYTES)..];
    complaint.to_string().contains("extraneous bytes before marker")
        && tail.windows(JPEG_END.len()).any(|part| part == JPEG_END)
}

/// `[H, W, 3]` to `[3, H, W]`.
fn planes(pixels: &[u8], height: usize, width: usize) -> Tensor {
    let image_HWC = Tensor::from_slice(pixels).reshape([height as i64, width as i64, 3]);
    image_HWC.permute([2, 0, 1]).contiguous()
}
