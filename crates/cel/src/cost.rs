//! What expressions cost: counted while they run, and estimated from declarations before they are accepted.
//! The figures are cel-go's and Kubernetes': a rule that upstream refuses or takes is refused or taken here.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ast::{ACCU, Expr, ExprKind, Fold, Literal, op};
use crate::check::Checked;
use crate::program::Env;
use crate::types::{Decl, Type};
use crate::value::Value;

/// Making a list.
pub const LIST: u64 = 10;
/// Making a map.
pub const MAP: u64 = 30;
/// Making an object.
pub const OBJECT: u64 = 40;
/// Going through one letter.
const LETTER: f64 = 0.1;
/// One letter of a pattern.
const PATTERN_LETTER: f64 = 0.25;
/// Asking the authorizer: two questions fit into one expression.
const AUTHORIZE: u64 = 350_000;

fn scaled(size: u64, factor: f64) -> u64 {
    let product = (size as f64 * factor).ceil();
    if product >= u64::MAX as f64 { u64::MAX } else { product as u64 }
}

/// What adding two values costs.
pub fn of_add(a: &Value, b: &Value) -> u64 {
    match (a, b) {
        (Value::String(_), _) | (Value::Bytes(_), _) => scaled(a.size().saturating_add(b.size()), LETTER),
        _ => 1,
    }
}

/// What a call cost.
pub fn of_call(name: &str, args: &[Value], result: Option<&Value>) -> u64 {
    let size = |index: usize| args.get(index).map_or(0, Value::size);
    let letters = |index: usize| scaled(size(index), LETTER);
    let is_text = matches!(args.first(), Some(Value::String(_) | Value::Bytes(_)));
    match name {
        "check" => AUTHORIZE,
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => args.first().map_or(0, traversal),
        "sort" | "distinct" | "reverse" | "flatten" | "slice" | "@sortByAssociatedKeys" => {
            args.first().map_or(1, traversal).max(1)
        }
        "lists.range" => result.map_or(1, Value::size).max(1),
        "url"
        | "isURL"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver"
        | "strings.quote"
        | "jsonpatch.escapeKey" => letters(0),
        "ip" if is_text => letters(0),
        "replace" | "split" => scaled(size(0), 2.0 * LETTER),
        "join" => scaled(result.map_or(0, Value::size), 2.0 * LETTER),
        "ip.isCanonical" => scaled(size(0), 2.0 * LETTER),
        "find" | "findAll" | "matches" => {
            let text = ((1.0 + size(0) as f64) * LETTER).ceil() as u64;
            text.saturating_mul(scaled(size(1), PATTERN_LETTER))
        }
        "contains" => letters(0).saturating_mul(letters(1)),
        "containsIP" | "containsCIDR" => {
            let base = scaled(size(0) * 2, LETTER);
            let parsed = if matches!(args.get(1), Some(Value::String(_))) { letters(1) } else { 0 };
            base + parsed + if name == "containsCIDR" { letters(0) + 1 } else { 0 }
        }
        "validate" => letters(1).max(1),
        "format" => letters(0).max(1),
        "startsWith" | "endsWith" => letters(0),
        "string" | "bytes" if is_text => letters(0),
        op::IN if matches!(args.get(1), Some(Value::List(_))) => size(1),
        "sets.contains" | "sets.intersects" => size(0).saturating_mul(size(1)).max(1),
        "sets.equivalent" => size(0).saturating_mul(size(1)).saturating_mul(2).max(1),
        op::EQUALS | op::NOT_EQUALS => scaled(size(0).min(size(1)), LETTER),
        op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS if is_text => {
            scaled(size(0).min(size(1)), LETTER)
        }
        _ => 1,
    }
}

/// Going through a value with all that is in it.
fn traversal(value: &Value) -> u64 {
    match value {
        Value::String(_) | Value::Bytes(_) => scaled(value.size(), LETTER),
        Value::List(list) => list.iter().map(|item| traversal(&item)).fold(0, u64::saturating_add),
        _ => 1,
    }
}

/// The least and the most of a size or of a cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
}

