//! What names, labels and keys may look like, and upstream's words where they do not.
//! Each checker gives one text per fault; none means that the value is fine.
//! See <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>.

/// The longest DNS label, and the longest name part of a label key, and the longest label value.
pub const LABEL_LIMIT_BYTES: usize = 63;
/// The longest DNS subdomain.
pub const SUBDOMAIN_LIMIT_BYTES: usize = 253;
/// The longest name of a Service's port.
const PORT_NAME_LIMIT_BYTES: usize = 15;

const LABEL_PATTERN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const LABEL_1035_PATTERN: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const KEY_PATTERN: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const KEY_WORDS: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// `must be no more than N bytes`.
pub fn too_long(limit_bytes: usize) -> String {
    format!("must be no more than {limit_bytes} bytes")
}

/// Upstream's text for a value that does not match a pattern, with examples that do.
pub fn mismatch(words: &str, pattern: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{words} (regex used for validation is '{pattern}')");
    }
    let examples: Vec<_> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{words} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

fn lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether a text is made of `middle` bytes and begins and ends with `ends` bytes.
fn shaped(value: &str, ends: fn(u8) -> bool, middle: fn(u8) -> bool) -> bool {
    let bytes = value.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    ends(*first) && ends(*last) && bytes.iter().copied().all(middle)
}

fn label_shaped(value: &str) -> bool {
    shaped(value, lower, |byte| lower(byte) || byte == b'-')
}

fn key_shaped(value: &str) -> bool {
    shaped(
        value,
        |byte| byte.is_ascii_alphanumeric(),
        |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'),
    )
}

fn length_fault(value: &str, limit_bytes: usize) -> Vec<String> {
    if value.len() > limit_bytes { vec![too_long(limit_bytes)] } else { Vec::new() }
}

/// A DNS label as of RFC 1123.
pub fn check_dns_label(value: &str) -> Vec<String> {
    let mut faults = length_fault(value, LABEL_LIMIT_BYTES);
    if label_shaped(value) {
        return faults;
    }
    if value.split('.').all(label_shaped) {
        faults.push("must not contain dots".to_owned());
    } else {
        faults.push(mismatch(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
            LABEL_PATTERN,
            &["my-name", "123-abc"],
        ));
    }
    faults
}

/// A DNS subdomain as of RFC 1123.
pub fn check_dns_subdomain(value: &str) -> Vec<String> {
    let mut faults = length_fault(value, SUBDOMAIN_LIMIT_BYTES);
    if !value.split('.').all(label_shaped) {
        faults.push(mismatch(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            &format!("{LABEL_PATTERN}(\\.{LABEL_PATTERN})*"),
            &["example.com"],
        ));
    }
    faults
}

/// A DNS subdomain whose labels may have underscores, as names are that resolvers search in.
pub fn check_dns_subdomain_with_underscore(value: &str) -> Vec<String> {
    let mut faults = length_fault(value, SUBDOMAIN_LIMIT_BYTES);
    let part = |label: &str| {
        shaped(label, |byte| lower(byte) || byte == b'_', |byte| lower(byte) || byte == b'-' || byte == b'_')
    };
    if !value.split('.').all(part) {
        let pattern = "[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?";
        faults.push(mismatch(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            &format!("{pattern}(\\.{pattern})*"),
            &["example.com"],
        ));
    }
    faults
}

/// A subdomain whose first label is `*`, as Ingress hosts may be.
pub fn check_wildcard_dns_subdomain(value: &str) -> Vec<String> {
    let mut faults = length_fault(value, SUBDOMAIN_LIMIT_BYTES);
    if !value.strip_prefix("*.").is_some_and(|rest| rest.split('.').all(label_shaped)) {
        faults.push(mismatch(
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
            &format!("\\*\\.{LABEL_PATTERN}(\\.{LABEL_PATTERN})*"),
            &["*.example.com"],
        ));
    }
    faults
}

