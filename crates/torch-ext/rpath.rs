//! Build script of every crate whose binaries or tests load libtorch: writes the folder of its
//! libraries into them, because link arguments reach only the crate that prints them. With the feature
//! `cuda` NVIDIA's libraries may be absent, so that a machine with their headers alone builds for others.

fn main() {
    let lib = std::env::var("DEP_TORCH_EXT_LIB").expect("torch-ext names the folder of libtorch");
    println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    if let Ok(argument) = std::env::var("DEP_TORCH_EXT_LINK_ARG") {
        println!("cargo:rustc-link-arg={argument}");
    }
}
