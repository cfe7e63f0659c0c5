//! The operators, and conversions between the basic types.

use std::cmp::Ordering;

use crate::error::EvalError;
use crate::eval::{Machine, no_overload};
use crate::library::{Library, Opaque};
use crate::time;
use crate::types::Type;
use crate::value::{Key, Map, Result, Value, compare_numbers};

pub(crate) static LIBRARY: Library = Library {
    signatures: "
        _?_:_ conditional (bool, A, A) A
        _&&_ logical_and (bool, bool) bool
        _||_ logical_or (bool, bool) bool
        !_ logical_not (bool) bool
        @not_strictly_false not_strictly_false (bool) bool
        _==_ equals (A, A) bool
        _!=_ not_equals (A, A) bool
        @in in_list (A, list(A)) bool
        @in in_map (A, map(A, B)) bool
        _[_] index_list (list(A), int) A
        _[_] index_map (map(A, B), A) B
        _[_] optional_list_index_value (optional(list(A)), int) optional(A)
        _[_] optional_map_index_value (optional(map(A, B)), A) optional(B)
        _[?_] list_optindex_optional_int (list(A), int) optional(A)
        _[?_] optional_list_optindex_optional_int (optional(list(A)), int) optional(A)
        _[?_] map_optindex_optional_value (map(A, B), A) optional(B)
        _[?_] optional_map_optindex_optional_value (optional(map(A, B)), A) optional(B)
        -_ negate_int64 (int) int
        -_ negate_double (double) double
        _+_ add_bytes (bytes, bytes) bytes
        _+_ add_double (double, double) double
        _+_ add_duration_duration (duration, duration) duration
        _+_ add_duration_timestamp (duration, timestamp) timestamp
        _+_ add_timestamp_duration (timestamp, duration) timestamp
        _+_ add_int64 (int, int) int
        _+_ add_list (list(A), list(A)) list(A)
        _+_ add_string (string, string) string
        _+_ add_uint64 (uint, uint) uint
        _-_ subtract_double (double, double) double
        _-_ subtract_duration_duration (duration, duration) duration
        _-_ subtract_int64 (int, int) int
        _-_ subtract_timestamp_duration (timestamp, duration) timestamp
        _-_ subtract_timestamp_timestamp (timestamp, timestamp) duration
        _-_ subtract_uint64 (uint, uint) uint
        _*_ multiply_double (double, double) double
        _*_ multiply_int64 (int, int) int
        _*_ multiply_uint64 (uint, uint) uint
        _/_ divide_double (double, double) double
        _/_ divide_int64 (int, int) int
        _/_ divide_uint64 (uint, uint) uint
        _%_ modulo_int64 (int, int) int
        _%_ modulo_uint64 (uint, uint) uint
        _<_ less_bool (bool, bool) bool
        _<_ less_int64 (int, int) bool
        _<_ less_int64_double (int, double) bool
        _<_ less_int64_uint64 (int, uint) bool
        _<_ less_uint64 (uint, uint) bool
        _<_ less_uint64_double (uint, double) bool
        _<_ less_uint64_int64 (uint, int) bool
        _<_ less_double (double, double) bool
        _<_ less_double_int64 (double, int) bool
        _<_ less_double_uint64 (double, uint) bool
        _<_ less_string (string, string) bool
        _<_ less_bytes (bytes, bytes) bool
        _<_ less_timestamp (timestamp, timestamp) bool
        _<_ less_duration (duration, duration) bool
        _<=_ less_equals_bool (bool, bool) bool
        _<=_ less_equals_int64 (int, int) bool
        _<=_ less_equals_int64_double (int, double) bool
        _<=_ less_equals_int64_uint64 (int, uint) bool
        _<=_ less_equals_uint64 (uint, uint) bool
        _<=_ less_equals_uint64_double (uint, double) bool
        _<=_ less_equals_uint64_int64 (uint, int) bool
        _<=_ less_equals_double (double, double) bool
        _<=_ less_equals_double_int64 (double, int) bool
        _<=_ less_equals_double_uint64 (double, uint) bool
        _<=_ less_equals_string (string, string) bool
        _<=_ less_equals_bytes (bytes, bytes) bool
        _<=_ less_equals_timestamp (timestamp, timestamp) bool
        _<=_ less_equals_duration (duration, duration) bool
        _>_ greater_bool (bool, bool) bool
        _>_ greater_int64 (int, int) bool
        _>_ greater_int64_double (int, double) bool
        _>_ greater_int64_uint64 (int, uint) bool
        _>_ greater_uint64 (uint, uint) bool
        _>_ greater_uint64_double (uint, double) bool
        _>_ greater_uint64_int64 (uint, int) bool
        _>_ greater_double (double, double) bool
        _>_ greater_double_int64 (double, int) bool
        _>_ greater_double_uint64 (double, uint) bool
        _>_ greater_string (string, string) bool
        _>_ greater_bytes (bytes, bytes) bool
        _>_ greater_timestamp (timestamp, timestamp) bool
        _>_ greater_duration (duration, duration) bool
        _>=_ greater_equals_bool (bool, bool) bool
        _>=_ greater_equals_int64 (int, int) bool
        _>=_ greater_equals_int64_double (int, double) bool
        _>=_ greater_equals_int64_uint64 (int, uint) bool
        _>=_ greater_equals_uint64 (uint, uint) bool
        _>=_ greater_equals_uint64_double (uint, double) bool
        _>=_ greater_equals_uint64_int64 (uint, int) bool
        _>=_ greater_equals_double (double, double) bool
        _>=_ greater_equals_double_int64 (double, int) bool
        _>=_ greater_equals_double_uint64 (double, uint) bool
        _>=_ greater_equals_string (string, string) bool
        _>=_ greater_equals_bytes (bytes, bytes) bool
        _>=_ greater_equals_timestamp (timestamp, timestamp) bool
        _>=_ greater_equals_duration (duration, duration) bool
        type type (A) type(A)
        dyn to_dyn (A) dyn
        bool bool_to_bool (bool) bool
        bool string_to_bool (string) bool
        bytes bytes_to_bytes (bytes) bytes
        bytes string_to_bytes (string) bytes
        double double_to_double (double) double
        double int64_to_double (int) double
        double string_to_double (string) double
        double uint64_to_double (uint) double
        int int64_to_int64 (int) int
        int double_to_int64 (double) int
        int duration_to_int64 (duration) int
        int string_to_int64 (string) int
        int timestamp_to_int64 (timestamp) int
        int uint64_to_int64 (uint) int
        uint uint64_to_uint64 (uint) uint
        uint double_to_uint64 (double) uint
        uint int64_to_uint64 (int) uint
        uint string_to_uint64 (string) uint
        string string_to_string (string) string
        string bool_to_string (bool) string
        string bytes_to_string (bytes) string
        string double_to_string (double) string
        string duration_to_string (duration) string
        string int64_to_string (int) string
        string timestamp_to_string (timestamp) string
        string uint64_to_string (uint) string
        string ip_to_string (IP) string
        string cidr_to_string (CIDR) string
        duration duration_to_duration (duration) duration
        duration int64_to_duration (int) duration
        duration string_to_duration (string) duration
        timestamp timestamp_to_timestamp (timestamp) timestamp
        timestamp int64_to_timestamp (int) timestamp
        timestamp string_to_timestamp (string) timestamp
        cel.@mapInsert @mapInsert_map_map (map(A, B), map(A, B)) map(A, B)
        cel.@mapInsert @mapInsert_map_key_value (map(A, B), A, B) map(A, B)
    ",
    runs: &[
        ("!_", not),
        ("-_", negate),
        ("_==_", |machine, args| Ok(Value::Bool(args[0].equals(&args[1], machine)?))),
        ("_!=_", |machine, args| Ok(Value::Bool(!args[0].equals(&args[1], machine)?))),
        ("_-_", subtract),
        ("_*_", multiply),
        ("_/_", divide),
        ("_%_", modulo),
        ("_<_", |_, args| ordered(args, Ordering::is_lt)),
        ("_<=_", |_, args| ordered(args, Ordering::is_le)),
        ("_>_", |_, args| ordered(args, Ordering::is_gt)),
        ("_>=_", |_, args| ordered(args, Ordering::is_ge)),
        ("@in", is_in),
        ("type", |_, args| Ok(Value::Type(args[0].type_of()))),
        ("dyn", |_, args| Ok(args[0].clone())),
        ("bool", to_bool),
        ("bytes", to_bytes),
        ("double", to_double),
        ("int", to_int),
        ("uint", to_uint),
        ("string", to_string),
        ("duration", to_duration),
        ("timestamp", to_timestamp),
        ("cel.@mapInsert", map_insert),
    ],
};

