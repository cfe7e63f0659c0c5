//! Real connections through real rules: pods in namespaces of their own, a node, and a client beyond the node.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::flows::{Answerers, Conntrack, FlowKeeper};
use crate::netlink::{Batch, Protocol, Socket};
use crate::pods::link;
use crate::rules::kernel::KernelRules;
use crate::testing::{OtherNamespace, TempFolder, in_own_namespace};
use crate::{HostPort, HostPortMapping, PodNetwork, PodNetworkConfig};

const PATIENCE: Duration = Duration::from_secs(3);
pub(super) const NODE_ADDRESS: &str = "198.51.100.1";
pub(super) const CLIENT_ADDRESS: &str = "198.51.100.2";

/// A node with pods `10.244.0.2`, `10.244.0.3`, ... that each answer on TCP and UDP port 8080 with their own
/// address and the client's, and a client in the outside world.
pub(super) struct World {
    network: PodNetwork,
    kernel: KernelRules,
    ruleset: Ruleset,
    pub(super) pods: Vec<Pod>,
    pub(super) client: OtherNamespace,
    _folder: TempFolder,
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
    pub(super) fn new(pods: usize) -> Self {
        let folder = TempFolder::new();
        let config = PodNetworkConfig {
            state_folder: folder.path().join("pods"),
            bridge: "skiff0".into(),
            node_range: "10.244.0.0/24".parse().expect("a range"),
            pod_range: frame().pod_range,
            virtual_ranges: vec![frame().service_range, frame().balancer_ranges[0]],
            local_addresses: vec![],
            mtu: None,
        };
        let network = PodNetwork::open(config).expect("opens");
        let client = OtherNamespace::new();
        join_client(&client);
        let ruleset = Ruleset::new(frame());
        let kernel = KernelRules::open().expect("opens");
        kernel.recreate(&ruleset).expect("the kernel takes it");
        let pods = (0..pods).map(|number| Pod::start(&network, number)).collect();
        Self { network, kernel, ruleset, pods, client, _folder: folder }
    }

    pub(super) fn apply(&mut self, objects: &[String]) {
        let transaction = apply(&mut self.ruleset, &super::objects(objects));
        self.kernel.update(&transaction).expect("the kernel takes it");
    }
}

/// A link from the node to a client whose default route is the node; nothing leads any further.
fn join_client(client: &OtherNamespace) {
    let namespace = crate::netlink::Namespace::open(client.path()).expect("it is there");
    let pair = link::VethPair {
        host_name: "out0",
        pod_name: "eth0",
        pod_mac: link::mac_of(CLIENT_ADDRESS.parse().expect("an address")),
        pod_namespace: &namespace,
        master: None,
        mtu: 1500,
    };
    let join = |name: &str, address: &str, gateway: Option<&str>| {
        let socket = Socket::open(Protocol::Route).expect("opens");
        let index = link::find_link(&socket, name).expect("answers").expect("it was made").index;
        let mut batch = Batch::new();
        link::link_up(&mut batch, 1, "lo");
        link::link_up(&mut batch, index, name);
        link::add_address(&mut batch, index, address.parse().expect("an address"), 24);
        if let Some(gateway) = gateway {
            let gateway = gateway.parse().expect("an address");
            link::add_route(&mut batch, crate::Prefix::ALL, link::Via::Gateway { index, gateway }, 0);
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
        let address = network.setup(&format!("pod-{number}"), namespace.path(), &[]).expect("is set up")[0];
        let ended = Arc::new(AtomicBool::new(false));
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
        Self { namespace, ended, threads: vec![tcp_thread, udp_thread] }
    }
}

/// The answer to a client in the current namespace, or the kind of failure.
fn ask_tcp(server: &str) -> String {
    let connect = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&server.parse().expect("an address"), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    connect().unwrap_or_else(|error| error.kind().to_string())
}

fn ask_udp(server: &str) -> String {
    let exchange = || -> std::io::Result<String> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send(b"?")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    exchange().unwrap_or_else(|error| error.kind().to_string())
}

fn web(kind: &str, endpoints: &[&str]) -> Vec<String> {
    let spec = format!(
        "{kind}\nclusterIP: 10.96.1.1\nports:\n- {{name: web, port: 80, nodePort: 30080}}\n- {{name: dns, port: 53, protocol: UDP, nodePort: 30053}}"
    );
    let balancer = "status:\n  loadBalancer:\n    ingress: [{ip: 203.0.113.5}]\n";
    let slice = |port: &str, name: &str| slice_yaml("web", port, endpoints).replace("web-1", name);
    vec![
        service_yaml("web", &spec) + balancer,
        slice("{name: web, port: 8080}", "web-1"),
        slice("{name: dns, port: 8080, protocol: UDP}", "web-2"),
    ]
}

/// The setting is the machine's, and a new namespace begins with it on: both must do.
fn set_bridge_netfilter(value: &str) {
    match std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", value) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        other => other.expect("can be set in a namespace of one's own"),
    }
}

