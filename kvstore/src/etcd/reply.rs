//! What a failed call to one server means: whether it was sent, whether another server may know better, and how it is
//! told to the caller.

use std::sync::Arc;

use crate::{Error, LeaseId, Operation};

// gRPC status codes.
const CANCELLED: i32 = 1;
const UNKNOWN: i32 = 2;
const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;
const INTERNAL: i32 = 13;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

/// A failed call, by what can be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The server never acted on it: ask another one.
    NotSent,
    /// The connection or the server failed half-way: it may have acted.
    Broken,
    /// It does not know us or does not let us.
    Denied,
    /// It has no room.
    Full,
    LeaseNotFound,
    Compacted,
    /// It answered with a refusal of another kind.
    Refused,
}

/// One server's failure, in words.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {text}")]
pub(super) struct Reply {
    address: String,
    text: String,
}

impl Reply {
    pub(super) fn new(address: &str, text: impl Into<String>) -> Reply {
        Reply { address: address.to_owned(), text: text.into() }
    }

    pub(super) fn from_error(address: &str, error: &etcd_client::Error) -> Reply {
        Reply::new(address, text(error))
    }

    /// The error that the caller gets.
    pub(super) fn error(self, kind: Kind, operation: Operation, key: &str) -> Error {
        let (key, source) = (key.to_owned(), Arc::new(self));
        match kind {
            Kind::NotSent | Kind::Broken => Error::Unavailable { operation, key, source },
            Kind::Denied => Error::Denied { operation, key, source },
            Kind::Full => Error::Storage { operation, key, source },
            Kind::Refused => Error::Server { operation, key, source },
            Kind::LeaseNotFound => Error::LeaseNotFound { operation, lease: LeaseId(0) },
            Kind::Compacted => Error::Compacted { prefix: key, from: 0 },
        }
    }
}

/// The message and the root of its cause: what lies between says "transport error" in several ways.
fn text(error: &etcd_client::Error) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else { return error.to_string() };
    let mut root: Option<&dyn std::error::Error> = None;
    let mut next = std::error::Error::source(status);
    while let Some(cause) = next {
        root = Some(cause);
        next = cause.source();
    }
    match root.map(ToString::to_string) {
        Some(root) if root != status.message() => format!("{}: {root}", status.message()),
        _ => status.message().to_owned(),
    }
}

pub(super) fn kind(error: &etcd_client::Error) -> Kind {
    use etcd_client::Error as E;
    match error {
        E::GRpcStatus(status) => {
            let by_us = std::error::Error::source(status).is_some();
            kind_of_status(status.code() as i32, status.message(), by_us, &text(error))
        }
        E::TransportError(_) | E::IoError(_) | E::EndpointError(_) => Kind::NotSent,
        E::LeaseKeepAliveError(text) if text.contains("lease not found") => Kind::LeaseNotFound,
        E::WatchError(_) | E::LeaseKeepAliveError(_) | E::Internal(_) => Kind::Broken,
        _ => Kind::Refused,
    }
}

/// `by_us`: the status was made on this side, from an error of the connection.
fn kind_of_status(code: i32, message: &str, by_us: bool, text: &str) -> Kind {
    match code {
        // On this side it stands for a connection that was not made, except where a live one stopped answering.
        UNAVAILABLE if by_us && !text.contains("keep-alive timed out") => Kind::NotSent,
        UNAVAILABLE if message.contains("no leader") => Kind::NotSent,
        RESOURCE_EXHAUSTED if message.contains("too many requests") => Kind::NotSent,
        RESOURCE_EXHAUSTED if message.contains("space exceeded") => Kind::Full,
        // Users or roles were changed since our token was made: the next connection gets another.
        INVALID_ARGUMENT if message.contains("revision of auth store is old") => Kind::NotSent,
        UNAUTHENTICATED | PERMISSION_DENIED => Kind::Denied,
        // A wrong password is an invalid argument, and a user where there are none a failed precondition.
        INVALID_ARGUMENT if message.contains("authentication") || message.contains("user name") => Kind::Denied,
        FAILED_PRECONDITION if message.contains("authentication") || message.contains("user") => Kind::Denied,
        NOT_FOUND if message.contains("lease not found") => Kind::LeaseNotFound,
        OUT_OF_RANGE if message.contains("compacted") || message.contains("future revision") => Kind::Compacted,
        UNKNOWN if !by_us && message.starts_with("etcdserver:") => Kind::Refused,
        UNAVAILABLE | CANCELLED | UNKNOWN | DEADLINE_EXCEEDED | INTERNAL => Kind::Broken,
        _ => Kind::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_sent_may_go_elsewhere() {
        let us = |text| kind_of_status(UNAVAILABLE, "tcp connect error", true, text);
        assert_eq!(us("tcp connect error: Connection refused"), Kind::NotSent);
        assert_eq!(us("transport: keep-alive timed out"), Kind::Broken);
        let server = |code, message| kind_of_status(code, message, false, message);
        assert_eq!(server(UNAVAILABLE, "etcdserver: no leader"), Kind::NotSent);
        assert_eq!(server(UNAVAILABLE, "etcdserver: request timed out"), Kind::Broken);
        assert_eq!(server(UNAVAILABLE, "etcdserver: leader changed"), Kind::Broken);
    }

    #[test]
    fn refusals_are_told_apart() {
        let server = |code, message| kind_of_status(code, message, false, message);
        assert_eq!(
            server(INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password"),
            Kind::Denied
        );
        assert_eq!(server(INVALID_ARGUMENT, "etcdserver: user name is empty"), Kind::Denied);
        assert_eq!(server(INVALID_ARGUMENT, "etcdserver: revision of auth store is old"), Kind::NotSent);
        assert_eq!(server(INVALID_ARGUMENT, "etcdserver: request is too large"), Kind::Refused);
        assert_eq!(server(RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"), Kind::Full);
        assert_eq!(server(OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"), Kind::Compacted);
        assert_eq!(server(OUT_OF_RANGE, "decoded message length too large"), Kind::Refused);
    }
}
