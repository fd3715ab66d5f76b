//! An agent for tests: speaks the agent's REST surface on a Unix socket, keeps everything in memory, and can be told to
//! be slow. It knows just enough of the real one's rules to tell a right call from a wrong one.

use api::ErrorBody;
use api::docker::DockerEndpoints;
use api::endpoint::{Endpoint, EndpointChange, EndpointCreate, EndpointIdentity, EndpointLabels, EndpointPolicy};
use api::ipam::{Address, AddressRequest, Family, Pool, PoolRequest};
use api::network::Network;
use api::{EndpointState, Identity, Mac};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ipnetwork::IpNetwork;
use serde::Serialize;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_util::task::AbortOnDropHandle;

const NODE_V4: &str = "10.200.0.0/16";
pub(crate) const NODE_V6: &str = "fd00:200::/96";

#[derive(Default)]
pub(crate) struct World {
    pub(crate) networks: BTreeMap<String, Network>,
    pub(crate) pools: BTreeMap<String, Pool>,
    pub(crate) addresses: BTreeMap<IpAddr, AddressRequest>,
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
    pub(crate) changes: Vec<(String, EndpointChange)>,
    pub(crate) docker: Vec<DockerEndpoints>,
    requests: Vec<String>,
    /// How long requests with this text in their `METHOD path` take.
    slow: Option<(String, Duration)>,
    slow_labels: Option<Duration>,
}

/// Ends with the value.
pub(crate) struct FakeAgent {
    world: Arc<Mutex<World>>,
    _task: AbortOnDropHandle<()>,
}

impl FakeAgent {
    pub(crate) fn start(socket: &Path) -> FakeAgent {
        let listener = UnixListener::bind(socket).unwrap();
        let world = Arc::new(Mutex::new(World::default()));
        for (family, subnet) in [(Family::Ipv4, NODE_V4), (Family::Ipv6, NODE_V6)] {
            world.lock().unwrap().add_pool(family, subnet.parse().unwrap(), None, true);
        }
        let served = world.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let world = served.clone();
                let service = hyper::service::service_fn(move |request| serve(request, world.clone()));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        FakeAgent { world, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.world().requests.clone()
    }

    /// From now on changes that tell labels take this long.
    pub(crate) fn slow_labels(&self, by: Duration) {
        self.world().slow_labels = Some(by);
    }

    pub(crate) fn slow_down(&self, what: &str, by: Duration) {
        self.world().slow = Some((what.to_owned(), by));
    }
}

async fn serve(request: Request<Incoming>, world: Arc<Mutex<World>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri().path());
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let slow = {
        let world = world.lock().unwrap();
        let tells_labels = String::from_utf8_lossy(&body).contains("container-labels");
        let slow = world.slow.clone().filter(|(what, _)| line.contains(what)).map(|(_, by)| by);
        slow.or(world.slow_labels.filter(|_| tells_labels))
    };
    let answer = {
        let mut world = world.lock().unwrap();
        world.requests.push(line.clone());
        world.answer(&line, &body)
    };
    if let Some(by) = slow {
        tokio::time::sleep(by).await;
    }
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err((status, error)) => {
            (StatusCode::from_u16(status).unwrap(), serde_json::to_vec(&ErrorBody { error, details: vec![] }).unwrap())
        }
    };
    Ok(Response::builder().status(status).body(Full::new(body.into())).unwrap())
}

type Done = Result<Vec<u8>, (u16, String)>;

fn json(value: &impl Serialize) -> Done {
    Ok(serde_json::to_vec(value).unwrap())
}

fn unescape(segment: &str) -> String {
    segment.replace("%2F", "/")
}

impl World {
    fn answer(&mut self, line: &str, body: &[u8]) -> Done {
        let (method, path) = line.split_once(' ').unwrap();
        let segments: Vec<_> = path.trim_start_matches("/v1/").split('/').map(unescape).collect();
        let segments: Vec<_> = segments.iter().map(String::as_str).collect();
        match (method, segments.as_slice()) {
            ("GET", ["network"]) => json(&self.networks.values().collect::<Vec<_>>()),
            ("PUT", ["network", id]) => {
                let network: Network = serde_json::from_slice(body).unwrap();
                assert_eq!(network.id, *id);
                self.networks.insert(network.id.clone(), network);
                Ok(Vec::new())
            }
            ("DELETE", ["network", id]) => {
                self.networks.remove(*id);
                Ok(Vec::new())
            }
            ("GET", ["ipam", "pool"]) => json(&self.pools.values().collect::<Vec<_>>()),
            ("POST", ["ipam", "pool"]) => self.request_pool(serde_json::from_slice(body).unwrap()),
            ("DELETE", ["ipam", "pool", id]) => {
                self.release_pool(id);
                Ok(Vec::new())
            }
            ("POST", ["ipam", "address"]) => self.request_address(serde_json::from_slice(body).unwrap()),
            ("DELETE", ["ipam", "address", _, address]) => {
                self.addresses.remove(&address.parse().unwrap());
                Ok(Vec::new())
            }
            ("PUT", ["endpoint"]) => self.create_endpoint(serde_json::from_slice(body).unwrap()),
            ("GET", ["endpoint"]) => json(&self.endpoints.values().collect::<Vec<_>>()),
            (method, ["endpoint", id]) => self.endpoint(method, id.strip_prefix("docker-endpoint:").unwrap(), body),
            ("PUT", ["docker", "endpoints"]) => {
                self.docker.push(serde_json::from_slice(body).unwrap());
                Ok(Vec::new())
            }
            _ => Err((404, format!("no such path: {line}"))),
        }
    }

