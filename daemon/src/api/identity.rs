//! `/v1/identity…` and `/v1/ip`: numbers, what they stand for, and who lives where.

use super::{Refusal, answer};
use crate::agent::Agent;
use crate::api::query::Query;
use crate::server::{Body, json};
use ::api::identity as shape;
use hyper::{Response, StatusCode};
use model::labels::SOURCE_ANY;
use model::{Identity, Label, Labels};
use state::{IdentityView, Outputs};

/// `GET /v1/identity`
pub fn list(agent: &Agent, mut query: Query) -> Result<Response<Body>, Refusal> {
    let wanted = selectors(&query.all("label"))?;
    let outputs = agent.snapshot();
    let identities = outputs.view.identities.iter().filter(|(_, view)| has_all(&view.labels, &wanted));
    let identities: Vec<_> = identities.map(|(id, view)| shape_of(id, view)).collect();
    answer(query, &identities)
}

/// `GET /v1/identity/{id}`
pub fn get(agent: &Agent, id: &str) -> Result<Response<Body>, Refusal> {
    let number = id.parse::<u32>().map(Identity);
    let number = number.map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, format!("{id:?} is no identity number")))?;
    match agent.snapshot().view.identities.get(&number) {
        Some(view) => Ok(json(StatusCode::OK, &shape_of(number, view))),
        None => Err(Refusal::new(StatusCode::NOT_FOUND, format!("there is no identity {number}"))),
    }
}

/// All identities as the API shows them.
pub fn shapes(outputs: &Outputs) -> Vec<shape::Identity> {
    outputs.view.identities.iter().map(|(id, view)| shape_of(id, view)).collect()
}

fn shape_of(id: Identity, view: &IdentityView) -> shape::Identity {
    shape::Identity {
        id: id.0,
        labels: view.labels.iter().map(ToString::to_string).collect(),
        labels_sha256: view.labels.sha256(),
        ref_count: view.references,
    }
}

/// `GET /v1/ip`
pub fn ips(agent: &Agent, query: Query) -> Result<Response<Body>, Refusal> {
    let outputs = agent.snapshot();
    let labels = |identity: &Identity| -> Vec<String> {
        let known = outputs.names.identities.get(identity);
        known.map(|labels| labels.iter().map(ToString::to_string).collect()).unwrap_or_default()
    };
    let rows = outputs.view.ips.iter().map(|(prefix, row)| shape::IpEntry {
        ip: prefix.to_string(),
        identity: row.identity.0,
        labels: labels(&row.identity),
        source: row.source.as_str().to_owned(),
        host: row.node.map(|node| node.to_string()),
    });
    answer(query, &rows.collect::<Vec<_>>())
}

/// Labels to filter by, as users write them; one without a source means any source.
pub fn selectors(texts: &[String]) -> Result<Vec<Label>, Refusal> {
    let parse = |text: &String| {
        Label::parse(text, SOURCE_ANY).map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))
    };
    texts.iter().map(parse).collect()
}

/// Whether the set has a label for each of the wanted ones.
pub fn has_all(labels: &Labels, wanted: &[Label]) -> bool {
    wanted.iter().all(|wanted| {
        labels.iter().any(|label| {
            label.key == wanted.key
                && label.value == wanted.value
                && (wanted.source == SOURCE_ANY || wanted.source == label.source)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_without_a_source_means_any() {
        let labels: Labels = [Label::new("container", "id", "app1"), Label::new("k8s", "x", "")].into_iter().collect();
        let matches = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            has_all(&labels, &selectors(&texts).unwrap())
        };
        assert!(matches(&[]) && matches(&["id=app1"]) && matches(&["container:id=app1", "x"]));
        assert!(!matches(&["k8s:id=app1"]) && !matches(&["id=app2"]) && !matches(&["id=app1", "y"]));
        assert!(selectors(&["=x".to_owned()]).is_err());
    }
}
