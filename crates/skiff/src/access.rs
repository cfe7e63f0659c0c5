//! From the options and files of the command line to what the API server is told of those who may come.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use skiff_apiserver::UserInfo;
use skiff_apiserver::audit::Remote;
use skiff_apiserver::authn::{self, proxy, token_file, webhook};
use skiff_apiserver::authz::abac::Policies;
use skiff_apiserver::authz::{self, Chain};
use skiff_apiserver::config::Access;
use skiff_apiserver::encryption;
use skiff_apiserver::files::duration;
use skiff_apiserver::flow;

use crate::cli::access::{
    AccessOptions, AuthenticationOptions, AuthorizationOptions, EncryptionOptions, OidcOptions, ProxyOptions,
};
use crate::commands::CommandError;
use crate::kubeconfig::read_whole;
use crate::paths::named;

/// How long the answers of a program that knows tokens hold, as upstream has it.
const TOKENS_CACHED_FOR: Duration = Duration::from_secs(120);

/// Who may come. `client_authority` are the authorities of ordinary clients' certificates.
pub fn settings(options: &AccessOptions, client_authority: &str) -> Result<Access, CommandError> {
    Ok(Access {
        authentication: authentication(&options.authentication, client_authority)?,
        authorization: authorization(&options.authorization)?,
    })
}

/// How many requests are worked on at a time, and whose.
pub fn flow(options: &AccessOptions) -> flow::Settings {
    let (own, usual) = (&options.flow, flow::Settings::default());
    flow::Settings {
        is_enabled: own.enable_priority_and_fairness.unwrap_or(usual.is_enabled),
        reads: own.max_requests_inflight.unwrap_or(usual.reads),
        writes: own.max_mutating_requests_inflight.unwrap_or(usual.writes),
    }
}

/// What is encrypted where it is stored.
pub fn encryption(options: &AccessOptions) -> Option<encryption::Settings> {
    let EncryptionOptions { encryption_provider_config: file, encryption_provider_config_automatic_reload: reloads } =
        &options.encryption;
    file.clone().map(|file| encryption::Settings { file, reloads: *reloads == Some(true) })
}

/// Who decides; flags say what an AuthorizationConfiguration could.
fn authorization(options: &AuthorizationOptions) -> Result<authz::Settings, CommandError> {
    let policies = match &options.authorization_policy_file {
        Some(path) => Policies::read(&read(path)?, &path.display().to_string())?,
        None => Policies::default(),
    };
    let has = |mode: &str| options.authorization_mode.iter().any(|own| own == mode);
    if has("ABAC") != options.authorization_policy_file.is_some() && options.authorization_config.is_none() {
        return Err("authorization-mode ABAC and authorization-policy-file belong together".into());
    }
    if has("Webhook") != options.authorization_webhook_config_file.is_some() {
        return Err("authorization-mode Webhook and authorization-webhook-config-file belong together".into());
    }
    let chain = match (&options.authorization_config, options.authorization_mode.as_slice()) {
        (Some(path), _) => Chain::File(path.clone()),
        (None, []) => Chain::Usual,
        (None, modes) => {
            Chain::Given(json!({"authorizers": modes.iter().map(|mode| entry(mode, options)).collect::<Vec<_>>()}))
        }
    };
    Ok(authz::Settings { chain, policies: Arc::new(policies), kubeconfig: Some(kubeconfig) })
}

fn kubeconfig(path: &Path) -> Result<Value, String> {
    read_whole(path).map_err(|error| error.to_string())
}

fn entry(mode: &str, options: &AuthorizationOptions) -> Value {
    let mut entry = json!({"type": mode, "name": mode.to_lowercase()});
    if let Some(path) = options.authorization_webhook_config_file.as_ref().filter(|_| mode == "Webhook") {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        entry["webhook"] = json!({"timeout": "30s", "failurePolicy": "NoOpinion",
            "subjectAccessReviewVersion": options.authorization_webhook_version.as_deref().unwrap_or("v1"),
            "authorizedTTL": options.authorization_webhook_cache_authorized_ttl.as_deref().unwrap_or("5m"),
            "unauthorizedTTL": options.authorization_webhook_cache_unauthorized_ttl.as_deref().unwrap_or("30s"),
            "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": path}});
    }
    entry
}

/// The tokens that are known beforehand.
pub fn tokens(options: &AccessOptions) -> Result<Vec<(String, UserInfo)>, CommandError> {
    let Some(path) = &options.authentication.token_auth_file else { return Ok(Vec::new()) };
    Ok(token_file::read(&read(path)?, &path.display().to_string())?)
}

/// The authorities of proxies that tell who asks, in PEM: those may connect too.
pub fn proxy_authority(options: &AccessOptions) -> Result<Option<String>, CommandError> {
    options.authentication.proxy.requestheader_client_ca_file.as_deref().map(read).transpose()
}

fn read(path: &Path) -> Result<String, CommandError> {
    Ok(fs::read_to_string(path).map_err(|error| named(path, "read", error))?)
}

fn authentication(options: &AuthenticationOptions, client_authority: &str) -> Result<authn::Settings, CommandError> {
    let webhook = match &options.authentication_token_webhook_config_file {
        None => None,
        Some(path) => Some(webhook::Settings {
            remote: remote(path)?,
            cached_for: match &options.authentication_token_webhook_cache_ttl {
                None => TOKENS_CACHED_FOR,
                Some(time) => {
                    duration(time).map_err(|why| format!("--authentication-token-webhook-cache-ttl: {why}"))?
                }
            },
            version: options.authentication_token_webhook_version.clone().unwrap_or_else(|| "v1".to_owned()),
        }),
    };
    Ok(authn::Settings {
        file: options.authentication_config.clone(),
        flags: issuer(&options.oidc)?,
        anonymous: options.anonymous_auth,
        webhook,
        proxy: trusted_proxy(&options.proxy, client_authority)?,
    })
}

