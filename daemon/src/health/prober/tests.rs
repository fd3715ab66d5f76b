//! The prober on a real state, with this machine's loopback as the node.

use super::*;
use crate::testing::Brain;
use state::Input;
use std::time::Duration;

fn node(ipv4: &str) -> Node {
    Node {
        name: "n1".to_owned(),
        cluster: "default".to_owned(),
        ipv4: ipv4.parse().ok(),
        ipv6: None,
        ipv4_range: None,
        ipv6_range: None,
    }
}

fn begin(brain: &Brain) -> Health {
    let settings = Settings { port: 1, interval: Duration::from_secs(3600) };
    let (prober, health) = Prober::new(settings, &node("127.0.0.1"), brain.outputs.clone());
    tokio::spawn(prober.run(brain.shutdown.clone()));
    health
}

fn other(name: &str, address: [u8; 4]) -> RemoteNode {
    RemoteNode {
        name: NodeName { cluster: "default".to_owned(), name: name.to_owned() },
        addresses: [address.into()].into(),
        routers: BTreeSet::new(),
        health: BTreeSet::new(),
        prefixes: BTreeSet::new(),
    }
}

#[tokio::test]
async fn everybody_is_probed_on_request_and_strangers_are_not() {
    let brain = Brain::begin().await;
    let health = begin(&brain);
    // The state has no address of its own, so it takes no other's for a node's of the same underlay; 127.0.0.9 is
    // nobody's anyway.
    brain.inputs.submit(Input::NodeKnown(other("n2", [127, 0, 0, 9]))).await.unwrap();
    health.results.clone().wait_for(|results| results.nodes.len() == 2).await.unwrap();
    health.probe_now().await;
    let results = Arc::clone(&health.results.borrow());
    let failure = |number: usize| results.nodes.values().nth(number).unwrap().paths[0].http.failure.clone().unwrap();
    assert!(failure(0).starts_with("connect"), "{}", failure(0));
    assert!(failure(1).starts_with("not probed"), "{}", failure(1));
}

#[tokio::test]
async fn a_node_that_goes_is_told_of_no_more() {
    let brain = Brain::begin().await;
    let health = begin(&brain);
    let n2 = other("n2", [192, 0, 2, 9]);
    brain.inputs.submit(Input::NodeKnown(n2.clone())).await.unwrap();
    health.results.clone().wait_for(|results| results.nodes.len() == 2).await.unwrap();
    brain.inputs.submit(Input::NodeGone(n2.name)).await.unwrap();
    health.results.clone().wait_for(|results| results.nodes.len() == 1).await.unwrap();
    health.probe_now().await;
}
