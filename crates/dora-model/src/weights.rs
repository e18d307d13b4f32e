//! The encoder in a file of weights, whoever wrote it: safetensors or `torch.save`, by the file's content;
//! in any dictionary, under any prefix, in any floating-point dtype.
//!
//! What is not known is refused: an encoder with something left out would be judged all the same, and
//! wrongly.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use tch::{Kind, Tensor};

use crate::{
    StateDict, StateError, VitConfig,
    pth::{self, PthError, PthFile, StoredTensor},
};

/// The tensor that tells where an encoder's names begin.
const LANDMARK: &str = "patch_embed.proj.weight";

/// What files call the moving average and the network that gradients train, best name first.
const TEACHER: &[&str] = &["teacher", "model_ema", "state_dict_ema", "ema", "momentum_encoder"];
const STUDENT: &[&str] = &["student", "base_encoder"];
/// What files call their only network, or the student beside a moving average.
const PLAIN: &[&str] = &["model", "state_dict"];

/// How names open that belong to heads and to pretraining, not to the encoder.
const HEADS: &[&str] = &[
    "head.",
    "head_",
    "heads.",
    "fc.",
    "pre_logits.",
    "last_layer.",
    "classifier.",
    "mlp_head.",
    "projection_head.",
    "projector.",
    "predictor.",
    "prototypes.",
    "mask_token",
    "masked_embed",
    "decoder.",
    "decoder_",
];

/// Parts of encoders of other families, and what they are.
const OTHERS: &[(&str, &str)] = &[
    ("ls1.", "LayerScale"),
    ("ls2.", "LayerScale"),
    ("gamma_", "LayerScale"),
    ("mlp.w12.", "a gated MLP"),
    ("mlp.w1.", "a gated MLP"),
    ("mlp.fc1_g.", "a gated MLP"),
    ("register_tokens", "register tokens"),
    ("reg_token", "register tokens"),
    ("storage_tokens", "register tokens"),
    ("dist_token", "a distillation token"),
    ("q_norm.", "norms of queries"),
    ("k_norm.", "norms of keys"),
    ("norm_pre.", "a norm before its blocks"),
    ("ln_pre.", "a norm before its blocks"),
    ("fc_norm.", "a norm of averaged tokens"),
    ("rope", "rotary positions"),
    ("relative_position", "relative positions"),
    ("rel_pos", "relative positions"),
];

/// More tensors than any ViT has: these are 80 blocks.
const MOST_TENSORS: usize = 966;

/// ViT-L's: wider ViTs have heads of widths other than 64, which no file tells.
const MOST_WIDTH: i64 = 1024;

/// Why a file gives no encoder.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The system's reason.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Neither of the two formats.
    #[error("it is neither a safetensors file nor one of `torch.save`")]
    Format,
    /// What is wrong with a file of `torch.save`.
    #[error(transparent)]
    Pth(#[from] PthError),
    /// What is wrong with a safetensors file.
    #[error("{0}")]
    Safetensors(String),
    /// What is wrong with the tensors.
    #[error(transparent)]
    State(#[from] StateError),
    /// No ViT in it.
    #[error("it holds no `{LANDMARK}`, so no ViT, but {found}")]
    NoEncoder {
        /// What it holds.
        found: String,
    },
    /// More than one ViT in it, and none is the one that was asked for.
    #[error("it holds several ViTs, under {found}, and none of them is named {key}")]
    Several {
        /// Where they lie.
        found: String,
        /// The one that was asked for.
        key: &'static str,
    },
    /// The ViT in it is by its name the one that was not asked for.
    #[error(
        "its ViT lies under `{place}` and is the {found}; give `--checkpoint-key {found}` to use it"
    )]
    OtherNetwork {
        /// Where it lies.
        place: String,
        /// What it is.
        found: &'static str,
    },
    /// A ViT of another kind.
    #[error("its tensor `{name}` belongs to a ViT with {what}, which is not computed here")]
    Other {
        /// The first such tensor.
        name: String,
        /// What this crate's ViT has not.
        what: &'static str,
    },
    /// A tensor whose meaning is not known.
    #[error(
        "its tensor `{0}` is none of a plain ViT's, which would give other features without it; \
         if it belongs to a head, save the file without it"
    )]
    Unknown(String),
    /// More tensors than a ViT has.
    #[error("it holds more than {MOST_TENSORS} tensors beside `{LANDMARK}`, which no ViT has")]
    TooMany,
    /// Tensors that a ViT of these sizes has are not there.
    #[error("{0} missing, which a ViT of these sizes has")]
    Missing(String),
    /// Heads whose width the file does not tell.
    #[error(
        "its width of {0} is that of a ViT wider than ViT-L, whose heads are not 64 wide as here"
    )]
    Width(i64),
    /// A number that is not finite.
    #[error("its tensor `{0}` holds numbers that are not finite")]
    NotFinite(String),
}

