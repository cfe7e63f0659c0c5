//! `skiff token`: the bootstrap tokens of the cluster, asked of its API server in the administrator's name, and the secret of
//! its servers.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use skiff_base::clock::SharedClock;
use skiff_base::{SystemClock, Timestamp};
use skiff_client::{Client, DeleteOptions, Login};

use super::token::{Digest, Token, digest_of};
use crate::cli::{Target, TokenCommand};
use crate::commands::{CommandError, small_runtime};
use crate::control;
use crate::paths::{Paths, named};

const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const NAME_PREFIX: &str = "bootstrap-token-";

/// `skiff token ...`.
///
/// # Errors
/// The server does not run, is none, or refuses.
pub fn run(command: &TokenCommand) -> Result<(), CommandError> {
    let clock = SystemClock::shared();
    match command {
        TokenCommand::Create { target, ttl, description } => {
            println!("{}", create(&paths(target), ttl.0, description.as_deref(), &clock)?);
        }
        TokenCommand::List(target) => {
            let paths = paths(target);
            let selector = format!("{SECRETS}?fieldSelector=type%3D{}", TYPE.replace('/', "%2F"));
            let client = administrator(&paths)?;
            let list: Value = small_runtime()?.block_on(client.get_path(&selector))?;
            write!(std::io::stdout().lock(), "{}", render(&list, clock.now()))?;
        }
        TokenCommand::Delete { target, token } => {
            let bootstrap = token.rsplit_once("::").map_or(token.as_str(), |(_, bootstrap)| bootstrap);
            let id = bootstrap.split_once('.').map_or(bootstrap, |(id, _)| id);
            let path = format!("{SECRETS}/{NAME_PREFIX}{id}");
            let client = administrator(&paths(target))?;
            small_runtime()?.block_on(client.delete_path(&path, &DeleteOptions::default()))?;
            println!("deleted {id}");
        }
        TokenCommand::Rotate { target, new_server_token } => {
            let (socket, body) = (paths(target).control_socket(), json!({ "token": new_server_token }));
            small_runtime()?.block_on(control::call(&socket, Method::PUT, "/server-token", &body))?;
            println!(
                "The cluster's keys are encrypted by it from now on, and this server has it. Start each of the other servers \
                 with it (skiff down, skiff up --server-token ...): until then they hear nothing of keys that others exchange."
            );
        }
    }
    Ok(())
}

fn paths(target: &Target) -> Paths {
    Paths::new(&target.data_dir, target.isolated.as_deref())
}

/// Makes a token of the cluster that this node's server serves; `ttl` of zero is for ever.
///
/// # Errors
/// As [`run`].
pub fn create(
    paths: &Paths,
    ttl: Duration,
    description: Option<&str>,
    clock: &SharedClock,
) -> Result<Token, CommandError> {
    let client = administrator(paths)?;
    let token = Token::generate(authority_digest(paths)?)?;
    let mut data = json!({
        "token-id": token.id,
        "token-secret": token.secret,
        "usage-bootstrap-authentication": "true",
        "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
    });
    if !ttl.is_zero() {
        data["expiration"] = skiff_base::clock::rfc3339(clock.now().checked_add(ttl)?).into();
    }
    if let Some(description) = description {
        data["description"] = description.into();
    }
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE, "stringData": data,
        "metadata": {"name": format!("{NAME_PREFIX}{}", token.id), "namespace": "kube-system"}});
    small_runtime()?.block_on(client.send_json::<Value>(Method::POST, SECRETS, &secret))?;
    Ok(token)
}

/// A client in the administrator's name.
///
/// # Errors
/// There is no server here.
pub fn administrator(paths: &Paths) -> Result<Client, CommandError> {
    let file = paths.kubeconfig();
    if !file.exists() {
        return Err("there is no server here: tokens are made where one is".into());
    }
    Ok(Client::new(Arc::new(Login::read(&file)?.connection()?), "skiff"))
}

fn authority_digest(paths: &Paths) -> Result<Digest, CommandError> {
    let file = paths.pki().join("ca.crt");
    let pem = std::fs::read(&file).map_err(|error| named(&file, "read", error))?;
    let certificate = CertificateDer::from_pem_slice(&pem).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(digest_of(&certificate))
}

/// The list as a table; the secret parts are not told again.
fn render(list: &Value, now: Timestamp) -> String {
    let mut text = format!("{:<8} {:<6} {:<22} {}\n", "ID", "TTL", "EXPIRES", "DESCRIPTION");
    for secret in list["items"].as_array().into_iter().flatten() {
        let value = |key: &str| decoded(&secret["data"][key]);
        let expires = value("expiration");
        let left = expires.parse::<Timestamp>().map(|end| end.as_second() - now.as_second());
        let ttl = match left {
            Err(_) if expires.is_empty() => "never".to_owned(),
            Err(_) => "?".to_owned(),
            Ok(left) if left <= 0 => "over".to_owned(),
            Ok(left) => match left {
                0..120 => format!("{left}s"),
                120..7200 => format!("{}m", left / 60),
                _ => format!("{}h", left / 3600),
            },
        };
        let expires = if expires.is_empty() { "-".to_owned() } else { expires };
        let line = format!("{:<8} {ttl:<6} {expires:<22} {}", value("token-id"), value("description"));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn decoded(value: &Value) -> String {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap_or_default());
    bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn tokens_are_listed_without_their_secrets() {
        use base64::Engine;
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let secret = |id: &str, expiration: &str, description: &str| {
            json!({"data": {"token-id": encode(id), "token-secret": encode("0123456789abcdef"),
                "expiration": encode(expiration), "description": encode(description)}})
        };
        let list = json!({"items": [
            secret("aaaaaa", "2026-05-07T00:00:00Z", "for the new rack"),
            secret("bbbbbb", "2026-05-06T00:20:00Z", ""),
            secret("cccccc", "", ""),
        ]});
        let text = render(&list, "2026-05-06T00:00:00Z".parse().expect("a time"));
        expect![[r#"
            ID       TTL    EXPIRES                DESCRIPTION
            aaaaaa   24h    2026-05-07T00:00:00Z   for the new rack
            bbbbbb   20m    2026-05-06T00:20:00Z
            cccccc   never  -
        "#]]
        .assert_eq(&text);
    }
}
