//! Evaluation: a walk over the tree that counts what it costs. An error is a value to `||` and `&&`, which go on where
//! the other side decides; only the limit of cost ends everything.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use regex::Regex;

use crate::ast::{ACCU, Entry, Expr, ExprKind, FieldInit, Fold, Literal};
use crate::check::Callee;
use crate::cost;
use crate::error::EvalError;
use crate::library::Host;
use crate::program::Program;
use crate::types::Type;
use crate::value::{Key, List, Map, Result, Struct, Text, Value};

/// How many elementary steps one evaluation may take whatever its cost: it bounds what costs count as one step though
/// it copies much, such as joining lists.
const WORK_LIMIT: u64 = 20_000_000;
/// How many patterns an evaluation remembers.
const REGEX_LIMIT: usize = 64;

/// Where the values of variables come from.
pub trait Activation<'a> {
    /// The variable's value, where it has one.
    fn variable(&self, name: &str) -> Option<Value<'a>>;
}

/// Variables in a list.
impl<'a> Activation<'a> for Vec<(&str, Value<'a>)> {
    fn variable(&self, name: &str) -> Option<Value<'a>> {
        self.iter().find(|(own, _)| *own == name).map(|(_, value)| value.clone())
    }
}

/// One evaluation under way.
pub struct Machine<'a> {
    program: &'a Program,
    variables: Vec<(&'a str, Value<'a>)>,
    /// What the outside world answers.
    pub host: Option<&'a dyn Host>,
    cost: u64,
    limit: u64,
    work: u64,
    scope: Vec<(&'a str, Value<'a>)>,
    regexes: HashMap<String, Regex>,
}

impl<'a> Machine<'a> {
    /// An evaluation that may cost `limit`.
    pub fn new(program: &'a Program, activation: &dyn Activation<'a>, host: Option<&'a dyn Host>, limit: u64) -> Self {
        let used = program.variables.iter();
        let variables = used.filter_map(|name| Some((name.as_str(), activation.variable(name)?))).collect();
        Self { program, variables, host, cost: 0, limit, work: 0, scope: Vec::new(), regexes: HashMap::new() }
    }

