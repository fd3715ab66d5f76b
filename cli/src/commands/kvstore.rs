//! `cilium kvstore …`: the store behind the agent, through the agent.

use super::Session;
use crate::agent::Route;
use crate::failure::Failure;
use crate::render::{BOLD, Cell, Page};
use api::kvstore::{Entry, Value};

/// Read and write the store behind the agent
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:\n  cilium kvstore get --recursive cilium/state/identities\n  \
                        cilium kvstore set cilium/state/test/key value")]
pub enum Command {
    Get(Get),
    Set(Set),
    Delete(Delete),
}

/// Show what is stored under a key
#[derive(Debug, clap::Args)]
pub struct Get {
    /// Such as cilium/state/nodes/v1
    key: String,
    /// Everything whose key begins with this one
    #[arg(long)]
    recursive: bool,
}

/// Store a value under a key; the agent may act upon it
#[derive(Debug, clap::Args)]
#[command(override_usage = "cilium kvstore set <KEY> <VALUE>\n       cilium kvstore set --key <KEY> --value <VALUE>")]
pub struct Set {
    /// Such as cilium/state/nodes/v1
    #[arg(value_name = "KEY", required_unless_present = "key", conflicts_with = "key", requires = "value_word")]
    key_word: Option<String>,
    /// Text
    #[arg(value_name = "VALUE", conflicts_with = "value")]
    value_word: Option<String>,
    /// The key, for those who like to name it
    #[arg(long, requires = "value")]
    key: Option<String>,
    /// The value, likewise
    #[arg(long, requires = "key", allow_hyphen_values = true)]
    value: Option<String>,
}

/// Delete a key; the agent may act upon it
#[derive(Debug, clap::Args)]
pub struct Delete {
    /// Such as cilium/state/nodes/v1
    key: String,
    /// Everything whose key begins with this one
    #[arg(long)]
    recursive: bool,
}

impl Command {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Command::Get(args) => args.run(session).await,
            Command::Set(args) => args.run(session).await,
            Command::Delete(args) => args.run(session).await,
        }
    }
}

fn route(key: &str) -> Route {
    Route::new(api::routes::KVSTORE).query("key", key)
}

impl Get {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let route = route(&self.key).flag("recursive", self.recursive);
        let mut entries: Vec<Entry> = session.agent.get(&format!("get {}", self.key), route).await?;
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        if entries.is_empty() && !self.recursive {
            return Err(Failure::NoKey(self.key));
        }
        session.out.show(&entries, |entries| page(entries))
    }
}

impl Set {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let key = self.key.or(self.key_word);
        let value = self.value.or(self.value_word);
        let (Some(key), Some(value)) = (key, value) else {
            return Err(Failure::Usage("A key and a value are needed: cilium kvstore set <KEY> <VALUE>".to_owned()));
        };
        let answer: serde_json::Value = session.agent.put(&format!("set {key}"), route(&key), &Value { value }).await?;
        session.out.show(&answer, |_| Page::default())
    }
}

impl Delete {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let route = route(&self.key).flag("recursive", self.recursive);
        let answer: serde_json::Value = session.agent.delete(&format!("delete {}", self.key), route).await?;
        session.out.show(&answer, |_| Page::default())
    }
}

fn page(entries: &[Entry]) -> Page {
    let mut page = Page::default();
    for Entry { key, value, .. } in entries {
        page.line(Cell::styled(key, BOLD).then(" => ").then(value));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;

    #[test]
    fn one_line_an_entry() {
        let entry = |key: &str, value: &str| Entry { key: key.into(), value: value.into(), revision: 1 };
        let entries = [entry("a/1", "container:id=app1;"), entry("a/2", "two\nlines\x1b[2J")];
        assert_eq!(plain(page(&entries)), "a/1 => container:id=app1;\na/2 => two\\nlines\\x1b[2J\n");
    }
}
