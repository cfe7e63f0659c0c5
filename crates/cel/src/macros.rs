//! The macros: what looks like a call and becomes a loop, a test of presence or a condition.
//! See <https://github.com/google/cel-spec/blob/master/doc/langdef.md#macros> and cel-go's extensions.

use std::sync::Arc;

use crate::ast::{ACCU, Expr, ExprKind, Fold, Literal, op};
use crate::error::Issue;
use crate::parse::Parser;

type Parsed = Result<Expr, Issue>;

/// `name(args)`.
pub(crate) fn global(parser: &mut Parser, at: u32, name: Arc<str>, mut args: Vec<Expr>) -> Parsed {
    if name.as_ref() == "has" && args.len() == 1 {
        let Expr { at: place, kind, .. } = args.remove(0);
        return match kind {
            ExprKind::Select { operand, field, test: false } => {
                Ok(parser.node(at, ExprKind::Select { operand, field, test: true }))
            }
            _ => Err(Issue::new(place, "invalid argument to has() macro".into())),
        };
    }
    Ok(parser.node(at, ExprKind::Call { function: name, target: None, args }))
}

/// `target.name(args)`.
pub(crate) fn member(parser: &mut Parser, at: u32, target: Expr, name: Arc<str>, args: Vec<Expr>) -> Parsed {
    let is_module = matches!(&target.kind, ExprKind::Ident(module) if module.as_ref() == "cel");
    let mut maker = Maker { parser, at };
    match (name.as_ref(), args.len()) {
        ("bind", 3) if is_module => maker.bind(args),
        ("all" | "exists" | "exists_one" | "existsOne", 2) => {
            let [var, test] = two(args);
            let vars = Vars { one: maker.variable(&var)?, two: None };
            Ok(maker.quantifier(&name, target, vars, test))
        }
        ("all" | "exists" | "exists_one" | "existsOne", 3) => {
            let [one, two, test] = three(args);
            let vars = maker.variables(&one, &two)?;
            Ok(maker.quantifier(&name, target, vars, test))
        }
        ("map", 2) => {
            let [var, to] = two(args);
            let vars = Vars { one: maker.variable(&var)?, two: None };
            Ok(maker.collect(target, vars, None, to))
        }
        ("map", 3) => {
            let [var, test, to] = three(args);
            let vars = Vars { one: maker.variable(&var)?, two: None };
            Ok(maker.collect(target, vars, Some(test), to))
        }
        ("filter", 2) => {
            let [var, test] = two(args);
            let vars = Vars { one: maker.variable(&var)?, two: None };
            let item = maker.parser.ident(at, &vars.one);
            Ok(maker.collect(target, vars, Some(test), item))
        }
        ("transformList", 3 | 4) => {
            let (vars, test, to) = maker.transform(args)?;
            Ok(maker.collect(target, vars, test, to))
        }
        ("transformMap" | "transformMapEntry", 3 | 4) => {
            let (vars, test, to) = maker.transform(args)?;
            Ok(maker.collect_map(target, vars, test, to, name.as_ref() == "transformMapEntry"))
        }
        ("optMap" | "optFlatMap", 2) => maker.optional(target, &name, args),
        ("sortBy", 2) => maker.sort_by(target, args),
        _ => Ok(maker.parser.node(at, ExprKind::Call { function: name, target: Some(Box::new(target)), args })),
    }
}

struct Vars {
    one: Arc<str>,
    two: Option<Arc<str>>,
}

struct Maker<'p> {
    parser: &'p mut Parser,
    at: u32,
}

fn two(args: Vec<Expr>) -> [Expr; 2] {
    args.try_into().expect("the caller counted the arguments")
}

fn three(args: Vec<Expr>) -> [Expr; 3] {
    args.try_into().expect("the caller counted the arguments")
}

