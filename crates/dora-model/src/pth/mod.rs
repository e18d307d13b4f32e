//! Files of `torch.save` (`.pth`, `.pt`), read without Python: what a file would have Python call is
//! never called.
//!
//! Opening reads the table of values; the values of a tensor are read when it is asked for. Whatever a
//! file says, its table takes less than 150 MB, and the values of all tensors that are asked for at most
//! sixteen times the file's length.

mod container;
mod pickle;
mod zip;

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::Path,
};

use tch::{Kind, Tensor};

pub(crate) use self::container::is_pth;
use self::{
    container::{Container, Span, read_span, storage_of, value_bytes},
    pickle::{Id, MOST_INSTRUCTIONS, Node, Pickle, PickleError},
};

/// Nested dictionaries of a checkpoint are few; a circle of them has no end.
const MOST_LEVELS: usize = 16;
/// Dimensions of a tensor.
const MOST_DIMENSIONS: usize = 16;
/// More tensors than fit into the instructions that a file may have, unless they are shared.
const MOST_TENSORS: usize = 1 << 14;
/// How often over tensors may share what the file holds.
const MOST_SHARING: u64 = 16;

/// Why a file of `torch.save` cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PthError {
    /// The system's reason.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Not written by `torch.save`.
    #[error("it is no file of `torch.save`")]
    Format,
    /// The zip archive around it is damaged.
    #[error("its zip archive is damaged or cut off")]
    Zip,
    /// A record that is compressed or encrypted.
    #[error(
        "its record `{}` is compressed or encrypted, which `torch.save` never does; pack the file anew with `torch.save(torch.load(...), ...)`",
        .0.escape_debug()
    )]
    Packed(String),
    /// A record that reaches over the end of the file.
    #[error("its record `{}` is cut off, damaged or of an unknown type", .0.escape_debug())]
    Outside(String),
    /// A zip archive of something else.
    #[error("it holds no pickle of values, so `torch.save` did not write it")]
    NoPickle,
    /// A program of `torch.jit`.
    #[error(
        "it is a program of `torch.jit`; save its weights with `torch.save(torch.jit.load(...).state_dict(), ...)`"
    )]
    TorchScript,
    /// Written on a machine of the other byte order.
    #[error("it was written on a machine with the other byte order; save it anew on this one")]
    BigEndian,
    /// A table longer than any checkpoint's.
    #[error("its table of values takes {0} bytes, more than any checkpoint's")]
    LongPickle(u64),
    /// Names for more tensors than any checkpoint's.
    #[error("it names more than {MOST_TENSORS} tensors, which no checkpoint does")]
    ManyTensors,
    /// The table of values cannot be read.
    #[error(transparent)]
    Pickle(#[from] PickleFault),
    /// The file became shorter while it was read.
    #[error("it became shorter while it was read")]
    Shrunk,
    /// A tensor that cannot be had.
    #[error("its tensor `{name}` {fault}")]
    Tensor {
        /// Its name in the file.
        name: String,
        /// What is wrong with it.
        fault: String,
    },
}

/// What is wrong with a pickle.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct PickleFault(PickleError);

impl From<PickleError> for PthError {
    fn from(error: PickleError) -> Self {
        Self::Pickle(PickleFault(error))
    }
}

/// What a file can be read from.
pub trait Source: Read + Seek {}

impl<S: Read + Seek> Source for S {}

/// A file of `torch.save`.
pub struct PthFile<S> {
    container: Container<S>,
    dicts: Vec<TensorDict>,
    top_level: String,
    given_bytes: u64,
}

/// A dictionary in the file that holds tensors under their names.
#[derive(Debug)]
pub struct TensorDict {
    /// Keys that lead to it; none for the outermost.
    pub path: Vec<String>,
    /// Its tensors, as the file says they are.
    pub tensors: Vec<StoredTensor>,
}

/// A tensor as the file describes it.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    /// Its key in the dictionary.
    pub name: String,
    form: Result<Form, String>,
}

/// A view into a storage.
#[derive(Clone, Debug)]
struct Form {
    kind: Kind,
    storage: String,
    offset: u64,
    sizes: Vec<i64>,
    strides: Vec<i64>,
}

impl PthFile<BufReader<File>> {
    /// Opens a file and reads which tensors it holds.
    pub fn open(path: &Path) -> Result<Self, PthError> {
        Self::new(BufReader::new(File::open(path)?))
    }
}

