//! Functions of texts: the standard ones, cel-go's `strings` extension, and Kubernetes' `regex` library.

use crate::error::EvalError;
use crate::eval::{Machine, no_overload};
use crate::functions::basic::{double_text, type_text};
use crate::library::Library;
use crate::time;
use crate::value::{List, Map, Result, Value};

pub(crate) static LIBRARY: Library = Library {
    signatures: "
        contains contains_string string.(string) bool
        endsWith ends_with_string string.(string) bool
        startsWith starts_with_string string.(string) bool
        matches matches (string, string) bool
        matches matches_string string.(string) bool
        size size_bytes (bytes) int
        size bytes_size bytes.() int
        size size_list (list(A)) int
        size list_size list(A).() int
        size size_map (map(A, B)) int
        size map_size map(A, B).() int
        size size_string (string) int
        size string_size string.() int
        charAt string_char_at_int string.(int) string
        format string_format string.(list(dyn)) string
        indexOf string_index_of_string string.(string) int
        indexOf string_index_of_string_int string.(string, int) int
        lastIndexOf string_last_index_of_string string.(string) int
        lastIndexOf string_last_index_of_string_int string.(string, int) int
        lowerAscii string_lower_ascii string.() string
        upperAscii string_upper_ascii string.() string
        replace string_replace_string_string string.(string, string) string
        replace string_replace_string_string_int string.(string, string, int) string
        split string_split_string string.(string) list(string)
        split string_split_string_int string.(string, int) list(string)
        substring string_substring_int string.(int) string
        substring string_substring_int_int string.(int, int) string
        trim string_trim string.() string
        join list_join list(string).() string
        join list_join_string list(string).(string) string
        strings.quote strings_quote (string) string
        find string_find_string string.(string) string
        findAll string_find_all_string string.(string) list(string)
        findAll string_find_all_string_int string.(string, int) list(string)
    ",
    runs: &[
        ("contains", |_, args| two_texts(args, |a, b| a.contains(b))),
        ("endsWith", |_, args| two_texts(args, |a, b| a.ends_with(b))),
        ("startsWith", |_, args| two_texts(args, |a, b| a.starts_with(b))),
        ("matches", matches),
        ("size", size),
        ("charAt", char_at),
        ("format", format),
        ("lowerAscii", |_, args| one_text(args, |text| text.to_ascii_lowercase())),
        ("upperAscii", |_, args| one_text(args, |text| text.to_ascii_uppercase())),
        ("trim", |_, args| one_text(args, |text| text.trim().to_owned())),
        ("strings.quote", |_, args| one_text(args, quote)),
        ("replace", replace),
        ("split", split),
        ("substring", substring),
        ("join", join),
        ("find", find),
        ("findAll", find_all),
    ],
};

fn two_texts<'a>(args: &[Value<'a>], test: impl Fn(&str, &str) -> bool) -> Result<Value<'a>> {
    match args {
        [Value::String(a), Value::String(b)] => Ok(Value::Bool(test(a, b))),
        _ => Err(no_overload()),
    }
}

fn one_text<'a>(args: &[Value<'a>], make: impl Fn(&str) -> String) -> Result<Value<'a>> {
    match args {
        [Value::String(text)] => Ok(Value::text(make(text))),
        _ => Err(no_overload()),
    }
}

fn matches<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::String(text), Value::String(pattern)] => Ok(Value::Bool(machine.regex(pattern)?.is_match(text))),
        _ => Err(no_overload()),
    }
}

fn size<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        value @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_)) => {
            Ok(Value::Int(value.size() as i64))
        }
        _ => Err(no_overload()),
    }
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

fn char_at<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let [Value::String(text), Value::Int(index)] = args else { return Err(no_overload()) };
    let place = usize::try_from(*index).map_err(|_| out_of_range(*index))?;
    match text.chars().nth(place) {
        Some(letter) => Ok(Value::text(letter.to_string())),
        None if place == text.chars().count() => Ok(Value::str("")),
        None => Err(out_of_range(*index)),
    }
}