fn remote(path: &Path) -> Result<Remote, CommandError> {
    Ok(Remote::read(&read_whole(path)?).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// The issuer as an AuthenticationConfiguration would have it.
fn issuer(options: &OidcOptions) -> Result<Option<(Value, Vec<String>)>, CommandError> {
    let (Some(url), Some(client)) = (&options.oidc_issuer_url, &options.oidc_client_id) else { return Ok(None) };
    let claim = options.oidc_username_claim.as_deref().unwrap_or("sub");
    let prefix = match options.oidc_username_prefix.as_deref().unwrap_or("") {
        "" if claim == "email" => String::new(),
        "" => format!("{url}#"),
        "-" => String::new(),
        prefix => prefix.to_owned(),
    };
    let mut mappings = json!({"username": {"claim": claim, "prefix": prefix}});
    if let Some(claim) = &options.oidc_groups_claim {
        mappings["groups"] = json!({"claim": claim, "prefix": options.oidc_groups_prefix.as_deref().unwrap_or("")});
    }
    let mut rules = Vec::new();
    for required in &options.oidc_required_claim {
        let (claim, value) =
            required.split_once('=').ok_or_else(|| format!("--oidc-required-claim {required}: no ="))?;
        rules.push(json!({"claim": claim, "requiredValue": value}));
    }
    let mut own = json!({"url": url, "audiences": [client]});
    if let Some(path) = &options.oidc_ca_file {
        own["certificateAuthority"] = read(path)?.into();
    }
    let algorithms = match options.oidc_signing_algs.as_slice() {
        [] => vec!["RS256".to_owned()],
        given => given.to_vec(),
    };
    if let Some(unknown) = algorithms.iter().find(|own| !authn::jose::ALGORITHMS.contains(&own.as_str())) {
        return Err(format!("oidc: unsupported signing alg: {unknown:?}").into());
    }
    let tree = json!({"jwt": [{"issuer": own, "claimMappings": mappings, "claimValidationRules": rules}]});
    Ok(Some((tree, algorithms)))
}

fn trusted_proxy(options: &ProxyOptions, client_authority: &str) -> Result<Option<proxy::Settings>, CommandError> {
    let Some(path) = &options.requestheader_client_ca_file else { return Ok(None) };
    Ok(Some(proxy::Settings {
        authority: read(path)?,
        client_authority: client_authority.to_owned(),
        allowed_names: options.requestheader_allowed_names.clone(),
        username_headers: options.requestheader_username_headers.clone(),
        uid_headers: options.requestheader_uid_headers.clone(),
        group_headers: options.requestheader_group_headers.clone(),
        extra_prefixes: options.requestheader_extra_headers_prefix.clone(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_authorizers_in_their_order() {
        let told = |modes: &[&str], webhook: Option<&str>| {
            let options = AuthorizationOptions {
                authorization_mode: modes.iter().map(|mode| (*mode).to_owned()).collect(),
                authorization_webhook_config_file: webhook.map(Into::into),
                ..AuthorizationOptions::default()
            };
            authorization(&options).map(|settings| settings.chain).map_err(|error| error.to_string())
        };
        assert!(matches!(told(&[], None), Ok(Chain::Usual)));
        let Ok(Chain::Given(tree)) = told(&["Webhook", "RBAC"], Some("/x")) else { panic!("a chain") };
        assert_eq!(tree["authorizers"][0]["webhook"]["connectionInfo"]["kubeConfigFile"], "/x");
        assert_eq!(tree["authorizers"][1], json!({"type": "RBAC", "name": "rbac"}));
        assert!(told(&["Webhook"], None).expect_err("no file").contains("belong together"));
        assert!(told(&["ABAC"], None).expect_err("no file").contains("belong together"));
    }

    #[test]
    fn flags_say_what_a_configuration_could() {
        let options = OidcOptions {
            oidc_issuer_url: Some("https://i".to_owned()),
            oidc_client_id: Some("c".to_owned()),
            oidc_required_claim: vec!["hd=e.com".to_owned()],
            ..OidcOptions::default()
        };
        let told = |options: &OidcOptions| issuer(options).map_err(|error| error.to_string());
        let (tree, algorithms) = told(&options).expect("well-formed").expect("an issuer");
        assert_eq!(
            tree,
            json!({"jwt": [{"issuer": {"url": "https://i", "audiences": ["c"]},
                "claimMappings": {"username": {"claim": "sub", "prefix": "https://i#"}},
                "claimValidationRules": [{"claim": "hd", "requiredValue": "e.com"}]}]})
        );
        assert_eq!(algorithms, ["RS256"]);
        let prefix = |claim: &str, prefix: Option<&str>| {
            let prefix = prefix.map(str::to_owned);
            let changed = OidcOptions {
                oidc_username_claim: Some(claim.to_owned()),
                oidc_username_prefix: prefix,
                ..options.clone()
            };
            let (tree, _) = told(&changed).expect("well-formed").expect("an issuer");
            tree["jwt"][0]["claimMappings"]["username"]["prefix"].clone()
        };
        assert_eq!(prefix("email", None), "");
        assert_eq!(prefix("name", Some("-")), "");
        assert_eq!(prefix("name", Some("x:")), "x:");
        let wrong = OidcOptions { oidc_signing_algs: vec!["HS256".to_owned()], ..options };
        assert_eq!(told(&wrong), Err("oidc: unsupported signing alg: \"HS256\"".to_owned()));
    }
}
