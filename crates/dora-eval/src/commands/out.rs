//! The folder that a command writes into: one for each encoder, unless the user names one.

use std::path::PathBuf;

use clap::Args;
use dora_eval::encoder::Encoder;

/// Where to write.
#[derive(Args)]
pub(super) struct OutArgs {
    /// Folder to write into; what is there is written anew or, after an interruption, taken up [default: one in
    /// --out-root, named by what is done and by the encoder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where that folder lies if it is not named
    #[arg(long, value_name = "DIR", default_value = "data/eval")]
    out_root: PathBuf,
}

impl OutArgs {
    /// The folder of what is called `name`, by `encoder`.
    pub(super) fn folder(&self, name: &str, encoder: &Encoder) -> PathBuf {
        let named = || self.out_root.join(format!("{name}-{}", &encoder.digest[..8]));
        self.out.clone().unwrap_or_else(named)
    }
}
