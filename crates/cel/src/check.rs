//! The type checker: every node gets a type, every call its candidates, and what does not fit is an issue with
//! upstream's words. What is `dyn` fits everything, and is looked at when the value is there.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::ast::{Expr, ExprKind, Fold, Literal, op};
use crate::error::Issue;
use crate::eval::type_named;
use crate::library::{Function, Overload, function};
use crate::program::Env;
use crate::types::{ObjectType, Type};

/// What a call does when it is evaluated.
#[derive(Clone, Copy)]
pub enum Callee {
    /// It is no call, or one that was not understood.
    None,
    /// `&&`
    And,
    /// `||`
    Or,
    /// `?:`
    Conditional,
    /// The condition of quantifiers.
    NotStrictlyFalse,
    /// `.?`
    OptSelect,
    /// `[?]`
    OptIndex,
    /// `[]`
    Index,
    /// `+`
    Add,
    /// `optional.or(optional)`
    Or2,
    /// `optional.orValue(value)`
    OrValue,
    /// A function of a library.
    Function(&'static Function),
}

/// What checking found out.
pub struct Checked {
    /// The types of the nodes, by number.
    pub types: Vec<Type>,
    /// What calls do, by number.
    pub callees: Vec<Callee>,
    /// The candidates of calls, by number.
    pub overloads: Vec<Vec<&'static str>>,
    /// Names that are types.
    pub type_names: HashMap<u32, Type>,
    /// The variables that are used.
    pub variables: BTreeSet<String>,
    /// What is wrong.
    pub issues: Vec<Issue>,
}

struct Checker<'e> {
    env: &'e Env,
    scopes: Vec<(Arc<str>, Type)>,
    bound: HashMap<u32, Type>,
    next_free: u32,
    out: Checked,
}

/// Checks a tree of `count` nodes; calls of functions in a module become plain calls.
pub fn check(env: &Env, expr: &mut Expr, count: u32) -> Checked {
    let nodes = count as usize;
    let out = Checked {
        types: vec![Type::Dyn; nodes],
        callees: vec![Callee::None; nodes],
        overloads: vec![Vec::new(); nodes],
        type_names: HashMap::new(),
        variables: BTreeSet::new(),
        issues: Vec::new(),
    };
    let mut checker = Checker { env, scopes: Vec::new(), bound: HashMap::new(), next_free: 0, out };
    checker.check(expr);
    for index in 0..nodes {
        let ty = checker.resolved(&checker.out.types[index], true);
        checker.out.types[index] = ty;
    }
    checker.out
}

/// `a.b.c` of a chain of names.
fn qualified(expr: &Expr) -> Option<String> {
    match &expr.kind {
        ExprKind::Ident(name) => Some(name.to_string()),
        ExprKind::Select { operand, field, test: false } => Some(format!("{}.{field}", qualified(operand)?)),
        _ => None,
    }
}

