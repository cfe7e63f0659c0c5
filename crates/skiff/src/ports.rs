//! Ports of this machine that lead into a cluster: how they are written down, and to which nodes each leads. Who carries
//! what comes in is in [`crate::relay`].

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::relay::Transport;

/// Where a port is that is said without an address: on all of this machine's.
const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// A port of this machine, and the port of the cluster's nodes that it leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Port {
    address: IpAddr,
    /// Zero until one is chosen.
    host_port: u16,
    /// What is carried.
    pub transport: Transport,
    /// The port of the nodes.
    pub node_port: u16,
    filters: Vec<Filter>,
}

/// What a node is in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has the control plane.
    Server,
    /// It has none.
    Agent,
}

/// Which nodes are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// All that serve the port.
    LoadBalancer,
    /// The same, as k3d has it.
    All,
    /// All of this kind.
    Each(Role),
    /// This one.
    One(Role, u16),
}

impl Role {
    /// What a node's name says of it, after the cluster's name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }
}

impl Port {
    /// Where it is on this machine.
    pub fn listen(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.host_port)
    }

    /// Whether it leads to this node.
    pub fn leads_to(&self, role: Role, number: u16) -> bool {
        self.filters.iter().any(|filter| match *filter {
            Filter::LoadBalancer | Filter::All => true,
            Filter::Each(own) => own == role,
            Filter::One(own, which) => own == role && which == number,
        })
    }

    /// The nodes that it names one by one.
    pub fn named(&self) -> impl Iterator<Item = (Role, u16)> {
        self.filters.iter().filter_map(|filter| match *filter {
            Filter::One(role, number) => Some((role, number)),
            _ => None,
        })
    }
}

/// Looks whether all of the ports can be had, and chooses those that were left open.
///
/// # Errors
/// One is given twice, or another program has it.
pub fn claim<'a>(ports: impl IntoIterator<Item = &'a mut Port>) -> io::Result<()> {
    let mut seen = BTreeSet::new();
    // All are held until the last is seen, so that none is chosen twice.
    let mut held: Vec<Box<dyn std::any::Any>> = Vec::new();
    for port in ports {
        let listen = port.listen();
        if port.host_port > 0 && !seen.insert((listen, port.transport)) {
            return Err(io::Error::other(format!("the port {listen}/{} is given twice", port.transport)));
        }
        let taken = |error: io::Error| {
            let advice = match error.kind() {
                io::ErrorKind::AddrInUse => "; another program uses it: end that one, or choose another port",
                io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
                _ => "",
            };
            io::Error::new(error.kind(), format!("listen on {listen}/{}: {error}{advice}", port.transport))
        };
        port.host_port = match port.transport {
            Transport::Tcp => {
                let listener = TcpListener::bind(listen).map_err(taken)?;
                let chosen = listener.local_addr()?.port();
                held.push(Box::new(listener));
                chosen
            }
            Transport::Udp => {
                let socket = UdpSocket::bind(listen).map_err(taken)?;
                let chosen = socket.local_addr()?.port();
                held.push(Box::new(socket));
                chosen
            }
        };
    }
    Ok(())
}

impl FromStr for Port {
    type Err = String;

    /// `[[ADDRESS:][HOST]:]NODE[/PROTOCOL][@NODES[;NODES]]`, as k3d has it.
    fn from_str(text: &str) -> Result<Self, String> {
        let (ports, nodes) = text.split_once('@').unwrap_or((text, "loadbalancer"));
        let (ports, protocol) = ports.split_once('/').unwrap_or((ports, "tcp"));
        let transport = match protocol {
            "tcp" => Transport::Tcp,
            "udp" => Transport::Udp,
            other => return Err(format!("{other:?} is no protocol that can be led into a cluster: tcp or udp")),
        };
        let (outside, inside) = ports.rsplit_once(':').unwrap_or(("", ports));
        let (address, host_port) = match outside.rsplit_once(':') {
            Some((address, port)) => (parse_address(address)?, port),
            None => (EVERYWHERE, outside),
        };
        let host_port = if host_port.is_empty() { 0 } else { parse_port(host_port)? };
        let filters = nodes.split(';').map(parse_filter).collect::<Result<Vec<_>, _>>()?.concat();
        Ok(Self { address, host_port, transport, node_port: parse_port(inside)?, filters })
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|port| *port > 0);
    number.ok_or_else(|| format!("{text:?} is no port; ports are written like 8080:80@loadbalancer"))
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| format!("{text:?} is no address; an address is written like 127.0.0.1:8080:80"))
}

fn parse_filter(text: &str) -> Result<Vec<Filter>, String> {
    let refused =
        || format!("{text:?} names no nodes: loadbalancer, all, server:0, agent:1, agents:0,2 and agents:* do");
    let text = text.strip_suffix(":proxy").unwrap_or(text);
    let (kind, which) = match text.split_once(':') {
        None if text == "loadbalancer" => return Ok(vec![Filter::LoadBalancer]),
        None if text == "all" => return Ok(vec![Filter::All]),
        None => (text, "*"),
        Some(split) => split,
    };
    let role = match kind {
        "server" | "servers" => Role::Server,
        "agent" | "agents" => Role::Agent,
        _ => return Err(refused()),
    };
    if which == "*" {
        return Ok(vec![Filter::Each(role)]);
    }
    let numbers = which.split(',').map(|number| number.parse().map(|number| Filter::One(role, number)));
    numbers.collect::<Result<_, _>>().map_err(|_| refused())
}

