//! What the commands do, seen from outside the server: starting it, ending it, asking it.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use skiff_base::SystemClock;

use crate::check;
use crate::cli::{
    CertificateCommand, Foundation, ImageCommand, JoinOptions, MachineOptions, NodeOptions, Output, Target,
    WayBetweenNodes,
};
use crate::cluster;
use crate::control::{self, ControlError};
use crate::datastore;
use crate::features;
use crate::isolation;
use crate::join::token::Token;
use crate::kubeconfig;
use crate::leftovers;
use crate::paths::{DEFAULT_NODE_MASK, DEFAULT_NODE_MASK_IPV6, Join, NodeFacts, Paths, named, remove_file};
use crate::pki::{self, Authority};
use crate::process::{Process, descendants};
use crate::ranges::{self, NodeMasks, Ranges};
use crate::server;

/// The port of the API server unless another is asked for.
const API_PORT: u16 = 6443;
/// How often a starting server's socket is looked for.
const START_POLL: Duration = Duration::from_millis(5);
/// A server that no longer answers because it was killed is gone after this time, or is not dying.
const DYING_LIMIT: Duration = Duration::from_secs(5);
/// A stopping server and its containers have this long: the grace of a Pod and a little more.
const STOP_LIMIT: Duration = Duration::from_secs(60);

const SECONDS_OF_DAY: i64 = 24 * 3600;

/// Why a command failed, for people.
pub type CommandError = Box<dyn std::error::Error + Send + Sync>;
type Outcome<T = ()> = Result<T, CommandError>;

fn paths(target: &Target) -> Paths {
    Paths::new(&target.data_dir, target.isolated.as_deref())
}

/// The name of the node's kubeconfig context.
pub fn context_name(paths: &Paths) -> String {
    paths.isolated.as_ref().map_or_else(|| "skiff".to_owned(), |name| format!("skiff-{name}"))
}

/// `skiff up`.
///
/// # Errors
/// The machine lacks something, or the server did not start.
pub fn up(target: &Target, options: &NodeOptions) -> Outcome {
    let findings = check::judge(&check::Machine::observe(&target.data_dir));
    if let Some(obstacle) = check::obstacle(&findings).filter(|_| !options.disable_agent) {
        return Err(format!("this machine cannot run a node:\n{obstacle}").into());
    }
    let paths = paths(target);
    paths.create()?;
    let facts = decide_facts(&paths, target, options, &JoinOptions::default())?;
    let status = ensure_ready(&paths, target, options, &facts, Duration::from_secs(options.wait))?;
    if paths.isolated.is_none()
        && facts.join.is_none()
        && let Some(file) = kubeconfig::users_file()
    {
        let text = fs::read_to_string(paths.kubeconfig())?;
        let config: Value = serde_saphyr::from_str(&text)?;
        kubeconfig::merge_into(&file, &config)?;
    }
    print_next_steps(&paths, &facts, &status)
}

/// What the node decided at its first start, or decides now.
///
/// # Errors
/// The options contradict what was decided, or say too little.
pub fn decide_facts(paths: &Paths, target: &Target, options: &NodeOptions, join: &JoinOptions) -> Outcome<NodeFacts> {
    let datastore = datastore::chosen(&options.datastore)?;
    let servers = join.server.iter().map(|url| server_address(url)).collect::<Result<Vec<_>, _>>()?;
    if let Some(mut facts) = NodeFacts::load(paths)? {
        facts.api_port = options.api_port.unwrap_or(facts.api_port);
        ranges::check_kept(&facts.ranges(), facts.node_masks(), options)?;
        ranges::check_balancing(&facts.ranges(), &options.balancing)?;
        facts.datastore = datastore::settle(facts.datastore.take(), datastore, paths)?;
        facts.join = rejoin(facts.join.take(), servers, join)?;
        facts.save(paths)?;
        return Ok(facts);
    }
    let node_name = match (&options.machine.node_name, &paths.isolated) {
        (Some(name), _) | (None, Some(name)) => name.clone(),
        (None, None) => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
    };
    let (api_port, link) = match &paths.isolated {
        Some(_) => (options.api_port.map_or_else(free_port, Ok)?, isolation::free_link(&target.data_dir)?),
        None => (options.api_port.unwrap_or(API_PORT), 0),
    };
    let masks = NodeMasks {
        v4: options.node_cidr_mask_size.unwrap_or(DEFAULT_NODE_MASK),
        v6: options.node_cidr_mask_size_ipv6.unwrap_or(DEFAULT_NODE_MASK_IPV6),
    };
    let chosen = Ranges::chosen(&options.ranges.cluster_cidr, &options.ranges.service_cidr)?;
    masks.check(&chosen)?;
    ranges::check_balancing(&chosen, &options.balancing)?;
    // An agent learns them from its cluster.
    let ranges = servers.is_empty().then_some(chosen);
    let join = (!servers.is_empty()).then(|| Join { servers, token: join.token.clone() });
    let (node_mask, node_mask_ipv6) = (masks.v4, masks.v6);
    let facts =
        NodeFacts { api_port, link, node_mask, node_mask_ipv6, ranges, datastore, join, ..NodeFacts::new(node_name) };
    facts.save(paths)?;
    Ok(facts)
}

