//! The question that nearly all are: for the one address of a Service. It is answered from the bytes and into bytes. Whatever
//! else there is in a request is left to [`super::wire`], which says the same at greater length.

use std::net::IpAddr;

use super::names::{Names, Target};
use super::wire::{EDNS_UDP_BYTES, TTL_SECONDS};

const HEAD_BYTES: usize = 12;
/// The longest name, written with dots.
const NAME_BYTES: usize = 254;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
const CLASS_IN: u16 = 1;
/// An answer's name is the question's.
const SAME_NAME: [u8; 2] = [0xc0, HEAD_BYTES as u8];

/// Appends the answer to `reply`, if this is such a question.
pub(super) fn answer(request: &[u8], names: &Names, can_forward: bool, reply: &mut Vec<u8>) -> bool {
    read(request, names).map(|found| found.write(request, can_forward, reply)).is_some()
}

/// What is answered.
struct Found {
    address: IpAddr,
    /// Where the question ends.
    end: usize,
    /// Whether the client speaks of its room for answers.
    has_edns: bool,
}

fn read(request: &[u8], names: &Names) -> Option<Found> {
    let head = request.get(..HEAD_BYTES)?;
    // A standard query in one piece, with one question, no answers, and one more record at most.
    let is_plain = head[2] & !1 == 0 && head[4..10] == [0, 1, 0, 0, 0, 0] && head[10] == 0 && head[11] <= 1;
    if !is_plain {
        return None;
    }
    let mut text = [0; NAME_BYTES];
    let (length, after) = read_name(request, &mut text)?;
    let name = std::str::from_utf8(&text[..length]).ok()?;
    let end = after + 4;
    let [kind, class] = [number(request, after)?, number(request, after + 2)?];
    let has_edns = head[11] == 1;
    if class != CLASS_IN || !(if has_edns { is_edns(&request[end..]) } else { request.len() == end }) {
        return None;
    }
    let inside = name.strip_suffix(names.zone.domain.as_str())?.strip_suffix(".svc.")?;
    let Target::Cluster(addresses) = &names.service(inside)?.target else { return None };
    let mut matching = addresses.iter().filter(|address| match kind {
        TYPE_A => address.is_ipv4(),
        TYPE_AAAA => address.is_ipv6(),
        _ => false,
    });
    let address = *matching.next()?;
    matching.next().is_none().then_some(Found { address, end, has_edns })
}

impl Found {
    fn write(&self, request: &[u8], can_forward: bool, reply: &mut Vec<u8>) {
        /// A response, by who decides.
        const FLAGS: u8 = 0x84;
        const RECURSION_AVAILABLE: u8 = 0x80;
        reply.extend(&request[..2]);
        reply.extend([FLAGS | request[2] & 1, if can_forward { RECURSION_AVAILABLE } else { 0 }]);
        reply.extend([0, 1, 0, 1, 0, 0, 0, u8::from(self.has_edns)]);
        reply.extend(&request[HEAD_BYTES..self.end]);
        reply.extend(SAME_NAME);
        let (kind, bytes) = match &self.address {
            IpAddr::V4(address) => (TYPE_A, &address.octets()[..]),
            IpAddr::V6(address) => (TYPE_AAAA, &address.octets()[..]),
        };
        reply.extend(kind.to_be_bytes());
        reply.extend(CLASS_IN.to_be_bytes());
        reply.extend(TTL_SECONDS.to_be_bytes());
        reply.extend([0, bytes.len() as u8]);
        reply.extend(bytes);
        if self.has_edns {
            reply.push(0);
            reply.extend(TYPE_OPT.to_be_bytes());
            reply.extend(EDNS_UDP_BYTES.to_be_bytes());
            reply.extend([0; 6]);
        }
    }
}

/// The question's name in lower case with dots, none at the end: how long it is, and where the bytes after it begin. Nothing
/// if there is a sign in it that has to be written in another way.
fn read_name(request: &[u8], text: &mut [u8; NAME_BYTES]) -> Option<(usize, usize)> {
    let (mut at, mut length) = (HEAD_BYTES, 0);
    loop {
        let label = usize::from(*request.get(at)?);
        at += 1;
        if label == 0 {
            return Some((length, at));
        }
        // Longer ones are pointers to elsewhere.
        if label > 63 || length + label >= NAME_BYTES {
            return None;
        }
        if length > 0 {
            text[length] = b'.';
            length += 1;
        }
        for byte in request.get(at..at + label)? {
            if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                return None;
            }
            *text.get_mut(length)? = byte.to_ascii_lowercase();
            length += 1;
        }
        at += label;
    }
}

/// Whether there is nothing left but the record by which a client tells how large an answer may be.
fn is_edns(rest: &[u8]) -> bool {
    let is_known = |rest: &[u8]| Some(rest[0] == 0 && number(rest, 1)? == TYPE_OPT && *rest.get(6)? == 0);
    let is_whole = |rest: &[u8]| Some(rest.len() == 11 && number(rest, 9)? == 0);
    !rest.is_empty() && is_known(rest) == Some(true) && is_whole(rest) == Some(true)
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
#[path = "quick_tests.rs"]
mod tests;
