//! The API server under load, as `docs/BENCHMARKS.md` tells it: `bench FOLDER [ROUNDS [FILTER]]`, beside the program `serve`.
//! Load generator, server and peers share the machine's cores; the server syncs to the disk of FOLDER. Each figure is the
//! median of ROUNDS, taken in turns with those of the peers. With the folder of upstream's programs in `SKIFF_UPSTREAM`
//! its API server on its etcd is one of them; a ratio is the middle of the rounds' ratios. Prints Markdown.
#![allow(clippy::disallowed_methods, reason = "a measurement reads the machine's clock and starts programs")]

mod definitions;
mod flood;
mod load;
mod peers;
mod server;
mod watching;

use std::collections::BTreeMap;
use std::error::Error;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use load::{Protocol, Rate, Request};
use server::{Server, Whose};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What may fail here.
pub type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long each figure is taken in each round.
const PERIOD: Duration = Duration::from_secs(3);
/// The payload of a ConfigMap of 1 KiB.
const DATA_BYTES: usize = 1024;
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
/// The objects of the figures of memory and lists.
const POD_COUNT: usize = 5000;
const CONFIG_MAP_COUNT: usize = 10_000;

/// All figures of all rounds, in the order in which they first came.
struct Figures {
    order: Vec<(String, &'static str)>,
    rows: BTreeMap<String, Vec<f64>>,
    /// Those of upstream, under the same names.
    upstream: BTreeMap<String, Vec<f64>>,
    /// Whose are added.
    whose: Whose,
}

impl Figures {
    fn new() -> Self {
        Self { order: Vec::new(), rows: BTreeMap::new(), upstream: BTreeMap::new(), whose: Whose::Ours }
    }

    fn add(&mut self, name: &str, unit: &'static str, value: f64) {
        if self.order.iter().all(|(known, _)| known != name) {
            self.order.push((name.to_owned(), unit));
        }
        let rows = if self.whose == Whose::Ours { &mut self.rows } else { &mut self.upstream };
        rows.entry(name.to_owned()).or_default().push(value);
        eprintln!("{:?}: {name}: {value:.1} {unit}", self.whose);
    }

    fn add_rate(&mut self, name: &str, rate: &Rate) {
        self.add(name, "/s", rate.per_second);
        self.add(&format!("{name}, p99"), "ms", rate.p99_ms);
    }

    /// What a request costs in CPU time: where other work shares the machine, this tells more than the rate does.
    fn add_cost(&mut self, name: &str, rate: &Rate, server: Duration, all: Duration) {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / rate.count.max(1) as f64;
        self.add(&format!("{name}, CPU of the server for each"), "us", each(server));
        self.add(&format!("{name}, CPU with the load generator's"), "us", each(all));
    }

