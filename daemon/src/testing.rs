//! A writer with a real state, without disk and kernel: for the tests of who feeds it and who follows it.

use crate::writer::{Inputs, Writer};
use model::label_filter::LabelFilter;
use state::{EndpointChange, EndpointCreate, EndpointRef, Input, Outputs, State};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(600);

pub struct Brain {
    pub inputs: Inputs,
    pub outputs: watch::Receiver<Arc<Outputs>>,
    pub shutdown: CancellationToken,
}

impl Drop for Brain {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Brain {
    /// A restored node with nothing on it.
    pub async fn begin() -> Brain {
        Brain::begin_in("default", 0).await
    }

    /// The same in a cluster with this name and id.
    pub async fn begin_in(cluster: &str, cluster_id: u8) -> Brain {
        let config = state::Config {
            node: "n1".to_owned(),
            cluster: cluster.to_owned(),
            cluster_id,
            node_ipv4: None,
            node_ipv6: None,
            ipv4_range: "10.15.0.0/16".parse().ok(),
            ipv6_range: None,
            mtu: None,
            kvstore: std::collections::BTreeSet::new(),
            tunnel_overhead: None,
            direct_routes: false,
            label_filter: LabelFilter::default(),
            policy: policy::Options::default(),
            shares_subnets: false,
            services: state::services::Options::default(),
            quarantine: state::QUARANTINE,
            docker_grace: state::DOCKER_GRACE,
        };
        let (writer, inputs, outputs, _) = Writer::new(State::new(config).unwrap());
        let shutdown = CancellationToken::new();
        tokio::spawn(writer.run(shutdown.clone()));
        inputs.submit(Input::Restore(BTreeMap::new())).await.unwrap();
        Brain { inputs, outputs, shutdown }
    }

    /// An endpoint whose container has one label.
    pub async fn endpoint(&self, id: &str, ipv4: &str, label: (&str, &str)) {
        let create = EndpointCreate {
            docker_endpoint_id: id.to_owned(),
            docker_network_id: "net".to_owned(),
            ipv4: ipv4.parse().ok(),
            ipv6: None,
            mac: None,
        };
        self.inputs.submit(Input::EndpointCreate(create)).await.unwrap();
        let labels = BTreeMap::from([(label.0.to_owned(), label.1.to_owned())]);
        let change = EndpointChange { container_labels: Some(labels), ..EndpointChange::default() };
        let endpoint = EndpointRef::Docker(id.to_owned());
        self.inputs.submit(Input::EndpointChange { endpoint, change }).await.unwrap();
    }

    pub async fn delete(&self, id: &str) {
        let endpoint = EndpointRef::Docker(id.to_owned());
        self.inputs.submit(Input::EndpointDelete { endpoint }).await.unwrap();
    }

    /// Waits until the newest snapshot is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Outputs) -> bool) {
        let mut outputs = self.outputs.clone();
        let found = tokio::time::timeout(PATIENCE, outputs.wait_for(|outputs| wanted(outputs))).await;
        assert!(matches!(found, Ok(Ok(_))), "never: {what}");
    }

    /// The number of an endpoint's identity.
    pub fn identity_of(&self, id: &str) -> u32 {
        let outputs = self.outputs.borrow();
        outputs.view.find(&EndpointRef::Docker(id.to_owned())).map_or(0, |endpoint| endpoint.identity.0)
    }
}
