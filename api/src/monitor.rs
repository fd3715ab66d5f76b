//! `GET /v1/monitor`: an endless stream of JSON records, one a line, until the client hangs up.

use model::event::Event;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "record")]
pub enum Record {
    /// First of all: what is being listened to.
    Hello { cpus: u32, buffer: u64 },
    /// A packet event with the names of both sides.
    Packet(Box<NamedEvent>),
    /// Something the agent did.
    Agent { message: String, subject: String },
    /// The reader was too slow, or the kernel's buffer was full.
    Lost { events: u64 },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NamedEvent {
    #[serde(flatten)]
    pub event: Event,
    pub source_labels: Vec<String>,
    pub destination_labels: Vec<String>,
}
