//! `bench-propagation`: label propagation beside its dense form, on made-up features.

use std::time::Instant;

use clap::Args;
use dora_data::{
    output::JsonFile,
    rng::{Draw, stream},
};
use dora_eval::{
    encoder::{
        DeviceName,
        rate::{matrix_flops_per_s, matrix_rate, median, wait_for},
    },
    memory::{peak_memory_bytes, reset_peak_memory},
    video_segmentation::{
        follow::Protocol,
        propagation::{LabelledPatches, unit_features},
    },
};
use serde_json::json;
use tch::{Device, Kind, Tensor, no_grad};

/// Labels of the made-up frames: background and objects.
const LABELS: i64 = 4;

/// The most memory that a single matrix of the dense form may take for it to be measured.
const MOST_DENSE_BYTES: i64 = 1 << 30;

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Short side of frames of 16:9
    #[arg(long, value_name = "PX", default_value_t = 480, value_parser = clap::value_parser!(i64).range(64..=8192))]
    short_side: i64,
    /// How often to measure; medians count
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceName::Auto)]
    device: DeviceName,
    #[command(flatten)]
    json: JsonFile,
}

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    args.json.check()?;
    let device = args.device.find()?;
    let protocol = Protocol::default();
    let patch_px = 16;
    let grid = (args.short_side / patch_px, args.short_side * 16 / 9 / 64 * 64 / patch_px);
    let (patches, frames) = (grid.0 * grid.1, 1 + protocol.last_frames as i64);
    let width = dora_model::VitConfig::standard(6, patch_px).width;
    let sources: Vec<LabelledPatches> =
        (0..frames).map(|frame| made_up(frame as u64, patches, width, device)).collect();
    let sources: Vec<&LabelledPatches> = sources.iter().collect();
    let target = made_up_features(frames as u64, patches, width, device);

    let windowed = || protocol.propagation.propagate(&sources, &target, grid);
    let dense = || protocol.propagation.propagate_densely(&sources, &target, grid);
    let dense_bytes = 4 * frames * patches * patches;
    let is_dense_measured = dense_bytes <= MOST_DENSE_BYTES;
    let timed = |form: &dyn Fn() -> Tensor| {
        let started = Instant::now();
        let _labels_PC = no_grad(form);
        wait_for(device);
        started.elapsed()
    };
    reset_peak_memory();
    let resident_before = peak_memory_bytes();
    timed(&windowed);
    let grown_bytes =
        peak_memory_bytes().zip(resident_before).map(|(after, before)| after - before);
    let mut seconds: [Vec<f64>; 2] = Default::default();
    let mut differing = None;
    if is_dense_measured {
        let labels = |labels_PC: Tensor| labels_PC.argmax(1, false);
        let differs = labels(no_grad(windowed)).ne_tensor(&labels(no_grad(dense)));
        differing = Some(differs.sum(Kind::Int64).int64_value(&[]));
    }
    // The two take turns, so that a machine that is busy for a while slows both.
    for _ in 0..args.rounds {
        seconds[0].push(timed(&windowed).as_secs_f64());
        if is_dense_measured {
            seconds[1].push(timed(&dense).as_secs_f64());
        }
    }
    let windowed_s = median(&seconds[0]);
    let dense_s = is_dense_measured.then(|| median(&seconds[1]));
    let rate = matrix_flops_per_s(device, Kind::Float);
    let gib = |bytes: i64| bytes as f64 / (1_i64 << 30) as f64;
    let mut table = vec![
        ("grid", format!("{}x{} patches, {frames} frames, width {width}", grid.1, grid.0)),
        ("windowed", format!("{:.1} ms a frame", 1e3 * windowed_s)),
    ];
    if let Some(bytes) = grown_bytes {
        table.push(("  memory for it", format!("{:.0} MB", bytes as f64 / 1e6)));
    }
    match dense_s.zip(differing) {
        Some((dense_s, differing)) => {
            table.push(("dense", format!("{:.1} ms a frame", 1e3 * dense_s)));
            table.push(("ratio", format!("{:.2}", dense_s / windowed_s)));
            table.push(("labels that differ", format!("{differing} of {patches}")));
        }
        None => table.push((
            "dense",
            format!("not measured: each of its matrices takes {:.1} GiB", gib(dense_bytes)),
        )),
    }
    table.push(("matrix rate", matrix_rate(rate)));
    let figures = json!({
        "grid": [grid.0, grid.1],
        "frames": frames,
        "width": width,
        "windowed_s": windowed_s,
        "windowed_memory_bytes": grown_bytes,
        "dense_s": dense_s,
        "ratio": dense_s.map(|dense_s| dense_s / windowed_s),
        "differing_labels": differing,
        "matrix_flops_per_s": rate,
    });
    args.json.tell(&table, &figures)
}

fn made_up(frame: u64, patches: i64, width: i64, device: Device) -> LabelledPatches {
    let labels_PC = numbers("labels", &[frame], [patches, LABELS]).softmax(1, None::<Kind>);
    let features_PD = made_up_features(frame, patches, width, device);
    LabelledPatches { features_PD, labels_PC: labels_PC.to_device(device) }
}

/// Features of a frame whose patches resemble those in the same place of all the others.
fn made_up_features(frame: u64, patches: i64, width: i64, device: Device) -> Tensor {
    let size = [patches, width];
    let features_PD = numbers("scene", &[], size) + numbers("frame", &[frame], size);
    unit_features(&features_PD).to_device(device)
}

fn numbers(name: &str, ids: &[u64], [rows, columns]: [i64; 2]) -> Tensor {
    let mut draws = stream(0, name, ids);
    let numbers: Vec<f32> = (0..rows * columns).map(|_| draws.uniform(-1.0, 1.0) as f32).collect();
    Tensor::from_slice(&numbers).reshape([rows, columns])
}