/// The cluster of an agent that was started before: other servers of the same cluster may be named.
fn rejoin(kept: Option<Join>, servers: Vec<String>, asked: &JoinOptions) -> Outcome<Option<Join>> {
    let Some(mut kept) = kept else {
        if servers.is_empty() {
            return Ok(None);
        }
        return Err("this node has a cluster of its own: end that first (skiff delete)".into());
    };
    if !servers.is_empty() {
        kept.servers = servers;
    }
    kept.token = asked.token.clone().or(kept.token);
    Ok(Some(kept))
}

/// `host:port` of `https://HOST[:PORT]`.
fn server_address(url: &str) -> Outcome<String> {
    let refused = || format!("{url:?} is no server such as https://10.0.0.1:6443");
    let uri: http::Uri = url.parse().map_err(|_| refused())?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https") && uri.path() == "/").ok_or_else(refused)?;
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(API_PORT)))
}

/// `skiff agent`: sets the node up, then runs it in the foreground.
///
/// # Errors
/// The machine lacks something, no server is named, or the cluster does not take the node.
pub fn agent(target: &Target, join: &JoinOptions, machine: &MachineOptions, inside: bool) -> Outcome {
    let options = NodeOptions::of_machine(machine.clone());
    if !inside {
        let paths = paths(target);
        if NodeFacts::load(&paths)?.is_none() && (join.server.is_empty() || join.token.is_none()) {
            return Err("an agent needs --server https://HOST:6443 and --token at its first start".into());
        }
        prepare(target, &options, join)?;
    }
    server::run(target, &options, inside)
}

/// `skiff server`: sets the node up unless it is, then runs it in the foreground.
///
/// # Errors
/// The machine lacks something, or a part does not start.
pub fn serve(target: &Target, options: &NodeOptions, inside: bool) -> Outcome {
    if !inside {
        match NodeFacts::load(&paths(target))? {
            Some(facts) => ranges::check_kept(&facts.ranges(), facts.node_masks(), options)?,
            None => prepare(target, options, &JoinOptions::default())?,
        }
    }
    server::run(target, options, inside)
}

/// Looks at the machine and decides what the node keeps.
fn prepare(target: &Target, options: &NodeOptions, join: &JoinOptions) -> Outcome {
    let findings = check::judge(&check::Machine::observe(&target.data_dir));
    if let Some(obstacle) = check::obstacle(&findings).filter(|_| !options.disable_agent) {
        return Err(format!("this machine cannot run a node:\n{obstacle}").into());
    }
    features::kinds(options)?;
    let paths = paths(target);
    paths.create()?;
    // A token is checked before anything is kept.
    if let Some(token) = &join.token {
        token.parse::<Token>()?;
    }
    decide_facts(&paths, target, options, join)?;
    leftovers::claim_machine(&paths)
}

pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The arguments that start the same node with the same options.
pub fn server_arguments(target: &Target, options: &NodeOptions, facts: &NodeFacts) -> Vec<String> {
    let command = if facts.join.is_some() { "agent" } else { "server" };
    let mut arguments = vec![command.to_owned(), "--data-dir".to_owned(), target.data_dir.display().to_string()];
    if let Some(name) = &target.isolated {
        arguments.extend(["--isolated".to_owned(), name.clone()]);
    }
    arguments.extend(machine_arguments(&options.machine));
    if facts.join.is_some() {
        return arguments;
    }
    let mut flag = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    for (name, path) in [
        ("--scheduler-config", &options.scheduler_config),
        ("--admission-control-config-file", &options.admission.admission_control_config_file),
        ("--audit-policy-file", &options.audit.audit_policy_file),
        ("--audit-webhook-config-file", &options.audit.audit_webhook_config_file),
    ] {
        if let Some(path) = path {
            flag(name, whole(path));
        }
    }
    if let Some(path) = &options.audit.audit_log_path {
        // A dash is no file.
        flag("--audit-log-path", if path == Path::new("-") { "-".to_owned() } else { whole(path) });
        flag("--audit-log-maxage", options.audit.audit_log_maxage.to_string());
        flag("--audit-log-maxbackup", options.audit.audit_log_maxbackup.to_string());
        flag("--audit-log-maxsize", options.audit.audit_log_maxsize.to_string());
    }
    let (on, off) = (&options.admission.enable_admission_plugins, &options.admission.disable_admission_plugins);
    on.iter().for_each(|name| flag("--enable-admission-plugins", name.clone()));
    off.iter().for_each(|name| flag("--disable-admission-plugins", name.clone()));
    options.tls_san.iter().for_each(|name| flag("--tls-san", name.clone()));
    options.balancing.load_balancer_range.iter().for_each(|range| flag("--load-balancer-range", range.clone()));
    options.runtime_config.iter().for_each(|version| flag("--runtime-config", version.clone()));
    arguments.extend(options.access.arguments());
    if options.disable_agent {
        arguments.push("--disable-agent".to_owned());
    }
    if options.disable_gateway_api {
        arguments.push("--disable-gateway-api".to_owned());
    }
    arguments
}

/// The server may stand in another folder, so paths are whole.
fn whole(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn machine_arguments(options: &MachineOptions) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut flag = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    if let Some(name) = &options.node_name {
        flag("--node-name", name.clone());
    }
    options.node_ip.iter().for_each(|ip| flag("--node-ip", ip.to_string()));
    for (name, path) in [
        ("--kubelet-config", &options.kubelet_config),
        ("--cni-conf-dir", &options.cni_conf_dir),
        ("--image-credential-provider-config", &options.image_credential_provider_config),
        ("--image-credential-provider-bin-dir", &options.image_credential_provider_bin_dir),
        ("--pod-manifest-path", &options.pod_manifest_path),
        ("--private-registry", &options.private_registry),
    ] {
        if let Some(path) = path {
            flag(name, whole(path));
        }
    }
    options.cni_bin_dir.iter().for_each(|folder| flag("--cni-bin-dir", whole(folder)));
    options.insecure_registry.iter().for_each(|host| flag("--insecure-registry", host.clone()));
    options.feature_gates.iter().for_each(|(name, value)| flag("--feature-gates", format!("{name}={value}")));
    if options.overlay == WayBetweenNodes::Vxlan {
        flag("--overlay", "vxlan".to_owned());
    }
    if let Some(endpoint) = &options.container_runtime_endpoint {
        flag("--container-runtime-endpoint", endpoint.clone());
    }
    arguments
}

/// Starts the server unless it runs, and waits until the node is ready.
///
/// # Errors
/// The server does not start, or the node is not ready in time.
pub(crate) fn ensure_ready(
    paths: &Paths,
    target: &Target,
    options: &NodeOptions,
    facts: &NodeFacts,
    limit: Duration,
) -> Outcome<Value> {
    let log_start = fs::metadata(paths.log()).map_or(0, |log| log.len());
    if let Some(server) = Process::read(&paths.server_pid())? {
        match wait_ready(paths, limit, log_start) {
            // It was killed a moment ago: its sockets go before it does.
            Err(_) if server.wait_gone(DYING_LIMIT) => {}
            outcome => return outcome,
        }
    }
    leftovers::claim_machine(paths)?;
    start_server(paths, target, options, facts)?;
    wait_ready(paths, limit, log_start)
}

