//! Golden plans, then real packets between nodes that are network namespaces.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::Node;

use super::apply::{Applier, DEVICE, Site};
use super::plan::{Place, Way, Ways, ways};
use crate::netlink::{Batch, Namespace, Protocol, Socket};
use crate::pods::link::{self, VethPair, Via};
use crate::pods::{PodNetwork, PodNetworkConfig};
use crate::prefix::Prefix;
use crate::testing::{OtherNamespace, TempFolder};

fn range(text: &str) -> Prefix {
    text.parse().expect("a range")
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

fn check(networks: &[&str], nodes: &str, expected: Expect) {
    let nodes: Vec<Node> = serde_saphyr::from_str(nodes).expect("a list of nodes");
    let place = Place {
        name: "me".into(),
        range: range("10.244.0.0/24"),
        pod_range: range("10.244.0.0/16"),
        networks: networks.iter().map(|network| range(network)).collect(),
    };
    let mut text = String::new();
    for (range, way) in ways(&place, nodes.iter()) {
        text.push_str(&format!("{range} {way:?}\n"));
    }
    expected.assert_eq(&text);
}

const NODES: &str = "
- metadata: {name: me}
  spec: {podCIDR: 10.244.0.0/24}
  status: {addresses: [{type: InternalIP, address: 192.168.1.1}]}
- metadata: {name: near}
  spec: {podCIDR: 10.244.1.0/24}
  status: {addresses: [{type: Hostname, address: near}, {type: InternalIP, address: 192.168.1.2}]}
- metadata: {name: far}
  spec: {podCIDRs: ['fd00::/64', 10.244.2.0/24]}
  status: {addresses: [{type: InternalIP, address: 192.168.2.2}]}
- metadata: {name: new}
  status: {addresses: [{type: InternalIP, address: 192.168.2.3}]}
- metadata: {name: without-address}
  spec: {podCIDR: 10.244.3.0/24}
- metadata: {name: takes-mine}
  spec: {podCIDR: 10.244.0.128/25}
  status: {addresses: [{type: InternalIP, address: 192.168.1.66}]}
- metadata: {name: takes-everything}
  spec: {podCIDR: 0.0.0.0/0}
  status: {addresses: [{type: InternalIP, address: 192.168.1.67}]}
- metadata: {name: takes-another}
  spec: {podCIDR: 10.244.1.0/24}
  status: {addresses: [{type: InternalIP, address: 192.168.1.68}]}
";

#[test]
fn neighbours_are_reached_directly_and_others_through_the_tunnel() {
    check(
        &["192.168.1.0/24"],
        NODES,
        expect![[r#"
            10.244.1.0/24 Direct(192.168.1.2)
            10.244.2.0/24 Tunnel(192.168.2.2)
        "#]],
    );
    check(
        &[],
        NODES,
        expect![[r#"
            10.244.1.0/24 Tunnel(192.168.1.2)
            10.244.2.0/24 Tunnel(192.168.2.2)
        "#]],
    );
}

/// A node with one pod, in a namespace.
struct World {
    node: OtherNamespace,
    pod: OtherNamespace,
    _folder: TempFolder,
    site: Site,
}

impl World {
    fn new(number: u8, own: &str) -> Self {
        let (node, pod, folder) = (OtherNamespace::new(), OtherNamespace::new(), TempFolder::new());
        let node_range = range(&format!("10.244.{number}.0/24"));
        let gateway = node_range.nth(1).expect("it has one");
        let config = PodNetworkConfig {
            state_folder: folder.path().join("leases"),
            bridge: "skiff0".into(),
            node_range,
            pod_range: range("10.244.0.0/16"),
            virtual_ranges: vec![],
            local_addresses: vec![],
            mtu: Some(1500),
        };
        let pod_path = pod.path().to_owned();
        node.run(|| {
            let network = PodNetwork::open(config).expect("a pod network");
            network.setup("a", &pod_path, &[]).expect("a pod");
        });
        Self { node, pod, _folder: folder, site: Site { address: address(own), range: node_range, gateway } }
    }

    /// An interface with the node's address that leads into another namespace.
    fn wire(&self, to: &OtherNamespace, far_name: &str, far_address: &str, bits: u8) {
        let far = Namespace::open(to.path()).expect("it is there");
        let own = self.site.address;
        self.node.run(|| {
            let socket = Socket::open(Protocol::Route).expect("a socket");
            let mut batch = Batch::new();
            let pair = VethPair {
                host_name: "eth0",
                pod_name: far_name,
                pod_mac: link::mac_of(address(far_address)),
                pod_namespace: &far,
                master: None,
                mtu: 1500,
            };
            link::add_veth(&mut batch, &pair);
            socket.execute(&batch).expect("a pair");
            let index = link::find_link(&socket, "eth0").expect("answers").expect("it was made").index;
            let mut batch = Batch::new();
            link::add_address(&mut batch, index, own, bits);
            socket.execute(&batch).expect("an address");
        });
        to.run(|| {
            let socket = Socket::open(Protocol::Route).expect("a socket");
            let index = link::find_link(&socket, far_name).expect("answers").expect("it was made").index;
            let mut batch = Batch::new();
            link::up_without_ipv6(&mut batch, far_name);
            link::add_address(&mut batch, index, address(far_address), bits);
            socket.execute(&batch).expect("an address");
        });
    }

    fn default_route(&self, gateway: &str) {
        self.node.run(|| {
            let socket = Socket::open(Protocol::Route).expect("a socket");
            let index = link::find_link(&socket, "eth0").expect("answers").expect("it was made").index;
            let mut batch = Batch::new();
            link::add_route(&mut batch, Prefix::ALL, Via::Gateway { index, gateway: address(gateway) }, 0);
            socket.execute(&batch).expect("a route");
        });
    }

    /// Applies the ways to the other node, as they are decided here.
    fn lead_to(&self, other: &Self) -> Ways {
        self.node.run(|| {
            let mut applier = Applier::open(self.site.clone()).expect("opens");
            let networks = applier.networks().expect("lists");
            let is_near = networks.iter().any(|network| network.contains(other.site.address.into()));
            let way = if is_near { Way::Direct(other.site.address) } else { Way::Tunnel(other.site.address) };
            let ways = BTreeMap::from([(other.site.range, way)]);
            applier.apply(&ways, true).expect("applied");
            applier.apply(&ways, true).expect("applied again");
            ways
        })
    }

    fn pod_address(&self) -> Ipv4Addr {
        self.site.range.nth(2).expect("the first pod's")
    }
}

/// How long a packet may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than one packet's worth, many times over.
const BULK_BYTES: usize = 300_000;

/// Sends a lot from one pod to another and back, and says whom the other saw.
fn transfer(from: &OtherNamespace, to: &OtherNamespace, at: Ipv4Addr) -> std::net::IpAddr {
    let listener = to.run(|| TcpListener::bind((at, 8080)).expect("the pod has its address"));
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, peer) = listener.accept().expect("somebody comes");
            stream.set_read_timeout(Some(PATIENCE)).expect("can be set");
            let mut got = vec![0; BULK_BYTES];
            stream.read_exact(&mut got).expect("all of it");
            stream.write_all(&got).expect("all of it back");
            peer.ip()
        });
        from.run(|| {
            let mut stream =
                TcpStream::connect_timeout(&(at, 8080).into(), PATIENCE).expect("the other pod is reached");
            stream.set_read_timeout(Some(PATIENCE)).expect("can be set");
            stream.write_all(&vec![7; BULK_BYTES]).expect("all of it");
            let mut back = vec![0; BULK_BYTES];
            stream.read_exact(&mut back).expect("all of it back");
        });
        server.join().expect("it was served")
    })
}

