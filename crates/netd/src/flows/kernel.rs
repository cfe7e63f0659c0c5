//! The kernel's memory of connections, by ctnetlink. Names and numbers are those of
//! `linux/netfilter/nfnetlink_conntrack.h`.

use nix::errno::Errno;

use super::plan::Flow;
use crate::model::Transport;
use crate::netlink::{Attributes, Batch, NetlinkError, Protocol, Socket, attribute};
use crate::rules::Endpoint;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// `struct nfgenmsg`: IPv4, version 0, no resource.
const HEADER: [u8; 4] = [2, 0, 0, 0];

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const PROTOCOL_SOURCE_PORT: u16 = 2;
const PROTOCOL_DESTINATION_PORT: u16 = 3;

/// The memory of the network namespace in which this was opened.
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Opens the way to the kernel.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open(Protocol::Netfilter)? })
    }

    /// The flows of UDP over IPv4 that are wanted.
    pub fn udp_flows(&self, is_wanted: impl Fn(&Flow) -> bool) -> Result<Vec<Flow>, NetlinkError> {
        let mut batch = Batch::new();
        drop(batch.message("list the flows", kind(GET), NLM_F_REQUEST | NLM_F_DUMP, &HEADER));
        let mut flows = Vec::new();
        self.socket.query(&batch, |_, payload| flows.extend(read(payload).filter(|flow| is_wanted(flow))))?;
        Ok(flows)
    }

    /// Forgets these flows; one that has ended meanwhile is none to complain about.
    pub fn remove(&self, flows: &[Flow]) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        for flow in flows {
            let label = format!("forget the flow to {}", flow.asked);
            let mut message = batch.message(label, kind(DELETE), NLM_F_REQUEST | NLM_F_ACK, &HEADER);
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

/// The flow of one message, if it is one of UDP.
fn read(payload: &[u8]) -> Option<Flow> {
    let attributes = payload.get(HEADER.len()..)?;
    let original = attribute(attributes, TUPLE_ORIGINAL)?;
    let copy = |wanted| attribute(attributes, wanted).map(<[u8]>::to_vec);
    Some(Flow {
        asked: end(original, IP_DESTINATION, PROTOCOL_DESTINATION_PORT)?,
        answering: end(attribute(attributes, TUPLE_REPLY)?, IP_SOURCE, PROTOCOL_SOURCE_PORT)?,
        original: original.to_vec(),
        id: copy(ID),
        zone: copy(ZONE),
    })
}

/// One end of a tuple of UDP.
fn end(tuple: &[u8], address: u16, port: u16) -> Option<Endpoint> {
    let protocol = attribute(tuple, TUPLE_PROTOCOL)?;
    if attribute(protocol, PROTOCOL_NUMBER)? != [Transport::Udp.number()] {
        return None;
    }
    let address: [u8; 4] = attribute(attribute(tuple, TUPLE_IP)?, address)?.try_into().ok()?;
    let port: [u8; 2] = attribute(protocol, port)?.try_into().ok()?;
    Some(Endpoint { address: address.into(), port: u16::from_be_bytes(port) })
}
