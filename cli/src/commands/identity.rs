//! `cilium identity …`: which labels stand behind which number.

use super::Session;
use crate::agent::Route;
use crate::failure::Failure;
use crate::render::{Cell, Layout, Table};
use api::identity::Identity;

/// Show identities: the numbers that stand for sets of labels
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    List(List),
    Get(Get),
}

/// List identities
#[derive(Debug, clap::Args)]
pub struct List {
    /// Only identities that have all of these labels
    #[arg(value_name = "LABEL", value_delimiter = ',')]
    labels: Vec<String>,
    /// Show how many endpoints of this node have each
    #[arg(long)]
    endpoints: bool,
}

/// Show one identity, by its number or by its exact set of labels
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cilium identity get 261\n  cilium identity get --label container:id=app1")]
pub struct Get {
    /// The number
    #[arg(required_unless_present = "label")]
    id: Option<u32>,
    /// The labels that it stands for, all of them (repeat, or separate by commas)
    #[arg(long, value_name = "LABEL", value_delimiter = ',', conflicts_with = "id")]
    label: Vec<String>,
}

impl Command {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Command::List(args) => args.run(session).await,
            Command::Get(args) => args.run(session).await,
        }
    }
}

impl List {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let route = Route::new(api::routes::IDENTITY).labels(&self.labels);
        let mut identities: Vec<Identity> = session.agent.get("list identities", route).await?;
        identities.sort_by_key(|identity| identity.id);
        session.out.show(&identities, |identities| table(identities, self.endpoints).into())
    }
}

impl Get {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let identity = match self.id {
            Some(id) => {
                let route = Route::new(api::routes::IDENTITY).part(id);
                session.agent.get(&format!("get identity {id}"), route).await?
            }
            None => by_labels(session, &self.label).await?,
        };
        session.out.show(&identity, |identity| table(std::slice::from_ref(identity), false).into())
    }
}

/// The agent finds those with *all* of the labels; the one with no others is meant.
async fn by_labels(session: &Session, labels: &[String]) -> Result<Identity, Failure> {
    let route = Route::new(api::routes::IDENTITY).labels(labels);
    let found: Vec<Identity> = session.agent.get("find identities by labels", route).await?;
    let wanted: std::collections::BTreeSet<_> = labels.iter().collect();
    let exact = found.into_iter().find(|identity| identity.labels.len() == wanted.len());
    exact.ok_or_else(|| Failure::NoIdentity(labels.join(", ")))
}

fn table(identities: &[Identity], endpoints: bool) -> Table {
    let mut table = Table::new(if endpoints { Layout::WIDE } else { Layout::NARROW });
    if endpoints {
        table.header(["ID", "LABELS", "REFCOUNT"]);
    } else {
        table.header(["ID", "LABELS"]);
    }
    for identity in identities {
        let mut labels = identity.labels.clone();
        labels.sort();
        let count = if endpoints { identity.ref_count.into() } else { Cell::default() };
        table.row_with_list([identity.id.into(), Cell::default(), count], 1, &labels, "no labels");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    fn sample() -> [Identity; 2] {
        [(1, vec!["reserved:host"], 0), (261, vec!["container:id=app1", "container:env=x"], 2)].map(
            |(id, labels, ref_count)| Identity {
                id,
                labels: labels.into_iter().map(str::to_owned).collect(),
                labels_sha256: "0".repeat(64),
                ref_count,
            },
        )
    }

    #[test]
    fn one_label_a_row() {
        let expected = "\
ID    LABELS
1     reserved:host
261   container:env=x
      container:id=app1
";
        assert_eq!(plain(table(&sample(), false)), expected);
    }

    #[test]
    fn with_endpoints() {
        let expected = "\
ID    LABELS              REFCOUNT
1     reserved:host       0
261   container:env=x     2
      container:id=app1
";
        assert_eq!(plain(table(&sample(), true)), expected);
    }
}
