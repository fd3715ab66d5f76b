//! A Docker API for tests: answers what [`crate::docker`] asks, from a world that the test sets up.

use bytes::Bytes;
use futures::StreamExt;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::task::AbortOnDropHandle;

#[derive(Default)]
pub(crate) struct World {
    /// By id, as `GET /networks/<id>` answers.
    pub(crate) networks: BTreeMap<String, Value>,
    /// As `GET /containers/json` lists them.
    pub(crate) containers: Vec<Value>,
    /// Connections are taken and nothing is answered, as while an engine starts.
    pub(crate) mute: bool,
}

/// Ends with the value.
pub(crate) struct FakeDocker {
    world: Arc<Mutex<World>>,
    events: broadcast::Sender<String>,
    _task: AbortOnDropHandle<()>,
}

impl FakeDocker {
    pub(crate) fn start(socket: &Path) -> FakeDocker {
        let listener = UnixListener::bind(socket).unwrap();
        let world = Arc::new(Mutex::new(World::default()));
        let (events, _) = broadcast::channel(16);
        let (served, told) = (world.clone(), events.clone());
        let task = tokio::spawn(async move {
            // Ends them with itself.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (world, events) = (served.clone(), told.clone());
                let service = hyper::service::service_fn(move |request| serve(request, world.clone(), events.clone()));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move { drop(connection.await) });
            }
        });
        FakeDocker { world, events, _task: AbortOnDropHandle::new(task) }
    }

    pub(crate) fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Whether anybody follows the events.
    pub(crate) fn followed(&self) -> bool {
        self.events.receiver_count() > 0
    }

    pub(crate) fn happen(&self, event: Value) {
        self.events.send(format!("{event}\n")).unwrap();
    }

    /// A network of our driver with one container on it.
    pub(crate) fn attach(&self, network: &str, endpoint: &str, key: &str, container: Value) {
        let mut world = self.world();
        let name = container["Names"][0].as_str().unwrap().trim_start_matches('/').to_owned();
        let listed = world.networks.entry(network.to_owned()).or_insert_with(|| self::network(network, json!([])));
        listed["Containers"][key] = json!({"Name": name, "EndpointID": endpoint, "MacAddress": "", "IPv4Address": ""});
        world.containers.push(container);
    }
}

/// What an engine tells of a network of our driver.
pub(crate) fn network(id: &str, subnets: Value) -> Value {
    json!({"Name": "net", "Id": id, "Driver": "cilium", "Internal": false, "EnableIPv6": false, "Containers": {},
           "IPAM": {"Driver": "cilium", "Options": {}, "Config": subnets}, "Options": {}, "Labels": {}})
}

async fn serve(
    request: Request<Incoming>,
    world: Arc<Mutex<World>>,
    events: broadcast::Sender<String>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    if world.lock().unwrap().mute {
        std::future::pending::<()>().await;
    }
    let (path, query) = (request.uri().path().to_owned(), request.uri().query().unwrap_or_default().to_owned());
    if path == "/events" {
        let lines = BroadcastStream::new(events.subscribe());
        let frames = lines.map(|line| Ok(Frame::data(Bytes::from(line.unwrap_or_default()))));
        return Ok(Response::new(BodyExt::boxed(StreamBody::new(frames))));
    }
    let world = world.lock().unwrap();
    let answer = match path.as_str() {
        "/version" => Some(json!({"Version": "0.0-fake"})),
        "/networks" => Some(world.networks.values().cloned().collect()),
        "/containers/json" => Some(world.containers.iter().filter(|found| matches(found, &query)).cloned().collect()),
        path => path.strip_prefix("/networks/").and_then(|id| world.networks.get(id).cloned()),
    };
    let status = if answer.is_some() { 200 } else { 404 };
    let body = answer.unwrap_or_else(|| json!({"message": "no such thing"})).to_string();
    Ok(Response::builder().status(status).body(Full::new(Bytes::from(body)).boxed()).unwrap())
}

/// All are at rest. The filter by id is exact; that by name is a pattern, of which just the dot is known here.
fn matches(container: &Value, query: &str) -> bool {
    let names = container["Names"].as_array().unwrap();
    let like = |name: &Value| {
        let name = name.as_str().unwrap().trim_start_matches('/');
        let pattern = query.split("%5E%2F").nth(1).and_then(|rest| rest.split("%24").next());
        pattern.is_some_and(|pattern| {
            pattern.len() == name.len() && pattern.bytes().zip(name.bytes()).all(|(p, n)| p == b'.' || p == n)
        })
    };
    query.contains("status") || query.contains(container["Id"].as_str().unwrap()) || names.iter().any(like)
}