#[test]
fn every_kind_of_address_answers_with_bridge_netfilter() {
    check_every_kind("1");
}

#[test]
fn every_kind_of_address_answers_without_bridge_netfilter() {
    check_every_kind("0");
}

fn check_every_kind(bridge_netfilter: &str) {
    in_own_namespace(|| {
        set_bridge_netfilter(bridge_netfilter);
        let mut world = World::new(2);
        world.apply(&web("type: LoadBalancer", &["10.244.0.2"]));
        let [served, other] = &world.pods[..] else { panic!("two pods were started") };
        let ways: [(fn(&str) -> String, u16, u16); 2] = [(ask_tcp, 80, 30080), (ask_udp, 53, 30053)];
        for (ask, port, node_port) in ways {
            let cluster = format!("10.96.1.1:{port}");
            let balancer = format!("203.0.113.5:{port}");
            let node = format!("{NODE_ADDRESS}:{node_port}");
            // From another pod: through the cluster address the client is seen as it is.
            assert_eq!(other.namespace.run(|| ask(&cluster)), "10.244.0.2 to 10.244.0.3");
            assert_eq!(other.namespace.run(|| ask(&balancer)), "10.244.0.2 to 10.244.0.1");
            assert_eq!(other.namespace.run(|| ask(&node)), "10.244.0.2 to 10.244.0.1");
            // From the very pod that serves.
            assert_eq!(served.namespace.run(|| ask(&cluster)), "10.244.0.2 to 10.244.0.1");
            assert_eq!(served.namespace.run(|| ask(&node)), "10.244.0.2 to 10.244.0.1");
            // From the node itself, also by its loopback address.
            assert_eq!(ask(&cluster), "10.244.0.2 to 10.244.0.1");
            assert_eq!(ask(&balancer), "10.244.0.2 to 10.244.0.1");
            assert_eq!(ask(&node), "10.244.0.2 to 10.244.0.1");
            assert_eq!(ask(&format!("127.0.0.1:{node_port}")), "10.244.0.2 to 10.244.0.1");
            // From the outside.
            assert_eq!(world.client.run(|| ask(&node)), "10.244.0.2 to 10.244.0.1");
            assert_eq!(world.client.run(|| ask(&balancer)), "10.244.0.2 to 10.244.0.1");
        }
        world.apply(&web("type: LoadBalancer\nexternalTrafficPolicy: Local", &["10.244.0.2"]));
        assert_eq!(
            world.client.run(|| ask_tcp(&format!("{NODE_ADDRESS}:30080"))),
            format!("10.244.0.2 to {CLIENT_ADDRESS}")
        );
        assert_eq!(world.client.run(|| ask_tcp("203.0.113.5:80")), format!("10.244.0.2 to {CLIENT_ADDRESS}"));
        assert_eq!(world.network.addresses("pod-0").len(), 1);
    });
}

