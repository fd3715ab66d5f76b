//! The built program against an agent that answers from a table: what it prints, sends and ends with.

// A test's helper that panics is a test that fails.
#![allow(clippy::unwrap_used)]

mod agent;
mod cleanup;
mod commands;
mod help;
mod monitor;
mod policy;
mod program;
mod service;