fn overflow() -> EvalError {
    EvalError::new("integer overflow")
}

fn unsigned_overflow() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

fn not<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::Bool(value)] => Ok(Value::Bool(!value)),
        _ => Err(no_overload()),
    }
}

fn negate<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::Int(value)] => value.checked_neg().map(Value::Int).ok_or_else(overflow),
        [Value::Double(value)] => Ok(Value::Double(-value)),
        _ => Err(no_overload()),
    }
}

/// `+` of anything but lists.
pub(crate) fn add<'a>(machine: &mut Machine<'a>, a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_add(*b).ok_or_else(unsigned_overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
        (Value::String(a), Value::String(b)) => {
            machine.work((a.len() + b.len()) as u64 / 16)?;
            Value::text([&a[..], &b[..]].concat())
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            machine.work((a.len() + b.len()) as u64 / 16)?;
            Value::Bytes([&a[..], &b[..]].concat().into())
        }
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_add(*b).ok_or_else(overflow)?),
        (Value::Timestamp(time), Value::Duration(span)) | (Value::Duration(span), Value::Timestamp(time)) => {
            Value::Timestamp(time::shifted(*time, i128::from(*span))?)
        }
        _ => return Err(no_overload()),
    })
}

fn subtract<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(match args {
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_sub(*b).ok_or_else(overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a.checked_sub(*b).ok_or_else(unsigned_overflow)?),
        [Value::Double(a), Value::Double(b)] => Value::Double(a - b),
        [Value::Duration(a), Value::Duration(b)] => Value::Duration(a.checked_sub(*b).ok_or_else(overflow)?),
        [Value::Timestamp(time), Value::Duration(span)] => Value::Timestamp(time::shifted(*time, -i128::from(*span))?),
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            let span = a.as_nanosecond() - b.as_nanosecond();
            Value::Duration(i64::try_from(span).map_err(|_| overflow())?)
        }
        _ => return Err(no_overload()),
    })
}

