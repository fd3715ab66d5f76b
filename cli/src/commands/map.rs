//! `cilium map …`: the kernel's maps as such.

use super::Session;
use crate::agent::Route;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Cell, Layout, Page, Table, YELLOW};
use api::datapath::{MapDump, MapRow};

/// Show the kernel's maps
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    List(List),
    Get(Get),
}

/// List the kernel's maps
#[derive(Debug, clap::Args)]
pub struct List {
    /// Show the sizes of keys and values and where each map is pinned
    #[arg(long)]
    verbose: bool,
}

/// Show a map's raw contents, in hexadecimal
#[derive(Debug, clap::Args)]
pub struct Get {
    /// As `cilium map list` shows it
    name: String,
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
        let mut maps: Vec<MapRow> = session.agent.get("list maps", api::routes::MAP).await?;
        maps.sort_by(|a, b| a.name.cmp(&b.name));
        session.out.show(&maps, |maps| if self.verbose { details(maps) } else { table(maps) }.into())
    }
}

impl Get {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let route = Route::new(api::routes::MAP).part(&self.name);
        let dump: MapDump = session.agent.get(&format!("get map {}", self.name), route).await?;
        session.out.show(&dump, contents)
    }
}

fn table(maps: &[MapRow]) -> Table {
    let mut table = Table::with_header(Layout::WIDE, ["Name", "Num entries", "Max entries", "Type"]);
    for map in maps {
        table.row(row![&map.name, entries(map), map.max_entries, &map.kind]);
    }
    table
}

fn details(maps: &[MapRow]) -> Table {
    let names = ["Name", "Num entries", "Max entries", "Type", "Key size", "Value size", "Path"];
    let mut table = Table::with_header(Layout::WIDE, names);
    for map in maps {
        table.row(row![&map.name, entries(map), map.max_entries, &map.kind, map.key_size, map.value_size, &map.path]);
    }
    table
}

/// `-` where the agent does not count.
fn entries(map: &MapRow) -> String {
    map.entries.map_or_else(|| "-".to_owned(), |entries| entries.to_string())
}

fn contents(dump: &MapDump) -> Page {
    let mut table = Table::with_header(Layout::WIDE, ["Key", "Value"]);
    for entry in &dump.entries {
        table.row(row![&entry.key, &entry.value]);
    }
    let mut page = Page::from(table);
    if dump.truncated {
        page.line(Cell::styled(&format!("More follows after these {} entries.", dump.entries.len()), YELLOW));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::plain;
    use api::datapath::MapEntry;

    fn sample() -> [MapRow; 2] {
        [("cilium_ct", None), ("cilium_ipcache", Some(12))].map(|(name, entries)| MapRow {
            name: name.into(),
            kind: "lru_hash".into(),
            path: format!("/sys/fs/bpf/{name}"),
            key_size: 16,
            value_size: 8,
            max_entries: 65536,
            entries,
        })
    }

    #[test]
    fn list() {
        let expected = "\
Name             Num entries   Max entries   Type
cilium_ct        -             65536         lru_hash
cilium_ipcache   12            65536         lru_hash
";
        assert_eq!(plain(table(&sample())), expected);
    }

    #[test]
    fn verbose_list() {
        let expected = "\
Name             Num entries   Max entries   Type       Key size   Value size   Path
cilium_ct        -             65536         lru_hash   16         8            /sys/fs/bpf/cilium_ct
cilium_ipcache   12            65536         lru_hash   16         8            /sys/fs/bpf/cilium_ipcache
";
        assert_eq!(plain(details(&sample())), expected);
    }

    #[test]
    fn a_cut_dump_says_so() {
        let entry = MapEntry { key: "0a0f0002".into(), value: "05".into() };
        let dump = MapDump { name: "m".into(), entries: vec![entry], truncated: true };
        let expected = "Key        Value\n0a0f0002   05\nMore follows after these 1 entries.\n";
        assert_eq!(plain(contents(&dump)), expected);
    }
}