fn start_server(paths: &Paths, target: &Target, options: &NodeOptions, facts: &NodeFacts) -> Outcome {
    let mut log = File::options().create(true).append(true).read(true).open(paths.log())?;
    let from = log.seek(SeekFrom::End(0))?;
    // A socket of the last run would be taken for this one's.
    remove_file(&paths.control_socket())?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(server_arguments(target, options, facts))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .spawn()?;
    loop {
        if paths.control_socket().exists() {
            return Ok(());
        }
        // An isolated node's first process ends well once the real one runs inside.
        let ended = child.try_wait()?.filter(|status| !status.success());
        let gone =
            paths.isolated.is_some() && child.try_wait()?.is_some() && Process::read(&paths.server_pid())?.is_none();
        if ended.is_some() || (gone && !paths.control_socket().exists()) {
            return Err(last_words(&mut log, from, paths)?.into());
        }
        std::thread::sleep(START_POLL);
    }
}

/// What the server said before it ended.
fn last_words(log: &mut File, from: u64, paths: &Paths) -> io::Result<String> {
    let mut said = String::new();
    log.seek(SeekFrom::Start(from))?;
    log.read_to_string(&mut said)?;
    let errors: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("skiff: ")).collect();
    if errors.is_empty() {
        return Ok(format!("the server ended; {} says more", paths.log().display()));
    }
    Ok(errors.join("\n"))
}

/// Waits for the node; a server that ends meanwhile is quoted from where its log began.
fn wait_ready(paths: &Paths, limit: Duration, log_start: u64) -> Outcome<Value> {
    let runtime = small_runtime()?;
    runtime.block_on(async {
        let socket = paths.control_socket();
        let body = json!({ "limit_seconds": limit.as_secs() });
        loop {
            match control::call(&socket, Method::GET, "/ready", &body).await {
                Err(ControlError::NotRunning(_)) if Process::read(&paths.server_pid())?.is_some() => {
                    tokio::time::sleep(START_POLL).await;
                }
                Err(ControlError::NotRunning(_) | ControlError::Broken(_)) => {
                    let mut log = File::open(paths.log())?;
                    return Err(last_words(&mut log, log_start, paths)?.into());
                }
                answer => return Ok(answer?),
            }
        }
    })
}

/// A runtime for one command.
pub(crate) fn small_runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Asks the running server.
pub(crate) fn ask(paths: &Paths, method: Method, command: &str, body: &Value) -> Outcome<Value> {
    Ok(small_runtime()?.block_on(control::call(&paths.control_socket(), method, command, body))?)
}

fn print_next_steps(paths: &Paths, facts: &NodeFacts, status: &Value) -> Outcome {
    let mut out = io::stdout().lock();
    let version = status["version"].as_str().unwrap_or("unknown version");
    if status["agent"] == false {
        writeln!(out, "The control plane is up ({version}); this machine is no node of it.")?;
    } else {
        writeln!(out, "Node {} is Ready ({version}).", facts.node_name)?;
    }
    if let Some(join) = &facts.join {
        writeln!(out, "It belongs to the cluster of {}.", join.servers.join(", "))?;
        return Ok(());
    }
    match &paths.isolated {
        None => {
            writeln!(out, "kubectl uses the context \"skiff\" from now on. Try:")?;
            writeln!(out, "  kubectl get nodes")?;
            writeln!(out, "  kubectl create deployment hello --image=IMAGE")?;
            writeln!(out, "  skiff status")?;
        }
        Some(name) => {
            writeln!(out, "It is kept apart from this machine's network. Try:")?;
            writeln!(out, "  export KUBECONFIG={}", paths.kubeconfig().display())?;
            writeln!(out, "  kubectl get nodes")?;
            writeln!(out, "  skiff status --isolated {name}")?;
        }
    }
    Ok(())
}

/// `skiff down`.
///
/// # Errors
/// Something does not stop.
pub fn down(target: &Target) -> Outcome {
    let paths = paths(target);
    if !stop(&paths)? {
        println!("skiff is not running");
    }
    Ok(())
}