    fn endpoint(&mut self, method: &str, id: &str, body: &[u8]) -> Done {
        if method == "DELETE" {
            self.endpoints.remove(id);
            return Ok(Vec::new());
        }
        let found = self.endpoints.get_mut(id).ok_or((404, format!("endpoint {id} is not known")))?;
        if method == "PATCH" {
            let change: EndpointChange = serde_json::from_slice(body).unwrap();
            found.container_id = change.container_id.clone().or(found.container_id.take());
            found.container_name = change.container_name.clone().or(found.container_name.take());
            if change.container_labels.is_some() {
                found.state = EndpointState::Ready;
            }
            if let Some(published) = &change.published {
                found.published = published.clone();
            }
            self.changes.push((id.to_owned(), change));
        }
        json(found)
    }

    fn add_pool(&mut self, family: Family, subnet: IpNetwork, range: Option<IpNetwork>, node_pool: bool) -> &mut Pool {
        let id = if node_pool { format!("node-{family:?}") } else { subnet.to_string() };
        let gateway = subnet.iter().nth(1).unwrap_or(subnet.ip());
        let pool = Pool { id: id.clone(), family, subnet, range, gateway, node_pool, references: 0, allocated: 0 };
        self.pools.entry(id).or_insert(pool)
    }

    fn request_pool(&mut self, request: PoolRequest) -> Done {
        let node = if request.family == Family::Ipv4 { NODE_V4 } else { NODE_V6 }.parse().unwrap();
        let subnet = request.subnet.unwrap_or(node);
        let overlapping = self.pools.values().find(|pool| {
            pool.subnet != subnet && (pool.subnet.contains(subnet.ip()) || subnet.contains(pool.subnet.ip()))
        });
        if let Some(pool) = overlapping {
            return Err((409, format!("{subnet} overlaps {}", pool.subnet)));
        }
        let pool = self.add_pool(request.family, subnet, request.range, request.subnet.is_none());
        pool.references += 1;
        json(pool)
    }

    fn release_pool(&mut self, id: &str) {
        if let Some(pool) = self.pools.get_mut(id) {
            pool.references = pool.references.saturating_sub(1);
            if pool.references == 0 && !pool.node_pool {
                self.pools.remove(id);
            }
        }
    }

    fn request_address(&mut self, request: AddressRequest) -> Done {
        let pool = self.pools.get(&request.pool).ok_or((404, format!("pool {} is not known", request.pool)))?;
        let part = request.part.or(pool.range).unwrap_or(pool.subnet);
        let free = |address: &IpAddr| !self.addresses.contains_key(address);
        let address = match request.address {
            Some(address) if !pool.subnet.contains(address) => Err((400, format!("{address} is not in the pool"))),
            Some(address) => Some(address).filter(free).ok_or((409, format!("{address} is taken"))),
            None if request.gateway && !pool.node_pool => Ok(pool.gateway),
            None => part.iter().skip(2).find(free).ok_or((409, "the pool is full".to_owned())),
        }?;
        let answer = json(&Address { address, pool: request.pool.clone() });
        self.addresses.insert(address, request);
        answer
    }

    fn create_endpoint(&mut self, request: EndpointCreate) -> Done {
        let id = self.endpoints.len() as u16 + 1;
        let network = self.networks.get(&request.docker_network_id);
        let gateway = |subnet: Option<api::network::Subnet>| subnet.and_then(|subnet| subnet.gateway);
        let gateways = network.map(|network| (gateway(network.ipv4.clone()), gateway(network.ipv6.clone())));
        let (v4, v6) = gateways.unwrap_or_default();
        let endpoint = Endpoint {
            id,
            docker_endpoint_id: request.docker_endpoint_id.clone(),
            docker_network_id: request.docker_network_id,
            container_id: None,
            container_name: None,
            state: EndpointState::WaitingForIdentity,
            failure: None,
            identity: EndpointIdentity { id: Identity(5), labels: vec!["reserved:init".to_owned()] },
            labels: EndpointLabels::default(),
            ipv4: request.ipv4,
            ipv6: request.ipv6,
            gateway4: v4.and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None }),
            gateway6: v6.and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None }),
            mac: request.mac.unwrap_or(Mac([2, 0, 0, 0, 1, id as u8])),
            node_mac: Mac([2, 0, 0, 0, 2, id as u8]),
            interface_name: format!("lxc{id}"),
            peer_interface_name: format!("tmp{id}"),
            mtu: network.and_then(|network| network.mtu).unwrap_or(1500),
            policy: EndpointPolicy::default(),
            created: 0,
            published: Vec::new(),
        };
        json(self.endpoints.entry(request.docker_endpoint_id).or_insert(endpoint))
    }
}
