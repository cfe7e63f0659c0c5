//! An etcd of the tests' own: Debian's `etcd-server` on ports that are free, in a folder that is gone afterwards.
#![allow(clippy::disallowed_methods, reason = "the fixture starts a program and waits for it")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a member may take to answer; far beyond what it takes.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Whether there is an etcd to test with; says so where there is not.
pub fn is_there() -> bool {
    let found = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("SKIPPED: there is no etcd on this machine; install Debian's etcd-server");
    }
    found
}

/// One member of a cluster.
pub struct Member {
    arguments: Vec<String>,
    folder: PathBuf,
    child: Option<Child>,
    /// Where clients reach it.
    pub endpoint: String,
}

impl Member {
    /// Starts the member, with what it had stored.
    pub fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let child = Command::new("etcd")
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Nothing of the tests' own environment is a setting of etcd's.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Ends the member as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    fn address(&self) -> &str {
        self.endpoint.split("//").nth(1).unwrap()
    }

    /// Waits until the member listens; whether it has a leader is the client's business.
    pub fn wait(&self) {
        let deadline = Instant::now() + START_LIMIT;
        while std::net::TcpStream::connect(self.address()).is_err() {
            assert!(Instant::now() < deadline, "{} does not listen; see {}", self.endpoint, self.folder.display());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The certificates of a member: its own, its key, and the authority of its clients.
pub struct Certificates<'a> {
    pub certificate: &'a Path,
    pub key: &'a Path,
    pub authority: &'a Path,
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// Starts a cluster of `size` members below `folder`.
pub fn cluster(folder: &Path, size: usize, certificates: Option<Certificates<'_>>) -> Vec<Member> {
    let ports = free_ports(2 * size);
    let scheme = if certificates.is_some() { "https" } else { "http" };
    let peers: Vec<String> = (0..size).map(|n| format!("m{n}=http://127.0.0.1:{}", ports[2 * n + 1])).collect();
    let mut members = Vec::new();
    for n in 0..size {
        let own = folder.join(format!("etcd-{n}"));
        std::fs::create_dir_all(&own).unwrap();
        let endpoint = format!("{scheme}://127.0.0.1:{}", ports[2 * n]);
        let peer = format!("http://127.0.0.1:{}", ports[2 * n + 1]);
        let mut arguments: Vec<String> = [
            ("--name", format!("m{n}")),
            ("--data-dir", own.join("data").display().to_string()),
            ("--listen-client-urls", endpoint.clone()),
            ("--advertise-client-urls", endpoint.clone()),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", peers.join(",")),
            ("--initial-cluster-token", format!("skiff-{}", ports[0])),
            ("--heartbeat-interval", "50".to_owned()),
            ("--election-timeout", "500".to_owned()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        if let Some(tls) = &certificates {
            let path = |path: &Path| path.display().to_string();
            arguments.extend(["--cert-file".to_owned(), path(tls.certificate)]);
            arguments.extend(["--key-file".to_owned(), path(tls.key)]);
            arguments.extend(["--trusted-ca-file".to_owned(), path(tls.authority), "--client-cert-auth".to_owned()]);
        }
        members.push(Member { arguments, folder: own, child: None, endpoint });
    }
    members.iter_mut().for_each(Member::start);
    members.iter().for_each(Member::wait);
    members
}
