//! What a comparison is to do, read from the command line and checked.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use super::judge::{PROTOCOLS, RANDOM, Task};
use crate::{args::Args, checkout::Checkout, commands::train, process::fixable};

const DEFAULT_RECIPE: &str = "small_footage";

/// The paper's method in both of its forms, and its baseline.
const DEFAULT_VARIANTS: [&str; 3] = [
    "dora:method.loss=mean,tracker.threshold=sample",
    "dora-released:method.loss=released,tracker.threshold=batch",
    "dino:method.name=dino,views.views=2",
];

/// A comparison.
pub(super) struct Plan {
    pub(super) recipe: PathBuf,
    pub(super) variants: Vec<Variant>,
    pub(super) seeds: Vec<u64>,
    pub(super) tasks: Vec<Task>,
    /// Runs that train side by side.
    pub(super) at_once: usize,
    /// Where everything goes.
    pub(super) out: PathBuf,
}

/// What differs from the recipe, under a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) overrides: Vec<String>,
}

/// A variant trained with a seed.
pub(super) struct Run<'a> {
    pub(super) variant: &'a Variant,
    pub(super) seed: u64,
    pub(super) dir: PathBuf,
}

impl Plan {
    /// # Errors
    /// A word is not what it should be, or there is nothing to judge by.
    pub(super) fn read(checkout: &Checkout, args: &Args) -> anyhow::Result<Self> {
        let recipe = args.value("recipe").unwrap_or(OsStr::new(DEFAULT_RECIPE));
        let recipe = train::resolve_recipe(checkout, recipe)?;
        let words: Vec<_> = args.values("variant").map(OsStr::to_string_lossy).collect();
        let variants = if words.is_empty() {
            variants(&DEFAULT_VARIANTS)?
        } else {
            variants(&words.iter().map(AsRef::as_ref).collect::<Vec<_>>())?
        };
        let seeds = seeds(&args.value("seeds").unwrap_or(OsStr::new("0,1")).to_string_lossy())?;
        let tasks = PROTOCOLS.iter().filter_map(|protocol| Task::read(protocol, checkout, args));
        let tasks = tasks.collect::<anyhow::Result<Vec<_>>>()?;
        if tasks.is_empty() {
            return Err(fixable(
                "`cargo xtask compare` has nothing to judge by: give the folder of at least one of \
                 --davis, --semantic and --knn",
            ));
        }
        let at_once = match args.value("jobs").map(|text| text.to_string_lossy().parse()) {
            None => 1,
            Some(Ok(jobs @ 1..)) => jobs,
            Some(_) => return Err(fixable("`--jobs` is the number of runs at a time, at least 1")),
        };
        let out = args.value("out").map_or_else(
            || {
                let stem = recipe.file_stem().unwrap_or_default();
                checkout.path(Path::new("data/compare").join(stem))
            },
            PathBuf::from,
        );
        Ok(Self { recipe, variants, seeds, tasks, at_once, out })
    }

    /// Every variant with every seed; all variants of a seed come before the next seed.
    pub(super) fn runs(&self) -> Vec<Run<'_>> {
        let run = |variant, seed| Run::new(variant, seed, &self.out);
        let of_seed = |&seed| self.variants.iter().map(move |variant| run(variant, seed));
        self.seeds.iter().flat_map(of_seed).collect()
    }
}

impl<'a> Run<'a> {
    fn new(variant: &'a Variant, seed: u64, out: &Path) -> Self {
        let dir = out.join("runs").join(format!("{}-seed-{seed}", variant.name));
        Self { variant, seed, dir }
    }

    pub(super) fn name(&self) -> String {
        format!("{} seed {}", self.variant.name, self.seed)
    }
}

fn variants(words: &[&str]) -> anyhow::Result<Vec<Variant>> {
    let variants: Vec<Variant> =
        words.iter().map(|word| variant(word)).collect::<anyhow::Result<_>>()?;
    let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
    match repeated(&names) {
        Some(name) => {
            Err(fixable(format!("two variants are called `{name}`; give each a name of its own")))
        }
        None => Ok(variants),
    }
}

/// `NAME` or `NAME:KEY=VALUE,KEY=VALUE`.
fn variant(word: &str) -> anyhow::Result<Variant> {
    let (name, overrides) = word.split_once(':').unwrap_or((word, ""));
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let overrides: Vec<String> =
        overrides.split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if name == RANDOM.replace(' ', "-") {
        return Err(fixable(format!(
            "`{name}` is the row of untrained weights; give the variant another name"
        )));
    }
    if name.is_empty() || !name.chars().all(is_name) || overrides.iter().any(|o| !o.contains('=')) {
        return Err(fixable(format!(
            "`{word}` is no variant; write NAME:KEY=VALUE,KEY=VALUE, such as \
             dino:method.name=dino,views.views=2"
        )));
    }
    Ok(Variant { name: name.to_owned(), overrides })
}

fn seeds(text: &str) -> anyhow::Result<Vec<u64>> {
    let seeds: Result<Vec<u64>, _> = text.split(',').map(str::parse).collect();
    let wrong = |_| fixable(format!("`{text}` are no seeds; write whole numbers, such as 0,1"));
    let seeds = seeds.map_err(wrong)?;
    match repeated(&seeds) {
        Some(seed) => Err(fixable(format!("the seed {seed} stands twice in `{text}`"))),
        None => Ok(seeds),
    }
}

/// The first that stands twice.
fn repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    let stands_before = |(index, item): &(usize, &T)| items[..*index].contains(item);
    items.iter().enumerate().find(stands_before).map(|(_, item)| item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_is_a_name_and_what_differs() {
        let dino = variant("dino:method.name=dino,views.views=2").unwrap();
        assert_eq!(dino.name, "dino");
        assert_eq!(dino.overrides, ["method.name=dino", "views.views=2"]);
        assert_eq!(variant("plain").unwrap().overrides, Vec::<String>::new());
        for word in ["", ":a=b", "a/b", "x:novalue", "random-initialisation"] {
            assert!(variant(word).is_err(), "{word}");
        }
        assert!(variants(&["a", "b", "a:x=1"]).is_err());
    }

    #[test]
    fn seeds_are_numbers_that_differ() {
        assert_eq!(seeds("0,12").unwrap(), [0, 12]);
        for text in ["a", "", "1,", "1,2,1"] {
            assert!(seeds(text).is_err(), "{text}");
        }
    }
}