impl Checker<'_> {
    fn issue(&mut self, at: u32, message: String) {
        self.out.issues.push(Issue::new(at, message));
    }

    fn free(&mut self) -> Type {
        self.next_free += 1;
        Type::Free(self.next_free)
    }

    fn check(&mut self, expr: &mut Expr) -> Type {
        let ty = match &mut expr.kind {
            ExprKind::Literal(literal) => type_of_literal(literal),
            ExprKind::Ident(name) => {
                let name = name.clone();
                self.ident(expr.id, expr.at, &name)
            }
            ExprKind::Select { .. } => self.select(expr),
            ExprKind::Call { .. } => self.call(expr),
            ExprKind::List { items, optional } => {
                let mut item_type = None;
                for (index, item) in items.iter_mut().enumerate() {
                    let found = self.check(item);
                    let found = if optional.contains(&index) { self.unwrapped(item.at, found) } else { found };
                    item_type = Some(self.joined(item.at, item_type, found));
                }
                Type::list(item_type.unwrap_or_else(|| self.free()))
            }
            ExprKind::Map(entries) => {
                let (mut key_type, mut value_type) = (None, None);
                for entry in entries.iter_mut() {
                    let found = self.check(&mut entry.key);
                    key_type = Some(self.joined(entry.key.at, key_type, found));
                    let found = self.check(&mut entry.value);
                    let found = if entry.optional { self.unwrapped(entry.value.at, found) } else { found };
                    value_type = Some(self.joined(entry.value.at, value_type, found));
                }
                let key = key_type.unwrap_or_else(|| self.free());
                Type::map(key, value_type.unwrap_or_else(|| self.free()))
            }
            ExprKind::Struct { .. } => self.object(expr),
            ExprKind::Fold(fold) => self.fold(fold),
        };
        self.out.types[expr.id as usize] = ty.clone();
        ty
    }

    fn local(&self, name: &str) -> Option<&Type> {
        self.scopes.iter().rev().find(|(own, _)| own.as_ref() == name).map(|(_, ty)| ty)
    }

    fn ident(&mut self, id: u32, at: u32, name: &str) -> Type {
        if let Some(ty) = self.local(name) {
            return ty.clone();
        }
        let plain = name.strip_prefix('.').unwrap_or(name);
        if let Some(decl) = self.env.variable(plain) {
            self.out.variables.insert(plain.to_owned());
            return decl.ty.clone();
        }
        if let Some(ty) = type_named(plain) {
            self.out.type_names.insert(id, ty.clone());
            return Type::Type(Arc::new(ty));
        }
        self.issue(at, format!("undeclared reference to '{plain}' (in container '')"));
        Type::Error
    }

    fn select(&mut self, expr: &mut Expr) -> Type {
        // A chain of names may be the name of a type, unless its first is a variable.
        if let Some(name) = qualified(expr) {
            let first = name.split('.').next().unwrap_or("");
            let is_variable = self.local(first).is_some() || self.env.variable(first).is_some();
            if self.local(first).is_none()
                && let Some(decl) = self.env.variable(&name)
            {
                let ty = decl.ty.clone();
                self.out.variables.insert(name.clone());
                expr.kind = ExprKind::Ident(name.into());
                return ty;
            }
            if !is_variable && let Some(ty) = type_named(&name) {
                self.out.type_names.insert(expr.id, ty.clone());
                expr.kind = ExprKind::Ident(name.into());
                return Type::Type(Arc::new(ty));
            }
        }
        let at = expr.at;
        let ExprKind::Select { operand, field, test } = &mut expr.kind else { return Type::Error };
        let (test, field) = (*test, field.clone());
        let of = self.check(operand);
        let of = self.resolved(&of, false);
        let ty = self.field_type(at, &of, &field);
        if test { Type::Bool } else { ty }
    }

    fn field_type(&mut self, at: u32, of: &Type, field: &str) -> Type {
        match of {
            Type::Optional(inner) => {
                let inner = self.resolved(inner, false);
                let found = self.field_type(at, &inner, field);
                if matches!(found, Type::Optional(_)) { found } else { Type::optional(found) }
            }
            Type::Map(_, value) => (**value).clone(),
            Type::Object(object) => match object.fields.get(field) {
                Some(decl) => decl.ty.clone(),
                None if object.open => Type::Dyn,
                None => {
                    self.issue(at, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Free(number) => {
                // Like upstream: a parameter of which nothing is known becomes dyn.
                self.bound.insert(*number, Type::Dyn);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.issue(at, format!("type '{other}' does not support field selection"));
                Type::Error
            }
        }
    }

    fn call(&mut self, expr: &mut Expr) -> Type {
        let (id, at) = (expr.id, expr.at);
        self.join_module(expr);
        let ExprKind::Call { function: name, target, args } = &mut expr.kind else { return Type::Error };
        let name = name.clone();
        if name.as_ref() == op::OPT_SELECT {
            return self.optional_select(id, at, args);
        }
        let mut types = Vec::with_capacity(args.len() + 1);
        if let Some(target) = target {
            types.push(self.check(target));
        }
        for arg in args.iter_mut() {
            types.push(self.check(arg));
        }
        self.check_literals(&name, target.is_some(), args);
        self.out.callees[id as usize] = callee(&name, target.is_some());
        let Some(found) = function(&name) else {
            self.issue(at, format!("undeclared reference to '{name}' (in container '')"));
            return Type::Error;
        };
        self.resolve(id, at, found, target.is_some(), &types)
    }

    /// `ip.isCanonical(x)` is one function with a dot in its name.
    fn join_module(&self, expr: &mut Expr) {
        let ExprKind::Call { function: name, target, .. } = &mut expr.kind else { return };
        let Some(module) = target.as_ref().and_then(|target| qualified(target)) else { return };
        let first = module.split('.').next().unwrap_or("");
        if self.local(first).is_some() {
            return;
        }
        let full = format!("{module}.{name}");
        if function(&full).is_some() {
            *name = full.into();
            *target = None;
        }
    }

    fn optional_select(&mut self, id: u32, at: u32, args: &mut [Expr]) -> Type {
        self.out.callees[id as usize] = Callee::OptSelect;
        self.out.overloads[id as usize] = vec!["select_optional_field"];
        let of = self.check(&mut args[0]);
        self.check(&mut args[1]);
        let ExprKind::Literal(Literal::String(field)) = &args[1].kind else { return Type::Error };
        let of = self.resolved(&of, false);
        let inner = match &of {
            Type::Optional(inner) => self.resolved(inner, false),
            _ => of.clone(),
        };
        match self.field_type(at, &inner, field) {
            found @ Type::Optional(_) => found,
            found => Type::optional(found),
        }
    }

    /// Constants that can be seen to be wrong before anything is evaluated.
    fn check_literals(&mut self, name: &str, member: bool, args: &[Expr]) {
        let Some(last) = args.last() else { return };
        let ExprKind::Literal(Literal::String(text)) = &last.kind else { return };
        let is_bad = match (name, args.len() + usize::from(member)) {
            ("duration", 1) => crate::time::parse_duration(text).is_err(),
            ("timestamp", 1) => crate::time::parse_timestamp(text).is_err(),
            ("matches", 2) => crate::re2::compile(text).is_err(),
            _ => false,
        };
        if is_bad {
            self.issue(last.at, format!("invalid {name} argument"));
        }
    }

    fn resolve(&mut self, id: u32, at: u32, function: &'static Function, member: bool, args: &[Type]) -> Type {
        let mut result: Option<Type> = None;
        for overload in function.overloads.iter().filter(|o| o.member == member && o.params.len() == args.len()) {
            let (params, gives) = self.instance(overload);
            let before = self.bound.clone();
            if !args.iter().zip(&params).all(|(arg, param)| self.assignable(arg, param)) {
                self.bound = before;
                continue;
            }
            self.out.overloads[id as usize].push(overload.id);
            let gives = self.resolved(&gives, false);
            result = Some(match result {
                None => gives,
                Some(Type::Dyn) => Type::Dyn,
                Some(found) if found == gives => found,
                Some(_) => Type::Dyn,
            });
        }
        result.unwrap_or_else(|| {
            if !args.iter().any(|arg| self.resolved(arg, false) == Type::Error) {
                let shown: Vec<String> = args.iter().map(|arg| self.resolved(arg, true).to_string()).collect();
                let shown = match member {
                    true => format!("{}.({})", shown[0], shown[1..].join(", ")),
                    false => format!("({})", shown.join(", ")),
                };
                let name = function.name;
                self.issue(at, format!("found no matching overload for '{name}' applied to '{shown}'"));
            }
            Type::Error
        })
    }

    /// An overload with fresh unknowns for its parameters.
    fn instance(&mut self, overload: &Overload) -> (Vec<Type>, Type) {
        let mut fresh = HashMap::new();
        let params = overload.params.iter().map(|param| self.renamed(param, &mut fresh)).collect();
        let result = self.renamed(&overload.result, &mut fresh);
        (params, result)
    }

    fn renamed(&mut self, ty: &Type, fresh: &mut HashMap<&'static str, Type>) -> Type {
        match ty {
            Type::Param(name) => fresh.entry(name).or_insert_with(|| self.free()).clone(),
            Type::List(item) => Type::list(self.renamed(item, fresh)),
            Type::Map(key, value) => Type::map(self.renamed(key, fresh), self.renamed(value, fresh)),
            Type::Optional(of) => Type::optional(self.renamed(of, fresh)),
            Type::Type(of) => Type::Type(Arc::new(self.renamed(of, fresh))),
            other => other.clone(),
        }
    }

    /// The type with what is known put in; at the end what is still unknown is dyn.
    fn resolved(&self, ty: &Type, last: bool) -> Type {
        match ty {
            Type::Free(number) => match self.bound.get(number) {
                Some(known) => self.resolved(known, last),
                None if last => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(item) => Type::list(self.resolved(item, last)),
            Type::Map(key, value) => Type::map(self.resolved(key, last), self.resolved(value, last)),
            Type::Optional(of) => Type::optional(self.resolved(of, last)),
            Type::Type(of) => Type::Type(Arc::new(self.resolved(of, last))),
            other => other.clone(),
        }
    }

    fn mentions(&self, ty: &Type, number: u32) -> bool {
        match self.resolved(ty, false) {
            Type::Free(other) => other == number,
            Type::List(of) | Type::Optional(of) | Type::Type(of) => self.mentions(&of, number),
            Type::Map(key, value) => self.mentions(&key, number) || self.mentions(&value, number),
            _ => false,
        }
    }

    /// Whether a value of type `from` may stand where `to` is wanted; learns what unknowns are.
    fn assignable(&mut self, from: &Type, to: &Type) -> bool {
        if from == to {
            return true;
        }
        if let Type::Free(number) = to {
            match self.bound.get(number).cloned() {
                Some(known) => {
                    if !self.assignable(from, &known) {
                        return false;
                    }
                    let (from, known) = (self.resolved(from, false), self.resolved(&known, false));
                    let general = if less_specific(&from, &known) { from } else { known };
                    if !self.mentions(&general, *number) {
                        self.bound.insert(*number, general);
                    }
                    return true;
                }
                None => return self.bind(*number, from),
            }
        }
        if let Type::Free(number) = from {
            return match self.bound.get(number).cloned() {
                Some(known) => self.assignable(&known, to),
                None => self.bind(*number, to),
            };
        }
        match (from, to) {
            (Type::Dyn | Type::Error, _) | (_, Type::Dyn | Type::Error) => true,
            (Type::Null, Type::Object(_) | Type::Timestamp | Type::Duration | Type::Opaque(_) | Type::Optional(_)) => {
                true
            }
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.assignable(a, b),
            (Type::Map(a, b), Type::Map(c, d)) => self.assignable(a, c) && self.assignable(b, d),
            (Type::Type(_), Type::Type(_)) => true,
            _ => from == to,
        }
    }

    fn bind(&mut self, number: u32, ty: &Type) -> bool {
        if self.mentions(ty, number) {
            return self.resolved(ty, false) == Type::Free(number);
        }
        self.bound.insert(number, ty.clone());
        true
    }

    /// The type of a list's items when one more has come.
    fn joined(&mut self, at: u32, before: Option<Type>, next: Type) -> Type {
        let Some(before) = before else { return next };
        if self.assignable(&before, &next) {
            let (before, next) = (self.resolved(&before, false), self.resolved(&next, false));
            return if less_specific(&before, &next) { before } else { next };
        }
        let (expected, found) = (self.resolved(&before, true), self.resolved(&next, true));
        self.issue(at, format!("expected type '{expected}' but found '{found}'"));
        Type::Error
    }

    /// What an optional item gives where it is there.
    fn unwrapped(&mut self, at: u32, ty: Type) -> Type {
        match self.resolved(&ty, false) {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn => Type::Dyn,
            Type::Error => Type::Error,
            other => {
                self.issue(at, format!("expected type 'optional_type({other})' but found '{other}'"));
                Type::Error
            }
        }
    }

    fn object(&mut self, expr: &mut Expr) -> Type {
        let at = expr.at;
        let ExprKind::Struct { name, fields } = &mut expr.kind else { return Type::Error };
        let Some(object) = self.env.object(name.strip_prefix('.').unwrap_or(name)) else {
            let message = format!("undeclared reference to '{name}' (in container '')");
            self.issue(at, message);
            return Type::Error;
        };
        for field in fields {
            let found = self.check(&mut field.value);
            let found = if field.optional { self.unwrapped(field.value.at, found) } else { found };
            let expected = self.field_type(field.at, &Type::Object(object.clone()), &field.name);
            if !self.assignable(&found, &expected) {
                let (found, expected) = (self.resolved(&found, true), self.resolved(&expected, true));
                let name = &field.name;
                let message = format!("expected type of field '{name}' is '{expected}' but provided type is '{found}'");
                self.issue(field.at, message);
            }
        }
        Type::Object(object)
    }

    fn fold(&mut self, fold: &mut Fold) -> Type {
        let range = self.check(&mut fold.range);
        let accu = self.check(&mut fold.init);
        let (one, two) = self.item_types(fold, &range);
        self.scopes.push((fold.accu.clone(), accu.clone()));
        self.scopes.push((fold.var.clone(), one));
        if let Some(name) = &fold.var2 {
            self.scopes.push((name.clone(), two));
        }
        let condition = self.check(&mut fold.condition);
        self.expect(fold.condition.at, &Type::Bool, &condition);
        let step = self.check(&mut fold.step);
        self.expect(fold.step.at, &accu, &step);
        self.scopes.truncate(self.scopes.len() - 1 - usize::from(fold.var2.is_some()));
        let result = self.check(&mut fold.result);
        self.scopes.pop();
        self.resolved(&result, false)
    }

    fn expect(&mut self, at: u32, expected: &Type, found: &Type) {
        // The step of a loop that runs none has a type of its own.
        if !self.assignable(found, expected) {
            let (expected, found) = (self.resolved(expected, true), self.resolved(found, true));
            self.issue(at, format!("expected type '{expected}' but found '{found}'"));
        }
    }

    fn item_types(&mut self, fold: &Fold, range: &Type) -> (Type, Type) {
        let is_pair = fold.var2.is_some();
        match self.resolved(range, false) {
            Type::List(item) if is_pair => (Type::Int, (*item).clone()),
            Type::List(item) => ((*item).clone(), Type::Dyn),
            Type::Map(key, value) => ((*key).clone(), (*value).clone()),
            Type::Dyn | Type::Error => (Type::Dyn, Type::Dyn),
            Type::Free(number) => {
                self.bound.insert(number, Type::Dyn);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let words = "cannot be range of a comprehension (must be list, map, or dynamic)";
                self.issue(fold.range.at, format!("expression of type '{other}' {words}"));
                (Type::Error, Type::Error)
            }
        }
    }
}

/// Whether `a` says no more than `b`.
fn less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Error, _) => true,
        (_, Type::Dyn | Type::Error) => false,
        (Type::Free(_), _) => true,
        (_, Type::Free(_)) => false,
        (Type::Null, _) => false,
        (_, Type::Null) => true,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => less_specific(a, b),
        (Type::Map(a, b), Type::Map(c, d)) => less_specific(a, c) && less_specific(b, d),
        _ => true,
    }
}

fn type_of_literal(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

fn callee(name: &str, member: bool) -> Callee {
    match name {
        op::AND => Callee::And,
        op::OR => Callee::Or,
        op::CONDITIONAL => Callee::Conditional,
        op::NOT_STRICTLY_FALSE => Callee::NotStrictlyFalse,
        op::INDEX => Callee::Index,
        op::OPT_INDEX => Callee::OptIndex,
        op::ADD => Callee::Add,
        _ => match function(name) {
            // An object named like an optional's method is told apart by its value.
            Some(found) if member && matches!(found.name, "or" | "orValue") => {
                if found.name == "or" {
                    Callee::Or2
                } else {
                    Callee::OrValue
                }
            }
            Some(found) => Callee::Function(found),
            None => Callee::None,
        },
    }
}

/// The object types that expressions may make: any path below a root, with any fields.
pub fn open_object(name: &str) -> Arc<ObjectType> {
    Arc::new(ObjectType { name: name.to_owned(), fields: Default::default(), open: true })
}
