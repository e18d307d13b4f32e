//! The processes that train together, and what they agree on: who failed, whether to stop, whether all
//! were started alike.

pub(crate) mod gpus;
mod place;
mod rendezvous;
mod slurm;
mod starter;

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use dora_data::sampler::Share;
use tch::{Device, Tensor};
use torch_ext::{ProcessGroup, ReduceOp, TcpStore, TorchError, cuda_set_device, cuda_uuid};

use self::{place::Variables, rendezvous::Rendezvous};

use crate::{plan::Placement, recipe::Recipe};

/// Bytes of an error's text that the other ranks get to see.
const MESSAGE_BYTES: usize = 1000;

/// How long the first rank may work alone without a word to the others.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

/// This process among those that train together.
#[derive(Debug)]
pub struct World {
    /// Rank and number of processes.
    pub share: Share,
    /// This process's number on its machine.
    pub local_rank: usize,
    /// Processes that run on the same cores of this machine, and divide them.
    core_sharers: usize,
    /// How they exchange tensors; `None` for a process that was started alone.
    pub group: Option<Rc<ProcessGroup>>,
    /// Where they met, for as long as one of them may come to look.
    store: Option<TcpStore>,
    /// Where what is settled before every step is exchanged: Gloo's time grows with the number of
    /// ranks, NCCL's hardly.
    device: Device,
    timeout: Duration,
}

/// An error that all ranks know of, so that they can still do together what comes at the end.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Settled(String);

/// A rank no longer answers; libtorch's words.
#[derive(Debug, thiserror::Error)]
#[error("a rank is gone or did not answer in time ({0})")]
pub struct Lost(String);

impl World {
    /// A process on its own.
    pub fn alone() -> Self {
        Self {
            share: Share::default(),
            local_rank: 0,
            core_sharers: 1,
            group: None,
            store: None,
            device: Device::Cpu,
            timeout: Duration::ZERO,
        }
    }

    /// The world that the environment describes, by torchrun's variables, or where those are absent by
    /// those of SLURM or an MPI launcher; a process without any of them is alone.
    ///
    /// # Errors
    /// A variable is missing or impossible; the ranks do not meet within `timeout`.
    pub fn join(timeout: Duration) -> anyhow::Result<Self> {
        let variable = |name: &str| env::var(name).ok();
        let Some(rendezvous) = Rendezvous::read(Variables(&variable))? else {
            return Ok(Self::alone());
        };
        rendezvous.announce();
        let (group, store) = rendezvous.meet(timeout)?;
        let place = rendezvous.place;
        let mut world = Self {
            share: place.share,
            local_rank: place.local_rank,
            core_sharers: 1,
            group: Some(Rc::new(group)),
            store: Some(store),
            device: Device::Cpu,
            timeout,
        };
        let cores = world.gather(own_cores())?;
        let own = cores[place.share.rank as usize];
        let sharers = cores.iter().filter(|cores| **cores == own).count();
        // Containers of one machine may show the same cores, and are not the same machine to their starter.
        world.core_sharers = sharers.min(place.local_world_size);
        Ok(world)
    }

    /// Takes the device that a recipe means for this process, and lets tensors on GPUs go through
    /// NCCL. All ranks must come to the same kind of device and precision.
    ///
    /// # Errors
    /// On every rank, if one has no such device or was built without NCCL, or if they differ.
    ///
    /// # Panics
    /// If the group is already shared.
    pub fn take_place(&mut self, recipe: &Recipe) -> anyhow::Result<Placement> {
        let placement = self.all_ok(Placement::new(recipe, self).map_err(anyhow::Error::new))?;
        let kind = i64::from(placement.device.is_cuda());
        if let Some(rank) = self.first_other(kind)? {
            bail!(
                "of rank 0 and rank {rank} only one has a GPU: set `train.device=cpu`, or see with `cargo xtask doctor` what the other lacks"
            );
        }
        let precision = placement.autocast.map_or(0, |dtype| dtype as i64);
        if let Some(rank) = self.first_other(precision)? {
            bail!(
                "`train.precision=auto` comes to another precision on rank {rank} than on rank 0: set one, such as `train.precision=float32`"
            );
        }
        if let Device::Cuda(index) = placement.device {
            self.all_ok(cuda_set_device(index).map_err(anyhow::Error::new))?;
            self.check_gpus(index)?;
            if let (Some(group), Some(store)) = (&mut self.group, &self.store) {
                let group = Rc::get_mut(group).expect("before the group is shared");
                group.add_nccl(store, index, self.timeout)?;
                self.device = placement.device;
            }
        }
        Ok(placement)
    }