#[test]
fn nobody_is_said_at_once_and_nothing_leaves_the_node() {
    in_own_namespace(|| {
        let mut world = World::new(1);
        world.apply(&web("type: NodePort", &[]));
        let pod = &world.pods[0].namespace;
        for server in
            ["10.96.1.1:80", "10.96.1.1:81", "10.99.0.1:80", "203.0.113.77:80", &format!("{NODE_ADDRESS}:30080")]
        {
            assert_eq!(pod.run(|| ask_tcp(server)), "connection refused", "{server} from a pod");
            assert_eq!(ask_tcp(server), "connection refused", "{server} from the node");
        }
        assert_eq!(pod.run(|| ask_udp("10.96.1.1:53")), "connection refused");
        assert_eq!(world.client.run(|| ask_tcp(&format!("{NODE_ADDRESS}:30080"))), "connection refused");
        // Pods of other nodes: there is no such node yet, and the uplink is no way to it.
        assert_eq!(ask_tcp("10.244.7.7:80"), "invalid input parameter");
    });
}

#[test]
fn pods_reach_the_world_with_the_address_of_the_node() {
    in_own_namespace(|| {
        let world = World::new(1);
        let listener = world.client.run(|| TcpListener::bind((CLIENT_ADDRESS, 443))).expect("it has its address");
        let seen = std::thread::scope(|scope| {
            let accept = scope.spawn(move || listener.accept().expect("a client comes").1.ip().to_string());
            let connect =
                || TcpStream::connect_timeout(&format!("{CLIENT_ADDRESS}:443").parse().expect("an address"), PATIENCE);
            world.pods[0].namespace.run(|| connect().map(drop)).expect("connects");
            accept.join().expect("does not panic")
        });
        assert_eq!(seen, NODE_ADDRESS);
    });
}

#[test]
fn a_client_with_affinity_stays_with_its_endpoint() {
    in_own_namespace(|| {
        let mut world = World::new(4);
        let service = web("sessionAffinity: ClientIP", &["10.244.0.2", "10.244.0.3", "10.244.0.4"]);
        world.apply(&service);
        let client = &world.pods[3].namespace;
        let first = client.run(|| ask_tcp("10.96.1.1:80"));
        assert!(first.ends_with(" to 10.244.0.5"), "{first}");
        for _ in 0..12 {
            assert_eq!(client.run(|| ask_tcp("10.96.1.1:80")), first);
        }
    });
}

#[test]
fn host_ports_answer_and_go() {
    in_own_namespace(|| {
        let mut world = World::new(1);
        let port: HostPort = "tcp 0.0.0.0 9090 8080".parse().expect("a host port");
        let mapping = HostPortMapping { port, pod: Ipv4Addr::new(10, 244, 0, 2) };
        let owner = service::host_port_owner(&mapping);
        let transaction = world.ruleset.replace([(owner.clone(), service::host_port_fragment(&mapping))]);
        world.kernel.update(&transaction).expect("the kernel takes it");
        let server = format!("{NODE_ADDRESS}:9090");
        assert_eq!(world.client.run(|| ask_tcp(&server)), format!("10.244.0.2 to {CLIENT_ADDRESS}"));
        assert_eq!(world.pods[0].namespace.run(|| ask_tcp(&server)), "10.244.0.2 to 10.244.0.1");
        assert_eq!(ask_tcp("127.0.0.1:9090"), "10.244.0.2 to 10.244.0.1");
        let transaction = world.ruleset.replace([(owner, Fragment::default())]);
        world.kernel.update(&transaction).expect("the kernel takes it");
        assert_eq!(world.client.run(|| ask_tcp(&server)), "connection refused");
    });
}

/// A client of UDP that goes on from the same port, as the kernel remembers it.
struct Talker(UdpSocket);

impl Talker {
    fn new(server: &str) -> Self {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("binds");
        socket.connect(server).expect("connects");
        socket.set_read_timeout(Some(PATIENCE)).expect("can be set");
        Self(socket)
    }

