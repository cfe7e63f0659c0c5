//! From the claims of a token to an identity, as an issuer's configuration has it. Pure.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#configuring-the-api-server>.

use serde_json::{Value as Json, json};
use skiff_base::Timestamp;
use skiff_cel::{Program, Value};

use crate::admission::conditions::CALL_LIMIT;
use crate::authn::distributed;
use crate::authn::structured::{Issuer, Rule, Source};
use crate::call::UserInfo;

/// How much later than the server's a clock of an issuer may be.
const LEEWAY_SECONDS: i64 = 60;
/// Which claims are elsewhere, by the names of their sources; and what the sources are.
const NAMES: &str = "_claim_names";
const SOURCES: &str = "_claim_sources";
const ENDPOINT: &str = "endpoint";
const ACCESS_TOKEN: &str = "access_token";

impl Issuer {
    /// Whether claims whose signature was checked are meant for this server, and now.
    ///
    /// # Errors
    /// They are not, in upstream's words.
    pub fn check(&self, claims: &Json, now: Timestamp) -> Result<(), String> {
        sources_exist(claims)?;
        let meant: Vec<&str> = match &claims["aud"] {
            Json::String(one) => vec![one],
            Json::Array(many) => many.iter().filter_map(Json::as_str).collect(),
            _ => Vec::new(),
        };
        if !self.audiences.iter().any(|own| meant.contains(&own.as_str())) {
            let quoted = |list: Vec<String>| format!("[{}]", list.join(" "));
            let got = quoted(meant.iter().map(|audience| format!("{audience:?}")).collect());
            return Err(match self.audiences.as_slice() {
                [one] => format!("oidc: expected audience {one:?} got {got}"),
                many => {
                    let mut own: Vec<String> = many.iter().map(|audience| format!("{audience:?}")).collect();
                    own.sort();
                    format!("oidc: expected audience in {} got {got}", quoted(own))
                }
            });
        }
        // Times may have parts of a second.
        let second = |claim: &str| claims[claim].as_f64().map(|second| second as i64);
        let expiry = second("exp").unwrap_or_default();
        if now.as_second() > expiry {
            let shown = Timestamp::from_second(expiry).unwrap_or_default();
            return Err(format!("oidc: token is expired (Token Expiry: {shown})"));
        }
        if let Some(begins) = second("nbf")
            && now.as_second() + LEEWAY_SECONDS < begins
        {
            let shown = Timestamp::from_second(begins).unwrap_or_default();
            return Err(format!("oidc: current time {now} before the nbf (not before) time: {shown}"));
        }
        Ok(())
    }

    /// Where the groups are, if the claims, which were checked, do not have them but name the place.
    ///
    /// # Errors
    /// Claims are elsewhere, but it is not said where.
    pub fn elsewhere<'a>(&'a self, claims: &'a Json) -> Result<Option<distributed::Source<'a>>, String> {
        let Source::Claim(claim, _) = &self.groups else { return Ok(None) };
        let Some(names) = claims.get(NAMES).filter(|_| claims.get(claim).is_none()) else { return Ok(None) };
        let sources = claims.get(SOURCES).ok_or("oidc: no claim sources")?;
        let Some(source) = names.get(claim).and_then(Json::as_str).and_then(|name| sources.get(name)) else {
            return Ok(None);
        };
        let text = |field: &str| source.get(field).and_then(Json::as_str).unwrap_or("");
        let (endpoint, access_token) = (text(ENDPOINT), text(ACCESS_TOKEN));
        // What has no endpoint has a token within itself, which upstream does not look at either.
        Ok((!endpoint.is_empty()).then_some(distributed::Source { claim, endpoint, access_token }))
    }

