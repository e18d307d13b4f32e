//! Where the launchers of several machines meet before each start, so that all start at the same time,
//! with the same number of the attempt and at a port that is free.
//!
//! Machine 0 listens at the endpoint. The others greet it with a line that says who they are, and are
//! answered once all have come. The connections then stay open (`links`).

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{
    links::{Link, Links},
    options::{Crew, Endpoint},
};
use crate::process::{fixable, say};

/// How often to look whether somebody has come.
const LOOK: Duration = Duration::from_millis(50);

/// How long somebody who has come may take to say who it is.
const GREETING: Duration = Duration::from_secs(2);

/// A greeting or an answer is never longer.
const MAX_LINE_BYTES: usize = 1000;

/// The first word of a greeting: strangers do not know it.
const HELLO: &str = "dora-launch-1";

/// The place where machines meet.
pub(crate) enum Meeting<'a> {
    /// We are machine 0.
    Host { listener: TcpListener, crew: &'a Crew, max_restarts: u64 },
    /// We go to machine 0.
    Guest { endpoint: &'a Endpoint, crew: &'a Crew, max_restarts: u64, has_met: bool },
}

/// What was settled when all had come.
pub(crate) struct Settled {
    /// The number of the attempt that starts.
    pub(crate) attempt: u64,
    /// A free port of machine 0, for its first worker.
    pub(crate) master_port: u16,
    pub(crate) links: Links,
}

/// What a guest says of itself.
#[derive(Debug, PartialEq, Eq)]
struct Greeting {
    node_rank: u64,
    nnodes: u64,
    nproc: u64,
    max_restarts: u64,
    attempt: u64,
}

impl<'a> Meeting<'a> {
    /// # Errors
    /// The port of the endpoint is not free on machine 0.
    pub(crate) fn new(
        crew: &'a Crew,
        endpoint: &'a Endpoint,
        max_restarts: u64,
    ) -> anyhow::Result<Self> {
        if crew.node_rank > 0 {
            return Ok(Self::Guest { endpoint, crew, max_restarts, has_met: false });
        }
        let port = endpoint.port;
        let any =
            [SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), (Ipv4Addr::UNSPECIFIED, port).into()];
        let listener = TcpListener::bind(&any[..]).map_err(|error| {
            fixable(format!(
                "cannot listen at port {port} of --rdzv-endpoint, choose another ({error})"
            ))
        })?;
        listener.set_nonblocking(true).context("cannot listen without waiting")?;
        Ok(Self::Host { listener, crew, max_restarts })
    }

    /// Waits until all machines are ready for an attempt, of which the highest number wished counts.
    ///
    /// # Errors
    /// They do not come in time, or were started differently.
    pub(crate) fn meet(&mut self, attempt: u64) -> anyhow::Result<Settled> {
        match self {
            Self::Host { listener, crew, max_restarts } => {
                host(listener, crew, *max_restarts, attempt)
            }
            Self::Guest { endpoint, crew, max_restarts, has_met } => {
                let own = Greeting::of(crew, *max_restarts, attempt);
                let settled = visit(endpoint, &own, crew.patience, *has_met)?;
                *has_met = true;
                Ok(settled)
            }
        }
    }
}

fn host(
    listener: &TcpListener,
    crew: &Crew,
    max_restarts: u64,
    attempt: u64,
) -> anyhow::Result<Settled> {
    let own = Greeting::of(crew, max_restarts, attempt);
    let mut guests = Vec::new();
    let settled = gather(listener, crew, &own, &mut guests)
        .and_then(|attempt| Ok((attempt, super::free_port()?)));
    let line = match &settled {
        Ok((attempt, master_port)) => format!("go {attempt} {master_port}"),
        Err(error) => format!("no {error}"),
    };
    guests.iter_mut().for_each(|guest| answer(&mut guest.stream, &line));
    let (attempt, master_port) = settled?;
    Ok(Settled { attempt, master_port, links: Links::new(guests)? })
}

/// Waits until all guests have come; gives the highest number of an attempt that anyone wishes.
fn gather(
    listener: &TcpListener,
    crew: &Crew,
    own: &Greeting,
    guests: &mut Vec<Link>,
) -> anyhow::Result<u64> {
    let started = Instant::now();
    let mut attempt = own.attempt;
    say!("waiting for the other {} of {} machines", crew.nnodes - 1, crew.nnodes);
    while guests.len() as u64 + 1 < crew.nnodes {
        let Ok((mut stream, address)) = listener.accept() else {
            if started.elapsed() > crew.patience {
                return Err(late(crew, guests));
            }
            thread::sleep(LOOK);
            continue;
        };
        let Some(greeting) = read_greeting(&stream) else { continue };
        let node = greeting.node_rank;
        let difference = own.difference(&greeting);
        guests.retain(|guest| guest.node != node || is_open(&guest.stream));
        if difference.is_none() && guests.iter().any(|guest| guest.node == node) {
            answer(&mut stream, &format!("no another machine has --node-rank {node} already"));
            say!("warning: sent {address} away: another machine has --node-rank {node} already");
            continue;
        }
        attempt = attempt.max(greeting.attempt);
        guests.push(Link::new(node, stream));
        if let Some(difference) = difference {
            return Err(fixable(difference));
        }
    }
    Ok(attempt)
}

fn read_greeting(stream: &TcpStream) -> Option<Greeting> {
    stream.set_read_timeout(Some(GREETING)).ok()?;
    read_line(stream).as_deref().and_then(Greeting::parse)
}

fn late(crew: &Crew, guests: &[Link]) -> anyhow::Error {
    let missing = (1..crew.nnodes).filter(|node| guests.iter().all(|guest| guest.node != *node));
    let missing: Vec<String> = missing.map(|node| node.to_string()).collect();
    fixable(format!(
        "not all of {} machines came within {} s, missing --node-rank {}: was `cargo xtask train` \
         started there, with the same --rdzv-endpoint?",
        crew.nnodes,
        crew.patience.as_secs(),
        missing.join(", ")
    ))
}