    fn ask(&self) -> String {
        let mut buffer = [0; 64];
        self.0.send(b"?").expect("sends");
        let length = self.0.recv(&mut buffer).expect("somebody answers");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }
}

#[test]
fn flows_of_udp_follow_the_endpoints() {
    in_own_namespace(|| {
        let mut world = World::new(3);
        let conntrack = Conntrack::open().expect("opens");
        let mut keeper = FlowKeeper::default();
        let mut drop_stale = |objects: &[String]| {
            // The slice of the port that is asked for here is the last one.
            let dns = [objects[0].clone(), objects[2].clone()];
            let (service, backends) = service_and_backends(&super::objects(&dns));
            keeper.note("service/default/web", Answerers::of_service(&service, &backends));
            keeper.clean(&conntrack).expect("the kernel does it")
        };
        // On the node, somebody answers at what will be the node port.
        let early = UdpSocket::bind((NODE_ADDRESS, 30053)).expect("the port is free");
        let from_outside = world.client.run(|| Talker::new(&format!("{NODE_ADDRESS}:30053")));
        from_outside.0.send(b"?").expect("sends");
        let (_, peer) = early.recv_from(&mut [0; 64]).expect("is asked");
        assert_eq!(peer.ip().to_string(), CLIENT_ADDRESS);

        let first = web("type: NodePort", &["10.244.0.2"]);
        world.apply(&first);
        assert_eq!(drop_stale(&first), 1, "the flow that is older than the Service");
        assert_eq!(from_outside.ask(), "10.244.0.2 to 10.244.0.1");
        let from_pod = world.pods[2].namespace.run(|| Talker::new("10.96.1.1:53"));
        let beside = world.pods[2].namespace.run(|| Talker::new("10.244.0.2:8080"));
        assert_eq!(
            (from_pod.ask(), beside.ask()),
            ("10.244.0.2 to 10.244.0.4".into(), "10.244.0.2 to 10.244.0.4".into())
        );
        assert_eq!(drop_stale(&first), 0);

        let second = web("type: NodePort", &["10.244.0.3"]);
        world.apply(&second);
        // The pod still runs here, so the old flow shows itself; mostly there would be silence.
        assert_eq!(from_pod.ask(), "10.244.0.2 to 10.244.0.4");
        assert_eq!(drop_stale(&second), 2);
        assert_eq!(from_pod.ask(), "10.244.0.3 to 10.244.0.4");
        assert_eq!(from_outside.ask(), "10.244.0.3 to 10.244.0.1");
        assert_eq!(beside.ask(), "10.244.0.2 to 10.244.0.4");
    });
}

/// How a test looks at a packet that ought to vanish: nothing is proved by waiting longer.
const SHORT_PATIENCE: Duration = Duration::from_millis(300);

fn is_dropped(server: &str) -> bool {
    let address = server.parse().expect("an address");
    matches!(TcpStream::connect_timeout(&address, SHORT_PATIENCE), Err(error) if error.kind() == std::io::ErrorKind::TimedOut)
}

#[test]
fn policies_hold_with_bridge_netfilter() {
    check_policies("1");
}

#[test]
fn policies_hold_without_bridge_netfilter() {
    check_policies("0");
}

