//! Secrets that hold a service account's token: filling those that ask for one, and removing those whose account is gone.
//! The token itself is signed by the API server, tied to its Secret.
//! See <https://kubernetes.io/docs/concepts/configuration/secret/#serviceaccount-token-secrets>.

use std::sync::Arc;

use futures_util::future::join_all;
use http::Method;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::{Value, json};
use skiff_base::clock::SharedClock;
use skiff_client::{Change, Client, DeleteOptions, Error, Informer, Kind, ObjectKey};

use crate::meta::annotation;
use crate::root_bundle::RootBundle;
use crate::runner::Setup;

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// The longest life that a token can be asked for: 2^32 seconds.
const LIFE_SECONDS: i64 = 1 << 32;
/// Secrets that are worked on at the same time.
const WORKERS: usize = 2;

/// What is to be done about a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Its account is gone.
    Remove,
    /// It lacks its token, or something that goes with it.
    Fill,
}

/// Decides about one Secret; `account` is the one that it names.
pub fn judge(secret: &Secret, account: Option<&ServiceAccount>, root_ca: &str) -> Verdict {
    let meta = &secret.metadata;
    if secret.type_.as_deref() != Some(TYPE) || meta.deletion_timestamp.is_some() || annotation(meta, ACCOUNT).is_none()
    {
        return Verdict::Keep;
    }
    let told = annotation(meta, ACCOUNT_UID).filter(|uid| !uid.is_empty());
    let Some(account) = account.filter(|a| told.is_none_or(|uid| a.metadata.uid.as_deref() == Some(uid))) else {
        // One that was never filled may only be earlier than its account.
        return if told.is_some() { Verdict::Remove } else { Verdict::Keep };
    };
    let holds = |key: &str, wanted: Option<&str>| {
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        value.is_some_and(|value| wanted.map_or(!value.0.is_empty(), |wanted| value.0 == wanted.as_bytes()))
    };
    let complete = told == account.metadata.uid.as_deref()
        && holds("token", None)
        && holds("ca.crt", Some(root_ca))
        && holds("namespace", meta.namespace.as_deref());
    if complete { Verdict::Keep } else { Verdict::Fill }
}

/// The controller.
pub struct TokenSecrets {
    secrets: Informer<Secret>,
    accounts: Informer<ServiceAccount>,
    client: Client,
    root_ca: Arc<RootBundle>,
}

impl TokenSecrets {
    /// Runs until dropped.
    pub async fn run(mut setup: Setup, client: Client, _clock: SharedClock, root_ca: Arc<RootBundle>) {
        let secrets =
            setup.selected::<Secret>(&format!("type={TYPE}"), |change| vec![ObjectKey::of(&change.object().metadata)]);
        let known = secrets.clone();
        setup.on_change::<ServiceAccount>(move |change| secrets_of(change, &known));
        let (accounts, queue) = (setup.informer(), setup.queue.clone());
        let (known, wake) = (secrets.clone(), queue.clone());
        root_ca.on_change(TYPE, move || {
            for secret in known.list() {
                wake.add(ObjectKey::of(&secret.metadata));
            }
        });
        setup.synced().await;
        let controller = Self { secrets, accounts, client, root_ca };
        let attend_to = |key: ObjectKey| {
            let controller = &controller;
            async move { controller.attend_to(&key).await.map(|()| true) }
        };
        join_all((0..WORKERS).map(|_| queue.work("token secret", attend_to))).await;
    }

    async fn attend_to(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(secret) = self.secrets.by_key(key) else { return Ok(()) };
        let named = annotation(&secret.metadata, ACCOUNT).unwrap_or_default();
        let account = self.accounts.get(&key.namespace, named);
        match judge(&secret, account.as_deref(), &self.root_ca.get()) {
            Verdict::Keep => Ok(()),
            Verdict::Remove => {
                let options = DeleteOptions::of_uid(secret.metadata.uid.clone().unwrap_or_default());
                match self.client.delete::<Secret>(&key.namespace, &key.name, &options).await {
                    Err(error) if !error.is_not_found() => Err(error),
                    _ => Ok(()),
                }
            }
            Verdict::Fill => match account {
                Some(account) => self.fill(&secret, &account).await,
                None => Ok(()),
            },
        }
    }

    async fn fill(&self, secret: &Secret, account: &ServiceAccount) -> Result<(), Error> {
        let mut secret = secret.clone();
        let namespace = secret.metadata.namespace.clone().unwrap_or_default();
        let data = secret.data.get_or_insert_default();
        if data.get("token").is_none_or(|token| token.0.is_empty()) {
            let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {
                "audiences": [], "expirationSeconds": LIFE_SECONDS,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": secret.metadata.name, "uid": secret.metadata.uid}}});
            let name = account.metadata.name.as_deref().unwrap_or_default();
            let path = ServiceAccount::resource().object_path(&namespace, name, "token");
            let answer = self.client.send_json::<Value>(Method::POST, &path, &request).await?;
            let token = answer["status"]["token"].as_str().unwrap_or_default();
            data.insert("token".to_owned(), ByteString(token.as_bytes().to_vec()));
        }
        data.insert("ca.crt".to_owned(), ByteString(self.root_ca.get().into_bytes()));
        data.insert("namespace".to_owned(), ByteString(namespace.into_bytes()));
        let uid = account.metadata.uid.clone().unwrap_or_default();
        secret.metadata.annotations.get_or_insert_default().insert(ACCOUNT_UID.to_owned(), uid);
        match self.client.update(&secret).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}

fn secrets_of(change: &Change<ServiceAccount>, secrets: &Informer<Secret>) -> Vec<ObjectKey> {
    let account = &change.object().metadata;
    let all = secrets.list_namespace(account.namespace.as_deref().unwrap_or_default());
    let named = all.iter().filter(|secret| annotation(&secret.metadata, ACCOUNT) == account.name.as_deref());
    named.map(|secret| ObjectKey::of(&secret.metadata)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    #[test]
    fn a_secret_is_filled_for_its_account_and_goes_with_it() {
        let account: ServiceAccount = object("{metadata: {name: a, namespace: d, uid: u}}");
        let check = |more: &str, account: Option<&ServiceAccount>, expected: Verdict| {
            let secret: Secret = object(&format!(
                "{{metadata: {{name: s, namespace: d, annotations: {{{ACCOUNT}: a{more}}}}}, type: {TYPE}, data: {{token: YQ==, ca.crt: UEVN, namespace: ZA==}}}}"
            ));
            assert_eq!(judge(&secret, account, "PEM"), expected, "{more}");
        };
        let told = format!(", {ACCOUNT_UID}: u");
        check("", Some(&account), Verdict::Fill);
        check(&told, Some(&account), Verdict::Keep);
        check(&told, None, Verdict::Remove);
        check("", None, Verdict::Keep);
        check(&format!(", {ACCOUNT_UID}: other"), Some(&account), Verdict::Remove);
        let other: Secret = object("{metadata: {name: s}, type: Opaque}");
        assert_eq!(judge(&other, None, ""), Verdict::Keep);
    }
}
