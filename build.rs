//! How the static collector is laid out. GNU ld and lld can do it.

use std::env::var;

fn main() {
    println!("cargo:rerun-if-changed=layout.ld");
    if var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl")
        && let Ok(here) = var("CARGO_MANIFEST_DIR")
    {
        println!("cargo:rustc-link-arg-bin=pap-collector=-T{here}/layout.ld");
    }
}