/// A datagram that is larger than the tunnel takes whole, but may be cut.
fn large_datagram(from: &OtherNamespace, to: &OtherNamespace, at: Ipv4Addr) {
    let there = to.run(|| UdpSocket::bind((at, 9090)).expect("the pod has its address"));
    there.set_read_timeout(Some(PATIENCE)).expect("can be set");
    from.run(|| {
        let here = UdpSocket::bind("0.0.0.0:0").expect("a port");
        here.send_to(&[1; 4000], (at, 9090)).expect("sent");
    });
    let mut buffer = [0; 5000];
    let (size, _) = there.recv_from(&mut buffer).expect("it arrives");
    assert_eq!(size, 4000);
}

#[test]
fn pods_of_nodes_on_one_network_reach_each_other() {
    let (a, b) = (World::new(1, "192.0.2.1"), World::new(2, "192.0.2.2"));
    a.wire(&b.node, "eth0", "192.0.2.2", 24);
    assert_eq!(a.lead_to(&b).into_values().collect::<Vec<_>>(), [Way::Direct(b.site.address)]);
    b.lead_to(&a);
    assert_eq!(transfer(&a.pod, &b.pod, b.pod_address()), a.pod_address());
    assert_eq!(transfer(&b.pod, &a.pod, a.pod_address()), b.pod_address());
    let tunnel = a.node.run(|| link::find_link(&Socket::open(Protocol::Route).expect("a socket"), DEVICE));
    assert_eq!(tunnel.expect("answers"), None, "nobody needs it");
}

#[test]
fn pods_of_nodes_behind_a_router_reach_each_other_through_the_tunnel() {
    let router = OtherNamespace::new();
    router.run(|| crate::pods::sysctl::set("ipv4/ip_forward", "1").expect("it forwards"));
    let (a, b) = (World::new(1, "192.0.2.1"), World::new(2, "198.51.100.1"));
    a.wire(&router, "left", "192.0.2.254", 24);
    b.wire(&router, "right", "198.51.100.254", 24);
    a.default_route("192.0.2.254");
    b.default_route("198.51.100.254");
    assert_eq!(a.lead_to(&b).into_values().collect::<Vec<_>>(), [Way::Tunnel(b.site.address)]);
    b.lead_to(&a);
    assert_eq!(transfer(&a.pod, &b.pod, b.pod_address()), a.pod_address());
    large_datagram(&b.pod, &a.pod, a.pod_address());
    // The node itself, too, and it is seen as the gateway of its pods.
    assert_eq!(transfer(&a.node, &b.pod, b.pod_address()), a.site.gateway);

    // A node that is gone leaves nothing behind, and its pods' addresses lead nowhere.
    a.node.run(|| {
        let mut applier = Applier::open(a.site.clone()).expect("opens");
        applier.apply(&Ways::new(), true).expect("applied");
        let socket = Socket::open(Protocol::Route).expect("a socket");
        assert_eq!(super::messages::routes(&socket).expect("lists"), []);
        let refused = TcpStream::connect_timeout(&(b.pod_address(), 8080).into(), PATIENCE);
        assert!(refused.is_err(), "the blackhole has it");
        super::apply::clean_up().expect("cleans up");
        assert_eq!(link::find_link(&socket, DEVICE).expect("answers"), None);
    });
}
