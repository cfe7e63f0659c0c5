//! From words to a tree; macros are expanded on the way.
//! See <https://github.com/google/cel-spec/blob/master/doc/langdef.md#syntax>.

use std::sync::Arc;

use crate::ast::{Entry, Expr, ExprKind, FieldInit, Literal, op};
use crate::error::Issue;
use crate::lex::{Token, Word, words};
use crate::macros;

/// How many letters an expression may have.
pub const LETTER_LIMIT: usize = 100_000;
/// How tall a tree may be: what walks it recurses.
pub const DEPTH_LIMIT: usize = 160;
/// How deep brackets may nest: reading them takes a dozen calls for each.
const NEST_LIMIT: usize = 80;

const RESERVED: [&str; 19] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
    "in",
    "null",
];

/// The tree of an expression.
pub fn parse(text: &str) -> Result<(Expr, u32), Vec<Issue>> {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() > LETTER_LIMIT {
        let size = letters.len();
        let words = format!("expression code point size exceeds limit: size: {size}, limit {LETTER_LIMIT}");
        return Err(vec![Issue::new(0, words)]);
    }
    let tokens = words(&letters).map_err(|issue| vec![issue])?;
    let mut parser = Parser { tokens, at: 0, next_id: 0, depth: 0 };
    let expr = parser.expression().and_then(|expr| match parser.word() {
        Word::End => Ok(expr),
        _ => Err(parser.unexpected("extraneous input", "expecting <EOF>")),
    });
    let expr = expr.map_err(|issue| vec![issue])?;
    Ok((expr, parser.next_id))
}

fn too_deep(at: u32) -> Issue {
    Issue::new(at, format!("expression recursion limit exceeded: {DEPTH_LIMIT}"))
}

/// Reads words, and numbers the nodes it makes of them.
pub(crate) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    next_id: u32,
    depth: usize,
}

type Parsed = Result<Expr, Issue>;

impl Parser {
    fn word(&self) -> &Word {
        &self.tokens[self.at].word
    }

    fn here(&self) -> u32 {
        self.tokens[self.at].at
    }

