//! The encoder to judge: from a run, a checkpoint, a file of weights, or at random.

pub mod cores;
pub mod look;
pub mod rate;
pub mod release;

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use dora_data::{rng::stream, say};
use dora_model::{
    Arch, StateDict, StateError, Vit, VitConfig,
    weights::{EncoderWeights, WeightsError, Which, read_encoder},
};
use md5::{Digest, Md5};
use tch::{Cuda, Device, Kind, Tensor};

use crate::{float_bytes, hex};

/// The weights in a folder of `export` or `import`.
pub const WEIGHTS_NAME: &str = "model.safetensors";

/// Every key of the recipe that a run was trained by, in its folder.
const RECIPE_NAME: &str = "recipe.toml";

/// Where the encoder lies in a file of a run's checkpoint.
const OWN_PLACE: &str = "backbone";
/// How names of the projection head beside it open.
const OWN_HEAD: &str = "head.";

/// Which encoder, as a user says it.
#[derive(Clone, Debug, clap::Args)]
pub struct EncoderArgs {
    /// A run's folder (its newest checkpoint), a checkpoint's folder, or a file of weights (safetensors,
    /// .pth)
    #[arg(long, value_name = "PATH", required_unless_present = "random_init")]
    pub checkpoint: Option<PathBuf>,
    /// The network of a checkpoint that has both
    #[arg(long, value_enum, default_value_t = CheckpointKey::Teacher)]
    pub checkpoint_key: CheckpointKey,
    /// Judge the encoder as it was before any training: of the checkpoint's sizes, or of --arch
    #[arg(long)]
    pub random_init: bool,
    /// Sizes for --random-init without a checkpoint
    #[arg(long, default_value = "vit_small", conflicts_with = "checkpoint", value_parser = arch_parser())]
    pub arch: Arch,
    /// Side of a patch for --random-init without a checkpoint
    #[arg(long, value_name = "PX", default_value_t = 16, conflicts_with = "checkpoint", value_parser = clap::value_parser!(i64).range(1..=64))]
    pub patch: i64,
    /// Seed of --random-init
    #[arg(long, value_name = "N", default_value_t = 0, requires = "random_init")]
    pub seed: u64,
    /// Where to compute
    #[arg(long, value_enum, default_value_t = DeviceName::Auto)]
    pub device: DeviceName,
}

/// The names, for help and errors, too.
fn arch_parser() -> impl TypedValueParser<Value = Arch> {
    PossibleValuesParser::new(Arch::ALL.map(Arch::name)).try_map(|name| name.parse::<Arch>())
}

/// The network of a checkpoint to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CheckpointKey {
    /// The moving average: the encoder that one uses.
    Teacher,
    /// The network that gradients train.
    Student,
}

/// Where to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceName {
    /// The GPU when there is one.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU.
    Cuda,
}

/// Why there is no encoder to judge.
#[derive(Debug, thiserror::Error)]
pub enum EncoderError {
    /// Nothing at the path can be read as an encoder.
    #[error("{} is no encoder: {reason}", path.display())]
    Layout {
        /// What was given.
        path: PathBuf,
        /// What was expected and what was found.
        reason: String,
    },
    /// The weights cannot be read or do not make an encoder.
    #[error("{} is no encoder", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: Box<WeightsError>,
    },
    /// Parameters that do not fit the sizes that were said to be theirs.
    #[error("{name} is no encoder")]
    Parameters {
        /// What they are called.
        name: String,
        /// What is wrong with them.
        source: StateError,
    },
    /// A GPU was asked for where libtorch sees none.
    #[error(
        "--device cuda, but libtorch finds no CUDA device here: run `cargo xtask doctor`, or leave --device out"
    )]
    NoCuda,
}

/// Weights that give no numbers.
#[derive(Debug, thiserror::Error)]
#[error("the encoder makes numbers of images that are not finite: its weights are no use")]
pub struct NotFinite;

impl NotFinite {
    /// # Errors
    /// A number of one of them is infinite or none.
    pub fn check(tensors: &[&Tensor]) -> Result<(), Self> {
        let is_finite = |tensor: &&Tensor| tensor.isfinite().all().int64_value(&[]) != 0;
        if tensors.iter().all(is_finite) { Ok(()) } else { Err(Self) }
    }
}

/// An encoder with everything that a protocol asks of it.
#[derive(Debug)]
pub struct Encoder {
    /// The network, in float32, without gradients.
    pub vit: Vit,
    /// Its sizes.
    pub config: VitConfig,
    /// Its parameters under timm's names; storage is shared with the network.
    pub state: StateDict,
    /// Where it computes.
    pub device: Device,
    /// What tables and pictures call it.
    pub name: String,
    /// MD5 of names, shapes and values of its parameters: what caches of its features are named by.
    pub digest: String,
    /// The recipe of the run that it comes from, where one lies with it.
    pub recipe: Option<PathBuf>,
}

/// An encoder in a file, as it was found.
#[derive(Debug)]
pub struct EncoderFile {
    /// The file.
    pub path: PathBuf,
    /// Its encoder, and where in the file it lay.
    pub weights: EncoderWeights,
}