    /// Whether this process writes files and talks to the user.
    pub fn is_first(&self) -> bool {
        self.share.rank == 0
    }

    /// Cores for this process: its share of those that it may run on.
    pub fn cores(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (cores / self.core_sharers).max(1)
    }

    /// Leaves each process its share of the cores that several run on, unless `OMP_NUM_THREADS` says how
    /// many threads a process may have.
    pub fn divide_cores(&self) {
        if self.core_sharers > 1 && env::var_os("OMP_NUM_THREADS").is_none() {
            tch::set_num_threads(self.cores() as i32);
        }
    }

    /// What `result` holds, if it is `Ok` on every rank; otherwise every rank fails with the first
    /// bad rank's reason.
    pub fn all_ok<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        // Over Gloo, which notices at once when a rank is gone.
        let [is_bad] = self.largest([i64::from(result.is_err())], Device::Cpu)?;
        if is_bad == 0 { result } else { Err(self.reason(result.err())) }
    }

    /// What `work` gives on the first rank, which alone does it; the others get `None`. Fails on every
    /// rank if it fails there.
    pub fn on_first<T>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<Option<T>> {
        self.all_ok(self.is_first().then(work).transpose())
    }

    /// Lets the first rank work for as long as it takes while the others wait; gives what `work` gives
    /// there.
    ///
    /// `work` gets a function to call now and then, at least as often as ranks wait for one another, by
    /// which the others hear that the first is still there.
    ///
    /// # Errors
    /// Of that function and of this one, if a rank is gone.
    pub fn wait_for_first<T>(
        &self,
        work: impl FnOnce(&mut dyn FnMut() -> anyhow::Result<()>) -> T,
    ) -> anyhow::Result<Option<T>> {
        const STILL_AT_IT: i64 = 1;
        if !self.is_first() {
            while self.broadcast_numbers([0])? == [STILL_AT_IT] {}
            return Ok(None);
        }
        let every = (self.timeout / 4).min(LONGEST_SILENCE);
        let mut told = Instant::now();
        let result = work(&mut || {
            if self.group.is_some() && told.elapsed() >= every {
                self.broadcast_numbers([STILL_AT_IT])?;
                told = Instant::now();
            }
            Ok(())
        });
        self.broadcast_numbers([0])?;
        Ok(Some(result))
    }

    /// Checks that `digest`, of `what` every rank was given, is the same on all.
    pub fn check_same(&self, what: &str, digest: u64) -> anyhow::Result<()> {
        match self.first_other(digest as i64)? {
            None => Ok(()),
            Some(rank) => bail!(
                "rank {rank} was started with {what} than rank 0: start all ranks with the same command"
            ),
        }
    }

    /// Fails on every rank if two have the same GPU.
    fn check_gpus(&self, index: usize) -> anyhow::Result<()> {
        // Where the driver does not say, NCCL still finds out.
        let uuid = u128::from_be_bytes(cuda_uuid(index).unwrap_or_default());
        let uuids = self.gather([(uuid >> 64) as i64, uuid as i64])?;
        match gpus::first_shared(&uuids) {
            None => Ok(()),
            Some((first, second)) => bail!(
                "rank {first} and rank {second} have the same GPU, {}: start one process for each GPU (`--nproc-per-node gpu`), give each task its own (SLURM: `--gpus-per-task=1`), or train on the CPU (`train.device=cpu`)",
                gpus::name(uuids[first])
            ),
        }
    }

    /// The first rank whose number is not that of rank 0.
    fn first_other(&self, number: i64) -> anyhow::Result<Option<usize>> {
        let numbers = self.gather([number])?;
        Ok(numbers.iter().position(|other| *other != numbers[0]))
    }

    /// Every rank's numbers, in the order of ranks.
    fn gather<const N: usize>(&self, numbers: [i64; N]) -> anyhow::Result<Vec<[i64; N]>> {
        let Some(group) = &self.group else { return Ok(vec![numbers]) };
        let gathered = group.all_gather(&Tensor::from_slice(&numbers)).map_err(unanswered)?;
        gathered.iter().map(numbers_of).collect()
    }

    /// Gives every rank the first one's numbers.
    pub fn broadcast_numbers<const N: usize>(&self, numbers: [i64; N]) -> anyhow::Result<[i64; N]> {
        let shared = Tensor::from_slice(&numbers);
        self.broadcast(&shared)?;
        numbers_of(&shared)
    }

    /// Gives every rank the first one's tensor, in place.
    pub fn broadcast(&self, tensor: &Tensor) -> anyhow::Result<()> {
        match &self.group {
            Some(group) => group.broadcast(tensor, 0).map_err(unanswered),
            None => Ok(()),
        }
    }

    /// The largest of each of the ranks' numbers.
    fn largest<const N: usize>(
        &self,
        numbers: [i64; N],
        device: Device,
    ) -> anyhow::Result<[i64; N]> {
        let Some(group) = &self.group else { return Ok(numbers) };
        let shared = Tensor::from_slice(&numbers).to_device(device);
        group.all_reduce(&shared, ReduceOp::Max).map_err(unanswered)?;
        numbers_of(&shared)
    }

    /// This rank's own error, or else the first one that another rank has; a [`Settled`] one. All ranks
    /// come here, and one of them at least has an error.
    pub fn reason(&self, own: Option<anyhow::Error>) -> anyhow::Error {
        let Some(group) = &self.group else {
            return own.unwrap_or_else(|| anyhow!("failed without a reason"));
        };
        let mut bytes =
            own.as_ref().map_or(String::new(), |error| format!("{error:#}")).into_bytes();
        bytes.resize(MESSAGE_BYTES, 0);
        let texts = match group.all_gather(&Tensor::from_slice(&bytes)) {
            Ok(texts) => texts,
            Err(error) => return own.unwrap_or_else(|| unanswered(error)),
        };
        if let Some(own) = own {
            return Settled(format!("{own:#}")).into();
        }
        let texts = texts.into_iter().map(|text| Vec::<u8>::try_from(text).unwrap_or_default());
        let first = texts.enumerate().find(|(_, text)| text.first().is_some_and(|byte| *byte != 0));
        match first {
            Some((rank, text)) => {
                let text = String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned();
                Settled(format!("rank {rank} ended the run: {text}")).into()
            }
            None => Settled("another rank ended the run without a reason".into()).into(),
        }
    }
}

/// What to say when ranks no longer answer, with libtorch's own text.
pub(crate) fn lost(text: &str) -> anyhow::Error {
    Lost(first_line(text).to_owned()).into()
}

fn unanswered(error: TorchError) -> anyhow::Error {
    lost(&error.to_string())
}

/// A digest of this machine and the cores of it that this process may run on.
fn own_cores() -> [i64; 1] {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let allowed = status.lines().find(|line| line.starts_with("Cpus_allowed:"));
    let mut hasher = DefaultHasher::new();
    (read("/proc/sys/kernel/random/boot_id"), allowed).hash(&mut hasher);
    [hasher.finish() as i64]
}

fn numbers_of<const N: usize>(shared: &Tensor) -> anyhow::Result<[i64; N]> {
    let numbers = Vec::<i64>::try_from(shared).ok().and_then(|numbers| numbers.try_into().ok());
    numbers.context("the ranks exchanged something else than numbers")
}

/// libtorch's own words without the C++ stack that follows.
pub(crate) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
