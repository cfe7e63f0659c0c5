//! What every namespace has: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`.
//! See <https://kubernetes.io/docs/concepts/security/service-accounts/#default-service-accounts>.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_base::Timestamp;
use skiff_client::{Change, Informer, Kind, ObjectKey};

use crate::plan::{Action, Plan};
use crate::root_bundle::RootBundle;
use crate::runner::{Controller, Failure, Setup};

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const ROOT_CA_KEY: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
/// The text is upstream's own, and clients show it to people.
const ROOT_CA_DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// What a namespace lacks of the account.
pub fn account(namespace: &Namespace, present: bool) -> Plan {
    let mut plan = Plan::nothing();
    if is_active(namespace) && !present {
        let metadata = named(namespace, ACCOUNT);
        plan.then(Action::create(&ServiceAccount { metadata, ..ServiceAccount::default() }));
    }
    plan
}

/// What a namespace lacks of the root certificates, or has wrong.
pub fn root_ca(namespace: &Namespace, present: Option<&ConfigMap>, bundle: &str) -> Plan {
    let mut plan = Plan::nothing();
    let data = BTreeMap::from([(ROOT_CA_KEY.to_owned(), bundle.to_owned())]);
    if !is_active(namespace) {
        return plan;
    }
    match present {
        None => {
            let mut metadata = named(namespace, ROOT_CA);
            metadata.annotations = Some(BTreeMap::from([(DESCRIPTION.to_owned(), ROOT_CA_DESCRIPTION.to_owned())]));
            plan.then(Action::create(&ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }));
        }
        Some(present) if present.data.as_ref() != Some(&data) => {
            plan.then(Action::update(&ConfigMap { data: Some(data), binary_data: None, ..present.clone() }));
        }
        Some(_) => {}
    }
    plan
}

fn is_active(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_none()
}

fn named(namespace: &Namespace, name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), namespace: namespace.metadata.name.clone(), ..ObjectMeta::default() }
}

/// Sees to it that every namespace has one object of a fixed name.
struct EachNamespace<K> {
    namespaces: Informer<Namespace>,
    objects: Informer<K>,
    name: &'static str,
    decide: Box<dyn Fn(&Namespace, Option<&K>) -> Plan + Send + Sync>,
}

impl<K: Kind> EachNamespace<K> {
    fn start(
        setup: &mut Setup,
        name: &'static str,
        decide: impl Fn(&Namespace, Option<&K>) -> Plan + Send + Sync + 'static,
    ) -> Arc<dyn Controller> {
        setup.for_each::<Namespace>();
        let objects = setup.selected::<K>(&format!("metadata.name={name}"), |change: &Change<K>| {
            let namespace = change.object().metadata().namespace.clone().unwrap_or_default();
            vec![ObjectKey::new("", namespace)]
        });
        Arc::new(Self { namespaces: setup.informer(), objects, name, decide: Box::new(decide) })
    }
}

impl<K: Kind> Controller for EachNamespace<K> {
    fn plan(&self, key: &ObjectKey, _now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let Some(namespace) = self.namespaces.by_key(key) else { return Plan::nothing() };
        (self.decide)(&namespace, self.objects.get(&key.name, self.name).as_deref())
    }
}

/// The controller of default accounts.
pub fn accounts(setup: &mut Setup) -> Arc<dyn Controller> {
    EachNamespace::<ServiceAccount>::start(setup, ACCOUNT, |namespace, present| account(namespace, present.is_some()))
}

/// The publisher of root certificates.
pub fn root_certificates(setup: &mut Setup, bundle: Arc<RootBundle>) -> Arc<dyn Controller> {
    let (queue, namespaces) = (setup.queue.clone(), setup.informer::<Namespace>());
    bundle.on_change(ROOT_CA, move || {
        for namespace in namespaces.list() {
            queue.add(ObjectKey::of(&namespace.metadata));
        }
    });
    EachNamespace::<ConfigMap>::start(setup, ROOT_CA, move |namespace, present| {
        root_ca(namespace, present, &bundle.get())
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::object;

    #[test]
    fn what_is_missing_is_created_and_what_is_wrong_is_mended() {
        let namespace: Namespace = object("{metadata: {name: a}}");
        expect!["create serviceaccounts a/default {\"metadata\":{}}\n"]
            .assert_eq(&account(&namespace, false).to_string());
        assert!(account(&namespace, true).steps.is_empty());
        assert_eq!(root_ca(&namespace, None, "PEM").steps.len(), 1);
        let wrong: ConfigMap = object("{metadata: {name: kube-root-ca.crt, namespace: a}, data: {ca.crt: OLD}}");
        expect!["update configmaps a/kube-root-ca.crt {\"data\":{\"ca.crt\":\"PEM\"},\"metadata\":{}}\n"]
            .assert_eq(&root_ca(&namespace, Some(&wrong), "PEM").to_string());
        assert!(root_ca(&namespace, Some(&wrong), "OLD").steps.is_empty());
    }

    #[test]
    fn nothing_is_put_into_a_namespace_that_goes() {
        let namespace: Namespace = object("{metadata: {name: a, deletionTimestamp: '2026-01-31T12:00:00Z'}}");
        assert!(account(&namespace, false).steps.is_empty());
        assert!(root_ca(&namespace, None, "PEM").steps.is_empty());
    }
}
