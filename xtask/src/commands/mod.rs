//! The commands. Each is a module that describes itself in a `COMMAND`; this is their list.

mod analyze;
mod bench;
mod ci;
mod compare;
mod download_wt;
mod eval;
mod gpu_kit;
mod ingest;
mod inspect;
mod release;
mod subject;
mod test;
mod train;

use crate::{
    args::{CommandSpec, OptionSpec, Value, flag},
    checkout::Checkout,
    doctor,
    process::say,
    setup::{self, Wishes},
};

/// Every command, in the order in which help lists them.
pub(crate) const ALL: &[CommandSpec] = &[
    train::COMMAND,
    download_wt::COMMAND,
    ingest::COMMAND,
    ingest::TOY_WALK,
    inspect::COMMAND,
    analyze::COMMAND,
    eval::classification::KNN,
    eval::classification::LINEAR,
    eval::segmentation::COMMAND,
    compare::COMMAND,
    eval::discovery::COMMAND,
    eval::visualize::COMMAND,
    release::EXPORT,
    release::IMPORT,
    bench::COMMAND,
    gpu_kit::COMMAND,
    test::COMMAND,
    ci::COMMAND,
    SETUP,
    doctor::COMMAND,
];

const SETUP: CommandSpec = CommandSpec {
    name: "setup",
    about: "Brings libtorch and the system packages that are missing",
    options: &[
        flag(
            "cuda",
            "fetch the complete libtorch even where no NVIDIA GPU is seen (2.5 GB\n\
             instead of 0.55 GB); from then on this checkout uses that one",
        ),
        OptionSpec {
            name: "yes",
            short: Some('y'),
            value: Value::None,
            help: "install missing system packages without asking",
        },
        flag("verify", "compare every file of libtorch with its checksum and repair it"),
        flag(
            "test-tools",
            "fetch PyTorch, timm and TensorBoard for Python, too, which some tests\n\
             compare with (2.2 GB); `cargo xtask ci` does so",
        ),
    ],
    operands: "",
    rest: "",
    notes: "libtorch goes into a cache that all clones share ($XDG_CACHE_HOME/dora, else ~/.cache/dora),\n\
            and .libtorch in the checkout links to it. To use one of your own, export LIBTORCH.\n\
            Other commands do the same when something is missing.",
    run: |checkout, args| {
        let wishes = Wishes {
            cuda: args.has("cuda"),
            yes: args.has("yes"),
            verify: args.has("verify"),
            test_tools: args.has("test-tools"),
        };
        setup::ensure(checkout, wishes)?;
        say!("setup: everything is here; next: `cargo xtask train`");
        Ok(())
    },
};

/// What most commands ask of `setup`: what is missing.
fn ensure(checkout: &Checkout) -> anyhow::Result<()> {
    setup::ensure(checkout, Wishes::default())
}

/// What commands that start the programs ask of the checkout: everything set up and built.
fn build(checkout: &Checkout) -> anyhow::Result<()> {
    ensure(checkout)?;
    checkout.build()
}
