//! The folder that a run writes: whole or not at all.

use super::labels::{self, Depth, Objects};
use super::{Args, Class, Frame, World, film};
use anyhow::{Context, anyhow, bail};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use std::fs::{self, File};
use std::io::IsTerminal;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Goes up with every change of the pictures or of the layout, so that old walks are made anew.
const RENDERER: u32 = 1;
const MP4: &str = "toy_walk.mp4";
const MANIFEST: &str = "manifest.txt";
/// Length of a take, the piece of the walk that is one DAVIS sequence.
const TAKE_S: f64 = 5.0;
/// Time between frames of the semantic set.
const SEMANTIC_EVERY_S: f64 = 0.5;
/// Shares of the walk where the training part ends and the validation part begins.
const TRAIN_END: f64 = 0.70;
const VAL_BEGIN: f64 = 0.75;
const JPEG_QUALITY: i32 = 85;
/// Frames in work at once, which bounds memory.
const BATCH: usize = 32;

/// Writes the walk of `args`, unless it is there already, and gives the MP4's path.
pub(super) fn write(args: &Args) -> anyhow::Result<PathBuf> {
    let out = std::path::absolute(&args.out)?;
    let mp4 = args.out.join(MP4);
    let manifest = manifest(args);
    if is_done(&out, &manifest)? {
        return Ok(mp4);
    }
    let work = Work::begin(&out)?;
    // Somebody else may have rendered it while we waited for our turn.
    if is_done(&out, &manifest)? {
        return Ok(mp4);
    }
    let started = Instant::now();
    render(args, &work.folder)?;
    write_file(&work.folder.join(MANIFEST), manifest)?;
    work.finish(&out)?;
    eprintln!(
        "rendered {} frames into `{}` in {:.1} s",
        args.frames(),
        args.out.display(),
        started.elapsed().as_secs_f64()
    );
    Ok(mp4)
}

/// Whether `out` holds the walk of this manifest.
///
/// # Errors
/// It holds something that is not ours to replace.
fn is_done(out: &Path, manifest: &str) -> anyhow::Result<bool> {
    match fs::read_to_string(out.join(MANIFEST)) {
        Ok(held) if held == manifest && out.join(MP4).is_file() => {
            eprintln!("the toy walk is already in `{}`", out.display());
            Ok(true)
        }
        Ok(held) if held.starts_with(TITLE) => Ok(false),
        _ if fs::read_dir(out).is_ok_and(|mut files| files.next().is_some()) => bail!(
            "`{}` holds something other than a toy walk: name another folder with `--out`",
            out.display()
        ),
        _ if out.is_file() => {
            bail!("`{}` is a file: name a folder with `--out`", out.display())
        }
        _ => Ok(false),
    }
}

const TITLE: &str = "dora toy walk";

fn manifest(args: &Args) -> String {
    let Args { out: _, seed, seconds, width, height, fps } = args;
    format!(
        "{TITLE}\nrenderer = {RENDERER}\nseed = {seed}\nseconds = {seconds}\nwidth = {width}\nheight = {height}\nfps = {fps}\n"
    )
}

/// A hidden folder beside the final one, removed again unless the run gets to its end.
struct Work {
    folder: PathBuf,
    /// The folder around both, locked: one walk at a time. The system unlocks it for a process
    /// that dies.
    _turn: File,
}

impl Work {
    /// Waits for its turn and begins with an empty folder; `out` is absolute.
    fn begin(out: &Path) -> anyhow::Result<Work> {
        let (Some(parent), Some(name)) = (out.parent(), out.file_name()) else {
            bail!("`{}` cannot be replaced: name another folder with `--out`", out.display());
        };
        let cannot = || {
            format!("cannot write into `{}`: name another folder with `--out`", parent.display())
        };
        fs::create_dir_all(parent).with_context(cannot)?;
        let turn = File::open(parent).with_context(cannot)?;
        if turn.try_lock().is_err() {
            eprintln!("another walk is being rendered into `{}`: waiting", parent.display());
            turn.lock().with_context(cannot)?;
        }
        let folder = parent.join(format!(".{}.rendering", name.to_string_lossy()));
        // What a run that was killed has left.
        fs::remove_dir_all(&folder).ok();
        fs::create_dir(&folder).with_context(cannot)?;
        Ok(Work { folder, _turn: turn })
    }

    fn finish(self, out: &Path) -> anyhow::Result<()> {
        let cannot = || format!("cannot put the finished walk into `{}`", out.display());
        if out.exists() {
            fs::remove_dir_all(out).with_context(cannot)?;
        }
        fs::rename(&self.folder, out).with_context(cannot)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Gone already when the run has succeeded.
        fs::remove_dir_all(&self.folder).ok();
    }
}

