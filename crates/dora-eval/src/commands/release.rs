//! `export` and `import`: an encoder as a folder of weights with timm's names, for others from a run, and
//! from others for every command here.

use std::path::PathBuf;

use clap::Args;
use dora_data::output::JsonFile;
use dora_eval::encoder::{CheckpointKey, EncoderFile, release};
use dora_model::VitConfig;

#[derive(Args)]
pub(crate) struct ReleaseArgs {
    /// A run's folder (its newest checkpoint), a checkpoint's folder, or a file of weights
    #[arg(value_name = "PATH")]
    checkpoint: PathBuf,
    /// The network of a checkpoint that has both
    #[arg(long, value_enum, default_value_t = CheckpointKey::Teacher)]
    checkpoint_key: CheckpointKey,
    /// New folder for model.safetensors and its README
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Both commands: what differs is only whose names the weights have.
pub(crate) fn run(args: &ReleaseArgs) -> anyhow::Result<()> {
    release::check_new(&args.out)?;
    let encoder = EncoderFile::read(&args.checkpoint, args.checkpoint_key)?;
    encoder.say_ignored();
    release::write(&args.out, &encoder)?;
    let weights = &encoder.weights;
    let VitConfig { patch_px, width, depth, heads, image_px, .. } = weights.config;
    let place = match weights.place.as_str() {
        "" => "under timm's names already".to_owned(),
        place => format!("under `{place}`, which its names no longer open with"),
    };
    let dtype = if weights.was_float32 { "float32, as it was" } else { "made float32" };
    JsonFile::default().tell(
        &[
            ("read", encoder.path.display().to_string()),
            ("encoder", place),
            ("sizes", format!("width {width}, depth {depth}, heads {heads}")),
            ("images", format!("{image_px} px, patches of {patch_px} px")),
            ("tensors", format!("{}, {dtype}", weights.state.tensors().len())),
            ("ignored", weights.ignored.len().to_string()),
            ("written", args.out.display().to_string()),
        ],
        &(),
    )
}
