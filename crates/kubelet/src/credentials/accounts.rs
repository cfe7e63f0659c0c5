//! Programs that give credentials for the service account of the Pod that an image is for: what they are told of it, and how
//! long what they answer is that account's. See KEP-4412.

use std::collections::{BTreeMap, BTreeSet};

use ring::digest::{SHA256, digest};
use serde::Deserialize;
use skiff_object::names::check_label_key;
use skiff_object::{FieldError, FieldPath};

use crate::images::AccountUsed;

/// The service account of a Pod.
#[async_trait::async_trait]
pub trait Account: Send + Sync {
    /// Which it is, and its annotations; `None` for a Pod without an account.
    async fn facts(&self) -> Result<Option<(AccountUsed, BTreeMap<String, String>)>, String>;
    /// A token of the Pod's for an audience.
    async fn token(&self, audience: &str) -> Result<String, String>;
}

/// What a program wants to be told of the account.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct TokenAttributes {
    service_account_token_audience: String,
    cache_type: String,
    require_service_account: Option<bool>,
    required_service_account_annotation_keys: Vec<String>,
    optional_service_account_annotation_keys: Vec<String>,
}

/// What a program is told.
#[derive(Default)]
pub(super) struct Told {
    /// What credentials are kept under, beside the image; empty where no account is told.
    pub(super) key: String,
    pub(super) token: String,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) account: Option<AccountUsed>,
}

const BY_ACCOUNT: &str = "ServiceAccount";
const BY_TOKEN: &str = "Token";

