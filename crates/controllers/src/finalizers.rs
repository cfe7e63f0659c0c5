//! Finalizers that keep what is used from vanishing: whoever uses something need not know who deletes it.
//! See <https://kubernetes.io/docs/concepts/overview/working-with-objects/finalizers/>.

use skiff_client::Kind;

use crate::plan::{Action, Plan};

/// Gives an object the finalizer, or takes it away from one that is to go and is not used.
pub fn guard<K: Kind + Clone>(object: &K, finalizer: &str, used: bool) -> Plan {
    if object.metadata().deletion_timestamp.is_some() || is_guarded(object, finalizer) {
        return release(object, finalizer, used);
    }
    update(object, |finalizers| finalizers.push(finalizer.to_owned()))
}

/// Takes the finalizer away from an object that is to go and is not used.
pub fn release<K: Kind + Clone>(object: &K, finalizer: &str, used: bool) -> Plan {
    let is_going = object.metadata().deletion_timestamp.is_some();
    if !is_going || used || !is_guarded(object, finalizer) {
        return Plan::nothing();
    }
    update(object, |finalizers| finalizers.retain(|held| held != finalizer))
}

fn is_guarded<K: Kind>(object: &K, finalizer: &str) -> bool {
    object.metadata().finalizers.iter().flatten().any(|held| held == finalizer)
}

fn update<K: Kind + Clone>(object: &K, change: impl FnOnce(&mut Vec<String>)) -> Plan {
    let (mut object, mut plan) = (object.clone(), Plan::nothing());
    change(object.metadata_mut().finalizers.get_or_insert_default());
    plan.then(Action::update(&object));
    plan
}
