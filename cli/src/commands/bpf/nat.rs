//! `cilium bpf nat list`.

use super::super::Session;
use crate::failure::Failure;
use crate::render::Page;
use api::datapath::NatRow;

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List for whom this node speaks to other nodes' backends, one line each
    ///
    /// Who asked, for which backend, and whom the backend sees. A port is given to somebody else once its flow is over.
    List,
}

pub async fn list(session: &mut Session) -> Result<(), Failure> {
    let rows: Vec<NatRow> = session.agent.get("list the kernel's translations", super::route("nat")).await?;
    session.out.show(&rows, |rows| page(rows))
}

fn page(rows: &[NatRow]) -> Page {
    let mut page = Page::default();
    rows.iter().for_each(|row| page.line(line(row)));
    page
}

fn line(row: &NatRow) -> String {
    let NatRow { protocol, client, translated, backend, age } = row;
    let translated = if translated.is_empty() { "?" } else { translated };
    format!("{protocol} OUT {client} -> {backend} XLATE_SRC {translated} Created={age}sec ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_and_whom_the_backend_sees() {
        let mut row = NatRow {
            protocol: "TCP".into(),
            client: "192.0.2.1:40000".into(),
            translated: "172.31.0.1:2000".into(),
            backend: "10.64.1.4:80".into(),
            age: 12,
        };
        let rest = "TCP OUT 192.0.2.1:40000 -> 10.64.1.4:80 XLATE_SRC";
        assert_eq!(line(&row), format!("{rest} 172.31.0.1:2000 Created=12sec ago"));
        row.translated.clear();
        assert_eq!(line(&row), format!("{rest} ? Created=12sec ago"));
    }
}
