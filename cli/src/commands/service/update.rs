//! `cilium service update`: makes a service, or gives one other backends and settings.

use super::route;
use crate::commands::Session;
use crate::failure::Failure;
use api::service::{BackendAddress, FrontendAddress, Service, ServiceFlags, ServiceSpec};
use std::net::{IpAddr, SocketAddr};

/// Make a service, or give it other backends and settings
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cilium service update --id 1 --frontend 10.96.0.10:80 --backends 10.15.0.11:80,10.15.0.12:80\n  \
    cilium service update --id 2 --frontend '[fd96::10]:53' --protocol udp --backends '[f00d::5]:53' --session-affinity 600"
)]
pub struct Args {
    /// Its number, in the whole cluster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    id: u32,
    /// What is asked for; of a node port 0.0.0.0 or [::] and the port
    #[arg(long, value_name = "IP:PORT")]
    frontend: SocketAddr,
    /// Who answers; with a weight as IP:PORT/WEIGHT
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',', value_parser = backend)]
    backends: Vec<(SocketAddr, Option<u16>)>,
    /// A weight for each backend, in their order; 0: no new flows
    #[arg(long, value_name = "W", value_delimiter = ',')]
    backend_weights: Vec<u16>,
    /// A state for each backend, in their order: active, terminating, terminating-not-serving, quarantined, maintenance
    #[arg(long, value_name = "STATE", value_delimiter = ',')]
    states: Vec<String>,
    /// Protocol of the frontend and of the backends
    #[arg(long, value_name = "PROTO", default_value = "TCP", ignore_case = true, value_parser = ["TCP", "UDP", "SCTP"])]
    protocol: String,
    /// Who may ask, and where
    #[arg(long = "type", value_name = "TYPE", default_value = "ClusterIP",
          value_parser = ["ClusterIP", "NodePort", "ExternalIP", "LoadBalancer"])]
    kind: String,
    /// The same as --type NodePort
    #[arg(long, conflicts_with_all = ["kind", "k8s_external", "k8s_load_balancer"])]
    k8s_node_port: bool,
    /// The same as --type ExternalIP
    #[arg(long, conflicts_with_all = ["kind", "k8s_load_balancer"])]
    k8s_external: bool,
    /// The same as --type LoadBalancer
    #[arg(long, conflicts_with = "kind")]
    k8s_load_balancer: bool,
    /// Whom those from outside get: all backends (Cluster) or those of the node that is asked (Local)
    #[arg(long, visible_alias = "k8s-traffic-policy", value_name = "POLICY", default_value = "Cluster", value_parser = ["Cluster", "Local"])]
    ext_traffic_policy: String,
    /// Whom those of the cluster get at a ClusterIP
    #[arg(long, value_name = "POLICY", default_value = "Cluster", value_parser = ["Cluster", "Local"])]
    int_traffic_policy: String,
    /// Seconds for which a client stays with its backend; 0: not at all
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    session_affinity: u32,
    /// From where others than the cluster may ask, of a LoadBalancer; without it from everywhere
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    source_ranges: Vec<String>,
    /// Ask backends of the same node as long as there are some
    #[arg(long)]
    prefer_same_node: bool,
    /// How a backend is chosen for those from outside; without it as each node is told to
    #[arg(long, value_name = "NAME", value_parser = ["random", "maglev"])]
    algorithm: Option<String>,
}

/// `10.15.0.11:80` or `10.15.0.11:80/5`
fn backend(text: &str) -> Result<(SocketAddr, Option<u16>), String> {
    let (address, weight) = match text.rsplit_once('/') {
        Some((address, weight)) => (address, Some(weight)),
        None => (text, None),
    };
    let address = address.parse().map_err(|_| format!("{address:?} is no IP:PORT"))?;
    let weight = weight.map(|weight| weight.parse().map_err(|_| format!("{weight:?} is no weight"))).transpose()?;
    Ok((address, weight))
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let spec = self.spec()?;
        let id = spec.id;
        // Which of the two it is is told by the agent's answer; the words before it are a question of what is there.
        let there: Result<Service, _> = session.agent.try_get(route().part(id)).await;
        let message = match there {
            Ok(_) => format!("Updating existing service with id '{id}'"),
            Err(error) if error.status().is_some_and(|status| status.as_u16() == 404) => {
                format!("Creating new service with id '{id}'")
            }
            Err(source) => return Err(Failure::Agent { what: format!("get service {id}"), source }),
        };
        let what = format!("update service {id}");
        let service: Service = session.agent.put(&what, route().part(id), &spec).await?;
        if session.out.is_json() {
            return session.out.json(&service);
        }
        session.out.line(message)?;
        let count = service.spec.backend_addresses.len();
        session.out.line(format!("Added service with {count} backends"))?;
        match service.status.failure {
            Some(failure) => Err(Failure::ServiceFails { id, failure }),
            None => Ok(()),
        }
    }

    fn spec(self) -> Result<ServiceSpec, Failure> {
        let kind = match () {
            () if self.k8s_node_port => "NodePort".to_owned(),
            () if self.k8s_external => "ExternalIP".to_owned(),
            () if self.k8s_load_balancer => "LoadBalancer".to_owned(),
            () => self.kind,
        };
        let count = self.backends.len();
        for (name, given) in [("--backend-weights", self.backend_weights.len()), ("--states", self.states.len())] {
            if given > 0 && given != count {
                return Err(Failure::Usage(format!("{name} has {given} values for {count} backends")));
            }
        }
        let mut backend_addresses = Vec::new();
        for (n, (address, weight)) in self.backends.into_iter().enumerate() {
            let weight = self.backend_weights.get(n).copied().or(weight).unwrap_or(100);
            let state = self.states.get(n).cloned().unwrap_or_else(|| "active".to_owned());
            let (ip, port): (IpAddr, u16) = (address.ip(), address.port());
            let protocol = self.protocol.to_uppercase();
            backend_addresses.push(BackendAddress { ip, port, protocol, weight, state, node_name: None });
        }
        Ok(ServiceSpec {
            id: self.id,
            frontend_address: FrontendAddress {
                ip: self.frontend.ip(),
                protocol: self.protocol.to_uppercase(),
                port: self.frontend.port(),
            },
            backend_addresses,
            flags: ServiceFlags {
                kind,
                ext_traffic_policy: self.ext_traffic_policy,
                int_traffic_policy: self.int_traffic_policy,
                session_affinity: self.session_affinity,
                source_ranges: self.source_ranges,
                prefer_same_node: self.prefer_same_node,
                algorithm: self.algorithm,
                ..ServiceFlags::default()
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_with_weights() {
        assert_eq!(backend("10.15.0.11:80/5"), Ok(("10.15.0.11:80".parse().unwrap(), Some(5))));
        assert_eq!(backend("[f00d::5]:80"), Ok(("[f00d::5]:80".parse().unwrap(), None)));
        assert!(backend("10.15.0.11").is_err() && backend("10.15.0.11:80/x").is_err());
    }
}
