//! From frame stores to views: `dora-data`.

mod augment;
mod color;
mod crop;
mod decode;
mod jpeg_part;
mod loader;
mod resample;
mod rng;
mod sampler;

use std::path::Path;
use std::sync::Arc;

use dora_store::{FrameStore, IngestOptions, Report, Source, StoreHeader, StoreWriter};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};
use turbojpeg::{PixelFormat, Subsamp};

/// A store in `folder` whose frame i is shown from `pts_us[i]` on and holds `jpeg(i)`.
fn store_with(
    folder: &Path,
    (width_px, height_px): (u32, u32),
    pts_us: &[i64],
    jpeg: impl Fn(usize) -> Vec<u8>,
) -> Arc<FrameStore> {
    let options = IngestOptions {
        short_side_px: 576,
        jpeg_quality: 90,
        start_s: None,
        end_s: None,
        ..IngestOptions::default()
    };
    let source = Source { name: "made.mp4".into(), files: 1, size_bytes: 1, digest: 1 };
    let header = StoreHeader { source, options, width_px, height_px };
    let (mut writer, _) = StoreWriter::create_or_resume(folder, &header).unwrap();
    for (frame, &pts_us) in pts_us.iter().enumerate() {
        writer.push(pts_us, frame as u64, &jpeg(frame)).unwrap();
    }
    writer.finish(Report::default()).unwrap();
    Arc::new(FrameStore::open(folder).unwrap())
}

/// A store of textured frames, each one different, at a constant rate.
fn store(folder: &Path, size_px: (u32, u32), frames: usize, fps: f64) -> Arc<FrameStore> {
    let pts_us: Vec<_> = (0..frames).map(|frame| (frame as f64 / fps * 1e6) as i64).collect();
    store_with(folder, size_px, &pts_us, |frame| textured_jpeg(size_px, frame))
}

fn textured_jpeg((width_px, height_px): (u32, u32), frame: usize) -> Vec<u8> {
    let (width, height) = (width_px as usize, height_px as usize);
    let pixels = textured((width, height), frame);
    let format = PixelFormat::RGB;
    let image = turbojpeg::Image { pixels: &pixels[..], width, pitch: width * 3, height, format };
    turbojpeg::compress(image, 90, Subsamp::Sub2x2).unwrap().to_vec()
}

/// A JPEG with a restart marker after every `interval` groups of blocks; 0 is none.
fn marked_jpeg(
    (width, height): (usize, usize),
    frame: usize,
    sampling: SamplingFactor,
    interval: u16,
) -> Vec<u8> {
    let mut jpeg = Vec::new();
    let mut encoder = Encoder::new(&mut jpeg, 90);
    encoder.set_sampling_factor(sampling);
    if interval > 0 {
        encoder.set_restart_interval(interval);
    }
    let pixels = textured((width, height), frame);
    encoder.encode(&pixels, width as u16, height as u16, ColorType::Rgb).unwrap();
    jpeg
}

/// Red, green and blue of a picture with waves, edges and grain.
fn textured((width, height): (usize, usize), frame: usize) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let wave = (x as f64 * 0.07 + frame as f64 * 0.3).sin() * (y as f64 * 0.05).cos();
            let tile = ((x + 5 * frame) / 24 + y / 24) % 3;
            let grain = (x * 7919 + y * 104_729 + x * y * 31) % 23;
            pixels.push((100.0 + 70.0 * wave) as u8 + grain as u8);
            pixels.push((60 * tile + 2 * grain) as u8);
            pixels.push((frame * 37 % 200 + y * 40 / height) as u8);
        }
    }
    pixels
}
