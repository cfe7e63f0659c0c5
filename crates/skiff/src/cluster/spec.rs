//! What is kept of a cluster: which nodes it has, and what was asked for all of them.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cli::{BalancerOptions, MachineOptions, NodeOptions, WayBetweenNodes};
use crate::isolation::{LAST_SEAT, Link};
use crate::paths::{Datastore, EtcdPeer, FIRST_SEAT};
use crate::ports::{Port, Role};
use crate::ranges::Ranges;
use crate::relay::Way;

/// What the name of a cluster's switch has after that of the cluster.
const SWITCH: &str = "-switch";

/// Where the API of several servers is: on a free port of the loopback.
const API_OF_ALL: &str = "127.0.0.1::6443@servers:*";
/// The name that this machine has in the address of an etcd.
const THIS_MACHINE: &str = "host.skiff.internal";

/// What is kept of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// The nodes in the order of their making, the servers first.
    pub nodes: Vec<Member>,
    /// Its ranges of addresses, where they are not the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<Ranges>,
    /// Addresses for load balancers, where they are not the usual ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub load_balancer_range: Vec<String>,
    /// A KubeletConfiguration for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet_config: Option<PathBuf>,
    /// How Pods of other nodes are reached.
    #[serde(default)]
    pub overlay: WayBetweenNodes,
    /// Features of all of them that are switched on or off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub feature_gates: Vec<(String, bool)>,
    /// Versions of the API that are served beside the stable ones, or are not served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runtime_config: Vec<String>,
    /// The ports of this machine that lead to its nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// Where all servers are reached at one address, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<Port>,
    /// The etcd that the user names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<Datastore>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its address in the cluster's network.
    pub seat: u8,
}

impl Spec {
    /// So many servers and agents.
    pub fn new(name: &str, servers: u8, agents: u8) -> Self {
        let mut spec = Self {
            name: name.to_owned(),
            nodes: Vec::new(),
            ranges: None,
            load_balancer_range: Vec::new(),
            kubelet_config: None,
            overlay: WayBetweenNodes::Auto,
            feature_gates: Vec::new(),
            runtime_config: Vec::new(),
            ports: Vec::new(),
            api: (servers > 1).then(|| API_OF_ALL.parse().expect("it is written as ports are")),
            datastore: None,
        };
        for _ in 0..servers {
            spec.add(Role::Server);
        }
        for _ in 0..agents {
            spec.add(Role::Agent);
        }
        spec
    }

    /// One more node: the lowest number and address that no other has.
    pub fn add(&mut self, role: Role) -> Option<Member> {
        let is_free = |name: &String| self.nodes.iter().all(|node| node.name != *name);
        let name = (0..).map(|number| format!("{}-{}-{number}", self.name, role.word())).find(is_free)?;
        let seat = (FIRST_SEAT..=LAST_SEAT).find(|seat| self.nodes.iter().all(|node| node.seat != *seat))?;
        let member = Member { name, seat };
        self.nodes.push(member.clone());
        Some(member)
    }

    /// The first server.
    pub fn server(&self) -> &Member {
        &self.nodes[0]
    }

    /// All servers.
    pub fn servers(&self) -> Vec<Member> {
        self.all_of(Role::Server)
    }

    /// The other nodes.
    pub fn agents(&self) -> Vec<Member> {
        self.all_of(Role::Agent)
    }

    fn all_of(&self, role: Role) -> Vec<Member> {
        let is_meant = |member: &&Member| self.place(member).is_some_and(|(own, _)| own == role);
        self.nodes.iter().filter(is_meant).cloned().collect()
    }

    /// How each of the nodes is set up.
    pub fn options(&self) -> NodeOptions {
        let machine = MachineOptions {
            kubelet_config: self.kubelet_config.clone(),
            overlay: self.overlay,
            feature_gates: self.feature_gates.clone(),
            ..MachineOptions::default()
        };
        NodeOptions {
            runtime_config: self.runtime_config.clone(),
            balancing: BalancerOptions { load_balancer_range: self.load_balancer_range.clone() },
            ..NodeOptions::of_machine(machine)
        }
    }

    /// Whether the servers run an etcd themselves.
    pub fn has_etcd(&self) -> bool {
        self.datastore.is_none() && self.api.is_some()
    }

    /// The members of that etcd, in the link network of this number.
    pub fn etcd(&self, link: u8) -> Vec<EtcdPeer> {
        let peer = |member: Member| EtcdPeer { address: Link::in_cluster(link, member.seat).node(), name: member.name };
        if self.has_etcd() { self.servers().into_iter().map(peer).collect() } else { Vec::new() }
    }

    /// The etcd that the user names, as nodes in the link network of this number reach it.
    pub fn named_datastore(&self, link: u8) -> Option<Datastore> {
        let host = Link::in_cluster(link, FIRST_SEAT).host().to_string();
        let mut datastore = self.datastore.clone()?;
        datastore.endpoints.iter_mut().for_each(|endpoint| *endpoint = endpoint.replace(THIS_MACHINE, &host));
        Some(datastore)
    }

    /// All ports of this machine, that of the API first where there is one.
    pub fn all_ports(&self) -> Vec<Port> {
        self.api.iter().chain(&self.ports).cloned().collect()
    }

