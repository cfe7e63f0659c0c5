//! `skiff cluster`: several isolated nodes of this machine, joined by a switch. Which nodes a cluster has is in one file;
//! all else is as of any isolated node, so that `skiff status --isolated NODE` and the like work for each of them.

mod spec;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skiff_base::SystemClock;
use skiff_client::DeleteOptions;

use crate::check;
use crate::cli::{ClusterCommand, ClusterNodeCommand, ClusterTarget, MachineOptions, NodeOptions, Target};
use crate::commands::{self, CommandError, ask, ensure_ready, free_port, remove, small_runtime, stop};
use crate::isolation;
use crate::join::commands::{administrator, create as create_token};
use crate::leftovers;
use crate::paths::{Join, NodeFacts, Paths, named, write_atomically};
use crate::ports;
use crate::process::Process;
use crate::relay;
use spec::{Member, Spec};

/// The port of the API server inside a node.
const INNER_API_PORT: u16 = 6443;
/// The token by which nodes join is made anew each time.
const TOKEN_TTL: Duration = Duration::from_secs(3600);
/// How often another link number is looked for when others start at the same time.
const LINK_ATTEMPTS: usize = 10;

type Outcome<T = ()> = Result<T, CommandError>;

/// A cluster on this machine.
struct Cluster {
    data_dir: PathBuf,
    spec: Spec,
}

/// `skiff cluster ...`.
///
/// # Errors
/// The machine lacks something, there is no such cluster, or a node does not start or end.
pub fn run(command: &ClusterCommand) -> Outcome {
    match command {
        ClusterCommand::Create { cluster, servers: _, agents, kubelet_config, overlay, port, wait } => {
            let kubelet_config = kubelet_config.as_ref().map(std::path::absolute).transpose()?;
            let ports = port.clone();
            let spec = Spec { kubelet_config, overlay: *overlay, ports, ..Spec::new(&cluster.name, *agents) };
            create(cluster, spec, Duration::from_secs(*wait))
        }
        ClusterCommand::List { data_dir } => list(data_dir),
        ClusterCommand::Start(cluster) => {
            let cluster = Cluster::load(cluster)?;
            cluster.start(Duration::from_secs(crate::cli::DEFAULT_WAIT_SECONDS))?;
            cluster.tell()
        }
        ClusterCommand::Stop(cluster) => Cluster::load(cluster)?.stop(),
        ClusterCommand::Delete(cluster) => delete(cluster),
        ClusterCommand::Kubeconfig(cluster) => {
            let cluster = Cluster::load(cluster)?;
            commands::print_kubeconfig(&cluster.target(&cluster.spec.server().name))
        }
        ClusterCommand::Import { cluster, file } => Cluster::load(cluster)?.import(file),
        ClusterCommand::Node { command: ClusterNodeCommand::Add(cluster) } => add_node(cluster),
        ClusterCommand::Node { command: ClusterNodeCommand::Remove { cluster, node } } => remove_node(cluster, node),
    }
}

fn create(target: &ClusterTarget, mut spec: Spec, wait: Duration) -> Outcome {
    if file_of(target).exists() {
        return Err(format!("there is a cluster {} already; skiff cluster start starts it", target.name).into());
    }
    let findings = check::judge(&check::Machine::observe(&target.data_dir));
    if let Some(obstacle) = check::obstacle(&findings) {
        return Err(format!("this machine cannot run a node:\n{obstacle}").into());
    }
    spec.check_ports()?;
    ports::claim(&mut spec.ports)?;
    let cluster = Cluster { data_dir: target.data_dir.clone(), spec };
    cluster.save()?;
    cluster.start(wait)?;
    cluster.tell()
}

fn delete(target: &ClusterTarget) -> Outcome {
    let cluster = Cluster::load(target)?;
    at_once(cluster.spec.nodes.iter().map(|member| cluster.paths(&member.name)), |paths| remove(&paths))?;
    remove(&cluster.paths(&cluster.spec.switch()))?;
    let file = file_of(target);
    Ok(fs::remove_file(&file).map_err(|error| named(&file, "remove", error))?)
}

