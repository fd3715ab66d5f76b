//! The programs under `BPF_PROG_TEST_RUN`: crafted packets in; verdict, packet, events and counters out.

#![allow(clippy::unwrap_used)] // in a test's helper too a panic is a failed test

mod conntrack;
mod differential;
mod events;
mod fragments;
mod geneve;
mod headers;
mod icmp;
mod layout;
mod lb;
mod neighbours;
mod origins;
mod policy;
mod read;
mod rules;
mod truncated;
mod tunnel;
mod verifier;
mod world;