fn multiply<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(match args {
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_mul(*b).ok_or_else(overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a.checked_mul(*b).ok_or_else(unsigned_overflow)?),
        [Value::Double(a), Value::Double(b)] => Value::Double(a * b),
        _ => return Err(no_overload()),
    })
}

fn divide<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let zero = || EvalError::new("division by zero");
    Ok(match args {
        [Value::Int(_), Value::Int(0)] => return Err(zero()),
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_div(*b).ok_or_else(overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a.checked_div(*b).ok_or_else(zero)?),
        [Value::Double(a), Value::Double(b)] => Value::Double(a / b),
        _ => return Err(no_overload()),
    })
}

fn modulo<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let zero = || EvalError::new("modulus by zero");
    Ok(match args {
        [Value::Int(_), Value::Int(0)] => return Err(zero()),
        [Value::Int(a), Value::Int(b)] => Value::Int(a.checked_rem(*b).ok_or_else(overflow)?),
        [Value::Uint(a), Value::Uint(b)] => Value::Uint(a.checked_rem(*b).ok_or_else(zero)?),
        _ => return Err(no_overload()),
    })
}

/// How two values compare; an error where they do not, `None` where one is no number.
pub(crate) fn compare(a: &Value, b: &Value) -> Result<Option<Ordering>> {
    Ok(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some(a[..].cmp(&b[..])),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        (Value::Int(_) | Value::Uint(_) | Value::Double(_), Value::Int(_) | Value::Uint(_) | Value::Double(_)) => {
            compare_numbers(a, b)
        }
        _ => return Err(no_overload()),
    })
}

fn ordered<'a>(args: &[Value<'a>], wanted: fn(Ordering) -> bool) -> Result<Value<'a>> {
    Ok(Value::Bool(compare(&args[0], &args[1])?.is_some_and(wanted)))
}

fn is_in<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match args {
        [value, Value::List(list)] => Ok(Value::Bool(list.contains(value, machine)?)),
        [key, Value::Map(map)] => Ok(Value::Bool(map.get(key, machine).transpose()?.is_some())),
        _ => Err(no_overload()),
    }
}

fn to_bool<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::Bool(value) => Ok(Value::Bool(*value)),
        Value::String(text) => match &text[..] {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            other => Err(EvalError::new(format!("strconv.ParseBool: parsing {other:?}: invalid syntax"))),
        },
        _ => Err(no_overload()),
    }
}

fn to_bytes<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::Bytes(bytes) => Ok(Value::Bytes(bytes.clone())),
        Value::String(text) => Ok(Value::Bytes(text.as_bytes().into())),
        _ => Err(no_overload()),
    }
}

fn to_double<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(Value::Double(match &args[0] {
        Value::Double(value) => *value,
        Value::Int(value) => *value as f64,
        Value::Uint(value) => *value as f64,
        Value::String(text) => text
            .trim_start_matches('+')
            .parse()
            .map_err(|_| EvalError::new(format!("strconv.ParseFloat: parsing {:?}: invalid syntax", &text[..])))?,
        _ => return Err(no_overload()),
    }))
}

fn whole_range() -> EvalError {
    EvalError::new("integer overflow")
}

