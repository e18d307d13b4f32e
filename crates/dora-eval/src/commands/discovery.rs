//! `discovery`: an object of every image by LOST, masks by attention, compared with a data set's.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use clap::Args;
use dora_data::output::{JsonFile, check_writable};
use dora_eval::{
    discovery::{
        LastBlock, PxBox, Tally,
        attention::{LabelCounts, MASS, attention_masks},
        data::{DataArgs, DataSet, Example, MaskFile},
        lost::{Found, K_PATCHES, lost},
    },
    encoder::{
        Encoder, EncoderArgs,
        look::look_at_each,
        rate::{image_rate, matrix_flops_per_s},
    },
    images::{
        MOST_PX,
        grid::{MOST_PATCHES, cells},
        image_size,
        masks::Mask,
        read_rgb, resize,
    },
    pictures::{discovery_picture, spread, write_png},
    progress::Progress,
};
use dora_model::Vit;
use dora_store::atomic;
use rayon::prelude::*;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

#[derive(Args)]
pub(crate) struct DiscoveryArgs {
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Data set in the layout of VOC or DAVIS, or a folder of images with --boxes
    #[arg(long)]
    data: PathBuf,
    /// List of ImageSets [default: trainval of VOC, val or the only one of DAVIS]
    #[arg(long, value_name = "NAME")]
    set: Option<String>,
    /// JSON file with the boxes of images below --data: {"a/1.jpg": [[x0, y0, x1, y1]]}
    #[arg(long, value_name = "FILE")]
    boxes: Option<PathBuf>,
    /// Leave out VOC's truncated and difficult objects, and images that have no other
    #[arg(long)]
    no_hard: bool,
    /// Of a sequence, take one frame in so many
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Scale images to this short side first [default: as they are]
    #[arg(long, value_name = "PX", value_parser = clap::value_parser!(i64).range(16..=4096))]
    short_side: Option<i64>,
    /// Patches of lowest degree that a seed may take along
    #[arg(long, value_name = "K", default_value_t = K_PATCHES)]
    k_patches: usize,
    /// Folder for the boxes found, as boxes.json, and for --pictures
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Draw this many images with their boxes, spread evenly over the set
    #[arg(long, value_name = "N", default_value_t = 0, requires = "out")]
    pictures: usize,
    #[command(flatten)]
    json: JsonFile,
}