impl fmt::Display for Filter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoadBalancer => out.write_str("loadbalancer"),
            Self::All => out.write_str("all"),
            Self::Each(role) => write!(out, "{}:*", role.word()),
            Self::One(role, number) => write!(out, "{}:{number}", role.word()),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let filters: Vec<_> = self.filters.iter().map(Filter::to_string).collect();
        // An address of version 6 has brackets there.
        let host = match self.host_port {
            0 => SocketAddr::new(self.address, 0).to_string().trim_end_matches('0').to_owned(),
            _ => self.listen().to_string(),
        };
        write!(out, "{host}:{}/{}@{}", self.node_port, self.transport, filters.join(";"))
    }
}

impl TryFrom<String> for Port {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Port> for String {
    fn from(port: Port) -> Self {
        port.to_string()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn ports_are_written_as_k3d_has_them() {
        let told = |text: &str| match text.parse::<Port>() {
            Ok(port) => {
                assert_eq!(port.to_string().parse(), Ok(port.clone()), "it reads back");
                format!("{text} -> {port}\n")
            }
            Err(error) => format!("{text} -> {error}\n"),
        };
        let all: String = [
            "8080:80@loadbalancer",
            "8080:80",
            "127.0.0.1:8080:80/udp@server:0",
            "[::1]:53:53/udp@agent:1",
            "127.0.0.1::443@all",
            "80",
            "1:2@agents:0,2;servers:*",
            "1:2@server:0:proxy",
            "0:80",
            "8080:0",
            "8080:70000",
            "nowhere:1:2",
            "1:2/sctp",
            "1:2@server:0:direct",
            "1:2@somebody",
        ]
        .into_iter()
        .map(told)
        .collect();
        expect![[r#"
            8080:80@loadbalancer -> 0.0.0.0:8080:80/tcp@loadbalancer
            8080:80 -> 0.0.0.0:8080:80/tcp@loadbalancer
            127.0.0.1:8080:80/udp@server:0 -> 127.0.0.1:8080:80/udp@server:0
            [::1]:53:53/udp@agent:1 -> [::1]:53:53/udp@agent:1
            127.0.0.1::443@all -> 127.0.0.1::443/tcp@all
            80 -> 0.0.0.0::80/tcp@loadbalancer
            1:2@agents:0,2;servers:* -> 0.0.0.0:1:2/tcp@agent:0;agent:2;server:*
            1:2@server:0:proxy -> 0.0.0.0:1:2/tcp@server:0
            0:80 -> "0" is no port; ports are written like 8080:80@loadbalancer
            8080:0 -> "0" is no port; ports are written like 8080:80@loadbalancer
            8080:70000 -> "70000" is no port; ports are written like 8080:80@loadbalancer
            nowhere:1:2 -> "nowhere" is no address; an address is written like 127.0.0.1:8080:80
            1:2/sctp -> "sctp" is no protocol that can be led into a cluster: tcp or udp
            1:2@server:0:direct -> "server:0:direct" names no nodes: loadbalancer, all, server:0, agent:1, agents:0,2 and agents:* do
            1:2@somebody -> "somebody" names no nodes: loadbalancer, all, server:0, agent:1, agents:0,2 and agents:* do
        "#]]
        .assert_eq(&all);
    }

    #[test]
    fn a_port_leads_to_the_nodes_that_it_names() {
        let port = |text: &str| text.parse::<Port>().expect("well-formed");
        let led = |text: &str| {
            let nodes = [(Role::Server, 0), (Role::Agent, 0), (Role::Agent, 1)];
            let port = port(text);
            nodes.map(|(role, number)| port.leads_to(role, number))
        };
        assert_eq!(led("1:2@loadbalancer"), [true, true, true]);
        assert_eq!(led("1:2@agents"), [false, true, true]);
        assert_eq!(led("1:2@server:0;agent:1"), [true, false, true]);
        assert_eq!(port("1:2@agent:7;all").named().collect::<Vec<_>>(), [(Role::Agent, 7)]);
    }

    #[test]
    fn ports_that_are_left_open_are_chosen_and_taken_ones_refused() {
        let port = |text: &str| text.parse::<Port>().expect("well-formed");
        let mut open = vec![port("127.0.0.1::80"), port("127.0.0.1::80"), port("127.0.0.1::80/udp")];
        claim(&mut open).expect("there are free ports");
        assert_ne!(open[0].listen(), open[1].listen());
        assert!(open.iter().all(|port| port.listen().port() > 0));

        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let number = taken.local_addr().expect("bound").port();
        let refused = |texts: &[String]| {
            claim(texts.iter().map(|text| port(text)).collect::<Vec<_>>().iter_mut()).expect_err("refused").to_string()
        };
        let error = refused(&[format!("127.0.0.1:{number}:80")]);
        assert!(error.contains("another program uses it") && error.contains(&number.to_string()), "{error}");
        let twice = refused(&["127.0.0.1:1:80".to_owned(), "127.0.0.1:1:81".to_owned()]);
        assert!(twice.contains("given twice"), "{twice}");
    }
}
