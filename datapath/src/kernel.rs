//! What the reconciler needs of a kernel. `Linux` is the real one, `fake` one in memory.

mod linux;

pub use linux::Linux;

use crate::current::services::Services;
use crate::current::{Bpf, Firewall, Network};
use crate::operation::Operation;

/// An operation failed: what it was about and why.
pub type OperationError = Box<dyn std::error::Error + Send + Sync>;
/// A part of the kernel's state could not be read.
pub type ReadError = Box<dyn std::error::Error + Send + Sync>;

pub trait Kernel {
    /// Reads devices, addresses, routes and neighbours of ours.
    fn network(&mut self) -> Result<Network, ReadError>;

    /// Reads our maps and what is attached. `held` is what they held by all that is known: it only helps to be quick.
    fn bpf(&mut self, held: &Bpf) -> Result<Bpf, ReadError>;

    /// Reads the maps of services.
    fn services(&mut self) -> Result<Services, ReadError>;

    /// Finds out whether the firewall is as last written.
    fn firewall(&mut self) -> Result<Firewall, ReadError>;

    /// Carries out operations of one stage, in any order and in as few system calls as it can; answers one by one.
    fn apply(&mut self, operations: &[Operation]) -> Vec<Result<(), OperationError>>;
}
