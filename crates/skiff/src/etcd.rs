//! The etcd member that a server runs beside itself where the servers of a cluster on one machine share an etcd of their own:
//! the program that the machine has, started with the server, started again when it ends, and with TLS on all its ways.
//! It outlives the server, as containers do, and ends with the node's first process.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::certificates::Certificates;
use crate::commands::CommandError;
use crate::machine::Machine;
use crate::paths::{Datastore, EtcdPeer, Paths, named, write_atomically};
use crate::pki::{Authority, Leaf, Purpose};
use crate::process::Process;

/// The program.
pub const PROGRAM: &str = "etcd";
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;
/// What etcd says is in this file of the node's folder.
const LOG: &str = "etcd.log";
/// A member that ended is started again after this long.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a member that another run of the server started is waited for at a time.
const LOOK: Duration = Duration::from_secs(1);

/// How a server reaches its store: by its own member, which is there when the server is. A member of another node that
/// vanished would hold up whoever asks it until that is noticed. The files are the server's own.
pub fn datastore(own: &EtcdPeer, paths: &Paths, prefix: &str) -> Datastore {
    let pki = paths.pki();
    Datastore {
        endpoints: vec![url(own.address, CLIENT_PORT)],
        cafile: Some(pki.join("etcd-ca.crt")),
        certfile: Some(pki.join("etcd.crt")),
        keyfile: Some(pki.join("etcd.key")),
        prefix: prefix.to_owned(),
        server_token: None,
    }
}

fn url(address: Ipv4Addr, port: u16) -> String {
    format!("https://{}", SocketAddr::new(address.into(), port))
}

/// Starts the member, unless an earlier run's is there still, and sees to it that it runs.
///
/// # Errors
/// Its certificate cannot be written, or the program cannot be started.
pub fn start(machine: &Machine, certificates: &Certificates) -> Result<(), CommandError> {
    if machine.facts.etcd.is_empty() {
        return Ok(());
    }
    issue_certificate(machine, certificates)?;
    let (paths, node) = (machine.paths.clone(), machine.facts.node_name.clone());
    let arguments = arguments(&paths, &node, &machine.facts.etcd).ok_or("this server is none of the etcd's members")?;
    let pid_file = paths.join("run/etcd.pid");
    let earlier = Process::read(&pid_file)?;
    let first = if earlier.is_some() { None } else { Some(spawn(&paths, &arguments)?) };
    let supervise = move || {
        if let Some(earlier) = earlier {
            while !earlier.wait_gone(LOOK) {}
        }
        let mut running = first;
        loop {
            let ended = match running.take().map_or_else(|| spawn(&paths, &arguments), Ok) {
                Ok(mut child) => {
                    child.wait().map(|status| status.to_string()).unwrap_or_else(|error| error.to_string())
                }
                Err(error) => error.to_string(),
            };
            tracing::warn!(%ended, "the etcd member ended; {} says more", paths.join(LOG).display());
            std::thread::sleep(AGAIN);
        }
    };
    std::thread::Builder::new().name("etcd".to_owned()).spawn(supervise)?;
    Ok(())
}

fn spawn(paths: &Paths, arguments: &[String]) -> io::Result<Child> {
    let log_file = paths.join(LOG);
    let log =
        File::options().create(true).append(true).open(&log_file).map_err(|error| named(&log_file, "open", error))?;
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // Settings of another etcd of this machine must not be taken for this one's.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD_") && name != "ETCD_UNSUPPORTED_ARCH" {
            command.env_remove(name);
        }
    }
    let child = command.spawn().map_err(|error| io::Error::new(error.kind(), format!("start {PROGRAM}: {error}")))?;
    if let Some(process) = i32::try_from(child.id()).ok().and_then(Process::of) {
        process.write(&paths.join("run/etcd.pid"))?;
    }
    Ok(child)
}

