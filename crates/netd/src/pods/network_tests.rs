//! Real packets through a real pod network, in network namespaces that the tests make for themselves.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::*;
use crate::testing::{OtherNamespace, TempFolder, accept, in_own_namespace};

fn config(folder: &TempFolder) -> PodNetworkConfig {
    PodNetworkConfig {
        state_folder: folder.path().join("pods"),
        bridge: "skiff0".into(),
        node_ranges: vec!["10.244.0.0/24".parse().expect("a range")],
        pod_ranges: vec!["10.244.0.0/16".parse().expect("a range")],
        virtual_ranges: vec!["10.96.0.0/12".parse().expect("a range")],
        local_addresses: vec!["10.96.0.10".parse().expect("an address")],
        mtu: None,
    }
}

/// The same network with both families, of which IPv6 is the first.
fn dual(folder: &TempFolder) -> PodNetworkConfig {
    let both = |six: &str, four: Vec<Cidr>| [vec![six.parse().expect("a range")], four].concat();
    let four = config(folder);
    PodNetworkConfig {
        node_ranges: both("fd00:10:244::/64", four.node_ranges),
        pod_ranges: both("fd00:10:244::/48", four.pod_ranges),
        virtual_ranges: both("fd00:10:96::/112", four.virtual_ranges),
        local_addresses: [vec!["fd00:10:96::a".parse().expect("an address")], four.local_addresses].concat(),
        ..four
    }
}

/// With addresses of IPv6 alone.
fn six(folder: &TempFolder) -> PodNetworkConfig {
    let first = |ranges: Vec<Cidr>| vec![ranges[0]];
    let dual = dual(folder);
    PodNetworkConfig {
        node_ranges: first(dual.node_ranges),
        pod_ranges: first(dual.pod_ranges),
        virtual_ranges: first(dual.virtual_ranges),
        local_addresses: vec![dual.local_addresses[0]],
        ..config(folder)
    }
}

/// A file of `/proc` as the current thread sees it.
fn proc(path: &str) -> String {
    std::fs::read_to_string(format!("/proc/{path}")).expect("reads")
}

