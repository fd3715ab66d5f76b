//! The lab itself: a machine is complete, and gone afterwards.

use anyhow::Result;
use lab::{Docker, Engine, Machine, WORLD4, WORLD6};
use std::rc::Rc;

#[test]
#[ignore = "needs root: make test"]
fn a_machine_reaches_its_world_and_an_engine_runs_in_it() -> Result<()> {
    let machine = Rc::new(Machine::start()?);
    machine.run(&["ping", "-c1", "-W2", WORLD4])?;
    machine.run(&["ping", "-c1", "-W2", WORLD6])?;
    assert_eq!(machine.links()?, ["eth0", "lo"]);
    let docker = Docker::start(&machine, &Engine::installed(), &[])?;
    assert_eq!(docker.docker(&["run", "--rm", "--net", "none", "lab", "echo", "hello"])?, "hello");
    Ok(())
}
