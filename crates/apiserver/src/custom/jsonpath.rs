//! The JSONPath of printer columns, as `kubectl` and the server's Tables know it: fields, indices, ranges, wildcards,
//! unions, descent and filters. See <https://kubernetes.io/docs/reference/kubectl/jsonpath/>.

use serde_json::Value;

/// How long a path may be: filters nest, and nobody writes longer ones.
const MAX_BYTES: usize = 4096;

/// One step from a node to those below it.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    /// From, to (not included), by; as in Go and Python.
    Range(Option<i64>, Option<i64>, i64),
    Wildcard,
    Descent,
    Union(Vec<Step>),
    Filter(Box<Filter>),
}

/// What items a filter keeps.
#[derive(Debug, Clone, PartialEq)]
struct Filter {
    left: Operand,
    /// An operator with its right side; without one it is enough that the left side is there.
    right: Option<(&'static str, Operand)>,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

/// What a path leads to in an object; nothing where it is no path.
pub fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    if path.len() > MAX_BYTES {
        return Vec::new();
    }
    steps(path).map_or_else(Vec::new, |steps| walk(vec![object], &steps))
}

fn steps(path: &str) -> Option<Vec<Step>> {
    let (mut steps, mut rest) = (Vec::new(), path.trim());
    rest = rest.strip_prefix('$').unwrap_or(rest);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            steps.push(Step::Descent);
            rest = after;
            if rest.starts_with('[') {
                continue;
            }
        } else if let Some(inner) = rest.strip_prefix('[') {
            let end = closing(inner)?;
            steps.push(bracket(inner[..end].trim())?);
            rest = &inner[end + 1..];
            continue;
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
        }
        let (name, after) = name(rest);
        match name.as_str() {
            "" if after.is_empty() => {}
            "" if after.starts_with('[') => {}
            "" => return None,
            "*" => steps.push(Step::Wildcard),
            _ => steps.push(Step::Field(name)),
        }
        rest = after;
    }
    Some(steps)
}

/// A field's name up to what ends it; a backslash takes the next letter as it is.
fn name(text: &str) -> (String, &str) {
    let (mut name, mut letters) = (String::new(), text.char_indices());
    while let Some((index, letter)) = letters.next() {
        match letter {
            '\\' => name.extend(letters.next().map(|(_, letter)| letter)),
            '.' | '[' => return (name, &text[index..]),
            _ => name.push(letter),
        }
    }
    (name, "")
}

/// Where the bracket that was opened is closed: quotes and brackets within are passed over.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (index, letter) in text.char_indices() {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(letter),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(index),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Option<Step> {
    if let Some(condition) = text.strip_prefix("?(").and_then(|rest| rest.strip_suffix(')')) {
        return filter(condition.trim()).map(|filter| Step::Filter(Box::new(filter)));
    }
    let parts = split(text, ',');
    if parts.len() > 1 {
        return parts.into_iter().map(|part| bracket(part.trim())).collect::<Option<_>>().map(Step::Union);
    }
    if text == "*" {
        return Some(Step::Wildcard);
    }
    if let Some(quoted) = unquoted(text) {
        return Some(Step::Field(quoted));
    }
    if let Ok(index) = text.parse() {
        return Some(Step::Index(index));
    }
    if !text.contains(':') {
        return Some(Step::Field(text.to_owned()));
    }
    let number = |text: &str| if text.trim().is_empty() { Some(None) } else { text.trim().parse().ok().map(Some) };
    let mut numbers = text.split(':').map(number);
    let (from, to) = (numbers.next()??, numbers.next()??);
    let by = numbers.next().unwrap_or(Some(None))?.unwrap_or(1);
    (by > 0).then_some(Step::Range(from, to, by))
}

fn unquoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|letter| matches!(letter, '\'' | '"'))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner.replace(&format!("\\{quote}"), &quote.to_string()))
}

/// The parts of a text between separators outside of quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut parts, mut start, mut quote) = (Vec::new(), 0, None);
    for (index, letter) in text.char_indices() {
        match quote {
            Some(open) if open == letter => quote = None,
            Some(_) => {}
            None if matches!(letter, '\'' | '"') => quote = Some(letter),
            None if letter == separator => {
                parts.push(&text[start..index]);
                start = index + letter.len_utf8();
            }
            None => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn filter(text: &str) -> Option<Filter> {
    const OPERATORS: [&str; 6] = ["==", "!=", "<=", ">=", "<", ">"];
    let mut quote = None;
    for (index, letter) in text.char_indices() {
        match quote {
            Some(open) if open == letter => quote = None,
            Some(_) => {}
            None if matches!(letter, '\'' | '"') => quote = Some(letter),
            None => {
                if let Some(operator) = OPERATORS.into_iter().find(|one| text[index..].starts_with(one)) {
                    let right = operand(text[index + operator.len()..].trim())?;
                    return Some(Filter { left: operand(text[..index].trim())?, right: Some((operator, right)) });
                }
            }
        }
    }
    Some(Filter { left: operand(text)?, right: None })
}

fn operand(text: &str) -> Option<Operand> {
    if let Some(path) = text.strip_prefix('@') {
        return steps(path).map(Operand::Path);
    }
    if let Some(quoted) = unquoted(text) {
        return Some(Operand::Literal(quoted.into()));
    }
    serde_json::from_str(text).ok().map(Operand::Literal)
}

fn walk<'a>(from: Vec<&'a Value>, steps: &[Step]) -> Vec<&'a Value> {
    steps.iter().fold(from, |nodes, step| nodes.into_iter().flat_map(|node| below(node, step)).collect())
}

