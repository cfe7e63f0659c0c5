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
use crate::cli::{ClusterCommand, ClusterNodeCommand, ClusterTarget, Target};
use crate::commands::{self, CommandError, ask, end_server, ensure_ready, free_port, remove, small_runtime, stop};
use crate::datastore;
use crate::etcd;
use crate::features;
use crate::isolation;
use crate::join::commands::{administrator, create as create_token};
use crate::leftovers;
use crate::paths::{Join, NodeFacts, Paths, named, remove_file, write_atomically};
use crate::pki::{self, Authority, Shared};
use crate::ports::{self, Role};
use crate::process::Process;
use crate::ranges::{self, Ranges};
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
        ClusterCommand::Create(options) => {
            let ranges = Ranges::chosen(&options.ranges.cluster_cidr, &options.ranges.service_cidr)?;
            NodeFacts::new("").node_masks().check(&ranges)?;
            ranges::check_balancing(&ranges, &options.balancing)?;
            let spec = Spec {
                ranges: (ranges != Ranges::default()).then_some(ranges),
                load_balancer_range: options.balancing.load_balancer_range.clone(),
                kubelet_config: options.kubelet_config.as_ref().map(std::path::absolute).transpose()?,
                overlay: options.overlay,
                feature_gates: options.feature_gates.clone(),
                runtime_config: options.runtime_config.clone(),
                ports: options.port.clone(),
                datastore: datastore::chosen(&options.datastore)?,
                ..Spec::new(&options.cluster.name, options.servers, options.agents)
            };
            check_etcd(&spec)?;
            create(&options.cluster, spec, Duration::from_secs(options.wait))
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
            Ok(io::stdout().write_all(cluster.kubeconfig()?.as_bytes())?)
        }
        ClusterCommand::Import { cluster, file } => Cluster::load(cluster)?.import(file),
        ClusterCommand::Node { command: ClusterNodeCommand::Add(cluster) } => add_node(cluster),
        ClusterCommand::Node { command: ClusterNodeCommand::Remove { cluster, node } } => remove_node(cluster, node),
    }
}

/// Looks whether there is an etcd for several servers.
fn check_etcd(spec: &Spec) -> Outcome {
    if !spec.has_etcd() {
        return Ok(());
    }
    if spec.servers().len().is_multiple_of(2) {
        return Err("an etcd of an even number of members bears the loss of no more than one of less: make 3, 5 or 7 \
                    servers, or name an etcd with --datastore-endpoint"
            .into());
    }
    if check::find_program(etcd::PROGRAM).is_none() {
        return Err("several servers need an etcd that they share, and this machine has none to run: install it \
                    (Debian: apt install etcd-server), or name one with --datastore-endpoint"
            .into());
    }
    Ok(())
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
    features::kinds(&spec.options())?;
    ports::claim(spec.api.as_mut_slice().iter_mut().chain(&mut spec.ports))?;
    let cluster = Cluster { data_dir: target.data_dir.clone(), spec };
    cluster.save()?;
    cluster.start(wait)?;
    cluster.tell()
}

fn delete(target: &ClusterTarget) -> Outcome {
    let cluster = Cluster::load(target)?;
    cluster.end_servers()?;
    at_once(cluster.spec.nodes.iter().map(|member| cluster.paths(&member.name)), |paths| remove(&paths))?;
    remove(&cluster.paths(&cluster.spec.switch()))?;
    remove_file(&cluster.kubeconfig_file())?;
    Ok(remove_file(&file_of(target))?)
}

