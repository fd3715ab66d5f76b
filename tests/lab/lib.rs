//! The little world that the suite plays in: machines made of namespaces, with the real agent, the real Docker engine and
//! real traffic. It asserts nothing itself.

mod agent;
mod clusters;
mod docker;
mod etcd;
mod machine;
mod nodes;
mod traffic;
mod world;

pub use agent::{Agent, binary, other_build};
pub use clusters::{CLUSTERS, Clusters};
pub use docker::{Container, Docker, Engine};
pub use etcd::{ENDPOINTS, Etcd};
pub use machine::{MACHINE4, MACHINE6, Machine, Process, WORLD4, WORLD6, text};
pub use nodes::{Nodes, Underlay, agent_options};
pub use traffic::{Ask, Hammer, Server, Sink, Tally};
pub use world::World;

use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// Tries until it succeeds. At the deadline the last error comes back, with what was waited for.
pub fn eventually<T>(limit: Duration, what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).with_context(|| format!("waited {limit:?} for {what}"));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}