fn check_policies(bridge_netfilter: &str) {
    in_own_namespace(|| {
        set_bridge_netfilter(bridge_netfilter);
        let mut world = World::new(3);
        world.apply(&web("type: NodePort\nexternalTrafficPolicy: Local", &["10.244.0.2"]));
        let mut trial = policies::Trial::new();
        let pods = ["web 10.244.0.2 app=web", "friend 10.244.0.3 app=friend", "stranger 10.244.0.4 app=stranger"];
        for pod in pods {
            trial.set_pods(&[&format!("default/{pod}")]);
        }
        let mut hold = |world: &mut World, policies: &[&str]| {
            trial.set_policies(policies);
            let old = world.ruleset.owners_within("policy/").map(|owner| (owner.to_owned(), Fragment::default()));
            let mut fragments: std::collections::BTreeMap<String, Fragment> = old.collect();
            let new = trial.ruleset.owners();
            fragments.extend(new.filter_map(|owner| Some((owner.to_owned(), trial.ruleset.fragment(owner)?.clone()))));
            let transaction = world.ruleset.replace(fragments);
            world.kernel.update(&transaction).expect("the kernel takes it");
        };
        let isolate =
            "podSelector: {matchLabels: {app: web}}\ningress: [{from: [{podSelector: {matchLabels: {app: friend}}}";
        let ask = |world: &World, pod: usize, server: &str| world.pods[pod].namespace.run(|| ask_tcp(server));
        let (cluster, direct, node) = ("10.96.1.1:80", "10.244.0.2:8080", format!("{NODE_ADDRESS}:30080"));
        hold(&mut world, &[&format!("default/web\n{isolate}]}}]")]);
        for server in [cluster, direct] {
            assert_eq!(ask(&world, 1, server), "10.244.0.2 to 10.244.0.3", "{server}");
            assert!(world.pods[2].namespace.run(|| is_dropped(server)), "{server}");
            // The node itself, for one that probes, is always let in.
            assert!(ask_tcp(server).starts_with("10.244.0.2 to 10.244.0.1"), "{server}");
        }
        assert_eq!(world.pods[1].namespace.run(|| ask_udp("10.96.1.1:53")), "10.244.0.2 to 10.244.0.3");
        // A pod reaches itself through its Service; and what it asks others is answered.
        assert_eq!(ask(&world, 0, cluster), "10.244.0.2 to 10.244.0.1");
        assert_eq!(ask(&world, 0, "10.244.0.4:8080"), "10.244.0.4 to 10.244.0.2");
        assert!(world.client.run(|| is_dropped(&node)));

        let outside = format!("default/web\n{isolate}, {{ipBlock: {{cidr: {CLIENT_ADDRESS}/32}}}}]}}]");
        hold(&mut world, &[&outside, "default/deny\npodSelector: {}\npolicyTypes: [Egress]"]);
        assert_eq!(world.client.run(|| ask_tcp(&node)), format!("10.244.0.2 to {CLIENT_ADDRESS}"));
        assert!(world.pods[1].namespace.run(|| is_dropped(cluster)));
        assert!(world.pods[0].namespace.run(|| is_dropped("10.244.0.4:8080")));

        hold(&mut world, &[]);
        assert_eq!(ask(&world, 2, cluster), "10.244.0.2 to 10.244.0.4");
    });
}

/// Endpoints come and go under a client that never pauses; each of its requests is answered.
#[test]
fn a_rolling_change_of_endpoints_loses_no_request() {
    in_own_namespace(|| {
        let mut world = World::new(4);
        let all = ["10.244.0.2", "10.244.0.3", "10.244.0.4"];
        world.apply(&web("type: NodePort", &all));
        let ended = AtomicBool::new(false);
        let World { ruleset, kernel, pods, .. } = &mut world;
        let asked = std::thread::scope(|scope| {
            let hammer = scope.spawn(|| {
                pods[3].namespace.run(|| {
                    let mut count = 0;
                    while !ended.load(Ordering::Relaxed) {
                        let answer = ask_tcp("10.96.1.1:80");
                        assert!(answer.starts_with("10.244.0."), "request {count}: {answer}");
                        count += 1;
                    }
                    count
                })
            });
            for round in 0..300 {
                // One, two or three of them, in ever other combinations.
                let some: Vec<&str> = (0..1 + round % 3).map(|offset| all[(round + offset) % 3]).collect();
                let transaction = apply(ruleset, &super::objects(&web("type: NodePort", &some)));
                kernel.update(&transaction).expect("the kernel takes it");
            }
            ended.store(true, Ordering::Relaxed);
            hammer.join().expect("no request was lost")
        });
        assert!(asked > 10, "the client asked {asked} times");
        println!("{asked} requests during 300 changes");
    });
}
