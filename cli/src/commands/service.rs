//! `cilium service …`: addresses that stand for several backends.

mod import;
mod update;

use super::Session;
use crate::agent::Route;
use crate::failure::Failure;
use crate::render::{Layout, Page, Table};
use api::service::{BackendAddress, Service, ServiceSpec};
use std::net::SocketAddr;

/// Show, make and delete services: addresses that stand for several backends
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List services: numbers, frontends, types and backends
    List,
    Get(Get),
    Update(Box<update::Args>),
    Delete(Delete),
    Import(import::Args),
}

/// Show one service
#[derive(Debug, clap::Args)]
pub struct Get {
    /// Its number
    id: u32,
}

/// Delete a service, everywhere
#[derive(Debug, clap::Args)]
pub struct Delete {
    /// Its number
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    id: Option<u32>,
    /// Delete all services of the cluster; published ports stay
    #[arg(long)]
    all: bool,
}

impl Command {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Command::List => list(session).await,
            Command::Get(args) => args.run(session).await,
            Command::Update(args) => args.run(session).await,
            Command::Delete(args) => args.run(session).await,
            Command::Import(args) => args.run(session).await,
        }
    }
}

fn route() -> Route {
    Route::new(api::routes::SERVICE)
}

async fn all(session: &Session) -> Result<Vec<Service>, Failure> {
    let mut services: Vec<Service> = session.agent.get("list services", route()).await?;
    services.sort_by_key(|service| service.spec.id);
    Ok(services)
}

async fn list(session: &mut Session) -> Result<(), Failure> {
    let services = all(session).await?;
    session.out.show(&services, |services| table(services).into())
}

impl Get {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let what = format!("get service {}", self.id);
        let service: Service = session.agent.get(&what, route().part(self.id)).await?;
        session.out.show(&service, page)
    }
}

impl Delete {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let ids = match self.id {
            Some(id) => vec![id],
            None => all(session).await?.iter().filter(|service| !is_published(&service.spec)).map(id).collect(),
        };
        for id in ids {
            let what = format!("delete service {id}");
            session.agent.delete::<serde_json::Value>(&what, route().part(id)).await?;
            session.out.line(format!("Service {id} deleted successfully"))?;
        }
        Ok(())
    }
}

fn id(service: &Service) -> u32 {
    service.spec.id
}

fn is_published(spec: &ServiceSpec) -> bool {
    spec.flags.kind == "HostPort"
}

/// `10.96.0.10:80/TCP`
fn frontend(spec: &ServiceSpec) -> String {
    let address = &spec.frontend_address;
    format!("{}/{}", SocketAddr::new(address.ip, address.port), address.protocol.to_uppercase())
}

fn backend(backend: &BackendAddress) -> String {
    format!("{}/{}", SocketAddr::new(backend.ip, backend.port), backend.protocol.to_uppercase())
}

/// Each backend with what is special about it: `1 => 10.15.0.11:80/TCP (active)`, `(W: 5)`.
fn backends(spec: &ServiceSpec) -> Vec<String> {
    let row = |(n, given): (usize, &BackendAddress)| {
        let weight = if given.weight == 100 { String::new() } else { format!(" (W: {})", given.weight) };
        format!("{n} => {} ({}){weight}", backend(given), given.state)
    };
    (1..).zip(&spec.backend_addresses).map(row).collect()
}

fn table(services: &[Service]) -> Table {
    let mut table = Table::new(Layout::WIDE);
    table.header(["ID", "Frontend", "Service Type", "Backend"]);
    for Service { spec, status } in services {
        let mut kind = spec.flags.kind.clone();
        if status.failure.is_some() {
            kind += " (failing)";
        }
        table.row_with_list([spec.id.into(), frontend(spec).into(), kind.into(), "".into()], 3, &backends(spec), "");
    }
    table
}

fn page(service: &Service) -> Page {
    let Service { spec, status } = service;
    let mut lines = vec![format!("{} =>", frontend(spec))];
    lines.extend(
        (1..).zip(&spec.backend_addresses).map(|(n, given)| format!("\t\t{n} => {} ({})", backend(given), spec.id)),
    );
    lines.extend(status.failure.iter().map(|failure| format!("failing: {failure}")));
    let mut page = Page::default();
    lines.into_iter().for_each(|line| page.line(line));
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    fn sample() -> Vec<Service> {
        let service = |text: &str| serde_json::from_str::<Service>(text).unwrap();
        vec![
            service(
                r#"{"spec": {"id": 1, "frontend-address": {"ip": "10.96.0.10", "port": 80}, "backend-addresses": [
                {"ip": "10.15.0.11", "port": 80}, {"ip": "10.15.0.12", "port": 80, "weight": 5, "state": "maintenance"}]},
                "status": {}}"#,
            ),
            service(
                r#"{"spec": {"id": 2, "frontend-address": {"ip": "fd96::10", "port": 53, "protocol": "udp"},
                "flags": {"type": "LoadBalancer"}}, "status": {"failure": "10.96.0.10 is an address of this host"}}"#,
            ),
        ]
    }

    #[test]
    fn one_backend_a_row() {
        let expected = "\
ID   Frontend            Service Type             Backend
1    10.96.0.10:80/TCP   ClusterIP                1 => 10.15.0.11:80/TCP (active)
                                                  2 => 10.15.0.12:80/TCP (maintenance) (W: 5)
2    [fd96::10]:53/UDP   LoadBalancer (failing)   
";
        let text = plain(table(&sample()));
        let trimmed = |text: &str| text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        assert_eq!(trimmed(&text), trimmed(expected));
    }
}
