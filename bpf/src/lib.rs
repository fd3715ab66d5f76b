//! The kernel half: compiled programs as bytes, the layout of their maps, the names by which they are found.
//!
//! Owns `abi.h` and its Rust twin. Loading, attaching and writing maps is `datapath`'s.

#![allow(unsafe_code)] // `aya::Pod` is an unsafe trait; nothing else here is.

pub mod abi;
mod endian;
pub mod names;
mod pod;
