//! A program of the user's says whom a token stands for.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authentication/#webhook-token-authentication>.

use std::time::Duration;

use serde_json::{Value, json};
use skiff_base::clock::SharedClock;
use skiff_base::remembered::Remembered;
use skiff_object::meta::Meta;

use crate::authn::{Digest, Found, digest};
use crate::call::UserInfo;
use crate::webhook::remote::{self, Remote};

/// How long one question may take, and the first pause before it is asked again.
const TIMEOUT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);
/// How many answers are remembered.
const REMEMBERED: usize = 4096;

/// What the server is told of the program.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where it is.
    pub remote: remote::Settings,
    /// How long an answer holds.
    pub cached_for: Duration,
    /// The version of `TokenReview` that it understands: `v1` or `v1beta1`.
    pub version: String,
}

/// The way to the program, and what it said.
pub struct Asker {
    remote: Remote,
    settings: Settings,
    clock: SharedClock,
    known: Remembered<Digest, Option<Found>>,
}

impl Asker {
    /// Nobody was asked yet.
    pub fn new(settings: Settings, clock: SharedClock) -> Self {
        Self { remote: Remote::new(settings.remote.clone()), settings, clock, known: Remembered::new(REMEMBERED) }
    }

    /// Whom a token stands for, where one of the audiences is meant; `None` where the program knows nobody.
    ///
    /// # Errors
    /// The program cannot be asked, or says what is wrong with the token.
    pub async fn user(&self, token: &str, audiences: &[String]) -> Result<Option<Found>, String> {
        let key = digest(&format!("{token}\0{}", audiences.join("\0")));
        let now = self.clock.monotonic();
        if let Some(found) = self.known.get(&key, now) {
            return Ok(found);
        }
        let mut spec = json!({"token": token});
        if !audiences.is_empty() {
            spec["audiences"] = json!(audiences);
        }
        let version = format!("authentication.k8s.io/{}", self.settings.version);
        let review = json!({"kind": "TokenReview", "apiVersion": version, "metadata": {}, "spec": spec, "status": {}});
        let answer = self.remote.insist(review.to_string().into(), TIMEOUT, PAUSE).await?;
        let found = read(&answer, audiences)?;
        self.known.put(key, found.clone(), now, self.settings.cached_for);
        Ok(found)
    }
}

fn read(answer: &[u8], audiences: &[String]) -> Result<Option<Found>, String> {
    let review: Value =
        serde_json::from_slice(answer).map_err(|error| format!("couldn't decode the answer: {error}"))?;
    let status = review.get("status").cloned().unwrap_or_default();
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if !status.bool_at(&["authenticated"]) {
        let why = status.str_at(&["error"]);
        return if why.is_empty() { Ok(None) } else { Err(why.to_owned()) };
    }
    // A program that knows nothing of audiences means the server's own, which are those asked for.
    let meant = status.get("audiences").map(texts).filter(|meant| !meant.is_empty());
    let meant = meant.unwrap_or_else(|| audiences.to_vec());
    let matching: Vec<String> = audiences.iter().filter(|audience| meant.contains(audience)).cloned().collect();
    if !audiences.is_empty() && matching.is_empty() {
        return Ok(None);
    }
    let extra = status.map_at(&["user", "extra"]).into_iter().flatten();
    let mut user = UserInfo {
        name: status.str_at(&["user", "username"]).to_owned(),
        uid: status.str_at(&["user", "uid"]).to_owned(),
        groups: status.at(&["user", "groups"]).map(texts).unwrap_or_default(),
        extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
    };
    user.authenticated();
    Ok(Some((user, matching)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: Value, audiences: &[&str], expected: Result<Option<(&str, &[&str])>, &str>) {
        let audiences: Vec<String> = audiences.iter().map(|audience| (*audience).to_owned()).collect();
        let found = read(json!({"status": status}).to_string().as_bytes(), &audiences);
        let found = found.map(|found| found.map(|(user, meant)| (user.name, meant)));
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let expected = expected.map(|found| found.map(|(name, meant)| (name.to_owned(), owned(meant))));
        assert_eq!(found, expected.map_err(str::to_owned), "{status}");
    }

    #[test]
    fn an_answer_counts_for_the_audiences_that_were_asked_for() {
        let known =
            |audiences: Value| json!({"authenticated": true, "user": {"username": "a"}, "audiences": audiences});
        check(known(json!(null)), &["api"], Ok(Some(("a", &["api"]))));
        check(known(json!(["api", "x"])), &["api", "y"], Ok(Some(("a", &["api"]))));
        check(known(json!(["x"])), &["api"], Ok(None));
        check(known(json!(["x"])), &[], Ok(Some(("a", &[]))));
        check(json!({"authenticated": false}), &["api"], Ok(None));
        check(json!({"authenticated": false, "error": "gone"}), &["api"], Err("gone"));
    }
}
