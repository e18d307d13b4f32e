//! The processes that train together, as torchrun's variables tell them, and what they settle among
//! themselves: who failed, whether to stop, whether all were started alike.

use std::{
    env,
    net::{IpAddr, ToSocketAddrs, UdpSocket},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use dora_data::sampler::Share;
use tch::{Device, Tensor};
use torch_ext::{ProcessGroup, ReduceOp, TcpStore, TorchError, cuda_set_device};

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
    /// This process's number on its machine: its GPU.
    pub local_rank: usize,
    /// Processes on this machine: they divide its cores.
    pub local_world_size: usize,
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

/// Where and how to meet.
#[derive(Debug, PartialEq, Eq)]
struct Rendezvous {
    share: Share,
    local_rank: usize,
    local_world_size: usize,
    master_addr: String,
    master_port: u16,
    /// torchrun's agent serves the store already.
    is_served: bool,
    /// Number of the attempt, so that restarted ranks do not read what dead ones left.
    attempt: u64,
}

impl World {
    /// A process on its own.
    pub fn alone() -> Self {
        Self {
            share: Share::default(),
            local_rank: 0,
            local_world_size: 1,
            group: None,
            store: None,
            device: Device::Cpu,
            timeout: Duration::ZERO,
        }
    }

    /// The world that the environment describes: `RANK`, `LOCAL_RANK`, `WORLD_SIZE`,
    /// `LOCAL_WORLD_SIZE`, `MASTER_ADDR` and `MASTER_PORT`, as torchrun sets them; a process without
    /// any of them is alone. Also torchrun's word that its agent serves the store
    /// (`TORCHELASTIC_USE_AGENT_STORE`), and how often it has restarted
    /// (`TORCHELASTIC_RESTART_COUNT`).
    ///
    /// # Errors
    /// A variable is missing or no number; the ranks do not meet within `timeout`.
    pub fn join(timeout: Duration) -> anyhow::Result<Self> {
        match Rendezvous::read(|name| env::var(name).ok())? {
            None => Ok(Self::alone()),
            Some(rendezvous) => rendezvous.meet(timeout),
        }
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

    /// Cores for this process: its share of the machine's.
    pub fn cores(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (cores / self.local_world_size).max(1)
    }

    /// Leaves each process of this machine its share of the cores, unless `OMP_NUM_THREADS` says how
    /// many threads a process may have.
    pub fn divide_cores(&self) {
        if self.local_world_size > 1 && env::var_os("OMP_NUM_THREADS").is_none() {
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

    /// The first rank whose number is not that of rank 0.
    fn first_other(&self, number: i64) -> anyhow::Result<Option<usize>> {
        let Some(group) = &self.group else { return Ok(None) };
        let numbers = group.all_gather(&Tensor::from(number)).map_err(unanswered)?;
        let value = |tensor: &Tensor| tensor.int64_value(&[]);
        Ok(numbers.iter().position(|other| value(other) != value(&numbers[0])))
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

impl Rendezvous {
    /// Reads the variables; `None` if there are none.
    fn read(variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Option<Self>> {
        const NEEDED: [&str; 6] =
            ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"];
        if variable("RANK").is_none() && variable("WORLD_SIZE").is_none() {
            return Ok(None);
        }
        let missing: Vec<&str> =
            NEEDED.into_iter().filter(|name| variable(name).is_none()).collect();
        if !missing.is_empty() {
            bail!(
                "of the variables that start several processes, {} is not set: use `cargo xtask train --nproc-per-node N` or torchrun, or unset RANK and WORLD_SIZE to train alone",
                missing.join(" and ")
            );
        }
        let text = |name: &str| variable(name).unwrap_or_default();
        let number = |name: &str| -> anyhow::Result<u64> {
            let text = text(name);
            text.parse().map_err(|_| anyhow!("`{name}={text}` is no number of 0 or more"))
        };
        let share = Share { rank: number("RANK")?, world_size: number("WORLD_SIZE")? };
        let (local_rank, local_world_size) = (number("LOCAL_RANK")?, number("LOCAL_WORLD_SIZE")?);
        for (rank, size, names) in [
            (share.rank, share.world_size, ("RANK", "WORLD_SIZE")),
            (local_rank, local_world_size, ("LOCAL_RANK", "LOCAL_WORLD_SIZE")),
        ] {
            if rank >= size || size > 1 << 20 {
                bail!("`{}={rank}` does not lie below `{}={size}`", names.0, names.1);
            }
        }
        let master_port = number("MASTER_PORT")?;
        Ok(Some(Self {
            share,
            local_rank: local_rank as usize,
            local_world_size: local_world_size as usize,
            master_addr: text("MASTER_ADDR"),
            master_port: u16::try_from(master_port).ok().filter(|port| *port != 0).with_context(
                || format!("`MASTER_PORT={master_port}` is no port: give one of 1 to 65535"),
            )?,
            is_served: text("TORCHELASTIC_USE_AGENT_STORE") == "True",
            attempt: text("TORCHELASTIC_RESTART_COUNT").parse().unwrap_or(0),
        }))
    }

    fn meet(self, timeout: Duration) -> anyhow::Result<World> {
        let Share { rank, world_size } = self.share;
        let (host, port) = (self.master_addr.as_str(), self.master_port);
        let serves = rank == 0 && !self.is_served;
        let prefix = format!("dora/attempt-{}", self.attempt);
        let began = Instant::now();
        let store = TcpStore::new(host, port, serves, &prefix, timeout).map_err(|error| {
            let text = error.to_string();
            let reason = first_line(&text);
            if serves && text.contains("EADDRINUSE") {
                return anyhow!(
                    "the port {port} is in use on this machine: choose another MASTER_PORT (`--rdzv-endpoint HOST:PORT`)"
                );
            }
            if serves && text.contains("server socket") {
                return anyhow!(
                    "rank 0 cannot use the port {port} of this machine: choose another MASTER_PORT ({reason})"
                );
            }
            anyhow!(
                "rank {rank} did not reach rank 0 at {host}:{port} in {} s: is MASTER_ADDR the address of rank 0's machine, does rank 0 run, and may the port be used? ({reason})",
                began.elapsed().as_secs()
            )
        })?;
        let address = own_address(host, port)?;
        if address.is_loopback() && self.local_world_size < world_size as usize {
            bail!(
                "`MASTER_ADDR={host}` leads to {address}, which no other machine can reach: give an address of rank 0's machine in the network"
            );
        }
        let address = address.to_string();
        let group =
            ProcessGroup::new(&store, &address, rank as usize, world_size as usize, timeout)
                .map_err(|error| {
                    anyhow!(
                        "rank {rank} did not meet all {world_size} ranks at {host}:{port} in {} s: see what the others say ({})",
                        began.elapsed().as_secs(),
                        first_line(&error.to_string())
                    )
                })?;
        Ok(World {
            share: self.share,
            local_rank: self.local_rank,
            local_world_size: self.local_world_size,
            group: Some(Rc::new(group)),
            store: Some(store),
            device: Device::Cpu,
            timeout,
        })
    }
}

/// What to say when ranks no longer answer, with libtorch's own text.
pub(crate) fn lost(text: &str) -> anyhow::Error {
    Lost(first_line(text).to_owned()).into()
}

fn unanswered(error: TorchError) -> anyhow::Error {
    lost(&error.to_string())
}

/// The address at which this machine talks to `host`: the others can reach it there.
fn own_address(host: &str, port: u16) -> anyhow::Result<IpAddr> {
    let failed = || format!("cannot tell this machine's address towards {host}:{port}");
    let target = (host, port).to_socket_addrs().with_context(failed)?.next();
    let target = target.with_context(failed)?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // Nothing is sent: connecting a datagram socket only chooses the route.
    let socket = UdpSocket::bind(any).with_context(failed)?;
    socket.connect(target).with_context(failed)?;
    Ok(socket.local_addr().with_context(failed)?.ip())
}

fn numbers_of<const N: usize>(shared: &Tensor) -> anyhow::Result<[i64; N]> {
    let numbers = Vec::<i64>::try_from(shared).ok().and_then(|numbers| numbers.try_into().ok());
    numbers.context("the ranks exchanged something else than numbers")
}

/// libtorch's own words without the C++ stack that follows.
pub(crate) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
