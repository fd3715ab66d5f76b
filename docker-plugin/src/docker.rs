//! What is asked of Docker's own API, and only that which Docker answers while it waits for us: networks and the list of
//! containers. A container's own page (`/containers/<id>/json`) is never read, because Docker holds its lock while the
//! container starts.

mod transport;

use bollard::models::{ContainerSummary, EventMessage, Network, NetworkInspect};
use bollard::query_parameters::{EventsOptions, ListContainersOptions};
use futures::Stream;
use std::collections::{BTreeMap, HashMap};

#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    #[error("{socket:?} is no Unix socket's path")]
    Socket { socket: String },
    #[error("make a client: {source}")]
    Client { source: bollard::errors::Error },
    #[error("{what}: {source}")]
    Request { what: &'static str, source: bollard::errors::Error },
}

impl DockerError {
    fn is_absence(&self) -> bool {
        matches!(
            self,
            DockerError::Request {
                source: bollard::errors::Error::DockerResponseServerError { status_code: 404, .. },
                ..
            }
        )
    }
}

/// Cheap to clone; each request is one short connection.
#[derive(Clone)]
pub(crate) struct Docker {
    client: bollard::Docker,
}

/// The container of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) id: String,
    pub(crate) name: String,
    /// The container's and its image's, merged by Docker.
    pub(crate) labels: BTreeMap<String, String>,
}

/// What Docker says of an endpoint on one of our networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    pub(crate) endpoint_id: String,
    pub(crate) container: ContainerRef,
    /// The container's name when the endpoint was made.
    pub(crate) name: String,
}

/// How Docker names an endpoint's container: before the container has joined there is but its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ContainerRef {
    Id(String),
    Name(String),
}

impl Docker {
    /// Does not connect yet.
    pub(crate) fn new(socket: &str) -> Result<Docker, DockerError> {
        let path = socket.strip_prefix("unix://").unwrap_or(socket);
        if !path.starts_with('/') {
            return Err(DockerError::Socket { socket: socket.to_owned() });
        }
        transport::client(path).map(|client| Docker { client }).map_err(|source| DockerError::Client { source })
    }

    /// The engine's version.
    pub(crate) async fn version(&self) -> Result<String, DockerError> {
        let version = self.client.version().await.map_err(request("ask for the version"))?;
        Ok(version.version.unwrap_or_else(|| "of unknown version".to_owned()))
    }

    /// All networks, whatever their driver.
    pub(crate) async fn networks(&self) -> Result<Vec<Network>, DockerError> {
        self.client.list_networks(None).await.map_err(request("list networks"))
    }

    /// `None`: there is no such network.
    pub(crate) async fn network(&self, id: &str) -> Result<Option<NetworkInspect>, DockerError> {
        match self.client.inspect_network(id, None).await.map_err(request("read a network")) {
            Err(error) if error.is_absence() => Ok(None),
            other => other.map(Some),
        }
    }

    /// The container of an endpoint; `None` while Docker does not tell.
    pub(crate) async fn container_of(&self, network: &str, endpoint: &str) -> Result<Option<Container>, DockerError> {
        match self.container_ref(network, endpoint).await? {
            Some(container) => self.container(&container).await,
            None => Ok(None),
        }
    }

    /// What Docker calls the container of an endpoint; `None` while it does not tell.
    pub(crate) async fn container_ref(
        &self,
        network: &str,
        endpoint: &str,
    ) -> Result<Option<ContainerRef>, DockerError> {
        let Some(network) = self.network(network).await? else { return Ok(None) };
        let found = attachments(&network).into_iter().find(|attachment| attachment.endpoint_id == endpoint);
        Ok(found.map(|attachment| attachment.container))
    }

