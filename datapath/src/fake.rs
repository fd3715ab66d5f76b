//! A kernel in memory: it keeps the picture that operations draw, records them, and refuses those it is told to.
//!
//! It checks nothing; the invariants are the tests'.

use crate::current::services::Services;
use crate::current::{Bpf, Current, Firewall, Network};
use crate::kernel::{Kernel, OperationError, ReadError};
use crate::maps::MapError;
use crate::operation::Operation;

/// Looks at the picture before an operation, the operation, and the picture after.
pub type Witness = Box<dyn FnMut(&Current, &Operation, &Current) + Send>;
/// Says why an operation is to fail.
pub type Refusal = Box<dyn FnMut(&Operation) -> Option<String> + Send>;

#[derive(Default)]
pub struct Fake {
    pub state: Current,
    /// Every operation that was asked for, refused ones too.
    pub log: Vec<Operation>,
    pub witness: Option<Witness>,
    pub refuse: Option<Refusal>,
    /// How many entries all policies together may have.
    pub room: Option<usize>,
    /// How many reads fail from now on.
    pub failing_reads: u32,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fake").field("state", &self.state).field("log", &self.log).finish_non_exhaustive()
    }
}

impl Fake {
    fn readable(&mut self) -> Result<(), ReadError> {
        if self.failing_reads == 0 {
            return Ok(());
        }
        self.failing_reads -= 1;
        Err("this read was told to fail".into())
    }
}

impl Kernel for Fake {
    fn network(&mut self) -> Result<Network, ReadError> {
        self.readable()?;
        Ok(self.state.network.clone())
    }

    fn bpf(&mut self, _: &Bpf) -> Result<Bpf, ReadError> {
        self.readable()?;
        Ok(self.state.bpf.clone())
    }

    fn services(&mut self) -> Result<Services, ReadError> {
        self.readable()?;
        Ok(self.state.services.as_if_read())
    }

    fn firewall(&mut self) -> Result<Firewall, ReadError> {
        self.readable()?;
        Ok(self.state.firewall.clone())
    }

    fn apply(&mut self, operations: &[Operation]) -> Vec<Result<(), OperationError>> {
        let one = |operation: &Operation| {
            self.log.push(operation.clone());
            if let Some(reason) = self.refuse.as_mut().and_then(|refuse| refuse(operation)) {
                return Err(reason.into());
            }
            let before = self.state.clone();
            self.state.record(operation);
            let entries = self.state.bpf.policies.values().map(|policy| policy.map.len()).sum::<usize>();
            if let Some(room) = self.room.filter(|room| entries > *room) {
                self.state = before;
                let room = u32::try_from(room).unwrap_or(u32::MAX);
                return Err(MapError::Full { map: bpf::names::map::POLICY, room, entries }.into());
            }
            if let Some(witness) = &mut self.witness {
                witness(&before, operation, &self.state);
            }
            Ok(())
        };
        operations.iter().map(one).collect()
    }
}