    fn print(&self) {
        println!("| figure | median | min | max | upstream | ratio |\n|---|---|---|---|---|---|");
        let none = Vec::new();
        for (name, unit) in &self.order {
            let of = |rows: &BTreeMap<String, Vec<f64>>| rows.get(name).unwrap_or(&none).clone();
            let (ours, theirs) = (of(&self.rows), of(&self.upstream));
            let ratios =
                ours.iter().zip(&theirs).map(|(own, other)| own / other).filter(|ratio| ratio.is_finite()).collect();
            let shown =
                |value: f64| if value < 100.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") };
            let [median, least, most] = spread(ours).map(|value| value.map_or("-".to_owned(), shown));
            let upstream = spread(theirs)[0].map_or("-".to_owned(), shown);
            let ratio = match spread(ratios) {
                [Some(median), Some(least), Some(most)] => format!("{median:.2} ({least:.2} to {most:.2})"),
                _ => "-".to_owned(),
            };
            println!("| {name} | {median} | {least} | {most} | {upstream} | {ratio} |");
        }
    }
}

/// The median, the least and the most, where there are any.
fn spread(mut values: Vec<f64>) -> [Option<f64>; 3] {
    values.sort_by(f64::total_cmp);
    [values.get(values.len() / 2), values.first(), values.last()].map(|value| value.copied())
}

fn main() -> Fallible<()> {
    if server::GENERATOR_SETTINGS.iter().any(|(name, _)| std::env::var_os(name).is_none()) {
        return Err(server::again()?.exec().into());
    }
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let rounds: usize = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let filter = arguments.next().unwrap_or_default();
    let folder = folder.join(format!("skiff-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(all(&folder, rounds, &filter));
    std::fs::remove_dir_all(&folder)?;
    outcome
}

async fn all(folder: &Path, rounds: usize, filter: &str) -> Fallible<()> {
    let mut figures = Figures::new();
    for round in 0..rounds {
        eprintln!("-- round {}", round + 1);
        if "peers".contains(filter) {
            peers::measure(folder, &mut figures).await?;
        }
        let mut sides = Whose::all();
        // Each is as often first.
        sides.rotate_left(round % Whose::all().len());
        for whose in sides {
            figures.whose = whose;
            let own = folder.join(format!("{whose:?}-{round}"));
            match (side(whose, &own, filter, &mut figures).await, whose) {
                (Err(error), Whose::Upstreams) => eprintln!("upstream's other figures are left out: {error}"),
                (outcome, _) => outcome?,
            }
        }
        figures.whose = Whose::Ours;
    }
    figures.print();
    Ok(())
}

/// What is measured of one server.
async fn side(whose: Whose, folder: &Path, filter: &str, figures: &mut Figures) -> Fallible<()> {
    let wants = |name: &str| name.contains(filter);
    let start = async |purpose: &str| Server::start(whose, &folder.join(purpose)).await;
    if wants("requests") || wants("watches") {
        let server = start("busy").await?;
        if wants("requests") {
            for protocol in [Protocol::Http1, Protocol::Http2] {
                requests(&server, protocol, figures).await?;
            }
        }
        if wants("watches") {
            watching::idle(&server, figures).await?;
            watching::busy(&server, figures).await?;
        }
    }
    if wants("flood") {
        flood::measure(&start("flooded").await?, figures).await?;
    }
    // Upstream's takes minutes for so many.
    if wants("definitions") && whose == Whose::Ours {
        definitions::measure(&start("defined").await?, figures).await?;
    }
    if wants("memory") {
        full(&start("full").await?, figures).await?;
    }
    Ok(())
}

/// A ConfigMap of 1 KiB.
pub fn config_map(name: &str, fill: u64) -> String {
    let letter = char::from(b'a' + (fill % 26) as u8).to_string();
    format!(r#"{{"metadata":{{"name":"{name}"}},"data":{{"value":"{}"}}}}"#, letter.repeat(DATA_BYTES))
}

/// Single requests, as fast as they are answered.
async fn requests(server: &Server, protocol: Protocol, figures: &mut Figures) -> Fallible<()> {
    let client = Arc::new(server.client(protocol)?);
    let tag = protocol.name();
    let name = move |number: u64| format!("{}-{number}", if protocol == Protocol::Http1 { "one" } else { "two" });
    let next = Arc::new(AtomicU64::new(0));
    let create = {
        let next = next.clone();
        move || {
            let number = next.fetch_add(1, Ordering::Relaxed);
            Request::post(CONFIG_MAPS, config_map(&name(number), number))
        }
    };
    let title = format!("create 1 KiB ConfigMaps, 64 in flight, {tag}");
    measured(server, &client, 64, &title, create.clone(), figures).await?;
    measured(server, &client, 1, &format!("create, one at a time, {tag}"), create, figures).await?;
    let made = next.load(Ordering::Relaxed);
    let turn = Arc::new(AtomicU64::new(0));
    let get = {
        let turn = turn.clone();
        move || Request::get(&format!("{CONFIG_MAPS}/{}", name(turn.fetch_add(1, Ordering::Relaxed) % made)))
    };
    measured(server, &client, 32, &format!("get, 32 in flight, {tag}"), get, figures).await?;
    let put = move || {
        let number = turn.fetch_add(1, Ordering::Relaxed);
        let name = name(number % made);
        Request::put(&format!("{CONFIG_MAPS}/{name}"), config_map(&name, number))
    };
    measured(server, &client, 64, &format!("update (PUT), 64 in flight, {tag}"), put, figures).await?;
    Ok(())
}

async fn measured(
    server: &Server,
    client: &Arc<load::Client>,
    in_flight: usize,
    name: &str,
    make: impl Fn() -> Request + Clone + Send + 'static,
    figures: &mut Figures,
) -> Fallible<()> {
    let (server_before, own_before) = (server.cpu()?, server::cpu_of("self")?);
    let rate = load::run(client, in_flight, PERIOD, make).await?;
    let (server_took, own_took) = (server.cpu()? - server_before, server::cpu_of("self")? - own_before);
    figures.add_rate(name, &rate);
    figures.add_cost(name, &rate, server_took, server_took + own_took);
    Ok(())
}

/// A pod of about 3 KB as it is answered, with what the server adds: a third of it says who owns which field.
fn pod(number: usize) -> String {
    let variables: Vec<String> =
        (0..4).map(|n| format!(r#"{{"name":"VARIABLE_{n}","value":"value-{number}-{n}-of-some-length"}}"#)).collect();
    format!(
        r#"{{"metadata":{{"name":"pod-{number:05}","labels":{{"app":"app-{}","tier":"backend"}},"annotations":{{"note":"{}"}}}},
        "spec":{{"nodeName":"node-{}","containers":[{{"name":"main","image":"registry.example.com/team/app:v1.2.3","env":[{}],
        "resources":{{"requests":{{"cpu":"100m","memory":"64Mi"}},"limits":{{"memory":"128Mi"}}}},
        "ports":[{{"containerPort":8080,"protocol":"TCP"}}]}}]}}}}"#,
        number % 100,
        "n".repeat(100),
        number % 50,
        variables.join(",")
    )
}

/// A server with many objects: its memory, and lists of all pods.
async fn full(server: &Server, figures: &mut Figures) -> Fallible<()> {
    let client = Arc::new(server.client(Protocol::Http1)?);
    // Pods need the account that a controller would make.
    let account = || r#"{"metadata":{"name":"default"}}"#.to_owned();
    let left = Arc::new(AtomicU64::new(1));
    let once = move || (left.swap(0, Ordering::AcqRel) > 0).then(|| Request::post(ACCOUNTS, account()));
    load::exhaust(&client, 1, once).await?;
    let fill = async |count: usize, make: fn(usize) -> Request| {
        let next = Arc::new(AtomicU64::new(0));
        let make = move || {
            let number = next.fetch_add(1, Ordering::Relaxed) as usize;
            (number < count).then(|| make(number))
        };
        load::exhaust(&client, 32, make).await
    };
    fill(POD_COUNT, |number| Request::post(PODS, pod(number))).await?;
    fill(CONFIG_MAP_COUNT, |number| Request::post(CONFIG_MAPS, config_map(&format!("map-{number:05}"), number as u64)))
        .await?;
    figures.add("memory with 5,000 pods and 10,000 ConfigMaps", "MiB", server.memory_mib()?);
    let list = || Request::get("/api/v1/pods");
    let (server_before, own_before) = (server.cpu()?, server::cpu_of("self")?);
    let rate = load::run(&client, 4, PERIOD, list).await?;
    let (server_took, own_took) = (server.cpu()? - server_before, server::cpu_of("self")? - own_before);
    figures.add("list 5,000 pods, 4 in flight", "lists/s", rate.per_second);
    figures.add_cost("list 5,000 pods", &rate, server_took, server_took + own_took);
    figures.add("list 5,000 pods, size", "MB", rate.bytes as f64 / rate.count.max(1) as f64 / 1e6);
    figures.add("memory after the lists", "MiB", server.memory_mib()?);
    Ok(())
}
