//! Why a call of Docker's is not done. The text is all that the user sees, behind the method's name.

use api::ClientError;
use std::time::Duration;

/// One sentence each, with the thing at fault and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the request has no body")]
    NoBody,
    #[error("the request is no JSON object")]
    NoObject,
    #[error("the request cannot be read: {source}")]
    Malformed { source: serde_json::Error },
    #[error("the request is larger than {limit} bytes, or broke off")]
    Body { limit: usize },
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} {value:?} is not {expected}")]
    Invalid { field: &'static str, value: String, expected: &'static str },

    #[error("network option {name:?} is not known to this driver; it knows {known}")]
    UnknownNetworkOption { name: String, known: &'static str },
    #[error("network options {first} and {second} contradict each other")]
    Contradiction { first: &'static str, second: &'static str },
    #[error("IPAM option {name:?} is not known to this driver; it knows none")]
    UnknownIpamOption { name: String },
    #[error("endpoint option {name:?} is not known to this driver; it knows none")]
    UnknownEndpointOption { name: String },
    #[error("networks of this driver live on one node each: swarm networks are not supported by this build")]
    Swarm,

    #[error("a network of this driver has at most one {family} subnet; {count} were given")]
    ManySubnets { family: &'static str, count: usize },
    #[error("the network has no subnet")]
    NoSubnet,
    #[error("{pool} was not given by this driver's IPAM: create the network with --ipam-driver cilium")]
    ForeignPool { pool: String },
    #[error("an IP range needs a subnet around it: pass --subnet")]
    RangeWithoutSubnet,
    #[error("Docker asks for the same {family} pool again and again ({count} times): pass --subnet")]
    Fuse { family: &'static str, count: usize },

    #[error("network {id} is not known, and Docker does not know it as one of ours either")]
    UnknownNetwork { id: String },
    #[error("network {id} is not known to the agent, and Docker could not be asked: {why}")]
    NetworkNotLearnt { id: String, why: String },
    #[error("endpoint {id} is not known")]
    UnknownEndpoint { id: String },
    #[error("endpoint {id} has no IP address: create the network with --ipam-driver cilium")]
    NoAddress { id: String },

    /// The agent's own sentence when it said no; otherwise what was asked of it, too.
    #[error("{}{source}", asked(.operation, .source))]
    Agent { operation: String, source: ClientError },
    #[error("the agent did not do it within {limit:?}")]
    TooLate { limit: Duration },
    #[error("the call broke off inside the plugin: see the agent's log")]
    Broken,
}

impl Refusal {
    /// Whether an operator of ours should look, rather than the user who asked.
    pub(crate) fn is_trouble(&self) -> bool {
        match self {
            Refusal::Agent { source, .. } => source.status().is_none_or(|status| status.is_server_error()),
            Refusal::TooLate { .. } | Refusal::Broken => true,
            _ => false,
        }
    }
}

fn asked(operation: &str, source: &ClientError) -> String {
    if source.status().is_some() { String::new() } else { format!("{operation}: ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::ErrorBody;

    #[test]
    fn what_the_agent_says_stands_alone_and_its_silence_is_explained() {
        let body = ErrorBody { error: "address 10.1.0.7 is taken".to_owned(), details: Vec::new() };
        let refused = ClientError::Refused { status: hyper::StatusCode::CONFLICT, body };
        let refusal = Refusal::Agent { operation: "address 10.1.0.7".to_owned(), source: refused };
        assert_eq!(refusal.to_string(), "address 10.1.0.7 is taken");
        assert!(!refusal.is_trouble());
        let silent = ClientError::Timeout {
            method: hyper::Method::POST,
            path: "/v1/x".to_owned(),
            limit: Duration::from_secs(1),
        };
        let refusal = Refusal::Agent { operation: "an address of pool p".to_owned(), source: silent };
        assert_eq!(refusal.to_string(), "an address of pool p: POST /v1/x: no answer within 1s");
        assert!(refusal.is_trouble());
    }
}