/// A DNS label as of RFC 1035, which begins with a letter.
pub fn check_dns_1035_label(value: &str) -> Vec<String> {
    let mut faults = length_fault(value, LABEL_LIMIT_BYTES);
    if !label_shaped(value) || value.starts_with(|first: char| first.is_ascii_digit()) {
        faults.push(mismatch(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            LABEL_1035_PATTERN,
            &["my-name", "abc-123"],
        ));
    }
    faults
}

/// A label key (a "qualified name"): a name of at most 63 bytes, perhaps after a subdomain and a slash.
pub fn check_label_key(value: &str) -> Vec<String> {
    let wrong = || mismatch(KEY_WORDS, KEY_PATTERN, &["MyName", "my.name", "123-abc"]);
    let mut faults = Vec::new();
    let name = match value.split_once('/') {
        None => value,
        Some((_, name)) if name.contains('/') => {
            let with = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {} {with}", wrong())];
        }
        Some(("", name)) => {
            faults.push("prefix part must be non-empty".to_owned());
            name
        }
        Some((prefix, name)) => {
            faults.extend(check_dns_subdomain(prefix).into_iter().map(|fault| format!("prefix part {fault}")));
            name
        }
    };
    if name.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_LIMIT_BYTES {
        faults.push(format!("name part {}", too_long(LABEL_LIMIT_BYTES)));
    }
    if !key_shaped(name) {
        faults.push(format!("name part {}", wrong()));
    }
    faults
}

/// A label's value.
pub fn check_label_value(value: &str) -> Vec<String> {
    let mut faults = length_fault(value, LABEL_LIMIT_BYTES);
    if !value.is_empty() && !key_shaped(value) {
        faults.push(mismatch(
            &format!("a valid label must be an empty string or consist of {}", &KEY_WORDS["must consist of ".len()..]),
            &format!("({KEY_PATTERN})?"),
            &["MyValue", "my_value", "12345"],
        ));
    }
    faults
}

/// A name that can stand in a URL's path.
pub fn check_path_segment(value: &str) -> Vec<String> {
    if matches!(value, "." | "..") {
        return vec![format!("may not be '{value}'")];
    }
    let bad = ["/", "%"].into_iter().filter(|bad| value.contains(bad));
    bad.map(|bad| format!("may not contain '{bad}'")).collect()
}