const UNKNOWN: Span = Span { min: 0, max: u64::MAX };

impl Span {
    fn exactly(value: u64) -> Self {
        Self { min: value, max: value }
    }

    fn plus(self, other: Self) -> Self {
        Self { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Self) -> Self {
        Self { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn scaled(self, factor: f64) -> Self {
        Self { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    fn union(self, other: Self) -> Self {
        Self { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// Of a list or map that an expression makes: the sizes of keys and of values.
#[derive(Debug, Clone, Copy)]
struct Entries {
    is_list: bool,
    key: Span,
    value: Span,
}

impl Entries {
    fn union(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        let (a, b) = (a?, b?);
        Some(Self { is_list: a.is_list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

struct Local {
    name: Arc<str>,
    decl: Option<Arc<Decl>>,
    size: Option<Span>,
    entries: Option<Entries>,
}

struct Estimator<'e> {
    env: &'e Env,
    checked: &'e Checked,
    decls: HashMap<u32, Arc<Decl>>,
    sizes: HashMap<u32, Span>,
    entries: HashMap<u32, Entries>,
    locals: Vec<Local>,
}

/// What evaluating an expression costs at least and at most.
pub fn estimate(env: &Env, checked: &Checked, expr: &Expr) -> Span {
    let mut estimator = Estimator {
        env,
        checked,
        decls: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
        locals: Vec::new(),
    };
    estimator.cost(expr)
}

impl Estimator<'_> {
    fn ty(&self, expr: &Expr) -> &Type {
        &self.checked.types[expr.id as usize]
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|local| local.name.as_ref() == name)
    }

    /// The declaration that an expression leads to.
    fn decl(&self, expr: &Expr) -> Option<Arc<Decl>> {
        if let ExprKind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.decl.clone();
        }
        self.decls.get(&expr.id).cloned()
    }

    fn entries_of(&self, expr: &Expr) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&expr.id) {
            return Some(*entries);
        }
        match &expr.kind {
            ExprKind::Ident(name) => self.local(name).and_then(|local| local.entries),
            _ => None,
        }
    }

    fn known_size(&self, expr: &Expr) -> Option<Span> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        let exact = match &expr.kind {
            ExprKind::Literal(Literal::String(text)) => Some(text.chars().count() as u64),
            ExprKind::Literal(Literal::Bytes(bytes)) => Some(bytes.len() as u64),
            ExprKind::Literal(_) => Some(1),
            ExprKind::List { items, .. } => Some(items.len() as u64),
            ExprKind::Map(entries) => Some(entries.len() as u64),
            _ => None,
        };
        if let Some(exact) = exact {
            return Some(Span::exactly(exact));
        }
        if let Some(decl) = self.decl(expr) {
            return Some(Span { min: 0, max: decl.most });
        }
        if self.ty(expr).is_scalar() {
            return Some(Span::exactly(1));
        }
        match &expr.kind {
            ExprKind::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    fn size(&self, expr: &Expr) -> Span {
        self.known_size(expr).unwrap_or(UNKNOWN)
    }

    fn cost(&mut self, expr: &Expr) -> Span {
        match &expr.kind {
            ExprKind::Literal(_) => Span::default(),
            ExprKind::Ident(name) => {
                if self.local(name).is_none()
                    && let Some(decl) = self.env.variable(name)
                {
                    self.decls.insert(expr.id, decl.clone());
                }
                Span::exactly(1)
            }
            ExprKind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            ExprKind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            ExprKind::List { items, .. } => {
                let mut sum = Span::exactly(LIST);
                let mut size = Span { min: if items.is_empty() { 0 } else { u64::MAX }, max: 0 };
                for item in items {
                    sum = sum.plus(self.cost(item));
                    size = size.union(self.size(item));
                }
                self.entries.insert(expr.id, Entries { is_list: true, key: Span::exactly(1), value: size });
                sum
            }
            ExprKind::Map(entries) => {
                let mut sum = Span::exactly(MAP);
                let none = Span { min: if entries.is_empty() { 0 } else { u64::MAX }, max: 0 };
                let (mut key, mut value) = (none, none);
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    key = key.union(self.size(&entry.key));
                    value = value.union(self.size(&entry.value));
                }
                self.entries.insert(expr.id, Entries { is_list: false, key, value });
                sum
            }
            ExprKind::Struct { fields, .. } => {
                fields.iter().fold(Span::exactly(OBJECT), |sum, field| sum.plus(self.cost(&field.value)))
            }
            ExprKind::Fold(fold) => self.fold(expr, fold),
        }
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test: bool) -> Span {
        let mut sum = self.cost(operand);
        if test {
            return sum.plus(Span::exactly(1));
        }
        if matches!(self.ty(operand), Type::Map(..) | Type::Object(_)) {
            sum = sum.plus(Span::exactly(1));
        }
        if let Some(decl) = self.decl(operand).and_then(|decl| decl.field(field).cloned()) {
            self.decls.insert(expr.id, decl);
        }
        sum
    }

    fn fold(&mut self, expr: &Expr, fold: &Fold) -> Span {
        let mut sum = self.cost(&fold.range).plus(self.cost(&fold.init));
        let accu = Local {
            name: fold.accu.clone(),
            decl: self.decl(&fold.init),
            size: self.known_size(&fold.init),
            entries: self.entries_of(&fold.init),
        };
        self.locals.push(accu);
        let is_bind = fold.accu.as_ref() != ACCU;
        if is_bind {
            sum = sum.plus(self.cost(&fold.result));
            self.copy_sizes(expr, &fold.result);
            self.locals.pop();
            return sum;
        }
        let depth = self.locals.len();
        self.push_items(fold);
        let round = self.cost(&fold.condition).plus(self.cost(&fold.step));
        self.locals.truncate(depth);
        sum = sum.plus(self.cost(&fold.result));
        self.locals.pop();
        let count = self.size(&fold.range);
        match &fold.init.kind {
            ExprKind::Literal(_) => {
                if let Some(size) = self.known_size(&fold.init) {
                    self.sizes.insert(expr.id, size);
                }
            }
            ExprKind::List { .. } | ExprKind::Map(_) => {
                self.sizes.insert(expr.id, count);
                if let Some(entries) = self.entries_of(&fold.step) {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        sum.plus(count.times(round))
    }

    fn push_items(&mut self, fold: &Fold) {
        let range = &fold.range;
        let entries = self.entries_of(range);
        let decl = self.decl(range).and_then(|decl| decl.item.clone());
        let is_list = entries.map_or(matches!(self.ty(range), Type::List(_)), |entries| entries.is_list);
        let key = Local { name: fold.var.clone(), decl: None, size: entries.map(|e| e.key), entries: None };
        let value = |name: &Arc<str>| Local {
            name: name.clone(),
            decl: decl.clone(),
            size: entries.map(|entries| entries.value),
            entries: None,
        };
        match &fold.var2 {
            Some(name) => {
                let second = value(name);
                self.locals.push(key);
                self.locals.push(second);
            }
            None if is_list => {
                let item = value(&fold.var);
                self.locals.push(item);
            }
            None => self.locals.push(key),
        }
    }

    fn copy_sizes(&mut self, to: &Expr, from: &Expr) {
        if let Some(size) = self.known_size(from) {
            self.sizes.insert(to.id, size);
        }
        if let Some(entries) = self.entries_of(from) {
            self.entries.insert(to.id, entries);
        }
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Span {
        if function == "dyn" && args.len() == 1 {
            let cost = self.cost(&args[0]).plus(Span::exactly(1));
            self.copy_sizes(expr, &args[0]);
            return cost;
        }
        let costs: Vec<Span> = args.iter().map(|arg| self.cost(arg)).collect();
        let target_cost = target.map_or(Span::default(), |target| self.cost(target));
        let overloads = self.checked.overloads[expr.id as usize].clone();
        if overloads.is_empty() {
            return Span::default();
        }
        let mut cost = Span { min: u64::MAX, max: 0 };
        let mut size: Option<Span> = None;
        for overload in overloads {
            let (own, made) = self.overload(expr, function, overload, target, args, &costs);
            cost = cost.union(own);
            if let Some(made) = made {
                size = Some(size.map_or(made, |size| size.union(made)));
            }
            if matches!(overload, "index_list" | "index_map")
                && let Some(list) = args.first()
            {
                size = self.entries_of(list).map(|entries| entries.value);
                if let Some(decl) = self.decl(list).and_then(|decl| decl.item.clone()) {
                    self.decls.insert(expr.id, decl);
                }
            }
            if size.is_none() {
                size = self.known_size(expr);
            }
        }
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
        target_cost.plus(cost)
    }

    /// The cost of one form of a function with its arguments, and the size of what it gives.
    fn overload(
        &mut self,
        expr: &Expr,
        function: &str,
        overload: &str,
        target: Option<&Expr>,
        args: &[Expr],
        costs: &[Span],
    ) -> (Span, Option<Span>) {
        let sum = costs.iter().fold(Span::default(), |sum, cost| sum.plus(*cost));
        if let Some((cost, size)) = self.of_library(function, overload, target, args) {
            return (cost.plus(sum), size);
        }
        match overload {
            "logical_and" | "logical_or" => {
                let both = costs[0].plus(costs[1]);
                (Span { min: costs[0].min, max: both.max }, None)
            }
            "conditional" => {
                let size = self.size(&args[1]).union(self.size(&args[2]));
                if let Some(entries) = Entries::union(self.entries_of(&args[1]), self.entries_of(&args[2])) {
                    self.entries.insert(expr.id, entries);
                }
                (costs[0].plus(costs[1].union(costs[2])), Some(size))
            }
            "add_string" | "add_bytes" | "add_list" => {
                let size = self.size(&args[0]).plus(self.size(&args[1]));
                if let Some(entries) = Entries::union(self.entries_of(&args[0]), self.entries_of(&args[1])) {
                    self.entries.insert(expr.id, entries);
                }
                let own = if overload == "add_list" { Span::exactly(1) } else { size.scaled(LETTER) };
                (own.plus(sum), Some(size))
            }
            "in_list" => (self.size(&args[1]).plus(sum), None),
            "string_to_bytes" => {
                let size = self.size(&args[0]);
                (size.scaled(LETTER).plus(sum), Some(Span { min: size.min, max: size.max.saturating_mul(4) }))
            }
            "bytes_to_string" => {
                let size = self.size(&args[0]);
                (size.scaled(LETTER).plus(sum), Some(Span { min: size.min / 4, max: size.max }))
            }
            "starts_with_string" | "ends_with_string" => (self.size(&args[0]).scaled(LETTER).plus(sum), None),
            "matches_string" | "matches" => {
                let (text, pattern) = match target {
                    Some(target) => (self.size(target), self.size(&args[0])),
                    None => (self.size(&args[0]), self.size(&args[1])),
                };
                let text = text.plus(Span::exactly(1)).scaled(LETTER);
                (text.times(pattern.scaled(PATTERN_LETTER)).plus(sum), None)
            }
            "contains_string" => {
                let text = target.map_or(UNKNOWN, |target| self.size(target)).scaled(LETTER);
                (text.times(self.size(&args[0]).scaled(LETTER)).plus(sum), None)
            }
            "equals"
            | "not_equals"
            | "less_string"
            | "less_bytes"
            | "less_equals_string"
            | "less_equals_bytes"
            | "greater_string"
            | "greater_bytes"
            | "greater_equals_string"
            | "greater_equals_bytes" => {
                let max = self.size(&args[0]).max.min(self.size(&args[1]).max);
                let own = Span { min: u64::from(max > 0), max };
                (own.scaled(LETTER).plus(sum), None)
            }
            "string_format" => {
                let size = target.map_or(UNKNOWN, |target| self.size(target));
                (size.scaled(LETTER).plus(sum), None)
            }
            _ => (Span::exactly(1).plus(sum), None),
        }
    }

    /// What Kubernetes' libraries say of their functions.
    fn of_library(
        &self,
        function: &str,
        overload: &str,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Option<(Span, Option<Span>)> {
        let own = target.map(|target| self.size(target));
        let first = || args.first().map_or(UNKNOWN, |arg| self.size(arg));
        let result = match function {
            "check" => (Span::exactly(AUTHORIZE), None),
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
                let list = target?;
                match self.item(list) {
                    Some((ty, size)) => {
                        let is_text = matches!(ty, Type::String | Type::Bytes);
                        let item = if is_text { Span::exactly(1).plus(size.scaled(LETTER)) } else { Span::exactly(1) };
                        (self.size(list).times(item), None)
                    }
                    None => (self.size(list).scaled(LETTER), None),
                }
            }
            "url" | "cidr" | "isIP" | "isCIDR" | "isURL" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                (first().scaled(LETTER), None)
            }
            "ip" if target.is_none() => (first().scaled(LETTER), None),
            "ip.isCanonical" => (first().scaled(2.0 * LETTER), None),
            "lowerAscii" | "upperAscii" | "substring" | "trim" => (own?.scaled(LETTER), own),
            "replace" if args.len() >= 2 => {
                let size = replaced(own?, self.size(&args[0]), self.size(&args[1]));
                (own?.scaled(2.0 * LETTER), Some(size))
            }
            "split" => {
                let size = own?;
                (size.scaled(2.0 * LETTER), Some(Span { min: 0, max: size.max }))
            }
            "join" => {
                let list = own?;
                let mut size = self.item(target?).map_or(Span::default(), |(_, item)| list.times(item));
                if let Some(by) = args.first() {
                    let gaps = Span { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
                    size = size.plus(self.size(by).times(gaps));
                }
                (size.scaled(LETTER), Some(size))
            }
            "find" | "findAll" => {
                let size = own?;
                let text = size.plus(Span::exactly(1)).scaled(LETTER);
                (text.times(first().scaled(PATTERN_LETTER)), Some(Span { min: 0, max: size.max }))
            }
            "containsIP" | "containsCIDR" => {
                const BYTES: Span = Span { min: 4, max: 16 };
                let mut cost = BYTES.plus(BYTES).scaled(LETTER);
                if overload.ends_with("_string") {
                    cost = cost.plus(first().scaled(LETTER));
                }
                if function == "containsCIDR" {
                    cost = cost.plus(BYTES.scaled(LETTER)).plus(Span::exactly(1));
                }
                (cost, None)
            }
            "validate" => (first().scaled(LETTER), None),
            "format.named" => (Span::exactly(1), None),
            "sets.contains" | "sets.intersects" if args.len() == 2 => {
                (self.size(&args[0]).times(self.size(&args[1])), None)
            }
            "sets.equivalent" if args.len() == 2 => {
                (self.size(&args[0]).times(self.size(&args[1])).times(Span::exactly(2)), None)
            }
            "distinct" | "sort" | "reverse" | "flatten" | "slice" => (own?.plus(Span::exactly(1)), own),
            _ => return None,
        };
        Some(result)
    }

    /// The type and size of a list's items.
    fn item(&self, list: &Expr) -> Option<(Type, Span)> {
        let Type::List(item) = self.ty(list) else { return None };
        let size = match self.decl(list).and_then(|decl| decl.item.clone()) {
            Some(decl) => Span { min: 0, max: decl.most },
            None => self.entries_of(list).map_or(UNKNOWN, |entries| entries.value),
        };
        Some(((**item).clone(), size))
    }
}

/// The size of a text in which something was replaced.
fn replaced(text: Span, from: Span, to: Span) -> Span {
    let most = if from.min == 0 {
        text.max.saturating_add(1).saturating_mul(to.max).saturating_add(text.max)
    } else if to.max <= from.min {
        text.max
    } else {
        text.max.div_ceil(from.min).saturating_mul(to.max)
    };
    let least = if from.max == 0 {
        text.min.saturating_add(1).saturating_mul(to.min).saturating_add(text.min)
    } else if from.max <= to.min {
        text.min
    } else {
        text.min.div_ceil(from.max).saturating_mul(to.min)
    };
    Span { min: least, max: most }
}