impl<S: Source> PthFile<S> {
    /// Reads which tensors a source holds.
    pub fn new(source: S) -> Result<Self, PthError> {
        let mut container = Container::open(source)?;
        let bytes = std::mem::take(&mut container.pickle);
        let mut instructions = MOST_INSTRUCTIONS;
        let pickle = Pickle::read(&bytes, &mut instructions)?;
        let mut walk =
            Walk { pickle: &pickle, seen: HashSet::new(), dicts: Vec::new(), tensors: 0 };
        walk.dict(pickle.root(), &mut Vec::new())?;
        let dicts = walk.dicts;
        let top_level = describe(&pickle);
        Ok(Self { container, dicts, top_level, given_bytes: 0 })
    }

    /// Every dictionary that holds tensors, the outermost first.
    pub fn dicts(&self) -> &[TensorDict] {
        &self.dicts
    }

    /// What the file holds in general, for people.
    pub fn top_level(&self) -> &str {
        &self.top_level
    }

    /// The values of a tensor in the dtype of the file; only those of floating point.
    pub fn read(&mut self, tensor: &StoredTensor) -> Result<Tensor, PthError> {
        let failed = |fault: String| PthError::Tensor { name: tensor.name.clone(), fault };
        let form = tensor.form.as_ref().map_err(|fault| failed(fault.clone()))?;
        let storage = self.container.storages.get(&form.storage);
        let storage = *storage.ok_or_else(|| failed("has no values in the file".into()))?;
        let width = form.kind.elt_size_in_bytes() as u64;
        let numel = form.numel().ok_or_else(|| failed("has an impossible shape".into()))?;
        if numel == 0 {
            return Err(failed("is empty".into()));
        }
        let fits = |(first, values): &(u64, u64)| {
            let end = first.checked_add(*values).and_then(|end| end.checked_mul(width));
            end.is_some_and(|end| end <= storage.len)
        };
        let reach = form.reach().filter(fits);
        let (first, values) =
            reach.ok_or_else(|| failed("reaches beyond its values in the file".into()))?;
        if numel > values {
            return Err(failed("names a value more than once, as after `expand`".into()));
        }
        self.given_bytes = self.given_bytes.saturating_add(numel * width);
        if self.given_bytes > self.container.len.saturating_mul(MOST_SHARING) {
            return Err(failed("shares its values with too many others".into()));
        }
        let span = Span { start: storage.start + first * width, len: values * width };
        let bytes = read_span(&mut self.container.source, span)?;
        let from_torch = |error: tch::TchError| failed(format!("cannot be made ({error})"));
        let values = Tensor::f_from_data_size(&bytes, &[values as i64], form.kind);
        let view = values.and_then(|values| values.f_as_strided(&form.sizes, &form.strides, 0));
        // A copy, so that no tensor keeps more than its own values.
        view.and_then(|view| view.f_contiguous()).map(|view| view.copy()).map_err(from_torch)
    }
}

impl<S> std::fmt::Debug for PthFile<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PthFile").field("dicts", &self.dicts).finish_non_exhaustive()
    }
}

impl StoredTensor {
    /// Its shape, if it can be read.
    pub fn shape(&self) -> Option<&[i64]> {
        self.form.as_ref().ok().map(|form| form.sizes.as_slice())
    }
}

impl Form {
    /// `_rebuild_tensor_v2(storage, offset, sizes, strides, ...)`.
    fn read(pickle: &Pickle<'_>, args: &[Id]) -> Result<Self, String> {
        let unreadable = || "is described in an unknown way".to_owned();
        let &[storage, offset, sizes, strides, ..] = args else { return Err(unreadable()) };
        let (class, key) = storage_of(pickle, storage).ok_or_else(unreadable)?;
        let kind = match class {
            "FloatStorage" => Kind::Float,
            "HalfStorage" => Kind::Half,
            "BFloat16Storage" => Kind::BFloat16,
            "DoubleStorage" => Kind::Double,
            other if value_bytes(other).is_some() => {
                let kind = other.trim_end_matches("Storage").to_lowercase();
                return Err(format!("holds {kind} values, not floating point"));
            }
            other => return Err(format!("has values of the unknown type {}", shown(other))),
        };
        let [sizes, strides] = [sizes, strides].map(|id| pickle.ints(id, MOST_DIMENSIONS));
        let (sizes, strides) = sizes.zip(strides).ok_or_else(unreadable)?;
        let offset = pickle.int(offset).and_then(|offset| u64::try_from(offset).ok());
        let offset = offset.ok_or_else(unreadable)?;
        let is_sound =
            sizes.len() == strides.len() && sizes.iter().chain(&strides).all(|number| *number >= 0);
        if !is_sound {
            return Err("has an impossible shape".to_owned());
        }
        Ok(Self { kind, storage: key.to_owned(), offset, sizes, strides })
    }