/// Which of a file's networks to use where it has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The moving average.
    Teacher,
    /// The network that gradients train.
    Student,
}

impl Which {
    /// The word for it in files and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Teacher => "teacher",
            Self::Student => "student",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Teacher => Self::Student,
            Self::Student => Self::Teacher,
        }
    }

    /// Names that are its own.
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Teacher => TEACHER,
            Self::Student => STUDENT,
        }
    }
}

/// An encoder from a file.
#[derive(Debug)]
pub struct EncoderWeights {
    /// The encoder's parameters under timm's names, in float32 on the CPU; nothing else.
    pub state: StateDict,
    /// Its sizes.
    pub config: VitConfig,
    /// Where it lay in the file: keys of dictionaries and the prefix of its names.
    pub place: String,
    /// Whether all its tensors were float32.
    pub was_float32: bool,
    /// Names of the tensors beside it that were left out, such as a head's.
    pub ignored: Vec<String>,
}

/// Reads the encoder of a file; `which` decides where there are several. One that no name tells to be
/// either is both.
pub fn read_encoder(path: &Path, which: Which) -> Result<EncoderWeights, WeightsError> {
    let mut head = Vec::new();
    File::open(path)?.take(16).read_to_end(&mut head)?;
    if pth::is_pth(&head) {
        let mut file = PthFile::open(path)?;
        let (at, prefix) = choose(&file, which)?;
        return of_pth(&mut file, at, &prefix);
    }
    // Eight bytes of length, then JSON.
    if head.get(8) != Some(&b'{') {
        return Err(WeightsError::Format);
    }
    let state = StateDict::read(path).map_err(|error| match error {
        // Whoever asked names the file.
        StateError::File { reason, .. } => WeightsError::Safetensors(reason),
        other => other.into(),
    })?;
    let names: Vec<&str> = state.iter().map(|(name, _)| name).collect();
    let places = prefixes(&names).into_iter().map(|prefix| Place { at: 0, path: &[], prefix });
    let found = || format!("{} tensors such as {}", names.len(), some(&names));
    let prefix = pick(places.collect(), which, found)?.prefix.to_owned();
    let Parts { own, ignored } = part(&names, &prefix)?;
    let tensor = |name: &str| Ok((name.to_owned(), state.get(&format!("{prefix}{name}"))?));
    let tensors: Result<Vec<_>, StateError> = own.into_iter().map(tensor).collect();
    finish(tensors?, place(&[], &prefix), ignored)
}

/// A ViT in a file: the number of its dictionary, the keys that lead there, the prefix of its names.
struct Place<'a> {
    at: usize,
    path: &'a [String],
    prefix: &'a str,
}

impl Place<'_> {
    /// Whether a key on the way or a part of the prefix is this word.
    fn is_named(&self, word: &str) -> bool {
        self.path.iter().any(|key| key == word) || self.prefix.split('.').any(|part| part == word)
    }

    /// Whether a name tells that it is this network.
    fn is(&self, which: Which) -> bool {
        which.words().iter().any(|word| self.is_named(word))
    }

    fn shown(&self) -> String {
        place(self.path, self.prefix)
    }
}

/// The dictionary and the prefix of the encoder in a file of `torch.save`.
fn choose(file: &PthFile<BufReader<File>>, which: Which) -> Result<(usize, String), WeightsError> {
    let mut places = Vec::new();
    for (at, dict) in file.dicts().iter().enumerate() {
        let names: Vec<&str> = dict.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let here = prefixes(&names).into_iter();
        places.extend(here.map(|prefix| Place { at, path: &dict.path, prefix }));
    }
    let found = || file.top_level().to_owned();
    let place = pick(places, which, found)?;
    Ok((place.at, place.prefix.to_owned()))
}

fn of_pth(
    file: &mut PthFile<BufReader<File>>,
    at: usize,
    prefix: &str,
) -> Result<EncoderWeights, WeightsError> {
    let dict = &file.dicts()[at];
    let place = place(&dict.path, prefix);
    let named: HashMap<&str, &StoredTensor> =
        dict.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let names: Vec<&str> = dict.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    let Parts { own, ignored } = part(&names, prefix)?;
    let stored: Vec<(String, StoredTensor)> = own
        .into_iter()
        .filter_map(|name| {
            let tensor = named.get(format!("{prefix}{name}").as_str())?;
            Some((name.to_owned(), (*tensor).clone()))
        })
        .collect();
    let tensors: Result<Vec<(String, Tensor)>, PthError> =
        stored.into_iter().map(|(name, stored)| Ok((name, file.read(&stored)?))).collect();
    finish(tensors?, place, ignored)
}

