//! The tree of a parsed expression. Macros are expanded in it already: what is left are names, fields, calls, literals
//! and one kind of loop.

use std::sync::Arc;

/// A node of an expression.
#[derive(Debug, Clone)]
pub struct Expr {
    /// Its number; what the checker learns of nodes is kept by number.
    pub id: u32,
    /// Where it stands: the offset of its characteristic letter.
    pub at: u32,
    /// How many levels of nodes there are below it.
    pub height: u32,
    /// What it is.
    pub kind: ExprKind,
}

impl ExprKind {
    /// The nodes directly below.
    pub fn children(&self) -> Vec<&Expr> {
        match self {
            Self::Literal(_) | Self::Ident(_) => Vec::new(),
            Self::Select { operand, .. } => vec![operand],
            Self::Call { target, args, .. } => target.iter().map(AsRef::as_ref).chain(args).collect(),
            Self::List { items, .. } => items.iter().collect(),
            Self::Map(entries) => entries.iter().flat_map(|entry| [&entry.key, &entry.value]).collect(),
            Self::Struct { fields, .. } => fields.iter().map(|field| &field.value).collect(),
            Self::Fold(fold) => vec![&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result],
        }
    }
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// `1`
    Int(i64),
    /// `1u`
    Uint(u64),
    /// `1.5`
    Double(f64),
    /// `"a"`
    String(Arc<str>),
    /// `b"a"`
    Bytes(Arc<[u8]>),
}

/// What a node is.
#[derive(Debug, Clone)]
pub enum ExprKind {
    /// A constant.
    Literal(Literal),
    /// A name.
    Ident(Arc<str>),
    /// `operand.field`, or `has(operand.field)`.
    Select {
        /// Of what.
        operand: Box<Expr>,
        /// Which field.
        field: Arc<str>,
        /// Whether only its presence is asked for.
        test: bool,
    },
    /// `target.function(args)` or `function(args)`; operators are calls too.
    Call {
        /// The function.
        function: Arc<str>,
        /// What stands before the dot.
        target: Option<Box<Expr>>,
        /// The arguments.
        args: Vec<Expr>,
    },
    /// `[a, ?b]`
    List {
        /// The items.
        items: Vec<Expr>,
        /// Which of them are optional.
        optional: Vec<usize>,
    },
    /// `{a: b, ?c: d}`
    Map(Vec<Entry>),
    /// `Type{a: b}`
    Struct {
        /// The type's name.
        name: Arc<str>,
        /// The fields.
        fields: Vec<FieldInit>,
    },
    /// A loop with an accumulator, which macros become.
    Fold(Box<Fold>),
}

/// An entry of a map.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key.
    pub key: Expr,
    /// The value.
    pub value: Expr,
    /// Whether the entry is left out where the value is an empty optional.
    pub optional: bool,
}

/// A field of a constructed object.
#[derive(Debug, Clone)]
pub struct FieldInit {
    /// The field's name.
    pub name: Arc<str>,
    /// Where it stands.
    pub at: u32,
    /// The value.
    pub value: Expr,
    /// Whether the field is left out where the value is an empty optional.
    pub optional: bool,
}

/// A loop with an accumulator.
#[derive(Debug, Clone)]
pub struct Fold {
    /// What is gone through.
    pub range: Expr,
    /// The name of an item (of a list), or a key (of a map).
    pub var: Arc<str>,
    /// With it, the two names are index and item, or key and value.
    pub var2: Option<Arc<str>>,
    /// The accumulator's name.
    pub accu: Arc<str>,
    /// What the accumulator is at first.
    pub init: Expr,
    /// The loop ends where this is false.
    pub condition: Expr,
    /// What the accumulator becomes.
    pub step: Expr,
    /// What the whole is.
    pub result: Expr,
}

/// The accumulator of the loops that macros make.
pub const ACCU: &str = "@result";

/// Names of the operators as functions.
pub mod op {
    #![allow(missing_docs, reason = "the names say it")]
    pub const CONDITIONAL: &str = "_?_:_";
    pub const OR: &str = "_||_";
    pub const AND: &str = "_&&_";
    pub const NOT: &str = "!_";
    pub const NEGATE: &str = "-_";
    pub const ADD: &str = "_+_";
    pub const SUBTRACT: &str = "_-_";
    pub const MULTIPLY: &str = "_*_";
    pub const DIVIDE: &str = "_/_";
    pub const MODULO: &str = "_%_";
    pub const EQUALS: &str = "_==_";
    pub const NOT_EQUALS: &str = "_!=_";
    pub const LESS: &str = "_<_";
    pub const LESS_EQUALS: &str = "_<=_";
    pub const GREATER: &str = "_>_";
    pub const GREATER_EQUALS: &str = "_>=_";
    pub const IN: &str = "@in";
    pub const INDEX: &str = "_[_]";
    pub const OPT_INDEX: &str = "_[?_]";
    pub const OPT_SELECT: &str = "_?._";
    pub const NOT_STRICTLY_FALSE: &str = "@not_strictly_false";
}
