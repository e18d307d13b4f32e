//! A folder with an encoder for others: its weights under timm's names, and how to load them.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use dora_model::{StateError, VitConfig, weights::EncoderWeights};
use dora_store::atomic;

use crate::{
    encoder::{EncoderFile, RECIPE_NAME, WEIGHTS_NAME},
    images::MEAN_STD,
};

/// Why the folder was not written.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// Something has the folder's name.
    #[error("{} exists already; give --out the name of a new folder", .0.display())]
    Exists(PathBuf),
    /// The system's reason.
    #[error("cannot write {}: {reason}; give --out a folder that can be made", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// The system's.
        reason: io::Error,
    },
    /// The weights cannot be written.
    #[error(transparent)]
    Weights(#[from] StateError),
}

/// Refuses a folder that is there already, before slow work starts.
pub fn check_new(out: &Path) -> Result<(), ReleaseError> {
    if out.symlink_metadata().is_ok() { Err(ReleaseError::Exists(out.into())) } else { Ok(()) }
}

/// Writes `model.safetensors`, a README and the recipe, if it is known, into the new folder `out`, which
/// appears whole or not at all.
pub fn write(out: &Path, encoder: &EncoderFile) -> Result<(), ReleaseError> {
    check_new(out)?;
    let failed = |reason| ReleaseError::Io { path: out.into(), reason };
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let work = atomic::temporary_name(out).map_err(failed)?;
    fs::create_dir(&work).map_err(failed)?;
    let written = fill(&work, encoder, &failed)
        .and_then(|()| atomic::publish_folder(&work, out).map_err(failed));
    if written.is_err() {
        // The first error is the one to report; what cannot be removed is only a leftover.
        let _ = fs::remove_dir_all(&work);
    }
    written
}

fn fill(
    folder: &Path,
    encoder: &EncoderFile,
    failed: &impl Fn(io::Error) -> ReleaseError,
) -> Result<(), ReleaseError> {
    encoder.weights.state.write(&folder.join(WEIGHTS_NAME))?;
    let recipe = encoder.recipe();
    if let Some(recipe) = &recipe {
        fs::copy(recipe, folder.join(RECIPE_NAME)).map_err(failed)?;
    }
    let text = readme(&encoder.path, &encoder.weights, recipe.is_some());
    fs::write(folder.join("README.md"), text).map_err(failed)
}

/// Sizes, origin, and the Python that loads it.
fn readme(from: &Path, weights: &EncoderWeights, has_recipe: bool) -> String {
    let VitConfig { patch_px, width, depth, heads, mlp_ratio, image_px, .. } = weights.config;
    let ([r, g, b], [r_std, g_std, b_std]) = MEAN_STD;
    let name = match (width, depth) {
        (192, 12) => format!("ViT-Ti/{patch_px}"),
        (384, 12) => format!("ViT-S/{patch_px}"),
        (768, 12) => format!("ViT-B/{patch_px}"),
        (1024, 24) => format!("ViT-L/{patch_px}"),
        _ => format!("ViT of width {width}, patches of {patch_px} px"),
    };
    let origin = origin(from, &weights.place);
    let recipe = if has_recipe { "; `recipe.toml` holds every key of its training" } else { "" };
    format!(
        "# {name}

An encoder without a head: `{WEIGHTS_NAME}`, float32, timm's parameter names.
Taken from {origin}{recipe}.

| width | depth | heads | MLP ratio | patch | image |
|---|---|---|---|---|---|
| {width} | {depth} | {heads} | {mlp_ratio} | {patch_px} px | {image_px} px |

```python
import timm
from safetensors.torch import load_file

model = timm.models.VisionTransformer(img_size={image_px}, patch_size={patch_px}, embed_dim={width}, depth={depth}, num_heads={heads}, mlp_ratio={mlp_ratio}, num_classes=0)
model.load_state_dict(load_file(\"{WEIGHTS_NAME}\"))
model.eval()
```

`model(images)` gives the `[CLS]` token, `model.forward_features(images)` all tokens, the `[CLS]` token
first. Images are RGB in [0, 1], less the mean ({r}, {g}, {b}), divided by the standard deviation
({r_std}, {g_std}, {b_std}).

Positions are learned for images of {image_px} px. For another size give timm `dynamic_img_size=True`, which
interpolates them a little differently from DINO.
"
    )
}

/// Which file, without the folders above a run, which are nobody else's business.
fn origin(from: &Path, place: &str) -> String {
    let file = from.file_name().unwrap_or_default().display();
    let folder = |level: usize| from.ancestors().nth(level).and_then(Path::file_name);
    let step = folder(1).and_then(|name| name.to_str()?.strip_prefix("step-"));
    let inside = if place.is_empty() { String::new() } else { format!(" (`{place}`)") };
    match (step, folder(3)) {
        (Some(step), Some(run)) => {
            format!("`{file}`{inside} of the run `{}` after {step} steps", run.display())
        }
        _ => format!("`{file}`{inside}"),
    }
}
