//! When a CronJob is due: the last time that was missed, how many were, and when to look again. Pure.

use std::time::Duration;

use k8s_openapi::api::batch::v1::CronJob;
use skiff_base::Timestamp;
use skiff_base::cron::Schedule;

/// More missed times than these are told of; only the last one is made up for.
const MANY_MISSED: i64 = 100;
/// Looking a little late is better than looking a little early.
const SLACK: Duration = Duration::from_millis(100);

/// What was missed up to now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The last time that was due.
    pub last: Timestamp,
    /// Whether there were so many that something is wrong.
    pub too_many: bool,
}

/// The last time that the CronJob was due and not started, counted from its last start or its creation,
/// and no earlier than its starting deadline reaches back.
pub fn due(cron: &CronJob, schedule: &Schedule, now: Timestamp) -> Result<Option<Due>, String> {
    let deadline = cron.spec.starting_deadline_seconds;
    let reach = deadline.and_then(|seconds| now.checked_sub(Duration::from_secs(seconds.unsigned_abs())).ok());
    last_before(schedule, begin(cron).max(reach.unwrap_or(Timestamp::MIN)), now)
}

/// How long until the next time.
pub fn until_next(cron: &CronJob, schedule: &Schedule, now: Timestamp) -> Option<Duration> {
    let from = match last_before(schedule, begin(cron), now) {
        Ok(Some(due)) => due.last,
        Ok(None) => begin(cron),
        Err(_) => now,
    };
    let next = schedule.next(from)?;
    Some(Duration::try_from(next.duration_since(now)).unwrap_or_default() + SLACK)
}

/// The last start, or the creation.
fn begin(cron: &CronJob) -> Timestamp {
    let last = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    last.or(cron.metadata.creation_timestamp.as_ref()).map_or(Timestamp::MIN, |time| time.0)
}

fn last_before(schedule: &Schedule, from: Timestamp, now: Timestamp) -> Result<Option<Due>, String> {
    let Some(first) = schedule.next(from).filter(|first| *first <= now) else { return Ok(None) };
    let Some(second) = schedule.next(first).filter(|second| *second <= now) else {
        return Ok(Some(Due { last: first, too_many: false }));
    };
    let apart = second.as_second() - first.as_second();
    if apart < 1 {
        return Err("time difference between two schedules is less than 1 second".to_owned());
    }
    let missed = (now.as_second() - first.as_second()) / apart + 1;
    // Times are not all equally far apart: the last one is looked for further and further back.
    let (mut reach, mut last) = (Duration::from_secs(apart.unsigned_abs()), first);
    while let Some(from) = now.checked_sub(reach).ok().filter(|from| *from > first) {
        if let Some(found) = schedule.next(from).filter(|found| *found <= now) {
            last = found;
            break;
        }
        reach *= 2;
    }
    while let Some(next) = schedule.next(last).filter(|next| *next <= now) {
        last = next;
    }
    Ok(Some(Due { last, too_many: missed > MANY_MISSED }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{now, object};

    fn check(schedule: &str, created: &str, spec: &str, expected: Option<(&str, bool)>, next_seconds: u64) {
        let cron: CronJob = object(&format!(
            "{{metadata: {{creationTimestamp: '{created}'}}, spec: {{schedule: '{schedule}', jobTemplate: {{}}{spec}}}}}"
        ));
        let schedule = Schedule::parse(schedule).expect(schedule);
        let due = due(&cron, &schedule, now()).expect("no fault");
        assert_eq!(due.map(|due| (due.last.to_string(), due.too_many)), expected.map(|(t, m)| (t.to_owned(), m)));
        assert_eq!(until_next(&cron, &schedule, now()).map(|left| left.as_secs()), Some(next_seconds));
    }

    #[test]
    fn the_last_missed_time_counts() {
        check("0 * * * *", "2026-01-31T11:30:00Z", "", Some(("2026-01-31T12:00:00Z", false)), 3600);
        check("0 * * * *", "2026-01-31T12:00:00Z", "", None, 3600);
        check("0 * * * *", "2026-01-31T07:30:00Z", "", Some(("2026-01-31T12:00:00Z", false)), 3600);
        check("* * * * *", "2026-01-31T10:19:30Z", "", Some(("2026-01-31T12:00:00Z", true)), 60);
        check("* * * * *", "2026-01-30T10:19:30Z", "", Some(("2026-01-31T12:00:00Z", true)), 60);
        // The deadline keeps the count of what was missed small.
        let deadline = ", startingDeadlineSeconds: 200";
        check("* * * * *", "2026-01-30T10:19:30Z", deadline, Some(("2026-01-31T12:00:00Z", false)), 60);
        check("30 10 * * mon-fri", "2026-01-01T00:00:00Z", "", Some(("2026-01-30T10:30:00Z", false)), 167_400);
        // Nothing is due within the deadline.
        check("30 10 * * mon-fri", "2026-01-01T00:00:00Z", deadline, None, 167_400);
    }
}