fn add_node(target: &ClusterTarget) -> Outcome {
    let mut cluster = Cluster::load(target)?;
    let member = cluster.spec.add(Role::Agent).ok_or("the cluster's network has no address left")?;
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
    if cluster.spec.servers().iter().any(|server| server.name == node) {
        return Err("this is a server of the cluster; skiff cluster delete removes the whole cluster".into());
    }
    let place = cluster.spec.nodes.iter().position(|member| member.name == node);
    let place = place.ok_or_else(|| format!("the cluster {} has no node {node}", target.name))?;
    remove(&cluster.paths(node))?;
    let client = administrator(&cluster.running_server()?)?;
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
        let api = cluster.api()?.unwrap_or_else(|| "-".to_owned());
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

    /// Starts the network, all servers at once, and then all agents at once.
    fn start(&self, wait: Duration) -> Outcome {
        self.start_switch()?;
        self.share_keys()?;
        at_once(self.spec.servers(), |member| self.start_node(&member, None, wait))?;
        if self.spec.api.is_some() {
            write_atomically(&self.kubeconfig_file(), self.kubeconfig()?.as_bytes(), 0o600)?;
        }
        if self.spec.agents().is_empty() {
            return Ok(());
        }
        let join = self.join()?;
        at_once(self.spec.agents(), |member| self.start_node(&member, Some(&join), wait))
    }

    /// Makes what all servers have in common, and gives it to each of them.
    fn share_keys(&self) -> Outcome {
        let servers = self.spec.servers();
        let [first, others @ ..] = servers.as_slice() else { return Ok(()) };
        if others.is_empty() {
            return Ok(());
        }
        let first = self.paths(&first.name);
        first.create()?;
        let (folder, clock) = (first.pki(), SystemClock::shared());
        Authority::load_or_create(&folder, clock.clone())?;
        Authority::load_or_create_front_proxy(&folder, clock.clone())?;
        Authority::load_or_create_etcd(&folder, clock)?;
        pki::service_account_keys(&folder)?;
        let shared = Shared::read(&folder)?;
        for other in others {
            let paths = self.paths(&other.name);
            paths.create()?;
            shared.write(&paths.pki())?;
        }
        Ok(())
    }

    /// Where the API is reached from this machine.
    fn api(&self) -> Outcome<Option<String>> {
        let port = match &self.spec.api {
            Some(api) => Some(api.listen().port()),
            None => NodeFacts::load(&self.paths(&self.spec.server().name))?.map(|facts| facts.api_port),
        };
        Ok(port.map(|port| format!("https://127.0.0.1:{port}")))
    }

    fn kubeconfig_file(&self) -> PathBuf {
        match self.spec.api {
            Some(_) => folder(&self.data_dir).join(format!("{}.kubeconfig", self.spec.name)),
            None => self.paths(&self.spec.server().name).kubeconfig(),
        }
    }

    /// The administrator's kubeconfig: with several servers, that of the first with the address of all.
    fn kubeconfig(&self) -> Outcome<String> {
        let paths = self.paths(&self.spec.server().name);
        let file = paths.kubeconfig();
        let text = fs::read_to_string(&file).map_err(|error| named(&file, "read", error))?;
        let (Some(_), Some(facts), Some(api)) = (&self.spec.api, NodeFacts::load(&paths)?, self.api()?) else {
            return Ok(text);
        };
        let own = format!("https://127.0.0.1:{}", facts.api_port);
        Ok(text.replace(&own, &api).replace(&commands::context_name(&paths), &format!("skiff-{}", self.spec.name)))
    }

    /// A server that runs now, or the first.
    fn running_server(&self) -> Outcome<Paths> {
        for member in self.spec.servers() {
            let paths = self.paths(&member.name);
            if Process::read(&paths.server_pid())?.is_some() {
                return Ok(paths);
            }
        }
        Ok(self.paths(&self.spec.server().name))
    }

    /// Tells whoever carries what comes to the cluster's ports where the nodes are now.
    fn tell_relay(&self) -> Outcome {
        let paths = self.paths(&self.spec.switch());
        match NodeFacts::load(&paths)?.filter(|_| !self.spec.all_ports().is_empty()) {
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
                ports::claim(&mut self.spec.all_ports())?;
                self.tell_relay()?;
                relay::forget(&paths)?;
                isolation::start_keeper(&paths)?
            }
        };
        if !self.spec.all_ports().is_empty() {
            relay::wait(&paths, keeper)?;
        }
        for _ in 0..LINK_ATTEMPTS {
            match runtime.block_on(isolation::ensure_link(&paths, keeper, &facts)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if self.spec.has_etcd() && self.paths(&self.spec.server().name).join("etcd").exists() {
                        // Members of an etcd know each other by addresses that they keep.
                        return Err(format!("{error}: end that one first, this cluster cannot have another").into());
                    }
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
            None => NodeFacts {
                api_port: free_port()?,
                seat: member.seat,
                // An agent learns them.
                ranges: join.is_none().then(|| self.spec.ranges.clone().unwrap_or_default()),
                ..NodeFacts::new(&member.name)
            },
        };
        (facts.link, facts.switch) = (network.link, network.switch);
        facts.join = join.cloned();
        if join.is_none() {
            facts.etcd = self.spec.etcd(network.link);
            let own = facts.etcd.iter().find(|peer| peer.name == member.name);
            facts.datastore = match own {
                Some(own) => Some(etcd::datastore(own, &paths, datastore::DEFAULT_PREFIX)),
                None => self.spec.named_datastore(network.link),
            };
        }
        facts.save(&paths)?;
        let ready = ensure_ready(&paths, &self.target(&member.name), &self.spec.options(), &facts, wait);
        ready.map(drop).map_err(|error| format!("{}: {error}", member.name).into())
    }

    /// How agents join: a new token, and where the servers are in the cluster's network.
    fn join(&self) -> Outcome<Join> {
        let paths = self.running_server()?;
        let facts = NodeFacts::load(&paths)?.ok_or("the cluster's server was never started")?;
        let description = format!("the nodes of {}", self.spec.name);
        let token = create_token(&paths, TOKEN_TTL, Some(&description), &SystemClock::shared())?;
        let server = |member: &Member| {
            format!("{}:{INNER_API_PORT}", isolation::Link::in_cluster(facts.link, member.seat).node())
        };
        Ok(Join { servers: self.spec.servers().iter().map(server).collect(), token: Some(token.to_string()) })
    }

    /// Ends all servers before the first node goes, and a part of what they share with it.
    fn end_servers(&self) -> Outcome {
        at_once(self.spec.servers().iter().map(|member| self.paths(&member.name)), |paths| end_server(&paths).map(drop))
    }

    fn stop(&self) -> Outcome {
        self.end_servers()?;
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
        writeln!(out, "  export KUBECONFIG={}", self.kubeconfig_file().display())?;
        writeln!(out, "  kubectl get nodes")?;
        Ok(())
    }
}