/// Where a text stands in another, in letters; shared with the lists' functions of the same name.
pub(crate) fn index_of<'a>(machine: &mut Machine<'a>, args: &[Value<'a>], last: bool) -> Result<Value<'a>> {
    let (Value::String(text), Value::String(part)) = (&args[0], &args[1]) else { return Err(no_overload()) };
    let letters: Vec<char> = text.chars().collect();
    let part: Vec<char> = part.chars().collect();
    let from = match args.get(2) {
        None => None,
        Some(Value::Int(from)) if *from >= 0 && *from as usize <= letters.len().saturating_sub(1) => {
            Some(*from as usize)
        }
        Some(Value::Int(from)) if letters.is_empty() && *from == 0 => Some(0),
        Some(Value::Int(from)) => return Err(out_of_range(*from)),
        Some(_) => return Err(no_overload()),
    };
    machine.work((letters.len() as u64).saturating_mul(part.len() as u64 + 1) / 8)?;
    if part.is_empty() {
        return Ok(Value::Int(from.unwrap_or(if last { letters.len() } else { 0 }) as i64));
    }
    if part.len() > letters.len() {
        return Ok(Value::Int(-1));
    }
    let fits = |place: &usize| letters[*place..*place + part.len()] == part[..];
    let end = letters.len() - part.len();
    let found =
        if last { (0..=end.min(from.unwrap_or(end))).rev().find(fits) } else { (from.unwrap_or(0)..=end).find(fits) };
    Ok(Value::Int(found.map_or(-1, |place| place as i64)))
}

fn substring<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let (text, from, to) = match args {
        [Value::String(text), Value::Int(from)] => (text, *from, None),
        [Value::String(text), Value::Int(from), Value::Int(to)] => (text, *from, Some(*to)),
        _ => return Err(no_overload()),
    };
    let count = text.chars().count() as i64;
    let end = to.unwrap_or(count);
    if let Some(to) = to
        && from > to
    {
        return Err(EvalError::new(format!("invalid substring range. start: {from}, end: {to}")));
    }
    if !(0..=count).contains(&from) {
        return Err(out_of_range(from));
    }
    if !(0..=count).contains(&end) {
        return Err(out_of_range(end));
    }
    Ok(Value::text(text.chars().skip(from as usize).take((end - from) as usize).collect::<String>()))
}

fn replace<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let (text, from, to, limit) = match args {
        [Value::String(text), Value::String(from), Value::String(to)] => (text, from, to, -1),
        [Value::String(text), Value::String(from), Value::String(to), Value::Int(limit)] => (text, from, to, *limit),
        _ => return Err(no_overload()),
    };
    let most = text.matches(&from[..]).count() as u64;
    let most = u64::try_from(limit).map_or(most, |limit| limit.min(most));
    machine.work(most.saturating_mul(to.len() as u64) / 16 + text.len() as u64 / 16)?;
    Ok(Value::text(match usize::try_from(limit) {
        Ok(limit) => text.replacen(&from[..], to, limit),
        Err(_) => text.replace(&from[..], to),
    }))
}

fn split<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let (text, by, limit) = match args {
        [Value::String(text), Value::String(by)] => (text, by, -1),
        [Value::String(text), Value::String(by), Value::Int(limit)] => (text, by, *limit),
        _ => return Err(no_overload()),
    };
    machine.work(text.len() as u64)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut parts: Vec<Value<'a>> = Vec::new();
    if limit == 0 {
        return Ok(Value::list(parts));
    }
    if by.is_empty() {
        let mut rest = &text[..];
        while let Some(letter) = rest.chars().next() {
            if parts.len() + 1 == limit {
                break;
            }
            parts.push(Value::text(letter.to_string()));
            rest = &rest[letter.len_utf8()..];
        }
        if !rest.is_empty() {
            parts.push(Value::text(rest));
        }
    } else {
        parts.extend(text.splitn(limit, &by[..]).map(Value::text));
    }
    Ok(Value::list(parts))
}

fn join<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let (list, by) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(by)] => (list, &by[..]),
        _ => return Err(no_overload()),
    };
    let mut out = String::new();
    for (index, item) in list.iter().enumerate() {
        let Value::String(text) = item else { return Err(no_overload()) };
        machine.work((text.len() + by.len()) as u64 / 16 + 1)?;
        if index > 0 {
            out.push_str(by);
        }
        out.push_str(&text);
    }
    Ok(Value::text(out))
}

/// A text in quotes, its special letters escaped.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

fn find<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let [Value::String(text), Value::String(pattern)] = args else { return Err(no_overload()) };
    let regex = machine.regex(pattern)?;
    Ok(regex.find(text).map_or(Value::str(""), |found| Value::text(found.as_str())))
}

fn find_all<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let (text, pattern, limit) = match args {
        [Value::String(text), Value::String(pattern)] => (text, pattern, -1),
        [Value::String(text), Value::String(pattern), Value::Int(limit)] => (text, pattern, *limit),
        _ => return Err(no_overload()),
    };
    let regex = machine.regex(pattern)?;
    machine.work(text.len() as u64)?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Ok(Value::list(regex.find_iter(text).take(limit).map(|found| Value::text(found.as_str())).collect()))
}

/// The most digits behind the point that a format may ask for.
const PRECISION_LIMIT: usize = 1000;

/// `"%s is %d".format([...])`
fn format<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let [Value::String(pattern), Value::List(list)] = args else { return Err(no_overload()) };
    let mut out = String::new();
    let mut next = 0;
    let mut letters = pattern.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut clause = letters.next();
        if clause == Some('%') {
            out.push('%');
            continue;
        }
        let mut precision = None;
        if clause == Some('.') {
            let mut digits = String::new();
            clause = letters.next();
            while let Some(digit) = clause.filter(char::is_ascii_digit) {
                digits.push(digit);
                clause = letters.next();
            }
            let wanted: usize = digits.parse().unwrap_or(usize::MAX);
            if wanted > PRECISION_LIMIT {
                return Err(EvalError::new(format!("precision exceeds maximum of {PRECISION_LIMIT}")));
            }
            precision = Some(wanted);
        }
        let clause = clause.ok_or_else(|| EvalError::new("unexpected end of format string"))?;
        if next >= list.len() {
            return Err(EvalError::new(format!("index {next} out of range")));
        }
        let value = list.get(next);
        next += 1;
        let written = formatted(machine, clause, precision, &value)?;
        machine.work(written.len() as u64 / 16 + 1)?;
        out.push_str(&written);
    }
    Ok(Value::text(out))
}