/// Ends the server, and containers with it; says whether it ran.
pub(crate) fn end_server(paths: &Paths) -> Outcome<bool> {
    let Some(server) = Process::read(&paths.server_pid())? else { return Ok(false) };
    match ask(paths, Method::POST, "/down", &Value::Null) {
        Ok(_) => {}
        Err(error) => {
            eprintln!("skiff: {error}; ending it by signal");
            server.signal(Signal::SIGTERM)?;
        }
    }
    if !server.wait_gone(STOP_LIMIT) {
        server.signal(Signal::SIGKILL)?;
        server.wait_gone(STOP_LIMIT);
    }
    Ok(true)
}

/// Stops server and containers; says whether anything ran.
pub(crate) fn stop(paths: &Paths) -> Outcome<bool> {
    let mut ran = end_server(paths)?;
    if let Some(keeper) = Process::read(&paths.keeper_pid())? {
        ran = true;
        keeper.signal(Signal::SIGKILL)?;
        if !keeper.wait_gone(STOP_LIMIT) {
            return Err(format!("process {} does not end", keeper.pid).into());
        }
    }
    ran |= leftovers::end_processes(paths)?;
    if let Some(facts) = NodeFacts::load(paths)?.filter(|facts| facts.link > 0) {
        small_runtime()?.block_on(isolation::remove_link(paths, &facts))?;
    }
    Ok(ran)
}

/// `skiff delete`.
///
/// # Errors
/// Something does not stop or cannot be removed.
pub fn delete(target: &Target) -> Outcome {
    let paths = paths(target);
    remove(&paths)?;
    if let (None, Some(file)) = (&paths.isolated, kubeconfig::users_file()) {
        kubeconfig::remove_from(&file, &context_name(&paths))?;
    }
    Ok(())
}

/// Stops a node and removes all of it.
pub(crate) fn remove(paths: &Paths) -> Outcome {
    stop(paths)?;
    leftovers::remove_everything(paths)?;
    Ok(leftovers::remove_folder(&paths.root)?)
}

/// `skiff status`.
///
/// # Errors
/// The server answers nonsense, or the output is closed.
pub fn status(target: &Target, output: Output) -> Outcome {
    let paths = paths(target);
    let status = observe_status(&paths)?;
    let mut out = io::stdout().lock();
    if output == Output::Json {
        writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?;
    } else {
        write!(out, "{}", render_status(&status))?;
    }
    if status["ready"] == true { Ok(()) } else { Err("the node is not Ready".into()) }
}

fn observe_status(paths: &Paths) -> Outcome<Value> {
    let Some(server) = Process::read(&paths.server_pid())? else {
        return Ok(json!({"running": false, "ready": false, "processes": [], "memory_bytes": 0}));
    };
    let mut status = ask(paths, Method::GET, "/status", &Value::Null)?;
    let roots = [Some(server), Process::read(&paths.keeper_pid())?];
    let mut pids: Vec<i32> = roots.iter().flatten().flat_map(|root| descendants(root.pid)).collect();
    let shims = skiff_runtime::leftovers::shim_pids(&paths.runtime(), &paths.volatile());
    pids.extend(&shims);
    pids.sort_unstable();
    pids.dedup();
    let mut processes = Vec::new();
    for process in pids.into_iter().filter_map(Process::of) {
        let executable = fs::read_link(format!("/proc/{}/exe", process.pid)).unwrap_or_default();
        // Containers' own processes are the user's, not the node's. Shims run from a view of the program without a name.
        let is_ours = shims.contains(&process.pid) || executable.file_name() == std::env::current_exe()?.file_name();
        if !is_ours {
            continue;
        }
        let command = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        let role = role_of(&command);
        processes.push(json!({"pid": process.pid, "role": role, "memory_bytes": process.pss_bytes().unwrap_or(0)}));
    }
    let total: u64 = processes.iter().filter_map(|process| process["memory_bytes"].as_u64()).sum();
    status["running"] = true.into();
    status["ports"] = cluster::ports_of(paths)?.into();
    status["processes"] = processes.into();
    status["memory_bytes"] = total.into();
    Ok(status)
}

