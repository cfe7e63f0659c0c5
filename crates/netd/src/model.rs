//! The words that the whole network speaks: transport protocols, endpoints, host ports.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The transport protocols that a Service or a host port can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    /// From the API's spelling; a missing protocol is TCP.
    pub fn from_api(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// The protocol's number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// Its name as nftables writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A port of the host that leads to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// The protocol.
    pub transport: Transport,
    /// The host's address, or an unspecified one for all of them, of either family.
    pub host_address: IpAddr,
    /// The host's port.
    pub host_port: u16,
    /// The pod's port.
    pub pod_port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.transport, self.host_address, self.host_port, self.pod_port)
    }
}

/// A text that is no host port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host port such as \"tcp 0.0.0.0 8080 80\"")]
pub struct HostPortError(String);

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let parse = || {
            let mut words = text.split(' ');
            let transport = Transport::from_api(Some(&words.next()?.to_ascii_uppercase()))?;
            let host_address = words.next()?.parse().ok()?;
            let host_port = words.next()?.parse().ok()?;
            let pod_port = words.next()?.parse().ok()?;
            words.next().is_none().then_some(Self { transport, host_address, host_port, pod_port })
        };
        parse().ok_or_else(|| HostPortError(text.to_owned()))
    }
}
