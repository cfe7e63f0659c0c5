//! The runtime with real containers: needs root, and `busybox-static` for the image that it makes up.
//! It has a main of its own, since the shims are started from this very program.

mod world;

mod faults;
mod features;
mod inside;
mod lifecycle;
mod speed;
mod streams;
mod survival;

use std::process::ExitCode;

type Test = (&'static str, fn() -> futures_util::future::BoxFuture<'static, ()>);

fn main() -> ExitCode {
    if skiff_runtime::shim::is_invoked() {
        skiff_runtime::shim::main();
    }
    // What is mounted here, nobody else shall see, and it shall not outlive this program.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).expect("root may have a mount namespace");
    let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_SLAVE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("mounts can be kept from others");
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|argument| !argument.starts_with('-')).cloned().unwrap_or_default();
    let all: Vec<Test> =
        [lifecycle::TESTS, inside::TESTS, features::TESTS, streams::TESTS, survival::TESTS, faults::TESTS].concat();
    let all_count = all.len();
    let chosen: Vec<Test> = match filter.as_str() {
        "speed" => speed::TESTS.to_vec(),
        part => all.into_iter().filter(|(name, _)| name.contains(part)).collect(),
    };
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let mut failed = Vec::new();
    for (name, test) in &chosen {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let outcome = runtime.block_on(async { tokio::spawn(test()).await });
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        if outcome.is_err() {
            failed.push(*name);
        }
    }
    let result = if failed.is_empty() { "ok" } else { "FAILED" };
    let (passed, filtered) = (chosen.len() - failed.len(), all_count.saturating_sub(chosen.len()));
    println!(
        "\ntest result: {result}. {passed} passed; {} failed; 0 ignored; 0 measured; {filtered} filtered out\n",
        failed.len()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
