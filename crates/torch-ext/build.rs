//! Compiles the C++ half of this crate against the libtorch that `torch-sys` found, and tells the
//! crates above where its libraries lie (`DEP_TORCH_EXT_LIB`).

use std::{
    env,
    path::{Path, PathBuf},
};

fn main() {
    let lib = PathBuf::from(
        env::var("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names the folder of libtorch"),
    );
    let include = lib.parent().expect("lib/ has a parent").join("include");
    println!("cargo:lib={}", lib.display());
    println!("cargo:rerun-if-changed=cpp");
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .warnings(false)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        // As libtorch itself: headers hold more in a build that debugs, such as asserts on fields that only
        // such a library sets.
        .define("NDEBUG", None)
        .define("USE_DISTRIBUTED", None)
        .define("USE_C10D_GLOO", None)
        .file("cpp/torch_ext.cc")
        .file("cpp/checkpoint.cc")
        .file("cpp/distributed.cc")
        .file("cpp/cuda.cc")
        .file("cpp/profiler.cc")
        .file("cpp/stream.cc")
        .file("cpp/transfers.cc");
    let with_cuda = env::var_os("CARGO_FEATURE_CUDA").is_some();
    if with_cuda {
        build.define("USE_C10D_NCCL", None).include("cpp/handles").includes(nvidia_includes(&lib));
    }
    build.compile("torch_ext");
    if with_cuda {
        // After the C++ that uses them: the linker drops libraries that nothing before them needs.
        for library in ["torch_cuda", "c10_cuda"] {
            println!("cargo:rustc-link-lib={library}");
        }
        // What those load in turn need not be here to link with them (`rpath.rs`).
        println!("cargo:link_arg=-Wl,--allow-shlib-undefined");
    }
}

/// Where the headers of CUDA and NCCL lie: beside libtorch, as Python wheels do; for the CPU's libtorch
/// in the folder that `cargo xtask ci` fetches beside it; or in `CUDA_HOME`.
fn nvidia_includes(lib: &Path) -> Vec<PathBuf> {
    println!("cargo:rerun-if-env-changed=CUDA_HOME");
    let mut folders = Vec::new();
    let lib = lib.canonicalize().expect("libtorch is there");
    let mut above = lib.ancestors().skip(2);
    let site = above.next().map(|site| site.join("nvidia"));
    let fetched = above.next().map(|cache| cache.join("cuda-headers-13.0/nvidia"));
    for wheels in [site, fetched].into_iter().flatten() {
        folders.extend(["cu13/include", "nccl/include"].map(|folder| wheels.join(folder)));
    }
    folders.extend(env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("include")));
    let system = ["/usr/include", "/usr/local/include"].map(PathBuf::from);
    for header in ["nccl.h", "cuda_runtime_api.h", "crt/host_defines.h", "nv/target"] {
        assert!(
            folders.iter().chain(&system).any(|folder| folder.join(header).exists()),
            "the feature `cuda` needs NVIDIA's header {header}, which is not beside libtorch: run \
             `cargo xtask setup --cuda`, or export CUDA_HOME"
        );
    }
    folders
}
