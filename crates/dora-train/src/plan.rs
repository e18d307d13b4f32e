//! From a recipe to what the engine takes: no choice is left open.

use std::fs;

use dora_core::{loss::Reduction, tracker::TrackerSpec};
use dora_data::{
    arena::{Arena, Slot},
    rng::{Draw, stream},
};
use dora_model::{DropPath, HeadConfig, NetworkConfig, VitConfig};
use tch::{Cuda, Device, Tensor};
use torch_ext::AutocastDtype;

use crate::{
    engine::{Draws, Method, TrackerMethod},
    recipe::{DeviceName, LossName, MethodName, Precision, Recipe},
    world::{World, gpus},
};

/// Why a recipe cannot run on this machine.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// `train.device = "cuda"` where libtorch sees none.
    #[error(
        "`train.device` is \"cuda\", but libtorch finds no CUDA device here: run `cargo xtask doctor`, or set `train.device=auto`"
    )]
    NoCuda,
    /// More processes on this machine than GPUs.
    #[error(
        "rank {local_rank} of this machine has no GPU, since it sees {gpus}: start {gpus} processes here (`--nproc-per-node {gpus}`), let each see its own alone or all of them (SLURM: `--gpus-per-task=1` or `--gpus-per-node`), or train on the CPU (`train.device=cpu`)"
    )]
    TooFewGpus {
        /// The process's number on this machine.
        local_rank: usize,
        /// GPUs that libtorch sees.
        gpus: usize,
    },
}

/// Where and in which precision to train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// The device.
    pub device: Device,
    /// Dtype of the encoders under autocast; `None` is float32.
    pub autocast: Option<AutocastDtype>,
}

impl Placement {
    /// The device and precision that a recipe means for a process on its machine.
    pub fn new(recipe: &Recipe, world: &World) -> Result<Self, PlanError> {
        let has_cuda = || torch_ext::load_cuda() && Cuda::is_available();
        let device = match recipe.train.device {
            DeviceName::Auto | DeviceName::Cuda if has_cuda() => {
                let (local_rank, gpus) = (world.local_rank, Cuda::device_count().max(0) as usize);
                let index = gpus::index(local_rank, gpus);
                Device::Cuda(index.ok_or(PlanError::TooFewGpus { local_rank, gpus })?)
            }
            DeviceName::Auto | DeviceName::Cpu => Device::Cpu,
            DeviceName::Cuda => return Err(PlanError::NoCuda),
        };
        let autocast = match recipe.train.precision {
            Precision::Auto if device.is_cuda() || cpu_multiplies_bfloat16() => {
                Some(AutocastDtype::BFloat16)
            }
            Precision::Auto | Precision::Float32 => None,
            Precision::Bfloat16 => Some(AutocastDtype::BFloat16),
            Precision::Float16 => Some(AutocastDtype::Float16),
        };
        Ok(Self { device, autocast })
    }

    /// What is possible but hardly meant.
    pub fn warning(&self) -> Option<&'static str> {
        let is_slow = self.device == Device::Cpu
            && self.autocast == Some(AutocastDtype::BFloat16)
            && !cpu_multiplies_bfloat16();
        is_slow.then_some(
            "this CPU has no matrix units for bfloat16 (AMX), so that float32 is faster here: `train.precision=auto` takes it",
        )
    }

    /// The precision of the encoders in words.
    pub fn precision(&self) -> String {
        self.autocast.map_or("float32".into(), |dtype| format!("{dtype:?} autocast"))
    }
}

/// Whether the CPU has matrix units for bfloat16 (AMX). Without them libtorch's bfloat16 products
/// are slower than its float32 ones, also where the vector units know the type.
fn cpu_multiplies_bfloat16() -> bool {
    fs::read_to_string("/proc/cpuinfo")
        .is_ok_and(|text| text.split_whitespace().any(|flag| flag == "amx_bf16"))
}

/// Sizes of student and teacher.
pub fn network_config(recipe: &Recipe) -> NetworkConfig {
    let model = &recipe.model;
    let vit = VitConfig {
        image_px: model.image_px,
        ..VitConfig::standard(model.arch.heads(), model.patch_px)
    };
    let head = HeadConfig {
        in_dim: vit.width,
        hidden_dim: model.hidden_dim,
        bottleneck_dim: model.bottleneck_dim,
        out_dim: model.out_dim,
    };
    NetworkConfig { vit, head }
}