fn to_int<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    const BOUND: f64 = 9_223_372_036_854_775_807.0;
    Ok(Value::Int(match &args[0] {
        Value::Int(value) => *value,
        Value::Uint(value) => i64::try_from(*value).map_err(|_| whole_range())?,
        Value::Double(value) if value.abs() < BOUND => *value as i64,
        Value::Double(_) => return Err(whole_range()),
        Value::Duration(nanos) => *nanos,
        Value::Timestamp(time) => time.as_second(),
        Value::String(text) => text.parse().map_err(|_| unparsed("ParseInt", text))?,
        _ => return Err(no_overload()),
    }))
}

fn unparsed(function: &str, text: &str) -> EvalError {
    let digits = text.trim_start_matches(['-', '+']);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let why = if is_number { "value out of range" } else { "invalid syntax" };
    EvalError::new(format!("strconv.{function}: parsing {text:?}: {why}"))
}

fn to_uint<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    const BOUND: f64 = 18_446_744_073_709_551_615.0;
    Ok(Value::Uint(match &args[0] {
        Value::Uint(value) => *value,
        Value::Int(value) => u64::try_from(*value).map_err(|_| unsigned_overflow())?,
        Value::Double(value) if *value >= 0.0 && *value < BOUND => *value as u64,
        Value::Double(_) => return Err(unsigned_overflow()),
        Value::String(text) => text.parse().map_err(|_| unparsed("ParseUint", text))?,
        _ => return Err(no_overload()),
    }))
}

fn to_string<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(match &args[0] {
        Value::String(_) => args[0].clone(),
        Value::Bool(value) => Value::text(value.to_string()),
        Value::Int(value) => Value::text(value.to_string()),
        Value::Uint(value) => Value::text(value.to_string()),
        Value::Double(value) => Value::text(double_text(*value)),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::text(text),
            Err(_) => return Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Timestamp(time) => Value::text(time.to_string()),
        Value::Duration(nanos) => Value::text(time::duration_text(*nanos)),
        Value::Type(ty) => Value::text(type_text(ty)),
        Value::Opaque(Opaque::Ip(address)) => Value::text(address.to_string()),
        Value::Opaque(Opaque::Cidr(address, bits)) => Value::text(format!("{address}/{bits}")),
        _ => return Err(no_overload()),
    })
}

/// A type's name without its parameters.
pub(crate) fn type_text(ty: &Type) -> String {
    match ty {
        Type::List(_) => "list".into(),
        Type::Map(..) => "map".into(),
        Type::Optional(_) => "optional_type".into(),
        Type::Type(_) => "type".into(),
        Type::Null => "null_type".into(),
        other => other.to_string(),
    }
}

/// A floating-point number in the shortest notation: plain from 1e-4 to 1e6, else with an exponent of two digits.
pub(crate) fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    const LARGEST_PLAIN: i32 = 6;
    if value == 0.0 || (-4..LARGEST_PLAIN).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn to_duration<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::Duration(nanos) => Ok(Value::Duration(*nanos)),
        Value::Int(nanos) => Ok(Value::Duration(*nanos)),
        Value::String(text) => time::parse_duration(text).map(Value::Duration),
        _ => Err(no_overload()),
    }
}

fn to_timestamp<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::Timestamp(time) => Ok(Value::Timestamp(*time)),
        Value::Int(seconds) => {
            let time = jiff::Timestamp::from_second(*seconds);
            Ok(Value::Timestamp(time::checked(time.map_err(|_| EvalError::new("timestamp overflow"))?)?))
        }
        Value::String(text) => time::parse_timestamp(text).map(Value::Timestamp),
        _ => Err(no_overload()),
    }
}

fn map_insert<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::Map(map) = &args[0] else { return Err(no_overload()) };
    machine.work(map.len() as u64)?;
    let mut made = match map {
        Map::Own(entries) => (**entries).clone(),
        other => {
            let mut made = std::collections::BTreeMap::new();
            for key in other.keys() {
                if let Some(value) = other.get(&key.value(), machine) {
                    made.insert(key, value?);
                }
            }
            made
        }
    };
    let mut put = |key: Key<'a>, value: Value<'a>| {
        if made.contains_key(&key) {
            return Err(EvalError::new(format!("insert failed: key {key:?} already exists")));
        }
        made.insert(key, value);
        Ok(())
    };
    match &args[1..] {
        [key, value] => put(Key::of(key).ok_or_else(no_overload)?, value.clone())?,
        [Value::Map(more)] => {
            for key in more.keys() {
                if let Some(value) = more.get(&key.value(), machine) {
                    put(key, value?)?;
                }
            }
        }
        _ => return Err(no_overload()),
    }
    Ok(Value::Map(Map::Own(std::rc::Rc::new(made))))
}
