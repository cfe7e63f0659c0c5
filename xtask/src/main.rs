//! Everything a contributor runs: `cargo xtask test`, `bench`, `facts`, `tidy`.

mod bench;
mod clients;
mod machine;
mod needs;
mod shell;
mod side_by_side;
mod test;
mod threats;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [LAYER | FILTER]   install what the tests need, run them, sum them up;
                                    layers: pure, seeds, node, clients, machine
cargo xtask test chaos [ROUNDS [SEED]]
                                    kill skiff, shims, containers and containerd at random while pods come
                                    and go: 200 rounds on each runtime unless ROUNDS says otherwise (the node
                                    layer plays 12 and 6), that follow from SEED (1)
cargo xtask test soak [MINUTES]     replace all pods again and again under load for ten minutes, or so many (the
                                    node layer does it for 25 s): no request fails
cargo xtask bench [NAME...]         measure; an unknown name is answered with those that there are
cargo xtask facts                   make the descriptions of the API anew, from the k8s-openapi crate
cargo xtask tidy                    format, lints, dependency edges, file sizes";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let rest: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some("test") => test::run(&rest),
        Some("bench") => bench::run(&rest),
        Some("facts") => facts(),
        Some("tidy") => tidy::run(),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The generator is a workspace of its own, because what it builds is needed for nothing else.
fn facts() -> Result<(), String> {
    let arguments =
        ["run", "--release", "--manifest-path", "xtask/facts/Cargo.toml", "--", "crates/kinds/data/descriptions.bin"];
    shell::run(&mut shell::cargo(&arguments))
}
