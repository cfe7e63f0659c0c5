//! `/healthz`, `/livez` and `/readyz`, whole and check by check, with upstream's texts.
//! See <https://kubernetes.io/docs/reference/using-api/health-checks/>.

use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::http::query::Query;
use crate::server::ApiServer;

/// What is checked.
pub const CHECKS: [&str; 4] = ["ping", "log", "etcd", "informer-sync"];

/// Answers a path of health checks.
pub fn answer(server: &ApiServer, path: &str, query: &Query) -> Option<Result<Answer>> {
    let mut segments = path.trim_start_matches('/').split('/');
    let kind = segments.next().filter(|kind| matches!(*kind, "healthz" | "livez" | "readyz"))?;
    if let Some(check) = segments.next() {
        return CHECKS
            .contains(&check)
            .then(|| Ok(answer::text(200, if passes(server, check) { "ok" } else { "failed" })));
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let (mut text, mut healthy) = (String::new(), true);
    for check in CHECKS {
        if excluded.contains(&check) {
            text.push_str(&format!("[+]{check} excluded: ok\n"));
        } else if passes(server, check) {
            text.push_str(&format!("[+]{check} ok\n"));
        } else {
            healthy = false;
            text.push_str(&format!("[-]{check} failed: reason withheld\n"));
        }
    }
    if !healthy {
        return Some(Ok(answer::text(500, format!("{text}{kind} check failed\n"))));
    }
    let verbose = query.flag("verbose");
    Some(Ok(answer::text(200, if verbose { format!("{text}{kind} check passed\n") } else { "ok".to_owned() })))
}

fn passes(server: &ApiServer, check: &str) -> bool {
    match check {
        // The caches are filled before the server exists; they lag only while the store's watch is broken.
        "etcd" | "informer-sync" => server.is_following(),
        _ => true,
    }
}
