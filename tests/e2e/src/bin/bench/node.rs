//! The node's figures (`cargo xtask bench node`), on the embedded runtime and, with the same agent and the same pods, on
//! Debian's containerd and runc.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skiff_e2e::Cluster;
use skiff_e2e::cluster::hello_image;
use skiff_e2e::containerd::Containerd;

use crate::proxy::Proxy;
use crate::{IDLE_SECONDS, memory_mib, percentile, pod, status, usage};

const ONE_POD_RUNS: usize = 30;
const WARM_UP: usize = 3;
const BURSTS: [usize; 2] = [50, 200];
const BURST_RUNS: usize = 3;
const IDLE_PODS: usize = 50;
const EXEC_RUNS: usize = 50;
const LOG_BYTES: u64 = 1 << 30;
const LOG_LINE: &str = "a line of a log that is as long as such lines are, with a word or two at its end to tell it by";
/// What is left to do after a burst is done after this time.
const SETTLE: Duration = Duration::from_secs(5);
/// Room for the largest burst, and logs that are counted as a whole.
const SETTINGS: &str = "
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
maxPods: 250
containerLogMaxSize: 4Gi
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 50Mi, nodefs.available: 100Mi, imagefs.available: 100Mi}
";

/// Measures all of it.
pub fn node() {
    let cluster = Cluster::empty("bench-node");
    let settings = cluster.folder().join("settings.yaml");
    std::fs::write(&settings, SETTINGS).expect("written");
    cluster.skiff(&["up", "--kubelet-config", &settings.display().to_string()]).ok();
    let image = cluster.folder().join("hello.tar");
    hello_image("v1").save("localhost:5000/hello:v1", &image).expect("written");
    cluster.skiff(&["image", "import", &image.display().to_string()]).ok();
    measure("embedded", &cluster, &BURSTS);
    unpacking(&cluster);
    drop(cluster);
    let (cluster, _containerd) = Containerd::cluster_with("bench-peer", SETTINGS);
    measure("containerd + runc", &cluster, &BURSTS);
}

fn measure(runtime: &str, cluster: &Cluster, bursts: &[usize]) {
    let proxy = Proxy::start(cluster);
    one_pod(runtime, &proxy);
    for &count in bursts {
        burst(runtime, &proxy, count);
    }
    exec(runtime, &proxy);
    logs(runtime, cluster, &proxy);
    idle(runtime, cluster, &proxy);
}

