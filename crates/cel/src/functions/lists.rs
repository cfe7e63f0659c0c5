//! Functions of lists: Kubernetes' `lists`, cel-go's `lists` and `sets` extensions, and optionals.

use std::cmp::Ordering;

use crate::error::EvalError;
use crate::eval::{Machine, items, no_overload};
use crate::functions::basic::{add, compare};
use crate::functions::text;
use crate::library::Library;
use crate::value::{List, Map, Result, Value};

pub(crate) static LIBRARY: Library = Library {
    signatures: "
        isSorted list_int_is_sorted_bool list(int).() bool
        isSorted list_uint_is_sorted_bool list(uint).() bool
        isSorted list_double_is_sorted_bool list(double).() bool
        isSorted list_bool_is_sorted_bool list(bool).() bool
        isSorted list_string_is_sorted_bool list(string).() bool
        isSorted list_bytes_is_sorted_bool list(bytes).() bool
        isSorted list_duration_is_sorted_bool list(duration).() bool
        isSorted list_timestamp_is_sorted_bool list(timestamp).() bool
        sum list_int_sum_int list(int).() int
        sum list_uint_sum_uint list(uint).() uint
        sum list_double_sum_double list(double).() double
        sum list_duration_sum_duration list(duration).() duration
        min list_int_min_int list(int).() int
        min list_uint_min_uint list(uint).() uint
        min list_double_min_double list(double).() double
        min list_bool_min_bool list(bool).() bool
        min list_string_min_string list(string).() string
        min list_bytes_min_bytes list(bytes).() bytes
        min list_duration_min_duration list(duration).() duration
        min list_timestamp_min_timestamp list(timestamp).() timestamp
        max list_int_max_int list(int).() int
        max list_uint_max_uint list(uint).() uint
        max list_double_max_double list(double).() double
        max list_bool_max_bool list(bool).() bool
        max list_string_max_string list(string).() string
        max list_bytes_max_bytes list(bytes).() bytes
        max list_duration_max_duration list(duration).() duration
        max list_timestamp_max_timestamp list(timestamp).() timestamp
        indexOf list_a_index_of_int list(A).(A) int
        lastIndexOf list_a_last_index_of_int list(A).(A) int
        slice list_slice list(A).(int, int) list(A)
        flatten list_flatten list(list(A)).() list(A)
        flatten list_flatten_int list(dyn).(int) list(dyn)
        lists.range lists_range (int) list(int)
        distinct list_distinct list(A).() list(A)
        reverse list_reverse list(A).() list(A)
        sort list_int_sort list(int).() list(int)
        sort list_uint_sort list(uint).() list(uint)
        sort list_double_sort list(double).() list(double)
        sort list_bool_sort list(bool).() list(bool)
        sort list_string_sort list(string).() list(string)
        sort list_bytes_sort list(bytes).() list(bytes)
        sort list_duration_sort list(duration).() list(duration)
        sort list_timestamp_sort list(timestamp).() list(timestamp)
        @sortByAssociatedKeys list_sort_by list(A).(list(B)) list(A)
        first list_first list(A).() optional(A)
        last list_last list(A).() optional(A)
        sets.contains list_sets_contains_list (list(A), list(A)) bool
        sets.equivalent list_sets_equivalent_list (list(A), list(A)) bool
        sets.intersects list_sets_intersects_list (list(A), list(A)) bool
        optional.of optional_of (A) optional(A)
        optional.ofNonZeroValue optional_ofNonZeroValue (A) optional(A)
        optional.none optional_none () optional(A)
        optional.unwrap optional_unwrap (list(optional(A))) list(A)
        unwrapOpt optional_unwrapOpt list(optional(A)).() list(A)
        value optional_value optional(A).() A
        hasValue optional_hasValue optional(A).() bool
        or optional_or_optional optional(A).(optional(A)) optional(A)
        orValue optional_orValue_value optional(A).(A) A
    ",
    runs: &[
        ("isSorted", is_sorted),
        ("sum", sum),
        ("min", |machine, args| extreme(machine, args, Ordering::Less, "min")),
        ("max", |machine, args| extreme(machine, args, Ordering::Greater, "max")),
        ("indexOf", |machine, args| index_of(machine, args, false)),
        ("lastIndexOf", |machine, args| index_of(machine, args, true)),
        ("slice", slice),
        ("flatten", flatten),
        ("lists.range", range),
        ("distinct", distinct),
        ("reverse", reverse),
        ("sort", sort),
        ("@sortByAssociatedKeys", sort_by),
        ("first", |_, args| end(args, |list| (!list.is_empty()).then(|| list.get(0)))),
        ("last", |_, args| end(args, |list| list.len().checked_sub(1).map(|last| list.get(last)))),
        ("sets.contains", |machine, args| Ok(Value::Bool(contains(machine, &args[0], &args[1])?))),
        ("sets.equivalent", equivalent),
        ("sets.intersects", intersects),
        ("optional.of", |_, args| Ok(Value::some(args[0].clone()))),
        ("optional.ofNonZeroValue", of_non_zero),
        ("optional.none", |_, _| Ok(Value::Optional(None))),
        ("optional.unwrap", unwrap),
        ("unwrapOpt", unwrap),
        ("value", value),
        ("hasValue", has_value),
    ],
};

