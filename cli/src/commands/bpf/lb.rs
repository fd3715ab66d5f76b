//! `cilium bpf lb list`.

use super::super::Session;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Layout, Table};
use api::datapath::{LbPlaces, LbService, LoadBalancer};
use std::collections::BTreeMap;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the services in the kernel, and who gets their new flows
    List(List),
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub struct List {
    /// What flows asked for, by the numbers of the services
    #[arg(long)]
    revnat: bool,
    /// Backends, by their numbers
    #[arg(long)]
    backends: bool,
    /// Maglev's tables: how many places there are, and how they are shared
    #[arg(long)]
    maglev: bool,
    /// From where others than the cluster may ask
    #[arg(long)]
    source_ranges: bool,
}

impl List {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let lb: LoadBalancer = session.agent.get("list the kernel's services", super::route("lb")).await?;
        session.out.show(&lb, |lb| self.table(lb).into())
    }

    fn table(&self, lb: &LoadBalancer) -> Table {
        if self.revnat {
            return numbered(&lb.revnat, "SERVICE ADDRESS");
        }
        if self.backends {
            return numbered(&lb.backends, "BACKEND ADDRESS");
        }
        if self.maglev {
            return maglev(lb);
        }
        if self.source_ranges {
            return source_ranges(lb);
        }
        services(lb)
    }
}

fn numbered(rows: &BTreeMap<u32, String>, what: &str) -> Table {
    let mut table = Table::with_header(Layout::WIDE, ["ID", what]);
    for (number, address) in rows {
        table.row(row![*number, address]);
    }
    table
}

/// A row for a service and one for each backend; in brackets the number that answers bear, and how many of the equally
/// likely places it has.
fn services(lb: &LoadBalancer) -> Table {
    let header = ["SERVICE ADDRESS", "BACKEND ADDRESS (REVNAT_ID) (PLACES)"];
    let mut table = Table::with_header(Layout::WIDE, header);
    for service in &lb.services {
        let (number, places) = (service.number, service.internal.shares.values().sum::<u32>());
        let kind = format!("({number}) ({places}) [{}]", service.kind);
        table.row(row![&service.frontend, &kind]);
        for (backend, share) in shares(service) {
            let address = lb.backends.get(&backend).map_or("?", String::as_str);
            let answer = format!("{address} ({number}) ({share})");
            table.row(row!["", &answer]);
        }
    }
    table
}

/// Whoever gets flows, with the places that it has for the cluster's own.
fn shares(service: &LbService) -> BTreeMap<u32, u32> {
    let mut shares: BTreeMap<u32, u32> = service.external.shares.keys().map(|number| (*number, 0)).collect();
    shares.extend(&service.internal.shares);
    shares
}

fn maglev(lb: &LoadBalancer) -> Table {
    let header = ["SERVICE ADDRESS", "FLOWS", "PLACES", "BACKENDS"];
    let mut table = Table::with_header(Layout::WIDE, header);
    for service in &lb.services {
        for (flows, places) in [("internal", &service.internal), ("external", &service.external)] {
            if places.algorithm == "maglev" {
                let (of, all) = shared(lb, places);
                table.row(row![&service.frontend, flows, all, &of]);
            }
        }
    }
    table
}

/// Each backend's places, and all of them.
fn shared(lb: &LoadBalancer, places: &LbPlaces) -> (String, u32) {
    let address = |number: &u32| lb.backends.get(number).map_or("?", String::as_str);
    let of: Vec<String> = places.shares.iter().map(|(number, share)| format!("{} {share}", address(number))).collect();
    (of.join(", "), places.shares.values().sum())
}

fn source_ranges(lb: &LoadBalancer) -> Table {
    let mut table = Table::with_header(Layout::WIDE, ["SERVICE ADDRESS", "SOURCE RANGE"]);
    for range in &lb.source_ranges {
        let service = lb.services.iter().find(|service| service.number == range.service);
        table.row(row![service.map_or("?", |service| service.frontend.as_str()), &range.prefix]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;
    use serde_json::json;

    fn lb() -> LoadBalancer {
        let value = json!({
            "services": [
                {"frontend": "10.96.0.10:80/TCP", "number": 7, "id": 1, "type": "ClusterIP", "affinity": 0,
                 "internal": {"algorithm": "random", "shares": {"3": 1, "4": 2}},
                 "external": {"algorithm": "maglev", "shares": {"3": 5461, "4": 10920}}},
                {"frontend": "10.96.0.11:80/TCP", "number": 8, "id": 2, "type": "LoadBalancer", "affinity": 0,
                 "internal": {"algorithm": "random", "shares": {}}, "external": {"algorithm": "random", "shares": {}}},
            ],
            "backends": {"3": "10.64.0.4:80", "4": "10.64.1.4:80"},
            "revnat": {"7": "10.96.0.10:80", "8": "10.96.0.11:80"},
            "source-ranges": [{"service": 8, "prefix": "192.0.2.0/24"}],
        });
        serde_json::from_value(value).unwrap()
    }

    fn list(change: impl FnOnce(&mut List)) -> String {
        let mut list = List { revnat: false, backends: false, maglev: false, source_ranges: false };
        change(&mut list);
        plain(list.table(&lb()))
    }

    #[test]
    fn each_service_with_its_backends() {
        let expected = "\
SERVICE ADDRESS     BACKEND ADDRESS (REVNAT_ID) (PLACES)
10.96.0.10:80/TCP   (7) (3) [ClusterIP]
                    10.64.0.4:80 (7) (1)
                    10.64.1.4:80 (7) (2)
10.96.0.11:80/TCP   (8) (0) [LoadBalancer]
";
        assert_eq!(list(|_| {}), expected);
    }

    #[test]
    fn parts_of_it() {
        assert_eq!(list(|list| list.revnat = true), "ID   SERVICE ADDRESS\n7    10.96.0.10:80\n8    10.96.0.11:80\n");
        assert_eq!(list(|list| list.backends = true), "ID   BACKEND ADDRESS\n3    10.64.0.4:80\n4    10.64.1.4:80\n");
        let maglev = "\
SERVICE ADDRESS     FLOWS      PLACES   BACKENDS
10.96.0.10:80/TCP   external   16381    10.64.0.4:80 5461, 10.64.1.4:80 10920
";
        assert_eq!(list(|list| list.maglev = true), maglev);
        let ranges = "SERVICE ADDRESS     SOURCE RANGE\n10.96.0.11:80/TCP   192.0.2.0/24\n";
        assert_eq!(list(|list| list.source_ranges = true), ranges);
    }
}