impl Encoder {
    /// Finds, reads and checks the encoder that the user means.
    pub fn load(args: &EncoderArgs) -> Result<Self, EncoderError> {
        let device = args.device.find()?;
        let (mut name, mut state, config, recipe) = match &args.checkpoint {
            Some(path) => {
                let file = EncoderFile::read(path, args.checkpoint_key)?;
                if !file.is_of_a_run() {
                    file.say_ignored();
                }
                let recipe = file.recipe();
                (file.name(), file.weights.state, file.weights.config, recipe)
            }
            None => {
                let config = VitConfig::standard(args.arch.heads(), args.patch);
                (args.arch.name().to_owned(), StateDict::default(), config, None)
            }
        };
        if args.random_init {
            name = format!("random initialisation of {name} (seed {})", args.seed);
            state = Vit::init(&config, &mut stream(args.seed, "random init", &[]));
        }
        Ok(Self { recipe, ..Self::new(name, &state, config, device)? })
    }

    /// An encoder over a copy of parameters.
    pub fn new(
        name: String,
        state: &StateDict,
        config: VitConfig,
        device: Device,
    ) -> Result<Self, EncoderError> {
        let digest = digest(state);
        let state = state.copy_to(device, Kind::Float, false);
        let vit = Vit::from_state(&config, &state)
            .map_err(|source| EncoderError::Parameters { name: name.clone(), source })?;
        Ok(Self { vit, config, state, device, name, digest, recipe: None })
    }
}

impl From<CheckpointKey> for Which {
    fn from(key: CheckpointKey) -> Self {
        match key {
            CheckpointKey::Teacher => Self::Teacher,
            CheckpointKey::Student => Self::Student,
        }
    }
}

impl DeviceName {
    /// The device that is meant on this machine.
    pub fn find(self) -> Result<Device, EncoderError> {
        let has_cuda = || torch_ext::load_cuda() && Cuda::is_available();
        match self {
            Self::Auto | Self::Cuda if has_cuda() => Ok(Device::Cuda(0)),
            Self::Auto | Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => Err(EncoderError::NoCuda),
        }
    }
}

impl EncoderFile {
    /// Finds the file that `path` means, and reads its encoder.
    pub fn read(path: &Path, key: CheckpointKey) -> Result<Self, EncoderError> {
        let which = Which::from(key);
        let path = weights_file(path, which)?;
        let weights = read_encoder(&path, which).map_err(|source| EncoderError::Weights {
            path: path.clone(),
            source: source.into(),
        })?;
        Ok(Self { path, weights })
    }

    /// The recipe that it was trained by, if it is there: in the run's folder over a checkpoint, or beside
    /// weights that were exported with it.
    pub fn recipe(&self) -> Option<PathBuf> {
        recipe_of(&self.path)
    }

    /// Says on standard error what of the file is not used.
    pub fn say_ignored(&self) {
        if let Some(ignored) = ignored(&self.weights.ignored) {
            say!("{}: {ignored}", self.path.display());
        }
    }

    /// Whether the encoder lies where a run's own does, with nothing beside it but a head.
    fn is_of_a_run(&self) -> bool {
        let is_of_head = |name: &String| name.starts_with(OWN_HEAD);
        self.weights.place == OWN_PLACE && self.weights.ignored.iter().all(is_of_head)
    }

    /// The file, and where in it the encoder lay unless that is where a run's own lies.
    fn name(&self) -> String {
        let (path, place) = (self.path.display(), self.weights.place.as_str());
        match place {
            "" | OWN_PLACE => path.to_string(),
            place => format!("{path} ({place})"),
        }
    }
}

fn recipe_of(weights: &Path) -> Option<PathBuf> {
    let folders = weights.ancestors().skip(1);
    let of_run = weights.parent()?.file_name()?.to_str()?.starts_with("step-");
    let of_export = weights.file_name()? == WEIGHTS_NAME;
    let levels = if of_run { 3 } else { usize::from(of_export) };
    folders.take(levels).map(|folder| folder.join(RECIPE_NAME)).find(|recipe| recipe.is_file())
}

/// What of a file was left out, in words.
fn ignored(names: &[String]) -> Option<String> {
    let first = names.first()?;
    Some(match names.len() {
        1 => format!("ignored `{first}`, which is not the encoder's"),
        count => format!("ignored {count} tensors that are not the encoder's, such as `{first}`"),
    })
}

/// The file of weights that a path means: itself, or in a folder the one of this name, else the one of
/// `export` and `import`.
fn weights_file(path: &Path, which: Which) -> Result<PathBuf, EncoderError> {
    let wrong = |reason: String| EncoderError::Layout { path: path.into(), reason };
    if !path.exists() {
        return Err(wrong("it does not exist".into()));
    }
    if path.is_file() {
        return Ok(path.into());
    }
    let name = format!("{}.safetensors", which.as_str());
    let direct = [name.as_str(), WEIGHTS_NAME].map(|name| path.join(name));
    if let Some(file) = direct.into_iter().find(|file| file.is_file()) {
        return Ok(file);
    }
    let checkpoints = path.join("checkpoints");
    let folder = if checkpoints.is_dir() { checkpoints.as_path() } else { path };
    let steps = fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| {
        let step: u64 = entry.file_name().to_str()?.strip_prefix("step-")?.parse().ok()?;
        let file = entry.path().join(&name);
        file.is_file().then_some((step, file))
    });
    steps.max().map(|(_, file)| file).ok_or_else(|| {
        wrong(format!(
            "expected {name}, {WEIGHTS_NAME} or checkpoints/step-N/{name} in it; give a run's folder, \
             one of its checkpoints, a folder of `export`, or a file"
        ))
    })
}

fn digest(state: &StateDict) -> String {
    let mut md5 = Md5::new();
    for (name, tensor) in state.iter() {
        md5.update(format!("{name} {:?}\n", tensor.size()));
        md5.update(float_bytes(tensor));
    }
    hex(&md5.finalize())
}