fn below<'a>(node: &'a Value, step: &Step) -> Vec<&'a Value> {
    let children = || -> Vec<&'a Value> {
        match node {
            Value::Array(items) => items.iter().collect(),
            Value::Object(fields) => fields.values().collect(),
            _ => Vec::new(),
        }
    };
    match step {
        Step::Field(name) => node.get(name).into_iter().collect(),
        Step::Index(index) => {
            let items = node.as_array().map_or(&[][..], Vec::as_slice);
            place(*index, items.len()).and_then(|place| items.get(place)).into_iter().collect()
        }
        Step::Range(from, to, by) => {
            let items = node.as_array().map_or(&[][..], Vec::as_slice);
            let bound = |given: Option<i64>, otherwise: usize| match given {
                Some(index) => place(index, items.len()).unwrap_or(0).min(items.len()),
                None => otherwise,
            };
            let (from, to) = (bound(*from, 0), bound(*to, items.len()));
            let by = usize::try_from(*by).unwrap_or(1);
            items.get(from..to).unwrap_or_default().iter().step_by(by).collect()
        }
        Step::Wildcard => children(),
        Step::Descent => {
            let (mut found, mut waiting) = (Vec::new(), vec![node]);
            while let Some(node) = waiting.pop() {
                found.push(node);
                match node {
                    Value::Array(items) => waiting.extend(items.iter().rev()),
                    Value::Object(fields) => waiting.extend(fields.values().rev()),
                    _ => {}
                }
            }
            found
        }
        Step::Union(steps) => steps.iter().flat_map(|step| below(node, step)).collect(),
        Step::Filter(filter) => children().into_iter().filter(|child| keeps(filter, child)).collect(),
    }
}

/// An index that may count from the end.
fn place(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    usize::try_from(if index < 0 { length + index } else { index }).ok()
}

fn keeps(filter: &Filter, item: &Value) -> bool {
    let value = |operand: &Operand| match operand {
        Operand::Path(steps) => walk(vec![item], steps).first().copied().cloned(),
        Operand::Literal(value) => Some(value.clone()),
    };
    let Some(left) = value(&filter.left) else { return false };
    let Some((operator, right)) = &filter.right else { return true };
    let Some(right) = value(right) else { return false };
    let order = match (&left, &right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64().partial_cmp(&right.as_f64()),
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        _ => (left == right).then_some(std::cmp::Ordering::Equal),
    };
    match *operator {
        "==" => order.is_some_and(|order| order.is_eq()),
        "!=" => order.is_none_or(|order| order.is_ne()),
        "<=" => order.is_some_and(|order| order.is_le()),
        ">=" => order.is_some_and(|order| order.is_ge()),
        "<" => order.is_some_and(|order| order.is_lt()),
        _ => order.is_some_and(|order| order.is_gt()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(path: &str, expected: Value) {
        let object = json!({
            "spec": {"a.b": [{"c": 1}, {"c": 2}, {"c": 3}]},
            "metadata": {"annotations": {"x/y": "z"}},
            "status": {"conditions": [
                {"type": "Ready", "status": "True", "n": 1},
                {"type": "Synced", "status": "False", "n": 7, "reason": "a ] b"}]}});
        let found: Vec<Value> = find(&object, path).into_iter().cloned().collect();
        assert_eq!(Value::Array(found), expected, "{path}");
    }

    #[test]
    fn paths_lead_where_kubectls_do() {
        check(r".spec.a\.b[1].c", json!([2]));
        check(r".spec.a\.b[-1].c", json!([3]));
        check(r".spec.a\.b[0:2].c", json!([1, 2]));
        check(r".spec.a\.b[::2].c", json!([1, 3]));
        check(r".spec.a\.b[*].c", json!([1, 2, 3]));
        check(r".spec.a\.b[0,2].c", json!([1, 3]));
        check("$.metadata.annotations['x/y']", json!(["z"]));
        check("..c", json!([1, 2, 3]));
        check(r#".status.conditions[?(@.type=="Ready")].status"#, json!(["True"]));
        check(".status.conditions[?(@.type == 'Synced')].n", json!([7]));
        check(".status.conditions[?(@.n > 1)].type", json!(["Synced"]));
        check(".status.conditions[?(@.n<=1)].type", json!(["Ready"]));
        check(".status.conditions[?(@.type!='Ready')].type", json!(["Synced"]));
        check(".status.conditions[?(@.reason)].type", json!(["Synced"]));
        check(".status.conditions[?(@.reason=='a ] b')].type", json!(["Synced"]));
        check(".spec.nope", json!([]));
        check(".spec.a[", json!([]));
        check(
            "",
            json!([{"spec": {"a.b": [{"c": 1}, {"c": 2}, {"c": 3}]}, "metadata": {"annotations": {"x/y": "z"}},
            "status": {"conditions": [{"type": "Ready", "status": "True", "n": 1},
                {"type": "Synced", "status": "False", "n": 7, "reason": "a ] b"}]}}]),
        );
    }
}
