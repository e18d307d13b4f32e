//! Two hosts on one machine: network namespaces, joined by a virtual cable.

use std::process::Command;

/// Namespaces that are removed at the end.
pub(crate) struct Hosts {
    names: [String; 2],
}

impl Hosts {
    /// Two hosts that reach each other; the reason where this process may not make them.
    pub(crate) fn new() -> Result<Self, String> {
        let names = [0, 1].map(|host| format!("dora-{}-{host}", std::process::id()));
        let hosts = Self { names };
        let [first, second] = &hosts.names;
        // Names of interfaces have at most 15 characters.
        let cable = [0, 1].map(|end| format!("d{}e{end}", std::process::id()));
        ip(&["netns", "add", first])?;
        ip(&["netns", "add", second])?;
        ip(&["link", "add", &cable[0], "type", "veth", "peer", "name", &cable[1]])?;
        for (end, (name, cable)) in hosts.names.iter().zip(&cable).enumerate() {
            ip(&["link", "set", cable, "netns", name])?;
            let address = format!("{}/24", hosts.address(end));
            ip(&["-n", name, "addr", "add", &address, "dev", cable])?;
            ip(&["-n", name, "link", "set", cable, "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        Ok(hosts)
    }

    /// The address of a host.
    pub(crate) fn address(&self, host: usize) -> String {
        format!("10.213.7.{}", host + 1)
    }

    /// The same command, run on a host.
    pub(crate) fn command(&self, host: usize, command: &Command) -> Command {
        let mut there = Command::new("ip");
        there.args(["netns", "exec", &self.names[host]]).arg(command.get_program());
        there.args(command.get_args());
        there.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        there
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            // Takes the cable along; a namespace that was never made needs no removal.
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output =
        Command::new("ip").args(args).output().map_err(|error| format!("`ip`: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("`ip {}`: {}", args.join(" "), text.trim()))
    }
}
