//! Who may come, and what may pass: the options of the API server for that. They have upstream's names.

use std::path::PathBuf;

use clap::Args;

/// Who may come, and what may pass.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct AccessOptions {
    /// How callers tell who they are.
    #[command(flatten)]
    pub authentication: AuthenticationOptions,
    /// Who decides what they may do.
    #[command(flatten)]
    pub authorization: AuthorizationOptions,
    /// What is encrypted where it is stored.
    #[command(flatten)]
    pub encryption: EncryptionOptions,
    /// How many requests are worked on at a time, and whose.
    #[command(flatten)]
    pub flow: FlowOptions,
}

/// How many requests are worked on at a time, and whose.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct FlowOptions {
    /// Whether users share the server fairly, by FlowSchemas and PriorityLevelConfigurations [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub enable_priority_and_fairness: Option<bool>,
    /// How many reads are worked on at a time [default: 400]
    #[arg(long, value_name = "NUMBER")]
    pub max_requests_inflight: Option<u32>,
    /// How many writes are worked on at a time; where users share, they share the sum of both [default: 200]
    #[arg(long, value_name = "NUMBER")]
    pub max_mutating_requests_inflight: Option<u32>,
}

/// What is encrypted where it is stored.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct EncryptionOptions {
    /// An EncryptionConfiguration: which resources are encrypted where they are stored, and with what
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Whether it is read again when it changes [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true,
        requires = "encryption_provider_config")]
    pub encryption_provider_config_automatic_reload: Option<bool>,
}

/// Who decides who may do what.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct AuthorizationOptions {
    /// Who decides, in this order: Node, RBAC, Webhook, ABAC, AlwaysAllow, AlwaysDeny [default: Node,RBAC]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub authorization_mode: Vec<String>,
    /// An AuthorizationConfiguration: who decides, in which order, with any number of webhooks; read again when it changes
    #[arg(long, value_name = "FILE", conflicts_with_all = ["authorization_mode", "authorization_webhook_config_file"])]
    pub authorization_config: Option<PathBuf>,
    /// The policies of ABAC, one in each line
    #[arg(long, value_name = "FILE")]
    pub authorization_policy_file: Option<PathBuf>,
    /// A kubeconfig of the program of the mode Webhook
    #[arg(long, value_name = "FILE")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// The version of SubjectAccessReview that it understands: v1 or v1beta1 [default: v1]
    #[arg(long, value_name = "VERSION", value_parser = ["v1", "v1beta1"], requires = "authorization_webhook_config_file")]
    pub authorization_webhook_version: Option<String>,
    /// How long its permissions hold [default: 5m]
    #[arg(long, value_name = "TIME", requires = "authorization_webhook_config_file")]
    pub authorization_webhook_cache_authorized_ttl: Option<String>,
    /// How long its other answers hold [default: 30s]
    #[arg(long, value_name = "TIME", requires = "authorization_webhook_config_file")]
    pub authorization_webhook_cache_unauthorized_ttl: Option<String>,
}

/// How callers tell who they are, beside certificates and the cluster's own tokens.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct AuthenticationOptions {
    /// An AuthenticationConfiguration: issuers of tokens, and which paths are for everybody; read again when it changes
    #[arg(long, value_name = "FILE", conflicts_with = "oidc_issuer_url")]
    pub authentication_config: Option<PathBuf>,
    /// Whether requests without any identity are let in as system:anonymous [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub anonymous_auth: Option<bool>,
    /// A CSV file of tokens: token, user name, UID, "group,group"
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// A kubeconfig of the program that says whom a token stands for
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// The version of TokenReview that it understands: v1 or v1beta1 [default: v1]
    #[arg(long, value_name = "VERSION", value_parser = ["v1", "v1beta1"], requires = "authentication_token_webhook_config_file")]
    pub authentication_token_webhook_version: Option<String>,
    /// How long its answers hold [default: 2m]
    #[arg(long, value_name = "TIME", requires = "authentication_token_webhook_config_file")]
    pub authentication_token_webhook_cache_ttl: Option<String>,
    /// An issuer of tokens by OpenID Connect.
    #[command(flatten)]
    pub oidc: OidcOptions,
    /// Proxies in front of the server that tell who asks.
    #[command(flatten)]
    pub proxy: ProxyOptions,
}

