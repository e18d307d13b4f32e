//! Starting the program, what it says, and made files.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use dora_eval::{
    encoder::{Encoder, EncoderArgs},
    images::masks::{Mask, davis_palette, to_palette_png},
};
use serde_json::Value;
use tempfile::TempDir;

/// The program with its first words.
pub(crate) fn dora_eval(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dora-eval"));
    command.args(words);
    command
}

/// What a command does that must succeed.
#[track_caller]
pub(crate) fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

/// What a command says that must be refused.
#[track_caller]
pub(crate) fn refusal(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("error: ") && !text.contains("panicked"), "{text}");
    text
}

#[track_caller]
pub(crate) fn check_parts(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
pub(crate) fn read_json(path: impl AsRef<Path>) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A path in a folder, as words have it.
pub(crate) fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().to_owned()
}

/// A folder of real data, or nothing and a line that says why.
pub(crate) fn real_data(name: &str) -> Option<PathBuf> {
    let shared = env::var_os("DORA_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let folder = shared.join("data").join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: {} is not there; DORA_SHARED names another folder", folder.display());
    None
}

/// The encoder that words mean, on the CPU.
pub(crate) fn encoder(words: &[&str]) -> Encoder {
    #[derive(Parser)]
    struct Words {
        #[command(flatten)]
        encoder: EncoderArgs,
    }
    let words = Words::parse_from([&["", "--device", "cpu"], words].concat());
    Encoder::load(&words.encoder).unwrap()
}

/// A label map with DAVIS' colours.
pub(crate) fn write_mask(
    path: &Path,
    (width, height): (usize, usize),
    label: impl Fn(usize, usize) -> u8,
) {
    let labels = (0..width * height).map(|at| label(at % width, at / width)).collect();
    let png = to_palette_png(&Mask { width, height, labels }, &davis_palette()).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, png).unwrap();
}

/// Waits until a child has made something.
#[track_caller]
pub(crate) fn wait_for(what: &str, child: &mut Child, mut is_there: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_there() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before {what} was there");
        assert!(started.elapsed() < Duration::from_secs(120), "no {what} came");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Sends a signal to a child, which must end with a status; what it said on standard error.
#[track_caller]
pub(crate) fn end(child: Child, signal: &str, status: i32) -> String {
    let mut kill = Command::new("kill");
    succeed(kill.arg(format!("-{signal}")).arg(child.id().to_string()));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(status), "{}", stderr(&output));
    stderr(&output)
}
