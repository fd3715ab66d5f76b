//! What the L7 part of a rule means: which parser a connection is handed to, how the request rules of several elements
//! come together, and whether a request passes. Built from rules once, then matched many times; a proxy and the
//! offline commands use the same.
//!
//! ```text
//! PortRule --Demand::compile--> Demand --Access::merge--> Access --answer(Request)--> Answer
//! ```
//!
//! Which elements apply to a connection is not decided here, nor is whether a deny forbids it.

mod access;
mod demand;
mod http;
mod kafka;
mod name;
mod pattern;
mod request;

pub use access::{Access, Answer, Conflict, Contribution, Group, Passage, Place, Ports, Reason};
pub use demand::{Demand, Parser, Requests};
pub use http::{
    HeaderAction, Headers, HttpAnswer, HttpMatcher, HttpRequest, Secrets, evaluate as evaluate_http, no_secrets,
};
pub use kafka::{KafkaMatcher, KafkaRequest, api_key, evaluate as evaluate_kafka};
pub use name::{DnsMatcher, Name, NamePattern};
pub use pattern::{Pattern, PatternError};
pub use request::Request;