fn role_of(command_line: &[u8]) -> &'static str {
    let words: Vec<_> = command_line.split(|byte| *byte == 0).collect();
    let has = |word: &str| words.iter().any(|other| other.ends_with(word.as_bytes()));
    if has("keeper") {
        "keeper"
    } else if has("server") {
        "server"
    } else if words.iter().any(|word| *word == b"agent") {
        "agent"
    } else {
        "shim"
    }
}

fn render_status(status: &Value) -> String {
    if status["running"] != true {
        return "skiff is not running\n".to_owned();
    }
    let text = |field: &str| status[field].as_str().unwrap_or("-").to_owned();
    let mut lines = vec![
        format!("Node:     {} ({})", text("node"), if status["ready"] == true { "Ready" } else { "NotReady" }),
        format!("Version:  {}", text("version")),
        format!("API:      {}", text("api")),
        format!("Memory:   {:.1} MiB", status["memory_bytes"].as_f64().unwrap_or(0.0) / f64::from(1 << 20)),
    ];
    // The usual ranges are no news.
    let usual = Ranges::default();
    for (name, field, usual) in [
        ("Pods:", "cluster_cidr", ranges::text(&usual.pods)),
        ("Services:", "service_cidr", ranges::text(&usual.services)),
    ] {
        lines.extend(status[field].as_str().filter(|told| *told != usual).map(|told| format!("{name:<9} {told}")));
    }
    let ports = status["ports"].as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.extend(ports.map(|port| format!("Port:     {port}")));
    lines.extend([String::new(), format!("{:>8}  {:<8} {:>10}", "PID", "ROLE", "MEMORY")]);
    for process in status["processes"].as_array().into_iter().flatten() {
        let kib = process["memory_bytes"].as_u64().unwrap_or(0) / 1024;
        lines.push(format!("{:>8}  {:<8} {:>6} KiB", process["pid"], process["role"].as_str().unwrap_or("-"), kib));
    }
    lines.extend([String::new(), format!("{:<26} {:<22} {:>8}  AUTHORITY", "CERTIFICATE", "EXPIRES", "LEFT")]);
    for certificate in status["certificates"].as_array().into_iter().flatten() {
        let text = |field: &str| certificate[field].as_str().unwrap_or("-");
        let days = certificate["seconds_left"].as_i64().unwrap_or(0) / SECONDS_OF_DAY;
        lines.push(format!("{:<26} {:<22} {days:>6} d  {}", text("name"), text("expires"), text("authority")));
    }
    lines.join("\n") + "\n"
}

/// `skiff certificate ...`: changes files, and has the server read them, where it runs.
///
/// # Errors
/// This machine is no server that was started before, or its files cannot be written.
pub fn certificate(command: &CertificateCommand) -> Outcome {
    let (CertificateCommand::Rotate { target, .. }
    | CertificateCommand::Forget { target, .. }
    | CertificateCommand::Reload(target)) = command;
    let paths = paths(target);
    let facts = NodeFacts::load(&paths)?.ok_or("this node was never set up")?;
    let (is_agent, folder) = (facts.join.is_some(), paths.pki());
    match command {
        CertificateCommand::Rotate { .. } | CertificateCommand::Forget { .. } if is_agent => {
            return Err("this node is an agent: do that on a server of its cluster".into());
        }
        CertificateCommand::Rotate { of: Foundation::Ca, .. } => Authority::rotate(&folder, SystemClock::shared())?,
        CertificateCommand::Rotate { of: Foundation::ServiceAccountKey, .. } => {
            pki::rotate_service_account_key(&folder)?;
        }
        CertificateCommand::Forget { of: Foundation::Ca, .. } => Authority::forget_former(&folder)?,
        CertificateCommand::Forget { of: Foundation::ServiceAccountKey, .. } => {
            pki::forget_former_service_account_keys(&folder)?;
        }
        CertificateCommand::Reload(_) => {}
    }
    let reloaded =
        small_runtime()?.block_on(control::call(&paths.control_socket(), Method::POST, "/foundations", &Value::Null));
    match reloaded {
        Ok(_) if is_agent => println!("The agent has asked its cluster, and goes by what it said."),
        Err(ControlError::NotRunning(_)) if is_agent => println!("The agent asks its cluster when it is started."),
        Ok(_) => println!("The server goes by it from now on.{}", what_to_do(command)),
        Err(ControlError::NotRunning(_)) => {
            println!("The server goes by it when it is started.{}", what_to_do(command));
        }
        Err(error) => return Err(error.into()),
    }
    if facts.datastore.is_some_and(|datastore| datastore.server_token.is_none()) {
        println!(
            "Other servers of the cluster need the same {}, and then: skiff certificate reload.",
            paths.pki().display()
        );
    }
    Ok(())
}

