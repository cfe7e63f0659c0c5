//! `/healthz`, `/livez` and `/readyz`, whole and check by check, with upstream's texts.
//! See <https://kubernetes.io/docs/reference/using-api/health-checks/>.

use std::borrow::Cow;

use http::header::{HeaderValue, X_CONTENT_TYPE_OPTIONS};

use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::http::query::Query;
use crate::server::ApiServer;

/// What each of the three looks at, in upstream's order.
const HEALTHZ: [&str; 6] = [
    "ping",
    "log",
    "etcd",
    "poststarthook/crd-informer-synced",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
];
const LIVEZ: [&str; 6] = HEALTHZ;
const READYZ: [&str; 9] = [
    "ping",
    "log",
    "etcd",
    "etcd-readiness",
    "informer-sync",
    "poststarthook/crd-informer-synced",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "shutdown",
];

/// Answers a path of health checks.
pub fn answer(server: &ApiServer, path: &str, query: &Query) -> Option<Result<Answer>> {
    let path = path.trim_start_matches('/');
    let (kind, check) = path.split_once('/').unwrap_or((path, ""));
    let checks = checks_of(server, kind)?;
    let mut answer = if check.is_empty() {
        let passes = |check: &str| looked_at(server, kind, check).is_none();
        let (code, text) = report(kind, &checks, query, passes);
        answer::text(code, text)
    } else {
        let is_plugin = kind != "livez" && plugin_fault(server, check).is_some();
        (is_plugin || checks.contains(&check)).then_some(())?;
        match looked_at(server, kind, check) {
            None => answer::text(200, "ok"),
            Some(why) => answer::text(500, format!("internal server error: {why}\n")),
        }
    };
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Some(Ok(answer))
}

/// Asks those whose health is not known beforehand.
pub async fn ask(server: &ApiServer, path: &str) {
    if let Some(encryption) = &server.encryption
        && (path.starts_with("/healthz") || path.starts_with("/readyz"))
    {
        encryption.ask().await;
    }
}

/// What is looked at under a path. Plugins are no reason to restart a server, so that `livez` does not look at them.
pub fn checks_of(server: &ApiServer, kind: &str) -> Option<Vec<&'static str>> {
    let mut checks = match kind {
        "healthz" => HEALTHZ.to_vec(),
        "livez" => return Some(LIVEZ.to_vec()),
        "readyz" => READYZ.to_vec(),
        _ => return None,
    };
    let plugins = server.encryption.as_ref().and_then(|encryption| encryption.check());
    let place = checks.iter().position(|check| check.starts_with("poststarthook")).unwrap_or(checks.len());
    checks.splice(place..place, plugins);
    Some(checks)
}

fn plugin_fault(server: &ApiServer, check: &str) -> Option<Result<(), String>> {
    server.encryption.as_ref()?.fault(check)
}

/// The whole picture: only its failure, or who asks for it, is shown every check.
fn report(kind: &str, checks: &[&str], query: &Query, passes: impl Fn(&str) -> bool) -> (u16, String) {
    let mut excluded: Vec<&str> = query.all("exclude").collect();
    excluded.retain(|name| !name.is_empty());
    let (mut text, mut healthy) = (String::new(), true);
    for check in checks {
        if excluded.contains(check) {
            excluded.retain(|name| name != check);
            text.push_str(&format!("[+]{check} excluded: ok\n"));
        } else if passes(check) {
            text.push_str(&format!("[+]{check} ok\n"));
        } else {
            healthy = false;
            text.push_str(&format!("[-]{check} failed: reason withheld\n"));
        }
    }
    if !excluded.is_empty() {
        excluded.sort_unstable();
        let names: Vec<String> = excluded.iter().map(|name| format!("{name:?}")).collect();
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {}\n", names.join(",")));
    }
    match (healthy, query.get("verbose").is_some()) {
        (false, _) => (500, format!("{text}{kind} check failed\n")),
        (true, true) => (200, format!("{text}{kind} check passed\n")),
        (true, false) => (200, "ok".to_owned()),
    }
}

fn looked_at(server: &ApiServer, kind: &str, check: &str) -> Option<Cow<'static, str>> {
    let fault = fault(server, check);
    server.metrics.health(kind, check, fault.is_none());
    fault
}

/// What is wrong with a part; the caches are filled and the first objects written before the server exists.
pub fn fault(server: &ApiServer, check: &str) -> Option<Cow<'static, str>> {
    if let Some(outcome) = plugin_fault(server, check) {
        return outcome.err().map(Cow::Owned);
    }
    match check {
        "etcd" | "etcd-readiness" | "informer-sync" if !server.is_following() => {
            Some("the store cannot be followed at present".into())
        }
        "shutdown" if server.is_stopping() => Some("process is shutting down".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, broken: &str, expected: (u16, &str)) {
        let (code, text) = report("livez", &["ping", "etcd"], &Query::parse(query), |check| check != broken);
        assert_eq!((code, text.as_str()), expected, "{query}");
    }

    #[test]
    fn reports_are_upstreams() {
        check("", "", (200, "ok"));
        check("verbose", "", (200, "[+]ping ok\n[+]etcd ok\nlivez check passed\n"));
        check("", "etcd", (500, "[+]ping ok\n[-]etcd failed: reason withheld\nlivez check failed\n"));
        check("verbose&exclude=etcd", "etcd", (200, "[+]ping ok\n[+]etcd excluded: ok\nlivez check passed\n"));
        check(
            "verbose&exclude=x",
            "",
            (
                200,
                "[+]ping ok\n[+]etcd ok\nwarn: some health checks cannot be excluded: no matches for \"x\"\nlivez check passed\n",
            ),
        );
    }
}