fn formatted<'a>(
    machine: &mut Machine<'a>,
    clause: char,
    precision: Option<usize>,
    value: &Value<'a>,
) -> Result<String> {
    const PRECISION: usize = 6;
    let wrong = |what: &str| {
        let ty = type_text(&value.type_of());
        Err(EvalError::new(format!("error during formatting: {what}, was given {ty}")))
    };
    match clause {
        's' => shown(machine, value),
        'd' => match value {
            Value::Int(value) => Ok(value.to_string()),
            Value::Uint(value) => Ok(value.to_string()),
            Value::Double(value) if !value.is_finite() => Ok(double_text(*value).replace("+Inf", "Infinity")),
            _ => wrong("decimal clause can only be used on integers"),
        },
        'f' | 'e' => {
            let number = match value {
                Value::Double(value) => *value,
                Value::Int(value) => *value as f64,
                Value::Uint(value) => *value as f64,
                Value::String(text) if matches!(&text[..], "NaN" | "Infinity" | "-Infinity") => {
                    return Ok(text.to_string());
                }
                _ => return wrong("fixed-point clause can only be used on doubles"),
            };
            if !number.is_finite() {
                return Ok(double_text(number).replace("+Inf", "Infinity").replace("-Inf", "-Infinity"));
            }
            let digits = precision.unwrap_or(PRECISION);
            if clause == 'f' {
                return Ok(format!("{number:.digits$}"));
            }
            let scientific = format!("{number:.digits$e}");
            let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            let sign = if exponent < 0 { '-' } else { '+' };
            Ok(format!("{mantissa}e{sign}{:02}", exponent.abs()))
        }
        'b' => match value {
            Value::Int(value) => Ok(signed(*value, |magnitude| format!("{magnitude:b}"))),
            Value::Uint(value) => Ok(format!("{value:b}")),
            Value::Bool(value) => Ok(u8::from(*value).to_string()),
            _ => wrong("only integers and bools can be formatted as binary"),
        },
        'o' => match value {
            Value::Int(value) => Ok(signed(*value, |magnitude| format!("{magnitude:o}"))),
            Value::Uint(value) => Ok(format!("{value:o}")),
            _ => wrong("octal clause can only be used on integers"),
        },
        'x' | 'X' => {
            let bytes = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let text = match value {
                Value::Int(value) => signed(*value, |magnitude| format!("{magnitude:x}")),
                Value::Uint(value) => format!("{value:x}"),
                Value::String(text) => bytes(text.as_bytes()),
                Value::Bytes(own) => bytes(own),
                _ => return wrong("only integers, byte buffers, and strings can be formatted as hex"),
            };
            Ok(if clause == 'X' { text.to_uppercase() } else { text })
        }
        other => Err(EvalError::new(format!(
            "could not parse formatting clause: unrecognized formatting clause {:?}",
            other.to_string()
        ))),
    }
}

fn signed(value: i64, write: impl Fn(u64) -> String) -> String {
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}", write(value.unsigned_abs()))
}

/// A value as `%s` shows it.
fn shown<'a>(machine: &mut Machine<'a>, value: &Value<'a>) -> Result<String> {
    machine.work(1)?;
    Ok(match value {
        Value::Null => "null".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => double_text(*value).replace("+Inf", "Infinity").replace("-Inf", "-Infinity"),
        Value::String(text) => {
            machine.work(text.len() as u64 / 16)?;
            text.to_string()
        }
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Timestamp(time) => time.to_string(),
        Value::Duration(nanos) => time::duration_text(*nanos),
        Value::Type(ty) => type_text(ty),
        Value::List(list) => shown_list(machine, list)?,
        Value::Map(map) => shown_map(machine, map)?,
        other => {
            let ty = type_text(&other.type_of());
            let words = "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps";
            return Err(EvalError::new(format!("error during formatting: {words}, was given {ty}")));
        }
    })
}

fn shown_list<'a>(machine: &mut Machine<'a>, list: &List<'a>) -> Result<String> {
    let mut parts = Vec::with_capacity(list.len());
    for item in list.iter() {
        parts.push(shown(machine, &item)?);
    }
    Ok(format!("[{}]", parts.join(", ")))
}

fn shown_map<'a>(machine: &mut Machine<'a>, map: &Map<'a>) -> Result<String> {
    let mut parts = Vec::new();
    for key in map.keys() {
        let key = key.value();
        if let Some(value) = map.get(&key, machine) {
            parts.push(format!("{}: {}", shown(machine, &key)?, shown(machine, &value?)?));
        }
    }
    Ok(format!("{{{}}}", parts.join(", ")))
}
