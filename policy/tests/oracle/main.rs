//! What policies are made of, held against the naive interpreter.

#![allow(clippy::unwrap_used)] // in a test's helper too a panic is a failed test

mod arbitrary;
mod map;
mod updates;