/// A named port.
pub fn check_port_name(value: &str) -> Vec<String> {
    let mut faults = length_fault(value, PORT_NAME_LIMIT_BYTES);
    if value.is_empty() || !value.bytes().all(|byte| lower(byte) || byte == b'-') {
        faults.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !value.contains(|letter: char| letter.is_ascii_lowercase()) {
        faults.push("must contain at least one letter (a-z)".to_owned());
    }
    if value.contains("--") {
        faults.push("must not contain consecutive hyphens".to_owned());
    }
    if value.starts_with('-') || value.ends_with('-') {
        faults.push("must not begin or end with a hyphen".to_owned());
    }
    faults
}

/// A port's number.
pub fn check_port_number(value: i64) -> Vec<String> {
    if (1..=65535).contains(&value) { Vec::new() } else { vec![between(1, 65535)] }
}

/// `must be between A and B, inclusive`.
pub fn between(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// A percentage such as `25%`.
pub fn check_percent(value: &str) -> Vec<String> {
    let digits = value.strip_suffix('%').unwrap_or("");
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Vec::new();
    }
    let words = "a valid percent string must be a numeric string followed by an ending '%'";
    vec![mismatch(words, "[0-9]+%", &["1%", "93%"])]
}

/// The name of an HTTP header.
pub fn check_http_header_name(value: &str) -> Vec<String> {
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Vec::new();
    }
    let words = "a valid HTTP header must consist of alphanumeric characters or '-'";
    vec![mismatch(words, "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// The name of an environment variable: any printable ASCII but `=`.
pub fn check_env_var_name(value: &str) -> Vec<String> {
    if value.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// A key of a ConfigMap or a Secret, which becomes a file's name.
pub fn check_config_key(value: &str) -> Vec<String> {
    let mut faults = length_fault(value, SUBDOMAIN_LIMIT_BYTES);
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    {
        faults.push(mismatch(
            "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
            "[-._a-zA-Z0-9]+",
            &["key.name", "KEY_NAME", "key-name"],
        ));
    }
    match value {
        "." => faults.push("must not be '.'".to_owned()),
        ".." => faults.push("must not be '..'".to_owned()),
        _ if value.starts_with("..") => faults.push("must not start with '..'".to_owned()),
        _ => {}
    }
    faults
}

/// A name that a program could give to a variable.
pub fn check_c_identifier(value: &str) -> Vec<String> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !value.is_empty() && !value.starts_with(|first: char| first.is_ascii_digit()) && value.bytes().all(is_word) {
        return Vec::new();
    }
    let words = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_'";
    vec![mismatch(words, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"])]
}

/// A condition's reason.
pub fn check_condition_reason(value: &str) -> Vec<String> {
    let middle = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b',' | b':');
    let begins = value.starts_with(|first: char| first.is_ascii_alphabetic());
    if begins && !value.ends_with([',', ':']) && value.bytes().all(middle) {
        return Vec::new();
    }
    let words = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'";
    vec![mismatch(
        words,
        "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
        &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
    )]
}

/// A prefix may end in a dash, because something will follow it. Two bytes are replaced by one, as upstream does.
fn masked(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(rest) if prefix && !rest.is_empty() => {
            let mut shorter = rest.to_owned();
            shorter.pop();
            shorter + "a"
        }
        _ => name.to_owned(),
    }
}

/// The rule of kinds whose names are DNS subdomains: most of them.
pub fn dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    check_dns_subdomain(&masked(name, prefix))
}

/// The rule of kinds whose names are DNS labels, such as Namespaces.
pub fn dns_label(name: &str, prefix: bool) -> Vec<String> {
    check_dns_label(&masked(name, prefix))
}

/// The rule of kinds whose names are DNS labels that begin with a letter, such as Services.
pub fn dns_1035_label(name: &str, prefix: bool) -> Vec<String> {
    check_dns_1035_label(&masked(name, prefix))
}

/// The rule of kinds whose names need only fit into a URL's path, such as roles.
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    let faults = check_path_segment(name);
    if prefix && matches!(name, "." | "..") { Vec::new() } else { faults }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(checker: fn(&str) -> Vec<String>, good: &[&str], bad: &[&str], faults: Expect) {
        for value in good {
            assert_eq!(checker(value), Vec::<String>::new(), "{value:?} is fine");
        }
        let texts: Vec<_> = bad.iter().map(|value| format!("{value}: {}\n", checker(value).join("; "))).collect();
        faults.assert_eq(&texts.concat());
    }

    #[test]
    fn names() {
        check(
            check_dns_subdomain,
            &["a", "a.b-c.d0"],
            &["", "A", "a..b", "-a"],
            expect![[r#"
            : a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            A: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            a..b: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
            -a: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        "#]],
        );
        check(
            check_dns_label,
            &["a", "1-b"],
            &["a.b", "a_b"],
            expect![[r#"
                a.b: must not contain dots
                a_b: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')
            "#]],
        );
    }

    #[test]
    fn keys_and_values() {
        check(
            check_label_key,
            &["a", "example.com/My.Name_1"],
            &["", "/a", "a/", "a/b/c", "-"],
            expect![[r#"
                : name part must be non-empty; name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
                /a: prefix part must be non-empty
                a/: name part must be non-empty; name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
                a/b/c: a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')
                -: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')
            "#]],
        );
        check(
            check_label_value,
            &["", "a", "A_b.c"],
            &["a b", "-a"],
            expect![[r#"
                a b: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
                -a: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')
            "#]],
        );
        check(
            check_config_key,
            &["a.b", "_"],
            &["a b", "..a"],
            expect![[r#"
                a b: a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')
                ..a: must not start with '..'
            "#]],
        );
    }

    #[test]
    fn a_prefix_may_end_in_a_dash() {
        assert!(dns_label("web-", true).is_empty());
        assert!(!dns_label("web-", false).is_empty());
        assert!(path_segment("system:node", false).is_empty());
    }
}