fn add_node(target: &ClusterTarget) -> Outcome {
    let mut cluster = Cluster::load(target)?;
    let member = cluster.spec.add().ok_or("the cluster's network has no address left")?;
    let join = cluster.join()?;
    cluster.save()?;
    let wait = Duration::from_secs(crate::cli::DEFAULT_WAIT_SECONDS);
    cluster.start_node(&member, Some(&join), wait)?;
    cluster.tell_relay()?;
    println!("Node {} is Ready.", member.name);
    Ok(())
}

fn remove_node(target: &ClusterTarget, node: &str) -> Outcome {
    let mut cluster = Cluster::load(target)?;
    if cluster.spec.server().name == node {
        return Err("this is the cluster's server; skiff cluster delete removes the whole cluster".into());
    }
    let place = cluster.spec.nodes.iter().position(|member| member.name == node);
    let place = place.ok_or_else(|| format!("the cluster {} has no node {node}", target.name))?;
    remove(&cluster.paths(node))?;
    let client = administrator(&cluster.paths(&cluster.spec.server().name))?;
    let gone =
        small_runtime()?.block_on(client.delete_path(&format!("/api/v1/nodes/{node}"), &DeleteOptions::default()));
    match gone {
        Err(error) if !error.is_not_found() => return Err(error.into()),
        _ => {}
    }
    cluster.spec.nodes.remove(place);
    cluster.save()?;
    cluster.tell_relay()
}

/// The ports of this machine that lead to a node, if it is one of a cluster.
///
/// # Errors
/// What is kept of its cluster cannot be read.
pub fn ports_of(paths: &Paths) -> Outcome<Vec<String>> {
    let switch = NodeFacts::load(paths)?.and_then(|facts| facts.switch);
    let (Some(name), Some(data_dir)) =
        (switch.as_deref().and_then(Spec::of_switch), paths.root.parent().and_then(Path::parent))
    else {
        return Ok(Vec::new());
    };
    let target = ClusterTarget { name: name.to_owned(), data_dir: data_dir.to_owned() };
    if !file_of(&target).exists() {
        return Ok(Vec::new());
    }
    let spec = Cluster::load(&target)?.spec;
    let node = spec.nodes.iter().find(|member| Some(&member.name) == paths.isolated.as_ref());
    let Some((role, number)) = node.and_then(|member| spec.place(member)) else { return Ok(Vec::new()) };
    Ok(spec.ports.iter().filter(|port| port.leads_to(role, number)).map(ToString::to_string).collect())
}

