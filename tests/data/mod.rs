//! From frame stores to views: `dora-data`.

mod augment;
mod color;
mod crop;
mod loader;
mod resample;
mod rng;
mod sampler;

use std::path::Path;
use std::sync::Arc;

use dora_store::{FrameStore, IngestOptions, Report, Source, StoreHeader, StoreWriter};
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
    let format = PixelFormat::RGB;
    let image = turbojpeg::Image { pixels: &pixels[..], width, pitch: width * 3, height, format };
    turbojpeg::compress(image, 90, Subsamp::Sub2x2).unwrap().to_vec()
}
