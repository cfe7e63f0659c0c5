//! The server under measurement: a process of its own, with the allocator set up as `skiff` sets it up.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::Fallible;
use super::load::{Client, Protocol};

const START_LIMIT: Duration = Duration::from_secs(30);
const COPIES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=0x4000000000000000");
/// As the binary sets them for itself (`settings.rs`).
const SETTINGS: [(&str, &str); 2] = [("MIMALLOC_PURGE_DELAY", "10"), COPIES];
/// Those of the load generator, which keeps what memory it has: the time that it takes is missing for the server.
pub const GENERATOR_SETTINGS: [(&str, &str); 2] = [("MIMALLOC_PURGE_DELAY", "-1"), COPIES];

pub struct Server {
    child: Child,
    folder: PathBuf,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("ending the server: {error}");
        }
    }
}

impl Server {
    /// Starts the program `serve` that stands beside this one.
    pub async fn start(folder: &Path) -> Fallible<Self> {
        std::fs::create_dir_all(folder)?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let program = std::env::current_exe()?.with_file_name("serve");
        let log = std::fs::File::create(folder.join("log"))?;
        let child = Command::new(program)
            .arg(folder)
            .arg(port.to_string())
            .envs(SETTINGS)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        let server = Self { child, folder: folder.to_owned(), port };
        let deadline = Instant::now() + START_LIMIT;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if Instant::now() > deadline {
                return Err(format!("the server does not listen; see {}", folder.display()).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(server)
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

    /// The memory that the process alone holds.
    pub fn memory_mib(&self) -> Fallible<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = text.lines().find(|line| line.starts_with("Pss:")).ok_or("no Pss in smaps_rollup")?;
        let kib: f64 = line.split_whitespace().nth(1).ok_or("no figure in smaps_rollup")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// The CPU time that the process has taken.
    pub fn cpu(&self) -> Fallible<Duration> {
        cpu_of(&self.child.id().to_string())
    }

    pub fn stop(self) -> Fallible<()> {
        drop(self);
        Ok(())
    }
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
