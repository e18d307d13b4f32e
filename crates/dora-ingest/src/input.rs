//! What the user named: a video, a folder of images, or a list of images.

use crate::error::IngestError;
use crate::source::ffmpeg::FfmpegVideo;
use crate::source::opencv::OpenCvVideo;
use crate::source::{Footage, ImageSequence};
use dora_store::{Decoder, IngestOptions, Source};
use std::cmp::Ordering;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const IMAGE_EXTENSIONS: [&str; 9] =
    ["jpg", "jpeg", "png", "bmp", "tif", "tiff", "webp", "ppm", "pgm"];
/// Room for a million lines.
const LONGEST_LIST_BYTES: u64 = 256 << 20;

/// By what means frames are decoded; the frames are the same by any.
#[derive(Debug, Clone, Default)]
pub struct Means {
    /// A kind of hardware decoder, as FFmpeg names them: `cuda`, `vaapi`. The CPU serves where there is
    /// none.
    pub hwaccel: Option<String>,
}

/// A video or images that exist and can be told apart from others.
#[derive(Debug, Clone)]
pub struct Input {
    /// As the user named it.
    pub path: PathBuf,
    /// For the store's header.
    pub source: Source,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Video(PathBuf),
    Images(Vec<PathBuf>),
}

impl Input {
    /// Looks at the files, without decoding anything.
    ///
    /// A folder gives its images in natural order (`2.png` before `10.png`), a `.txt` file the
    /// images on its lines, which start at the list's folder or at one above it.
    pub fn identify(path: &Path) -> Result<Self, IngestError> {
        let real = fs::canonicalize(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => IngestError::input(path, "does not exist"),
            _ => IngestError::io("open", path)(error),
        })?;
        let data = real.metadata().map_err(IngestError::io("read", path))?;
        let content = if data.is_dir() {
            Content::Images(images_in(&real, path)?)
        } else if !data.is_file() {
            let what = "is neither a file nor a folder; frames are read more than once, so store \
                        the stream as a file first";
            return Err(IngestError::input(path, what));
        } else if data.len() == 0 {
            return Err(IngestError::input(path, "is empty; copy or download it again"));
        } else if has_extension(&real, &["txt"]) {
            Content::Images(images_on_list(&real, path)?)
        } else if has_extension(&real, &IMAGE_EXTENSIONS) {
            let what = "is one image; name its folder, or a `.txt` list of images";
            return Err(IngestError::input(path, what));
        } else {
            // Readable at all? Decoders would only say that they cannot open the file.
            File::open(&real).map_err(IngestError::io("open", path))?;
            Content::Video(real.clone())
        };
        let source = describe(&real, &content)?;
        Ok(Self { path: path.to_owned(), source, content })
    }

    /// Whether the frames are single images, which need a frame rate.
    pub fn is_images(&self) -> bool {
        matches!(self.content, Content::Images(_))
    }

    /// The store's folder for these files and options: other ones get another folder.
    pub fn store_folder(&self, stores: &Path, options: &IngestOptions) -> PathBuf {
        let mut hash = Fnv(self.source.digest);
        hash.add(format!("{options:?}").as_bytes());
        let stem = Path::new(&self.source.name).file_stem().unwrap_or_default().to_string_lossy();
        let kept = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        let stem: String = stem.chars().map(kept).take(80).collect();
        stores.join(format!("{stem}-{:08x}.store", (hash.0 >> 32) ^ (hash.0 & 0xffff_ffff)))
    }

    /// Opens the decoder. `images_fps` must be there for images.
    pub(crate) fn open(
        &self,
        options: &IngestOptions,
        means: &Means,
    ) -> Result<Box<dyn Footage>, IngestError> {
        let hwaccel = means.hwaccel.as_deref();
        Ok(match (&self.content, options.images_fps) {
            (Content::Video(path), None) => match options.decoder {
                Decoder::Ffmpeg => Box::new(FfmpegVideo::open(path, hwaccel, options.store_fps)?),
                Decoder::OpenCv => Box::new(OpenCvVideo::open(path, hwaccel.is_some())?),
            },
            (Content::Images(paths), Some(fps)) => Box::new(ImageSequence::new(paths.clone(), fps)),
            (Content::Video(_), Some(_)) => {
                let what = "is a video with time stamps of its own; leave out `--fps`";
                return Err(IngestError::input(&self.path, what));
            }
            (Content::Images(_), None) => {
                let what = "holds images, which have no time stamps; say with `--fps` how many \
                            of them are a second";
                return Err(IngestError::input(&self.path, what));
            }
        })
    }
}

fn images_in(folder: &Path, named: &Path) -> Result<Vec<PathBuf>, IngestError> {
    let mut images = Vec::new();
    for entry in fs::read_dir(folder).map_err(IngestError::io("read", named))? {
        let path = entry.map_err(IngestError::io("read", named))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"."));
        if !hidden && has_extension(&path, &IMAGE_EXTENSIONS) && path.is_file() {
            images.push(path);
        }
    }
    if images.is_empty() {
        let what = "is a folder without images; name the video files in it one by one";
        return Err(IngestError::input(named, what));
    }
    images.sort_by(|a, b| natural_order(a.as_os_str().as_bytes(), b.as_os_str().as_bytes()));
    Ok(images)
}

