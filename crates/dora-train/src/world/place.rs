//! A process among those that train together, and the environment that says which it is.

use anyhow::{anyhow, bail};
use dora_data::sampler::Share;

/// The environment. A variable that is blank counts as not set.
#[derive(Clone, Copy)]
pub(super) struct Variables<'a>(pub(super) &'a dyn Fn(&str) -> Option<String>);

/// The names of four variables: rank, number of ranks, and both among the ranks of one machine.
pub(super) type Names = [&'static str; 4];

/// Which process this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Rank and number of processes.
    pub(super) share: Share,
    /// This process's number on its machine.
    pub(super) local_rank: usize,
    /// Processes on its machine.
    pub(super) local_world_size: usize,
}

impl Place {
    /// The place that four variables give.
    ///
    /// # Errors
    /// One is missing or no number, or a rank does not lie below the number of ranks.
    pub(super) fn read(variables: Variables, names: Names) -> anyhow::Result<Self> {
        let [rank, world_size, local_rank, local_world_size] =
            names.map(|name| variables.number(name));
        Self::new(names, [rank?, world_size?, local_rank?, local_world_size?])
    }

    /// The place of four numbers with the names of their variables.
    pub(super) fn new(names: Names, numbers: [u64; 4]) -> anyhow::Result<Self> {
        for (rank, size) in [(0, 1), (2, 3)] {
            if numbers[rank] >= numbers[size] || numbers[size] > 1 << 20 {
                bail!(
                    "`{}={}` does not lie below `{}={}`",
                    names[rank],
                    numbers[rank],
                    names[size],
                    numbers[size]
                );
            }
        }
        let [rank, world_size, local_rank, local_world_size] = numbers;
        Ok(Self {
            share: Share { rank, world_size },
            local_rank: local_rank as usize,
            local_world_size: local_world_size as usize,
        })
    }

    /// Whether ranks are on other machines too.
    pub(super) fn spans_machines(&self) -> bool {
        (self.local_world_size as u64) < self.share.world_size
    }
}

impl Variables<'_> {
    /// A variable's text without blanks around it.
    pub(super) fn text(self, name: &str) -> Option<String> {
        let text = (self.0)(name)?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Those of `names` that are not set.
    pub(super) fn missing<'a>(self, names: &[&'a str]) -> Vec<&'a str> {
        names.iter().copied().filter(|name| self.text(name).is_none()).collect()
    }

    /// A variable that must be a number.
    pub(super) fn number(self, name: &str) -> anyhow::Result<u64> {
        let text = self.text(name).ok_or_else(|| anyhow!("the variable {name} is not set"))?;
        text.parse().map_err(|_| anyhow!("`{name}={text}` is no number of 0 or more"))
    }
}
