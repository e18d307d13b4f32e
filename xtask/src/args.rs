//! The command line: every command describes itself in a table, from which come parsing, help and the
//! suggestion for a mistyped word.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    os::unix::ffi::OsStrExt,
};

use crate::{checkout::Checkout, process::fixable};

/// One command of `cargo xtask`.
pub(crate) struct CommandSpec {
    pub(crate) name: &'static str,
    /// One line for the overview.
    pub(crate) about: &'static str,
    pub(crate) options: &'static [OptionSpec],
    /// What stands without dashes, in the usage line (`PATH...`); empty where nothing may.
    pub(crate) operands: &'static str,
    /// What may follow `--`, in the usage line; empty where nothing may.
    pub(crate) rest: &'static str,
    /// What else help says: defaults, files written, examples.
    pub(crate) notes: &'static str,
    pub(crate) run: fn(&Checkout, &Args) -> anyhow::Result<()>,
}

/// One option of a command, written `--name`.
pub(crate) struct OptionSpec {
    pub(crate) name: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) value: Value,
    pub(crate) help: &'static str,
}

/// What follows an option. The word is its placeholder in help.
pub(crate) enum Value {
    None,
    Text(&'static str),
    /// A number of at least 0.
    Number(&'static str),
    /// A whole number of at least 0.
    Count(&'static str),
}

/// What stood on the command line of one command.
#[derive(Debug, Default)]
pub(crate) struct Args {
    options: Vec<(&'static str, OsString)>,
    pub(crate) operands: Vec<OsString>,
    pub(crate) rest: Vec<OsString>,
}

/// What the user wants.
pub(crate) enum Request {
    /// This text.
    Help(String),
    /// This command.
    Run(&'static CommandSpec, Args),
}

/// An option without a value.
pub(crate) const fn flag(name: &'static str, help: &'static str) -> OptionSpec {
    option(name, Value::None, help)
}

/// An option with `value`.
pub(crate) const fn option(name: &'static str, value: Value, help: &'static str) -> OptionSpec {
    OptionSpec { name, short: None, value, help }
}

impl Args {
    /// Arguments as if these options had been given.
    pub(crate) fn with(options: Vec<(&'static str, OsString)>) -> Self {
        Self { options, ..Self::default() }
    }

    /// Whether `--name` was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(given, _)| *given == name)
    }

    /// The value of `--name`; the last one counts.
    pub(crate) fn value(&self, name: &str) -> Option<&OsStr> {
        self.values(name).last()
    }

    /// Every value of `--name`, in order.
    pub(crate) fn values(&self, name: &str) -> impl Iterator<Item = &OsStr> {
        self.options
            .iter()
            .filter(move |(given, _)| *given == name)
            .map(|(_, value)| value.as_os_str())
    }

    /// The options named, as given, to hand to another program.
    pub(crate) fn forward(&self, names: &[&str]) -> Vec<OsString> {
        let mut words = Vec::new();
        for (name, value) in &self.options {
            if names.contains(name) {
                words.push(OsString::from(format!("--{name}")));
                words.extend((!value.is_empty()).then(|| value.clone()));
            }
        }
        words
    }
}

/// Reads the command line without the program's name.
///
/// # Errors
/// An unknown command or option (the nearest is suggested), a missing or impossible value.
pub(crate) fn parse(
    commands: &'static [CommandSpec],
    words: impl Iterator<Item = OsString>,
) -> anyhow::Result<Request> {
    let mut words = words.peekable();
    let Some(first) = words.next() else {
        return Ok(Request::Help(overview(commands)));
    };
    let first = first.to_string_lossy();
    if first == "-h" || first == "--help" || first == "help" {
        return Ok(Request::Help(match words.next() {
            Some(name) => help(find(commands, &name.to_string_lossy())?),
            None => overview(commands),
        }));
    }
    let command = find(commands, &first)?;
    let mut args = Args::default();
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        if bytes == b"--" {
            if command.rest.is_empty() {
                return Err(wrong(command, "takes nothing after `--`"));
            }
            args.rest.extend(words);
            break;
        }
        if bytes == b"-h" || bytes == b"--help" {
            return Ok(Request::Help(help(command)));
        }
        if bytes.len() > 1 && bytes[0] == b'-' {
            let (name, attached) = split_at_equals(&word);
            let option = find_option(command, &name.to_string_lossy())?;
            let value = match (&option.value, attached) {
                (Value::None, None) => OsString::new(),
                (Value::None, Some(_)) => {
                    return Err(wrong(command, &format!("takes no value for `--{}`", option.name)));
                }
                (kind, Some(value)) => checked(command, option.name, kind, value.to_owned())?,
                (kind, None) => {
                    let value = words.next_if(|next| next != "--").ok_or_else(|| {
                        wrong(command, &format!("needs a value after `--{}`", option.name))
                    })?;
                    checked(command, option.name, kind, value)?
                }
            };
            args.options.push((option.name, value));
        } else if command.operands.is_empty() {
            let message = format!("does not know what to do with `{}`", word.to_string_lossy());
            return Err(wrong(command, &message));
        } else {
            args.operands.push(word);
        }
    }
    Ok(Request::Run(command, args))
}

/// The word of `known` that a mistyped `word` most likely means.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= candidate.len().div_ceil(2).min(3))
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

fn find(commands: &'static [CommandSpec], name: &str) -> anyhow::Result<&'static CommandSpec> {
    commands.iter().find(|command| command.name == name).ok_or_else(|| {
        let hint = match nearest(name, commands.iter().map(|command| command.name)) {
            Some(nearest) => format!("did you mean `cargo xtask {nearest}`?"),
            None => "`cargo xtask help` lists the commands".to_owned(),
        };
        fixable(format!("unknown command `{name}`; {hint}"))
    })
}

fn find_option(command: &CommandSpec, word: &str) -> anyhow::Result<&'static OptionSpec> {
    let found = command.options.iter().find(|option| {
        word.strip_prefix("--") == Some(option.name)
            || option.short.is_some_and(|short| word == format!("-{short}"))
    });
    found.ok_or_else(|| {
        let names = command.options.iter().map(|option| option.name);
        let hint = match nearest(word.trim_start_matches('-'), names) {
            Some(nearest) => format!("did you mean `--{nearest}`?"),
            None => format!("see `cargo xtask {} --help`", command.name),
        };
        fixable(format!("`cargo xtask {}` has no option `{word}`; {hint}", command.name))
    })
}

fn checked(
    command: &CommandSpec,
    name: &str,
    kind: &Value,
    value: OsString,
) -> anyhow::Result<OsString> {
    let text = value.to_string_lossy();
    let (fits, wanted) = match kind {
        Value::None | Value::Text(_) => (!value.is_empty(), "a value"),
        Value::Number(_) => {
            (text.parse().is_ok_and(|number: f64| number.is_finite() && number >= 0.0), "a number")
        }
        Value::Count(_) => (text.parse::<u64>().is_ok(), "a whole number"),
    };
    if fits {
        return Ok(value);
    }
    let message = format!("needs {wanted} after `--{name}`, not `{text}`");
    Err(wrong(command, &message))
}

fn wrong(command: &CommandSpec, what: &str) -> anyhow::Error {
    fixable(format!("`cargo xtask {0}` {what}; see `cargo xtask {0} --help`", command.name))
}

fn split_at_equals(word: &OsStr) -> (&OsStr, Option<&OsStr>) {
    let bytes = word.as_bytes();
    match bytes.iter().position(|byte| *byte == b'=') {
        Some(at) => (OsStr::from_bytes(&bytes[..at]), Some(OsStr::from_bytes(&bytes[at + 1..]))),
        None => (word, None),
    }
}

fn overview(commands: &[CommandSpec]) -> String {
    let mut text = String::from("usage: cargo xtask COMMAND\n\n");
    let rows = commands.iter().map(|command| (command.name.to_owned(), command.about));
    table(&mut text, rows.collect());
    text += "\nEvery command first sets up what it needs and is missing, and builds what changed.\n\
             `cargo xtask COMMAND --help` says more about one; start with `cargo xtask train`.\n";
    text
}

fn help(command: &CommandSpec) -> String {
    let mut usage = format!("usage: cargo xtask {}", command.name);
    for part in [
        if command.options.is_empty() { "" } else { "[OPTION]..." },
        command.operands,
        command.rest,
    ] {
        if !part.is_empty() {
            usage = usage + " " + part;
        }
    }
    let mut text = format!("{}\n\n{usage}\n", command.about);
    if !command.options.is_empty() {
        text += "\n";
        let rows = command.options.iter().map(|option| {
            let short = option.short.map(|short| format!("-{short}, ")).unwrap_or_default();
            let value = match option.value {
                Value::None => String::new(),
                Value::Text(word) | Value::Number(word) | Value::Count(word) => format!(" {word}"),
            };
            (format!("{short}--{}{value}", option.name), option.help)
        });
        table(&mut text, rows.collect());
    }
    if !command.notes.is_empty() {
        text = text + "\n" + command.notes + "\n";
    }
    text
}

fn table(text: &mut String, rows: Vec<(String, &str)>) {
    let width = rows.iter().map(|(left, _)| left.len()).max().unwrap_or(0);
    for (left, right) in rows {
        for (index, line) in right.lines().enumerate() {
            let left = if index == 0 { left.as_str() } else { "" };
            let _ = writeln!(text, "  {left:width$}  {line}");
        }
    }
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.chars().count()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::ALL;

    fn parsed(line: &str) -> Result<Args, String> {
        match parse(ALL, line.split_whitespace().map(OsString::from)) {
            Ok(Request::Run(_, args)) => Ok(args),
            Ok(Request::Help(text)) => Err(text),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn options_operands_and_rest_are_told_apart() {
        let args = parsed("train --video a.mp4 --set=train.steps=4 --video b.mp4 --fresh -- --x y")
            .unwrap();
        assert_eq!(args.values("video").collect::<Vec<_>>(), ["a.mp4", "b.mp4"]);
        assert_eq!(args.value("set"), Some(OsStr::new("train.steps=4")));
        assert!(args.has("fresh") && !args.has("dry-run"));
        assert_eq!(args.rest, ["--x", "y"]);
        assert_eq!(args.forward(&["set", "fresh"]), ["--set", "train.steps=4", "--fresh"]);
        let args = parsed("ingest a.mp4 --fps 29.97 b").unwrap();
        assert_eq!(args.operands, ["a.mp4", "b"]);
        assert!(parsed("setup -y").unwrap().has("yes"));
    }

    #[test]
    fn a_wrong_word_is_named_with_the_way_out() {
        for (line, expected) in [
            ("trian", "did you mean `cargo xtask train`?"),
            ("wxyz", "`cargo xtask help` lists the commands"),
            ("train --vidoe a", "did you mean `--video`?"),
            ("train --recipe", "needs a value after `--recipe`"),
            ("train toy", "does not know what to do with `toy`"),
            ("ingest a --fps fast", "needs a number after `--fps`, not `fast`"),
            ("ingest a --fps=-1", "needs a number"),
            ("ingest a --quality 9.5", "needs a whole number"),
            ("doctor --all=1", "no option `--all`"),
            ("train --fresh=1", "takes no value for `--fresh`"),
            ("doctor -- x", "takes nothing after `--`"),
        ] {
            let message = parsed(line).unwrap_err();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }

    #[test]
    fn help_names_every_command_and_option() {
        let text = parsed("").unwrap_err();
        for command in ALL {
            assert!(text.contains(command.about), "{}", command.name);
            let text = parsed(&format!("{} --help", command.name)).unwrap_err();
            for option in command.options {
                assert!(text.contains(&format!("--{}", option.name)));
            }
            assert!(text.lines().all(|line| line.len() <= 100), "{text}");
        }
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("train", "train"), 0);
    }
}
