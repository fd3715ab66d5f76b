//! How requests reach Docker: without a version in the path, which every engine takes as its own newest one. So there is
//! nothing to negotiate, and nothing to forget when another engine takes the socket over.

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, BollardRequest};
use hyper::Uri;
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::net::UnixStream;

/// Seconds until a request without an answer fails. Calls that Docker waits for have far tighter limits of their own.
const LIMIT_S: u64 = 10;

pub(super) fn client(socket: &str) -> Result<bollard::Docker, Error> {
    let path: Arc<str> = socket.into();
    let send = move |request: BollardRequest| send(path.clone(), request);
    bollard::Docker::connect_with_custom_transport(send, Some("http://docker"), LIMIT_S, API_DEFAULT_VERSION)
}

async fn send(socket: Arc<str>, request: BollardRequest) -> Result<hyper::Response<Incoming>, Error> {
    let stream = UnixStream::connect(&*socket).await?;
    let (mut parts, body) = request.into_parts();
    parts.uri = unversioned(&parts.uri)?;
    parts.headers.insert(HOST, HeaderValue::from_static("docker"));
    let request = hyper::Request::from_parts(parts, body);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the answer's last byte, or when the answer is dropped.
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?)
}

fn unversioned(uri: &Uri) -> Result<Uri, hyper::http::uri::InvalidUri> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut segments = path.splitn(3, '/');
    let (_, first, rest) = (segments.next(), segments.next().unwrap_or_default(), segments.next());
    match (is_version(first), rest) {
        (true, Some(rest)) => format!("/{rest}").parse(),
        _ => path.parse(),
    }
}

/// `v1.41`
fn is_version(segment: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    segment.strip_prefix('v').and_then(|version| version.split_once('.')).is_some_and(|(a, b)| digits(a) && digits(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_goes_and_all_else_stays() {
        for (given, expected) in [
            ("http://docker/v1.53/networks/ab?verbose=false", "/networks/ab?verbose=false"),
            ("http://docker/networks/v1.2", "/networks/v1.2"),
            ("http://docker/volumes", "/volumes"),
            ("http://docker", "/"),
        ] {
            assert_eq!(unversioned(&given.parse().unwrap()).unwrap().to_string(), expected);
        }
    }
}
