//! The binary: commands, certificates, wiring and supervision. What the parts do is their crates' business.

mod cli;
mod control;
mod isolation;
mod kubeconfig;
mod paths;
mod pki;
mod process;

fn main() {}
