//! `cilium monitor`: what the kernel and the agent tell, as it happens. Which events exist is the agent's business; here
//! they are chosen and written as lines.

mod filter;
mod line;
mod packet;
#[cfg(test)]
mod sample;

use super::Session;
use crate::failure::Failure;
use crate::render::{Output, Page};
use api::event::EventKind;
use api::monitor::{NamedEvent, Record};
use filter::{Filter, Kind};
use serde_json::json;

/// Show packets dropped and forwarded, verdicts, and what the agent does, as it happens
///
/// The endpoint filters choose among packets; all given ones must hold.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  cilium monitor -t drop\n  cilium monitor --related-to 4521,17 -v --hex\n  \
                        cilium monitor -t drop -j | jq .reason_text")]
pub struct Args {
    /// Only packets from these endpoints
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    from: Vec<u16>,
    /// Only packets to these endpoints
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    to: Vec<u16>,
    /// Only packets from or to these endpoints
    #[arg(long, value_name = "ID", value_delimiter = ',')]
    related_to: Vec<u16>,
    /// Only these kinds
    #[arg(short = 't', long = "type", value_enum, value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<Kind>,
    /// Show the captured bytes
    #[arg(long)]
    hex: bool,
    /// One line of JSON for each (the same as -o json, here)
    #[arg(short, long)]
    json: bool,
    /// Show all that is known about each packet
    #[arg(short, long)]
    verbose: bool,
}

impl Args {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let json = self.json || session.out.is_json();
        if json && (self.hex || self.verbose) {
            return Err(Failure::Usage("JSON holds everything: --hex and --verbose are for text".to_owned()));
        }
        let filter = Filter::new(&self.from, &self.to, &self.related_to, &self.kinds);
        let mut lines = session.agent.stream("listen for events", api::routes::MONITOR).await?;
        loop {
            let record = lines.next::<Record>().await;
            let record = record.map_err(|source| Failure::Agent { what: "listen for events".to_owned(), source })?;
            let Some(record) = record else {
                return Err(Failure::MonitorEnded);
            };
            if !filter.admits(&record) {
                continue;
            }
            if json {
                as_json(&mut session.out, &record)?;
            } else {
                session.out.page(&self.page(&record))?;
                session.out.flush()?;
            }
        }
    }

    fn page(&self, record: &Record) -> Page {
        let mut page = Page::default();
        match record {
            Record::Packet(named) => {
                if self.verbose {
                    line::detailed(named, &mut page);
                } else {
                    page.line(line::short(named));
                }
                if self.hex {
                    packet::hexdump(&named.event.capture).for_each(|row| page.line(row));
                }
            }
            Record::Hello { cpus, buffer } => {
                page.line(super::status::listening(*cpus, *buffer));
                page.line("Press Ctrl-C to quit");
            }
            Record::Agent { message, subject } => page.line(line::agent(message, subject)),
            Record::Lost { events } => page.line(line::lost(*events)),
        }
        page
    }
}

/// The record as the agent sent it and, for a packet, texts that save the reader a table of numbers.
fn as_json(out: &mut Output, record: &Record) -> Result<(), Failure> {
    if matches!(record, Record::Hello { .. }) {
        return Ok(());
    }
    let mut value = serde_json::to_value(record).map_err(|source| Failure::Encode { source })?;
    if let Record::Packet(named) = record {
        add_texts(&mut value, named);
    }
    out.json_line(&value)
}

fn add_texts(value: &mut serde_json::Value, named: &NamedEvent) {
    value["summary"] = json!(packet::summary(&named.event));
    value["flow"] = json!(format!("{:#x}", packet::flow(&named.event)));
    if let EventKind::Drop { reason } = named.event.kind {
        value["reason_text"] = json!(reason.to_string());
    }
}

#[cfg(test)]
mod tests;
