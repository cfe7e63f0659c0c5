//! The formats of texts that schemas may name. What is no known format lets everything pass.
//! See <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use skiff_cel::functions::{kube, net};
use skiff_cel::time;

/// Whether a text is of a format.
pub fn is_of(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => time::parse_timestamp(text).is_ok(),
        "date" => text.len() == 10 && time::parse_timestamp(&format!("{text}T00:00:00Z")).is_ok(),
        "duration" => time::parse_duration(text).is_ok(),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "uuid" => kube::is_uuid(text),
        "uuid3" => is_uuid_of(text, '3'),
        "uuid4" => is_uuid_of(text, '4'),
        "uuid5" => is_uuid_of(text, '5'),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "cidr" => net::parse_cidr(text).is_ok(),
        "uri" => net::parse_url(text).is_ok(),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "mac" => is_mac(text),
        "hexcolor" => is_hex_color(text),
        "rgbcolor" => is_rgb_color(text),
        "creditcard" => is_credit_card(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "ssn" => is_grouped(text, &[3, 2, 4], &['-', ' ']),
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit()),
        _ => true,
    }
}

fn is_uuid_of(text: &str, version: char) -> bool {
    let plain: String = text.chars().filter(|letter| *letter != '-').collect();
    kube::is_uuid(text) && plain.chars().nth(12) == Some(version)
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&byte) || !byte.is_ascii();
    !local.is_empty() && local.bytes().all(allowed) && is_hostname(domain)
}

fn is_hostname(text: &str) -> bool {
    const LONGEST: usize = 253;
    const LONGEST_LABEL: usize = 63;
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || !byte.is_ascii())
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= LONGEST && text.split('.').all(is_label)
}

fn is_mac(text: &str) -> bool {
    let hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let groups = |by: char| -> Vec<&str> { text.split(by).collect() };
    [':', '-'].into_iter().any(|by| {
        let parts = groups(by);
        matches!(parts.len(), 6 | 8 | 20) && parts.iter().all(|part| hex(part, 2))
    }) || {
        let parts = groups('.');
        matches!(parts.len(), 3 | 4 | 10) && parts.iter().all(|part| hex(part, 4))
    }
}

fn is_hex_color(text: &str) -> bool {
    let digits = text.strip_prefix('#').unwrap_or(text);
    matches!(digits.len(), 3 | 6) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_rgb_color(text: &str) -> bool {
    let inner = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')'));
    let parts: Vec<&str> = inner.unwrap_or("").split(',').map(str::trim).collect();
    parts.len() == 3 && parts.iter().all(|part| part.parse::<u8>().is_ok())
}

fn digits_of(text: &str) -> Option<Vec<u32>> {
    let kept = text.chars().filter(|letter| !matches!(letter, '-' | ' '));
    kept.map(|letter| letter.to_digit(10)).collect()
}

fn is_credit_card(text: &str) -> bool {
    let Some(digits) = digits_of(text).filter(|digits| (12..=19).contains(&digits.len())) else { return false };
    let doubled = digits.iter().rev().enumerate().map(|(index, digit)| match index % 2 {
        0 => *digit,
        _ if digit * 2 > 9 => digit * 2 - 9,
        _ => digit * 2,
    });
    doubled.sum::<u32>() % 10 == 0
}

fn is_isbn10(text: &str) -> bool {
    let plain: String = text.chars().filter(|letter| !matches!(letter, '-' | ' ')).collect();
    if plain.chars().count() != 10 {
        return false;
    }
    let mut sum = 0;
    for (index, letter) in plain.chars().enumerate() {
        let value = match letter {
            'X' if index == 9 => 10,
            _ => match letter.to_digit(10) {
                Some(digit) => digit,
                None => return false,
            },
        };
        sum += value * (10 - index as u32);
    }
    sum % 11 == 0
}

fn is_isbn13(text: &str) -> bool {
    let Some(digits) = digits_of(text).filter(|digits| digits.len() == 13) else { return false };
    let weighted = digits.iter().enumerate().map(|(index, digit)| if index % 2 == 0 { *digit } else { digit * 3 });
    weighted.sum::<u32>() % 10 == 0
}

/// Groups of digits of these lengths, with one of the letters between them.
fn is_grouped(text: &str, lengths: &[usize], between: &[char]) -> bool {
    let parts: Vec<&str> = text.split(between).collect();
    parts.len() == lengths.len()
        && parts
            .iter()
            .zip(lengths)
            .all(|(part, length)| part.len() == *length && part.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_of_their_format_or_not() {
        for (format, good, bad) in [
            ("date-time", "2024-01-02T03:04:05Z", "2024-01-02"),
            ("date", "2024-02-29", "2024-02-30"),
            ("duration", "1h30m", "1 hour"),
            ("byte", "aGk=", "a"),
            ("uuid", "7d444840-9dc0-11d1-b245-5ffdce74fad2", "7d444840"),
            ("uuid4", "f47ac10b-58cc-4372-a567-0e02b2c3d479", "7d444840-9dc0-11d1-b245-5ffdce74fad2"),
            ("ipv4", "1.2.3.4", "1.2.3"),
            ("ipv6", "::1", "1.2.3.4"),
            ("cidr", "10.0.0.0/8", "10.0.0.0"),
            ("uri", "https://example.com/a", "example"),
            ("email", "a.b@example.com", "a.example.com"),
            ("hostname", "a-b.example.com", "-a.example.com"),
            ("mac", "01:23:45:67:89:ab", "01:23:45"),
            ("hexcolor", "#ff00aa", "#ff00a"),
            ("rgbcolor", "rgb(1, 2, 255)", "rgb(1,2,256)"),
            ("creditcard", "4111 1111 1111 1111", "4111 1111 1111 1112"),
            ("isbn10", "0-321-14653-0", "0-321-14653-1"),
            ("isbn13", "978-0-321-14653-3", "978-0-321-14653-4"),
            ("ssn", "123-45-6789", "123-456-789"),
        ] {
            assert!(is_of(format, good), "{format}: {good}");
            assert!(!is_of(format, bad), "{format}: {bad}");
        }
        assert!(is_of("password", "anything"));
    }
}
