//! The agent as commands see it: every call says in words what it is for, so that a refusal reads well. The wire is
//! `api::Client`'s business.

use crate::failure::Failure;
use api::client::Lines;
use api::{Client, ClientError};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone)]
pub struct Agent {
    client: Client,
    socket: PathBuf,
    debug: bool,
}

impl Agent {
    /// With `debug` each call is told on standard error.
    pub fn new(socket: &Path, debug: bool) -> Agent {
        Agent { client: Client::new(socket, LIMIT), socket: socket.to_owned(), debug }
    }

    /// The same agent, waited for longer.
    pub fn patient(&self, limit: Duration) -> Agent {
        Agent { client: Client::new(&self.socket, limit), ..self.clone() }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `what` completes the sentence "Cannot …".
    pub async fn get<T: DeserializeOwned>(&self, what: &str, path: impl fmt::Display) -> Result<T, Failure> {
        self.try_get(path).await.map_err(|source| Failure::Agent { what: what.to_owned(), source })
    }

    /// `get` for callers with words of their own for failures.
    pub async fn try_get<T: DeserializeOwned>(&self, path: impl fmt::Display) -> Result<T, ClientError> {
        let path = path.to_string();
        self.told("GET", &path, self.client.get(&path)).await
    }

    pub async fn put<T: DeserializeOwned>(
        &self,
        what: &str,
        path: impl fmt::Display,
        body: &(impl Serialize + ?Sized),
    ) -> Result<T, Failure> {
        let path = path.to_string();
        let answer = self.told("PUT", &path, self.client.put(&path, &body)).await;
        answer.map_err(|source| Failure::Agent { what: what.to_owned(), source })
    }

    pub async fn post<T: DeserializeOwned>(
        &self,
        what: &str,
        path: impl fmt::Display,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let path = path.to_string();
        let answer = self.told("POST", &path, self.client.post(&path, body)).await;
        answer.map_err(|source| Failure::Agent { what: what.to_owned(), source })
    }

    pub async fn patch<T: DeserializeOwned>(
        &self,
        what: &str,
        path: impl fmt::Display,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let path = path.to_string();
        let answer = self.told("PATCH", &path, self.client.patch(&path, body)).await;
        answer.map_err(|source| Failure::Agent { what: what.to_owned(), source })
    }

    pub async fn delete<T: DeserializeOwned>(&self, what: &str, path: impl fmt::Display) -> Result<T, Failure> {
        let path = path.to_string();
        let answer = self.told("DELETE", &path, self.client.delete(&path)).await;
        answer.map_err(|source| Failure::Agent { what: what.to_owned(), source })
    }

    /// The answer as text.
    pub async fn text(&self, what: &str, path: &str) -> Result<String, Failure> {
        let answer = self.told("GET", path, self.client.text(path)).await;
        answer.map_err(|source| Failure::Agent { what: what.to_owned(), source })
    }

    pub async fn stream(&self, what: &str, path: &str) -> Result<Lines, Failure> {
        let answer = self.told("GET", path, self.client.stream(path)).await;
        answer.map_err(|source| Failure::Agent { what: what.to_owned(), source })
    }

    async fn told<T>(
        &self,
        method: &str,
        path: &str,
        call: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let started = Instant::now();
        let answer = call.await;
        if self.debug {
            let outcome = match &answer {
                Ok(_) => "ok".to_owned(),
                Err(error) => error.status().map_or_else(|| "failed".to_owned(), |status| status.to_string()),
            };
            let took = started.elapsed();
            // Nothing is lost when standard error is closed: this is talk beside the result.
            let _ = writeln!(anstream::stderr(), "{method} {path}: {outcome} after {took:.1?}");
        }
        answer
    }
}

/// What need not be encoded in a path's part or a query's value.
const ENCODED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// A request's path with its query.
pub struct Route {
    text: String,
    queried: bool,
}

impl Route {
    pub fn new(base: &str) -> Route {
        Route { text: base.to_owned(), queried: false }
    }

    /// One more part of the path.
    pub fn part(mut self, part: impl fmt::Display) -> Route {
        self.text.push('/');
        self.text.extend(utf8_percent_encode(&part.to_string(), &ENCODED));
        self
    }

    pub fn query(mut self, name: &str, value: &str) -> Route {
        self.text.push(if self.queried { '&' } else { '?' });
        self.text.extend([name, "="]);
        self.text.extend(utf8_percent_encode(value, &ENCODED));
        self.queried = true;
        self
    }

    /// `name=true` when `set`.
    pub fn flag(self, name: &str, set: bool) -> Route {
        if set { self.query(name, "true") } else { self }
    }

    /// `label=…` for each.
    pub fn labels(self, labels: &[String]) -> Route {
        labels.iter().fold(self, |route, label| route.query("label", label))
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_encoded() {
        let route = Route::new("/v1/endpoint").part("container-name:a/b?c");
        assert_eq!(route.to_string(), "/v1/endpoint/container-name:a%2Fb%3Fc");
        let route =
            Route::new("/v1/policy").labels(&["a=b&c".into(), "k8s:d e".into()]).flag("wait", true).flag("x", false);
        assert_eq!(route.to_string(), "/v1/policy?label=a%3Db%26c&label=k8s:d%20e&wait=true");
    }
}
