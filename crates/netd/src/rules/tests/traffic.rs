//! Real connections through real rules, in either family and in both: what is written here in IPv4 is said in IPv6 too.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::world::{
    CLIENT_ADDRESS, NODE_ADDRESS, PATIENCE, Table, World, any_port, ask_tcp, ask_udp, set_bridge_netfilter,
};
use super::*;
use crate::flows::{Answerers, Conntrack, FlowKeeper};
use crate::testing::{OtherNamespace, accept, in_own_namespace};
use crate::{HostPort, HostPortMapping};

/// Runs this with a node that has one family and then with one that has the other.
fn in_each_family(work: impl Fn(Family) + Sync) {
    for family in Family::ALL {
        in_own_namespace(|| work(family));
    }
}

/// What is answered in a namespace to a question that is put as the family says it.
fn asked(from: &OtherNamespace, family: Family, ask: fn(&str) -> String, server: &str) -> String {
    from.run(|| ask(&said(family, server)))
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

#[test]
fn every_kind_of_address_answers_with_bridge_netfilter() {
    check_every_kind("1");
}

#[test]
fn every_kind_of_address_answers_without_bridge_netfilter() {
    check_every_kind("0");
}

fn check_every_kind(bridge_netfilter: &str) {
    in_each_family(|family| {
        set_bridge_netfilter(bridge_netfilter);
        let mut world = World::new(2, &[family]);
        world.apply(&web("type: LoadBalancer", &["10.244.0.2"]));
        check_addresses(&world, family);
        world.apply(&web("type: LoadBalancer\nexternalTrafficPolicy: Local", &["10.244.0.2"]));
        for server in [&format!("{NODE_ADDRESS}:30080"), "203.0.113.5:80"] {
            let answer = asked(&world.client, family, ask_tcp, server);
            assert_eq!(answer, said(family, &format!("10.244.0.2 to {CLIENT_ADDRESS}")));
        }
        assert_eq!(world.network.addresses("pod-0").len(), 1);
    });
}

/// The first of two pods serves, and answers at every kind of address, wherever the question comes from.
fn check_addresses(world: &World, family: Family) {
    let [served, other] = &world.pods[..] else { panic!("two pods were started") };
    let ways: [(fn(&str) -> String, u16, u16); 2] = [(ask_tcp, 80, 30080), (ask_udp, 53, 30053)];
    let masqueraded = said(family, "10.244.0.2 to 10.244.0.1");
    for (ask, port, node_port) in ways {
        let cluster = format!("10.96.1.1:{port}");
        let balancer = format!("203.0.113.5:{port}");
        let node = format!("{NODE_ADDRESS}:{node_port}");
        let from = |pod: &OtherNamespace, server: &str| asked(pod, family, ask, server);
        // From another pod: through the cluster address the client is seen as it is.
        assert_eq!(from(&other.namespace, &cluster), said(family, "10.244.0.2 to 10.244.0.3"));
        assert_eq!(from(&other.namespace, &balancer), masqueraded);
        assert_eq!(from(&other.namespace, &node), masqueraded);
        // From the very pod that serves.
        assert_eq!(from(&served.namespace, &cluster), masqueraded);
        assert_eq!(from(&served.namespace, &node), masqueraded);
        // From the node itself, also by its loopback address of IPv4.
        assert_eq!(ask(&said(family, &cluster)), masqueraded);
        assert_eq!(ask(&said(family, &balancer)), masqueraded);
        assert_eq!(ask(&said(family, &node)), masqueraded);
        let loopback = match family {
            Family::V4 => masqueraded.clone(),
            Family::V6 => "connection refused".into(),
        };
        assert_eq!(ask(&said(family, &format!("127.0.0.1:{node_port}"))), loopback);
        // From the outside.
        assert_eq!(from(&world.client, &node), masqueraded);
        assert_eq!(from(&world.client, &balancer), masqueraded);
    }
}

#[test]
fn a_service_of_both_families_answers_in_both() {
    in_own_namespace(|| {
        let mut world = World::new(2, &Family::ALL);
        let mut both = web("type: LoadBalancer", &["10.244.0.2"]);
        let six: Vec<String> = both.iter().map(|text| said(Family::V6, text)).collect();
        both[0] = both[0]
            .replace("clusterIP: 10.96.1.1", "clusterIPs: [10.96.1.1, 'fd00::a60:101']")
            .replace("ingress: [{ip: 203.0.113.5}]", "ingress: [{ip: 203.0.113.5}, {ip: 'fd00::cb00:7105'}]");
        both.extend(six.into_iter().skip(1).map(|slice| slice.replace("name: web-", "name: web-six-")));
        world.apply(&both);
        for family in Family::ALL {
            check_addresses(&world, family);
        }
        let addresses = world.network.addresses("pod-0");
        assert_eq!(addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.244.0.2", "fd00::af4:2"]);
    });
}

#[test]
fn nobody_is_said_at_once_and_nothing_leaves_the_node() {
    in_each_family(|family| {
        let mut world = World::new(1, &[family]);
        world.apply(&web("type: NodePort", &[]));
        let pod = &world.pods[0].namespace;
        let node = format!("{NODE_ADDRESS}:30080");
        for server in ["10.96.1.1:80", "10.96.1.1:81", "10.99.0.1:80", "203.0.113.77:80", &node] {
            assert_eq!(asked(pod, family, ask_tcp, server), "connection refused", "{server} from a pod");
            assert_eq!(ask_tcp(&said(family, server)), "connection refused", "{server} from the node");
        }
        assert_eq!(asked(pod, family, ask_udp, "10.96.1.1:53"), "connection refused");
        assert_eq!(asked(&world.client, family, ask_tcp, &node), "connection refused");
        // Pods of other nodes: there is no such node yet, and the uplink is no way to it.
        assert_eq!(ask_tcp(&said(family, "10.244.7.7:80")), "invalid input parameter");
    });
}

#[test]
fn pods_reach_the_world_with_the_address_of_the_node() {
    in_each_family(|family| {
        let world = World::new(1, &[family]);
        let server = said(family, &format!("{CLIENT_ADDRESS}:443"));
        let listener = world.client.run(|| TcpListener::bind(&server)).expect("it has its address");
        let seen = std::thread::scope(|scope| {
            let accept = scope.spawn(move || accept(&listener, PATIENCE).1.ip().to_string());
            let connect = || TcpStream::connect_timeout(&server.parse().expect("an address"), PATIENCE);
            world.pods[0].namespace.run(|| connect().map(drop)).expect("connects");
            accept.join().expect("does not panic")
        });
        assert_eq!(seen, said(family, NODE_ADDRESS));
    });
}

#[test]
fn a_client_with_affinity_stays_with_its_endpoint() {
    in_each_family(|family| {
        let mut world = World::new(4, &[family]);
        world.apply(&web("sessionAffinity: ClientIP", &["10.244.0.2", "10.244.0.3", "10.244.0.4"]));
        let ask = || asked(&world.pods[3].namespace, family, ask_tcp, "10.96.1.1:80");
        let first = ask();
        assert!(first.ends_with(&said(family, " to 10.244.0.5")), "{first}");
        for _ in 0..12 {
            assert_eq!(ask(), first);
        }
    });
}

#[test]
fn host_ports_answer_and_go() {
    in_each_family(|family| {
        let mut world = World::new(1, &[family]);
        let port: HostPort = "tcp 0.0.0.0 9090 8080".parse().expect("a host port");
        let mapping = HostPortMapping { port, pod: said(family, "10.244.0.2").parse().expect("an address") };
        let owner = service::host_port_owner(&mapping);
        world.tables[0].replace([(owner.clone(), service::host_port_fragment(&mapping))]);
        let server = format!("{NODE_ADDRESS}:9090");
        let seen = said(family, &format!("10.244.0.2 to {CLIENT_ADDRESS}"));
        assert_eq!(asked(&world.client, family, ask_tcp, &server), seen);
        let hairpin = said(family, "10.244.0.2 to 10.244.0.1");
        assert_eq!(asked(&world.pods[0].namespace, family, ask_tcp, &server), hairpin);
        if family == Family::V4 {
            assert_eq!(ask_tcp("127.0.0.1:9090"), hairpin);
        }
        world.tables[0].replace([(owner, Fragment::default())]);
        assert_eq!(asked(&world.client, family, ask_tcp, &server), "connection refused");
    });
}

/// A client of UDP that goes on from the same port, as the kernel remembers it.
struct Talker(UdpSocket);

impl Talker {
    fn new(server: &str) -> Self {
        let socket = UdpSocket::bind(any_port(server)).expect("binds");
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
    in_each_family(|family| {
        let mut world = World::new(3, &[family]);
        let conntrack = Conntrack::open(vec![family]).expect("opens");
        let mut keeper = FlowKeeper::default();
        let mut drop_stale = |objects: &[String]| {
            // The slice of the port that is asked for here is the last one.
            let dns = said(family, &super::objects(&[objects[0].clone(), objects[2].clone()]));
            let (service, backends) = service_and_backends_of(&dns, family);
            keeper.note("service/default/web", Answerers::of_service(&service, &backends));
            keeper.clean(&conntrack).expect("the kernel does it")
        };
        let answer = |text: &str| said(family, text);
        // On the node, somebody answers at what will be the node port.
        let node_port = answer(&format!("{NODE_ADDRESS}:30053"));
        let early = UdpSocket::bind(&node_port).expect("the port is free");
        let from_outside = world.client.run(|| Talker::new(&node_port));
        from_outside.0.send(b"?").expect("sends");
        let (_, peer) = early.recv_from(&mut [0; 64]).expect("is asked");
        assert_eq!(peer.ip().to_string(), answer(CLIENT_ADDRESS));

        let first = web("type: NodePort", &["10.244.0.2"]);
        world.apply(&first);
        assert_eq!(drop_stale(&first), 1, "the flow that is older than the Service");
        assert_eq!(from_outside.ask(), answer("10.244.0.2 to 10.244.0.1"));
        let from_pod = world.pods[2].namespace.run(|| Talker::new(&answer("10.96.1.1:53")));
        let beside = world.pods[2].namespace.run(|| Talker::new(&answer("10.244.0.2:8080")));
        assert_eq!(from_pod.ask(), answer("10.244.0.2 to 10.244.0.4"));
        assert_eq!(beside.ask(), answer("10.244.0.2 to 10.244.0.4"));
        assert_eq!(drop_stale(&first), 0);

        let second = web("type: NodePort", &["10.244.0.3"]);
        world.apply(&second);
        // The pod still runs here, so the old flow shows itself; mostly there would be silence.
        assert_eq!(from_pod.ask(), answer("10.244.0.2 to 10.244.0.4"));
        assert_eq!(drop_stale(&second), 2);
        assert_eq!(from_pod.ask(), answer("10.244.0.3 to 10.244.0.4"));
        assert_eq!(from_outside.ask(), answer("10.244.0.3 to 10.244.0.1"));
        assert_eq!(beside.ask(), answer("10.244.0.2 to 10.244.0.4"));
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
    in_each_family(|family| {
        set_bridge_netfilter(bridge_netfilter);
        let mut world = World::new(3, &[family]);
        world.apply(&web("type: NodePort\nexternalTrafficPolicy: Local", &["10.244.0.2"]));
        let mut trial = trial::Trial::of(family);
        let pods = ["web 10.244.0.2 app=web", "friend 10.244.0.3 app=friend", "stranger 10.244.0.4 app=stranger"];
        for pod in pods {
            trial.set_pods(&[&format!("default/{pod}")]);
        }
        let mut hold = |world: &mut World, policies: &[&str]| {
            trial.set_policies(policies);
            let table = &mut world.tables[0];
            let old = table.ruleset.owners_within("policy/").map(|owner| (owner.to_owned(), Fragment::default()));
            let mut fragments: std::collections::BTreeMap<String, Fragment> = old.collect();
            let new = trial.ruleset.owners();
            fragments.extend(new.filter_map(|owner| Some((owner.to_owned(), trial.ruleset.fragment(owner)?.clone()))));
            table.replace(fragments);
        };
        let isolate =
            "podSelector: {matchLabels: {app: web}}\ningress: [{from: [{podSelector: {matchLabels: {app: friend}}}";
        let ask = |world: &World, pod: usize, server: &str| asked(&world.pods[pod].namespace, family, ask_tcp, server);
        let answer = |text: &str| said(family, text);
        let is_dropped = |from: &OtherNamespace, server: &str| from.run(|| is_dropped(&answer(server)));
        let (cluster, direct, node) = ("10.96.1.1:80", "10.244.0.2:8080", format!("{NODE_ADDRESS}:30080"));
        hold(&mut world, &[&format!("default/web\n{isolate}]}}]")]);
        for server in [cluster, direct] {
            assert_eq!(ask(&world, 1, server), answer("10.244.0.2 to 10.244.0.3"), "{server}");
            assert!(is_dropped(&world.pods[2].namespace, server), "{server}");
            // The node itself, for one that probes, is always let in.
            assert_eq!(ask_tcp(&answer(server)), answer("10.244.0.2 to 10.244.0.1"), "{server}");
        }
        let from_friend = asked(&world.pods[1].namespace, family, ask_udp, "10.96.1.1:53");
        assert_eq!(from_friend, answer("10.244.0.2 to 10.244.0.3"));
        // A pod reaches itself through its Service; and what it asks others is answered.
        assert_eq!(ask(&world, 0, cluster), answer("10.244.0.2 to 10.244.0.1"));
        assert_eq!(ask(&world, 0, "10.244.0.4:8080"), answer("10.244.0.4 to 10.244.0.2"));
        assert!(is_dropped(&world.client, &node));

        let outside = format!("default/web\n{isolate}, {{ipBlock: {{cidr: {CLIENT_ADDRESS}/32}}}}]}}]");
        hold(&mut world, &[&outside, "default/deny\npodSelector: {}\npolicyTypes: [Egress]"]);
        let from_outside = asked(&world.client, family, ask_tcp, &node);
        assert_eq!(from_outside, answer(&format!("10.244.0.2 to {CLIENT_ADDRESS}")));
        assert!(is_dropped(&world.pods[1].namespace, cluster));
        assert!(is_dropped(&world.pods[0].namespace, "10.244.0.4:8080"));

        hold(&mut world, &[]);
        assert_eq!(ask(&world, 2, cluster), answer("10.244.0.2 to 10.244.0.4"));
    });
}

/// Endpoints come and go under a client that never pauses; each of its requests is answered.
#[test]
fn a_rolling_change_of_endpoints_loses_no_request() {
    in_own_namespace(|| {
        let mut world = World::new(4, &[Family::V4]);
        let all = ["10.244.0.2", "10.244.0.3", "10.244.0.4"];
        world.apply(&web("type: NodePort", &all));
        let ended = AtomicBool::new(false);
        let World { tables, pods, .. } = &mut world;
        let Table { kernel, ruleset } = &mut tables[0];
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
