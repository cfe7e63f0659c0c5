//! The binary: commands, certificates, wiring and supervision. What the parts do is their crates' business.

mod access;
mod agent;
mod answers;
mod audit;
mod certificates;
mod check;
mod cli;
mod cluster;
mod commands;
mod control;
mod datastore;
mod etcd;
mod extenders;
mod features;
mod foundations;
mod images;
mod ingress;
mod inprocess;
mod isolation;
mod join;
mod kubeconfig;
mod leftovers;
mod machine;
mod network;
mod node;
mod offices;
mod paths;
mod pki;
mod ports;
mod process;
mod quiet;
mod ranges;
mod relay;
mod runtime;
mod server;
mod server_keys;
mod settings;
mod sim_nodes;
mod snapshot;
mod worker;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: skiff_runtime::memory::Allocator = skiff_runtime::memory::Allocator;

fn main() -> ExitCode {
    if skiff_runtime::shim::is_invoked() {
        skiff_runtime::shim::main();
    }
    let command = Cli::parse().command;
    if matches!(command, Command::Server { .. } | Command::Agent { .. } | Command::SimNodes(_))
        && let Err(error) = settings::settle()
    {
        eprintln!("skiff: settings of libraries could not be made: {error}");
    }
    let outcome = match command {
        Command::Up { target, node } => commands::up(&target, &node),
        Command::Down(target) => commands::down(&target),
        Command::Delete(target) => commands::delete(&target),
        Command::Status { target, output } => commands::status(&target, output),
        Command::Kubeconfig(target) => commands::print_kubeconfig(&target),
        Command::Image { command } => commands::image(&command),
        Command::Snapshot { command } => snapshot::run(&command),
        Command::SimNodes(options) => sim_nodes::run(&options),
        Command::Check => commands::check(),
        Command::Logs { target, follow } => commands::logs(&target, follow),
        Command::Server { target, node, inside } => commands::serve(&target, &node, inside),
        Command::Agent { target, join, machine, inside } => commands::agent(&target, &join, &machine, inside),
        Command::Cluster { command } => cluster::run(&command),
        Command::Certificate { command } => commands::certificate(&command),
        Command::Token { command } => join::commands::run(&command),
        Command::KeeperParent { root } => isolation::keeper_parent(&root).map_err(Into::into),
        Command::Keeper { root } => isolation::keeper(&root).map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skiff: {error}");
            ExitCode::FAILURE
        }
    }
}
