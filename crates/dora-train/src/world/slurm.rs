//! The place that SLURM's `srun` gives each task.
//!
//! Only the variables `SLURM_STEP_*` say what `srun` has started. `SLURM_NTASKS` stands in a batch
//! script too, whose one process would wait for ranks that nobody starts; there the step's are not set.
//! In the shell of `salloc` or `srun --pty` they are, and count one task.

use anyhow::anyhow;

use super::place::{Names, Place, Variables};

const STEP_TASKS: &str = "SLURM_STEP_NUM_TASKS";
const TASKS_PER_NODE: &str = "SLURM_STEP_TASKS_PER_NODE";
const NODE_ID: &str = "SLURM_NODEID";
const NAMES: Names = ["SLURM_PROCID", STEP_TASKS, "SLURM_LOCALID", TASKS_PER_NODE];

/// Ports that ranks of SLURM meet at: above those of services, below those that Linux gives out by
/// itself.
const PORTS: std::ops::Range<u64> = 20_000..32_000;

/// What a step of `srun` says of itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) place: Place,
    /// The first machine, which has rank 0, and the last.
    pub(super) hosts: Option<[String; 2]>,
    /// Another for each job and each step of it.
    pub(super) port: u16,
}

impl Step {
    /// The step that this process is a task of, if any.
    ///
    /// # Errors
    /// A variable is missing or not as SLURM writes it.
    pub(super) fn read(variables: Variables) -> anyhow::Result<Option<Self>> {
        if variables.text(STEP_TASKS).is_none() {
            return Ok(None);
        }
        let [rank, world_size, local_rank] =
            [NAMES[0], NAMES[1], NAMES[2]].map(|name| variables.number(name));
        let tasks = variables.text(TASKS_PER_NODE).unwrap_or_default();
        let local_world_size = tasks_on(&tasks, variables.number(NODE_ID)?).ok_or_else(|| {
            anyhow!("`{TASKS_PER_NODE}={tasks}` does not say how many tasks the machine of `{NODE_ID}` has")
        })?;
        let place = Place::new(NAMES, [rank?, world_size?, local_rank?, local_world_size])?;
        let hosts = variables.text("SLURM_STEP_NODELIST");
        let hosts = hosts.and_then(|list| Some([end_host(&list, false)?, end_host(&list, true)?]));
        let number = |name| variables.number(name).unwrap_or(0);
        let of_job = number("SLURM_JOB_ID").wrapping_add(number("SLURM_STEP_ID").wrapping_mul(101));
        let port = PORTS.start + of_job % (PORTS.end - PORTS.start);
        Ok(Some(Self { place, hosts, port: port as u16 }))
    }
}

/// The tasks of a machine by a list such as `2(x3),1`: three machines with two and one with one.
fn tasks_on(list: &str, node: u64) -> Option<u64> {
    let mut nodes = 0_u64;
    for item in list.split(',') {
        let (tasks, times) = match item.split_once("(x") {
            Some((tasks, times)) => (tasks, times.strip_suffix(')')?.parse().ok()?),
            None => (item, 1_u64),
        };
        nodes = nodes.saturating_add(times);
        if node < nodes {
            return tasks.parse().ok();
        }
    }
    None
}

/// The first or the last host of a list such as `node[01-04,7],gpu3`.
fn end_host(list: &str, last: bool) -> Option<String> {
    let end = |parts: Vec<&str>| -> Option<String> {
        let part = if last { parts.last() } else { parts.first() };
        part.filter(|part| !part.is_empty()).map(|part| (*part).to_owned())
    };
    let mut is_inside = false;
    let items = list.split(|letter| {
        is_inside = letter == '[' || (is_inside && letter != ']');
        letter == ',' && !is_inside
    });
    let mut rest = end(items.collect())?;
    let mut host = String::new();
    // A name may hold several brackets, such as `rack[1-2]node[0-7]`.
    while let Some((name, numbers)) = rest.split_once('[') {
        let (numbers, after) = numbers.split_once(']')?;
        let range = end(numbers.split(',').collect())?;
        host += name;
        host += &end(range.split('-').collect())?;
        rest = after.to_owned();
    }
    Some(host + &rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_tasks_are_read() {
        for (list, expected) in [
            ("4", vec![Some(4), None]),
            ("2(x3),1", vec![Some(2), Some(2), Some(2), Some(1), None]),
            ("8,1(x2),8", vec![Some(8), Some(1), Some(1), Some(8), None]),
            ("", vec![None]),
            ("2(x", vec![None]),
            ("2(xy),1", vec![None]),
            ("2(x18446744073709551615),3(x2)", vec![Some(2)]),
        ] {
            for (node, tasks) in expected.into_iter().enumerate() {
                assert_eq!(tasks_on(list, node as u64), tasks, "machine {node} of {list}");
            }
        }
    }

    #[test]
    fn the_ends_of_lists_of_hosts_are_read() {
        for (list, first, last) in [
            ("node1", "node1", "node1"),
            ("node[01-04,7],gpu3", "node01", "gpu3"),
            ("gpu3,node[01-04,7]", "gpu3", "node7"),
            ("node[08-11]", "node08", "node11"),
            ("rack[1-2]node[3,5-9]-ib", "rack1node3-ib", "rack2node9-ib"),
            ("a.b-c,d-e", "a.b-c", "d-e"),
        ] {
            let ends = [false, true].map(|is_last| end_host(list, is_last).unwrap());
            assert_eq!(ends, [first, last], "{list}");
        }
        for list in ["", "node[", "node[1-2", "node[]", "node[1-]x,"] {
            assert!([false, true].map(|last| end_host(list, last)).contains(&None), "{list}");
        }
    }

    #[test]
    fn jobs_and_steps_meet_at_ports_of_their_own() {
        let port = |job: &str, step: &str| {
            let variable = |name: &str| {
                let value = match name {
                    "SLURM_JOB_ID" => job,
                    "SLURM_STEP_ID" => step,
                    "SLURM_STEP_NUM_TASKS" | "SLURM_STEP_TASKS_PER_NODE" => "2",
                    "SLURM_PROCID" | "SLURM_LOCALID" | "SLURM_NODEID" => "0",
                    _ => return None,
                };
                Some(value.to_owned())
            };
            Step::read(Variables(&variable)).unwrap().unwrap().port
        };
        assert_eq!(port("1234567", "0"), 30567);
        assert_eq!(port("1234567", "3"), 30870);
        assert_eq!(port("11999", "0"), 31999);
        assert_eq!(port("12000", "0"), 20000);
        assert_eq!(port("", ""), 20000);
    }
}
