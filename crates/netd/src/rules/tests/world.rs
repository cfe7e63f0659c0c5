//! A node in a namespace, with pods in namespaces of their own, and a client beyond the node.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::netlink::{Batch, Protocol, Socket};
use crate::pods::link;
use crate::rules::kernel::KernelRules;
use crate::testing::{OtherNamespace, TempFolder};
use crate::{PodNetwork, PodNetworkConfig};

pub(super) const PATIENCE: Duration = Duration::from_secs(3);
pub(super) const NODE_ADDRESS: &str = "198.51.100.1";
pub(super) const CLIENT_ADDRESS: &str = "198.51.100.2";

/// A node with pods `10.244.0.2`, `10.244.0.3`, ... that each answer on TCP and UDP port 8080 with their own
/// address and the client's, and a client in the outside world. In IPv6 it is the translation of all that.
pub(super) struct World {
    pub(super) network: PodNetwork,
    pub(super) tables: Vec<Table>,
    pub(super) pods: Vec<Pod>,
    pub(super) client: OtherNamespace,
    _folder: TempFolder,
}

/// The rules of one family.
pub(super) struct Table {
    pub(super) kernel: KernelRules,
    pub(super) ruleset: Ruleset,
}

impl Table {
    pub(super) fn replace(&mut self, fragments: impl IntoIterator<Item = (String, Fragment)>) {
        let transaction = self.ruleset.replace(fragments);
        self.kernel.update(&transaction).expect("the kernel takes it");
    }
}

pub(super) struct Pod {
    pub(super) namespace: OtherNamespace,
    ended: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || std::thread::panicking());
        }
    }
}

impl World {
    pub(super) fn new(pods: usize, families: &[Family]) -> Self {
        let folder = TempFolder::new();
        let frame = frame_of(families);
        let node_range = |family: &Family| said(*family, "10.244.0.0/24").parse().expect("a range");
        let config = PodNetworkConfig {
            state_folder: folder.path().join("pods"),
            bridge: "skiff0".into(),
            node_ranges: families.iter().map(node_range).collect(),
            pod_ranges: frame.pod_ranges.clone(),
            virtual_ranges: [frame.service_ranges.clone(), frame.balancer_ranges.clone()].concat(),
            local_addresses: vec![],
            mtu: None,
        };
        let network = PodNetwork::open(config).expect("opens");
        let client = OtherNamespace::new();
        join_client(&client, families);
        let table = |family: &Family| {
            let ruleset = Ruleset::new(frame.clone(), *family);
            let kernel = KernelRules::open(*family).expect("opens");
            kernel.recreate(&ruleset).expect("the kernel takes it");
            Table { kernel, ruleset }
        };
        let tables = families.iter().map(table).collect();
        let pods = (0..pods).map(|number| Pod::start(&network, number)).collect();
        Self { network, tables, pods, client, _folder: folder }
    }

    /// Serves these objects, which are said as the first family says them.
    pub(super) fn apply(&mut self, objects: &[String]) {
        let objects = said(self.tables[0].ruleset.family(), &super::objects(objects));
        for Table { kernel, ruleset } in &mut self.tables {
            let transaction = apply(ruleset, &objects);
            kernel.update(&transaction).expect("the kernel takes it");
        }
    }
}

