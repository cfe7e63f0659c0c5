//! Texts that stand for something: quantities, times, bytes. Each has one canonical form, in which it is stored.

use jiff::fmt::temporal::DateTimePrinter;
use jiff::tz::TimeZone;
use skiff_base::Quantity;

/// The canonical form of a quantity.
///
/// # Errors
/// It is none; the text is upstream's.
pub fn quantity(text: &str) -> Result<String, String> {
    text.parse::<Quantity>().map(|quantity| quantity.to_string()).map_err(|error| error.to_string())
}

/// The canonical form of a time: UTC with seconds, or with microseconds.
///
/// # Errors
/// It is no time; the text is Go's.
pub fn time(text: &str, micro: bool) -> Result<String, String> {
    if !micro && is_canonical(text) {
        return Ok(text.to_owned());
    }
    let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    let year = &text[..text.char_indices().nth(4).map_or(text.len(), |(index, _)| index)];
    let wrong = || {
        let (rest, part) = if year.len() == 4 && year.bytes().all(|byte| byte.is_ascii_digit()) {
            (&text[4..], "-")
        } else {
            (text, "2006")
        };
        format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {part:?}")
    };
    // Go's layout wants the letter `T`, and a zone.
    if text.as_bytes().get(10) != Some(&b'T') {
        return Err(wrong());
    }
    let timestamp: jiff::Timestamp = text.parse().map_err(|_| wrong())?;
    let timestamp = timestamp.to_zoned(TimeZone::UTC).timestamp();
    let mut out = String::new();
    let printer = DateTimePrinter::new().precision(Some(if micro { 6 } else { 0 }));
    printer.print_timestamp(&timestamp, &mut out).expect("a String takes all text");
    Ok(out)
}

/// `2006-01-02T15:04:05Z`, as almost all times are written.
fn is_canonical(text: &str) -> bool {
    let bytes = text.as_bytes();
    let number = |from: usize| u32::from(bytes[from] - b'0') * 10 + u32::from(bytes[from + 1] - b'0');
    bytes.len() == 20
        && bytes.iter().enumerate().all(|(index, byte)| match index {
            4 | 7 => *byte == b'-',
            10 => *byte == b'T',
            13 | 16 => *byte == b':',
            19 => *byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
        && (1..=12).contains(&number(5))
        && (1..=28).contains(&number(8))
        && number(11) < 24
        && number(14) < 60
        && number(17) < 60
}

/// Base64 without the line breaks that Go skips.
///
/// # Errors
/// It is no base64; the text is Go's.
pub fn base64(mut text: String) -> Result<String, String> {
    if text.contains(['\r', '\n']) {
        text.retain(|char| !matches!(char, '\r' | '\n'));
    }
    match base64_fault(text.as_bytes()) {
        None => Ok(text),
        Some(at) => Err(format!("illegal base64 data at input byte {at}")),
    }
}

/// The first byte that is wrong.
fn base64_fault(bytes: &[u8]) -> Option<usize> {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    let digits = bytes.iter().take_while(|byte| is_digit(byte)).count();
    let padding = bytes[digits..].iter().take_while(|byte| **byte == b'=').count();
    let wanted = match digits % 4 {
        0 => 0,
        1 => return Some(digits.min(bytes.len())),
        rest => 4 - rest,
    };
    if digits + padding < bytes.len() {
        return Some(digits + padding.min(wanted));
    }
    match padding.cmp(&wanted) {
        std::cmp::Ordering::Equal => None,
        std::cmp::Ordering::Less => Some(bytes.len()),
        std::cmp::Ordering::Greater => Some(digits + wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        assert_eq!(quantity("1000m"), Ok("1".to_owned()));
        assert_eq!(quantity("0.5"), Ok("500m".to_owned()));
        assert!(quantity("x").is_err());
        assert_eq!(time("2020-01-02T03:04:05+01:00", false), Ok("2020-01-02T02:04:05Z".to_owned()));
        assert_eq!(time("2020-01-31T03:04:05Z", false), Ok("2020-01-31T03:04:05Z".to_owned()));
        assert_eq!(time("2020-01-02T03:04:05.5Z", true), Ok("2020-01-02T03:04:05.500000Z".to_owned()));
        assert_eq!(time("2020-01-02T03:04:05.987Z", false), Ok("2020-01-02T03:04:05Z".to_owned()));
        assert_eq!(
            time("soon", false),
            Err(r#"parsing time "soon" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006""#.to_owned())
        );
        assert!(time("2020-01-02 03:04:05Z", false).is_err());
        assert!(time("2020-13-02T03:04:05Z", false).is_err());
    }

    #[test]
    fn bytes() {
        assert_eq!(base64("aGVs\nbG8=".to_owned()), Ok("aGVsbG8=".to_owned()));
        assert_eq!(base64(String::new()), Ok(String::new()));
        assert_eq!(base64("a b".to_owned()), Err("illegal base64 data at input byte 1".to_owned()));
        assert!(base64("aGVsbG8".to_owned()).is_err());
        assert!(base64("aGVsbG8==".to_owned()).is_err());
    }
}
