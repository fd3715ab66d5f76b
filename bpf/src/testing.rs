//! What tests and benchmarks need to run the programs without attaching them (feature `testing`).
//!
//! Owns loading into maps of one's own and `BPF_PROG_TEST_RUN`; what is asserted is the tests' business.

pub mod bench;
pub mod fixture;
pub mod node;
pub mod packet;
mod pins;
pub mod stack;
pub mod structure;
mod tap;
pub mod verifier;

pub use node::{Node, Options, Ran};
pub use pins::Pins;
pub use tap::Arrival;