/// One certificate for all ways: members are each other's clients too. The program reads the files whenever it is asked.
fn issue_certificate(machine: &Machine, certificates: &Certificates) -> io::Result<()> {
    let authority = Authority::load_or_create_etcd(&machine.paths.pki(), machine.clock.clone())?;
    certificates.tell_of_authority("etcd-ca", &authority.certificates());
    let (pki, name) = (machine.paths.pki(), machine.facts.node_name.clone());
    let mut addresses = machine.addresses.clone();
    // Members know each other by addresses that they keep, whatever families the cluster has.
    let own = machine.facts.etcd.iter().find(|peer| peer.name == name).map(|peer| IpAddr::V4(peer.address));
    addresses.extend(own.filter(|own| !machine.addresses.contains(own)));
    addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let recipe = move || -> io::Result<Leaf> {
        let leaf =
            authority.issue(&name, &Purpose::Peer { names: std::slice::from_ref(&name), addresses: &addresses })?;
        write_atomically(&pki.join("etcd.key"), leaf.key_pem.as_bytes(), 0o600)?;
        write_atomically(&pki.join("etcd.crt"), leaf.certificate_pem.as_bytes(), 0o644)?;
        Ok(leaf)
    };
    certificates.issue("etcd", recipe).map(drop)
}

/// How the member of this name is started.
fn arguments(paths: &Paths, name: &str, members: &[EtcdPeer]) -> Option<Vec<String>> {
    let own = members.iter().find(|member| member.name == name)?;
    let (client, peer) = (url(own.address, CLIENT_PORT), url(own.address, PEER_PORT));
    let all: Vec<_> =
        members.iter().map(|member| format!("{}={}", member.name, url(member.address, PEER_PORT))).collect();
    let pki = |file: &str| paths.pki().join(file).display().to_string();
    let folder = paths.join("etcd").display().to_string();
    let settings = [
        ("name", name.to_owned()),
        ("data-dir", folder),
        ("listen-client-urls", client.clone()),
        ("advertise-client-urls", client),
        ("listen-peer-urls", peer.clone()),
        ("initial-advertise-peer-urls", peer),
        ("initial-cluster", all.join(",")),
        ("initial-cluster-state", "new".to_owned()),
        ("client-cert-auth", "true".to_owned()),
        ("trusted-ca-file", pki("etcd-ca.crt")),
        ("cert-file", pki("etcd.crt")),
        ("key-file", pki("etcd.key")),
        ("peer-client-cert-auth", "true".to_owned()),
        ("peer-trusted-ca-file", pki("etcd-ca.crt")),
        ("peer-cert-file", pki("etcd.crt")),
        ("peer-key-file", pki("etcd.key")),
        ("logger", "zap".to_owned()),
        ("log-level", "warn".to_owned()),
    ];
    Some(settings.into_iter().map(|(name, value)| format!("--{name}={value}")).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::expect;

    use super::*;

    #[test]
    fn members_know_each_other() {
        let peer =
            |number: u8| EtcdPeer { name: format!("a-server-{number}"), address: [198, 18, 1, 2 + number].into() };
        let members = [peer(0), peer(1), peer(2)];
        let paths = Paths::new(Path::new("/d"), Some("a-server-1"));
        let told = arguments(&paths, "a-server-1", &members).expect("it is one of them").join("\n");
        expect![[r#"
            --name=a-server-1
            --data-dir=/d/isolated/a-server-1/etcd
            --listen-client-urls=https://198.18.1.3:2379
            --advertise-client-urls=https://198.18.1.3:2379
            --listen-peer-urls=https://198.18.1.3:2380
            --initial-advertise-peer-urls=https://198.18.1.3:2380
            --initial-cluster=a-server-0=https://198.18.1.2:2380,a-server-1=https://198.18.1.3:2380,a-server-2=https://198.18.1.4:2380
            --initial-cluster-state=new
            --client-cert-auth=true
            --trusted-ca-file=/d/isolated/a-server-1/pki/etcd-ca.crt
            --cert-file=/d/isolated/a-server-1/pki/etcd.crt
            --key-file=/d/isolated/a-server-1/pki/etcd.key
            --peer-client-cert-auth=true
            --peer-trusted-ca-file=/d/isolated/a-server-1/pki/etcd-ca.crt
            --peer-cert-file=/d/isolated/a-server-1/pki/etcd.crt
            --peer-key-file=/d/isolated/a-server-1/pki/etcd.key
            --logger=zap
            --log-level=warn"#]]
        .assert_eq(&told);
        assert_eq!(arguments(&paths, "b", &members), None);
        assert_eq!(datastore(&members[1], &paths, "/registry").endpoints, ["https://198.18.1.3:2379"]);
    }
}
