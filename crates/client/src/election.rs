//! Leader election by a Lease, as upstream's parts do it: one of several servers runs the controllers and the scheduler.
//! See <https://kubernetes.io/docs/concepts/architecture/leases/#leader-election>.
//!
//! A holder's clock is never compared with ours: a Lease has run out when we have seen it unchanged for its duration. Durations are much shorter than
//! upstream's (15 s, 10 s and 2 s), so that the cluster goes on within 3 s of a server's death: a term is cheap to begin here, because who is elected
//! finds its server's informers filled.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use skiff_base::Timestamp;
use skiff_base::clock::SharedClock;

use crate::{Client, Error};

/// Where upstream's parts keep their Leases.
const NAMESPACE: &str = "kube-system";
/// How long a holder that is silent is taken for alive.
const LEASE_DURATION: Duration = Duration::from_secs(2);
/// How long a holder that cannot renew goes on after it last asked for what it was granted; shorter, because clocks differ in speed and an
/// end takes a moment.
const RENEW_DEADLINE: Duration = Duration::from_millis(1500);
/// How often a holder renews.
const RENEW_PERIOD: Duration = Duration::from_millis(500);
/// How often the others look.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
/// How long a look is waited for before another is tried: one that a store was asked for while it lost its own leader is never answered.
const LOOK_PATIENCE: Duration = Duration::from_millis(500);

/// Who stands for which office.
#[derive(Clone)]
pub struct Election {
    /// The client of the part, whose role may write the Lease.
    pub client: Client,
    /// The Lease's name, `kube-scheduler`.
    pub lease: &'static str,
    /// Who we are: no two servers have the same.
    pub identity: String,
    /// The time.
    pub clock: SharedClock,
}

/// A Lease as it was last seen to change.
#[derive(Debug, Clone, PartialEq, Default)]
struct Seen {
    lease: Option<Lease>,
    /// Monotonic.
    since: Duration,
}

impl Seen {
    fn look(&mut self, lease: Option<Lease>, now: Duration) {
        if self.lease != lease {
            *self = Self { lease, since: now };
        }
    }
}

/// What to do about the Lease.
#[derive(Debug, PartialEq)]
enum Plan {
    /// Create it.
    Create(LeaseSpec),
    /// Write it: to renew, or to take it from one who is gone.
    Write(Box<Lease>),
    /// Somebody else holds it.
    Wait,
}

/// Decides what `me` does about the Lease.
fn plan(seen: &Seen, me: &str, now: Timestamp, monotonic: Duration) -> Plan {
    let at = Some(MicroTime(now));
    let fresh = LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: Some(LEASE_DURATION.as_secs() as i32),
        acquire_time: at.clone(),
        renew_time: at.clone(),
        lease_transitions: Some(0),
        ..LeaseSpec::default()
    };
    let Some(lease) = &seen.lease else { return Plan::Create(fresh) };
    let old = lease.spec.clone().unwrap_or_default();
    let holder = old.holder_identity.as_deref().unwrap_or("");
    let spec = if holder == me {
        LeaseSpec { acquire_time: old.acquire_time, lease_transitions: old.lease_transitions, ..fresh }
    } else {
        let duration = old.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let duration = duration.map_or(LEASE_DURATION, Duration::from_secs);
        if !holder.is_empty() && monotonic < seen.since + duration {
            return Plan::Wait;
        }
        LeaseSpec { lease_transitions: Some(old.lease_transitions.unwrap_or(0) + 1), ..fresh }
    };
    Plan::Write(Box::new(Lease { spec: Some(spec), ..lease.clone() }))
}

impl Election {
    /// Stands for the office until `ended` is done: whenever it is won, `lead` runs what the leader does, and what it
    /// gives back is ended by `resign` when the office is lost or given up.
    pub async fn run<T, F: Future<Output = ()>>(
        &self,
        mut lead: impl FnMut() -> T,
        mut resign: impl FnMut(T) -> F,
        ended: impl Future<Output = ()>,
    ) {
        let mut ended = std::pin::pin!(ended);
        let mut seen = Seen::default();
        let mut office: Option<T> = None;
        let mut granted_until = Duration::ZERO;
        loop {
            let asked = self.clock.monotonic();
            // Within a term an answer that comes after its end is none: the office must be given up in time.
            let patience = granted_until.checked_sub(asked).unwrap_or(RENEW_DEADLINE);
            let held = self.step(&mut seen, patience).await;
            match &held {
                Ok(true) => granted_until = asked + RENEW_DEADLINE,
                Ok(false) => granted_until = Duration::ZERO,
                Err(error) => tracing::warn!(lease = self.lease, %error, "the Lease cannot be renewed"),
            }
            let now = self.clock.monotonic();
            match (now < granted_until, office.take()) {
                (true, None) => {
                    tracing::info!(lease = self.lease, identity = self.identity, "leading");
                    office = Some(lead());
                }
                (false, Some(lost)) => {
                    tracing::warn!(lease = self.lease, identity = self.identity, "no longer leading");
                    resign(lost).await;
                }
                (_, kept) => office = kept,
            }
            let pause = match (&office, held) {
                (Some(_), Ok(_)) => RENEW_PERIOD,
                (Some(_), Err(_)) => LOOK_PERIOD.min(granted_until.saturating_sub(now)),
                (None, _) => LOOK_PERIOD,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = &mut ended => break,
            }
        }
        if let Some(kept) = office {
            resign(kept).await;
            self.release(seen).await;
        }
    }