fn what_to_do(command: &CertificateCommand) -> &'static str {
    match command {
        CertificateCommand::Rotate { of: Foundation::Ca, .. } => {
            " The former authority is believed until\n\
             skiff certificate forget ca. Before that, give people new kubeconfigs (skiff kubeconfig), and wait until skiff\n\
             status names the new authority on every agent: agents learn of it within 10 minutes, or by skiff certificate\n\
             reload there. What checks servers itself, such as programs in Pods, must have read the new bundle."
        }
        CertificateCommand::Rotate { of: Foundation::ServiceAccountKey, .. } => {
            " Tokens of the former key are believed until\n\
             skiff certificate forget service-account-key. Pods have new tokens within the hour."
        }
        CertificateCommand::Forget { .. } => " Former ones are believed no more.",
        CertificateCommand::Reload(_) => "",
    }
}

/// `skiff kubeconfig`.
///
/// # Errors
/// The node was never started.
pub fn print_kubeconfig(target: &Target) -> Outcome {
    let path = paths(target).kubeconfig();
    if NodeFacts::load(&paths(target))?.is_some_and(|facts| facts.join.is_some()) {
        return Err("this node is an agent: the administrator's kubeconfig is on a server of its cluster".into());
    }
    let text = fs::read_to_string(&path).map_err(|error| named(&path, "read", error))?;
    print!("{text}");
    Ok(())
}

/// `skiff image ...`.
///
/// # Errors
/// The server does not run, or the image is not what it should be.
pub fn image(command: &ImageCommand) -> Outcome {
    match command {
        ImageCommand::Import { target, file } => {
            let file = fs::canonicalize(file).map_err(|error| named(file, "open", error))?;
            let answer = ask(&paths(target), Method::POST, "/images/import", &json!({ "file": file }))?;
            for name in answer["images"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                println!("imported {name}");
            }
        }
        ImageCommand::Save { target, images, output } => {
            let file = std::path::absolute(output)?;
            ask(&paths(target), Method::POST, "/images/save", &json!({ "images": images, "file": file }))?;
            println!("wrote {}", output.display());
        }
        ImageCommand::Push { target, image } => {
            ask(&paths(target), Method::POST, "/images/push", &json!({ "image": image }))?;
            println!("pushed {image}");
        }
        ImageCommand::Pull { target, image } => {
            let answer = ask(&paths(target), Method::POST, "/images/pull", &json!({ "image": image }))?;
            println!("{}", answer["image"].as_str().unwrap_or(image));
        }
        ImageCommand::List(target) => {
            let answer = ask(&paths(target), Method::GET, "/images", &Value::Null)?;
            print!("{}", render_images(&answer));
        }
        ImageCommand::Rm { target, image } => {
            ask(&paths(target), Method::POST, "/images/remove", &json!({ "image": image }))?;
            println!("removed {image}");
        }
    }
    Ok(())
}

fn render_images(answer: &Value) -> String {
    let mut text = format!("{:<50} {:<14} {:>10}\n", "IMAGE", "ID", "SIZE");
    for image in answer["images"].as_array().into_iter().flatten() {
        let id = image["id"].as_str().unwrap_or_default().trim_start_matches("sha256:");
        let mib = image["size_bytes"].as_f64().unwrap_or(0.0) / f64::from(1 << 20);
        text.push_str(&format!(
            "{:<50} {:<14} {:>6.1} MiB\n",
            image["name"].as_str().unwrap_or("<none>"),
            id.get(..12).unwrap_or(id),
            mib
        ));
    }
    text
}