pub(crate) fn run(args: &DiscoveryArgs) -> anyhow::Result<()> {
    args.json.check()?;
    if let Some(out) = &args.out {
        prepare(out)?;
    }
    let data = DataSet::read(&DataArgs {
        root: &args.data,
        set: args.set.as_deref(),
        boxes: args.boxes.as_deref(),
        no_hard: args.no_hard,
        every: args.every as usize,
    })?;
    let encoder = Encoder::load(&args.encoder)?;
    check_patches(args, &data, encoder.config.patch_px)?;
    let outcome = evaluate(args, &data, &encoder)?;
    if let Some(out) = &args.out {
        let path = out.join("boxes.json");
        let text = serde_json::to_string_pretty(&outcome.boxes)? + "\n";
        atomic::write_file(&path, text.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    report(args, &data, &encoder, &outcome)
}

/// Refuses images that the encoder's memory is too small for, before work starts.
fn check_patches(args: &DiscoveryArgs, data: &DataSet, patch_px: i64) -> anyhow::Result<()> {
    data.examples.par_iter().try_for_each(|Example { image, .. }| {
        let (width, height) = image_size(image)?;
        let (rows, columns) = seen_size(args, i64::from(height), i64::from(width));
        let patches = cells(rows, patch_px) * cells(columns, patch_px);
        ensure!(
            patches <= MOST_PATCHES,
            "{} has {width}x{height} px, {patches} patches as the encoder would see it, and {MOST_PATCHES} \
             are the most; give a smaller --short-side",
            image.display()
        );
        Ok(())
    })
}

/// Rows and columns that an image is scaled to.
fn seen_size(args: &DiscoveryArgs, rows: i64, columns: i64) -> (i64, i64) {
    let scale = args.short_side.map_or(1.0, |px| px as f64 / rows.min(columns) as f64);
    // However long an image is, it must fit into memory.
    let scale = scale.min(f64::from(MOST_PX) / rows.max(columns) as f64);
    let scaled = |px: i64| ((px as f64 * scale).round() as i64).max(1);
    (scaled(rows), scaled(columns))
}

/// What came out of all images.
struct Outcome {
    tally: Tally,
    /// The box found in each.
    boxes: BTreeMap<String, [PxBox; 1]>,
    seconds: f64,
    /// Operations in the encoder's products.
    flops: f64,
}

/// Looks at every image.
fn evaluate(args: &DiscoveryArgs, data: &DataSet, encoder: &Encoder) -> anyhow::Result<Outcome> {
    let examples = &data.examples;
    let drawn = spread(examples.len(), args.pictures);
    let read = |index: usize| -> anyhow::Result<_> {
        let Example { image, mask, .. } = &examples[index];
        Ok((read_rgb(image)?, mask.as_ref().map(MaskFile::read).transpose()?))
    };
    let (device, config) = (encoder.device, encoder.config);
    let look = |vit: &Vit, index: usize, (image_CHW, mask): (Tensor, Option<Mask>)| {
        let look = Look::at(args, vit, &image_CHW, device);
        look.block.check_finite()?;
        if let Some(out) = args.out.as_deref().filter(|_| drawn.contains(&index)) {
            draw(out, &examples[index], &look)?;
        }
        let jaccard_HL = mask.map(|mask| look.jaccard(&mask)).unwrap_or_default();
        Ok((look.bounds(), jaccard_HL, look.block.grid.patches() as f64))
    };
    let mut progress = Progress::new("images", examples.len() as u64);
    let seen = look_at_each(encoder, examples.len(), read, look, || progress.advance(1))?;
    let seconds = progress.elapsed_s();
    drop(progress);

    let class_of = |label: u8| data.label_classes.get(usize::from(label) - 1).copied();
    let mut tally = Tally::new(config.heads as usize);
    let mut boxes = BTreeMap::new();
    let mut flops = 0.0;
    for (example, (bounds, jaccard_HL, patches)) in examples.iter().zip(seen) {
        tally.add_box(&bounds, &example.objects);
        tally.add_masks(&jaccard_HL, class_of);
        boxes.insert(example.name.clone(), [bounds]);
        flops += config.embed_flops(patches) + config.blocks_flops(config.depth, patches);
    }
    Ok(Outcome { tally, boxes, seconds, flops })
}

/// What the encoder made of an image.
struct Look {
    /// The image as the encoder saw it.
    seen_CHW: Tensor,
    /// Columns and rows of the image as it is over those as the encoder saw it.
    scale: (f64, f64),
    block: LastBlock,
    found: Found,
}

impl Look {
    fn at(args: &DiscoveryArgs, vit: &Vit, image_CHW: &Tensor, device: Device) -> Self {
        let size = image_CHW.size();
        let (rows, columns) = (size[1], size[2]);
        let seen_px = seen_size(args, rows, columns);
        let seen_CHW = resize(image_CHW, seen_px.0, seen_px.1);
        let block = LastBlock::of(vit, &seen_CHW, device);
        let seen_px = (seen_px.0 as usize, seen_px.1 as usize);
        let found = lost(&block.keys_ND, block.grid, seen_px, args.k_patches);
        let scale = (columns as f64 / seen_px.1 as f64, rows as f64 / seen_px.0 as f64);
        Self { seen_CHW, scale, block, found }
    }

    /// The box in pixels of the image as it is.
    fn bounds(&self) -> PxBox {
        self.found.bounds.scaled(self.scale.0, self.scale.1)
    }

    /// For each head, the Jaccard index of its mask with each label.
    fn jaccard(&self, mask: &Mask) -> Vec<Vec<(u8, f64)>> {
        let size = self.seen_CHW.size();
        let counts = LabelCounts::new(mask, self.block.grid, (size[1] as usize, size[2] as usize));
        let masks_HN = attention_masks(&self.block.attn_HN, MASS);
        masks_HN.iter().map(|patches| counts.jaccard(patches)).collect()
    }
}

fn draw(out: &Path, example: &Example, look: &Look) -> anyhow::Result<()> {
    let seen = |bounds: &PxBox| bounds.scaled(1.0 / look.scale.0, 1.0 / look.scale.1);
    let objects: Vec<PxBox> = example.objects.iter().map(|object| seen(&object.bounds)).collect();
    let picture = discovery_picture(&look.seen_CHW, &objects, &look.found, look.block.grid);
    // Names come from files: nothing of them may lead out of the folder.
    let name = example.name.replace(|c: char| !c.is_alphanumeric() && c != '-' && c != '_', "_");
    let path = out.join(format!("{name}.png"));
    write_png(&path, &picture).with_context(|| format!("cannot write {}", path.display()))
}

fn prepare(out: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(out)
        .with_context(|| format!("cannot make {}; give --out a folder", out.display()))?;
    check_writable("--out", &out.join("boxes.json"))
}

fn report(
    args: &DiscoveryArgs,
    data: &DataSet,
    encoder: &Encoder,
    outcome: &Outcome,
) -> anyhow::Result<()> {
    let scores = outcome.tally.scores();
    let images_per_s = scores.images as f64 / outcome.seconds;
    let rate = matrix_flops_per_s(encoder.device, Kind::Float);
    let share = outcome.flops / outcome.seconds / rate;
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let mut images = format!("{} of {}", scores.images, data.name);
    if data.without_objects > 0 {
        images += &format!("; {} without objects left out", data.without_objects);
    }
    let mut table = vec![
        ("encoder", encoder.name.clone()),
        ("images", images),
        ("CorLoc", percent(scores.corloc)),
    ];
    if let Some(jaccard) = scores.jaccard {
        let masks = format!("{} (best head; {} masks)", percent(jaccard), scores.masked_images);
        table.push(("Jaccard", masks));
        let heads: Vec<String> = scores.per_head.iter().map(|share| percent(*share)).collect();
        table.push(("by head", heads.join(", ")));
    }
    for (name, class) in &scores.per_class {
        let part = |what: &str, share: Option<f64>| {
            share.map(|share| format!("  {what} {}", percent(share))).unwrap_or_default()
        };
        let figures = part("CorLoc", class.corloc) + &part("Jaccard", class.jaccard);
        table.push((name, format!("{} images{figures}", class.images)));
    }
    table.push(("speed", image_rate(images_per_s, share, rate)));
    if let Some(out) = &args.out {
        table.push(("written to", out.display().to_string()));
    }
    let mut figures = json!({
        "encoder": encoder.name,
        "data": data.name,
        "images_without_objects": data.without_objects,
        "short_side_px": args.short_side,
        "k_patches": args.k_patches,
        "images_per_s": images_per_s,
        "matrix_flops_per_s": rate,
        "share_of_matrix_rate": share,
    });
    if let (Value::Object(figures), Value::Object(scores)) =
        (&mut figures, serde_json::to_value(&scores)?)
    {
        figures.extend(scores);
    }
    args.json.tell(&table, &figures)
}
