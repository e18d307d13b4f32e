//! How many processes train, and where: the options of `train` that say so, and what they come to.

use std::{env, ffi::OsStr, fs, path::Path, time::Duration};

use crate::{
    args::{Args, OptionSpec, Value, option},
    process::fixable,
};

pub(crate) const NPROC_PER_NODE: OptionSpec = option(
    "nproc-per-node",
    Value::Text("N"),
    "train with N processes on this machine; `gpu`: one for each NVIDIA\nGPU; `auto`: the same, or one where none is (default: one, on this\nterminal)",
);

pub(crate) const NNODES: OptionSpec = option(
    "nnodes",
    Value::Count("M"),
    "train on M machines: give each the same command, but for --node-rank,\nand the same videos (default: 1)",
);

pub(crate) const NODE_RANK: OptionSpec =
    option("node-rank", Value::Count("R"), "the number of this machine, from 0 to M-1");

pub(crate) const RDZV_ENDPOINT: OptionSpec = option(
    "rdzv-endpoint",
    Value::Text("HOST:PORT"),
    "where machines meet: an address of machine 0 that all reach, and a port\nthat is free there",
);

pub(crate) const RDZV_TIMEOUT: OptionSpec = option(
    "rdzv-timeout",
    Value::Count("S"),
    "seconds that machines wait for each other at the start (default: 1800)",
);

pub(crate) const MAX_RESTARTS: OptionSpec = option(
    "max-restarts",
    Value::Count("K"),
    "after a failure start all processes again, at most K times; they go on\nfrom the last checkpoint (default: 0)",
);

/// More processes on one machine than this, or more machines, are a mistyped number.
const MOST: u64 = 1024;

/// What the options come to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The processes that train together; `None` for one alone, on our terminal.
    pub(crate) crew: Option<Crew>,
    pub(crate) max_restarts: u64,
}

/// Processes that train together.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Crew {
    /// Processes on each machine.
    pub(crate) nproc: u64,
    /// Machines.
    pub(crate) nnodes: u64,
    /// The number of this one.
    pub(crate) node_rank: u64,
    /// Where they meet; on one machine, if the user says so.
    pub(crate) endpoint: Option<Endpoint>,
    /// How long machines wait for one another.
    pub(crate) patience: Duration,
}

/// An address and a port there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Plan {
    /// One process, once.
    pub(crate) const ALONE: Self = Self { crew: None, max_restarts: 0 };

    /// Reads the options.
    ///
    /// # Errors
    /// A value is impossible, or one is missing that another needs.
    pub(crate) fn read(args: &Args) -> anyhow::Result<Self> {
        Self::read_beside(args, gpus)
    }

    fn read_beside(args: &Args, gpus: impl Fn() -> u64) -> anyhow::Result<Self> {
        let nproc =
            args.value(NPROC_PER_NODE.name).map(|value| processes(value, gpus)).transpose()?;
        let nnodes = count(args, NNODES.name)?;
        let node_rank = count(args, NODE_RANK.name)?;
        let endpoint = args.value(RDZV_ENDPOINT.name).map(Endpoint::parse).transpose()?;
        let timeout_s = count(args, RDZV_TIMEOUT.name)?;
        let max_restarts = count(args, MAX_RESTARTS.name)?.unwrap_or(0);
        let several = nnodes.is_some_and(|nnodes| nnodes > 1);
        let wrong = |message: String| Err(fixable(message));
        if nnodes.is_some_and(|nnodes| nnodes == 0 || nnodes > MOST) {
            return wrong(format!("`--nnodes` takes a number from 1 to {MOST}"));
        }
        if several {
            let missing = [
                (node_rank.is_none(), "--node-rank R, this machine's number"),
                (endpoint.is_none(), "--rdzv-endpoint HOST:PORT, an address of machine 0"),
            ];
            if let Some((_, option)) = missing.iter().find(|(is_missing, _)| *is_missing) {
                return wrong(format!("`--nnodes` above 1 needs {option}"));
            }
        } else if timeout_s.is_some() {
            return wrong("`--rdzv-timeout` is for several machines: give --nnodes too".to_owned());
        }
        if let Some(rank) = node_rank {
            match nnodes {
                None => return wrong("`--node-rank` needs --nnodes".to_owned()),
                Some(nnodes) if rank >= nnodes => {
                    return wrong(format!(
                        "`--node-rank {rank}` is too high: {nnodes} machines have the numbers 0 to {}",
                        nnodes - 1
                    ));
                }
                Some(_) => {}
            }
        }
        if endpoint.is_some() && nproc.is_none() && !several {
            return wrong(
                "`--rdzv-endpoint` is for several processes: give --nproc-per-node too".to_owned(),
            );
        }
        let asked_for = args.has(NPROC_PER_NODE.name) || several;
        let crew = asked_for.then(|| Crew {
            nproc: nproc.unwrap_or(1),
            nnodes: nnodes.unwrap_or(1),
            node_rank: node_rank.unwrap_or(0),
            endpoint,
            patience: Duration::from_secs(timeout_s.unwrap_or(1800)),
        });
        Ok(Self { crew, max_restarts })
    }

    /// Whether this machine is the one that clears away what must be only once.
    pub(crate) fn is_first_node(&self) -> bool {
        self.crew.as_ref().is_none_or(|crew| crew.node_rank == 0)
    }
}

