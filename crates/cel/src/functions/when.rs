//! Functions of times and spans of time.

use jiff::tz::{Offset, TimeZone};

use crate::error::EvalError;
use crate::eval::{Machine, no_overload};
use crate::library::Library;
use crate::value::{Result, Value};

pub(crate) static LIBRARY: Library = Library {
    signatures: "
        getDate timestamp_to_day_of_month_1_based timestamp.() int
        getDate timestamp_to_day_of_month_1_based_with_tz timestamp.(string) int
        getDayOfMonth timestamp_to_day_of_month timestamp.() int
        getDayOfMonth timestamp_to_day_of_month_with_tz timestamp.(string) int
        getDayOfWeek timestamp_to_day_of_week timestamp.() int
        getDayOfWeek timestamp_to_day_of_week_with_tz timestamp.(string) int
        getDayOfYear timestamp_to_day_of_year timestamp.() int
        getDayOfYear timestamp_to_day_of_year_with_tz timestamp.(string) int
        getFullYear timestamp_to_year timestamp.() int
        getFullYear timestamp_to_year_with_tz timestamp.(string) int
        getMonth timestamp_to_month timestamp.() int
        getMonth timestamp_to_month_with_tz timestamp.(string) int
        getHours timestamp_to_hours timestamp.() int
        getHours timestamp_to_hours_with_tz timestamp.(string) int
        getHours duration_to_hours duration.() int
        getMinutes timestamp_to_minutes timestamp.() int
        getMinutes timestamp_to_minutes_with_tz timestamp.(string) int
        getMinutes duration_to_minutes duration.() int
        getSeconds timestamp_to_seconds timestamp.() int
        getSeconds timestamp_to_seconds_tz timestamp.(string) int
        getSeconds duration_to_seconds duration.() int
        getMilliseconds timestamp_to_milliseconds timestamp.() int
        getMilliseconds timestamp_to_milliseconds_with_tz timestamp.(string) int
        getMilliseconds duration_to_milliseconds duration.() int
    ",
    runs: &[
        ("getDate", |_, args| part(args, |time| i64::from(time.day()), None)),
        ("getDayOfMonth", |_, args| part(args, |time| i64::from(time.day()) - 1, None)),
        ("getDayOfWeek", |_, args| part(args, |time| i64::from(time.weekday().to_sunday_zero_offset()), None)),
        ("getDayOfYear", |_, args| part(args, |time| i64::from(time.day_of_year()) - 1, None)),
        ("getFullYear", |_, args| part(args, |time| i64::from(time.year()), None)),
        ("getMonth", |_, args| part(args, |time| i64::from(time.month()) - 1, None)),
        ("getHours", |_, args| part(args, |time| i64::from(time.hour()), Some(|nanos| nanos / HOUR))),
        ("getMinutes", |_, args| part(args, |time| i64::from(time.minute()), Some(|nanos| nanos / MINUTE))),
        ("getSeconds", |_, args| part(args, |time| i64::from(time.second()), Some(|nanos| nanos / SECOND))),
        ("getMilliseconds", milliseconds),
    ],
};

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;

fn milliseconds<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    part(args, |time| i64::from(time.millisecond()), Some(|nanos| nanos % SECOND / 1_000_000))
}

fn part<'a>(
    args: &[Value<'a>],
    of_time: impl Fn(&jiff::Zoned) -> i64,
    of_span: Option<fn(i64) -> i64>,
) -> Result<Value<'a>> {
    let zone = match args.get(1) {
        None => TimeZone::UTC,
        Some(Value::String(name)) => zone(name)?,
        Some(_) => return Err(no_overload()),
    };
    match (&args[0], of_span) {
        (Value::Timestamp(time), _) => Ok(Value::Int(of_time(&time.to_zoned(zone)))),
        (Value::Duration(nanos), Some(of_span)) if args.len() == 1 => Ok(Value::Int(of_span(*nanos))),
        _ => Err(no_overload()),
    }
}

/// A zone by its name, or by its offset as in `-08:00`.
fn zone(name: &str) -> Result<TimeZone> {
    let unknown = || EvalError::new(format!("unknown time zone {name}"));
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    let Some((hours, minutes)) = name.split_once(':') else {
        return TimeZone::get(name).map_err(|_| unknown());
    };
    let negative = hours.starts_with('-');
    let hours: i32 = hours.trim_start_matches(['-', '+']).parse().map_err(|_| unknown())?;
    let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
    if hours > 23 || !(0..60).contains(&minutes) {
        return Err(unknown());
    }
    let seconds = (hours * 60 + minutes) * 60;
    let offset = Offset::from_seconds(if negative { -seconds } else { seconds }).map_err(|_| unknown())?;
    Ok(TimeZone::fixed(offset))
}