/// A link from the node to a client whose default route is the node; nothing leads any further.
fn join_client(client: &OtherNamespace, families: &[Family]) {
    let namespace = crate::netlink::Namespace::open(client.path()).expect("it is there");
    let address = |family: Family, text: &str| -> IpAddr { said(family, text).parse().expect("an address") };
    let pair = link::VethPair {
        host_name: "out0",
        pod_name: "eth0",
        pod_mac: link::mac_of(address(families[0], CLIENT_ADDRESS)),
        pod_namespace: &namespace,
        master: None,
        mtu: 1500,
    };
    let join = |name: &str, own: &str, gateway: Option<&str>| {
        let socket = Socket::open(Protocol::Route).expect("opens");
        let index = link::find_link(&socket, name).expect("answers").expect("it was made").index;
        let mut batch = Batch::new();
        link::link_up(&mut batch, 1, "lo");
        link::link_up(&mut batch, index, name);
        for family in families {
            link::add_address(&mut batch, index, address(*family, own), family.bits() - 8);
            if *family == Family::V6 {
                // As an uplink has: neighbours are asked for from it.
                let local = format!("fe80::{}", own.rsplit('.').next().expect("an address"));
                link::add_address(&mut batch, index, local.parse().expect("an address"), 64);
            }
            if let Some(gateway) = gateway {
                let gateway = address(*family, gateway);
                let all = skiff_base::Cidr::all(*family);
                link::add_route(&mut batch, all, link::Via::Gateway { index, gateway }, 0);
            }
        }
        socket.execute(&batch).expect("the kernel takes it");
    };
    let socket = Socket::open(Protocol::Route).expect("opens");
    let mut batch = Batch::new();
    link::add_veth(&mut batch, &pair);
    socket.execute(&batch).expect("the kernel takes it");
    join("out0", NODE_ADDRESS, None);
    client.run(|| join("eth0", CLIENT_ADDRESS, Some(NODE_ADDRESS)));
}

impl Pod {
    fn start(network: &PodNetwork, number: usize) -> Self {
        let namespace = OtherNamespace::new();
        let addresses = network.setup(&format!("pod-{number}"), namespace.path(), &[]).expect("is set up");
        let ended = Arc::new(AtomicBool::new(false));
        let threads = addresses.iter().flat_map(|address| serve(&namespace, *address, &ended)).collect();
        Self { namespace, ended, threads }
    }
}

/// Answers at one address of a pod.
fn serve(namespace: &OtherNamespace, address: IpAddr, ended: &Arc<AtomicBool>) -> [std::thread::JoinHandle<()>; 2] {
    let (tcp, udp) = namespace.run(|| {
        let tcp = TcpListener::bind((address, 8080)).expect("the pod has its address");
        let udp = UdpSocket::bind((address, 8080)).expect("the pod has its address");
        (tcp, udp)
    });
    tcp.set_nonblocking(true).expect("can be set");
    udp.set_read_timeout(Some(Duration::from_millis(5))).expect("can be set");
    let (tcp_ended, udp_ended) = (ended.clone(), ended.clone());
    let answer = move |peer: SocketAddr| format!("{address} to {}", peer.ip());
    let tcp_thread = std::thread::spawn(move || {
        while !tcp_ended.load(Ordering::Relaxed) {
            match tcp.accept() {
                Ok((mut stream, peer)) => stream.write_all(answer(peer).as_bytes()).expect("the client listens"),
                Err(_) => std::thread::yield_now(),
            }
        }
    });
    let udp_thread = std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while !udp_ended.load(Ordering::Relaxed) {
            if let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                udp.send_to(answer(peer).as_bytes(), peer).expect("the client listens");
            }
        }
    });
    [tcp_thread, udp_thread]
}

/// The answer to a client in the current namespace, or the kind of failure.
pub(super) fn ask_tcp(server: &str) -> String {
    let connect = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&server.parse().expect("an address"), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    connect().unwrap_or_else(|error| error.kind().to_string())
}

pub(super) fn ask_udp(server: &str) -> String {
    let exchange = || -> std::io::Result<String> {
        let socket = UdpSocket::bind(any_port(server))?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"?")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    exchange().unwrap_or_else(|error| error.kind().to_string())
}

/// Where a client of this server binds.
pub(super) fn any_port(server: &str) -> SocketAddr {
    let server: SocketAddr = server.parse().expect("an address");
    (Family::of(server.ip()).unspecified(), 0).into()
}

/// The setting is the machine's, and a new namespace begins with it on: both must do.
pub(super) fn set_bridge_netfilter(value: &str) {
    for setting in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        match std::fs::write(format!("/proc/sys/net/bridge/{setting}"), value) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            other => other.expect("can be set in a namespace of one's own"),
        }
    }
}
