//! A command that does one of several things, each with options of its own.

use crate::{
    args::{Args, nearest},
    checkout::Checkout,
};

/// One of the things.
pub(super) struct Subject {
    pub(super) name: &'static str,
    /// Its options, beside those that all have.
    pub(super) options: &'static [&'static str],
    pub(super) run: fn(&Checkout, &Subject, &Args) -> anyhow::Result<()>,
}

impl Subject {
    /// The one of this name.
    ///
    /// # Errors
    /// What was probably meant; nothing where no name is like it.
    pub(super) fn find(all: &'static [Self], word: &str) -> Result<&'static Self, Option<String>> {
        all.iter().find(|subject| subject.name == word).ok_or_else(|| {
            let name = nearest(word, all.iter().map(|subject| subject.name));
            name.map(|name| format!("did you mean `{name}`?"))
        })
    }

    /// An option that was given and is another one's alone, after that one's name.
    pub(super) fn foreign_option(
        &self,
        all: &'static [Self],
        args: &Args,
    ) -> Option<(&'static str, &'static str)> {
        all.iter()
            .filter(|other| other.name != self.name)
            .flat_map(|other| other.options.iter().map(move |option| (other.name, *option)))
            .find(|(_, option)| args.has(option) && !self.options.contains(option))
    }
}
