//! Gives back the room that decoding took ahead: a list grows by doubling and begins with four places, which is most of
//! what an object of short lists takes. This is done for kinds of which there are tens of thousands.

use std::any::Any;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Lets the object take no more room than it needs, if it is of such a kind.
pub(crate) fn shrink<K: 'static>(object: &mut K) {
    let object: &mut dyn Any = object;
    if let Some(slice) = object.downcast_mut::<EndpointSlice>() {
        shrink_slice(slice);
    } else if let Some(service) = object.downcast_mut::<Service>() {
        shrink_service(service);
    }
}

fn shrink_list<T>(list: &mut Option<Vec<T>>) {
    list.iter_mut().for_each(Vec::shrink_to_fit);
}

fn shrink_slice(slice: &mut EndpointSlice) {
    shrink_list(&mut slice.metadata.owner_references);
    shrink_list(&mut slice.ports);
    shrink_list(&mut slice.endpoints);
    slice.endpoints.iter_mut().flatten().for_each(|endpoint| endpoint.addresses.shrink_to_fit());
}

fn shrink_service(service: &mut Service) {
    let Some(spec) = &mut service.spec else { return };
    shrink_list(&mut spec.ports);
    shrink_list(&mut spec.cluster_ips);
    shrink_list(&mut spec.ip_families);
    shrink_list(&mut spec.external_ips);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn short_lists_take_no_more_room_than_they_need() {
        let mut slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4", "metadata": {"name": "a"}, "ports": [{"port": 80}],
            "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}],
        }))
        .expect("a slice");
        let before = slice.clone();
        slice.endpoints.as_mut().expect("there are some").reserve(10);
        shrink(&mut slice);
        assert_eq!(slice, before);
        assert_eq!(slice.endpoints.map_or(0, |endpoints| endpoints.capacity()), 2);

        let text = r#"{"metadata": {"name": "a"}, "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"port": 80}]}}"#;
        let mut service: Service = serde_json::from_str(text).expect("a Service");
        shrink(&mut service);
        let spec = service.spec.expect("there is one");
        assert_eq!(spec.ports.map_or(0, |ports| ports.capacity()), 1);
        assert_eq!(spec.cluster_ips, Some(vec!["10.96.0.1".to_owned()]));
    }
}