    /// Whom the claims stand for.
    ///
    /// # Errors
    /// A claim that is needed is not there or of the wrong type, or a rule does not hold.
    pub fn user(&self, claims: &Json) -> Result<UserInfo, String> {
        let mut user = UserInfo {
            name: self.name(claims)?,
            groups: self.groups_of(claims)?,
            uid: self.uid_of(claims)?,
            ..UserInfo::default()
        };
        for (key, program) in &self.extra {
            let fault = |why| format!("oidc: error evaluating extra claim expression: {key}: {why}");
            let values = evaluated(program, claims, texts).map_err(fault)?;
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        for (claim, wanted) in &self.required {
            if claims.get(claim).is_none() {
                return Err(format!("oidc: required claim {claim} not present in ID token"));
            }
            let value = text(claims, claim).map_err(|why| format!("oidc: parse claim {claim}: {why}"))?;
            if value != *wanted {
                return Err(format!(
                    "oidc: required claim {claim} value does not match. Got = {value}, want = {wanted}"
                ));
            }
        }
        hold(&self.claim_rules, "claims", claims)
            .map_err(|why| format!("oidc: error evaluating claim validation expression: {why}"))?;
        let mut shown = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
        // What is empty is not there, as in upstream's type.
        if let Some(fields) = shown.as_object_mut() {
            fields.retain(|_, value| !matches!(value, Json::String(text) if text.is_empty()));
            fields.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
            fields.retain(|_, value| value.as_object().is_none_or(|map| !map.is_empty()));
        }
        hold(&self.user_rules, "user", &shown)
            .map_err(|why| format!("oidc: error evaluating user info validation rule: {why}"))?;
        user.authenticated();
        Ok(user)
    }

    fn name(&self, claims: &Json) -> Result<String, String> {
        let (claim, prefix) = match &self.username {
            Source::Claim(claim, prefix) => (claim, prefix),
            Source::Expression(program) => {
                let one = |value: &Value<'_>| one_text(value, "username claim expression must return a string");
                return evaluated(program, claims, one)
                    .map_err(|why| format!("oidc: error evaluating username claim expression: {why}"));
            }
            Source::Nothing => return Err("oidc: no claim is the username".to_owned()),
        };
        let name = text(claims, claim).map_err(|why| format!("oidc: parse username claims {claim:?}: {why}"))?;
        if claim == "email" {
            match claims.get("email_verified") {
                None | Some(Json::Bool(true)) => {}
                Some(Json::Bool(false) | Json::Null) => return Err("oidc: email not verified".to_owned()),
                Some(other) => return Err(format!("oidc: parse 'email_verified' claim: {}", mismatch(other, "bool"))),
            }
        }
        Ok(format!("{prefix}{name}"))
    }

    fn groups_of(&self, claims: &Json) -> Result<Vec<String>, String> {
        match &self.groups {
            Source::Nothing => Ok(Vec::new()),
            Source::Expression(program) => evaluated(program, claims, texts)
                .map_err(|why| format!("oidc: error evaluating group claim expression: {why}")),
            Source::Claim(claim, prefix) => {
                let fault = |other: &Json| format!("oidc: parse groups claim {claim:?}: {}", mismatch(other, "string"));
                let put = |group: &str| format!("{prefix}{group}");
                match claims.get(claim) {
                    None | Some(Json::Null) => Ok(Vec::new()),
                    Some(Json::String(one)) => Ok(vec![put(one)]),
                    Some(Json::Array(many)) => {
                        many.iter().map(|group| group.as_str().map(put).ok_or_else(|| fault(group))).collect()
                    }
                    Some(other) => Err(fault(other)),
                }
            }
        }
    }

    fn uid_of(&self, claims: &Json) -> Result<String, String> {
        match &self.uid {
            Source::Nothing => Ok(String::new()),
            Source::Claim(claim, _) => {
                text(claims, claim).map_err(|why| format!("oidc: parse uid claim {claim:?}: {why}"))
            }
            Source::Expression(program) => {
                let one = |value: &Value<'_>| one_text(value, "uid claim expression must return a string");
                evaluated(program, claims, one)
                    .map_err(|why| format!("oidc: error evaluating uid claim expression: {why}"))
            }
        }
    }
}

/// Whether each claim that is elsewhere has a source, as every token is looked at.
fn sources_exist(claims: &Json) -> Result<(), String> {
    let object = |field: &str, of: &str| match claims.get(field) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Object(map)) => Ok(Some(map)),
        Some(other) => Err(unmarshalled(other, field, &format!("map[string]{of}"))),
    };
    let (names, sources) = (object(NAMES, "string")?, object(SOURCES, "oidc.claimSource")?);
    for source in sources.into_iter().flatten().map(|(_, source)| source) {
        match source {
            Json::Null => {}
            Json::Object(fields) => {
                for field in [ENDPOINT, ACCESS_TOKEN] {
                    if let Some(other) = fields.get(field).filter(|value| !value.is_string() && !value.is_null()) {
                        return Err(unmarshalled(other, &format!("{SOURCES}.{field}"), "string"));
                    }
                }
            }
            other => return Err(unmarshalled(other, SOURCES, "oidc.claimSource")),
        }
    }
    for source in names.into_iter().flatten().map(|(_, source)| source) {
        match source {
            Json::String(name) if !name.is_empty() => {
                if sources.is_none_or(|sources| !sources.contains_key(name)) {
                    return Err("oidc: source does not exist".to_owned());
                }
            }
            Json::String(_) | Json::Null => return Err("oidc: failed to obtain source from claim name".to_owned()),
            other => return Err(unmarshalled(other, NAMES, "string")),
        }
    }
    Ok(())
}

fn unmarshalled(value: &Json, field: &str, wanted: &str) -> String {
    let kind = kind(value);
    format!(
        "oidc: failed to unmarshal claims: json: cannot unmarshal {kind} into Go struct field idToken.{field} of type {wanted}"
    )
}

/// The value of a claim that is text.
fn text(claims: &Json, claim: &str) -> Result<String, String> {
    match claims.get(claim) {
        None => Err("claim not present".to_owned()),
        Some(Json::String(text)) => Ok(text.clone()),
        Some(Json::Null) => Ok(String::new()),
        Some(other) => Err(mismatch(other, "string")),
    }
}

