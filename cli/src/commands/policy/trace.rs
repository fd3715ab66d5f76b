//! `cilium policy trace`: the agent says what the rules make of a flow and why; for rules in files (`offline`) nobody
//! need be asked.

mod offline;

use super::super::Session;
use crate::agent::{Agent, Route};
use crate::failure::Failure;
use api::endpoint::Endpoint;
use api::identity::Identity;
use api::policy::{TraceRequest, TraceResult};
use clap::ArgGroup;

/// Ask what the rules make of a flow, and why
///
/// Several sources and destinations are asked about pairwise. Without --dport the question is whether all ports are
/// allowed.
#[derive(Debug, clap::Args)]
#[command(
    group(ArgGroup::new("source").args(["src", "src_identity", "src_endpoint", "src_address"]).required(true).multiple(true)),
    group(ArgGroup::new("destination").args(["dst", "dst_identity", "dst_endpoint", "dst_address", "dst_name"])
        .required(true).multiple(true)),
    after_help = "Examples:\n  cilium policy trace -s id=app2 -d id=app1 --dport 80/TCP\n  \
                  cilium policy trace --src-endpoint container-name:app3 --dst-identity 261 -v\n  \
                  cilium policy trace --policy web.yaml -s id=app2 -d id=app1 --dport 80/TCP --http 'GET /public'")]
pub struct Args {
    /// Labels of the source
    #[arg(short, long, value_name = "LABEL", value_delimiter = ',')]
    src: Vec<String>,
    /// Identity of a source
    #[arg(long, value_name = "NUMBER")]
    src_identity: Vec<u32>,
    /// Endpoint that is a source
    #[arg(long, value_name = "ENDPOINT")]
    src_endpoint: Vec<String>,
    /// Labels of the destination
    #[arg(short, long, value_name = "LABEL", value_delimiter = ',')]
    dst: Vec<String>,
    /// Identity of a destination
    #[arg(long, value_name = "NUMBER")]
    dst_identity: Vec<u32>,
    /// Endpoint that is a destination
    #[arg(long, value_name = "ENDPOINT")]
    dst_endpoint: Vec<String>,
    /// Destination port, such as 80/TCP, 53/UDP, or 80 for any protocol; each must be allowed
    #[arg(long, value_name = "PORT[/PROTOCOL]", value_delimiter = ',')]
    dport: Vec<String>,
    /// Tell about rules that do not apply, too
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    offline: offline::Args,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        if self.offline.is_given() {
            let answers = offline::answers(&self)?;
            return match (session.out.is_json(), answers.as_slice()) {
                (true, [only]) => session.out.json(only),
                (true, all) => session.out.json(all),
                (false, all) => all.iter().try_for_each(|answer| session.out.text(&answer.log)),
            };
        }
        let sources = peers(&session.agent, &self.src, &self.src_identity, &self.src_endpoint).await?;
        let destinations = peers(&session.agent, &self.dst, &self.dst_identity, &self.dst_endpoint).await?;
        let mut results: Vec<TraceResult> = Vec::new();
        for from in &sources {
            for to in &destinations {
                let request = TraceRequest {
                    from: from.clone(),
                    to: to.clone(),
                    dports: self.dport.clone(),
                    verbose: self.verbose,
                };
                results.push(session.agent.post("trace policy", api::routes::POLICY_TRACE, &request).await?);
            }
        }
        match (session.out.is_json(), results.as_slice()) {
            (true, [only]) => session.out.json(only),
            (true, all) => session.out.json(all),
            (false, all) => all.iter().try_for_each(|result| session.out.text(&text(result))),
        }
    }
}

/// One set of labels for each thing that was named.
async fn peers(
    agent: &Agent,
    labels: &[String],
    identities: &[u32],
    endpoints: &[String],
) -> Result<Vec<Vec<String>>, Failure> {
    let mut peers = Vec::new();
    if !labels.is_empty() {
        peers.push(labels.to_vec());
    }
    for id in identities {
        let route = Route::new(api::routes::IDENTITY).part(id);
        let identity: Identity = agent.get(&format!("get identity {id}"), route).await?;
        peers.push(identity.labels);
    }
    for id in endpoints {
        let route = Route::new(api::routes::ENDPOINT).part(id);
        let endpoint: Endpoint = agent.get(&format!("get endpoint {id}"), route).await?;
        peers.push(endpoint.identity.labels);
    }
    Ok(peers)
}

/// A line, the log, the verdict; the agent's log may bring the line and the verdict along.
fn text(result: &TraceResult) -> String {
    let line = "-".repeat(64);
    let log = result.log.trim_end();
    let line = if log.starts_with(&line) { String::new() } else { line + "\n" };
    let verdict = format!("Final verdict: {}", result.verdict.to_uppercase());
    let verdict = if log.ends_with(&verdict) { String::new() } else { format!("\n\n{verdict}") };
    format!("{line}{log}{verdict}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_log_verdict() {
        let result = TraceResult { log: "Tracing\nIngress verdict: denied\n".into(), verdict: "denied".into() };
        let line = "-".repeat(64);
        let whole = format!("{line}\nTracing\nIngress verdict: denied\n\nFinal verdict: DENIED\n");
        assert_eq!(text(&result), whole);
        assert_eq!(text(&TraceResult { log: whole.clone(), ..result }), whole);
    }
}
