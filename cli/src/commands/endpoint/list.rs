//! `cilium endpoint list`.

use super::super::Session;
use crate::agent::Route;
use crate::failure::Failure;
use crate::render::{Cell, GREEN, Layout, RED, Table, YELLOW};
use api::EndpointState;
use api::endpoint::Endpoint;

/// List all endpoints
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only endpoints that have these labels
    #[arg(short, long, value_name = "LABEL", value_delimiter = ',')]
    labels: Vec<String>,
    /// Leave out the table's head
    #[arg(long)]
    no_headers: bool,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let route = Route::new(api::routes::ENDPOINT).labels(&self.labels);
        let mut endpoints: Vec<Endpoint> = session.agent.get("list endpoints", route).await?;
        endpoints.sort_by_key(|endpoint| endpoint.id);
        session.out.show(&endpoints, |endpoints| table(endpoints, !self.no_headers).into())
    }
}

fn table(endpoints: &[Endpoint], headers: bool) -> Table {
    let mut table = Table::new(Layout::WIDE);
    if headers {
        table.header([
            "ENDPOINT",
            "POLICY (ingress)",
            "POLICY (egress)",
            "IDENTITY",
            "LABELS (source:key[=value])",
            "IPv6",
            "IPv4",
            "STATUS",
        ]);
        table.header(["", "ENFORCEMENT", "ENFORCEMENT"]);
    }
    for endpoint in endpoints {
        let (ingress, egress) = enforcement(&endpoint.policy.enabled);
        let mut labels = endpoint.identity.labels.clone();
        labels.sort();
        let identity = match endpoint.identity.id.0 {
            0 => Cell::from("<no label id>"),
            id => id.into(),
        };
        let address = |ip: Option<String>| Cell::from(ip.unwrap_or_else(|| "No address".to_owned()));
        let cells = [
            endpoint.id.into(),
            ingress,
            egress,
            identity,
            Cell::default(),
            address(endpoint.ipv6.map(|ip| ip.to_string())),
            address(endpoint.ipv4.map(|ip| ip.to_string())),
            state(endpoint.state),
        ];
        table.row_with_list(cells, 4, &labels, "no labels");
    }
    table
}

/// Ingress and egress.
fn enforcement(enabled: &str) -> (Cell, Cell) {
    let on = || Cell::styled("Enabled", GREEN);
    let off = || Cell::from("Disabled");
    match enabled {
        "none" => (off(), off()),
        "ingress" => (on(), off()),
        "egress" => (off(), on()),
        "both" => (on(), on()),
        _ => ("Unknown".into(), "Unknown".into()),
    }
}

fn state(state: EndpointState) -> Cell {
    let style = match state {
        EndpointState::Ready => GREEN,
        EndpointState::NotReady | EndpointState::Disconnected => RED,
        _ => YELLOW,
    };
    Cell::styled(state.as_str(), style)
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;
    use crate::render::plain;

    #[test]
    fn each_label_has_a_row() {
        let mut bare = sample(12, &[]);
        bare.identity.id = api::Identity(0);
        bare.ipv4 = None;
        bare.ipv6 = Some("f00d::c".parse().unwrap());
        bare.policy.enabled = "later".into();
        bare.state = EndpointState::WaitingForIdentity;
        let endpoints = [sample(5, &["container:id=app1", "container:a=b\x1b[2J"]), bare];
        let expected = "\
ENDPOINT   POLICY (ingress)   POLICY (egress)   IDENTITY        LABELS (source:key[=value])   IPv6         IPv4         STATUS
           ENFORCEMENT        ENFORCEMENT
5          Enabled            Disabled          261             container:a=b\\x1b[2J          No address   10.15.0.2    ready
                                                                container:id=app1
12         Unknown            Unknown           <no label id>   no labels                     f00d::c      No address   waiting-for-identity
";
        assert_eq!(plain(table(&endpoints, true)), expected);
    }

    #[test]
    fn the_head_can_be_left_out() {
        let text = plain(table(&[sample(5, &["container:id=app1"])], false));
        assert!(text.starts_with("5    "), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
