//! What the launchers of several machines tell each other while their workers run: a word when workers
//! fail, and one when a machine ends for good. A connection that closes without a word is that of a
//! launcher that was killed.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
};

use anyhow::Context;

/// What a machine says whose workers have failed.
const FAILED: u8 = b'f';

/// What a machine says that will not start again.
const ENDED: u8 = b'e';

/// The connections to the other machines while their workers run.
#[derive(Default)]
pub(crate) struct Links {
    links: Vec<Link>,
    has_ended: bool,
}

/// A connection to one machine.
pub(super) struct Link {
    pub(super) node: u64,
    pub(super) stream: TcpStream,
    has_failed: bool,
}

impl Link {
    pub(super) fn new(node: u64, stream: TcpStream) -> Self {
        Self { node, stream, has_failed: false }
    }
}

impl Links {
    /// # Errors
    /// The connections cannot be read without waiting.
    pub(super) fn new(links: Vec<Link>) -> anyhow::Result<Self> {
        for link in &links {
            link.stream.set_nonblocking(true).context("cannot read without waiting")?;
        }
        Ok(Self { links, has_ended: false })
    }

    /// Reads what the others have said; gives the number of a machine that has failed since the last time.
    pub(crate) fn failed(&mut self) -> Option<u64> {
        let mut failed = None;
        let has_ended = &mut self.has_ended;
        self.links.retain_mut(|link| {
            let mut words = [0; 8];
            let (words, is_open) = match link.stream.read(&mut words) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Ok(count @ 1..) => (&words[..count], true),
                _ => (&[][..], false),
            };
            if words.contains(&ENDED) {
                *has_ended = true;
                return false;
            }
            if !link.has_failed {
                link.has_failed = true;
                failed = failed.or(Some(link.node));
            }
            is_open
        });
        failed
    }

    /// Whether another machine has said that it will not start again.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.failed();
        self.has_ended
    }

    /// Tells the others that workers have failed here.
    pub(crate) fn say_failed(&mut self) {
        self.say(FAILED);
    }

    /// Tells the others that this machine will not start again.
    pub(crate) fn say_ended(&mut self) {
        self.say(ENDED);
    }

    fn say(&mut self, word: u8) {
        for link in &mut self.links {
            let _ = link.stream.write_all(&[word]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::{Ipv4Addr, TcpListener},
        thread,
        time::Duration,
    };

    /// Two machines' ends of one connection.
    fn pair() -> [Links; 2] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let guest = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let host = listener.accept().unwrap().0;
        [(1, host), (0, guest)]
            .map(|(node, stream)| Links::new(vec![Link::new(node, stream)]).unwrap())
    }

    fn heard(links: &mut Links) -> Option<u64> {
        let heard = (0..200).find_map(|_| {
            thread::sleep(Duration::from_millis(1));
            links.failed()
        });
        heard.inspect(|_| assert_eq!(links.failed(), None, "a failure is told once"))
    }

    #[test]
    fn a_machine_that_fails_may_end_later() {
        let [mut host, mut guest] = pair();
        assert_eq!((host.failed(), host.has_ended()), (None, false));
        guest.say_failed();
        assert_eq!((heard(&mut host), host.has_ended()), (Some(1), false));
        guest.say_ended();
        assert_eq!((heard(&mut host), host.has_ended()), (None, true));
    }

    #[test]
    fn both_words_at_once_are_an_end() {
        let [mut host, mut guest] = pair();
        host.say_failed();
        host.say_ended();
        thread::sleep(Duration::from_millis(20));
        assert!(guest.has_ended());
        assert_eq!(guest.failed(), None);
    }

    #[test]
    fn a_closed_connection_is_a_failure_and_no_end() {
        let [mut host, guest] = pair();
        drop(guest);
        assert_eq!((heard(&mut host), host.has_ended()), (Some(1), false));
    }
}