/// What a client that connects from the current namespace is told: the address that it is seen with.
fn ask(server: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Answers one client in the current namespace with the client's own address.
fn answer_one(listener: TcpListener) {
    let (mut stream, peer) = accept(&listener, Duration::from_secs(5));
    stream.write_all(peer.ip().to_string().as_bytes()).expect("it listens");
}

fn talk(from: &OtherNamespace, to: &OtherNamespace, address: IpAddr) -> String {
    let listener = to.run(|| TcpListener::bind((address, 8080)).expect("the pod has its address"));
    std::thread::scope(|scope| {
        scope.spawn(|| answer_one(listener));
        from.run(|| ask((address, 8080).into())).expect("an answer")
    })
}

#[test]
fn pods_reach_each_other_the_host_and_themselves() {
    let folder = TempFolder::new();
    in_own_namespace(|| {
        let network = PodNetwork::open(config(&folder)).expect("opens");
        let (a, b) = (OtherNamespace::new(), OtherNamespace::new());
        let a_address = network.setup("a", a.path(), &[]).expect("is set up")[0];
        let b_address = network.setup("b", b.path(), &[]).expect("is set up")[0];
        assert_eq!((a_address.to_string(), b_address.to_string()), ("10.244.0.2".into(), "10.244.0.3".into()));
        assert_eq!(talk(&a, &b, b_address), "10.244.0.2");
        assert_eq!(talk(&b, &b, b_address), "10.244.0.3");

        let listener = b.run(|| TcpListener::bind((b_address, 9090)).expect("the pod has its address"));
        std::thread::scope(|scope| {
            scope.spawn(|| answer_one(listener));
            assert_eq!(ask((b_address, 9090).into()).expect("the host reaches a pod"), "10.244.0.1");
        });

        let listener = TcpListener::bind("10.96.0.10:53").expect("the host has the local address");
        std::thread::scope(|scope| {
            scope.spawn(|| answer_one(listener));
            let answer = a.run(|| ask("10.96.0.10:53".parse().expect("an address")));
            assert_eq!(answer.expect("a pod reaches the host"), "10.244.0.2");
        });
    });
}

#[test]
fn pods_of_both_families_reach_each_other_the_host_and_themselves() {
    for (make, count) in [(dual as fn(&TempFolder) -> PodNetworkConfig, 2), (six, 1)] {
        let folder = TempFolder::new();
        in_own_namespace(|| {
            let network = PodNetwork::open(make(&folder)).expect("opens");
            let (a, b) = (OtherNamespace::new(), OtherNamespace::new());
            let ours = network.setup("a", a.path(), &[]).expect("is set up");
            let theirs = network.setup("b", b.path(), &[]).expect("is set up");
            let text = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(text(&ours), ["fd00:10:244::2", "10.244.0.2"][..count]);
            assert_eq!(text(&theirs), ["fd00:10:244::3", "10.244.0.3"][..count]);
            let hosts = [("fd00:10:244::1", "[fd00:10:96::a]:53"), ("10.244.0.1", "10.96.0.10:53")];
            for ((here, there), (gateway, dns)) in ours.iter().zip(&theirs).zip(hosts) {
                assert_eq!(talk(&a, &b, *there), here.to_string());
                assert_eq!(talk(&b, &b, *there), there.to_string());
                let listener = b.run(|| TcpListener::bind((*there, 9090)).expect("the pod has its address"));
                std::thread::scope(|scope| {
                    scope.spawn(|| answer_one(listener));
                    assert_eq!(ask((*there, 9090).into()).expect("the host reaches a pod"), gateway);
                });
                let listener = TcpListener::bind(dns).expect("the host has the local address");
                std::thread::scope(|scope| {
                    scope.spawn(|| answer_one(listener));
                    let answer = a.run(|| ask(dns.parse().expect("an address")));
                    assert_eq!(answer.expect("a pod reaches the host"), here.to_string());
                });
            }
            // Nobody was asked for a hardware address, or for whether an address is free; and routers are not listened to.
            a.run(|| {
                let addresses = proc("thread-self/net/if_inet6");
                let own: Vec<&str> = addresses.lines().filter(|line| line.ends_with(" eth0")).collect();
                assert_eq!(own.len(), 1, "{addresses}");
                assert!(own[0].contains(" 80 00 82 "), "permanent, and not asked for: {}", own[0]);
                assert_eq!(proc("sys/net/ipv6/conf/eth0/accept_ra").trim(), "0");
            });
            assert_eq!(proc("sys/net/ipv6/conf/skiff0/accept_ra").trim(), "0");
            assert_eq!(proc("sys/net/ipv6/conf/all/forwarding").trim(), "1");
            assert_eq!(proc("sys/net/ipv6/conf/lo/accept_ra").trim(), "2", "what listened before goes on");
        });
    }
}

#[test]
fn an_address_of_ipv6_can_be_used_at_once() {
    let folder = TempFolder::new();
    in_own_namespace(|| {
        let network = PodNetwork::open(six(&folder)).expect("opens");
        let server = OtherNamespace::new();
        let at = network.setup("server", server.path(), &[]).expect("is set up")[0];
        for number in 0..5 {
            let client = OtherNamespace::new();
            let own = network.setup(&number.to_string(), client.path(), &[]).expect("is set up")[0];
            assert_eq!(talk(&client, &server, at), own.to_string());
            network.teardown(&number.to_string()).expect("tears down");
        }
    });
}

/// Says from the current namespace, as a router would, that this is the way to everywhere. RFC 4861, section 4.2.
fn pose_as_router() {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).expect("the tests run as root");
    socket.set_multicast_hops_v6(255).expect("can be set");
    let index = link::find_link(&crate::netlink::Socket::open(crate::netlink::Protocol::Route).expect("opens"), "eth0");
    let index = index.expect("answers").expect("it is there").index;
    let source: SocketAddr = "[fe80::bad]:0".parse().expect("an address");
    let SocketAddr::V6(mut source) = source else { panic!("it is of IPv6") };
    source.set_scope_id(index);
    socket.bind(&SocketAddr::V6(source).into()).expect("it has the address");
    socket.set_multicast_if_v6(index).expect("can be set");
    let mut advertisement = [0; 16];
    // Of half an hour; the kernel fills in the sum.
    (advertisement[0], advertisement[4], advertisement[6]) = (134, 64, 7);
    let everybody: SocketAddr = "[ff02::1]:0".parse().expect("an address");
    socket.send_to(&advertisement, &everybody.into()).expect("sent");
}

