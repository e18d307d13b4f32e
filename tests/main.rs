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

use tch::{Cuda, Device};

/// The device that reference tensors are compared on: `DORA_TEST_DEVICE` is `cpu` (as if not set) or `cuda`.
fn device() -> Device {
    match env::var("DORA_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::Cpu,
        Ok("cuda") => {
            assert!(has_cuda(), "DORA_TEST_DEVICE is cuda, but libtorch finds no CUDA device");
            Device::Cuda(0)
        }
        Ok(other) => panic!("DORA_TEST_DEVICE is `{other}`: give cpu or cuda"),
    }
}

/// Whether libtorch finds a GPU.
fn has_cuda() -> bool {
    torch_ext::load_cuda() && Cuda::is_available()
}

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