/// `skiff check`.
///
/// # Errors
/// Something that is required is not there.
pub fn check() -> Outcome {
    let findings = check::judge(&check::Machine::observe(Path::new(crate::paths::DEFAULT_DATA_DIR)));
    print!("{}", check::render(&findings));
    match check::obstacle(&findings) {
        Some(_) => Err("this machine cannot run a node yet".into()),
        None => Ok(()),
    }
}

/// `skiff logs`.
///
/// # Errors
/// The node was never started, or the output is closed.
pub fn logs(target: &Target, follow: bool) -> Outcome {
    const POLL: Duration = Duration::from_millis(200);
    let path = paths(target).log();
    let mut log = File::open(&path).map_err(|error| named(&path, "read", error))?;
    let mut out = io::stdout().lock();
    loop {
        io::copy(&mut log, &mut out)?;
        out.flush()?;
        if !follow {
            return Ok(());
        }
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_told_in_words() {
        let status = json!({"running": true, "ready": true, "node": "n1", "version": "v1", "api": "https://127.0.0.1:6443",
            "memory_bytes": 3 << 20, "processes": [{"pid": 7, "role": "server", "memory_bytes": 3 << 20}],
            "ports": ["127.0.0.1:8080:80/tcp@all"],
            "certificates": [{"name": "apiserver", "expires": "2027-05-06T00:00:00Z", "seconds_left": 90_000, "authority": "kubernetes"}]});
        let text = render_status(&status);
        assert!(text.contains("n1 (Ready)") && text.contains("3.0 MiB") && text.contains("3072 KiB"), "{text}");
        assert!(text.contains("Port:     127.0.0.1:8080:80/tcp@all\n\n"), "{text}");
        assert!(!text.contains("Pods:"), "{text}");
        let mut both = status.clone();
        both["cluster_cidr"] = "10.244.0.0/16".into();
        both["service_cidr"] = "10.43.0.0/16".into();
        let told = render_status(&both);
        assert!(told.contains("\nServices: 10.43.0.0/16\n") && !told.contains("Pods:"), "{told}");
        assert!(text.contains("apiserver                  2027-05-06T00:00:00Z        1 d  kubernetes"), "{text}");
        assert_eq!(render_status(&json!({"running": false})), "skiff is not running\n");
    }

    #[test]
    fn an_agent_keeps_its_cluster_and_a_server_has_its_own() {
        let asked = |server: &str, token: Option<&str>| {
            let server = [server].iter().filter(|url| !url.is_empty()).map(|url| (*url).to_owned()).collect();
            JoinOptions { server, token: token.map(str::to_owned) }
        };
        let join = |asked: &JoinOptions, kept: Option<Join>| {
            let servers = asked.server.iter().map(|url| server_address(url)).collect::<Result<_, _>>();
            servers.and_then(|servers| rejoin(kept, servers, asked)).map_err(|error| error.to_string())
        };
        let kept = || Some(Join { servers: vec!["a:6443".into()], token: Some("t".into()) });
        assert_eq!(join(&asked("", None), kept()), Ok(kept()));
        let moved = Join { servers: vec!["b:1".into()], token: Some("u".into()) };
        assert_eq!(join(&asked("https://b:1", Some("u")), kept()), Ok(Some(moved)));
        assert_eq!(join(&asked("", None), None), Ok(None));
        assert!(join(&asked("https://b", None), None).expect_err("it has its own").contains("skiff delete"));
        assert!(join(&asked("http://b", None), kept()).expect_err("no TLS").contains("https://"));
        assert_eq!(server_address("https://[::1]").ok().as_deref(), Some("[::1]:6443"));
    }

    #[test]
    fn roles_are_read_off_command_lines() {
        assert_eq!(role_of(b"/usr/bin/skiff\0server\0--data-dir\0/x\0"), "server");
        assert_eq!(role_of(b"/usr/bin/skiff\0agent\0--data-dir\0/x\0"), "agent");
        assert_eq!(role_of(b"skiff\0keeper\0/x\0"), "keeper");
        assert_eq!(role_of(b"skiff-shim\0abc\0"), "shim");
    }
}