fn list(data_dir: &Path) -> Outcome {
    let mut out = io::stdout().lock();
    writeln!(out, "{:<20} {:<8} {:<7} {:<26} PORTS", "NAME", "NODES", "RUNNING", "API")?;
    let mut names = Vec::new();
    match fs::read_dir(folder(data_dir)) {
        Ok(entries) => {
            for entry in entries {
                let name = entry?.file_name().to_string_lossy().into_owned();
                names.extend(name.strip_suffix(".json").map(str::to_owned));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(named(&folder(data_dir), "read", error).into()),
    }
    names.sort();
    for name in names {
        let cluster = Cluster::load(&ClusterTarget { name: name.clone(), data_dir: data_dir.to_owned() })?;
        let mut running = 0;
        for member in &cluster.spec.nodes {
            running += usize::from(Process::read(&cluster.paths(&member.name).server_pid())?.is_some());
        }
        let facts = NodeFacts::load(&cluster.paths(&cluster.spec.server().name))?;
        let api = facts.map_or_else(|| "-".to_owned(), |facts| format!("https://127.0.0.1:{}", facts.api_port));
        let ports: Vec<_> = cluster.spec.ports.iter().map(ToString::to_string).collect();
        let ports = if ports.is_empty() { "-".to_owned() } else { ports.join(", ") };
        writeln!(out, "{name:<20} {:<8} {running:<7} {api:<26} {ports}", cluster.spec.nodes.len())?;
    }
    Ok(())
}

/// Does the same to all, each on a thread of its own; the first failure is told once all are done.
fn at_once<T: Send>(all: impl IntoIterator<Item = T>, work: impl Fn(T) -> Outcome + Sync) -> Outcome {
    let work = &work;
    std::thread::scope(|scope| {
        let running: Vec<_> = all.into_iter().map(|one| scope.spawn(move || work(one))).collect();
        let outcomes =
            running.into_iter().map(|one| one.join().unwrap_or_else(|_| Err("a node's part panicked".into())));
        outcomes.collect::<Vec<_>>().into_iter().collect()
    })
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("clusters")
}

fn file_of(target: &ClusterTarget) -> PathBuf {
    folder(&target.data_dir).join(format!("{}.json", target.name))
}

impl Cluster {
    fn load(target: &ClusterTarget) -> Outcome<Self> {
        let file = file_of(target);
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(format!("there is no cluster {} below {}", target.name, target.data_dir.display()).into());
            }
            Err(error) => return Err(named(&file, "read", error).into()),
        };
        let spec: Spec = serde_json::from_slice(&bytes).map_err(|error| format!("{}: {error}", file.display()))?;
        if spec.nodes.is_empty() {
            return Err(format!("{}: the cluster has no server", file.display()).into());
        }
        Ok(Self { data_dir: target.data_dir.clone(), spec })
    }

    fn save(&self) -> Outcome {
        let folder = folder(&self.data_dir);
        fs::create_dir_all(&folder).map_err(|error| named(&folder, "create folder", error))?;
        let bytes = serde_json::to_vec_pretty(&self.spec)?;
        Ok(write_atomically(&folder.join(format!("{}.json", self.spec.name)), &bytes, 0o644)?)
    }

    fn paths(&self, node: &str) -> Paths {
        Paths::new(&self.data_dir, Some(node))
    }

    fn target(&self, node: &str) -> Target {
        Target { data_dir: self.data_dir.clone(), isolated: Some(node.to_owned()) }
    }

    /// Starts the network, the server, and then all agents at once.
    fn start(&self, wait: Duration) -> Outcome {
        self.start_switch()?;
        self.start_node(self.spec.server(), None, wait)?;
        if self.spec.agents().is_empty() {
            return Ok(());
        }
        let join = self.join()?;
        at_once(self.spec.agents(), |member| self.start_node(member, Some(&join), wait))
    }

    /// Tells whoever carries what comes to the cluster's ports where the nodes are now.
    fn tell_relay(&self) -> Outcome {
        let paths = self.paths(&self.spec.switch());
        match NodeFacts::load(&paths)?.filter(|_| !self.spec.ports.is_empty()) {
            Some(facts) => Ok(relay::tell(&paths, &self.spec.ways(facts.link))?),
            None => Ok(()),
        }
    }

    /// Starts the world that joins the nodes' links, with the link to the host and who carries what comes to its ports.
    fn start_switch(&self) -> Outcome {
        let name = self.spec.switch();
        let paths = self.paths(&name);
        paths.create()?;
        let mut facts = match NodeFacts::load(&paths)? {
            Some(facts) => facts,
            None => {
                let link = isolation::free_link(&self.data_dir)?;
                NodeFacts { link, switch: Some(name.clone()), ..NodeFacts::new(name) }
            }
        };
        facts.save(&paths)?;
        let runtime = small_runtime()?;
        let keeper = match isolation::keeper_of(&paths)? {
            Some(keeper) => keeper,
            None => {
                runtime.block_on(isolation::remove_link(&paths, &facts))?;
                leftovers::end_processes(&paths)?;
                ports::claim(&mut self.spec.ports.clone())?;
                self.tell_relay()?;
                relay::forget(&paths)?;
                isolation::start_keeper(&paths)?
            }
        };
        if !self.spec.ports.is_empty() {
            relay::wait(&paths, keeper)?;
        }
        for _ in 0..LINK_ATTEMPTS {
            match runtime.block_on(isolation::ensure_link(&paths, keeper, &facts)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    facts.link = isolation::free_link(&self.data_dir)?;
                    facts.save(&paths)?;
                    self.tell_relay()?;
                }
                done => return Ok(done?),
            }
        }
        Err("others keep taking the numbers of links; try again".into())
    }

    /// Starts a node, unless it runs, and waits until it is Ready.
    fn start_node(&self, member: &Member, join: Option<&Join>, wait: Duration) -> Outcome {
        let paths = self.paths(&member.name);
        paths.create()?;
        let network = NodeFacts::load(&self.paths(&self.spec.switch()))?.ok_or("the cluster's network does not run")?;
        let mut facts = match NodeFacts::load(&paths)? {
            Some(facts) => facts,
            None => NodeFacts { api_port: free_port()?, seat: member.seat, ..NodeFacts::new(&member.name) },
        };
        (facts.link, facts.switch) = (network.link, network.switch);
        facts.join = join.cloned();
        facts.save(&paths)?;
        let machine = MachineOptions {
            kubelet_config: self.spec.kubelet_config.clone(),
            overlay: self.spec.overlay,
            ..MachineOptions::default()
        };
        let options = NodeOptions::of_machine(machine);
        let ready = ensure_ready(&paths, &self.target(&member.name), &options, &facts, wait);
        ready.map(drop).map_err(|error| format!("{}: {error}", member.name).into())
    }

    /// How agents join: a new token, and where the server is in the cluster's network.
    fn join(&self) -> Outcome<Join> {
        let paths = self.paths(&self.spec.server().name);
        let facts = NodeFacts::load(&paths)?.ok_or("the cluster's server was never started")?;
        let description = format!("the nodes of {}", self.spec.name);
        let token = create_token(&paths, TOKEN_TTL, Some(&description), &SystemClock::shared())?;
        let server = format!("{}:{INNER_API_PORT}", isolation::Link::of(&facts).node());
        Ok(Join { servers: vec![server], token: Some(token.to_string()) })
    }

    fn stop(&self) -> Outcome {
        at_once(self.spec.nodes.iter().map(|member| self.paths(&member.name)), |paths| stop(&paths).map(drop))?;
        stop(&self.paths(&self.spec.switch())).map(drop)
    }

    fn import(&self, file: &Path) -> Outcome {
        let file = fs::canonicalize(file).map_err(|error| named(file, "open", error))?;
        for member in &self.spec.nodes {
            let paths = self.paths(&member.name);
            let answer = ask(&paths, Method::POST, "/images/import", &json!({ "file": file }))?;
            for name in answer["images"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                println!("imported {name} into {}", member.name);
            }
        }
        Ok(())
    }

    fn tell(&self) -> Outcome {
        let mut out = io::stdout().lock();
        let names: Vec<_> = self.spec.nodes.iter().map(|member| member.name.as_str()).collect();
        writeln!(out, "The cluster {} is Ready: {}.", self.spec.name, names.join(", "))?;
        match self.spec.ports.as_slice() {
            [] => writeln!(out, "It is kept apart from this machine's network. Try:")?,
            ports => {
                writeln!(out, "It is kept apart from this machine's network, but for these ports:")?;
                ports.iter().try_for_each(|port| writeln!(out, "  {port}"))?;
                writeln!(out, "Try:")?;
            }
        }
        writeln!(out, "  export KUBECONFIG={}", self.paths(&self.spec.server().name).kubeconfig().display())?;
        writeln!(out, "  kubectl get nodes")?;
        Ok(())
    }
}