impl Maker<'_> {
    fn variable(&self, expr: &Expr) -> Result<Arc<str>, Issue> {
        match &expr.kind {
            ExprKind::Ident(name) if !name.starts_with('.') && name.as_ref() != ACCU => Ok(name.clone()),
            _ => Err(Issue::new(expr.at, "argument must be a simple name".into())),
        }
    }

    fn variables(&self, one: &Expr, two: &Expr) -> Result<Vars, Issue> {
        let (first, second) = (self.variable(one)?, self.variable(two)?);
        if first == second {
            return Err(Issue::new(two.at, format!("duplicate variable name: {second}")));
        }
        Ok(Vars { one: first, two: Some(second) })
    }

    /// The arguments of `transformList` and its like: two names, perhaps a test, and what to make.
    fn transform(&self, args: Vec<Expr>) -> Result<(Vars, Option<Expr>, Expr), Issue> {
        let mut args = args.into_iter();
        let mut next = || args.next().expect("the caller counted the arguments");
        let (one, two, third) = (next(), next(), next());
        let vars = self.variables(&one, &two)?;
        Ok(match args.next() {
            Some(to) => (vars, Some(third), to),
            None => (vars, None, third),
        })
    }

    fn bool(&mut self, value: bool) -> Expr {
        self.parser.literal(self.at, Literal::Bool(value))
    }

    fn accu(&mut self) -> Expr {
        self.parser.ident(self.at, ACCU)
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.parser.call(self.at, function, args)
    }

    fn fold(&mut self, range: Expr, vars: Vars, init: Expr, condition: Expr, step: Expr, result: Expr) -> Expr {
        let (var, var2) = (vars.one, vars.two);
        let fold = Fold { range, var, var2, accu: ACCU.into(), init, condition, step, result };
        self.parser.node(self.at, ExprKind::Fold(Box::new(fold)))
    }

    fn quantifier(&mut self, name: &str, range: Expr, vars: Vars, test: Expr) -> Expr {
        let accu = self.accu();
        match name {
            "all" => {
                let (init, condition) = (self.bool(true), self.call(op::NOT_STRICTLY_FALSE, vec![accu]));
                let before = self.accu();
                let (step, result) = (self.call(op::AND, vec![before, test]), self.accu());
                self.fold(range, vars, init, condition, step, result)
            }
            "exists" => {
                let init = self.bool(false);
                let not = self.call(op::NOT, vec![accu]);
                let condition = self.call(op::NOT_STRICTLY_FALSE, vec![not]);
                let before = self.accu();
                let (step, result) = (self.call(op::OR, vec![before, test]), self.accu());
                self.fold(range, vars, init, condition, step, result)
            }
            _ => {
                let init = self.parser.literal(self.at, Literal::Int(0));
                let one = self.parser.literal(self.at, Literal::Int(1));
                let condition = self.bool(true);
                let more = self.call(op::ADD, vec![accu, one]);
                let same = self.accu();
                let step = self.call(op::CONDITIONAL, vec![test, more, same]);
                let (count, one) = (self.accu(), self.parser.literal(self.at, Literal::Int(1)));
                let result = self.call(op::EQUALS, vec![count, one]);
                self.fold(range, vars, init, condition, step, result)
            }
        }
    }

    fn collect(&mut self, range: Expr, vars: Vars, test: Option<Expr>, to: Expr) -> Expr {
        let init = self.parser.node(self.at, ExprKind::List { items: Vec::new(), optional: Vec::new() });
        let condition = self.bool(true);
        let item = self.parser.node(self.at, ExprKind::List { items: vec![to], optional: Vec::new() });
        let before = self.accu();
        let more = self.call(op::ADD, vec![before, item]);
        let step = self.tested(test, more);
        let result = self.accu();
        self.fold(range, vars, init, condition, step, result)
    }

    fn tested(&mut self, test: Option<Expr>, step: Expr) -> Expr {
        match test {
            None => step,
            Some(test) => {
                let same = self.accu();
                self.call(op::CONDITIONAL, vec![test, step, same])
            }
        }
    }

    fn collect_map(&mut self, range: Expr, vars: Vars, test: Option<Expr>, to: Expr, entry: bool) -> Expr {
        let init = self.parser.node(self.at, ExprKind::Map(Vec::new()));
        let condition = self.bool(true);
        let before = self.accu();
        let more = if entry {
            self.call("cel.@mapInsert", vec![before, to])
        } else {
            let key = self.parser.ident(self.at, &vars.one);
            self.call("cel.@mapInsert", vec![before, key, to])
        };
        let step = self.tested(test, more);
        let result = self.accu();
        self.fold(range, vars, init, condition, step, result)
    }

    /// A loop that runs no step: the accumulator is the variable.
    fn bound(&mut self, name: Arc<str>, value: Expr, result: Expr) -> Expr {
        let range = self.parser.node(self.at, ExprKind::List { items: Vec::new(), optional: Vec::new() });
        let condition = self.bool(false);
        let step = self.parser.ident(self.at, &name);
        let fold = Fold { range, var: "#unused".into(), var2: None, accu: name, init: value, condition, step, result };
        self.parser.node(self.at, ExprKind::Fold(Box::new(fold)))
    }

    fn bind(&mut self, args: Vec<Expr>) -> Parsed {
        let [var, value, result] = three(args);
        let name = match &var.kind {
            ExprKind::Ident(name) => name.clone(),
            _ => {
                let words = "cel.bind() variable names must be simple identifiers";
                return Err(Issue::new(var.at, words.into()));
            }
        };
        Ok(self.bound(name, value, result))
    }

    /// `o.optMap(x, f)`: `o.hasValue() ? optional.of(bind x = o.value() in f) : optional.none()`.
    fn optional(&mut self, target: Expr, name: &str, args: Vec<Expr>) -> Parsed {
        const TARGET: &str = "@target";
        let [var, to] = two(args);
        let var = match &var.kind {
            ExprKind::Ident(name) => name.clone(),
            _ => {
                let words = format!("{name}() variable name must be a simple identifier");
                return Err(Issue::new(var.at, words));
            }
        };
        let member = |maker: &mut Self, function: &str| {
            let target = Some(Box::new(maker.parser.ident(maker.at, TARGET)));
            maker.parser.node(maker.at, ExprKind::Call { function: function.into(), target, args: Vec::new() })
        };
        let is_set = member(self, "hasValue");
        let value = member(self, "value");
        let inner = self.bound(var, value, to);
        let some = if name == "optMap" { self.call("optional.of", vec![inner]) } else { inner };
        let none = self.call("optional.none", Vec::new());
        let chosen = self.call(op::CONDITIONAL, vec![is_set, some, none]);
        Ok(self.bound(TARGET.into(), target, chosen))
    }

    /// `l.sortBy(x, key)`: the list in the order of its keys.
    fn sort_by(&mut self, target: Expr, args: Vec<Expr>) -> Parsed {
        const TARGET: &str = "@sorted";
        let [var, key] = two(args);
        let vars = Vars { one: self.variable(&var)?, two: None };
        let range = self.parser.ident(self.at, TARGET);
        let keys = self.collect(range, vars, None, key);
        let list = self.parser.ident(self.at, TARGET);
        let call =
            ExprKind::Call { function: "@sortByAssociatedKeys".into(), target: Some(Box::new(list)), args: vec![keys] };
        let sorted = self.parser.node(self.at, call);
        Ok(self.bound(TARGET.into(), target, sorted))
    }
}