    fn numel(&self) -> Option<u64> {
        self.sizes.iter().try_fold(1_u64, |numel, size| numel.checked_mul(*size as u64))
    }

    /// The first value of the storage that it needs, and how many from there on.
    fn reach(&self) -> Option<(u64, u64)> {
        let steps = self.sizes.iter().zip(&self.strides);
        let mut last =
            steps.map(|(size, stride)| (*size as u64).checked_sub(1)?.checked_mul(*stride as u64));
        let last = last.try_fold(0_u64, |sum, step| sum.checked_add(step?))?;
        Some((self.offset, last.checked_add(1)?))
    }
}

/// Looks for dictionaries of tensors.
struct Walk<'a> {
    pickle: &'a Pickle<'a>,
    seen: HashSet<Id>,
    dicts: Vec<TensorDict>,
    /// In all of them.
    tensors: usize,
}

impl Walk<'_> {
    fn dict(&mut self, id: Id, path: &mut Vec<String>) -> Result<(), PthError> {
        if path.len() > MOST_LEVELS || !self.seen.insert(id) {
            return Ok(());
        }
        let Some(entries) = self.pickle.entries(id) else { return Ok(()) };
        let named = |&(key, value): &(Id, Id)| Some((shown(self.pickle.text(key)?), value));
        let entries: Vec<(String, Id)> = entries.iter().filter_map(named).collect();
        let tensors = entries.iter().filter_map(|(name, value)| {
            let form = stored_tensor(self.pickle, *value)?;
            Some(StoredTensor { name: name.clone(), form })
        });
        let tensors: Vec<StoredTensor> = tensors.take(MOST_TENSORS + 1).collect();
        self.tensors += tensors.len();
        if self.tensors > MOST_TENSORS {
            return Err(PthError::ManyTensors);
        }
        if !tensors.is_empty() {
            self.dicts.push(TensorDict { path: path.clone(), tensors });
        }
        for (name, value) in entries {
            path.push(name);
            self.dict(value, path)?;
            path.pop();
        }
        Ok(())
    }
}

/// The tensor that a call would make, if it would make one.
fn stored_tensor(pickle: &Pickle<'_>, id: Id) -> Option<Result<Form, String>> {
    match pickle.call(id)? {
        (("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor"), args) => {
            Some(Form::read(pickle, args))
        }
        // A parameter is a tensor with two more words; it is never a parameter of a parameter.
        (("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"), args) => {
            match pickle.call(*args.first()?)? {
                (("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor"), args) => {
                    Some(Form::read(pickle, args))
                }
                _ => Some(Err("is a parameter of an unknown kind".to_owned())),
            }
        }
        (("torch._utils", name), _) if name.starts_with("_rebuild") => {
            Some(Err(format!("is of a kind that is not read here (`{}`)", shown(name))))
        }
        _ => None,
    }
}

/// A word of the file as people may see it: nothing in it steers a terminal or begins a line.
fn shown(word: &str) -> String {
    if word.chars().any(char::is_control) {
        word.escape_debug().to_string()
    } else {
        word.to_owned()
    }
}

fn describe(pickle: &Pickle<'_>) -> String {
    const SHOWN: usize = 6;
    let root = pickle.root();
    if let Some(entries) = pickle.entries(root) {
        let names: Vec<&str> = entries.iter().filter_map(|(key, _)| pickle.text(*key)).collect();
        let first: Vec<String> =
            names.iter().take(SHOWN).map(|name| format!("`{}`", shown(name))).collect();
        let more = if names.len() > SHOWN { ", ..." } else { "" };
        return format!("a dictionary with {}{more}", first.join(", "));
    }
    match (pickle.node(root), pickle.call(root)) {
        (_, Some(((module, name), _))) => {
            format!(
                "a Python object `{}.{}`, which is not unpacked here; save its `state_dict()`",
                shown(module),
                shown(name)
            )
        }
        (Node::Call { .. }, _) => "a Python object".to_owned(),
        (Node::List(_) | Node::Tuple(_), _) => "a list".to_owned(),
        _ => "a single value".to_owned(),
    }
}
