//! `dora-eval`'s commands as users start them: figures, files, and what is said of wrong input.
#![allow(non_snake_case, clippy::unwrap_used)]

mod classify;
mod davis;
mod discovery;
mod semantic;
mod visualize;
mod weights;
mod workbench;
