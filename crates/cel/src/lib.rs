//! The Common Expression Language as Kubernetes speaks it: an expression is parsed, checked against declared types,
//! its cost is estimated, and it is evaluated over objects that are not copied, with its cost counted and limited.
//! Nothing here does I/O or knows a kind; what an expression may ask of the world comes through the trait [`Host`].
//! See <https://kubernetes.io/docs/reference/using-api/cel/>.

pub mod ast;
pub mod check;
pub mod cost;
pub mod error;
pub mod eval;
pub mod functions;
pub mod lex;
pub mod library;
mod macros;
pub mod parse;
pub mod program;
pub mod re2;
pub mod schema;
pub mod time;
pub mod types;
pub mod value;

pub use error::EvalError;
pub use eval::{Activation, Machine};
pub use library::{Decision, Host, Question};
pub use program::{CompileError, Env, Outcome, Program, compile};
pub use schema::Schema;
pub use types::{Decl, Type};
pub use value::{Lazy, Map, Value};
