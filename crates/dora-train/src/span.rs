//! Lengths of a run, as recipes write them: `"500 steps"` or `"10 epochs"`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A number of steps, or of epochs whose length in steps the data decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Span {
    /// So many steps.
    Steps(u64),
    /// So many epochs, not necessarily whole ones.
    Epochs(f64),
}

impl Span {
    /// Its length in steps, rounded; at least 1 where it is positive.
    pub fn steps(self, steps_per_epoch: f64) -> u64 {
        match self {
            Self::Steps(steps) => steps,
            Self::Epochs(epochs) if epochs > 0.0 => {
                ((epochs * steps_per_epoch).round() as u64).max(1)
            }
            Self::Epochs(_) => 0,
        }
    }

    /// Whether it is longer than nothing.
    pub fn is_positive(self) -> bool {
        match self {
            Self::Steps(steps) => steps > 0,
            Self::Epochs(epochs) => epochs > 0.0,
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const LARGEST: f64 = 1e12;
        let wanted = || {
            format!("expected a length such as \"500 steps\" or \"10 epochs\", found \"{text}\"")
        };
        let (number, unit) = text.trim().split_once(' ').ok_or_else(wanted)?;
        match unit.trim() {
            "step" | "steps" => {
                number.replace('_', "").parse().map(Self::Steps).map_err(|_| wanted())
            }
            "epoch" | "epochs" => match number.parse() {
                Ok(epochs) if (0.0..LARGEST).contains(&epochs) => Ok(Self::Epochs(epochs)),
                _ => Err(wanted()),
            },
            _ => Err(wanted()),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Steps(steps) => write!(f, "{steps} steps"),
            Self::Epochs(epochs) => write!(f, "{epochs} epochs"),
        }
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
