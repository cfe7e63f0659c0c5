//! The kernel's memory of connections, by ctnetlink. Names and numbers are those of
//! `linux/netfilter/nfnetlink_conntrack.h`.

use nix::errno::Errno;

use super::plan::Flow;
use crate::family::{Family, address_of, socket_number};
use crate::model::Transport;
use crate::netlink::{Attributes, Batch, NetlinkError, Protocol, Socket, attribute};
use crate::rules::Endpoint;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const HEADER_BYTES: usize = 4;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE_PORT: u16 = 2;
const PROTOCOL_DESTINATION_PORT: u16 = 3;

/// One end of a flow, as seen by its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Source,
    Destination,
}

impl End {
    /// The attribute that an address is in.
    fn address(self, family: Family) -> u16 {
        match (self, family) {
            (Self::Source, Family::V4) => 1,
            (Self::Destination, Family::V4) => 2,
            (Self::Source, Family::V6) => 3,
            (Self::Destination, Family::V6) => 4,
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Source => PROTOCOL_SOURCE_PORT,
            Self::Destination => PROTOCOL_DESTINATION_PORT,
        }
    }
}

/// The memory of the network namespace in which this was opened, as far as it is of some families.
pub struct Conntrack {
    socket: Socket,
    families: Vec<Family>,
}

impl Conntrack {
    /// Opens the way to the kernel.
    pub fn open(families: Vec<Family>) -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(Protocol::Netfilter)?, families })
    }

    /// The flows of UDP that are wanted.
    pub fn udp_flows(&self, is_wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>, NetlinkError> {
        let mut flows = Vec::new();
        for family in &self.families {
            let mut batch = Batch::new();
            drop(batch.message("list the flows", kind(GET), NLM_F_REQUEST | NLM_F_DUMP, &header(*family)));
            self.socket
                .query(&batch, |_, payload| flows.extend(read(payload, *family).filter(|flow| is_wanted(flow))))?;
        }
        Ok(flows)
    }

    /// Forgets these flows; one that has ended meanwhile is none to complain about.
    pub fn remove(&self, flows: &[Flow]) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        for flow in flows {
            let label = format!("forget the flow to {}", flow.asked);
            let header = header(Family::of(flow.asked.address));
            let mut message = batch.message(label, kind(DELETE), NLM_F_REQUEST | NLM_F_ACK, &header);
            message.nest(TUPLE_ORIGINAL, |tuple| tuple.bytes().extend_from_slice(&flow.original));
            for (attribute, value) in [(ID, &flow.id), (ZONE, &flow.zone)] {
                if let Some(value) = value {
                    message.put(attribute, value);
                }
            }
        }
        let refused = self.socket.try_all(&batch)?;
        refused.into_iter().find(|error| error.errno() != Some(Errno::ENOENT)).map_or(Ok(()), Err)
    }
}

fn kind(message: u16) -> u16 {
    NFNL_SUBSYS_CTNETLINK << 8 | message
}

/// `struct nfgenmsg`: the family, version 0, no resource.
fn header(family: Family) -> [u8; HEADER_BYTES] {
    [socket_number(family), 0, 0, 0]
}

/// The flow of one message, if it is one of UDP.
fn read(payload: &[u8], family: Family) -> Option<Flow> {
    let attributes = payload.get(HEADER_BYTES..)?;
    let original = attribute(attributes, TUPLE_ORIGINAL)?;
    let copy = |wanted| attribute(attributes, wanted).map(<[u8]>::to_vec);
    Some(Flow {
        asked: endpoint(original, family, End::Destination)?,
        answering: endpoint(attribute(attributes, TUPLE_REPLY)?, family, End::Source)?,
        original: original.to_vec(),
        id: copy(ID),
        zone: copy(ZONE),
    })
}

/// One end of a tuple of UDP.
fn endpoint(tuple: &[u8], family: Family, end: End) -> Option<Endpoint> {
    let protocol = attribute(tuple, TUPLE_PROTOCOL)?;
    if attribute(protocol, PROTOCOL_NUMBER)? != [Transport::Udp.number()] {
        return None;
    }
    let address = address_of(family, attribute(attribute(tuple, TUPLE_IP)?, end.address(family))?)?;
    let port: [u8; 2] = attribute(protocol, end.port())?.try_into().ok()?;
    Some(Endpoint { address, port: u16::from_be_bytes(port) })
}