    /// What a node is, and its number among those.
    pub fn place(&self, member: &Member) -> Option<(Role, u16)> {
        let (kind, number) = member.name.strip_prefix(&self.name)?.strip_prefix('-')?.split_once('-')?;
        let role = [Role::Server, Role::Agent].into_iter().find(|role| role.word() == kind)?;
        Some((role, number.parse().ok()?))
    }

    /// The name of the world in which the nodes' links come together.
    pub fn switch(&self) -> String {
        format!("{}{SWITCH}", self.name)
    }

    /// The name of the cluster whose switch has this name.
    pub fn of_switch(switch: &str) -> Option<&str> {
        switch.strip_suffix(SWITCH)
    }

    /// Whether all nodes are there that ports are to lead to.
    ///
    /// # Errors
    /// One is not.
    pub fn check_ports(&self) -> Result<(), String> {
        for port in &self.ports {
            let places: Vec<_> = self.nodes.iter().filter_map(|member| self.place(member)).collect();
            if let Some((role, number)) = port.named().find(|place| !places.contains(place)) {
                return Err(format!("the port {port} leads to {}:{number}, which the cluster has not", role.word()));
            }
            if !places.iter().any(|(role, number)| port.leads_to(*role, *number)) {
                return Err(format!("the port {port} leads to no node of the cluster"));
            }
        }
        Ok(())
    }

    /// Where the ports lead in the link network of this number.
    pub fn ways(&self, link: u8) -> Vec<Way> {
        let targets = |port: &Port| {
            let led = self
                .nodes
                .iter()
                .filter(|member| self.place(member).is_some_and(|(role, number)| port.leads_to(role, number)));
            led.map(|member| SocketAddr::new(Link::in_cluster(link, member.seat).node().into(), port.node_port))
                .collect()
        };
        let way = |port: &Port| Way { listen: port.listen(), transport: port.transport, targets: targets(port) };
        self.all_ports().iter().map(way).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_names_and_addresses_of_their_own() {
        let mut spec = Spec::new("demo", 1, 2);
        let told = |spec: &Spec| {
            spec.nodes.iter().map(|node| format!("{}:{}", node.name, node.seat)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(&spec), "demo-server-0:2 demo-agent-0:3 demo-agent-1:4");
        spec.nodes.remove(1);
        spec.add(Role::Agent).expect("there is room");
        assert_eq!(told(&spec), "demo-server-0:2 demo-agent-1:4 demo-agent-0:3");
        while spec.add(Role::Agent).is_some() {}
        assert_eq!(spec.nodes.len(), usize::from(LAST_SEAT - FIRST_SEAT) + 1);
        assert_eq!(Spec::of_switch(&spec.switch()), Some("demo"));
    }

    #[test]
    fn ports_lead_to_nodes_of_the_cluster() {
        let with = |ports: &[&str]| {
            let ports = ports.iter().map(|port| port.parse().expect("well-formed")).collect();
            Spec { ports, ..Spec::new("a-b", 1, 2) }
        };
        let spec = with(&["127.0.0.1:1:80", "127.0.0.1:2:81/udp@agent:1"]);
        assert_eq!(spec.check_ports(), Ok(()));
        let told: Vec<_> = spec.ways(7).iter().map(|way| format!("{} {:?}", way.listen, way.targets)).collect();
        assert_eq!(told, ["127.0.0.1:1 [198.18.7.2:80, 198.18.7.3:80, 198.18.7.4:80]", "127.0.0.1:2 [198.18.7.4:81]"]);
        let refused = with(&["1:2@agent:0,2"]).check_ports().expect_err("there are two agents");
        assert!(refused.contains("agent:2, which the cluster has not"), "{refused}");
        let refused =
            Spec { nodes: vec![Spec::new("a-b", 1, 0).nodes.remove(0)], ..with(&["1:2@agents"]) }.check_ports();
        assert!(refused.expect_err("there are none").contains("no node"));
    }

    #[test]
    fn several_servers_share_an_etcd_and_an_address() {
        let spec = Spec::new("a", 3, 1);
        let names = |members: Vec<Member>| members.into_iter().map(|member| member.name).collect::<Vec<_>>().join(" ");
        assert_eq!(names(spec.servers()), "a-server-0 a-server-1 a-server-2");
        assert_eq!(names(spec.agents()), "a-agent-0");
        let told: Vec<_> = spec.etcd(3).iter().map(|peer| format!("{}={}", peer.name, peer.address)).collect();
        assert_eq!(told, ["a-server-0=198.18.3.2", "a-server-1=198.18.3.3", "a-server-2=198.18.3.4"]);
        assert_eq!(spec.ways(3)[0].targets.len(), 3, "the API is on all servers");
        assert_eq!(spec.named_datastore(3), None);

        let endpoints = vec!["http://host.skiff.internal:2379".to_owned()];
        let named = Datastore {
            endpoints,
            cafile: None,
            certfile: None,
            keyfile: None,
            prefix: "/registry".to_owned(),
            server_token: None,
        };
        let spec = Spec { datastore: Some(named), ..spec };
        assert!(spec.etcd(3).is_empty());
        assert_eq!(spec.named_datastore(3).expect("it is named").endpoints, ["http://198.18.3.1:2379"]);
        let single = Spec::new("a", 1, 1);
        assert!(single.etcd(3).is_empty() && single.ways(3).is_empty(), "its objects are in its folder");
    }
}
