//! `cilium endpoint get`: everything about endpoints; JSON is the only sensible form.

use super::super::Session;
use crate::agent::Route;
use crate::failure::Failure;
use api::endpoint::Endpoint;

/// Show everything about endpoints, as a JSON list
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cilium endpoint get 4521\n  cilium endpoint get container-name:app1\n  \
                        cilium endpoint get -l container:id=app1")]
pub struct Args {
    /// Numbers, or docker-endpoint:ID, container-id:ID, container-name:NAME, ipv4:IP, ipv6:IP
    #[arg(value_name = "ENDPOINT", required_unless_present = "labels")]
    ids: Vec<String>,
    /// All endpoints that have these labels
    #[arg(short, long, value_name = "LABEL", value_delimiter = ',', conflicts_with = "ids")]
    labels: Vec<String>,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        if self.labels.is_empty() {
            for id in &self.ids {
                endpoints.push(session.agent.get(&format!("get endpoint {id}"), super::route(id)).await?);
            }
        } else {
            let route = Route::new(api::routes::ENDPOINT).labels(&self.labels);
            endpoints = session.agent.get("find endpoints by labels", route).await?;
            endpoints.sort_by_key(|endpoint| endpoint.id);
            if endpoints.is_empty() {
                return Err(Failure::NoEndpoint(self.labels.join(", ")));
            }
        }
        session.out.json(&endpoints)
    }
}
