//! Bootstrap tokens: what a machine shows that is not a node yet. Each is a Secret of `kube-system`.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use super::digest;
use crate::call::UserInfo;

/// Where the Secrets are.
pub const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const GROUP: &str = "system:bootstrappers";
const ID_LETTERS: usize = 6;
const SECRET_LETTERS: usize = 16;

/// Id and secret of a text that has the form of such a token: `abcdef.0123456789abcdef`.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let legal = |text: &str, letters: usize| {
        text.len() == letters && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    (legal(id, ID_LETTERS) && legal(secret, SECRET_LETTERS)).then_some((id, secret))
}

/// The name of the Secret that stands for the token.
pub fn secret_name(id: &str) -> String {
    format!("bootstrap-token-{id}")
}

/// Who shows this secret, as the Secret says.
///
/// # Errors
/// The Secret does not stand for this token, has run out, or is not for authentication.
pub fn user(object: &Object, id: &str, secret: &str, now: Timestamp) -> Result<UserInfo, String> {
    let text = |key: &str| {
        let encoded = object.str_at(&["data", key]);
        STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
    };
    if object.str_at(&["type"]) != TYPE || object.at(&["metadata", "deletionTimestamp"]).is_some() {
        return Err("the secret is no bootstrap token".into());
    }
    if text("token-id") != id || digest(&text("token-secret")) != digest(secret) {
        return Err("the bootstrap token's secret is another".into());
    }
    let expiration = text("expiration");
    // A time that cannot be read is no time at which the token would still be good.
    let is_good = expiration.is_empty() || expiration.trim().parse::<Timestamp>().is_ok_and(|end| end > now);
    if !is_good {
        return Err("the bootstrap token has run out".into());
    }
    if text("usage-bootstrap-authentication") != "true" {
        return Err("the bootstrap token is not for authentication".into());
    }
    let mut groups = vec![GROUP.to_owned()];
    for group in text("auth-extra-groups").split(',').filter(|group| !group.is_empty()) {
        if !group.starts_with("system:bootstrappers:") {
            return Err(format!("the bootstrap token names the group {group}"));
        }
        groups.push(group.to_owned());
    }
    let mut user = UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() };
    user.authenticated();
    Ok(user)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_have_one_form() {
        assert_eq!(parse("abcdef.0123456789abcdef"), Some(("abcdef", "0123456789abcdef")));
        for wrong in
            ["", "abcdef", "abcdef.0123456789abcde", "ABCDEF.0123456789abcdef", "a.b.c", "abcde.0123456789abcdefg"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_secret_decides_who_it_is() {
        let now: Timestamp = "2026-05-06T00:00:00Z".parse().expect("a time");
        let of = |changes: &[(&str, &str)]| {
            let mut data = json!({"token-id": "abcdef", "token-secret": "0123456789abcdef",
                "usage-bootstrap-authentication": "true", "auth-extra-groups": "system:bootstrappers:a"});
            for (key, value) in changes {
                data[*key] = (*value).into();
            }
            for value in data.as_object_mut().expect("an object").values_mut() {
                *value = STANDARD.encode(value.as_str().expect("a text")).into();
            }
            let object = json!({"type": TYPE, "data": data});
            user(&object, "abcdef", "0123456789abcdef", now)
                .map(|user| format!("{} {}", user.name, user.groups.join(" ")))
        };
        let good = "system:bootstrap:abcdef system:bootstrappers system:bootstrappers:a system:authenticated";
        assert_eq!(of(&[]), Ok(good.to_owned()));
        assert_eq!(of(&[("expiration", "2026-05-06T00:00:01Z")]), Ok(good.to_owned()));
        for change in [
            ("expiration", "2026-05-06T00:00:00Z"),
            ("expiration", "soon"),
            ("token-secret", "0123456789abcdee"),
            ("usage-bootstrap-authentication", "false"),
            ("auth-extra-groups", "system:masters"),
        ] {
            assert!(of(&[change]).is_err(), "{change:?}");
        }
    }
}
