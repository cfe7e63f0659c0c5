//! From a request's bytes to a response's: what the protocol asks for beside the answer itself.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record as WireRecord, RecordType};

use super::answer::{Answer, Data, Kind, Record, answer};
use super::names::Names;

/// How long answers may be kept. Upstream's default for the cluster's names.
pub(super) const TTL_SECONDS: u32 = 30;
/// How long it may be believed that there is nothing; short, since what is asked for is often about to be made.
const NEGATIVE_TTL_SECONDS: u32 = 5;
/// What a client takes by UDP if it does not say.
const PLAIN_UDP_BYTES: u16 = 512;
/// What we say that we take and send by UDP at most: it fits into one packet everywhere.
pub(super) const EDNS_UDP_BYTES: u16 = 1232;
/// What a TCP message can hold.
const TCP_BYTES: usize = u16::MAX as usize;
const SRV_WEIGHT: u16 = 100;

/// What comes of a request.
pub(super) enum Outcome {
    /// Nothing can be answered to this.
    Silence,
    /// This is the response.
    Reply(Message),
    /// Somebody else knows.
    Forward(Message),
    /// So far it is answered here; the rest, the records of this name, somebody else knows.
    Continue {
        /// The response so far.
        reply: Message,
        /// The name to ask for.
        target: Name,
    },
}

/// Answers a request from what is known. `rotation` decides which of several addresses comes first.
pub(super) fn respond(bytes: &[u8], names: &Names, can_forward: bool, rotation: usize) -> Outcome {
    let Ok(request) = Message::from_vec(bytes) else { return malformed(bytes) };
    if request.metadata.message_type == MessageType::Response {
        return Outcome::Silence;
    }
    let mut reply = reply_to(&request);
    reply.metadata.recursion_available = can_forward;
    let [question] = &request.queries[..] else { return with_code(reply, ResponseCode::FormErr) };
    if request.metadata.op_code != OpCode::Query {
        return with_code(reply, ResponseCode::NotImp);
    }
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return with_code(reply, ResponseCode::BADVERS);
    }
    if question.query_class() != DNSClass::IN {
        return with_code(reply, ResponseCode::Refused);
    }
    let asked = plain(question.name());
    reply.metadata.authoritative = true;
    match answer(names, &asked, kind_of(question.query_type())) {
        Answer::NotOurs if can_forward => Outcome::Forward(request),
        Answer::NotOurs => {
            reply.metadata.authoritative = false;
            with_code(reply, ResponseCode::Refused)
        }
        Answer::Found { answers, additionals } => {
            put(&mut reply, names, question, answers, rotation);
            reply.additionals = additionals.iter().filter_map(|record| wire(record, names)).collect();
            Outcome::Reply(reply)
        }
        Answer::Elsewhere { answers, target } => {
            put(&mut reply, names, question, answers, rotation);
            match Name::from_ascii(format!("{target}.")) {
                Ok(target) if can_forward => Outcome::Continue { reply, target },
                _ => Outcome::Reply(reply),
            }
        }
        Answer::NoData => negative(reply, names, ResponseCode::NoError),
        Answer::NoSuchName => negative(reply, names, ResponseCode::NXDomain),
    }
}

/// An empty response to the request, with its question.
pub(super) fn reply_to(request: &Message) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.queries.clone_from(&request.queries);
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_UDP_BYTES).set_version(0);
        reply.edns = Some(edns);
    }
    reply
}

/// A response that says only that it did not work.
pub(super) fn failure(request: &Message, code: ResponseCode) -> Message {
    let mut reply = reply_to(request);
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    reply
}

/// The largest response by UDP that the request allows.
pub(super) fn udp_limit(request: &[u8]) -> usize {
    let edns = Message::from_vec(request).ok().and_then(|message| message.edns);
    edns.map_or(PLAIN_UDP_BYTES, |edns| edns.max_payload().clamp(PLAIN_UDP_BYTES, EDNS_UDP_BYTES)).into()
}