    /// The containers that do not run: those that are being started are among them.
    pub(crate) async fn resting_containers(&self) -> Result<Vec<Container>, DockerError> {
        let filters = HashMap::from([("status".to_owned(), ["created", "exited"].map(str::to_owned).to_vec())]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let found = self.client.list_containers(Some(options)).await.map_err(request("list containers"))?;
        Ok(found.into_iter().filter_map(container).collect())
    }

    /// `None`: there is no such container.
    pub(crate) async fn container(&self, wanted: &ContainerRef) -> Result<Option<Container>, DockerError> {
        let (key, value) = match wanted {
            ContainerRef::Id(id) => ("id", id.clone()),
            // A regular expression to Docker: a dot in the name matches more than itself, so the answer is looked
            // through once more.
            ContainerRef::Name(name) => ("name", format!("^/{name}$")),
        };
        let filters = HashMap::from([(key.to_owned(), vec![value])]);
        let options = ListContainersOptions { all: true, filters: Some(filters), ..ListContainersOptions::default() };
        let found = self.client.list_containers(Some(options)).await.map_err(request("list containers"))?;
        Ok(found.into_iter().find_map(|summary| is(wanted, &summary).then(|| container(summary)).flatten()))
    }

    /// What happens to containers and networks, from now on. Ends or fails when Docker goes away.
    pub(crate) fn events(&self) -> impl Stream<Item = Result<EventMessage, bollard::errors::Error>> + use<> {
        let kinds = vec!["container".to_owned(), "network".to_owned()];
        let actions = ["start", "rename", "connect"].map(str::to_owned).to_vec();
        let filters = HashMap::from([("type".to_owned(), kinds), ("event".to_owned(), actions)]);
        self.client.events(Some(EventsOptions { filters: Some(filters), ..EventsOptions::default() }))
    }
}

/// The endpoints on a network.
pub(crate) fn attachments(network: &NetworkInspect) -> Vec<Attachment> {
    let listed = network.containers.iter().flatten();
    listed
        .filter_map(|(key, resource)| {
            let name = resource.name.clone().unwrap_or_default();
            let endpoint_id = resource.endpoint_id.clone().filter(|id| !id.is_empty())?;
            let container = match key.strip_prefix("ep-") {
                Some(_) => ContainerRef::Name(name.clone()),
                None => ContainerRef::Id(key.clone()),
            };
            Some(Attachment { endpoint_id, container, name })
        })
        .collect()
}

fn is(wanted: &ContainerRef, summary: &ContainerSummary) -> bool {
    match wanted {
        ContainerRef::Id(id) => summary.id.as_ref() == Some(id),
        ContainerRef::Name(name) => {
            summary.names.iter().flatten().any(|listed| listed.strip_prefix('/') == Some(name.as_str()))
        }
    }
}

fn container(summary: ContainerSummary) -> Option<Container> {
    // A container that others link to is listed under the names `/its-own` and `/other/alias`.
    let own = summary.names.iter().flatten().filter_map(|name| name.strip_prefix('/')).find(|name| !name.contains('/'));
    Some(Container {
        name: own.unwrap_or_default().to_owned(),
        id: summary.id.filter(|id| !id.is_empty())?,
        labels: summary.labels.unwrap_or_default().into_iter().collect(),
    })
}

fn request(what: &'static str) -> impl FnOnce(bollard::errors::Error) -> DockerError {
    move |source| DockerError::Request { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::EndpointResource;

    fn resource(name: &str, endpoint: &str) -> EndpointResource {
        EndpointResource {
            name: Some(name.to_owned()),
            endpoint_id: Some(endpoint.to_owned()),
            ..EndpointResource::default()
        }
    }

    #[test]
    fn an_endpoint_is_listed_by_name_before_it_has_joined_and_by_id_after() {
        let containers =
            HashMap::from([("ep-e1".to_owned(), resource("one", "e1")), ("c2".to_owned(), resource("two", "e2"))]);
        let network = NetworkInspect { containers: Some(containers), ..NetworkInspect::default() };
        let mut found = attachments(&network);
        found.sort_by(|a, b| a.endpoint_id.cmp(&b.endpoint_id));
        let refs: Vec<_> = found.into_iter().map(|attachment| attachment.container).collect();
        assert_eq!(refs, [ContainerRef::Name("one".to_owned()), ContainerRef::Id("c2".to_owned())]);
    }

    #[test]
    fn a_name_that_only_matches_as_a_pattern_is_another_container() {
        let summary = ContainerSummary { names: Some(vec!["/axb".to_owned()]), ..ContainerSummary::default() };
        assert!(!is(&ContainerRef::Name("a.b".to_owned()), &summary));
        assert!(is(&ContainerRef::Name("axb".to_owned()), &summary));
    }

    #[test]
    fn a_linked_container_has_its_own_name() {
        let summary = ContainerSummary {
            id: Some("c1".to_owned()),
            names: Some(vec!["/other/alias".to_owned(), "/own".to_owned()]),
            ..ContainerSummary::default()
        };
        assert_eq!(container(summary).unwrap().name, "own");
    }

    #[test]
    fn a_socket_must_be_a_path() {
        assert!(Docker::new("unix:///run/docker.sock").is_ok());
        assert!(matches!(Docker::new("tcp://127.0.0.1:1"), Err(DockerError::Socket { .. })));
    }
}
