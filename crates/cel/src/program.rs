//! An expression that was read, checked and made ready: compiled once, evaluated often.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use regex::Regex;

use crate::ast::{Expr, ExprKind, Literal, op};
use crate::check::{Callee, check, open_object};
use crate::cost::{Span, estimate};
use crate::error::{EvalError, Issue, show};
use crate::eval::{Activation, Machine};
use crate::functions::patch::{OBJECT_TYPE, PATCH_TYPE};
use crate::library::Host;
use crate::parse::parse;
use crate::types::{Decl, ObjectType, Type, any, string};
use crate::value::Value;

/// What an expression may name.
#[derive(Clone, Default)]
pub struct Env {
    variables: BTreeMap<String, Arc<Decl>>,
    patches: bool,
}

impl Env {
    /// Without any variable.
    pub fn new() -> Self {
        Self::default()
    }

    /// With one more variable.
    pub fn with(mut self, name: &str, decl: Arc<Decl>) -> Self {
        self.variables.insert(name.to_owned(), decl);
        self
    }

    /// With the types that mutating policies make.
    pub fn with_patches(mut self) -> Self {
        self.patches = true;
        self
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&Arc<Decl>> {
        self.variables.get(name)
    }

    pub(crate) fn object(&self, name: &str) -> Option<Arc<ObjectType>> {
        if !self.patches {
            return None;
        }
        if name == PATCH_TYPE {
            let fields = [("op", string()), ("path", string()), ("from", string()), ("value", any())];
            let fields = fields.into_iter().map(|(name, decl)| (name.to_owned(), decl)).collect();
            return Some(Arc::new(ObjectType { name: name.to_owned(), fields, open: false }));
        }
        (name == OBJECT_TYPE || name.starts_with("Object.")).then(|| open_object(name))
    }
}

/// A compiled expression.
pub struct Program {
    pub(crate) expr: Expr,
    pub(crate) callees: Vec<Callee>,
    pub(crate) type_names: HashMap<u32, Type>,
    pub(crate) regexes: HashMap<String, Regex>,
    /// The type of its value.
    pub result: Type,
    /// The variables that it uses.
    pub variables: BTreeSet<String>,
    /// What it costs, as far as declarations tell.
    pub cost: Span,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("result", &self.result).field("cost", &self.cost).finish_non_exhaustive()
    }
}

/// Why an expression was not compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    /// The places and what is wrong there.
    pub issues: Vec<Issue>,
    text: String,
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(&self.text, &self.issues))
    }
}

impl std::error::Error for CompileError {}

/// Compiles an expression.
///
/// # Errors
/// Its syntax or its types are wrong.
pub fn compile(env: &Env, text: &str) -> Result<Program, CompileError> {
    let fail = |issues| CompileError { issues, text: text.to_owned() };
    let (mut expr, count) = parse(text).map_err(fail)?;
    let checked = check(env, &mut expr, count);
    if !checked.issues.is_empty() {
        return Err(fail(checked.issues));
    }
    let cost = estimate(env, &checked, &expr);
    let mut regexes = HashMap::new();
    collect_patterns(&expr, &mut regexes);
    let result = checked.types[expr.id as usize].clone();
    Ok(Program {
        expr,
        callees: checked.callees,
        type_names: checked.type_names,
        regexes,
        result,
        variables: checked.variables,
        cost,
    })
}

/// Patterns that are constants are compiled once.
fn collect_patterns(expr: &Expr, regexes: &mut HashMap<String, Regex>) {
    if let ExprKind::Call { function, args, .. } = &expr.kind
        && matches!(function.as_ref(), "matches" | "find" | "findAll")
    {
        for arg in args {
            if let ExprKind::Literal(Literal::String(pattern)) = &arg.kind
                && let Ok(regex) = crate::re2::compile(pattern)
            {
                regexes.insert(pattern.to_string(), regex);
            }
        }
    }
    expr.kind.children().into_iter().for_each(|child| collect_patterns(child, regexes));
}

/// What an evaluation gave, and what it cost.
pub struct Outcome<'a> {
    /// The value, or why there is none.
    pub value: Result<Value<'a>, EvalError>,
    /// The cost.
    pub cost: u64,
}

impl Program {
    /// Evaluates the expression at a cost of at most `limit`.
    pub fn run<'a>(&'a self, activation: &dyn Activation<'a>, host: Option<&'a dyn Host>, limit: u64) -> Outcome<'a> {
        let mut machine = Machine::new(self, activation, host, limit);
        let value = machine.run();
        Outcome { value, cost: machine.cost() }
    }

    /// Whether the expression looks at a field of a variable, `variable.field` or `variable.?field`.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        selects(&self.expr, variable, field)
    }

    /// Whether the expression uses a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }
}

fn selects(expr: &Expr, variable: &str, wanted: &str) -> bool {
    let is_variable = |expr: &Expr| matches!(&expr.kind, ExprKind::Ident(name) if name.as_ref() == variable);
    let here = match &expr.kind {
        ExprKind::Select { operand, field, .. } => is_variable(operand) && field.as_ref() == wanted,
        ExprKind::Call { function, args, .. } if function.as_ref() == op::OPT_SELECT => match args.as_slice() {
            [operand, field] => {
                let named = matches!(&field.kind, ExprKind::Literal(Literal::String(name)) if name.as_ref() == wanted);
                is_variable(operand) && named
            }
            _ => false,
        },
        _ => false,
    };
    here || expr.kind.children().into_iter().any(|child| selects(child, variable, wanted))
}