fn mismatch(value: &Json, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into Go value of type {wanted}", kind(value))
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

fn evaluated<T>(program: &Program, claims: &Json, read: impl Fn(&Value<'_>) -> Result<T, String>) -> Result<T, String> {
    let variables = vec![("claims", Value::json(claims, None))];
    let value = program.run(&variables, None, CALL_LIMIT).value.map_err(|error| error.to_string())?;
    read(&value)
}

fn one_text(value: &Value<'_>, otherwise: &str) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.to_string()),
        _ => Err(otherwise.to_owned()),
    }
}

/// A text or a list of texts; empty ones count as none.
fn texts(value: &Value<'_>) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    let mut found = match value {
        Value::Null => Vec::new(),
        Value::String(text) => vec![text.to_string()],
        Value::List(list) => {
            let items = (0..list.len()).map(|index| one_text(&list.get(index), ""));
            items.collect::<Result<_, _>>().map_err(|_| wrong())?
        }
        _ => return Err(wrong()),
    };
    found.retain(|text| !text.is_empty());
    Ok(found)
}

fn hold(rules: &[Rule], variable: &'static str, subject: &Json) -> Result<(), String> {
    if rules.is_empty() {
        return Ok(());
    }
    for rule in rules {
        let variables = vec![(variable, Value::json(subject, None))];
        match rule.program.run(&variables, None, CALL_LIMIT).value {
            Ok(Value::Bool(true)) => {}
            Ok(Value::Bool(false)) => {
                return Err(format!("validation expression '{}' failed: {}", rule.text, rule.message));
            }
            Ok(_) => return Err("validation expression must return a boolean".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::structured::Configuration;

    fn issuer(groups: Json) -> Issuer {
        let username = json!({"claim": "sub", "prefix": ""});
        let jwt = json!({"issuer": {"url": "https://x", "audiences": ["a"]},
            "claimMappings": {"username": username, "groups": groups}});
        let read = Configuration::of(&json!({"jwt": [jwt]}), None, &Configuration::every_algorithm());
        read.expect("a configuration").issuers.remove(0)
    }

    fn check(more: Json, expected: Result<Option<(&str, &str)>, &str>) {
        let issuer = issuer(json!({"claim": "groups", "prefix": ""}));
        let mut claims = json!({"aud": "a", "exp": 100});
        for (claim, value) in more.as_object().expect("claims") {
            claims[claim] = value.clone();
        }
        let now = Timestamp::from_second(50).expect("a time");
        let found = issuer.check(&claims, now).and_then(|()| issuer.elsewhere(&claims));
        let found = found.map(|found| found.map(|source| (source.endpoint, source.access_token)));
        assert_eq!(found, expected.map_err(str::to_owned), "{claims}");
    }

    #[test]
    fn a_claim_is_elsewhere_where_its_source_is_told() {
        let source = |source: Json| json!({"_claim_names": {"groups": "s"}, "_claim_sources": {"s": source}});
        check(json!({}), Ok(None));
        check(source(json!({"endpoint": "https://e"})), Ok(Some(("https://e", ""))));
        check(source(json!({"endpoint": "https://e", "access_token": "t"})), Ok(Some(("https://e", "t"))));
        check(source(json!({"JWT": "e30.e30.AA"})), Ok(None));
        let mut both = source(json!({"endpoint": "https://e"}));
        both["groups"] = Json::Null;
        check(both, Ok(None));
        let other = json!({"_claim_names": {"roles": "s"}, "_claim_sources": {"s": {"endpoint": "https://e"}}});
        check(other, Ok(None));
        check(json!({"_claim_names": {}}), Err("oidc: no claim sources"));
        check(json!({"_claim_names": {"groups": "s"}}), Err("oidc: source does not exist"));
        check(json!({"_claim_names": {"roles": "s"}, "_claim_sources": {}}), Err("oidc: source does not exist"));
        check(json!({"_claim_names": {"groups": ""}}), Err("oidc: failed to obtain source from claim name"));
        let fault = "oidc: failed to unmarshal claims: json: cannot unmarshal ";
        for (claims, why) in [
            (
                json!({"_claim_names": "s"}),
                "string into Go struct field idToken._claim_names of type map[string]string",
            ),
            (json!({"_claim_names": {"groups": 7}}), "number into Go struct field idToken._claim_names of type string"),
            (source(json!([])), "array into Go struct field idToken._claim_sources of type oidc.claimSource"),
            (
                source(json!({"endpoint": {}})),
                "object into Go struct field idToken._claim_sources.endpoint of type string",
            ),
        ] {
            check(claims, Err(&format!("{fault}{why}")));
        }
        // An expression sees the claims as they came.
        let issuer = issuer(json!({"expression": "claims.?groups.orValue([])"}));
        assert_eq!(issuer.elsewhere(&source(json!({"endpoint": "https://e"}))), Ok(None));
    }
}