    /// Looks at the Lease and does what is to be done, for so long; says whether we hold it now.
    async fn step(&self, seen: &mut Seen, patience: Duration) -> Result<bool, Error> {
        let late = |_| Error::decode(format!("Lease {}", self.lease), "no answer in time");
        let request = async {
            let look = self.client.get::<Lease>(NAMESPACE, self.lease);
            let found = match tokio::time::timeout(LOOK_PATIENCE, look).await.map_err(late)? {
                Ok(lease) => Some(lease),
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            };
            seen.look(found, self.clock.monotonic());
            let written = match plan(seen, &self.identity, self.clock.now(), self.clock.monotonic()) {
                Plan::Wait => return Ok(false),
                Plan::Create(spec) => {
                    let metadata = ObjectMeta {
                        name: Some(self.lease.to_owned()),
                        namespace: Some(NAMESPACE.to_owned()),
                        ..ObjectMeta::default()
                    };
                    self.client.create(&Lease { metadata, spec: Some(spec) }).await
                }
                Plan::Write(lease) => self.client.update(&*lease).await,
            };
            match written {
                Ok(lease) => {
                    seen.look(Some(lease), self.clock.monotonic());
                    Ok(true)
                }
                // Somebody was faster; the next look shows who.
                Err(error) if error.is_conflict() || error.is_already_exists() => Ok(false),
                Err(error) => Err(error),
            }
        };
        tokio::time::timeout(patience, request).await.map_err(late)?
    }

    /// Lets the next one lead at once.
    async fn release(&self, seen: Seen) {
        let Some(mut lease) = seen.lease else { return };
        if let Some(spec) = &mut lease.spec {
            // Nobody's, as upstream writes it: an empty name is not valid.
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        if let Err(error) = self.client.update(&lease).await {
            tracing::warn!(lease = self.lease, %error, "the Lease was not given back; it runs out by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().expect("a time")
    }

    fn held(holder: &str, transitions: i32) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(2),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    /// `me` looks at a Lease that it has seen unchanged for so long.
    fn check(lease: Option<Lease>, unchanged: Duration) -> String {
        match plan(&Seen { lease, since: SECOND }, "me", now(), SECOND + unchanged) {
            Plan::Wait => "wait".into(),
            Plan::Create(spec) => {
                format!("create {} {:?}", spec.holder_identity.unwrap_or_default(), spec.lease_transitions)
            }
            Plan::Write(lease) => {
                let spec = lease.spec.unwrap_or_default();
                let new = spec.acquire_time.is_some();
                format!("write {} {:?} {new}", spec.holder_identity.unwrap_or_default(), spec.lease_transitions)
            }
        }
    }

    #[test]
    fn a_lease_is_taken_when_nobody_is_there_to_hold_it() {
        assert_eq!(check(None, SECOND), "create me Some(0)");
        assert_eq!(check(Some(held("other", 3)), SECOND), "wait");
        assert_eq!(check(Some(held("other", 3)), 2 * SECOND), "write me Some(4) true");
        assert_eq!(check(Some(held("", 3)), Duration::ZERO), "write me Some(4) true");
        assert_eq!(check(Some(held("me", 3)), Duration::ZERO), "write me Some(3) false");
    }

    #[test]
    fn only_a_change_keeps_a_holder_alive() {
        let mut seen = Seen::default();
        seen.look(Some(held("other", 1)), SECOND);
        seen.look(Some(held("other", 1)), 20 * SECOND);
        assert_eq!(seen.since, SECOND);
        seen.look(Some(held("other", 2)), 20 * SECOND);
        assert_eq!(seen.since, 20 * SECOND);
    }
}