fn list<'v, 'a>(value: &'v Value<'a>) -> Result<&'v List<'a>> {
    match value {
        Value::List(list) => Ok(list),
        _ => Err(no_overload()),
    }
}

fn is_sorted<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let items = items(list(&args[0])?, machine)?;
    for pair in items.windows(2) {
        if compare(&pair[0], &pair[1])?.is_some_and(Ordering::is_gt) {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let items = items(list(&args[0])?, machine)?;
    let mut items = items.into_iter();
    // Of an empty list the type is not known any more: a whole number compares well with all of them.
    let Some(mut total) = items.next() else { return Ok(Value::Int(0)) };
    for item in items {
        total = add(machine, &total, &item)?;
    }
    Ok(total)
}

fn extreme<'a>(machine: &mut Machine<'a>, args: &[Value<'a>], wanted: Ordering, name: &str) -> Result<Value<'a>> {
    let mut items = items(list(&args[0])?, machine)?.into_iter();
    let Some(mut best) = items.next() else {
        return Err(EvalError::new(format!("{name} called on empty list")));
    };
    for item in items {
        if compare(&item, &best)? == Some(wanted) {
            best = item;
        }
    }
    Ok(best)
}

fn index_of<'a>(machine: &mut Machine<'a>, args: &[Value<'a>], last: bool) -> Result<Value<'a>> {
    let Value::List(list) = &args[0] else { return text::index_of(machine, args, last) };
    let mut found = -1;
    for (index, item) in list.iter().enumerate() {
        if item.equals(&args[1], machine)? {
            found = index as i64;
            if !last {
                break;
            }
        }
    }
    Ok(Value::Int(found))
}

fn slice<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let (list, Value::Int(from), Value::Int(to)) = (list(&args[0])?, &args[1], &args[2]) else {
        return Err(no_overload());
    };
    let length = list.len() as i64;
    if *from < 0 || *to < 0 {
        return Err(EvalError::new(format!("cannot slice({from}, {to}), negative indexes not supported")));
    }
    if from > to {
        return Err(EvalError::new(format!(
            "cannot slice({from}, {to}), start index must be less than or equal to end index"
        )));
    }
    if *to > length {
        return Err(EvalError::new(format!("cannot slice({from}, {to}), list is length {length}")));
    }
    machine.work((to - from) as u64)?;
    Ok(Value::list((*from as usize..*to as usize).map(|index| list.get(index)).collect()))
}

fn flatten<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let depth = match args.get(1) {
        None => 1,
        Some(Value::Int(depth)) if *depth >= 0 => *depth,
        Some(Value::Int(_)) => return Err(EvalError::new("level must be non-negative")),
        Some(_) => return Err(no_overload()),
    };
    let mut out = Vec::new();
    flatten_into(machine, list(&args[0])?, depth, &mut out)?;
    Ok(Value::list(out))
}

fn flatten_into<'a>(machine: &mut Machine<'a>, list: &List<'a>, depth: i64, out: &mut Vec<Value<'a>>) -> Result<()> {
    for item in list.iter() {
        machine.work(1)?;
        match item {
            Value::List(inner) if depth > 0 => flatten_into(machine, &inner, depth - 1, out)?,
            other => out.push(other),
        }
    }
    Ok(())
}