/// An issuer of tokens by OpenID Connect; a configuration in a file can say more.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct OidcOptions {
    /// The URL of an OpenID issuer whose tokens are accepted
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    pub oidc_issuer_url: Option<String>,
    /// The audience that its tokens must be meant for
    #[arg(long, value_name = "ID", requires = "oidc_issuer_url")]
    pub oidc_client_id: Option<String>,
    /// The authorities of its certificate (PEM) [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "oidc_issuer_url")]
    pub oidc_ca_file: Option<PathBuf>,
    /// The claim that is the user's name [default: sub]
    #[arg(long, value_name = "CLAIM", requires = "oidc_issuer_url")]
    pub oidc_username_claim: Option<String>,
    /// What is put before the name; - is nothing [default: the issuer's URL and #, nothing for the claim email]
    #[arg(long, value_name = "PREFIX", requires = "oidc_issuer_url", allow_hyphen_values = true)]
    pub oidc_username_prefix: Option<String>,
    /// The claim that has the groups [default: none]
    #[arg(long, value_name = "CLAIM", requires = "oidc_issuer_url")]
    pub oidc_groups_claim: Option<String>,
    /// What is put before groups
    #[arg(long, value_name = "PREFIX", requires = "oidc_groups_claim")]
    pub oidc_groups_prefix: Option<String>,
    /// What tokens may be signed with [default: RS256]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "oidc_issuer_url")]
    pub oidc_signing_algs: Vec<String>,
    /// A claim that tokens must have with this value; can be repeated
    #[arg(long, value_name = "CLAIM=VALUE", value_delimiter = ',', requires = "oidc_issuer_url")]
    pub oidc_required_claim: Vec<String>,
}

/// Proxies in front of the server that tell in headers who asks.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct ProxyOptions {
    /// The authorities of the certificates of proxies that tell in headers who asks (PEM)
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// The names of such proxies [default: any that the authorities have signed for]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "requestheader_client_ca_file")]
    pub requestheader_allowed_names: Vec<String>,
    /// The headers of the user's name, such as X-Remote-User
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "requestheader_client_ca_file")]
    pub requestheader_username_headers: Vec<String>,
    /// The headers of the UID
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "requestheader_client_ca_file")]
    pub requestheader_uid_headers: Vec<String>,
    /// The headers of the groups, such as X-Remote-Group
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "requestheader_client_ca_file")]
    pub requestheader_group_headers: Vec<String>,
    /// What headers of further facts begin with, such as X-Remote-Extra-
    #[arg(long, value_name = "NAMES", value_delimiter = ',', requires = "requestheader_client_ca_file")]
    pub requestheader_extra_headers_prefix: Vec<String>,
}