fn render(args: &Args, root: &Path) -> anyhow::Result<()> {
    let frames = args.frames();
    let layout = Layout::make(root, args)?;
    eprintln!("rendering the toy walk: {frames} frames of {}x{}", args.width, args.height);
    let bar = std::io::stderr().is_terminal().then(|| progress_bar(frames));
    let world = World::new(args.seed);
    let picture =
        |index: usize| world.render((index as f64 / args.fps) as f32, args.width, args.height);

    let (sender, receiver) = crossbeam_channel::bounded(BATCH);
    let mp4 = root.join(MP4);
    let listed = std::thread::scope(|scope| {
        let film = scope.spawn(|| film::write(&mp4, args.fps, [args.width, args.height], receiver));
        let made = (|| {
            let mut listed = String::new();
            for (number, take) in takes(frames, args.fps).into_iter().enumerate() {
                let name = format!("toy_walk_{number:02}");
                let objects = Objects::choose(&picture(take.start));
                if !objects.is_empty() {
                    listed += &format!("{name}\n");
                }
                layout.begin_take(&name)?;
                let indices: Vec<usize> = take.clone().collect();
                for batch in indices.chunks(BATCH) {
                    let pictures: Vec<Vec<u8>> = batch
                        .par_iter()
                        .map(|&index| {
                            let frame = picture(index);
                            layout.write(&frame, index, &name, index - take.start, &objects)?;
                            if let Some(bar) = &bar {
                                bar.inc(1);
                            }
                            Ok(frame.bgr)
                        })
                        .collect::<anyhow::Result<_>>()?;
                    for bgr in pictures {
                        if sender.send(bgr).is_err() {
                            // The film has failed; its own error is the one to report.
                            return Ok(listed);
                        }
                    }
                }
            }
            Ok(listed)
        })();
        drop(sender);
        let filmed = film.join().map_err(|_| anyhow!("the thread that writes the MP4 stopped"))?;
        made.and_then(|listed: String| filmed.map(|()| listed))
    })?;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    write_file(&root.join("davis/ImageSets/2017/val.txt"), listed)
}

fn progress_bar(frames: usize) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "toy walk [{bar:30}] {pos}/{len} frames, {per_sec}, ETA {eta}",
    )
    .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(frames as u64).with_style(style.progress_chars("=> "))
}

/// The walk cut into pieces of [`TAKE_S`]; the last one may be shorter.
fn takes(frames: usize, fps: f64) -> Vec<Range<usize>> {
    let each = ((TAKE_S * fps).round() as usize).max(1);
    (0..frames).step_by(each).map(|start| start..(start + each).min(frames)).collect()
}

/// Where the files of a frame go.
struct Layout<'a> {
    root: &'a Path,
    frames: usize,
    semantic_every: usize,
    davis_palette: Vec<u8>,
    class_palette: Vec<u8>,
}

impl Layout<'_> {
    fn make<'a>(root: &'a Path, args: &Args) -> anyhow::Result<Layout<'a>> {
        let folders = [
            "davis/ImageSets/2017",
            "semantic/train",
            "semantic/trainannot",
            "semantic/val",
            "semantic/valannot",
            "labels/classes",
            "labels/instances",
        ];
        for folder in folders {
            make_folder(&root.join(folder))?;
        }
        write_file(
            &root.join("semantic/classes.txt"),
            Class::NAMES.map(|name| format!("{name}\n")).concat(),
        )?;
        Ok(Layout {
            root,
            frames: args.frames(),
            semantic_every: ((args.fps * SEMANTIC_EVERY_S).round() as usize).max(1),
            davis_palette: labels::davis_palette(),
            class_palette: labels::class_palette(),
        })
    }

    fn begin_take(&self, name: &str) -> anyhow::Result<()> {
        make_folder(&self.root.join("davis/JPEGImages/480p").join(name))?;
        make_folder(&self.root.join("davis/Annotations/480p").join(name))
    }

    /// Writes all files of frame `index`, which is number `within` of its take.
    fn write(
        &self,
        frame: &Frame,
        index: usize,
        take: &str,
        within: usize,
        objects: &Objects,
    ) -> anyhow::Result<()> {
        let at = |folder: &str, number: usize, kind: &str| {
            self.root.join(format!("{folder}/{number:05}.{kind}"))
        };
        let jpeg = jpeg(frame)?;
        write_file(&at(&format!("davis/JPEGImages/480p/{take}"), within, "jpg"), &jpeg)?;
        let png =
            |path: &Path, depth: Depth, data: &[u8]| labels::write_png(path, frame, depth, data);
        let annotation = at(&format!("davis/Annotations/480p/{take}"), within, "png");
        png(&annotation, Depth::Palette(&self.davis_palette), &objects.indices(frame))?;
        png(
            &at("labels/classes", index, "png"),
            Depth::Palette(&self.class_palette),
            &frame.classes,
        )?;
        let ids: Vec<u8> = frame.instance_ids.iter().flat_map(|id| id.to_be_bytes()).collect();
        png(&at("labels/instances", index, "png"), Depth::Grey16, &ids)?;
        if let Some(split) = self.split(index) {
            write_file(&at(&format!("semantic/{split}"), index, "jpg"), &jpeg)?;
            png(&at(&format!("semantic/{split}annot"), index, "png"), Depth::Grey, &frame.classes)?;
        }
        Ok(())
    }

    /// The split of the semantic set that a frame belongs to.
    fn split(&self, index: usize) -> Option<&'static str> {
        let share = index as f64 / self.frames as f64;
        let chosen = index.is_multiple_of(self.semantic_every);
        match share {
            _ if !chosen => None,
            _ if share < TRAIN_END => Some("train"),
            _ if share >= VAL_BEGIN => Some("val"),
            _ => None,
        }
    }
}

fn jpeg(frame: &Frame) -> anyhow::Result<Vec<u8>> {
    let mut compressor = turbojpeg::Compressor::new()?;
    compressor.set_quality(JPEG_QUALITY)?;
    compressor.set_subsamp(turbojpeg::Subsamp::Sub2x2)?;
    Ok(compressor.compress_to_vec(turbojpeg::Image {
        pixels: frame.bgr.as_slice(),
        width: frame.width_px,
        pitch: frame.width_px * 3,
        height: frame.height_px,
        format: turbojpeg::PixelFormat::BGR,
    })?)
}

fn make_folder(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make `{}`", path.display()))
}

fn write_file(path: &Path, data: impl AsRef<[u8]>) -> anyhow::Result<()> {
    fs::write(path, data).with_context(|| format!("cannot write `{}`", path.display()))
}
