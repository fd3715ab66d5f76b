//! `cilium service import`: the services of files. What a document may say is the agent's business; here it is read, and a
//! fault is told with the file that it is in.

use super::route;
use crate::commands::Session;
use crate::failure::Failure;
use api::ClientError;
use api::service::Imported;
use serde_json::Value;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

/// Each service is stored by itself, and a file may have ten thousand.
const LIMIT: Duration = Duration::from_secs(600);

/// Make or change the services of files; nothing is changed unless all of them are sound
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Documents are Kubernetes' Service, Endpoints and EndpointSlice; a Service may list its backends itself."
)]
pub struct Args {
    /// Files in JSON or YAML, or - for standard input
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let (mut documents, mut names) = (Vec::new(), Vec::new());
        for path in &self.paths {
            let name = if path.as_os_str() == "-" { "standard input".to_owned() } else { path.display().to_string() };
            let text = read(path).map_err(|source| Failure::Read { name: name.clone(), source })?;
            let values = policy::read_values(&text, &policy::Limits::default())
                .map_err(|message| Failure::Policy { title: format!("Cannot parse {name}:"), faults: vec![message] })?;
            names.extend(values.iter().map(|_| name.clone()));
            documents.extend(values);
        }
        if documents.is_empty() {
            return Err(Failure::Usage("there is no service in the files".to_owned()));
        }
        let answer = session.agent.patient(LIMIT).put("import services", route(), &Value::Array(documents)).await;
        let imported: Imported = answer.map_err(|failure| with_names(failure, &names))?;
        if session.out.is_json() {
            return session.out.json(&imported);
        }
        for service in &imported.services {
            let done = match (service.created, service.changed) {
                (true, _) => "created",
                (false, true) => "updated",
                (false, false) => "unchanged",
            };
            let ids: Vec<String> = service.ids.iter().map(ToString::to_string).collect();
            let line = format!("Service {}/{} {done}, ids {}", service.namespace, service.name, ids.join(", "));
            session.out.line(line)?;
        }
        Ok(())
    }
}

fn read(path: &PathBuf) -> std::io::Result<String> {
    if path.as_os_str() != "-" {
        return std::fs::read_to_string(path);
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// The agent counts documents; people have files.
fn with_names(failure: Failure, names: &[String]) -> Failure {
    let Failure::Agent { source: ClientError::Refused { body, .. }, .. } = &failure else { return failure };
    if body.details.is_empty() {
        return failure;
    }
    let fault = |fault: &api::Fault| {
        let name = fault.path.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let name = name.and_then(|(n, _)| names.get(n.parse::<usize>().ok()?));
        let name = name.map(|name| format!("{name}: ")).unwrap_or_default();
        format!("{name}{}: {}", fault.path, fault.message)
    };
    let faults = body.details.iter().map(fault).collect();
    Failure::Policy { title: format!("Cannot import services: {}", body.error), faults }
}
