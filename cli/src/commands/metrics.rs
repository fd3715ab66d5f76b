//! `cilium metrics list`: the agent's own counters, read from Prometheus' text form.

use super::Session;
use crate::failure::Failure;
use crate::render::cell::row;
use crate::render::{Layout, Table};
use serde::Serialize;

/// Show what the agent counts
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List the agent's counters and gauges
    List,
}

/// One line of the text form.
#[derive(Debug, PartialEq, Serialize)]
struct Sample {
    name: String,
    /// `a="b",c="d"`, as they stand.
    labels: String,
    /// As it stands: it may be no number that JSON knows, such as `+Inf`.
    value: String,
}

impl Command {
    pub async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let Command::List = self;
        let text = session.agent.text("get metrics", api::routes::METRICS).await?;
        let mut samples: Vec<Sample> = text.lines().filter_map(sample).collect();
        // Equal names keep the agent's order: the buckets of a histogram stand from small to large.
        samples.sort_by(|a, b| a.name.cmp(&b.name));
        session.out.show(&samples, |samples| table(samples).into())
    }
}

/// `name{labels} value`; comments and empty lines are none.
fn sample(line: &str) -> Option<Sample> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    let (head, value) = line.rsplit_once(' ')?;
    let (name, labels) = match head.trim_end().split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (head.trim_end(), ""),
    };
    Some(Sample { name: name.to_owned(), labels: labels.to_owned(), value: value.to_owned() })
}

fn table(samples: &[Sample]) -> Table {
    let mut table = Table::with_header(Layout::WIDE, ["Metric", "Labels", "Value"]);
    for Sample { name, labels, value } in samples {
        table.row(row![name, labels, value]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let parts = |line| sample(line).map(|s| (s.name, s.labels, s.value));
        let expected = |name: &str, labels: &str, value: &str| Some((name.into(), labels.into(), value.into()));
        assert_eq!(parts("up 1"), expected("up", "", "1"));
        assert_eq!(
            parts(r#"drops{reason="Policy denied",x="}{"} 3"#),
            expected("drops", r#"reason="Policy denied",x="}{""#, "3")
        );
        assert_eq!(parts(r#"bucket{le="+Inf"} +Inf"#), expected("bucket", r#"le="+Inf""#, "+Inf"));
        for none in ["# TYPE up gauge", "", "up", "drops{x 3"] {
            assert_eq!(sample(none), None, "{none}");
        }
    }
}
