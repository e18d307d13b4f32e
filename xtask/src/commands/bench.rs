//! `bench`: how fast this machine does what training takes.

use super::train;
use crate::{
    args::{Args, CommandSpec, Value, nearest, option},
    checkout::Checkout,
    process::{self, fixable},
};

pub(crate) const COMMAND: CommandSpec = CommandSpec {
    name: "bench",
    about: "Measures how fast this machine trains",
    options: &[
        option(
            "recipe",
            Value::Text("NAME|PATH"),
            "measure the step of a recipe (default: ViT-S/16 with 65536\nprototypes, one clip, float32)",
        ),
        option("arch", Value::Text("ARCH"), "vit_tiny, vit_small or vit_base"),
        option(
            "precision",
            Value::Text("P"),
            "float32, bfloat16 (bf16), float16 (fp16), or auto: what suits the\ndevice",
        ),
        option("clips", Value::Count("N"), "clips in a batch"),
        option(
            "set",
            Value::Text("KEY=VALUE"),
            "change one value of the recipe; may be given several times",
        ),
        option(
            "compare",
            Value::Text("KEY=VALUE,..."),
            "measure a second setting, with these values changed, beside\nthe first: their steps take turns",
        ),
        option(
            "steps",
            Value::Count("N"),
            "steps to time (default: as many as half a minute takes, at least 3)",
        ),
        option("json", Value::Text("FILE"), "write the figures to a file, too"),
    ],
    operands: SUBJECTS[0],
    rest: "",
    notes: "`step` takes whole training steps on synthetic frames and compares them with the rate at\n\
            which the device multiplies matrices. docs/speed.md says what is counted.\n\n\
            examples:\n  \
              cargo xtask bench step\n  \
              cargo xtask bench step --compare train.precision=bfloat16",
    run,
};

/// What can be measured.
const SUBJECTS: &[&str] = &["step"];

fn run(checkout: &Checkout, args: &Args) -> anyhow::Result<()> {
    let words: Vec<_> = args.operands.iter().map(|word| word.to_string_lossy()).collect();
    let subject = subject(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
    let recipe =
        args.value("recipe").map(|name| train::resolve_recipe(checkout, name)).transpose()?;
    super::ensure(checkout)?;
    checkout.build()?;

    let mut bench = checkout.program("dora-train")?;
    bench.arg("bench").arg(subject);
    if let Some(recipe) = recipe {
        bench.arg("--recipe").arg(recipe);
    }
    let options = ["arch", "precision", "clips", "set", "compare", "steps", "json"];
    process::run(bench.args(args.forward(&options)))
}

/// The one thing to measure.
fn subject(words: &[&str]) -> anyhow::Result<&'static str> {
    let known = SUBJECTS.join(", ");
    let &[word] = words else {
        let given = words.len();
        return Err(fixable(format!(
            "`cargo xtask bench` measures one thing at a time, and {given} were given: name one of {known}"
        )));
    };
    SUBJECTS.iter().copied().find(|subject| *subject == word).ok_or_else(|| {
        let hint = nearest(word, SUBJECTS.iter().copied())
            .map(|subject| format!("did you mean `{subject}`?"))
            .unwrap_or_else(|| format!("name one of {known}"));
        fixable(format!("`cargo xtask bench` cannot measure `{word}`; {hint}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_known_subject_is_measured() {
        assert_eq!(subject(&["step"]).unwrap(), "step");
        for (words, expected) in [
            (&[][..], "0 were given: name one of step"),
            (&["step", "step"], "2 were given"),
            (&["stpe"], "did you mean `step`?"),
            (&["everything"], "cannot measure `everything`; name one of step"),
        ] {
            let message = subject(words).unwrap_err().to_string();
            assert!(message.contains(expected), "{words:?}: {message}");
        }
    }
}
