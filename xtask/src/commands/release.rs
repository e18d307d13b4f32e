//! `export` and `import`: encoders to others and from others.

use std::path::Path;

use super::eval::check_exists;
use crate::{
    args::{Args, CommandSpec, OptionSpec, Value, option},
    checkout::Checkout,
    process::{self, fixable},
};

const OPTIONS: &[OptionSpec] = &[
    option("out", Value::Text("DIR"), "new folder for model.safetensors and its README"),
    option(
        "checkpoint-key",
        Value::Text("KEY"),
        "teacher or student, where there are both (default: teacher)",
    ),
];

pub(crate) const EXPORT: CommandSpec = CommandSpec {
    name: "export",
    about: "Writes a trained encoder with timm's names, for others to load",
    options: OPTIONS,
    operands: "CHECKPOINT",
    rest: "",
    notes: "CHECKPOINT is a run's folder (its newest checkpoint), a checkpoint's folder, or a file of\n\
            weights. The README in DIR has the sizes and the lines of Python that load the encoder.\n\n\
            example: cargo xtask export data/runs/toy --out toy-encoder",
    run: |checkout, args| run(checkout, &EXPORT, args),
};

pub(crate) const IMPORT: CommandSpec = CommandSpec {
    name: "import",
    about: "Reads an encoder of others into a folder that every command takes",
    options: OPTIONS,
    operands: "FILE",
    rest: "",
    notes: "FILE is one of safetensors or of torch.save (.pth, .pt), read without executing anything: a state\n\
            dict alone or in dictionaries, behind prefixes such as `module.backbone.`, in float16, bfloat16,\n\
            float32 or float64. Every --checkpoint takes such a file as well as the folder.\n\n\
            example: cargo xtask import dino_deitsmall16_pretrain.pth --out dino-small",
    run: |checkout, args| run(checkout, &IMPORT, args),
};

fn run(checkout: &Checkout, command: &CommandSpec, args: &Args) -> anyhow::Result<()> {
    let CommandSpec { name, operands, .. } = command;
    let [path] = args.operands.as_slice() else {
        return Err(fixable(format!(
            "`cargo xtask {name}` takes one {operands}, and {} were given; see `cargo xtask {name} --help`",
            args.operands.len()
        )));
    };
    let Some(out) = args.value("out") else {
        return Err(fixable(format!(
            "`cargo xtask {name}` needs --out: a new folder to write into"
        )));
    };
    check_exists(path, "a run's folder, a checkpoint or a file of weights")?;
    if Path::new(out).exists() {
        return Err(fixable(format!(
            "`{}` exists already; give --out the name of a new folder",
            out.to_string_lossy()
        )));
    }
    super::build(checkout)?;
    let mut program = checkout.program("dora-eval")?;
    program.arg(name).args(args.forward(&["out", "checkpoint-key"]));
    process::run(program.arg("--").arg(path))
}
