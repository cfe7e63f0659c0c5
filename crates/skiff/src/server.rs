//! The command `server`: where the node's process starts, and how an isolated one gets into its namespaces.

use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use skiff_store::slice;
use tracing_subscriber::EnvFilter;

use crate::cli::{NodeOptions, Target};
use crate::commands::{CommandError, server_arguments};
use crate::isolation;
use crate::leftovers;
use crate::machine::Ending;
use crate::node;
use crate::paths::{NodeFacts, Paths, named};
use crate::process::Process;
use crate::quiet;

/// More threads would only cost memory: the work is short and waits mostly.
const WORKER_THREADS: usize = 2;
/// After so many turns a thread looks for news of connections, however much there is to do: whoever asks for little should
/// not wait for all that was there before. A turn is up to four tasks, of which each wakes the next, and a look costs less
/// than any of them.
const TURNS_BETWEEN_NEWS: u32 = 3;

/// What to do when the API server's port is taken.
pub const API_PORT_ADVICE: &str = "end that one, or choose another port with --api-port";
/// How often a node looks for another link number when others start at the same time.
const LINK_ATTEMPTS: usize = 10;

/// Runs the server until it is told to end.
///
/// # Errors
/// A port is in use, a file cannot be read, or a part does not start.
pub fn run(target: &Target, options: &NodeOptions, inside: bool) -> Result<(), CommandError> {
    let paths = Paths::new(&target.data_dir, target.isolated.as_deref());
    paths.create()?;
    let facts = NodeFacts::load(&paths)?.ok_or("this node was never set up; start it with skiff up")?;
    if paths.isolated.is_some() && !inside {
        return enter(target, options, &paths, facts);
    }
    let hosts_listener = if inside && facts.join.is_none() { Some(isolation::inherited_listener()?) } else { None };
    if !inside {
        // A session of its own, so that the terminal's end is not the node's. It fails where there is one already.
        nix::unistd::setsid().map(drop).unwrap_or_default();
        let me = Process::of(std::process::id() as i32).ok_or("this process is not in /proc")?;
        me.write(&paths.server_pid())?;
    }
    let filter = EnvFilter::try_from_env("SKIFF_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // What cannot be written, as on a full disk, is lost: to tell of that where it cannot be told either would be a panic.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(io::stderr)
        .init();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // Its workers do, not the threads beside them that may compute for long.
    builder.on_thread_park(slice::shorten_once);
    let runtime = builder.worker_threads(WORKER_THREADS).event_interval(TURNS_BETWEEN_NEWS).enable_all().build()?;
    runtime.spawn(quiet::keep());
    let outcome = runtime.block_on(node::run(paths, facts, options.clone(), hosts_listener));
    // Blocking work that is still under way, such as a download, must not hold up the end.
    runtime.shutdown_background();
    match outcome? {
        Ending::Asked => Ok(()),
        Ending::Moved(_) => Err(again().into()),
    }
}

/// Starts the same program in this process once more; gives the error where that fails.
fn again() -> io::Error {
    let program = std::env::current_exe().ok().filter(|program| program.exists());
    // Where it was replaced meanwhile, the one that runs is still to be had.
    let program = program.unwrap_or_else(|| "/proc/self/exe".into());
    let error = Command::new(&program).args(std::env::args_os().skip(1)).exec();
    named(&program, "start again", error)
}

/// The isolated node's first stage: binds the host's port, makes the namespaces and the link, and starts the second
/// stage inside.
fn enter(target: &Target, options: &NodeOptions, paths: &Paths, facts: NodeFacts) -> Result<(), CommandError> {
    nix::unistd::setsid().map(drop).unwrap_or_default();
    let listener = match &facts.join {
        None => Some(bind(("127.0.0.1", facts.api_port), API_PORT_ADVICE)?),
        Some(_) => None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let keeper = match isolation::keeper_of(paths)? {
        Some(keeper) => keeper,
        None => {
            // With the last keeper all that it held is gone, or soon will be: the link, the run folder's mounts.
            runtime.block_on(isolation::remove_link(paths, &facts))?;
            leftovers::end_processes(paths)?;
            isolation::start_keeper(paths)?
        }
    };
    let mut arguments = server_arguments(target, options, &facts);
    runtime.block_on(link_up(target, paths, facts, keeper))?;
    drop(runtime);
    arguments.push("--inside".to_owned());
    let server = isolation::spawn_inside(keeper, listener, &arguments, paths)?;
    server.write(&paths.server_pid())?;
    Ok(())
}

/// Makes the node's link. Another node, of another data folder, may have taken its number meanwhile: then it gets a new
/// one, and with it new addresses.
async fn link_up(target: &Target, paths: &Paths, mut facts: NodeFacts, keeper: Process) -> io::Result<()> {
    for _ in 0..LINK_ATTEMPTS {
        match isolation::ensure_link(paths, keeper, &facts).await {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && facts.switch.is_none() => {
                facts.link = isolation::free_link(&target.data_dir)?;
                facts.save(paths)?;
            }
            done => return done,
        }
    }
    isolation::ensure_link(paths, keeper, &facts).await
}

/// A server that was killed a moment ago has its port until the kernel is done with it, so a taken one is tried again.
fn bind_soon(address: (&str, u16)) -> io::Result<TcpListener> {
    const TRIES: u32 = 25;
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 1..TRIES {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
    TcpListener::bind(address)
}

/// Binds a port, or says what to do about it: `advice` is for when another program has it.
///
/// # Errors
/// The port is in use, or cannot be had.
pub fn bind(address: (&str, u16), advice: &str) -> Result<TcpListener, CommandError> {
    bind_soon(address).map_err(|error| {
        let is_taken = error.kind() == io::ErrorKind::AddrInUse;
        let advice = if is_taken { format!("; another program uses it: {advice}") } else { String::new() };
        format!("listen on {}:{}: {error}{advice}", address.0, address.1).into()
    })
}
