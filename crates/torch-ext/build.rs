//! Compiles the C++ half of this crate against the libtorch that `torch-sys` found, and tells the
//! crates above where its libraries lie (`DEP_TORCH_EXT_LIB`).

use std::{env, path::PathBuf};

fn main() {
    let lib = PathBuf::from(
        env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names the folder of libtorch"),
    );
    let include = lib.parent().expect("lib/ has a parent").join("include");
    println!("cargo:lib={}", lib.display());
    println!("cargo:rerun-if-changed=cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .warnings(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .define("USE_DISTRIBUTED", None)
        .define("USE_C10D_GLOO", None)
        .file("cpp/torch_ext.cc")
        .file("cpp/distributed.cc")
        .compile("torch_ext");
}