/// What stands before the landmark in the names that end with it.
fn prefixes<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let cut = |name: &&'a str| {
        let prefix = name.strip_suffix(LANDMARK)?;
        (prefix.is_empty() || prefix.ends_with('.')).then_some(prefix)
    };
    names.iter().filter_map(cut).collect()
}

/// The one place, or the one with the name that was asked for; never one with the name of the other.
fn pick<'a>(
    mut places: Vec<Place<'a>>,
    which: Which,
    found: impl FnOnce() -> String,
) -> Result<Place<'a>, WeightsError> {
    if places.is_empty() {
        return Err(WeightsError::NoEncoder { found: found() });
    }
    if places.len() > 1 {
        let plain = if which == Which::Student { PLAIN } else { &[] };
        let best = which.words().iter().chain(plain).find_map(|word| {
            let mut named = (0..places.len()).filter(|at| places[*at].is_named(word));
            named.next().filter(|_| named.next().is_none())
        });
        let Some(best) = best else {
            let shown: Vec<String> = places.iter().map(Place::shown).collect();
            let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
            return Err(WeightsError::Several { found: some(&shown), key: which.as_str() });
        };
        places.swap(0, best);
    }
    let place = places.swap_remove(0);
    if place.is(which.other()) && !place.is(which) {
        let found = which.other().as_str();
        return Err(WeightsError::OtherNetwork { place: place.shown(), found });
    }
    Ok(place)
}

/// Names of a dictionary told apart.
struct Parts<'a> {
    /// The encoder's, without the prefix.
    own: Vec<&'a str>,
    /// Others, in full.
    ignored: Vec<String>,
}

/// Tells the encoder's tensors from a head's, by their names alone, before any value is read.
fn part<'a>(names: &[&'a str], prefix: &str) -> Result<Parts<'a>, WeightsError> {
    let mut parts = Parts { own: Vec::new(), ignored: Vec::new() };
    for name in names {
        let own = name.strip_prefix(prefix);
        let own = own.filter(|own| !HEADS.iter().any(|head| own.starts_with(head)));
        let Some(own) = own else {
            parts.ignored.push((*name).to_owned());
            continue;
        };
        let has = |word: &str| own.starts_with(word) || own.contains(&format!(".{word}"));
        if let Some((_, what)) = OTHERS.iter().find(|(word, _)| has(word)) {
            return Err(WeightsError::Other { name: (*name).to_owned(), what });
        }
        if parts.own.len() == MOST_TENSORS {
            return Err(WeightsError::TooMany);
        }
        parts.own.push(own);
    }
    Ok(parts)
}

/// Checks that the tensors are a whole plain ViT, and brings them to float32.
fn finish(
    tensors: Vec<(String, Tensor)>,
    place: String,
    ignored: Vec<String>,
) -> Result<EncoderWeights, WeightsError> {
    let was_float32 = tensors.iter().all(|(_, tensor)| tensor.kind() == Kind::Float);
    let mut state = StateDict::default();
    for (name, tensor) in tensors {
        let tensor = tensor.to_kind(Kind::Float);
        if tensor.isfinite().all().int64_value(&[]) == 0 {
            return Err(WeightsError::NotFinite(name));
        }
        state.insert(name, tensor);
    }
    if state.get("cls_token").is_err() {
        return Err(WeightsError::Missing("the [CLS] token `cls_token` is".into()));
    }
    let config = VitConfig::infer(&state)?;
    if config.width > MOST_WIDTH {
        return Err(WeightsError::Width(config.width));
    }
    let shapes = config.parameter_shapes();
    let unknown = state.iter().find(|(name, _)| !shapes.iter().any(|(known, _)| known == name));
    if let Some((name, _)) = unknown {
        return Err(WeightsError::Unknown(name.to_owned()));
    }
    let missing = shapes.iter().map(|(name, _)| name.as_str());
    let missing: Vec<&str> = missing.filter(|name| state.get(name).is_err()).collect();
    if !missing.is_empty() {
        let verb = if missing.len() == 1 { "is" } else { "are" };
        return Err(WeightsError::Missing(format!("{} {verb}", some(&missing))));
    }
    state.check_shapes(&shapes)?;
    Ok(EncoderWeights { state, config, place, was_float32, ignored })
}

/// Keys and prefix as one word.
fn place(path: &[String], prefix: &str) -> String {
    let path = path.iter().map(String::as_str);
    path.chain(Some(prefix.trim_end_matches('.')).filter(|prefix| !prefix.is_empty()))
        .collect::<Vec<_>>()
        .join("/")
}

/// The first few names of many.
fn some(names: &[&str]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(SHOWN);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &tail
}
