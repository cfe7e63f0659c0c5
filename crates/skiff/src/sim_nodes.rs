//! `skiff sim-nodes`: the nodes are `skiff_simnodes`'s; here they get their connections and say how far they are.

use std::sync::Arc;
use std::time::Duration;

use skiff_base::SystemClock;
use skiff_client::{Client, Login};
use skiff_simnodes::{Config, SimNodes};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::cli::SimNodesOptions;
use crate::commands::CommandError;
use crate::kubeconfig;

use crate::worker::KUBERNETES_VERSION;

/// How often it is looked whether there is something new to say.
const REPORT: Duration = Duration::from_secs(2);

/// Runs the nodes until told to end.
///
/// # Errors
/// The kubeconfig cannot be used, or the nodes cannot be as they are wanted.
pub fn run(options: &SimNodesOptions) -> Result<(), CommandError> {
    let filter = EnvFilter::try_from_env("SKIFF_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .init();
    let file = options.kubeconfig.clone().or_else(kubeconfig::users_file).ok_or("which cluster? give --kubeconfig")?;
    let login = Login::read(&file)?;
    let config = config(options);
    config.check()?;
    // One thread: the work is the API server's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connection = |_| Ok(Client::new(Arc::new(login.connection()?), "skiff-sim-nodes"));
        let clients = (0..options.connections).map(connection).collect::<Result<Vec<_>, CommandError>>()?;
        let nodes = SimNodes::start(config, clients, SystemClock::shared())?;
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = report(&nodes) => {}
        }
        Ok(())
    })
}

async fn report(nodes: &SimNodes) {
    let mut last = None;
    loop {
        let counts = nodes.counts();
        if last.replace(counts) != Some(counts) {
            println!("{} nodes registered, {} pods, {} of them running", counts.nodes, counts.pods, counts.running);
        }
        tokio::time::sleep(REPORT).await;
    }
}

fn config(options: &SimNodesOptions) -> Config {
    let mut config = Config {
        nodes: options.nodes,
        prefix: options.prefix.clone(),
        zones: options.zones.clone(),
        labels: options.label.iter().cloned().collect(),
        taints: options.taint.clone(),
        pods: options.pods,
        network: options.pod_cidr,
        start_delay: options.start_delay,
        stop_delay: options.stop_delay,
        in_flight: options.in_flight.into(),
        version: KUBERNETES_VERSION.to_owned(),
        ..Config::default()
    };
    config.capacity.extend(options.capacity.iter().cloned());
    config
}
