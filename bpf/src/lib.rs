//! The kernel half: compiled programs as bytes, the layout of their maps, the names by which they are found.
//!
//! Owns `abi.h` and its Rust twin. Loading, attaching and writing maps is `datapath`'s.

#![allow(unsafe_code)] // `aya::Pod` is an unsafe trait, and `testing` speaks bpf(2) by itself.

pub mod abi;
mod endian;
pub mod names;
mod pod;

/// The ELF object with the programs of `names::program` and the maps of `names::map`, aligned as a parser wants it.
pub static CONTAINER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/container.bpf.o"));

/// The ELF object with the programs of `names::socket`, likewise; the maps of services are those of `CONTAINER`.
pub static SOCKETS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sock.bpf.o"));

#[cfg(feature = "testing")]
pub mod testing;