impl Endpoint {
    /// A host and a port, after `tcp://` or nothing; an IPv6 address in brackets.
    fn parse(text: &OsStr) -> anyhow::Result<Self> {
        let text = text.to_string_lossy();
        let bare = text.trim();
        let bare = bare.strip_prefix("tcp://").unwrap_or(bare).trim_end_matches('/');
        let parts = bare.rsplit_once(':').and_then(|(host, port)| {
            let host = match host.strip_prefix('[') {
                Some(rest) => rest.strip_suffix(']')?,
                None => (!host.contains(':')).then_some(host)?,
            };
            let port = port.parse().ok().filter(|port| *port != 0)?;
            let is_host = !host.is_empty() && !host.contains(['/', ' ']);
            is_host.then(|| Self { host: host.to_owned(), port })
        });
        parts.ok_or_else(|| {
            fixable(format!(
                "`--rdzv-endpoint {text}` is no HOST:PORT such as node0:29500 or [fd00::1]:29500"
            ))
        })
    }
}

fn count(args: &Args, name: &str) -> anyhow::Result<Option<u64>> {
    let Some(value) = args.value(name) else { return Ok(None) };
    let text = value.to_string_lossy();
    let number = text.parse().map_err(|_| fixable(format!("`--{name} {text}` is no number")))?;
    Ok(Some(number))
}

fn processes(value: &OsStr, gpus: impl Fn() -> u64) -> anyhow::Result<u64> {
    let text = value.to_string_lossy();
    match (text.as_ref(), text.parse::<u64>()) {
        ("auto", _) => Ok(gpus().max(1)),
        ("gpu", _) => match gpus() {
            0 => Err(fixable(
                "`--nproc-per-node gpu` finds no NVIDIA GPU here: run `cargo xtask doctor`, or give a number",
            )),
            count => Ok(count),
        },
        (_, Ok(count)) if (1..=MOST).contains(&count) => Ok(count),
        _ => Err(fixable(format!(
            "`--nproc-per-node {text}` is neither a number from 1 to {MOST} nor gpu or auto"
        ))),
    }
}

/// The NVIDIA GPUs that a process started here would see.
fn gpus() -> u64 {
    let visible = env::var("CUDA_VISIBLE_DEVICES").ok();
    visible_gpus(gpus_in(Path::new("/dev")), visible.as_deref())
}