impl TokenAttributes {
    /// What is wrong with them.
    pub(super) fn check(&self, path: &FieldPath) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let at = |field: &str| path.child(field);
        if self.service_account_token_audience.is_empty() {
            errors.push(FieldError::required(&at("serviceAccountTokenAudience"), ""));
        }
        if self.require_service_account.is_none() {
            errors.push(FieldError::required(&at("requireServiceAccount"), ""));
        }
        let (required, optional) =
            (&self.required_service_account_annotation_keys, &self.optional_service_account_annotation_keys);
        if self.require_service_account == Some(false) && !required.is_empty() {
            let words = "requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set";
            errors.push(FieldError::forbidden(&at("requiredServiceAccountAnnotationKeys"), words));
        }
        for (field, keys) in
            [("requiredServiceAccountAnnotationKeys", required), ("optionalServiceAccountAnnotationKeys", optional)]
        {
            let mut seen = BTreeSet::new();
            for key in keys {
                let wrong = check_label_key(&key.to_lowercase()).into_iter();
                errors.extend(wrong.map(|words| FieldError::invalid(&at(field), key.as_str(), words)));
                if !seen.insert(key) {
                    errors.push(FieldError::duplicate(&at(field), key.as_str()));
                }
            }
        }
        let both: BTreeSet<&String> = required.iter().filter(|key| optional.contains(key)).collect();
        if !both.is_empty() {
            let both: Vec<&str> = both.into_iter().map(String::as_str).collect();
            errors.push(FieldError::invalid(path, both, "annotation keys cannot be both required and optional"));
        }
        match self.cache_type.as_str() {
            "" => {
                let words = "cacheType is required to be set when tokenAttributes is specified. Supported values are";
                errors.push(FieldError::required(&at("cacheType"), format!("{words}: {BY_ACCOUNT}, {BY_TOKEN}")));
            }
            BY_ACCOUNT | BY_TOKEN => {}
            other => errors.push(FieldError::not_supported(&at("cacheType"), other, &[BY_ACCOUNT, BY_TOKEN])),
        }
        errors
    }

    /// What the program is told of an account; `None` where it is not asked at all.
    pub(super) async fn told(&self, account: &dyn Account) -> Result<Option<Told>, String> {
        let Some((who, all)) = account.facts().await? else {
            return Ok((self.require_service_account == Some(false)).then(Told::default));
        };
        let mut annotations = BTreeMap::new();
        for key in &self.required_service_account_annotation_keys {
            // Accounts ask for the program by their annotations.
            let Some(value) = all.get(key) else { return Ok(None) };
            annotations.insert(key.clone(), value.clone());
        }
        for key in &self.optional_service_account_annotation_keys {
            annotations.extend(all.get_key_value(key).map(|(key, value)| (key.clone(), value.clone())));
        }
        let token = account.token(&self.service_account_token_audience).await?;
        let token_digest = match self.cache_type.as_str() {
            BY_TOKEN => digest(&SHA256, token.as_bytes()).as_ref().to_vec(),
            _ => Vec::new(),
        };
        let key = serde_json::to_string(&(&who, &annotations, token_digest)).expect("plain data");
        Ok(Some(Told { key, token, annotations, account: Some(who) }))
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use expect_test::expect;

    use super::*;

    struct Someone(Option<BTreeMap<String, String>>);

    #[async_trait::async_trait]
    impl Account for Someone {
        async fn facts(&self) -> Result<Option<(AccountUsed, BTreeMap<String, String>)>, String> {
            let account = AccountUsed { namespace: "ns".into(), name: "a".into(), uid: "u".into() };
            Ok(self.0.clone().map(|annotations| (account, annotations)))
        }

        async fn token(&self, audience: &str) -> Result<String, String> {
            Ok(format!("token for {audience}"))
        }
    }

    fn now<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
    }

    #[test]
    fn programs_are_told_what_they_want_to_know() {
        let shown = |attributes: &str, annotations: Option<&[(&str, &str)]>| {
            let attributes: TokenAttributes = serde_saphyr::from_str(attributes).expect("valid YAML");
            let owned = |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            let told = now(attributes.told(&Someone(annotations.map(owned)))).expect("it is told");
            told.map(|told| format!("{:?} {:?}", told.token, told.annotations))
        };
        let wants = "{serviceAccountTokenAudience: r, cacheType: Token, requireServiceAccount: true, requiredServiceAccountAnnotationKeys: [a], optionalServiceAccountAnnotationKeys: [b]}";
        assert_eq!(shown(wants, None), None);
        assert_eq!(shown(wants, Some(&[("b", "2")])), None);
        let all = [("a", "1"), ("b", "2"), ("c", "3")];
        assert_eq!(shown(wants, Some(&all)).as_deref(), Some(r#""token for r" {"a": "1", "b": "2"}"#));
        assert_eq!(shown(wants, Some(&all[..1])).as_deref(), Some(r#""token for r" {"a": "1"}"#));
        let may = "{serviceAccountTokenAudience: r, cacheType: Token, requireServiceAccount: false}";
        assert_eq!(shown(may, None).as_deref(), Some(r#""" {}"#));
        assert_eq!(shown(may, Some(&[])).as_deref(), Some(r#""token for r" {}"#));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut text = String::new();
        for attributes in [
            "{serviceAccountTokenAudience: r, cacheType: ServiceAccount, requireServiceAccount: true}",
            "{}",
            "{serviceAccountTokenAudience: r, cacheType: Pod, requireServiceAccount: false, requiredServiceAccountAnnotationKeys: [a, a, '-'], optionalServiceAccountAnnotationKeys: [a, x.io/B]}",
        ] {
            let attributes: TokenAttributes = serde_saphyr::from_str(attributes).expect("valid YAML");
            let errors = attributes.check(&FieldPath::new("providers.tokenAttributes"));
            text.push_str(&format!("# {}\n", errors.len()));
            errors.iter().for_each(|error| text.push_str(&format!("{error}\n")));
        }
        expect![[r##"
            # 0
            # 3
            providers.tokenAttributes.serviceAccountTokenAudience: Required value
            providers.tokenAttributes.requireServiceAccount: Required value
            providers.tokenAttributes.cacheType: Required value: cacheType is required to be set when tokenAttributes is specified. Supported values are: ServiceAccount, Token
            # 5
            providers.tokenAttributes.requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set
            providers.tokenAttributes.requiredServiceAccountAnnotationKeys: Duplicate value: "a"
            providers.tokenAttributes.requiredServiceAccountAnnotationKeys: Invalid value: "-": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            providers.tokenAttributes: Invalid value: ["a"]: annotation keys cannot be both required and optional
            providers.tokenAttributes.cacheType: Unsupported value: "Pod": supported values: "ServiceAccount", "Token"
        "##]].assert_eq(&text);
    }
}
