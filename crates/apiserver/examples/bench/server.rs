//! The server under measurement: a process of its own, with the allocator set up as `skiff` sets it up; or upstream's API
//! server with its etcd, which are looked at as one.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Fallible;
use super::load::{Client, Protocol, Request};

const START_LIMIT: Duration = Duration::from_secs(60);
/// How often a server that starts is asked whether it is ready.
const PAUSE: Duration = Duration::from_millis(20);
/// What a start of upstream's has set going is not what is measured.
const SETTLING: Duration = Duration::from_secs(3);
/// Where upstream's programs are (`tests/upstream`), if they are to be measured.
const UPSTREAM: &str = "SKIFF_UPSTREAM";
const COPIES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=0x4000000000000000");
/// As the binary sets them for itself (`settings.rs`).
const SETTINGS: [(&str, &str); 2] = [("MIMALLOC_PURGE_DELAY", "10"), COPIES];
/// Those of the load generator, which keeps what memory it has: the time that it takes is missing for the server.
pub const GENERATOR_SETTINGS: [(&str, &str); 2] = [("MIMALLOC_PURGE_DELAY", "-1"), COPIES];

/// Whose server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Ours,
    Upstreams,
}

impl Whose {
    /// All that are to be measured.
    pub fn all() -> Vec<Self> {
        if std::env::var_os(UPSTREAM).is_some() { vec![Self::Ours, Self::Upstreams] } else { vec![Self::Ours] }
    }

    /// The program that takes a folder and a port, and tells in the folder how it is spoken to.
    fn program(self) -> Fallible<Command> {
        match self {
            Self::Ours => Ok(Command::new(std::env::current_exe()?.with_file_name("serve"))),
            Self::Upstreams => {
                let folder = std::env::var_os(UPSTREAM).ok_or("upstream's programs are not there")?;
                let mut program = Command::new(Path::new(&folder).join("kubernetes"));
                program.arg("serve");
                Ok(program)
            }
        }
    }
}

/// This program again, with its settings, and where upstream's programs run in a network that has nothing but loopback.
pub fn again() -> Fallible<Command> {
    const ALONE: [&str; 5] = ["--net", "sh", "-ec", "busybox ip link set lo up; exec \"$@\"", "sh"];
    let program = std::env::current_exe()?;
    let mut again = if Whose::all().len() > 1 { Command::new("unshare") } else { Command::new(&program) };
    if Whose::all().len() > 1 {
        again.args(ALONE).arg(program);
    }
    again.args(std::env::args_os().skip(1)).envs(GENERATOR_SETTINGS);
    Ok(again)
}

pub struct Server {
    whose: Whose,
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Upstream's ends with its input, which ends here, after those that it has started.
        let asked = if self.whose == Whose::Ours { self.child.kill() } else { Ok(()) };
        if let Err(error) = asked.and_then(|()| self.child.wait()) {
            eprintln!("ending the server: {error}");
        }
    }
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub async fn start(whose: Whose, folder: &Path) -> Fallible<Self> {
        std::fs::create_dir_all(folder)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let log = std::fs::File::create(folder.join("log"))?;
        let mut program = whose.program()?;
        let child = program
            .arg(folder)
            .arg(port.to_string())
            .envs(SETTINGS)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let server = Self { whose, child, folder: folder.to_owned(), port };
        let deadline = Instant::now() + START_LIMIT;
        while let Err(error) = server.answer().await {
            if Instant::now() > deadline {
                return Err(format!("the server is not ready ({error}); see {}", folder.display()).into());
            }
            tokio::time::sleep(PAUSE).await;
        }
        if whose == Whose::Upstreams {
            tokio::time::sleep(SETTLING).await;
        }
        Ok(server)
    }

    /// Whether it is ready, and there is a namespace to work in.
    async fn answer(&self) -> Fallible<()> {
        let client = self.client(Protocol::Http1)?;
        for path in ["/readyz", "/api/v1/namespaces/default"] {
            client.connect().await?.exchange(Request::get(path), client.port).await?;
        }
        Ok(())
    }

    /// The administrator's client.
    pub fn client(&self, protocol: Protocol) -> Fallible<Client> {
        let read = |name: &str| std::fs::read(self.folder.join(name));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&read("ca.crt")?)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(&read("admin.crt")?)?],
                PrivateKeyDer::from_pem_slice(&read("admin.key")?)?,
            )?;
        Ok(Client { port: self.port, tls: Arc::new(tls), protocol, user: None })
    }

    /// The client of somebody whom the administrator stands for.
    pub fn client_as(&self, protocol: Protocol, user: &'static str) -> Fallible<Client> {
        Ok(Client { user: Some(user), ..self.client(protocol)? })
    }

    /// The memory that the server alone holds.
    pub fn memory_mib(&self) -> Fallible<f64> {
        self.processes()?.iter().map(|process| memory_mib_of(process)).sum()
    }

    /// The CPU time that the server has taken.
    pub fn cpu(&self) -> Fallible<Duration> {
        self.processes()?.iter().map(|process| cpu_of(process)).sum()
    }

    /// Those that do the work: where the process has started others, these.
    fn processes(&self) -> Fallible<Vec<String>> {
        let mut started = Vec::new();
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let children = std::fs::read_to_string(thread?.path().join("children"))?;
            started.extend(children.split_whitespace().map(str::to_owned));
        }
        Ok(if started.is_empty() { vec![self.child.id().to_string()] } else { started })
    }
}

fn memory_mib_of(process: &str) -> Fallible<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let line = text.lines().find(|line| line.starts_with("Pss:")).ok_or("no Pss in smaps_rollup")?;
    let kib: f64 = line.split_whitespace().nth(1).ok_or("no figure in smaps_rollup")?.parse()?;
    Ok(kib / 1024.0)
}

/// The CPU time, in user and in system mode, that a process has taken.
pub fn cpu_of(process: &str) -> Fallible<Duration> {
    /// The clock of `/proc`, the same on all machines.
    const TICKS_PER_SECOND: u64 = 100;
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields = text.rsplit(')').next().ok_or("no fields in stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}