#[test]
fn no_pod_is_a_router_to_others() {
    let folder = TempFolder::new();
    in_own_namespace(|| {
        let network = PodNetwork::open(six(&folder)).expect("opens");
        let (a, b) = (OtherNamespace::new(), OtherNamespace::new());
        network.setup("a", a.path(), &[]).expect("is set up");
        let theirs = network.setup("b", b.path(), &[]).expect("is set up")[0];
        a.run(|| {
            let socket = Socket::open(Protocol::Route).expect("opens");
            let index = link::find_link(&socket, "eth0").expect("answers").expect("it is there").index;
            let mut batch = Batch::new();
            link::add_address(&mut batch, index, "fe80::bad".parse().expect("an address"), 64);
            socket.execute(&batch).expect("a pod's root may do that");
        });
        let is_believed = || proc("thread-self/net/ipv6_route").contains("fe800000000000000000000000000bad");
        a.run(pose_as_router);
        // What comes behind it is answered: so it has been looked at.
        talk(&a, &b, theirs);
        assert!(!b.run(is_believed) && !is_believed());
        // One that listens would have believed it.
        b.run(|| sysctl::set("ipv6/conf/eth0/accept_ra", "1").expect("can be set"));
        a.run(pose_as_router);
        let comes = (0..2000).any(|_| {
            std::thread::sleep(Duration::from_millis(1));
            b.run(is_believed)
        });
        assert!(comes, "the advertisement is one");
    });
}

#[test]
fn one_family_more_is_given_to_the_pods_that_come_after() {
    let folder = TempFolder::new();
    in_own_namespace(|| {
        let (a, b) = (OtherNamespace::new(), OtherNamespace::new());
        let network = PodNetwork::open(config(&folder)).expect("opens");
        network.setup("a", a.path(), &[]).expect("is set up");
        drop(network);
        let network = PodNetwork::open(dual(&folder)).expect("takes over");
        let both = network.setup("b", b.path(), &[]).expect("is set up");
        assert_eq!(network.addresses("a").len(), 1);
        assert_eq!(talk(&a, &b, both[1]), "10.244.0.2");
        assert_eq!(talk(&b, &b, both[0]), both[0].to_string());
        // And one family less: the pods keep the other.
        drop(network);
        let network = PodNetwork::open(config(&folder)).expect("takes over");
        assert_eq!(network.addresses("b"), [both[1]]);
        assert_eq!(network.setup("b", b.path(), &[]).expect("is set up again"), [both[1]]);
        assert_eq!(talk(&a, &b, both[1]), "10.244.0.2");
    });
}

#[test]
fn both_families_are_taken_down_without_a_trace() {
    let folder = TempFolder::new();
    in_own_namespace(|| {
        let (addresses, routes) = (proc("thread-self/net/if_inet6"), proc("thread-self/net/ipv6_route"));
        let network = PodNetwork::open(dual(&folder)).expect("opens");
        let a = OtherNamespace::new();
        network.setup("a", a.path(), &[]).expect("is set up");
        network.teardown("a").expect("tears down");
        network.setup("a", a.path(), &[]).expect("is set up again");
        assert_ne!(proc("thread-self/net/ipv6_route"), routes);
        PodNetwork::clean_up_everything(network.config()).expect("cleans up");
        assert_eq!((proc("thread-self/net/if_inet6"), proc("thread-self/net/ipv6_route")), (addresses, routes));
        PodNetwork::clean_up_everything(network.config()).expect("twice is no error");
    });
}

#[test]
fn host_ports_lead_to_the_addresses_of_their_family() {
    let folder = TempFolder::new();
    in_own_namespace(|| {
        let network = PodNetwork::open(dual(&folder)).expect("opens");
        let a = OtherNamespace::new();
        let ports = ["tcp 0.0.0.0 8080 80", "udp 192.0.2.1 53 53", "udp 2001:db8::1 54 54"];
        let ports = ports.map(|port| port.parse().expect("a host port"));
        network.setup("a", a.path(), &ports).expect("is set up");
        let told: Vec<String> =
            network.host_ports().borrow().iter().map(|it| format!("{} > {}", it.port, it.pod)).collect();
        let expected = [
            "tcp 0.0.0.0 8080 80 > fd00:10:244::2",
            "tcp 0.0.0.0 8080 80 > 10.244.0.2",
            "udp 192.0.2.1 53 53 > 10.244.0.2",
            "udp 2001:db8::1 54 54 > fd00:10:244::2",
        ];
        assert_eq!(told, expected);
    });
}