fn line(runtime: &str, figure: &str, text: &str) {
    println!("| {figure} | {runtime} | {text} |");
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn one_pod(runtime: &str, proxy: &Proxy) {
    let mut times = Vec::new();
    for round in 0..ONE_POD_RUNS + WARM_UP {
        let took = proxy.run_pods(&[pod(&format!("one-{round}"))]);
        if round >= WARM_UP {
            times.push(milliseconds(took));
        }
        proxy.delete_pods();
    }
    let text = format!("{:.1} / {:.1} ms", percentile(&times, 0.5), percentile(&times, 0.99));
    line(runtime, "one pod, create to Running, p50 / p99", &text);
}

fn burst(runtime: &str, proxy: &Proxy, count: usize) {
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for round in 0..BURST_RUNS {
        let pods: Vec<Value> = (0..count).map(|index| pod(&format!("burst-{count}-{round}-{index}"))).collect();
        up.push(milliseconds(proxy.run_pods(&pods)));
        std::thread::sleep(SETTLE);
        let start = Instant::now();
        proxy.delete_pods();
        down.push(milliseconds(start.elapsed()));
        std::thread::sleep(SETTLE);
    }
    line(runtime, &format!("{count} pods at once, the last one Running"), &format!("{:.0} ms", percentile(&up, 0.5)));
    line(
        runtime,
        &format!("deleting {count} pods (grace 0) until their names are free"),
        &format!("{:.0} ms", percentile(&down, 0.5)),
    );
}

fn exec(runtime: &str, proxy: &Proxy) {
    proxy.run_pods(&[pod("exec")]);
    let times: Vec<f64> = (0..EXEC_RUNS).map(|_| milliseconds(proxy.exec("exec", "true"))).collect();
    let text = format!("{:.1} / {:.1} ms", percentile(&times, 0.5), percentile(&times, 0.99));
    line(runtime, "exec round trip through the API, p50 / p99", &text);
    proxy.delete_pods();
}

/// One container writes as fast as it can; counted is what lies in its log in the end.
fn logs(runtime: &str, cluster: &Cluster, proxy: &Proxy) {
    let lines = LOG_BYTES / (LOG_LINE.len() as u64 + 1);
    let mut talker = pod("talker");
    let script = format!("yes '{LOG_LINE}' | head -n {lines}; sleep 100000");
    talker["spec"]["containers"][0]["command"] = json!(["sh", "-c", script]);
    let root = cluster.folder().join("isolated").join(&cluster.name).join("log/pods");
    proxy.run_pods(&[talker]);
    let start = Instant::now();
    let mut written = 0;
    let mut last = Instant::now();
    // The writer is done when the log has not grown for a while.
    while last.elapsed() < Duration::from_secs(2) {
        let now = bytes_below(&root);
        if now != written {
            (written, last) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let seconds = (last - start).as_secs_f64();
    let counted = lines_below(&root);
    let text = format!("{:.0} MB/s of output, {} of {lines} lines", LOG_BYTES as f64 / 1e6 / seconds, counted);
    line(runtime, "log throughput of one container", &text);
    proxy.delete_pods();
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

fn bytes_below(folder: &Path) -> u64 {
    files_below(folder).iter().filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

fn lines_below(folder: &Path) -> u64 {
    let mut count = 0;
    let mut buffer = vec![0; 1 << 20];
    for file in files_below(folder) {
        let mut file = std::fs::File::open(file).expect("readable");
        while let Ok(length @ 1..) = file.read(&mut buffer) {
            count += buffer[..length].iter().filter(|byte| **byte == b'\n').count() as u64;
        }
    }
    count
}

fn idle(runtime: &str, cluster: &Cluster, proxy: &Proxy) {
    std::thread::sleep(SETTLE);
    let base = memory_mib(&status(cluster));
    let pods: Vec<Value> = (0..IDLE_PODS).map(|index| pod(&format!("idle-{index}"))).collect();
    proxy.run_pods(&pods);
    std::thread::sleep(SETTLE);
    let before = usage(&status(cluster));
    std::thread::sleep(Duration::from_secs(IDLE_SECONDS));
    let after_status = status(cluster);
    let cpu = (usage(&after_status).0 - before.0) / IDLE_SECONDS as f64 * 100.0;
    let memory = memory_mib(&after_status);
    line(runtime, "skiff's processes with 50 idle pods: memory, CPU", &format!("{memory:.1} MiB, {cpu:.2} %"));
    if runtime == "embedded" {
        let each = (memory - base) / IDLE_PODS as f64;
        line(runtime, "memory for each idle pod beyond the app (PSS)", &format!("{each:.2} MiB"));
    }
    proxy.delete_pods();
}

/// A large layer, packed by gzip and by zstd: imported (hashed twice and unpacked), against GNU tar that only unpacks.
fn unpacking(cluster: &Cluster) {
    let folder = cluster.folder().join("unpack");
    std::fs::create_dir_all(&folder).expect("a writable folder");
    let layer = folder.join("layer.tar");
    let shell = |script: String| {
        let status = Command::new("sh").args(["-ec", &script]).stdin(Stdio::null()).status();
        assert!(status.expect("a shell").success(), "{script}");
    };
    shell(format!("tar --create --file {} --directory / usr/lib usr/bin 2>/dev/null || true", layer.display()));
    let size = std::fs::metadata(&layer).expect("a layer").len() as f64 / 1e6;
    for (name, pack) in [("gzip", "gzip --fast"), ("zstd", "zstd --quiet -3 --stdout")] {
        let (packed, image) = (folder.join(format!("layer.{name}")), folder.join("image.tar"));
        if Command::new(name).arg("--version").stdout(Stdio::null()).status().is_err() {
            line("GNU tar", &format!("unpacking a layer packed by {name}"), &format!("{name} is not installed"));
            continue;
        }
        shell(format!("{pack} < {} > {}", layer.display(), packed.display()));
        skiff_e2e::image::of_layer(&layer, &packed, name)
            .and_then(|made| made.save(&format!("localhost:5000/large:{name}"), &image))
            .expect("written");
        shell("sync".to_owned());
        let start = Instant::now();
        cluster.skiff(&["image", "import", &image.display().to_string()]).ok();
        let ours = start.elapsed().as_secs_f64();
        let out = folder.join("out");
        std::fs::create_dir_all(&out).expect("a writable folder");
        let start = Instant::now();
        shell(format!("{name} -dc < {} | tar --extract --file - --directory {}", packed.display(), out.display()));
        let theirs = start.elapsed().as_secs_f64();
        std::fs::remove_dir_all(&out).expect("it goes");
        cluster.skiff(&["image", "rm", &format!("localhost:5000/large:{name}")]).ok();
        let text = format!("{ours:.1} s; GNU tar {theirs:.1} s; ratio {:.2}", ours / theirs);
        line("embedded", &format!("importing a layer of {size:.0} MB packed by {name}"), &text);
    }
    std::fs::remove_dir_all(&folder).expect("it goes");
}

impl Proxy {
    /// Runs a command in a pod over a WebSocket: the time from the first byte to its exit status.
    fn exec(&self, pod: &str, command: &str) -> Duration {
        let path = format!("/api/v1/namespaces/default/pods/{pod}/exec?command={command}&stdout=true&stderr=true");
        let start = Instant::now();
        let mut stream = std::net::TcpStream::connect(self.address()).expect("kubectl proxy listens");
        stream.set_nodelay(true).expect("a TCP socket");
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("kubectl proxy reads");
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        // The status comes as JSON on a channel of its own.
        while !said.windows(9).any(|part| part == b"\"Success\"") {
            match stream.read(&mut buffer) {
                Ok(length @ 1..) => said.extend_from_slice(&buffer[..length]),
                _ => panic!("exec ended: {}", String::from_utf8_lossy(&said)),
            }
        }
        start.elapsed()
    }
}
