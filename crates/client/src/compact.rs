//! Kinds of which there are tens of thousands are kept as text. As they are decoded they take three times as much or more:
//! room for all that such an object may say, half a kilobyte for a map of one label, a block of memory for each word.

use std::any::TypeId;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::Kind;
use crate::cache::Packing;

/// How objects of such a kind are packed; nothing for the others, which are looked at more often than they are many.
pub(crate) fn packing<K: Kind>() -> Option<Packing<K>> {
    let is_one = [TypeId::of::<Service>(), TypeId::of::<EndpointSlice>()].contains(&TypeId::of::<K>());
    is_one.then_some(Packing { pack, unpack })
}

fn pack<K: Kind>(object: &K) -> Option<Box<[u8]>> {
    serde_json::to_vec(object).ok().map(Vec::into_boxed_slice)
}

fn unpack<K: Kind>(packed: &[u8]) -> Option<K> {
    serde_json::from_slice(packed).ok()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::{Value, json};

    use super::*;

    fn check<K: Kind + PartialEq + std::fmt::Debug>(object: Value) {
        let object: K = serde_json::from_value(object).expect("an object");
        let packing = packing::<K>().expect("such a kind");
        let packed = (packing.pack)(&object).expect("it can be written");
        assert_eq!((packing.unpack)(&packed).as_ref(), Some(&object));
    }

    #[test]
    fn what_was_packed_is_itself_again() {
        check::<EndpointSlice>(json!({
            "addressType": "IPv4", "metadata": {"name": "a", "labels": {"a": "b"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}, "targetRef": {"kind": "Pod", "uid": "u"}},
                {"addresses": ["10.0.0.2"], "hints": {"forZones": [{"name": "z"}]}}],
        }));
        check::<Service>(json!({
            "metadata": {"name": "a", "namespace": "d", "resourceVersion": "7", "finalizers": ["x/y"],
                "annotations": {"k": "with \"signs\" and\nlines"}},
            "spec": {"clusterIPs": ["10.96.0.1"], "selector": {"a": "b"},
                "ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8081, "nodePort": 30000}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
        }));
        assert!(packing::<Pod>().is_none());
    }
}
