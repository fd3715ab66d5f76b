//! `/v1/kvstore`: the store through the agent, below `cilium/` only.
//!
//! For looking and for repairs. A key that the agent owns is put back by its reconcilers when it was changed here.

use super::{Refusal, Request, answer, done};
use crate::agent::Agent;
use crate::api::query::Query;
use crate::controllers::causes;
use crate::server::Body;
use ::api::kvstore as shape;
use ::kvstore::{Entry, Error};
use hyper::{Response, StatusCode};

/// `GET /v1/kvstore?key=…[&recursive=true]`
pub async fn get(agent: &Agent, mut query: Query) -> Result<Response<Body>, Refusal> {
    let (recursive, key) = (query.flag("recursive")?, query.one("key")?.unwrap_or_default());
    if recursive {
        let listing = agent.kvstore.list(&key).await.map_err(refusal)?;
        return answer(query, &listing.entries.into_iter().map(shape_of).collect::<Vec<_>>());
    }
    if key.is_empty() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "the parameter key is missing"));
    }
    match agent.kvstore.get(&key).await.map_err(refusal)? {
        Some(entry) => answer(query, &[shape_of(entry)]),
        None => Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is no key {key:?}"))),
    }
}

/// `PUT /v1/kvstore?key=…`
pub async fn put(agent: &Agent, mut request: Request) -> Result<Response<Body>, Refusal> {
    let key = own_key(request.query.required("key")?)?;
    let body: shape::Value = request.json()?;
    request.query.finish()?;
    agent.kvstore.put(&key, body.value.into_bytes(), None).await.map_err(refusal)?;
    Ok(done())
}

/// `DELETE /v1/kvstore?key=…[&recursive=true]`: a key that is not there is a success.
pub async fn delete(agent: &Agent, mut query: Query) -> Result<Response<Body>, Refusal> {
    let (recursive, key) = (query.flag("recursive")?, own_key(query.required("key")?)?);
    query.finish()?;
    if recursive {
        agent.kvstore.delete_prefix(&key).await.map_err(refusal)?;
    } else {
        agent.kvstore.delete(&key).await.map_err(refusal)?;
    }
    Ok(done())
}

/// Changes are possible in our part of a shared store only, and never in the local records: those are written from the
/// state alone.
fn own_key(key: String) -> Result<String, Refusal> {
    if !key.starts_with(::kvstore::keys::ROOT) {
        let message = format!("{key:?} is not below {:?}: the rest of the store is not ours", ::kvstore::keys::ROOT);
        return Err(Refusal::new(StatusCode::FORBIDDEN, message));
    }
    if key.starts_with(state::RECORDS_PREFIX) || state::RECORDS_PREFIX.starts_with(&key) {
        let message =
            format!("what is below {:?} is the agent's own memory and not for editing", state::RECORDS_PREFIX);
        return Err(Refusal::new(StatusCode::FORBIDDEN, message));
    }
    Ok(key)
}

fn shape_of(entry: Entry) -> shape::Entry {
    shape::Entry { key: entry.key, value: readable(&entry.value), revision: entry.revision }
}

/// Text as it is; bytes that are none as `\xNN`.
fn readable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

fn refusal(error: Error) -> Refusal {
    let status = match &error {
        Error::Invalid { .. } => StatusCode::BAD_REQUEST,
        error if error.is_unavailable() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal::new(status, causes(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_part_can_be_changed() {
        let allowed = |key: &str| own_key(key.to_owned()).is_ok();
        assert!(allowed("cilium/state/x") && allowed("cilium/state/"));
        for key in ["registry/x", "cilium", "cilium/", "cilium/local/", "cilium/local/endpoints/1", "cilium/lo"] {
            assert!(!allowed(key), "{key}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_shown() {
        assert_eq!(readable(b"a\xffb\xc3"), "a\\xffb\\xc3");
        assert_eq!(readable("ä".as_bytes()), "ä");
    }
}