fn range<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let Value::Int(count) = args[0] else { return Err(no_overload()) };
    machine.work(count.max(0) as u64)?;
    Ok(Value::list((0..count).map(Value::Int).collect()))
}

fn distinct<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let mut out: Vec<Value<'a>> = Vec::new();
    'items: for item in list(&args[0])?.iter() {
        for own in &out {
            if own.equals(&item, machine)? {
                continue 'items;
            }
        }
        out.push(item);
    }
    Ok(Value::list(out))
}

fn reverse<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let mut items = items(list(&args[0])?, machine)?;
    items.reverse();
    Ok(Value::list(items))
}

fn sort<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let keys = items(list(&args[0])?, machine)?;
    ordered(machine, keys.clone(), keys)
}

fn sort_by<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let (values, keys) = (items(list(&args[0])?, machine)?, items(list(&args[1])?, machine)?);
    if values.len() != keys.len() {
        return Err(EvalError::new("a list and its keys differ in length"));
    }
    ordered(machine, values, keys)
}

fn ordered<'a>(machine: &mut Machine<'a>, values: Vec<Value<'a>>, keys: Vec<Value<'a>>) -> Result<Value<'a>> {
    const STEPS: u64 = 16;
    machine.work(STEPS * values.len() as u64)?;
    for key in &keys {
        compare(&keys[0], key).map_err(|_| EvalError::new("list elements must have the same type"))?;
    }
    let mut pairs: Vec<(Value<'a>, Value<'a>)> = keys.into_iter().zip(values).collect();
    // Numbers that are none compare as equal to themselves only; the sort must see a total order.
    pairs.sort_by(|(a, _), (b, _)| match (a, b) {
        (Value::Double(a), Value::Double(b)) => a.total_cmp(b),
        _ => compare(a, b).ok().flatten().unwrap_or(Ordering::Equal),
    });
    Ok(Value::list(pairs.into_iter().map(|(_, value)| value).collect()))
}

fn end<'a>(args: &[Value<'a>], get: impl Fn(&List<'a>) -> Option<Value<'a>>) -> Result<Value<'a>> {
    Ok(get(list(&args[0])?).map_or(Value::Optional(None), Value::some))
}

/// Whether all items of the second list are in the first.
fn contains<'a>(machine: &mut Machine<'a>, all: &Value<'a>, some: &Value<'a>) -> Result<bool> {
    let (all, some) = (list(all)?, list(some)?);
    for item in some.iter() {
        if !all.contains(&item, machine)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equivalent<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let both = contains(machine, &args[0], &args[1])? && contains(machine, &args[1], &args[0])?;
    Ok(Value::Bool(both))
}

fn intersects<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let (a, b) = (list(&args[0])?, list(&args[1])?);
    for item in a.iter() {
        if b.contains(&item, machine)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Int(value) | Value::Duration(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Double(value) => *value == 0.0,
        Value::String(text) => text.is_empty(),
        Value::Bytes(bytes) => bytes.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(Map::Lazy(_)) => false,
        Value::Map(map) => map.is_empty(),
        Value::Optional(inner) => inner.is_none(),
        Value::Timestamp(_) | Value::Type(_) | Value::Opaque(_) => false,
    }
}

fn of_non_zero<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    Ok(if is_zero(&args[0]) { Value::Optional(None) } else { Value::some(args[0].clone()) })
}

fn unwrap<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    let mut out = Vec::new();
    for item in list(&args[0])?.iter() {
        match item {
            Value::Optional(Some(inner)) => out.push((*inner).clone()),
            Value::Optional(None) => {}
            _ => return Err(no_overload()),
        }
    }
    Ok(Value::list(out))
}

fn value<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::Optional(Some(inner)) => Ok((**inner).clone()),
        Value::Optional(None) => Err(EvalError::new("optional.none() dereference")),
        _ => Err(no_overload()),
    }
}

fn has_value<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match &args[0] {
        Value::Optional(inner) => Ok(Value::Bool(inner.is_some())),
        _ => Err(no_overload()),
    }
}
