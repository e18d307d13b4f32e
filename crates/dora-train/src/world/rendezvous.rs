//! Where ranks meet, and how.

use std::{
    net::{IpAddr, Ipv6Addr, ToSocketAddrs, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use dora_data::{sampler::Share, say};
use torch_ext::{ProcessGroup, TcpStore};

use super::{
    first_line,
    place::{Place, Variables},
    starter::{Starter, TORCHRUN},
};

const MASTER_ADDR: &str = "MASTER_ADDR";
const MASTER_PORT: &str = "MASTER_PORT";

/// The port of ranks that nothing gives one; torchrun's default, too.
const DEFAULT_PORT: u16 = 29500;

/// Where and how to meet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rendezvous {
    pub(super) place: Place,
    starter: Starter,
    host: String,
    port: u16,
    /// torchrun's agent serves the store already.
    is_served: bool,
    /// Number of the attempt, so that restarted ranks do not read what dead ones left.
    attempt: u64,
}

impl Rendezvous {
    /// Reads the environment; `None` for a process that trains alone.
    ///
    /// # Errors
    /// A variable is missing or impossible.
    pub(super) fn read(variables: Variables) -> anyhow::Result<Option<Self>> {
        check_complete(variables)?;
        let Some((starter, place)) = Starter::read(variables)? else { return Ok(None) };
        let (host, port) = given_endpoint(variables)?;
        let host = match (host, &starter) {
            (Some(host), _) => host,
            (None, _) if !place.spans_machines() => "127.0.0.1".to_owned(),
            (None, Starter::Slurm { hosts: Some([first, _]), .. }) => first.clone(),
            _ => bail!(
                "{} started ranks on several machines without saying where rank 0 is: set {MASTER_ADDR} to an address of its machine, for all ranks",
                starter.name()
            ),
        };
        let port = port.unwrap_or(match starter {
            Starter::Slurm { port, .. } => port,
            _ => DEFAULT_PORT,
        });
        Ok(Some(Self {
            place,
            starter,
            host,
            port,
            is_served: variables.text("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True"),
            attempt: variables.number("TORCHELASTIC_RESTART_COUNT").unwrap_or(0),
        }))
    }

    /// Says on rank 0 what the ranks are and where they meet, unless torchrun's variables say so.
    pub(super) fn announce(&self) {
        if self.starter != Starter::Torchrun && self.place.share.rank == 0 {
            say!(
                "{} ranks by the variables of {}; rank 0 at {}",
                self.place.share.world_size,
                self.starter.name(),
                self.endpoint()
            );
        }
    }

    /// Joins the group that all ranks form.
    ///
    /// # Errors
    /// They do not meet within `timeout`.
    pub(super) fn meet(&self, timeout: Duration) -> anyhow::Result<(ProcessGroup, TcpStore)> {
        let Share { rank, world_size } = self.place.share;
        let (host, port, endpoint) = (self.host.as_str(), self.port, self.endpoint());
        let serves = rank == 0 && !self.is_served;
        let prefix = format!("dora/attempt-{}", self.attempt);
        let began = Instant::now();
        let store = TcpStore::new(host, port, serves, &prefix, timeout).map_err(|error| {
            let text = error.to_string();
            let reason = first_line(&text);
            if serves && text.contains("EADDRINUSE") {
                return anyhow!(
                    "the port {port} is in use on this machine: choose another {MASTER_PORT} (`--rdzv-endpoint HOST:PORT`)"
                );
            }
            if serves && text.contains("server socket") {
                return anyhow!(
                    "rank 0 cannot use the port {port} of this machine: choose another {MASTER_PORT} ({reason})"
                );
            }
            anyhow!(
                "rank {rank} did not reach rank 0 at {endpoint} in {} s: is {MASTER_ADDR} the address of rank 0's machine, does rank 0 run, and may the port be used? ({reason})",
                began.elapsed().as_secs()
            )
        })?;
        let address = self.own_address()?;
        if address.is_loopback() && self.place.spans_machines() {
            bail!(
                "`{MASTER_ADDR}={host}` leads to {address}, which no other machine can reach: give an address of rank 0's machine in the network"
            );
        }
        let size = (rank as usize, world_size as usize);
        let group = ProcessGroup::new(&store, &address.to_string(), size.0, size.1, timeout)
            .map_err(|error| {
                anyhow!(
                    "rank {rank} did not meet all {world_size} ranks at {endpoint} in {} s: see what the others say ({})",
                    began.elapsed().as_secs(),
                    first_line(&error.to_string())
                )
            })?;
        Ok((group, store))
    }

    /// The address at which other ranks reach this machine.
    fn own_address(&self) -> anyhow::Result<IpAddr> {
        let address = address_towards(&self.host, self.port)?;
        match &self.starter {
            // Many machines know themselves by a name that leads to 127.0.1.1; the way to another one
            // shows the address that counts.
            Starter::Slurm { hosts: Some([first, last]), .. }
                if address.is_loopback() && *first == self.host && first != last =>
            {
                address_towards(last, self.port)
            }
            _ => Ok(address),
        }
    }

    fn endpoint(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Fails where some of torchrun's variables are set and others are not.
fn check_complete(variables: Variables) -> anyhow::Result<()> {
    let address = variables.text(MASTER_ADDR).and_then(|text| parse_address(&text));
    let has_port = address.is_some_and(|(_, port)| port.is_some());
    let mut missing = variables.missing(&TORCHRUN);
    if missing.contains(&TORCHRUN[0]) && missing.contains(&TORCHRUN[1]) {
        return Ok(());
    }
    let more = if has_port { &[MASTER_ADDR][..] } else { &[MASTER_ADDR, MASTER_PORT] };
    missing.extend(variables.missing(more));
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "of the variables that start several processes, {} is not set: use `cargo xtask train --nproc-per-node N` or torchrun, or unset RANK and WORLD_SIZE to train alone",
        missing.join(" and ")
    )
}

/// Host and port that `MASTER_ADDR` and `MASTER_PORT` give.
fn given_endpoint(variables: Variables) -> anyhow::Result<(Option<String>, Option<u16>)> {
    let address = variables.text(MASTER_ADDR).map(|text| {
        parse_address(&text).with_context(|| {
            format!(
                "`{MASTER_ADDR}={text}` is no address: give one such as node0, 10.0.0.1 or fd00::1"
            )
        })
    });
    let (host, port_there) = address.transpose()?.unzip();
    let port_there = port_there.flatten();
    let Some(text) = variables.text(MASTER_PORT) else { return Ok((host, port_there)) };
    let port =
        text.parse().ok().filter(|port| *port != 0).with_context(|| {
            format!("`{MASTER_PORT}={text}` is no port: give one of 1 to 65535")
        })?;
    match port_there {
        Some(there) if there != port => {
            bail!("{MASTER_ADDR} names the port {there}, and `{MASTER_PORT}={port}` another")
        }
        _ => Ok((host, Some(port))),
    }
}

/// The host of an address, and its port if it has one: a name, an IPv4 or IPv6 address (this in
/// brackets where a port follows), after `tcp://` or nothing.
fn parse_address(text: &str) -> Option<(String, Option<u16>)> {
    let text = text.trim();
    let text = text.strip_prefix("tcp://").unwrap_or(text).trim_end_matches('/');
    let is_ipv6 = |host: &str| {
        let (address, _scope) = host.split_once('%').unwrap_or((host, ""));
        address.parse::<Ipv6Addr>().is_ok()
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(text) => {
            let (host, port) = text.split_once(']')?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
            is_ipv6(host).then_some((host, port))?
        }
        None if is_ipv6(text) => (text, None),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_name = |letter: char| letter.is_alphanumeric() || "-._".contains(letter);
    let is_host = host.contains(':') || (!host.is_empty() && host.chars().all(is_name));
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    is_host.then(|| (host.to_owned(), port))
}

/// The address at which this machine talks to `host`.
fn address_towards(host: &str, port: u16) -> anyhow::Result<IpAddr> {
    let failed = || format!("cannot tell this machine's address towards {host}:{port}");
    let target = (host, port).to_socket_addrs().with_context(failed)?.next();
    let target = target.with_context(failed)?;
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    // Nothing is sent: connecting a datagram socket only chooses the route.
    let socket = UdpSocket::bind(any).with_context(failed)?;
    socket.connect(target).with_context(failed)?;
    Ok(socket.local_addr().with_context(failed)?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for (text, host, port) in [
            ("node01", "node01", None),
            (" 10.0.0.1\n", "10.0.0.1", None),
            ("node01:29500", "node01", Some(29500)),
            ("tcp://node01:29500", "node01", Some(29500)),
            ("tcp://node01/", "node01", None),
            ("[::1]", "::1", None),
            ("[fd00::1]:29500", "fd00::1", Some(29500)),
            ("tcp://[::1]:1", "::1", Some(1)),
            ("::1", "::1", None),
            ("fe80::1%eth0", "fe80::1%eth0", None),
        ] {
            assert_eq!(parse_address(text), Some((host.to_owned(), port)), "{text}");
        }
        for text in [
            "",
            "tcp://",
            ":29500",
            "node01:",
            "node01:0",
            "node01:65536",
            "node01:a",
            "a b",
            "http://node01",
            "[node01]",
            "[::1",
            "[::1]29500",
            "1:2:3",
        ] {
            assert_eq!(parse_address(text), None, "{text}");
        }
    }

    fn read(environment: &[(&str, &str)]) -> Result<Option<Rendezvous>, String> {
        let variable = |name: &str| {
            let pair = environment.iter().find(|(key, _)| *key == name);
            pair.map(|(_, value)| (*value).to_owned())
        };
        Rendezvous::read(Variables(&variable)).map_err(|error| error.to_string())
    }

    fn torchrun<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let ranks =
            [("RANK", "1"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "2")];
        [more, &ranks].concat()
    }

    fn open_mpi<'a>(local_size: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let ranks = [
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", local_size),
        ];
        [more, &ranks].concat()
    }

    fn slurm<'a>(tasks: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let ranks = [
            ("SLURM_JOB_ID", "30"),
            ("SLURM_PROCID", "1"),
            ("SLURM_STEP_NUM_TASKS", "4"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_NODEID", "0"),
            ("SLURM_STEP_TASKS_PER_NODE", tasks),
            ("SLURM_STEP_NODELIST", "n[07-08]"),
        ];
        [more, &ranks].concat()
    }

    #[test]
    fn the_endpoint_is_what_is_set_or_follows_from_the_starter() {
        let [address, port] = [MASTER_ADDR, MASTER_PORT];
        for (environment, expected) in [
            (torchrun(&[(address, "n1"), (port, "5")]), "n1:5"),
            (torchrun(&[(address, " [::1] "), (port, " 5 ")]), "[::1]:5"),
            (torchrun(&[(address, "tcp://n1:5")]), "n1:5"),
            (torchrun(&[(address, "n1:5"), (port, "5")]), "n1:5"),
            (slurm("2(x2)", &[]), "n07:20030"),
            (slurm("4", &[]), "127.0.0.1:20030"),
            (slurm("2(x2)", &[(address, "ib1"), (port, "5")]), "ib1:5"),
            (slurm("2(x2)", &[(address, "ib1")]), "ib1:20030"),
            (slurm("2(x2)", &[(port, "5"), (address, " ")]), "n07:5"),
            (open_mpi("4", &[]), "127.0.0.1:29500"),
            (open_mpi("2", &[(address, "n1")]), "n1:29500"),
        ] {
            let found = read(&environment).unwrap().map(|found| found.endpoint());
            assert_eq!(found.as_deref(), Some(expected), "{environment:?}");
        }
        // What a batch script exports starts nobody.
        assert_eq!(read(&[(address, "n1"), (port, "5")]), Ok(None));
    }

    #[test]
    fn what_is_missing_or_contradicts_itself_is_said() {
        let [address, port] = [MASTER_ADDR, MASTER_PORT];
        for (environment, expected) in [
            (torchrun(&[]), "MASTER_ADDR and MASTER_PORT is not set"),
            (torchrun(&[(address, "n1")]), "processes, MASTER_PORT is not set"),
            (
                torchrun(&[(address, "n1:5"), (port, "6")]),
                "names the port 5, and `MASTER_PORT=6` another",
            ),
            (torchrun(&[(address, "n 1"), (port, "6")]), "`MASTER_ADDR=n 1` is no address"),
            (torchrun(&[(address, "n1"), (port, "0")]), "`MASTER_PORT=0` is no port"),
            (open_mpi("2", &[]), "Open MPI started ranks on several machines"),
            (vec![("RANK", "0")], "WORLD_SIZE and LOCAL_RANK and LOCAL_WORLD_SIZE and MASTER_ADDR"),
        ] {
            let message = read(&environment).unwrap_err();
            assert!(message.contains(expected), "{environment:?}: {message}");
        }
    }
}
