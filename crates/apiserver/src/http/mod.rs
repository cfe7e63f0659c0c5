//! What the server knows of HTTP: bodies, content negotiation, request paths and queries, answers.
//! Nothing here knows of storage or of any kind's rules.

pub mod answer;
pub mod body;
pub mod client;
pub mod limits;
pub mod negotiate;
pub mod pace;
pub mod patience;
pub mod prompt;
pub mod query;
pub mod request;
pub mod turns;