#[test]
fn an_interface_is_made_anew_after_a_restart_and_taken_down_without_a_trace() {
    let folder = TempFolder::new();
    in_own_namespace(|| {
        let a = OtherNamespace::new();
        let network = PodNetwork::open(config(&folder)).expect("opens");
        let first = network.setup("a", a.path(), &[]).expect("is set up");
        drop(network);

        let network = PodNetwork::open(config(&folder)).expect("takes over");
        assert_eq!(network.addresses("a"), first);
        assert_eq!(network.setup("a", a.path(), &[]).expect("is set up again"), first);
        network.retain(|_| false).expect("tears down");
        assert_eq!(network.addresses("a"), Vec::<IpAddr>::new());
        network.teardown("a").expect("twice is no error");
        let gone = a.run(|| {
            let socket = Socket::open(Protocol::Route).expect("opens");
            link::find_link(&socket, POD_INTERFACE).expect("answers")
        });
        assert_eq!(gone, None);

        network.setup("b", a.path(), &[]).expect("is set up");
        PodNetwork::clean_up_everything(network.config()).expect("cleans up");
        let socket = Socket::open(Protocol::Route).expect("opens");
        let left: Vec<String> = link::links(&socket).expect("lists").into_iter().map(|link| link.name).collect();
        assert!(left.iter().all(|name| !name.starts_with("pod") && name != "skiff0"), "{left:?}");
        assert_eq!(std::fs::read_to_string("/proc/thread-self/net/route").expect("reads").lines().count(), 1);
        PodNetwork::clean_up_everything(network.config()).expect("twice is no error");
    });
}

#[test]
fn host_ports_are_announced_and_never_given_twice() {
    let folder = TempFolder::new();
    in_own_namespace(|| {
        let network = PodNetwork::open(config(&folder)).expect("opens");
        let (a, b) = (OtherNamespace::new(), OtherNamespace::new());
        let port: HostPort = "tcp 0.0.0.0 8080 80".parse().expect("a host port");
        network.setup("a", a.path(), &[port]).expect("is set up");
        let announced = network.host_ports().borrow().clone();
        assert_eq!(announced, [HostPortMapping { port, pod: "10.244.0.2".parse().expect("an address") }]);
        let refused = network.setup("b", b.path(), &["tcp 192.0.2.1 8080 80".parse().expect("a host port")]);
        let message = refused.expect_err("it overlaps").to_string();
        assert_eq!(message, "pod network: host port tcp 192.0.2.1 8080 80 is in use by sandbox a");
        network.teardown("a").expect("tears down");
        assert!(network.host_ports().borrow().is_empty());
    });
}

#[test]
fn a_namespace_that_is_not_there_leaves_no_lease() {
    let folder = TempFolder::new();
    in_own_namespace(|| {
        let network = PodNetwork::open(config(&folder)).expect("opens");
        let error = network.setup("a", Path::new("/nowhere/net"), &[]).expect_err("there is none");
        assert!(
            error.to_string().starts_with("pod network: cannot enter the network namespace /nowhere/net"),
            "{error}"
        );
        assert!(network.addresses("a").is_empty());
    });
}

#[test]
fn pods_have_addresses_of_their_own_and_go_together() {
    const PODS: usize = 20;
    let folder = TempFolder::new();
    in_own_namespace(|| {
        let network = PodNetwork::open(config(&folder)).expect("opens");
        let pods: Vec<_> = (0..PODS).map(|_| OtherNamespace::new()).collect();
        for (number, pod) in pods.iter().enumerate() {
            network.setup(&number.to_string(), pod.path(), &[]).expect("is set up");
        }
        let addresses: std::collections::BTreeSet<_> =
            (0..PODS).flat_map(|number| network.addresses(&number.to_string())).collect();
        assert_eq!(addresses.len(), PODS);
        std::thread::scope(|scope| {
            for number in 1..PODS {
                let network = &network;
                scope.spawn(move || network.teardown(&number.to_string()).expect("tears down"));
            }
        });
        let socket = Socket::open(Protocol::Route).expect("opens");
        let left: Vec<String> = link::links(&socket).expect("lists").into_iter().map(|link| link.name).collect();
        let left: Vec<&String> = left.iter().filter(|name| name.starts_with("pod")).collect();
        assert_eq!(left, ["pod0af40002"]);
        let known = (0..PODS).filter(|number| !network.addresses(&number.to_string()).is_empty());
        assert_eq!(known.collect::<Vec<_>>(), [0]);
        let leaving = network.leaving.lock();
        assert_eq!((leaving.names.len(), leaving.gone.len()), (0, 0), "nobody is waited for any more");
    });
}
