//! Whatever is answered the short way is answered the same as at length.

use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RecordType};

use super::super::testing::cluster;
use super::super::wire::{Outcome, respond};
use super::*;

fn request(name: &str, kind: RecordType, has_edns: bool) -> Vec<u8> {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    if has_edns {
        let mut edns = Edns::new();
        edns.set_max_payload(1400).set_version(0);
        request.edns = Some(edns);
    }
    request.to_vec().expect("it can be written")
}

/// Whether it is answered the short way; then the answer is what the long way says.
fn check(names: &Names, request: &[u8], can_forward: bool) -> bool {
    let mut reply = Vec::new();
    if !answer(request, names, can_forward, &mut reply) {
        return false;
    }
    let Outcome::Reply(expected) = respond(request, names, can_forward, 0) else { panic!("{request:?} is answered") };
    let reply = Message::from_vec(&reply).expect("it can be read");
    assert_eq!(reply.to_string(), expected.to_string(), "{request:?}");
    assert_eq!((reply.metadata, reply.edns.is_some()), (expected.metadata, expected.edns.is_some()), "{request:?}");
    true
}

#[test]
fn addresses_of_services_are_answered_the_short_way() {
    use RecordType::{A, AAAA, ANY, SRV};
    let names = cluster();
    for (name, kind, is_quick) in [
        ("web.default.svc.cluster.local.", A, true),
        ("WeB.default.SVC.cluster.local.", A, true),
        ("dual.default.svc.cluster.local.", A, true),
        ("dual.default.svc.cluster.local.", AAAA, true),
        ("web.default.svc.cluster.local.", AAAA, false),
        ("web.default.svc.cluster.local.", SRV, false),
        ("web.default.svc.cluster.local.", ANY, false),
        ("db.default.svc.cluster.local.", A, false),
        ("outside.default.svc.cluster.local.", A, false),
        ("pending.default.svc.cluster.local.", A, false),
        ("none.default.svc.cluster.local.", A, false),
        ("web.default.pod.cluster.local.", A, false),
        ("a.web.default.svc.cluster.local.", A, false),
        ("web.default.svc.cluster.local.example.com.", A, false),
        ("svc.cluster.local.", A, false),
        ("example.com.", A, false),
        (".", A, false),
    ] {
        for (has_edns, can_forward) in [(false, false), (true, false), (false, true), (true, true)] {
            assert_eq!(check(&names, &request(name, kind, has_edns), can_forward), is_quick, "{name} {kind}");
        }
    }
}

#[test]
fn requests_that_are_broken_anywhere_are_answered_the_same_if_at_all() {
    let names = cluster();
    for has_edns in [false, true] {
        let whole = request("web.default.svc.cluster.local.", RecordType::A, has_edns);
        for at in 0..whole.len() {
            assert!(!check(&names, &whole[..at], false), "{at} bytes");
            for byte in 0..=u8::MAX {
                let mut broken = whole.clone();
                broken[at] = byte;
                check(&names, &broken, false);
            }
        }
        assert!(!check(&names, &[&whole[..], b"x"].concat(), false));
    }
}
