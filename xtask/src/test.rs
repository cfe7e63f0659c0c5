//! `cargo xtask test`: every layer of tests, cheapest first, stopping at the first that fails.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::needs;
use crate::shell::{self, cargo, output};
use crate::side_by_side;

/// What was counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

/// Runs one layer, one test, or all.
///
/// # Errors
/// A test failed, or something could not be built or installed.
#[expect(clippy::disallowed_methods, reason = "whoever keeps the tests quick wants to see what took long")]
fn run_layers(layers: &[&str], filter: Option<&str>) -> Result<(), String> {
    needs::install()?;
    println!("kubectl: {}", needs::kubectl_version());
    let mut count = Count::default();
    for layer in layers {
        println!("== {layer} ==");
        let started = Instant::now();
        let outcome = match *layer {
            "pure" => pure(filter, &mut count),
            "seeds" => seeds(&mut count),
            "clients" => clients(filter, &mut count),
            "machine" => machine(&mut count),
            _ => node(filter, &mut count),
        };
        if let Err(error) = outcome {
            println!("{} passed, {} failed", count.passed, count.failed.max(1));
            return Err(format!("layer {layer} failed ({error}); the layers above it were not tried"));
        }
        println!("== {layer}: {} s ==", started.elapsed().as_secs());
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    Ok(())
}

/// As many seeds of the simulated control plane as issues ask for.
const SIMULATED_SEEDS: &str = "1000";

/// As many rounds of faults as issues ask for, on each runtime.
const CHAOS_ROUNDS: &str = "200";

/// As long as issues ask for that no request fails.
const SOAK_MINUTES: u64 = 10;

/// `cargo xtask test [LAYER | FILTER]`, `cargo xtask test chaos [ROUNDS [SEED]]`, `cargo xtask test soak [MINUTES]`.
///
/// # Errors
/// As [`run_layers`].
pub fn run(arguments: &[&str]) -> Result<(), String> {
    match arguments {
        [] => run_layers(&["pure", "seeds", "node", "clients"], None),
        ["chaos", numbers @ ..] => chaos(numbers),
        ["soak", minutes @ ..] => soak(minutes.first().copied()),
        [layer @ ("pure" | "seeds" | "node" | "clients" | "machine"), rest @ ..] => {
            run_layers(&[layer], rest.first().copied())
        }
        [filter, ..] => run_layers(&["pure", "node"], Some(filter)),
    }
}

/// Everything but whole nodes: decisions, codecs, and the parts that need root but no cluster.
fn pure(filter: Option<&str>, count: &mut Count) -> Result<(), String> {
    let mut tests = cargo(&["test", "--workspace", "--exclude", "skiff-e2e", "--exclude", "skiff-clients"]);
    tests.arg("--no-fail-fast");
    counted(tests.args(filter).env("PATH", needs::path()), count)
}

/// The simulated control plane on as many seeds as issues ask for, as the release has it: an unoptimized build takes many
/// times as long for each. The program's package is named as well, so that libraries are built with the features that it
/// has them with: the node layer needs the same ones, and few are built twice.
fn seeds(count: &mut Count) -> Result<(), String> {
    let mut tests = cargo(&["test", "--release", "--package", "skiff", "--package", "skiff-sim", "--test", "seeds"]);
    counted(tests.args(["--", "--nocapture"]).env("SKIFF_SIM_SEEDS", SIMULATED_SEEDS), count)
}

/// Whole nodes in isolation, driven by kubectl.
fn node(filter: Option<&str>, count: &mut Count) -> Result<(), String> {
    let binaries = build_binaries()?;
    whole_nodes("skiff-e2e", filter, &binaries, &[], count)
}

/// Many rounds of faults under churn. The rounds are told as they are played.
fn chaos(numbers: &[&str]) -> Result<(), String> {
    let rounds = numbers.first().copied().unwrap_or(CHAOS_ROUNDS);
    let seed = numbers.get(1).copied().unwrap_or("1");
    if let Some(wrong) = [rounds, seed].into_iter().find(|number| number.parse::<u64>().is_err()) {
        return Err(format!("{wrong:?} is no number: cargo xtask test chaos [ROUNDS [SEED]]"));
    }
    play("chaos", &[("SKIFF_CHAOS_ROUNDS", rounds), ("SKIFF_CHAOS_SEED", seed)])
}

/// Restarts under load for some minutes. What failed is told in the end.
fn soak(minutes: Option<&str>) -> Result<(), String> {
    let minutes = minutes.map_or(Ok(SOAK_MINUTES), str::parse::<u64>);
    let minutes = minutes.map_err(|_| "the minutes are no number: cargo xtask test soak [MINUTES]")?;
    play("soak", &[("SKIFF_SOAK_SECONDS", &(minutes * 60).to_string())])
}

/// Runs one file of tests of whole nodes with settings of its own, and shows what it says.
fn play(test: &str, settings: &[(&str, &str)]) -> Result<(), String> {
    needs::install()?;
    let binaries = build_binaries()?;
    let mut tests = cargo(&["test", "--package", "skiff-e2e", "--no-fail-fast", "--test", test, "--"]);
    tests.args(["--test-threads=1", "--nocapture"]).envs(settings.iter().copied());
    tests.env("SKIFF_BIN", &binaries.skiff).env("SKIFF_HELLO", &binaries.hello).env("PATH", needs::path());
    shell::run(&mut tests)
}

/// Programs of others, in their own languages, against whole nodes.
fn clients(filter: Option<&str>, count: &mut Count) -> Result<(), String> {
    let folder = crate::clients::build()?;
    let binaries = build_binaries()?;
    whole_nodes("skiff-clients", filter, &binaries, &[("SKIFF_CLIENTS", folder)], count)
}

/// The files of tests that take longest, longest first: so no lane is left with one of them in the end.
const LONGEST: [&str; 7] = ["faults", "autoscale", "conformance", "several", "go", "servers", "soak"];

/// Runs a package's tests of whole nodes: its programs side by side, each one's tests one after the other.
fn whole_nodes(
    package: &str,
    filter: Option<&str>,
    binaries: &Binaries,
    settings: &[(&str, PathBuf)],
    count: &mut Count,
) -> Result<(), String> {
    let mut programs = side_by_side::build(package)?;
    programs.sort_by_key(|program| LONGEST.iter().position(|long| *long == program.name).unwrap_or(LONGEST.len()));
    let prepare = |command: &mut Command| {
        command.args(["--test-threads=1"]).args(filter).envs(settings.iter().map(|(name, value)| (name, value)));
        command.env("SKIFF_BIN", &binaries.skiff).env("SKIFF_HELLO", &binaries.hello).env("PATH", needs::path());
    };
    let mut failed = Vec::new();
    side_by_side::run(programs, side_by_side::lanes(), prepare, |verdict| {
        println!("     Running {}", verdict.name);
        for line in &verdict.said {
            println!("{line}");
            add_up(line, count);
        }
        if !verdict.passed {
            failed.push(verdict.name);
        }
    })?;
    if failed.is_empty() { Ok(()) } else { Err(format!("in {}", failed.join(", "))) }
}

/// Nodes on a whole other computer, emulated.
fn machine(count: &mut Count) -> Result<(), String> {
    let outcome = crate::machine::check();
    match &outcome {
        Ok(scenarios) => count.passed += scenarios,
        Err(_) => count.failed += 1,
    }
    outcome.map(drop)
}

/// The programs that whole nodes are made of.
pub struct Binaries {
    /// The program under test, as it is shipped.
    pub skiff: PathBuf,
    /// The program inside the test images.
    pub hello: PathBuf,
}

/// Builds the release binaries.
///
/// # Errors
/// They do not build.
pub fn build_binaries() -> Result<Binaries, String> {
    Ok(Binaries { skiff: build_release("skiff", "skiff")?, hello: build_release("skiff-hello", "hello")? })
}

/// Builds the release binary of one package, alone, as `cargo build --release` builds skiff: neither takes up features of
/// libraries that only the other needs.
fn build_release(package: &str, binary: &str) -> Result<PathBuf, String> {
    let build = ["build", "--release", "--package", package];
    shell::run(&mut cargo(&build))?;
    let built = output(cargo(&build).args(["--message-format=json", "--quiet"]))?;
    built
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == binary)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| format!("cargo did not say where it put {binary}"))
}

/// Runs a test command, passing on what it prints and adding up its results.
fn counted(command: &mut Command, count: &mut Count) -> Result<(), String> {
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let stdout = child.stdout.take().ok_or("the test runner has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.map_err(|error| format!("read the test runner's output: {error}"))?;
        println!("{line}");
        add_up(&line, count);
    }
    let status = child.wait().map_err(|error| format!("{command:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}

/// Reads a line such as `test result: ok. 10 passed; 0 failed; ...`.
fn add_up(line: &str, count: &mut Count) {
    let Some(results) = line.strip_prefix("test result: ") else { return };
    let number = |word: &str| {
        let end = results.find(word)?;
        results[..end].trim_end().rsplit(' ').next()?.parse::<u64>().ok()
    };
    count.passed += number("passed").unwrap_or(0);
    count.failed += number("failed").unwrap_or(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_added_up() {
        let mut count = Count::default();
        add_up("test result: ok. 10 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out", &mut count);
        add_up("test result: FAILED. 2 passed; 3 failed; 0 ignored", &mut count);
        add_up("test x ... ok", &mut count);
        assert_eq!(count, Count { passed: 12, failed: 3 });
    }
}