fn visit(
    endpoint: &Endpoint,
    own: &Greeting,
    patience: Duration,
    has_met: bool,
) -> anyhow::Result<Settled> {
    let Endpoint { host, port } = endpoint;
    let started = Instant::now();
    say!("waiting for machine 0 at {host}:{port}");
    let (stream, line) = loop {
        let reason = match greet(endpoint, own, patience.saturating_sub(started.elapsed())) {
            Ok((stream, Some(line))) => break (stream, line),
            Ok((_, None)) => "it closed the connection".to_owned(),
            Err(error) => error.to_string(),
        };
        if has_met {
            return Err(anyhow::anyhow!("machine 0 has ended; its own output says why ({reason})"));
        }
        if started.elapsed() > patience {
            return Err(fixable(format!(
                "no machine 0 to start with at {host}:{port} within {} s ({reason}): was `cargo xtask \
                 train --node-rank 0` started there, and is --rdzv-endpoint right?",
                patience.as_secs()
            )));
        }
        thread::sleep(LOOK);
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    let numbers = match words[..] {
        ["go", attempt, port] => attempt.parse().ok().zip(port.parse().ok()),
        _ => None,
    };
    match (numbers, line.strip_prefix("no ")) {
        (Some((attempt, master_port)), _) => {
            stream.set_read_timeout(None).context("cannot read without a limit")?;
            let links = Links::new(vec![Link::new(0, stream)])?;
            Ok(Settled { attempt, master_port, links })
        }
        (None, Some(refusal)) => Err(fixable(refusal)),
        (None, None) => Err(fixable(format!(
            "what answers at {host}:{port} is no `cargo xtask train --node-rank 0` of this version"
        ))),
    }
}

/// Greets machine 0 and waits for its answer, `None` if it gives none.
fn greet(
    endpoint: &Endpoint,
    own: &Greeting,
    patience: Duration,
) -> anyhow::Result<(TcpStream, Option<String>)> {
    let Endpoint { host, port } = endpoint;
    let addresses = (host.as_str(), *port).to_socket_addrs().context("the name is not known")?;
    let mut outcome = Err(anyhow::anyhow!("the name has no address"));
    for address in addresses {
        match TcpStream::connect_timeout(&address, GREETING) {
            Ok(mut stream) => {
                answer(&mut stream, &own.line());
                let limit = patience.max(GREETING);
                stream.set_read_timeout(Some(limit)).context("cannot read with a limit")?;
                let line = read_line(&stream);
                return Ok((stream, line));
            }
            Err(error) => outcome = Err(error.into()),
        }
    }
    outcome
}

fn answer(stream: &mut TcpStream, line: &str) {
    // One who has gone meanwhile is noticed when its connection is read.
    let _ = stream.write_all(format!("{line}\n").as_bytes());
}

/// A line without its end. Reads no byte beyond it.
fn read_line(mut stream: &TcpStream) -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < MAX_LINE_BYTES {
        stream.read_exact(&mut byte).ok()?;
        if byte == *b"\n" {
            return String::from_utf8(line).ok();
        }
        line.push(byte[0]);
    }
    None
}

fn is_open(stream: &TcpStream) -> bool {
    let _ = stream.set_nonblocking(true);
    let peeked = stream.peek(&mut [0]);
    let _ = stream.set_nonblocking(false);
    matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

impl Greeting {
    fn of(crew: &Crew, max_restarts: u64, attempt: u64) -> Self {
        let Crew { nproc, nnodes, node_rank, .. } = *crew;
        Self { node_rank, nnodes, nproc, max_restarts, attempt }
    }

    fn line(&self) -> String {
        let Self { node_rank, nnodes, nproc, max_restarts, attempt } = self;
        format!("{HELLO} {node_rank} {nnodes} {nproc} {max_restarts} {attempt}")
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        if words.next() != Some(HELLO) {
            return None;
        }
        let numbers: Option<Vec<u64>> = words.map(|word| word.parse().ok()).collect();
        let [node_rank, nnodes, nproc, max_restarts, attempt] = numbers?[..] else { return None };
        (1..nnodes).contains(&node_rank).then_some(())?;
        Some(Self { node_rank, nnodes, nproc, max_restarts, attempt })
    }

    /// In what `other` was started otherwise.
    fn difference(&self, other: &Self) -> Option<String> {
        let pairs = [
            ("nnodes", self.nnodes, other.nnodes),
            ("nproc-per-node", self.nproc, other.nproc),
            ("max-restarts", self.max_restarts, other.max_restarts),
        ];
        let (name, own, others) = pairs.into_iter().find(|(_, own, others)| own != others)?;
        Some(format!(
            "machine 0 was started with --{name} {own} and machine {} with {others}: start all with \
             the same options",
            other.node_rank
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_says_who_comes() {
        let own = Greeting { node_rank: 0, nnodes: 3, nproc: 8, max_restarts: 2, attempt: 0 };
        let guest = Greeting { node_rank: 2, attempt: 1, ..own };
        let read = Greeting::parse(&guest.line()).unwrap();
        assert_eq!((&read, own.difference(&read)), (&guest, None));
        let other = Greeting { nnodes: 4, ..guest };
        assert!(own.difference(&other).unwrap().contains("--nnodes 3 and machine 2 with 4"));
        for line in ["", "GET / HTTP/1.1", "dora-launch-1 0 3 8 2 0", "dora-launch-1 3 3 8 2 0"] {
            assert_eq!(Greeting::parse(line), None, "{line}");
        }
    }
}
