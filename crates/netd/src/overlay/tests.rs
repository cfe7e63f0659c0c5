//! Golden plans, then real packets between nodes that are network namespaces.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use expect_test::{Expect, expect};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use skiff_base::{Cidr, Family};

use super::apply::{Applier, DEVICE, Site};
use super::plan::{Place, Way, Ways, tunnel_mac, ways};
use crate::netlink::{Batch, Namespace, Protocol, Socket};
use crate::pods::link::{self, VethPair, Via};
use crate::pods::{PodNetwork, PodNetworkConfig};
use crate::testing::{OtherNamespace, TempFolder, accept};

fn range(text: &str) -> Cidr {
    text.parse().expect("a range")
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn check(networks: &[&str], nodes: &str, expected: Expect) {
    let nodes: Vec<Node> = serde_saphyr::from_str(nodes).expect("a list of nodes");
    let place = Place {
        name: "me".into(),
        ranges: vec![range("10.244.0.0/24")],
        pod_ranges: vec![range("10.244.0.0/16")],
        tunnel: Some(Family::V4),
        networks: networks.iter().map(|network| range(network)).collect(),
    };
    let mut text = String::new();
    for (range, way) in ways(&place, nodes.iter()) {
        let way = match way {
            Way::Direct(address) => format!("Direct({address})"),
            Way::Tunnel(address, _) => format!("Tunnel({address})"),
        };
        text.push_str(&format!("{range} {way}\n"));
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

const DUAL_NODES: &str = "
- metadata: {name: near}
  spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24, 'fd00:10:244:1::/64']}
  status: {addresses: [{type: InternalIP, address: 192.168.1.2}, {type: InternalIP, address: 'fd00:1::2'}]}
- metadata: {name: near-in-one}
  spec: {podCIDR: 'fd00:10:244:2::/64', podCIDRs: ['fd00:10:244:2::/64', 10.244.2.0/24]}
  status: {addresses: [{type: InternalIP, address: 192.168.1.3}]}
- metadata: {name: far}
  spec: {podCIDRs: [10.244.3.0/24, 'fd00:10:244:3::/64', 'fd00:10:244:33::/64']}
  status: {addresses: [{type: InternalIP, address: 'fd00:2::2'}, {type: InternalIP, address: 192.168.2.2}]}
- metadata: {name: out-of-reach}
  spec: {podCIDRs: [10.244.4.0/24, 'fd00:10:244:4::/64']}
  status: {addresses: [{type: InternalIP, address: 'fd00:2::3'}]}
- metadata: {name: takes-mine}
  spec: {podCIDRs: ['fd00:10:244::/63']}
  status: {addresses: [{type: InternalIP, address: 192.168.1.66}]}
";

#[test]
fn each_family_has_ways_of_its_own() {
    let nodes: Vec<Node> = serde_saphyr::from_str(DUAL_NODES).expect("a list of nodes");
    let place = Place {
        name: "me".into(),
        ranges: pod_ranges(Some(0)).to_vec(),
        pod_ranges: pod_ranges(None).to_vec(),
        tunnel: Some(Family::V4),
        networks: vec![range("192.168.1.0/24"), range("fd00:1::/64")],
    };
    let way = |way: Way| match way {
        Way::Direct(address) => format!("direct {address}"),
        Way::Tunnel(address, mac) => format!("tunnel {address} {}", mac.map(|byte| format!("{byte:02x}")).join(":")),
    };
    let text: String =
        ways(&place, nodes.iter()).into_iter().map(|(range, to)| format!("{range} {}\n", way(to))).collect();
    expect![[r#"
        10.244.1.0/24 direct 192.168.1.2
        10.244.2.0/24 direct 192.168.1.3
        10.244.3.0/24 tunnel 192.168.2.2 0a:58:0a:f4:03:00
        fd00:10:244:1::/64 direct fd00:1::2
        fd00:10:244:2::/64 tunnel 192.168.1.3 0a:58:0a:f4:02:00
        fd00:10:244:3::/64 tunnel 192.168.2.2 0a:58:0a:f4:03:00
    "#]]
    .assert_eq(&text);
}

/// A node with one pod, in a namespace.
struct World {
    node: OtherNamespace,
    pod: OtherNamespace,
    _folder: TempFolder,
    site: Site,
    /// Those of the pod.
    addresses: Vec<IpAddr>,
}

/// The pod ranges of both families, of the whole cluster or of one node.
fn pod_ranges(node: Option<u8>) -> [Cidr; 2] {
    match node {
        None => [range("10.244.0.0/16"), range("fd00:10:244::/48")],
        Some(number) => [range(&format!("10.244.{number}.0/24")), range(&format!("fd00:10:244:{number}::/64"))],
    }
}

impl World {
    /// The node has these addresses of its own, and pods have addresses of these families.
    fn new(number: u8, own: &[&str], families: &[Family]) -> Self {
        let (node, pod, folder) = (OtherNamespace::new(), OtherNamespace::new(), TempFolder::new());
        let of = |ranges: [Cidr; 2]| -> Vec<Cidr> {
            let one = |family: &Family| ranges.into_iter().find(|range| range.family() == *family);
            families.iter().filter_map(one).collect()
        };
        let config = PodNetworkConfig {
            state_folder: folder.path().join("leases"),
            bridge: "skiff0".into(),
            node_ranges: of(pod_ranges(Some(number))),
            pod_ranges: of(pod_ranges(None)),
            virtual_ranges: vec![],
            local_addresses: vec![],
            mtu: Some(1500),
        };
        let site = Site { addresses: own.iter().map(|own| address(own)).collect(), ranges: config.node_ranges.clone() };
        let pod_path = pod.path().to_owned();
        let addresses = node.run(|| {
            let network = PodNetwork::open(config).expect("a pod network");
            network.setup("a", &pod_path, &[]).expect("a pod")
        });
        Self { node, pod, _folder: folder, site, addresses }
    }

    /// An interface with the node's addresses that leads into another namespace, to an interface with these.
    fn wire(&self, to: &OtherNamespace, far_name: &str, far_addresses: &[&str]) {
        let far = Namespace::open(to.path()).expect("it is there");
        let far_addresses: Vec<IpAddr> = far_addresses.iter().map(|far| address(far)).collect();
        self.node.run(|| {
            let socket = Socket::open(Protocol::Route).expect("a socket");
            let mut batch = Batch::new();
            let pair = VethPair {
                host_name: "eth0",
                pod_name: far_name,
                pod_mac: link::mac_of(far_addresses[0]),
                pod_namespace: &far,
                master: None,
                mtu: 1500,
            };
            link::add_veth(&mut batch, &pair);
            socket.execute(&batch).expect("a pair");
            switch_on("eth0", &self.site.addresses);
        });
        to.run(|| switch_on(far_name, &far_addresses));
    }

    fn default_route(&self, gateway: &str) {
        self.node.run(|| {
            let socket = Socket::open(Protocol::Route).expect("a socket");
            let index = link::find_link(&socket, "eth0").expect("answers").expect("it was made").index;
            let gateway = address(gateway);
            let mut batch = Batch::new();
            let all = Cidr::all(Family::of(gateway));
            link::add_route(&mut batch, all, Via::Gateway { index, gateway }, 0);
            socket.execute(&batch).expect("a route");
        });
    }

    /// Applies the ways to the other node, as they are decided.
    fn lead_to(&self, other: &Self) -> Vec<Way> {
        let listed = |addresses: &[IpAddr]| -> Vec<serde_json::Value> {
            addresses.iter().map(|own| json!({ "type": "InternalIP", "address": own })).collect()
        };
        let ranges: Vec<String> = other.site.ranges.iter().map(ToString::to_string).collect();
        let node = json!({
            "metadata": { "name": "other" },
            "spec": { "podCIDR": ranges[0], "podCIDRs": ranges },
            "status": { "addresses": listed(&other.site.addresses) },
        });
        let node: Node = serde_json::from_value(node).expect("a Node");
        self.node.run(|| {
            let mut applier = Applier::open(self.site.clone()).expect("opens");
            let place = Place {
                name: "me".into(),
                ranges: self.site.ranges.clone(),
                pod_ranges: pod_ranges(None).to_vec(),
                tunnel: self.site.tunnel(),
                networks: applier.networks().expect("lists"),
            };
            let ways = ways(&place, [node].iter());
            applier.apply(&ways, true).expect("applied");
            applier.apply(&ways, true).expect("applied again");
            ways.into_values().collect()
        })
    }

    fn pod_address(&self) -> IpAddr {
        self.addresses[0]
    }

    fn gateway(&self, family: Family) -> IpAddr {
        let range = self.site.ranges.iter().find(|range| range.family() == family).expect("it has one");
        crate::pods::gateway(*range)
    }
}

/// Switches an interface of the current namespace on that has these addresses; each is in a network with the others that
/// begin like it.
fn switch_on(name: &str, addresses: &[IpAddr]) {
    let socket = Socket::open(Protocol::Route).expect("a socket");
    let index = link::find_link(&socket, name).expect("answers").expect("it was made").index;
    let mut batch = Batch::new();
    link::link_up(&mut batch, index, name);
    for address in addresses {
        link::add_address(&mut batch, index, *address, if address.is_ipv4() { 24 } else { 64 });
        if let IpAddr::V6(six) = address {
            // As an uplink has: a router asks for its neighbours from such an address alone.
            let local = std::net::Ipv6Addr::from_bits(0xfe80 << 112 | six.to_bits() & u128::from(u64::MAX));
            link::add_address(&mut batch, index, local.into(), 64);
        }
    }
    socket.execute(&batch).expect("an address");
}

/// How long a packet may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than one packet's worth, many times over.
const BULK_BYTES: usize = 300_000;

/// Sends a lot from one pod to another and back, and says whom the other saw.
fn transfer(from: &OtherNamespace, to: &OtherNamespace, at: IpAddr) -> IpAddr {
    let listener = to.run(|| TcpListener::bind((at, 8080)).expect("the pod has its address"));
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, peer) = accept(&listener, PATIENCE);
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

/// A datagram that is larger than the tunnel takes whole, but may be cut. In IPv6 its sender alone may do that, who is
/// told so when the first one was too large.
fn large_datagram(from: &OtherNamespace, to: &OtherNamespace, at: IpAddr) {
    let there = to.run(|| UdpSocket::bind((at, 9090)).expect("the pod has its address"));
    let attempts = if at.is_ipv4() { 1 } else { 2 };
    there.set_read_timeout(Some(PATIENCE / attempts)).expect("can be set");
    let here = from.run(|| UdpSocket::bind((Family::of(at).unspecified(), 0)).expect("a port"));
    let mut buffer = [0; 5000];
    let attempt = |_| {
        here.send_to(&[1; 4000], (at, 9090)).expect("sent");
        there.recv_from(&mut buffer).ok()
    };
    let (size, _) = (0..attempts).find_map(attempt).expect("it arrives");
    assert_eq!(size, 4000);
}

fn tunnel() -> Option<link::Link> {
    link::find_link(&Socket::open(Protocol::Route).expect("a socket"), DEVICE).expect("answers")
}

/// The pods of both nodes reach each other in every family that they have.
fn check_pods(a: &World, b: &World) {
    for (here, there) in a.addresses.iter().zip(&b.addresses) {
        assert_eq!(transfer(&a.pod, &b.pod, *there), *here);
        assert_eq!(transfer(&b.pod, &a.pod, *here), *there);
    }
}

#[test]
fn pods_of_nodes_on_one_network_reach_each_other() {
    let four = [Family::V4];
    let (a, b) = (World::new(1, &["192.0.2.1"], &four), World::new(2, &["192.0.2.2"], &four));
    a.wire(&b.node, "eth0", &["192.0.2.2"]);
    assert_eq!(a.lead_to(&b), [Way::Direct(b.site.addresses[0])]);
    b.lead_to(&a);
    check_pods(&a, &b);
    assert_eq!(a.node.run(tunnel), None, "nobody needs it");
}

#[test]
fn pods_of_both_families_take_the_next_hop_of_their_own() {
    let own = [["fd00:2::1", "192.0.2.1"], ["fd00:2::2", "192.0.2.2"]];
    let [a, b] = [0, 1].map(|at| World::new(at as u8 + 1, &own[at], &[Family::V6, Family::V4]));
    a.wire(&b.node, "eth0", &own[1]);
    let [six, four] = b.site.addresses[..] else { panic!("it has two") };
    assert_eq!(a.lead_to(&b), [Way::Direct(four), Way::Direct(six)]);
    b.lead_to(&a);
    check_pods(&a, &b);
    assert_eq!(a.node.run(tunnel), None, "nobody needs it");
}

/// Two nodes behind a router, each with one address of its own and pods of these families.
fn behind_a_router(own: [(&str, &str); 2], families: &[Family]) -> (World, World, OtherNamespace) {
    let router = OtherNamespace::new();
    router.run(|| {
        ["ipv4/ip_forward", "ipv6/conf/all/forwarding"]
            .into_iter()
            .for_each(|name| crate::pods::sysctl::set(name, "1").expect("it forwards"));
    });
    let [(a, to_a), (b, to_b)] = own;
    let (a, b) = (World::new(1, &[a], families), World::new(2, &[b], families));
    a.wire(&router, "left", &[to_a]);
    b.wire(&router, "right", &[to_b]);
    a.default_route(to_a);
    b.default_route(to_b);
    (a, b, router)
}

#[test]
fn pods_of_nodes_behind_a_router_reach_each_other_through_the_tunnel() {
    let own = [("192.0.2.1", "192.0.2.254"), ("198.51.100.1", "198.51.100.254")];
    let (a, b, _router) = behind_a_router(own, &[Family::V4]);
    assert_eq!(a.lead_to(&b), [Way::Tunnel(b.site.addresses[0], tunnel_mac(&b.site.ranges))]);
    b.lead_to(&a);
    check_pods(&a, &b);
    large_datagram(&b.pod, &a.pod, a.pod_address());
    // The node itself, too, and it is seen as the gateway of its pods.
    assert_eq!(transfer(&a.node, &b.pod, b.pod_address()), a.gateway(Family::V4));

    // A node that is gone leaves nothing behind, and its pods' addresses lead nowhere.
    a.node.run(|| {
        let mut applier = Applier::open(a.site.clone()).expect("opens");
        applier.apply(&Ways::new(), true).expect("applied");
        let socket = Socket::open(Protocol::Route).expect("a socket");
        assert_eq!(super::messages::routes(&socket).expect("lists"), []);
        let refused = TcpStream::connect_timeout(&(b.pod_address(), 8080).into(), PATIENCE);
        assert!(refused.is_err(), "the blackhole has it");
        super::apply::clean_up().expect("cleans up");
        assert_eq!(tunnel(), None);
    });
}

/// A client of a node port is masqueraded on its way into the tunnel, or the answer would take another way back.
#[test]
fn who_is_masqueraded_into_the_tunnel_is_answered_by_it() {
    let own = [("192.0.2.1", "192.0.2.254"), ("198.51.100.1", "198.51.100.254")];
    let (a, b, _router) = behind_a_router(own, &[Family::V4, Family::V6]);
    a.lead_to(&b);
    b.lead_to(&a);
    a.node.run(|| {
        // Where the kernel looks first for an address to leave with.
        let mut batch = Batch::new();
        link::link_up(&mut batch, 1, "lo");
        link::add_address(&mut batch, 1, address("203.0.113.9"), 32);
        Socket::open(Protocol::Route).expect("a socket").execute(&batch).expect("an address");
    });
    for (family, at) in [("ip", b.addresses[0]), ("ip6", b.addresses[1])] {
        a.node.run(|| masquerade(family));
        assert_eq!(transfer(&a.pod, &b.pod, at), a.gateway(Family::of(at)));
    }
}

#[allow(clippy::disallowed_methods, reason = "nft is the tests' way to rules that the program does not make")]
fn masquerade(family: &str) {
    let rules = format!(
        "add table {family} t; add chain {family} t c {{ type nat hook postrouting priority 100; }}; add rule {family} t c oifname {DEVICE} masquerade"
    );
    let output = std::process::Command::new("nft").arg(rules).output().expect("nft is installed where tests run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The network between the nodes knows one family, their pods have both.
fn check_both_through(own: [(&str, &str); 2], families: &[Family], mtu: u32) {
    let (a, b, _router) = behind_a_router(own, families);
    let way = Way::Tunnel(b.site.addresses[0], tunnel_mac(&b.site.ranges));
    assert_eq!(a.lead_to(&b), [way, way]);
    b.lead_to(&a);
    check_pods(&a, &b);
    a.addresses.iter().for_each(|at| large_datagram(&b.pod, &a.pod, *at));
    for at in &b.addresses {
        assert_eq!(transfer(&a.node, &b.pod, *at), a.gateway(Family::of(*at)));
    }
    a.node.run(|| {
        let socket = Socket::open(Protocol::Route).expect("a socket");
        let index = tunnel().expect("it is there").index;
        assert_eq!(link::mtu(&socket, index).expect("answers"), Some(mtu));
        // One family less takes nothing from the other.
        let mut applier = Applier::open(a.site.clone()).expect("opens");
        let both: Ways = b.site.ranges.iter().map(|range| (*range, way)).collect();
        applier.apply(&both, true).expect("applied");
        applier.apply(&both.iter().take(1).map(|(range, way)| (*range, *way)).collect(), false).expect("applied");
        assert_eq!(super::messages::routes(&socket).expect("lists"), [range("10.244.2.0/24")]);
    });
    let four = b.addresses.iter().find(|at| at.is_ipv4()).expect("it has one");
    let from = a.addresses.iter().find(|at| at.is_ipv4()).expect("it has one");
    assert_eq!(transfer(&a.pod, &b.pod, *four), *from);
    a.node.run(|| {
        super::apply::clean_up().expect("cleans up");
        assert_eq!(tunnel(), None);
    });
}

#[test]
fn both_families_travel_through_a_network_of_one() {
    let own = [("192.0.2.1", "192.0.2.254"), ("198.51.100.1", "198.51.100.254")];
    check_both_through(own, &[Family::V4, Family::V6], 1450);
}

#[test]
fn both_families_travel_through_a_network_of_the_other() {
    let own = [("fd00:2::1", "fd00:2::fe"), ("fd00:3::1", "fd00:3::fe")];
    check_both_through(own, &[Family::V6, Family::V4], 1430);
}