/// The bytes of a response that fit; whole records are left out, and the response says so.
pub(super) fn encode(mut reply: Message, limit: Option<usize>) -> Option<Vec<u8>> {
    let limit = limit.unwrap_or(TCP_BYTES);
    let fits = |reply: &Message| reply.to_vec().ok().filter(|bytes| bytes.len() <= limit);
    if let Some(bytes) = fits(&reply) {
        return Some(bytes);
    }
    // What is additional may be left out without a word; the rest not.
    reply.additionals.clear();
    if let Some(bytes) = fits(&reply) {
        return Some(bytes);
    }
    reply.metadata.truncation = true;
    let answers = std::mem::take(&mut reply.answers);
    let with = |count: usize| {
        let mut part = reply.clone();
        part.answers.extend_from_slice(&answers[..count]);
        part
    };
    let (mut low, mut high) = (0, answers.len());
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(&with(middle)).is_some() { low = middle } else { high = middle - 1 }
    }
    fits(&with(low)).or_else(|| {
        reply.authorities.clear();
        reply.to_vec().ok()
    })
}

/// A request too broken to be read still has its number, to say so.
fn malformed(bytes: &[u8]) -> Outcome {
    let Some(&[high, low, flags, ..]) = bytes.get(..12) else { return Outcome::Silence };
    if flags & 0x80 != 0 {
        return Outcome::Silence;
    }
    let id = u16::from_be_bytes([high, low]);
    Outcome::Reply(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr))
}

fn with_code(mut reply: Message, code: ResponseCode) -> Outcome {
    reply.metadata.response_code = code;
    Outcome::Reply(reply)
}

fn negative(mut reply: Message, names: &Names, code: ResponseCode) -> Outcome {
    let soa = (names.zone.domain.clone(), Data::Soa);
    reply.authorities.extend(wire(&soa, names).map(|mut record| {
        record.ttl = NEGATIVE_TTL_SECONDS;
        record
    }));
    with_code(reply, code)
}

fn put(reply: &mut Message, names: &Names, question: &Query, mut answers: Vec<Record>, rotation: usize) {
    // Aliases come first and stay first; clients that take the first address are spread over all.
    let aliases = answers.iter().take_while(|(_, data)| matches!(data, Data::Cname(_))).count();
    let rest = &mut answers[aliases..];
    if !rest.is_empty() {
        rest.rotate_left(rotation % rest.len());
    }
    let asked = plain(question.name());
    for record in &answers {
        let Some(mut wire) = wire(record, names) else { continue };
        // Clients that mix cases to be harder to deceive compare the name as they wrote it.
        if record.0 == asked {
            wire.name = question.name().clone();
        }
        reply.answers.push(wire);
    }
}

/// The record as it is sent; `None` if a name in it cannot be one (an external name that nobody could resolve either).
fn wire((owner, data): &Record, names: &Names) -> Option<WireRecord> {
    let name = |text: &str| Name::from_ascii(format!("{text}.")).ok();
    let rdata = match data {
        Data::Address(IpAddr::V4(address)) => RData::A(A(*address)),
        Data::Address(IpAddr::V6(address)) => RData::AAAA(AAAA(*address)),
        Data::Srv { port, target } => RData::SRV(SRV::new(0, SRV_WEIGHT, *port, name(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(name(target)?)),
        Data::Cname(target) => RData::CNAME(CNAME(name(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
        Data::Ns(target) => RData::NS(NS(name(target)?)),
        Data::Soa => {
            let domain = &names.zone.domain;
            let server = name(&format!("ns.dns.{domain}"))?;
            let master = name(&format!("hostmaster.{domain}"))?;
            RData::SOA(SOA::new(server, master, 1, 7200, 1800, 86400, NEGATIVE_TTL_SECONDS))
        }
    };
    Some(WireRecord::from_rdata(name(owner)?, TTL_SECONDS, rdata))
}

/// In lower case and without the dot at the end.
fn plain(name: &Name) -> String {
    let mut text = name.to_lowercase().to_ascii();
    if text.ends_with('.') {
        text.pop();
    }
    text
}

fn kind_of(kind: RecordType) -> Kind {
    match kind {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::CNAME => Kind::Cname,
        RecordType::TXT => Kind::Txt,
        RecordType::NS => Kind::Ns,
        RecordType::SOA => Kind::Soa,
        RecordType::ANY => Kind::Any,
        _ => Kind::Other,
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
