//! What a client asks for once its connection stands.

use super::http::HttpRequest;
use super::kafka::KafkaRequest;
use super::name::Name;
use std::fmt;

#[derive(Clone)]
pub enum Request<'a> {
    Http {
        request: HttpRequest<'a>,
        /// The name in the TLS hello before it; `None`: the request came without TLS, or its hello named nobody.
        server_name: Option<Name>,
    },
    Kafka(KafkaRequest<'a>),
    /// The name that is asked for.
    Dns(Name),
    /// A TLS hello for this name.
    Hello(Name),
}

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Http { request, .. } => {
                let host = if request.host.is_empty() { String::new() } else { format!(" of {}", request.host) };
                write!(f, "{} {}{host}", request.method, request.path)
            }
            Request::Kafka(request) => {
                let kind = usize::try_from(request.api_key).ok().and_then(|key| super::kafka::API_KEYS.get(key));
                write!(f, "{}", kind.map_or_else(|| request.api_key.to_string(), |kind| (*kind).to_owned()))?;
                if request.topics.is_empty() { Ok(()) } else { write!(f, " of {}", request.topics.join(", ")) }
            }
            Request::Dns(name) => write!(f, "the question for {name}"),
            Request::Hello(name) => write!(f, "the TLS hello for {name}"),
        }
    }
}
