//! Bootstrap tokens that have run out are removed.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use skiff_base::Timestamp;
use skiff_client::{Informer, ObjectKey};

use crate::plan::{Action, Plan};
use crate::runner::{Controller, Failure, Setup};

const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const EXPIRATION: &str = "expiration";

/// What is to be done about a Secret.
pub fn reconcile(secret: &Secret, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let raw = secret.data.as_ref().and_then(|data| data.get(EXPIRATION));
    if secret.type_.as_deref() != Some(TYPE) || secret.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let Some(raw) = raw else { return plan };
    // A time that cannot be read is no time at which it would still be good.
    let end = std::str::from_utf8(&raw.0).ok().and_then(|text| text.trim().parse::<Timestamp>().ok());
    let left = end.map_or(Duration::ZERO, |end| Duration::try_from(end.duration_since(now)).unwrap_or_default());
    if left.is_zero() {
        plan.then(Action::delete(secret));
    } else {
        plan.look_again(left);
    }
    plan
}

/// The controller.
pub struct BootstrapTokens {
    secrets: Informer<Secret>,
}

impl BootstrapTokens {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let secrets = setup.selected_in::<Secret>(NAMESPACE, &format!("type={TYPE}"), |change| {
            vec![ObjectKey::of(&change.object().metadata)]
        });
        Arc::new(Self { secrets })
    }
}

impl Controller for BootstrapTokens {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        self.secrets.by_key(key).map_or_else(Plan::nothing, |secret| reconcile(&secret, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{now, object};

    #[test]
    fn a_token_that_has_run_out_goes() {
        let check = |encoded: &str, expected: &str| {
            let secret = object(&format!(
                "{{metadata: {{name: t, namespace: kube-system}}, type: {TYPE}, data: {{{encoded}}}}}"
            ));
            assert_eq!(reconcile(&secret, now()).to_string(), expected, "{encoded}");
        };
        check("expiration: MjAyNi0wMS0zMVQxMTowMDowMFo=", "delete secrets kube-system/t\n");
        check("expiration: MjAyNi0wMS0zMVQxMjowMTowMFo=", "look again in 60 s\n");
        check("expiration: bm9uc2Vuc2U=", "delete secrets kube-system/t\n");
        check("token-id: YQ==", "");
    }
}
