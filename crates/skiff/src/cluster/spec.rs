//! What is kept of a cluster: which nodes it has, and what was asked for all of them.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cli::WayBetweenNodes;
use crate::isolation::{LAST_SEAT, Link};
use crate::paths::FIRST_SEAT;
use crate::ports::{Port, Role};
use crate::relay::Way;

/// What the name of a cluster's switch has after that of the cluster.
const SWITCH: &str = "-switch";

/// What is kept of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// The nodes in the order of their making, the server first.
    pub nodes: Vec<Member>,
    /// A KubeletConfiguration for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubelet_config: Option<PathBuf>,
    /// How Pods of other nodes are reached.
    #[serde(default)]
    pub overlay: WayBetweenNodes,
    /// The ports of this machine that lead to its nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
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
    /// A server and so many agents.
    pub fn new(name: &str, agents: u8) -> Self {
        let server = Member { name: format!("{name}-server-0"), seat: FIRST_SEAT };
        let mut spec = Self {
            name: name.to_owned(),
            nodes: vec![server],
            kubelet_config: None,
            overlay: WayBetweenNodes::Auto,
            ports: Vec::new(),
        };
        for _ in 0..agents {
            spec.add();
        }
        spec
    }

    /// One more agent: the lowest number and address that no other has.
    pub fn add(&mut self) -> Option<Member> {
        let is_free = |name: &String| self.nodes.iter().all(|node| node.name != *name);
        let name = (0..).map(|number| format!("{}-agent-{number}", self.name)).find(is_free)?;
        let seat = (FIRST_SEAT..=LAST_SEAT).find(|seat| self.nodes.iter().all(|node| node.seat != *seat))?;
        let member = Member { name, seat };
        self.nodes.push(member.clone());
        Some(member)
    }

    /// The server.
    pub fn server(&self) -> &Member {
        &self.nodes[0]
    }

    /// The other nodes.
    pub fn agents(&self) -> &[Member] {
        &self.nodes[1..]
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
        self.ports.iter().map(way).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_names_and_addresses_of_their_own() {
        let mut spec = Spec::new("demo", 2);
        let told = |spec: &Spec| {
            spec.nodes.iter().map(|node| format!("{}:{}", node.name, node.seat)).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(&spec), "demo-server-0:2 demo-agent-0:3 demo-agent-1:4");
        spec.nodes.remove(1);
        spec.add().expect("there is room");
        assert_eq!(told(&spec), "demo-server-0:2 demo-agent-1:4 demo-agent-0:3");
        while spec.add().is_some() {}
        assert_eq!(spec.nodes.len(), usize::from(LAST_SEAT - FIRST_SEAT) + 1);
        assert_eq!(Spec::of_switch(&spec.switch()), Some("demo"));
    }

    #[test]
    fn ports_lead_to_nodes_of_the_cluster() {
        let with = |ports: &[&str]| {
            let ports = ports.iter().map(|port| port.parse().expect("well-formed")).collect();
            Spec { ports, ..Spec::new("a-b", 2) }
        };
        let spec = with(&["127.0.0.1:1:80", "127.0.0.1:2:81/udp@agent:1"]);
        assert_eq!(spec.check_ports(), Ok(()));
        let told: Vec<_> = spec.ways(7).iter().map(|way| format!("{} {:?}", way.listen, way.targets)).collect();
        assert_eq!(told, ["127.0.0.1:1 [198.18.7.2:80, 198.18.7.3:80, 198.18.7.4:80]", "127.0.0.1:2 [198.18.7.4:81]"]);
        let refused = with(&["1:2@agent:0,2"]).check_ports().expect_err("there are two agents");
        assert!(refused.contains("agent:2, which the cluster has not"), "{refused}");
        let refused = Spec { nodes: vec![Spec::new("a-b", 0).nodes.remove(0)], ..with(&["1:2@agents"]) }.check_ports();
        assert!(refused.expect_err("there are none").contains("no node"));
    }
}