fn gpus_in(dev: &Path) -> u64 {
    let names = fs::read_dir(dev).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_gpu = |name: &OsStr| {
        let number = name.to_str().and_then(|name| name.strip_prefix("nvidia"));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    names.filter(|name| is_gpu(name)).count() as u64
}

/// CUDA's rule for its variable: a list of numbers or names, cut off at the first that is none.
fn visible_gpus(count: u64, visible: Option<&str>) -> u64 {
    let Some(visible) = visible else { return count };
    let is_gpu = |word: &str| match word.parse::<u64>() {
        Ok(number) => number < count,
        Err(_) => word.starts_with("GPU-") || word.starts_with("MIG-"),
    };
    visible.split(',').map(str::trim).take_while(|word| is_gpu(word)).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    fn read(line: &str, gpus: u64) -> Result<Plan, String> {
        let names = [&NPROC_PER_NODE, &NNODES, &NODE_RANK, &RDZV_ENDPOINT, &RDZV_TIMEOUT];
        let words: Vec<&str> = line.split_whitespace().collect();
        let options = words.chunks(2).map(|pair| {
            let name = pair[0].trim_start_matches('-');
            let known = names.iter().map(|option| option.name).chain([MAX_RESTARTS.name]);
            (known.into_iter().find(|known| *known == name).unwrap(), pair[1].into())
        });
        Plan::read_beside(&Args::with(options.collect()), || gpus).map_err(|error| {
            assert!(error.downcast_ref::<crate::process::Stop>().is_some());
            error.to_string()
        })
    }

    #[test]
    fn the_options_come_to_a_plan() {
        assert_eq!(read("", 8), Ok(Plan::ALONE));
        assert_eq!(read("--max-restarts 3 --nnodes 1", 8).unwrap().crew, None);
        assert_eq!(read("--max-restarts 3", 8).unwrap().max_restarts, 3);
        let nproc = |line: &str, gpus| read(line, gpus).unwrap().crew.unwrap().nproc;
        assert_eq!(nproc("--nproc-per-node 1", 8), 1);
        assert_eq!(nproc("--nproc-per-node gpu", 8), 8);
        assert_eq!(nproc("--nproc-per-node auto", 2), 2);
        assert_eq!(nproc("--nproc-per-node auto", 0), 1);
        let line = "--nnodes 2 --node-rank 1 --rdzv-endpoint [fd00::1]:29500 --rdzv-timeout 60";
        let endpoint = Endpoint { host: "fd00::1".to_owned(), port: 29500 };
        let crew = Crew {
            nproc: 1,
            nnodes: 2,
            node_rank: 1,
            endpoint: Some(endpoint),
            patience: Duration::from_secs(60),
        };
        assert_eq!(read(line, 0).unwrap().crew, Some(crew));
    }

    #[test]
    fn an_endpoint_may_be_written_as_an_address_of_the_network() {
        for (text, host) in [
            ("node0:29500", "node0"),
            (" tcp://node0:29500/ ", "node0"),
            ("tcp://[fd00::1]:29500", "fd00::1"),
            ("[::1]:29500", "::1"),
        ] {
            let expected = Endpoint { host: host.to_owned(), port: 29500 };
            assert_eq!(Endpoint::parse(OsStr::new(text)).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_said() {
        for (line, expected) in [
            ("--nproc-per-node 0", "`--nproc-per-node 0` is neither a number from 1 to 1024"),
            ("--nproc-per-node gpus", "nor gpu or auto"),
            ("--nproc-per-node 4294967297", "neither"),
            ("--nproc-per-node gpu", "finds no NVIDIA GPU here"),
            ("--nnodes 0", "`--nnodes` takes a number from 1 to 1024"),
            ("--nnodes 2 --rdzv-endpoint a:1", "needs --node-rank R"),
            ("--nnodes 2 --node-rank 0", "needs --rdzv-endpoint HOST:PORT"),
            ("--node-rank 0", "`--node-rank` needs --nnodes"),
            ("--nnodes 2 --node-rank 2 --rdzv-endpoint a:1", "have the numbers 0 to 1"),
            ("--rdzv-endpoint a:1", "give --nproc-per-node too"),
            ("--nproc-per-node 2 --rdzv-timeout 5", "give --nnodes too"),
            ("--nproc-per-node 2 --rdzv-endpoint a", "is no HOST:PORT"),
            ("--nproc-per-node 2 --rdzv-endpoint :5", "is no HOST:PORT"),
            ("--nproc-per-node 2 --rdzv-endpoint a:0", "is no HOST:PORT"),
            ("--nproc-per-node 2 --rdzv-endpoint a:65536", "is no HOST:PORT"),
            ("--nproc-per-node 2 --rdzv-endpoint fd00::1:29500", "is no HOST:PORT"),
            ("--nproc-per-node 2 --rdzv-endpoint http://a:1", "is no HOST:PORT"),
        ] {
            let message = read(line, 0).unwrap_err();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }

    #[test]
    fn gpus_are_device_files_that_cuda_may_see() {
        let folder = Folder::new("launch-gpus");
        for name in ["nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia"] {
            folder.write(name, "");
        }
        assert_eq!(gpus_in(folder.path()), 3);
        assert_eq!(gpus_in(&folder.path().join("absent")), 0);
        for (visible, expected) in [
            (None, 4),
            (Some(""), 0),
            (Some("-1"), 0),
            (Some("2, 3"), 2),
            (Some("0,9,1"), 1),
            (Some("GPU-1a,MIG-2b"), 2),
        ] {
            assert_eq!(visible_gpus(4, visible), expected, "{visible:?}");
        }
    }
}
