//! Every test of the workspace that needs libtorch or several crates, in one binary so that libtorch
//! is linked once.
#![allow(non_snake_case, clippy::unwrap_used)]

mod data;
mod distributed;
mod method;
mod model;
mod reference;
mod semantic;
mod train;

use std::{env, ffi::OsString};

/// A Python with this package and the other test tools, or nothing and a line that says why.
fn test_python(package: &str) -> Option<OsString> {
    let python = env::var_os("DORA_TEST_PYTHON");
    if python.is_none() {
        eprintln!(
            "skipped: DORA_TEST_PYTHON names no Python with {package}; `cargo xtask setup --test-tools` \
             and `cargo xtask test` see to it"
        );
    }
    python
}
