//! Whether a text is a schedule, as cron knows them.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#schedule-syntax>.

const FIELDS: [(i64, i64, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];
const DESCRIPTORS: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// What is wrong with a schedule, or nothing.
pub fn fault(schedule: &str) -> Option<String> {
    let rest = match schedule.strip_prefix("TZ=").or_else(|| schedule.strip_prefix("CRON_TZ=")) {
        Some(zoned) => zoned.split_once(' ').map_or("", |(_, rest)| rest.trim()),
        None => schedule,
    };
    if rest.starts_with('@') {
        let is_known = DESCRIPTORS.contains(&rest) || rest.strip_prefix("@every ").is_some_and(is_duration);
        return (!is_known).then(|| format!("unrecognized descriptor: {rest}"));
    }
    let fields: Vec<_> = rest.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Some(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields.iter().zip(FIELDS).find_map(|(field, (low, high, names))| field_fault(field, low, high, names))
}

fn is_duration(text: &str) -> bool {
    let units = ["h", "m", "s", "ms", "us", "ns"];
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(0);
        let end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        if digits == 0 || !units.contains(&&rest[digits..end]) {
            return false;
        }
        rest = &rest[end..];
    }
    !text.is_empty()
}

fn field_fault(field: &str, low: i64, high: i64, names: &[&str]) -> Option<String> {
    field.split(',').find_map(|part| part_fault(part, low, high, names))
}

fn part_fault(part: &str, low: i64, high: i64, names: &[&str]) -> Option<String> {
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    if let Some(step) = step {
        match step.parse::<i64>() {
            Ok(0) => return Some(format!("step of range should be a positive number: {part}")),
            Ok(_) => {}
            Err(_) => {
                return Some(format!(
                    "failed to parse int from {step}: strconv.Atoi: parsing {step:?}: invalid syntax"
                ));
            }
        }
    }
    if matches!(range, "*" | "?") {
        return None;
    }
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| {
        let named = names.iter().position(|name| name.eq_ignore_ascii_case(text));
        named.map(|at| at as i64 + low).or_else(|| text.parse().ok())
    };
    let unread =
        |text: &str| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax");
    match (number(from), number(to)) {
        (None, _) => Some(unread(from)),
        (_, None) => Some(unread(to)),
        (Some(from), _) if from < low => Some(format!("beginning of range ({from}) below minimum ({low}): {part}")),
        (_, Some(to)) if to > high => Some(format!("end of range ({to}) above maximum ({high}): {part}")),
        (Some(from), Some(to)) if from > to => {
            Some(format!("beginning of range ({from}) beyond end of range ({to}): {part}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::fault;

    #[test]
    fn schedules_are_told_from_other_texts() {
        for good in
            ["* * * * *", "5 4 1 1 *", "*/5 0-6 1,15 jan-mar sun", "@hourly", "@every 1h30m", "TZ=UTC 0 0 * * ?"]
        {
            assert_eq!(fault(good), None, "{good}");
        }
        for bad in ["", "* * * *", "60 * * * *", "a * * * *", "*/0 * * * *", "@sometimes", "5-1 * * * *", "@every x"] {
            assert!(fault(bad).is_some(), "{bad}");
        }
    }
}