/// What the student learns from.
pub fn method(recipe: &Recipe, placement: &Placement) -> Method {
    let (method, tracker) = (&recipe.method, &recipe.tracker);
    let tracker = TrackerMethod {
        spec: TrackerSpec {
            eps: tracker.eps,
            iterations: tracker.iterations,
            sinkhorn: tracker.sinkhorn,
            threshold: tracker.threshold,
        },
        layer: tracker.layer,
    };
    let (tracker, reduction) = match (method.name, method.loss) {
        (MethodName::Dino, _) => (None, Reduction::Pairs),
        (MethodName::Dora, LossName::Mean) => (Some(tracker), Reduction::Mean),
        (MethodName::Dora, LossName::Released) => (Some(tracker), Reduction::Released),
    };
    Method {
        tracker,
        reduction,
        student_temp: method.student_temp,
        center_momentum: method.center_momentum,
        clip_grad: recipe.train.clip_grad,
        norm_last_layer: recipe.model.norm_last_layer,
        autocast: placement.autocast,
        autocast_tokens: recipe.train.autocast_tokens,
        autocast_head: recipe.train.autocast_head,
        gradient_accumulation_steps: recipe.train.gradient_accumulation_steps,
    }
}

/// Images of a batch that pass through an encoder, by who sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepImages {
    /// Whole frames of the global views, for the teacher.
    pub teacher: i64,
    /// Global part of the student's batch: frames masked by each object, or whole views.
    pub student_global: i64,
    /// Local crops.
    pub student_local: i64,
}

impl StepImages {
    /// The images of a batch of one process.
    pub fn new(recipe: &Recipe) -> Self {
        let frames = (recipe.train.clips * recipe.clip.frames_per_clip) as i64;
        let teacher = frames * i64::from(recipe.views.views);
        let objects = match recipe.method.name {
            MethodName::Dora => recipe.method.objects,
            MethodName::Dino => 1,
        };
        Self {
            teacher,
            student_global: teacher * objects,
            student_local: frames * i64::from(recipe.views.local_crops),
        }
    }

    /// All of them.
    pub fn total(self) -> i64 {
        self.teacher + self.student_global + self.student_local
    }
}

/// The draws of a batch on the host, their numbers in an arena.
#[derive(Debug)]
pub(crate) struct DrawsPlan {
    head_ids: Vec<i64>,
    depth: i64,
    /// Stochastic depth of the global part of the student's batch and of its local crops.
    drop_path: Option<[Slot; 2]>,
}

impl DrawsPlan {
    /// Draws for a batch, numbered from the run's beginning at the present number of ranks: a function
    /// of seed, rank and number alone. Numbers that the device needs go into `arena`.
    pub(crate) fn new(recipe: &Recipe, rank: u64, batch: u64, arena: &mut Arena) -> Self {
        let seed = recipe.train.seed;
        let mut head_ids: Vec<i64> = (0..recipe.model.arch.heads()).collect();
        stream(seed, "heads", &[rank, batch]).shuffle(&mut head_ids);
        head_ids.truncate(recipe.method.objects as usize);

        let rate = recipe.model.drop_path;
        let depth = network_config(recipe).vit.depth;
        let drop_path = (rate > 0.0).then(|| {
            let mut rng = stream(seed, "drop path", &[rank, batch]);
            let images = StepImages::new(recipe);
            [images.student_global, images.student_local].map(|images| {
                arena.push_f32(&DropPath::draw_factors(rate, depth, images, &mut rng))
            })
        });
        Self { head_ids, depth, drop_path }
    }

    /// The draws on the device of `bytes`, a copy of the arena.
    pub(crate) fn on_device(self, bytes: &Tensor) -> Draws {
        let Self { head_ids, depth, drop_path } = self;
        let drop_path = drop_path.map(|slots| {
            let [global, local] = slots.map(|slot| DropPath::new(&slot.tensor(bytes), depth));
            (global, local)
        });
        Draws { head_ids, drop_path }
    }
}

/// The draws of a batch, see [`DrawsPlan::new`], on `device`.
pub fn draws(recipe: &Recipe, rank: u64, batch: u64, device: Device) -> Draws {
    let mut arena = Arena::default();
    let plan = DrawsPlan::new(recipe, rank, batch, &mut arena);
    plan.on_device(&Tensor::from_slice(arena.bytes()).to_device(device))
}
