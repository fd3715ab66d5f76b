//! `make bench`: measures everything in one run, each row beside its comparison, and prints one table.
//!
//!     lab-bench [--quick] [--only SECTION]…     sections: datapath, traffic, docker, overlay, policy, services, balance,
//!         agent, fleet
//!
//! No row is judged against another day: only what stands in one run is compared. Client and server share CPU 1.
#![allow(clippy::print_stdout)]

mod agent;
mod balance;
mod datapath;
mod docker;
mod fleet;
mod overlay;
mod policy;
mod services;
mod table;
mod traffic;

use anyhow::{Result, bail};
use table::Table;

/// How often things are repeated.
#[derive(Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    pub seconds: f64,
    pub starts: usize,
}

fn main() -> Result<()> {
    let mut effort = Effort { rounds: 7, seconds: 2.0, starts: 15 };
    let mut only = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match (arg.as_str(), &mut args) {
            ("--quick", _) => effort = Effort { rounds: 3, seconds: 0.5, starts: 5 },
            ("--only", rest) => only.extend(rest.next()),
            _ => bail!("usage: lab-bench [--quick] [--only SECTION]…"),
        }
    }
    let wanted = |section: &str| only.is_empty() || only.iter().any(|o| o == section);
    let mut table = Table::default();
    if wanted("datapath") {
        datapath::measure(&mut table, effort)?;
    }
    if wanted("traffic") {
        traffic::measure(&mut table, effort)?;
    }
    if wanted("overlay") {
        overlay::measure(&mut table, effort)?;
    }
    if wanted("docker") {
        docker::measure(&mut table, effort)?;
    }
    if wanted("policy") {
        policy::measure(&mut table, effort)?;
    }
    if wanted("services") {
        services::measure(&mut table, effort)?;
    }
    if wanted("balance") {
        balance::measure(&mut table, effort)?;
    }
    if wanted("agent") {
        agent::measure(&mut table, effort)?;
    }
    if wanted("fleet") {
        fleet::measure(&mut table, effort)?;
    }
    table.print();
    Ok(())
}
