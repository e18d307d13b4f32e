//! Sizes of encoders by the names that papers give them.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::vit::HEAD_WIDTH;

/// Size of an encoder of 12 blocks (Touvron et al. 2021).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// Width 192, 3 heads.
    VitTiny,
    /// Width 384, 6 heads.
    VitSmall,
    /// Width 768, 12 heads.
    VitBase,
}

/// A name that none of them has.
#[derive(Debug, thiserror::Error)]
#[error("give one of {}", Arch::ALL.map(Arch::name).join(", "))]
pub struct UnknownArch;

impl Arch {
    /// All of them, from small to large.
    pub const ALL: [Self; 3] = [Self::VitTiny, Self::VitSmall, Self::VitBase];

    /// What recipes and options call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::VitTiny => "vit_tiny",
            Self::VitSmall => "vit_small",
            Self::VitBase => "vit_base",
        }
    }

    /// Width of a token.
    pub fn width(self) -> i64 {
        HEAD_WIDTH * self.heads()
    }

    /// Attention heads.
    pub fn heads(self) -> i64 {
        match self {
            Self::VitTiny => 3,
            Self::VitSmall => 6,
            Self::VitBase => 12,
        }
    }
}

impl FromStr for Arch {
    type Err = UnknownArch;

    fn from_str(name: &str) -> Result<Self, UnknownArch> {
        Self::ALL.into_iter().find(|arch| arch.name() == name).ok_or(UnknownArch)
    }
}