/// One option as it is typed again for the server's own process.
enum Typed<'a> {
    /// A file: its path is made whole, because the server may stand in another folder.
    File(&'a Option<PathBuf>),
    Text(&'a Option<String>),
    List(&'a [String]),
    Switch(Option<bool>),
    Number(Option<u32>),
}

impl AccessOptions {
    /// The arguments that say the same.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        for (name, typed) in self.typed() {
            match typed {
                Typed::File(Some(path)) => {
                    let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                    arguments.push(format!("--{name}={}", path.display()));
                }
                Typed::Text(Some(text)) => arguments.push(format!("--{name}={text}")),
                Typed::List(list) => arguments.extend(list.iter().map(|text| format!("--{name}={text}"))),
                Typed::Switch(Some(on)) => arguments.push(format!("--{name}={on}")),
                Typed::Number(Some(number)) => arguments.push(format!("--{name}={number}")),
                Typed::File(None) | Typed::Text(None) | Typed::Switch(None) | Typed::Number(None) => {}
            }
        }
        arguments
    }

    fn typed(&self) -> Vec<(&'static str, Typed<'_>)> {
        use Typed::{File, List, Number, Switch, Text};
        let AuthenticationOptions { oidc, proxy, .. } = &self.authentication;
        let (own, deciders, encryption) = (&self.authentication, &self.authorization, &self.encryption);
        vec![
            ("authentication-config", File(&own.authentication_config)),
            ("anonymous-auth", Switch(own.anonymous_auth)),
            ("token-auth-file", File(&own.token_auth_file)),
            ("authentication-token-webhook-config-file", File(&own.authentication_token_webhook_config_file)),
            ("authentication-token-webhook-version", Text(&own.authentication_token_webhook_version)),
            ("authentication-token-webhook-cache-ttl", Text(&own.authentication_token_webhook_cache_ttl)),
            ("oidc-issuer-url", Text(&oidc.oidc_issuer_url)),
            ("oidc-client-id", Text(&oidc.oidc_client_id)),
            ("oidc-ca-file", File(&oidc.oidc_ca_file)),
            ("oidc-username-claim", Text(&oidc.oidc_username_claim)),
            ("oidc-username-prefix", Text(&oidc.oidc_username_prefix)),
            ("oidc-groups-claim", Text(&oidc.oidc_groups_claim)),
            ("oidc-groups-prefix", Text(&oidc.oidc_groups_prefix)),
            ("oidc-signing-algs", List(&oidc.oidc_signing_algs)),
            ("oidc-required-claim", List(&oidc.oidc_required_claim)),
            ("requestheader-client-ca-file", File(&proxy.requestheader_client_ca_file)),
            ("requestheader-allowed-names", List(&proxy.requestheader_allowed_names)),
            ("requestheader-username-headers", List(&proxy.requestheader_username_headers)),
            ("requestheader-uid-headers", List(&proxy.requestheader_uid_headers)),
            ("requestheader-group-headers", List(&proxy.requestheader_group_headers)),
            ("requestheader-extra-headers-prefix", List(&proxy.requestheader_extra_headers_prefix)),
            ("authorization-mode", List(&deciders.authorization_mode)),
            ("authorization-config", File(&deciders.authorization_config)),
            ("authorization-policy-file", File(&deciders.authorization_policy_file)),
            ("authorization-webhook-config-file", File(&deciders.authorization_webhook_config_file)),
            ("authorization-webhook-version", Text(&deciders.authorization_webhook_version)),
            ("authorization-webhook-cache-authorized-ttl", Text(&deciders.authorization_webhook_cache_authorized_ttl)),
            (
                "authorization-webhook-cache-unauthorized-ttl",
                Text(&deciders.authorization_webhook_cache_unauthorized_ttl),
            ),
            ("encryption-provider-config", File(&encryption.encryption_provider_config)),
            (
                "encryption-provider-config-automatic-reload",
                Switch(encryption.encryption_provider_config_automatic_reload),
            ),
            ("enable-priority-and-fairness", Switch(self.flow.enable_priority_and_fairness)),
            ("max-requests-inflight", Number(self.flow.max_requests_inflight)),
            ("max-mutating-requests-inflight", Number(self.flow.max_mutating_requests_inflight)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Whole {
        #[command(flatten)]
        access: AccessOptions,
    }

    /// A value that the option takes.
    fn value(name: &str) -> &str {
        match name {
            "max-requests-inflight" | "max-mutating-requests-inflight" => "7",
            "anonymous-auth" | "enable-priority-and-fairness" | "encryption-provider-config-automatic-reload" => {
                "false"
            }
            "authentication-token-webhook-version" | "authorization-webhook-version" => "v1",
            "oidc-required-claim" => "a=b",
            _ => "/x",
        }
    }

    #[test]
    fn every_option_reaches_the_servers_process() {
        let command = Whole::command();
        let names: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
        let typed: Vec<&str> = AccessOptions::default().typed().into_iter().map(|(name, _)| name).collect();
        let listed: Vec<&str> = names.iter().copied().filter(|name| *name != "help").collect();
        assert_eq!(typed, listed);
        // Of those that exclude each other one is given at a time.
        for left_out in [
            &["oidc-", "authorization-mode", "authorization-webhook", "authorization-policy"][..],
            &["authentication-config", "authorization-config"],
        ] {
            let given = listed.iter().filter(|name| !left_out.iter().any(|prefix| name.starts_with(prefix)));
            let arguments = given.map(|name| format!("--{name}={}", value(name)));
            let parsed =
                Whole::try_parse_from(["x".to_owned()].into_iter().chain(arguments.clone())).expect("understood");
            assert_eq!(parsed.access.arguments(), arguments.collect::<Vec<_>>());
        }
    }
}