    /// The program's value.
    pub fn run(&mut self) -> Result<Value<'a>> {
        let program = self.program;
        self.eval(&program.expr)
    }

    /// What the evaluation cost so far.
    pub fn cost(&self) -> u64 {
        self.cost
    }

    /// What it may still cost.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.cost)
    }

    /// Adds to the cost.
    pub fn charge(&mut self, cost: u64) -> Result<()> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::Cost) } else { Ok(()) }
    }

    /// Counts elementary steps.
    pub fn work(&mut self, steps: u64) -> Result<()> {
        self.work = self.work.saturating_add(steps);
        if self.work > WORK_LIMIT { Err(EvalError::Cost) } else { Ok(()) }
    }

    /// The compiled pattern.
    pub fn regex(&mut self, pattern: &str) -> Result<Regex> {
        if let Some(regex) = self.program.regexes.get(pattern).or_else(|| self.regexes.get(pattern)) {
            return Ok(regex.clone());
        }
        self.work(10_000 + 100 * pattern.len() as u64)?;
        let regex = crate::re2::compile(pattern).map_err(EvalError::Message)?;
        if self.regexes.len() < REGEX_LIMIT {
            self.regexes.insert(pattern.to_owned(), regex.clone());
        }
        Ok(regex)
    }

    fn eval(&mut self, expr: &'a Expr) -> Result<Value<'a>> {
        match &expr.kind {
            ExprKind::Literal(literal) => Ok(constant(literal)),
            ExprKind::Ident(name) => self.ident(expr, name),
            ExprKind::Select { operand, field, test } => self.select(operand, field, *test),
            ExprKind::Call { target, args, .. } => self.call(expr, target.as_deref(), args),
            ExprKind::List { items, optional } => self.list(items, optional),
            ExprKind::Map(entries) => self.map(entries),
            ExprKind::Struct { name, fields } => self.object(name, fields),
            ExprKind::Fold(fold) => self.fold(fold),
        }
    }

    fn ident(&mut self, expr: &'a Expr, name: &'a str) -> Result<Value<'a>> {
        if let Some(ty) = self.program.type_names.get(&expr.id) {
            return Ok(Value::Type(ty.clone()));
        }
        self.charge(1)?;
        if let Some((_, value)) = self.scope.iter().rev().find(|(own, _)| *own == name) {
            return match value {
                Value::Opaque(crate::library::Opaque::Error(message)) => Err(EvalError::new(message.as_ref())),
                value => Ok(value.clone()),
            };
        }
        let name = name.strip_prefix('.').unwrap_or(name);
        let found = self.variables.iter().find(|(own, _)| *own == name);
        found.map(|(_, value)| value.clone()).ok_or_else(|| EvalError::new(format!("no such attribute(s): {name}")))
    }

    fn select(&mut self, operand: &'a Expr, field: &'a str, test: bool) -> Result<Value<'a>> {
        let operand = self.eval(operand)?;
        self.charge(1)?;
        self.select_of(&operand, field, test)
    }

    fn select_of(&mut self, operand: &Value<'a>, field: &'a str, test: bool) -> Result<Value<'a>> {
        match operand {
            Value::Map(map) => match map.field(field, self) {
                Some(_) if test => Ok(Value::Bool(true)),
                Some(value) => value,
                None if test => Ok(Value::Bool(false)),
                None => Err(EvalError::new(format!("no such key: {field}"))),
            },
            Value::Optional(None) if test => Ok(Value::Bool(false)),
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) if test => self.select_of(&inner.clone(), field, true),
            Value::Optional(Some(inner)) => self.optional_field(&inner.clone(), field),
            Value::Null if test => Ok(Value::Bool(false)),
            _ => Err(no_overload()),
        }
    }

    fn optional_field(&mut self, operand: &Value<'a>, field: &str) -> Result<Value<'a>> {
        match operand {
            Value::Map(map) => match map.field(field, self) {
                Some(value) => Ok(Value::some(value?)),
                None => Ok(Value::Optional(None)),
            },
            Value::Optional(None) | Value::Null => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => self.optional_field(&inner.clone(), field),
            _ => Err(no_overload()),
        }
    }

    fn call(&mut self, expr: &'a Expr, target: Option<&'a Expr>, args: &'a [Expr]) -> Result<Value<'a>> {
        match self.program.callees[expr.id as usize] {
            Callee::None => Err(no_overload()),
            Callee::And => self.logic(&args[0], &args[1], false),
            Callee::Or => self.logic(&args[0], &args[1], true),
            Callee::Conditional => match self.eval(&args[0])? {
                Value::Bool(true) => self.eval(&args[1]),
                Value::Bool(false) => self.eval(&args[2]),
                _ => Err(no_overload()),
            },
            Callee::NotStrictlyFalse => {
                let value = self.eval(&args[0]);
                self.charge(1)?;
                match value {
                    Err(EvalError::Cost) => Err(EvalError::Cost),
                    Ok(Value::Bool(value)) => Ok(Value::Bool(value)),
                    _ => Ok(Value::Bool(true)),
                }
            }
            Callee::OptSelect => {
                let operand = self.eval(&args[0])?;
                self.charge(1)?;
                match &args[1].kind {
                    ExprKind::Literal(Literal::String(field)) => self.optional_field(&operand, field),
                    _ => Err(no_overload()),
                }
            }
            Callee::OptIndex => {
                let (operand, index) = (self.eval(&args[0])?, self.eval(&args[1])?);
                self.charge(1)?;
                self.optional_index(&operand, &index)
            }
            Callee::Index => {
                let (operand, index) = (self.eval(&args[0])?, self.eval(&args[1])?);
                self.charge(1)?;
                self.index(&operand, &index)
            }
            Callee::Add => self.add(&args[0], &args[1]),
            Callee::Or2 => self.alternative(target, &args[0], false),
            Callee::OrValue => self.alternative(target, &args[0], true),
            Callee::Function(function) => {
                let mut values = Vec::with_capacity(args.len() + 1);
                if let Some(target) = target {
                    values.push(self.eval(target)?);
                }
                for arg in args {
                    values.push(self.eval(arg)?);
                }
                let result = (function.run)(self, &values);
                if result.as_ref().err() == Some(&EvalError::Cost) {
                    return result;
                }
                self.charge(cost::of_call(function.name, &values, result.as_ref().ok()))?;
                result
            }
        }
    }

    /// `||` where `decisive` is true, `&&` where it is false.
    fn logic(&mut self, left: &'a Expr, right: &'a Expr, decisive: bool) -> Result<Value<'a>> {
        let first = self.eval(left);
        match &first {
            Err(EvalError::Cost) => return first,
            Ok(Value::Bool(value)) if *value == decisive => return first,
            _ => {}
        }
        let second = self.eval(right);
        match (&first, &second) {
            (_, Err(EvalError::Cost)) => second,
            (_, Ok(Value::Bool(value))) if *value == decisive => second,
            (Err(_), _) => first,
            (_, Err(_)) => second,
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!decisive)),
            _ => Err(no_overload()),
        }
    }

    /// `optional.or(...)` and `optional.orValue(...)` look at their argument only where they need it.
    fn alternative(&mut self, target: Option<&'a Expr>, other: &'a Expr, unwrap: bool) -> Result<Value<'a>> {
        let Some(target) = target else { return Err(no_overload()) };
        let value = self.eval(target)?;
        self.charge(1)?;
        match value {
            Value::Optional(Some(inner)) if unwrap => Ok((*inner).clone()),
            Value::Optional(Some(_)) => Ok(value),
            Value::Optional(None) => self.eval(other),
            _ => Err(no_overload()),
        }
    }

    /// `+`. The accumulator of a loop is taken, not copied: the loop gives it a new value in any case.
    fn add(&mut self, left: &'a Expr, right: &'a Expr) -> Result<Value<'a>> {
        let is_accu = matches!(&left.kind, ExprKind::Ident(name) if name.as_ref() == ACCU);
        let a = if is_accu {
            self.charge(1)?;
            let slot = self.scope.iter_mut().rev().find(|(name, _)| *name == ACCU);
            slot.map_or(Err(no_overload()), |(_, value)| Ok(std::mem::replace(value, Value::Null)))?
        } else {
            self.eval(left)?
        };
        let b = match self.eval(right) {
            Ok(value) => value,
            Err(error) => {
                // What was taken is put back: an error may be absorbed further out.
                if is_accu && let Some((_, slot)) = self.scope.iter_mut().rev().find(|(name, _)| *name == ACCU) {
                    *slot = a;
                }
                return Err(error);
            }
        };
        self.charge(cost::of_add(&a, &b))?;
        match (a, b) {
            (Value::List(a), Value::List(b)) => Ok(Value::List(a.plus(&b, self)?)),
            (a, b) => crate::functions::basic::add(self, &a, &b),
        }
    }

    fn index(&mut self, operand: &Value<'a>, index: &Value<'a>) -> Result<Value<'a>> {
        match operand {
            Value::List(list) => match position(index) {
                Some(place) => usize::try_from(place)
                    .ok()
                    .filter(|place| *place < list.len())
                    .map(|place| list.get(place))
                    .ok_or_else(|| EvalError::new(format!("index out of bounds: {place}"))),
                None => Err(no_overload()),
            },
            Value::Map(map) => match map.get(index, self) {
                Some(value) => value,
                None => Err(EvalError::new(format!("no such key: {}", shown(index)))),
            },
            Value::Optional(None) => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => self.optional_index(&inner.clone(), index),
            _ => Err(no_overload()),
        }
    }

    fn optional_index(&mut self, operand: &Value<'a>, index: &Value<'a>) -> Result<Value<'a>> {
        match operand {
            Value::List(list) => match position(index) {
                Some(place) => {
                    let place = usize::try_from(place).ok().filter(|place| *place < list.len());
                    Ok(Value::Optional(place.map(|place| Rc::new(list.get(place)))))
                }
                None => Err(no_overload()),
            },
            Value::Map(map) => match map.get(index, self) {
                Some(value) => Ok(Value::some(value?)),
                None => Ok(Value::Optional(None)),
            },
            Value::Optional(None) | Value::Null => Ok(Value::Optional(None)),
            Value::Optional(Some(inner)) => self.optional_index(&inner.clone(), index),
            _ => Err(no_overload()),
        }
    }

    fn list(&mut self, items: &'a [Expr], optional: &[usize]) -> Result<Value<'a>> {
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let value = self.eval(item)?;
            if !optional.contains(&index) {
                values.push(value);
                continue;
            }
            match value {
                Value::Optional(Some(inner)) => values.push((*inner).clone()),
                Value::Optional(None) => {}
                _ => return Err(no_overload()),
            }
        }
        self.charge(cost::LIST)?;
        Ok(Value::list(values))
    }

    fn map(&mut self, entries: &'a [Entry]) -> Result<Value<'a>> {
        let mut map = std::collections::BTreeMap::new();
        for entry in entries {
            let key = self.eval(&entry.key)?;
            let key = Key::of(&key).ok_or_else(|| EvalError::new("unsupported key type"))?;
            let value = match (self.eval(&entry.value)?, entry.optional) {
                (value, false) => value,
                (Value::Optional(Some(inner)), true) => (*inner).clone(),
                (Value::Optional(None), true) => continue,
                _ => return Err(no_overload()),
            };
            if map.insert(key.clone(), value).is_some() {
                return Err(EvalError::new(format!("Failed with repeated key {}", shown(&key.value()))));
            }
        }
        self.charge(cost::MAP)?;
        Ok(Value::Map(Map::Own(Rc::new(map))))
    }

    fn object(&mut self, name: &Arc<str>, fields: &'a [FieldInit]) -> Result<Value<'a>> {
        let mut made = Struct { name: name.clone(), fields: Default::default() };
        for field in fields {
            let value = match (self.eval(&field.value)?, field.optional) {
                (value, false) => value,
                (Value::Optional(Some(inner)), true) => (*inner).clone(),
                (Value::Optional(None), true) => continue,
                _ => return Err(no_overload()),
            };
            crate::functions::patch::check_field(name, &field.name, &value)?;
            made.fields.insert(field.name.clone(), value);
        }
        self.charge(cost::OBJECT)?;
        Ok(Value::Map(Map::Struct(Rc::new(made))))
    }

    fn fold(&mut self, fold: &'a Fold) -> Result<Value<'a>> {
        let range = self.eval(&fold.range)?;
        // What is bound to a name is an error only where the name is used.
        let init = match self.eval(&fold.init) {
            Err(EvalError::Message(message)) if fold.accu.as_ref() != ACCU => {
                Value::Opaque(crate::library::Opaque::Error(message.into()))
            }
            init => init?,
        };
        let depth = self.scope.len();
        self.scope.push((&fold.accu, init));
        let result = self.rounds(fold, &range).and_then(|()| {
            self.scope.truncate(depth + 1);
            self.eval(&fold.result)
        });
        self.scope.truncate(depth);
        result
    }

    fn rounds(&mut self, fold: &'a Fold, range: &Value<'a>) -> Result<()> {
        match range {
            Value::List(list) => {
                for index in 0..list.len() {
                    let (one, two) = match fold.var2 {
                        Some(_) => (Value::Int(index as i64), Some(list.get(index))),
                        None => (list.get(index), None),
                    };
                    if !self.round(fold, one, two)? {
                        break;
                    }
                }
                Ok(())
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let key = key.value();
                    let value = match fold.var2 {
                        Some(_) => map.get(&key, self).transpose()?,
                        None => None,
                    };
                    if !self.round(fold, key, value)? {
                        break;
                    }
                }
                Ok(())
            }
            _ => Err(no_overload()),
        }
    }

    /// One round of a loop; false where it was not to be.
    fn round(&mut self, fold: &'a Fold, one: Value<'a>, two: Option<Value<'a>>) -> Result<bool> {
        self.work(1)?;
        let depth = self.scope.len();
        self.scope.push((&fold.var, one));
        if let (Some(name), Some(value)) = (&fold.var2, two) {
            self.scope.push((name, value));
        }
        let goes_on = self.eval(&fold.condition);
        if !matches!(goes_on, Ok(Value::Bool(true))) {
            self.scope.truncate(depth);
            return goes_on.map(|_| false);
        }
        let step = self.eval(&fold.step);
        self.scope.truncate(depth);
        // In a quantifier an error is what the accumulator holds, until a later item decides.
        let step = match step {
            Err(EvalError::Message(message)) if is_quantifier(fold) => {
                Value::Opaque(crate::library::Opaque::Error(message.into()))
            }
            other => other?,
        };
        if let Some((_, accu)) = self.scope.last_mut() {
            *accu = step;
        }
        Ok(true)
    }
}

/// Whether a loop is one of those whose errors a later item may make good.
fn is_quantifier(fold: &Fold) -> bool {
    matches!(&fold.init.kind, ExprKind::Literal(Literal::Bool(_))) && fold.accu.as_ref() == ACCU
}

fn constant<'a>(literal: &'a Literal) -> Value<'a> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(value) => Value::Bool(*value),
        Literal::Int(value) => Value::Int(*value),
        Literal::Uint(value) => Value::Uint(*value),
        Literal::Double(value) => Value::Double(*value),
        Literal::String(text) => Value::String(Text::Borrowed(text)),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}

/// The error of a function that is not made for such arguments.
pub fn no_overload() -> EvalError {
    EvalError::new("no such overload")
}

fn position(index: &Value) -> Option<i128> {
    match index {
        Value::Int(value) => Some(i128::from(*value)),
        Value::Uint(value) => Some(i128::from(*value)),
        Value::Double(value) if value.fract() == 0.0 && value.abs() < 9e15 => Some(*value as i128),
        _ => None,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        other => other.type_of().to_string(),
    }
}

/// The names of types as they stand in expressions.
pub fn type_named(name: &str) -> Option<Type> {
    Some(match name.strip_prefix('.').unwrap_or(name) {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "null_type" => Type::Null,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "type" => Type::Type(Arc::new(Type::Dyn)),
        "optional_type" => Type::optional(Type::Dyn),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        name => Type::Opaque(crate::library::OPAQUE_TYPES.iter().find(|own| **own == name)?),
    })
}

/// What a list's items are without the list, for functions that make new lists.
pub(crate) fn items<'a>(list: &List<'a>, machine: &mut Machine<'a>) -> Result<Vec<Value<'a>>> {
    machine.work(list.len() as u64)?;
    Ok(list.iter().collect())
}
