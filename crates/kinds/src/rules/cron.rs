//! Whether a text is a schedule, as cron knows them.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax>.

use skiff_base::cron::Schedule;

/// What is wrong with a schedule, or nothing.
pub fn fault(schedule: &str) -> Option<String> {
    Schedule::parse(schedule).err()
}