    fn next(&mut self) -> Token {
        let token = self.tokens[self.at].clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.word(), Word::Sign(found) if *found == sign)
    }

    /// Takes a sign, and tells where it was.
    fn take(&mut self, sign: &str) -> Option<u32> {
        self.is(sign).then(|| self.next().at)
    }

    fn need(&mut self, sign: &str) -> Result<u32, Issue> {
        self.take(sign).ok_or_else(|| self.unexpected("mismatched input", &format!("expecting '{sign}'")))
    }

    fn unexpected(&self, what: &str, expecting: &str) -> Issue {
        let found = match self.word() {
            Word::Name(name) | Word::Quoted(name) => name.to_string(),
            Word::Int(value) | Word::Uint(value) => value.to_string(),
            Word::Double(value) => value.to_string(),
            Word::String(text) => format!("\"{text}\""),
            Word::Bytes(_) => "b\"\"".into(),
            Word::Sign(sign) => (*sign).into(),
            Word::End => "<EOF>".into(),
        };
        Issue::new(self.here(), format!("Syntax error: {what} '{found}' {expecting}"))
    }

    /// A node of that kind, with a number of its own.
    pub(crate) fn node(&mut self, at: u32, kind: ExprKind) -> Expr {
        let id = self.next_id;
        self.next_id += 1;
        let height = kind.children().iter().map(|child| child.height + 1).max().unwrap_or(0);
        Expr { id, at, height, kind }
    }

    /// The node, unless the tree has become too tall: whatever walks it recurses.
    fn low(&self, expr: Expr) -> Parsed {
        if expr.height as usize > DEPTH_LIMIT { Err(too_deep(expr.at)) } else { Ok(expr) }
    }

    /// A call of a function that is no member.
    pub(crate) fn call(&mut self, at: u32, function: &str, args: Vec<Expr>) -> Expr {
        self.node(at, ExprKind::Call { function: function.into(), target: None, args })
    }

    /// A constant.
    pub(crate) fn literal(&mut self, at: u32, literal: Literal) -> Expr {
        self.node(at, ExprKind::Literal(literal))
    }

    /// A name.
    pub(crate) fn ident(&mut self, at: u32, name: &str) -> Expr {
        self.node(at, ExprKind::Ident(name.into()))
    }

    fn expression(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > NEST_LIMIT {
            return Err(too_deep(self.here()));
        }
        let condition = self.logic(op::OR, "||")?;
        let expr = match self.take("?") {
            None => condition,
            Some(at) => {
                let yes = self.logic(op::OR, "||")?;
                self.need(":")?;
                let no = self.expression()?;
                self.call(at, op::CONDITIONAL, vec![condition, yes, no])
            }
        };
        self.depth -= 1;
        self.low(expr)
    }

    /// A chain of `||` or `&&`; long chains become balanced trees.
    fn logic(&mut self, function: &str, sign: &str) -> Parsed {
        let mut terms = vec![self.logic_term(function)?];
        let mut places = Vec::new();
        while let Some(at) = self.take(sign) {
            places.push(at);
            terms.push(self.logic_term(function)?);
        }
        Ok(self.balance(function, terms, &places))
    }

    fn logic_term(&mut self, function: &str) -> Parsed {
        if function == op::OR { self.logic(op::AND, "&&") } else { self.relation() }
    }

    fn balance(&mut self, function: &str, mut terms: Vec<Expr>, places: &[u32]) -> Expr {
        if terms.len() == 1 {
            return terms.remove(0);
        }
        let middle = terms.len().div_ceil(2);
        let right = terms.split_off(middle);
        let left = self.balance(function, terms, &places[..middle - 1]);
        let right = self.balance(function, right, &places[middle..]);
        self.call(places[middle - 1], function, vec![left, right])
    }

    fn relation(&mut self) -> Parsed {
        const RELATIONS: [(&str, &str); 6] = [
            ("==", op::EQUALS),
            ("!=", op::NOT_EQUALS),
            ("<", op::LESS),
            ("<=", op::LESS_EQUALS),
            (">", op::GREATER),
            (">=", op::GREATER_EQUALS),
        ];
        let mut left = self.sum()?;
        loop {
            let sign = RELATIONS.iter().find(|(sign, _)| self.is(sign)).map(|(_, function)| *function);
            let is_in = matches!(self.word(), Word::Name(name) if name.as_ref() == "in");
            let Some(function) = sign.or(is_in.then_some(op::IN)) else { return Ok(left) };
            let at = self.next().at;
            let right = self.sum()?;
            left = self.call(at, function, vec![left, right]);
            left = self.low(left)?;
        }
    }

    fn sum(&mut self) -> Parsed {
        let mut left = self.product()?;
        loop {
            let function = match self.word() {
                Word::Sign("+") => op::ADD,
                Word::Sign("-") => op::SUBTRACT,
                _ => return Ok(left),
            };
            let at = self.next().at;
            let right = self.product()?;
            left = self.call(at, function, vec![left, right]);
            left = self.low(left)?;
        }
    }

    fn product(&mut self) -> Parsed {
        let mut left = self.unary()?;
        loop {
            let function = match self.word() {
                Word::Sign("*") => op::MULTIPLY,
                Word::Sign("/") => op::DIVIDE,
                Word::Sign("%") => op::MODULO,
                _ => return Ok(left),
            };
            let at = self.next().at;
            let right = self.unary()?;
            left = self.call(at, function, vec![left, right]);
            left = self.low(left)?;
        }
    }

    fn unary(&mut self) -> Parsed {
        for (sign, function) in [("!", op::NOT), ("-", op::NEGATE)] {
            if !self.is(sign) {
                continue;
            }
            let at = self.here();
            let mut count = 0;
            while self.is(sign) {
                // The last minus before a number belongs to the number.
                let next = self.tokens.get(self.at + 1).map(|token| &token.word);
                if sign == "-" && matches!(next, Some(Word::Int(_) | Word::Double(_))) {
                    break;
                }
                self.next();
                count += 1;
            }
            let operand = self.member()?;
            return Ok(if count % 2 == 0 { operand } else { self.call(at, function, vec![operand]) });
        }
        self.member()
    }

    fn member(&mut self) -> Parsed {
        let mut expr = self.primary()?;
        loop {
            expr = self.low(expr)?;
            if let Some(at) = self.take(".") {
                expr = self.after_dot(expr, at)?;
            } else if let Some(at) = self.take("[") {
                let function = if self.take("?").is_some() { op::OPT_INDEX } else { op::INDEX };
                let index = self.expression()?;
                self.need("]")?;
                expr = self.call(at, function, vec![expr, index]);
            } else {
                return Ok(expr);
            }
        }
    }

    fn after_dot(&mut self, operand: Expr, at: u32) -> Parsed {
        let optional = self.take("?").is_some();
        let (name, quoted) = match self.next().word {
            Word::Name(name) => (name, false),
            Word::Quoted(name) => (name, true),
            _ => {
                self.at = self.at.saturating_sub(usize::from(*self.word() != Word::End));
                return Err(self.unexpected("no viable alternative at input", "expecting IDENTIFIER"));
            }
        };
        if optional {
            let name = self.literal(at, Literal::String(name));
            return Ok(self.call(at, op::OPT_SELECT, vec![operand, name]));
        }
        if quoted || !self.is("(") {
            return Ok(self.node(at, ExprKind::Select { operand: Box::new(operand), field: name, test: false }));
        }
        let open = self.next().at;
        let args = self.arguments(")")?;
        macros::member(self, open, operand, name, args)
    }

    fn arguments(&mut self, close: &str) -> Result<Vec<Expr>, Issue> {
        let mut args = Vec::new();
        while self.take(close).is_none() {
            args.push(self.expression()?);
            if self.take(",").is_none() {
                self.need(close)?;
                break;
            }
        }
        Ok(args)
    }

    fn primary(&mut self) -> Parsed {
        let at = self.here();
        let start = self.at;
        match self.next().word {
            Word::Int(value) => match i64::try_from(value) {
                Ok(value) => Ok(self.literal(at, Literal::Int(value))),
                Err(_) => Err(Issue::new(at, "invalid int literal".into())),
            },
            Word::Uint(value) => Ok(self.literal(at, Literal::Uint(value))),
            Word::Double(value) => Ok(self.literal(at, Literal::Double(value))),
            Word::String(text) => Ok(self.literal(at, Literal::String(text))),
            Word::Bytes(bytes) => Ok(self.literal(at, Literal::Bytes(bytes))),
            Word::Sign("-") => self.negative(at),
            Word::Sign("(") => {
                let inner = self.expression()?;
                self.need(")")?;
                Ok(inner)
            }
            Word::Sign("[") => self.list(at),
            Word::Sign("{") => {
                let entries = self.entries()?;
                Ok(self.node(at, ExprKind::Map(entries)))
            }
            Word::Sign(".") => match self.next().word {
                Word::Name(name) => self.name(at, format!(".{name}").into()),
                _ => Err(Issue::new(at, "Syntax error: no viable alternative at input '.'".into())),
            },
            Word::Name(name) => self.name(at, name),
            _ => {
                self.at = start;
                Err(self.unexpected("mismatched input", "expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}"))
            }
        }
    }

    fn negative(&mut self, at: u32) -> Parsed {
        match self.next().word {
            Word::Int(value) if value <= i64::MIN.unsigned_abs() => {
                Ok(self.literal(at, Literal::Int((value as i64).wrapping_neg())))
            }
            Word::Double(value) => Ok(self.literal(at, Literal::Double(-value))),
            _ => Err(Issue::new(at, "invalid int literal".into())),
        }
    }

    fn name(&mut self, at: u32, name: Arc<str>) -> Parsed {
        match name.as_ref() {
            "true" => return Ok(self.literal(at, Literal::Bool(true))),
            "false" => return Ok(self.literal(at, Literal::Bool(false))),
            "null" => return Ok(self.literal(at, Literal::Null)),
            reserved if RESERVED.contains(&reserved) => {
                return Err(Issue::new(at, format!("reserved identifier: {reserved}")));
            }
            _ => {}
        }
        if let Some(open) = self.take("(") {
            let args = self.arguments(")")?;
            return macros::global(self, open, name, args);
        }
        if let Some((length, full)) = self.message_name(&name) {
            for _ in 0..length {
                self.next();
            }
            let at = self.need("{")?;
            let fields = self.fields()?;
            return Ok(self.node(at, ExprKind::Struct { name: full.into(), fields }));
        }
        Ok(self.ident(at, &name))
    }

    /// Whether a name, perhaps with dots, is followed by `{`: how many words long, and the whole name.
    fn message_name(&self, first: &str) -> Option<(usize, String)> {
        let (mut length, mut full) = (0, first.to_owned());
        loop {
            match &self.tokens.get(self.at + length)?.word {
                Word::Sign("{") => return Some((length, full)),
                Word::Sign(".") => match &self.tokens.get(self.at + length + 1)?.word {
                    Word::Name(name) => {
                        full.push('.');
                        full.push_str(name);
                        length += 2;
                    }
                    _ => return None,
                },
                _ => return None,
            }
        }
    }

    fn list(&mut self, at: u32) -> Parsed {
        let (mut items, mut optional) = (Vec::new(), Vec::new());
        while self.take("]").is_none() {
            if self.take("?").is_some() {
                optional.push(items.len());
            }
            items.push(self.expression()?);
            if self.take(",").is_none() {
                self.need("]")?;
                break;
            }
        }
        Ok(self.node(at, ExprKind::List { items, optional }))
    }

    fn entries(&mut self) -> Result<Vec<Entry>, Issue> {
        let mut entries = Vec::new();
        while self.take("}").is_none() {
            let optional = self.take("?").is_some();
            let key = self.expression()?;
            self.need(":")?;
            let value = self.expression()?;
            entries.push(Entry { key, value, optional });
            if self.take(",").is_none() {
                self.need("}")?;
                break;
            }
        }
        Ok(entries)
    }

    fn fields(&mut self) -> Result<Vec<FieldInit>, Issue> {
        let mut fields = Vec::new();
        while self.take("}").is_none() {
            let optional = self.take("?").is_some();
            let at = self.here();
            let name = match self.next().word {
                Word::Name(name) | Word::Quoted(name) => name,
                _ => return Err(Issue::new(at, "Syntax error: mismatched input, expecting a field name".into())),
            };
            self.need(":")?;
            let value = self.expression()?;
            fields.push(FieldInit { name, at, value, optional });
            if self.take(",").is_none() {
                self.need("}")?;
                break;
            }
        }
        Ok(fields)
    }
}
