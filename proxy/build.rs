//! Links the program with packed relative relocations.
//!
//! Half a mebibyte of relocation table would otherwise be read at every start, and stay resident in every sidecar.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs,--icf=all");
}