fn images_on_list(list: &Path, named: &Path) -> Result<Vec<PathBuf>, IngestError> {
    let mut text = String::new();
    File::open(list)
        .and_then(|file| file.take(LONGEST_LIST_BYTES).read_to_string(&mut text))
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => {
                IngestError::input(named, "is not a list of image paths: it is not UTF-8 text")
            }
            _ => IngestError::io("read", named)(error),
        })?;
    let lines = text.lines().map(str::trim).enumerate();
    let lines: Vec<_> =
        lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
    let Some((_, first)) = lines.first() else {
        return Err(IngestError::input(named, "names no images"));
    };
    let base = list.ancestors().skip(1).find(|folder| folder.join(first).is_file());
    let mut images = Vec::with_capacity(lines.len());
    for (number, line) in &lines {
        let Some(image) = base.map(|base| base.join(line)).filter(|image| image.is_file()) else {
            let from = base.or(list.parent()).unwrap_or(list);
            let shown: String = line.chars().take(200).collect();
            let what = format!(
                "names `{shown}` on line {}, which does not exist from `{}`; write paths that \
                 start at the list's folder or at one above it",
                number + 1,
                from.display()
            );
            return Err(IngestError::input(named, what));
        };
        images.push(image);
    }
    Ok(images)
}

/// Name, size and a digest over path, size and modification time of every file.
fn describe(real: &Path, content: &Content) -> Result<Source, IngestError> {
    let files = match content {
        Content::Video(path) => std::slice::from_ref(path),
        Content::Images(paths) => paths,
    };
    let mut hash = Fnv::new();
    hash.add(real.as_os_str().as_bytes());
    let mut size_bytes = 0u64;
    for file in files {
        let data: Metadata = file.metadata().map_err(IngestError::io("read", file))?;
        size_bytes = size_bytes.saturating_add(data.len());
        hash.add(file.as_os_str().as_bytes());
        hash.add(&data.len().to_le_bytes());
        hash.add(&data.mtime().to_le_bytes());
        hash.add(&data.mtime_nsec().to_le_bytes());
    }
    Ok(Source {
        name: real.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        files: files.len() as u64,
        size_bytes,
        digest: hash.0,
    })
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    extensions.contains(&extension.as_str())
}

/// Runs of digits compare as numbers of any length, everything else byte by byte.
fn natural_order(a: &[u8], b: &[u8]) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    loop {
        match (rest_a.first(), rest_b.first()) {
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (number_a, after_a) = leading_number(rest_a);
                let (number_b, after_b) = leading_number(rest_b);
                let order = number_a.len().cmp(&number_b.len()).then(number_a.cmp(number_b));
                if order.is_ne() {
                    return order;
                }
                (rest_a, rest_b) = (after_a, after_b);
            }
            (Some(x), Some(y)) if x == y => (rest_a, rest_b) = (&rest_a[1..], &rest_b[1..]),
            // `01` and `1` are the same number: the plain order keeps the sort total.
            (None, None) => return a.cmp(b),
            (x, y) => return x.cmp(&y),
        }
    }
}

/// The digits at the beginning without leading zeros, and what follows them.
fn leading_number(bytes: &[u8]) -> (&[u8], &[u8]) {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let zeros = bytes[..digits].iter().take_while(|&&byte| byte == b'0').count();
    (&bytes[zeros..digits], &bytes[digits..])
}

/// FNV-1a with 64 bits: the same in every build, which the standard hasher does not promise.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds bytes and their number, so that neighbours cannot run together.
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sort_as_numbers() {
        let mut names = ["f10.png", "f9.png", "F9.png", "f09b.png", "f009.png", "f.png", "g1.png"];
        names.sort_by(|a, b| natural_order(a.as_bytes(), b.as_bytes()));
        let expected = ["F9.png", "f.png", "f009.png", "f9.png", "f09b.png", "f10.png", "g1.png"];
        assert_eq!(names, expected);
        let long = |digits: &str| [b"a", digits.as_bytes()].concat();
        assert!(natural_order(&long(&"9".repeat(50)), &long(&"1".repeat(51))).is_lt());
    }

    #[test]
    fn lists_start_at_their_folder_or_above() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for deep in ["train", "lists/deep"] {
            fs::create_dir_all(root.join(deep)).unwrap();
        }
        fs::write(root.join("train/b.png"), "b").unwrap();
        fs::write(root.join("train/a.png"), "a").unwrap();
        let list = root.join("lists/deep/take.txt");
        fs::write(&list, "# order of time\ntrain/b.png\n\n  train/a.png\r\n").unwrap();
        let images = images_on_list(&list, &list).unwrap();
        assert_eq!(images, [root.join("train/b.png"), root.join("train/a.png")]);

        fs::write(&list, "train/b.png\ntrain/c.png\n").unwrap();
        let error = images_on_list(&list, &list).unwrap_err().to_string();
        assert!(error.contains("names `train/c.png` on line 2"), "{error}");
        fs::write(&list, "# nothing\n").unwrap();
        assert!(images_on_list(&list, &list).unwrap_err().to_string().ends_with("names no images"));
        fs::write(&list, [0xff, 0xfe, 0]).unwrap();
        assert!(images_on_list(&list, &list).unwrap_err().to_string().contains("not UTF-8"));
    }

    #[test]
    fn stores_differ_with_source_and_options() {
        let folder = tempfile::tempdir().unwrap();
        let video = folder.path().join("my walk (1).mp4");
        fs::write(&video, "x").unwrap();
        let options = IngestOptions {
            short_side_px: 576,
            jpeg_quality: 90,
            start_s: None,
            end_s: None,
            ..IngestOptions::default()
        };
        let name = |options: &IngestOptions| {
            let folder = Input::identify(&video).unwrap().store_folder(Path::new("s"), options);
            folder.file_name().unwrap().to_str().unwrap().to_owned()
        };
        let first = name(&options);
        assert!(first.starts_with("my_walk__1_-") && first.ends_with(".store"), "{first}");
        assert_eq!(name(&options), first);
        assert_ne!(name(&IngestOptions { start_s: Some(1.0), ..options.clone() }), first);
        fs::write(&video, "xy").unwrap();
        assert_ne!(name(&options), first);
    }
}
