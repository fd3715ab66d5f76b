//! The log of a trace, in the form that Cilium's `policy trace` has.

use super::judge::{
    Decision, EntryStep, Judgement, Whole, endpoint_matches, entity_matches, name_matches, prefix_matches,
};
use super::{Outcome, Question};
use crate::l7::{Access, Group, Requests};
use crate::peer::Peer;
use crate::rule::{Entry, Port, PortProtocol, Verdict};
use crate::selector::Selector;
use model::{Direction, Labels};
use std::fmt::Write;

pub(super) fn heading(question: Question<'_>) -> String {
    let Question { from, to, dports, .. } = question;
    let ports: Vec<String> = dports.iter().map(ToString::to_string).collect();
    let ports = if ports.is_empty() { "[0/ANY]".to_owned() } else { format!("[{}]", ports.join(", ")) };
    format!("{}\nTracing From: {} => To: {} Ports: {ports}\n\n", "-".repeat(64), listed(from), listed(to))
}

fn listed(labels: &Labels) -> String {
    plain(&format!("[{}]", labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")))
}

/// Labels and rules are other people's texts: what a terminal would obey, or take for a line of ours, is escaped.
fn plain(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// What was looked at for one side. `port` is named where several are asked about.
pub(super) fn side(
    found: &Outcome<'_>,
    subject: &Peer<'_>,
    peer: &Peer<'_>,
    port: Option<&str>,
    verbose: bool,
) -> String {
    let judgement = &found.judgement;
    let (lower, upper) = match judgement.direction {
        Direction::Ingress => ("ingress", "Ingress"),
        Direction::Egress => ("egress", "Egress"),
    };
    let port = port.map_or(String::new(), |port| format!(" on {port}"));
    let mut lines = vec![format!("Resolving {lower} policy for {}{port}", listed(subject.labels))];
    if judgement.is_endpoint {
        rules(judgement, peer, verbose, &mut lines);
        summary(judgement, &mut lines);
    } else {
        lines.push("Not an endpoint: nothing is enforced there".to_owned());
    }
    for conflict in found.conflicts.iter() {
        lines.push(format!("The policy of this endpoint cannot be computed: {conflict}"));
    }
    if let Some(parsed) = &found.parsed {
        lines.push(format!("Redirected to the parser {}:", parsed.parser));
        lines.extend(parsed.rules.iter().map(|rule| format!("    {rule}")));
        lines.extend(parsed.request.iter().map(|request| format!("  {request}")));
    }
    lines.push(format!("{upper} verdict: {}", found.decision));
    lines.iter().map(|line| plain(line)).collect::<Vec<_>>().join("\n") + "\n\n"
}

/// The merged rules of a connection, a line for each selector and its ports.
pub(super) fn merged(access: &Access) -> Vec<String> {
    access.groups.iter().map(group).collect()
}

fn group(group: &Group) -> String {
    let mut text = format!("{} on {}:", group.selector, group.ports);
    let names: Vec<&str> = group.server_names().collect();
    if !names.is_empty() {
        let _ = write!(text, " server names {};", names.join(", "));
    }
    if group.terminated {
        text.push_str(" TLS terminated;");
    }
    if group.any_request {
        return text + " every request";
    }
    let lists = group.demands.iter().map(|(demand, _)| &demand.written);
    let mut rules: Vec<String> = Vec::new();
    for written in lists {
        rules.extend(written.http.iter().flatten().map(json));
        rules.extend(written.kafka.iter().flatten().map(json));
        rules.extend(written.dns.iter().flatten().map(json));
        rules.extend(written.l7.iter().flatten().map(json));
    }
    let elsewhere = || group.demands.iter().any(|(demand, _)| demand.requests == Requests::Elsewhere);
    if rules.is_empty() && elsewhere() {
        rules.push("what the parser accepts".to_owned());
    }
    format!("{text} {}", rules.join(" or "))
}

fn json(rule: &impl serde::Serialize) -> String {
    serde_json::to_string(rule).unwrap_or_default()
}

fn rules(judgement: &Judgement<'_>, peer: &Peer<'_>, verbose: bool, lines: &mut Vec<String>) {
    let mut selected = 0;
    for step in &judgement.rules {
        let selector = step.rule.endpoint_selector.as_ref().or(step.rule.node_selector.as_ref());
        let subject = selector.map(Selector::to_string).unwrap_or_default();
        if step.selected {
            selected += 1;
            lines.push(format!("* Rule {subject}: selected"));
            for entry in &step.entries {
                describe(entry, judgement, peer, lines);
            }
        } else if verbose {
            lines.push(format!("  Rule {subject}: did not select"));
        }
    }
    lines.push(format!("{selected}/{} rules selected", judgement.rules.len()));
}

fn summary(judgement: &Judgement<'_>, lines: &mut Vec<String>) {
    if !judgement.enforced {
        return;
    }
    for (verdict, name) in [(Verdict::Allow, "allow"), (Verdict::Deny, "deny")] {
        let found = if judgement.deciding(verdict).is_some() { "" } else { "no " };
        lines.push(format!("Found {found}{name} rule"));
    }
    if let Some(origin) = judgement.origin() {
        lines.push(format!("Decided by rule {} {}, {}", origin.rule, listed(&origin.labels), origin.entry));
    } else if judgement.localhost {
        lines.push("The host may reach the endpoints of its node".to_owned());
    } else if judgement.verdict() == Decision::Allowed {
        lines.push("No selected rule enables default deny".to_owned());
    }
}

fn describe(step: &EntryStep<'_>, judgement: &Judgement<'_>, peer: &Peer<'_>, lines: &mut Vec<String>) {
    let requirements = &judgement.requirements[step.verdict as usize];
    let verb = if step.verdict == Verdict::Allow { "Allows" } else { "Denies" };
    let way = if judgement.direction == Direction::Ingress { "from" } else { "to" };
    if !step.entry.names_peers() && !step.entry.names_ports() {
        lines.push(format!("    {verb} nothing: neither peers nor ports are named"));
        return;
    }
    if !requirements.is_empty() && step.entry.endpoints.is_some() {
        lines.push(format!("    Enforcing requirements {}", requirement_texts(requirements)));
    }
    let any = peers(step.entry, requirements, peer, |text, matches, yes, no| {
        lines.push(format!("    {verb} {way} {text}"));
        lines.push(if matches { format!("      {yes}") } else { format!("      {no} {}", listed(peer.labels)) });
    });
    if !step.entry.names_peers() {
        lines.push(format!("    {verb} {way} anyone"));
    } else if !any {
        lines.push(format!("    {verb} {way} nobody: the list is empty"));
    }
    if step.peer_matches && step.entry.names_ports() {
        lines.push(format!("      {verb} port {}", ports(step.entry)));
        if !step.traffic_matches {
            lines.push("        No port match found".to_owned());
        }
    }
}

/// Tells of each peer its text, whether it matches, and how to say so. `false`: there was none.
fn peers(
    entry: &Entry,
    requirements: &[&Selector],
    peer: &Peer<'_>,
    mut tell: impl FnMut(String, bool, &'static str, &'static str),
) -> bool {
    let mut any = false;
    for selector in entry.endpoints.iter().flatten() {
        any = true;
        let no = if selector.matches(peer.labels) { "Found unsatisfied requirement for" } else { "No label match for" };
        tell(
            format!("labels {selector}"),
            endpoint_matches(selector, requirements, peer),
            "Found all required labels",
            no,
        );
    }
    for cidr in entry.cidr.iter().flatten() {
        any = true;
        tell(
            format!("IP {}", cidr.value),
            prefix_matches(cidr.value, peer, Whole::Is),
            "Found the address",
            "No address match for",
        );
    }
    for set in entry.cidr_set.iter().flatten() {
        let Some(cidr) = &set.cidr else { continue };
        any = true;
        let mut text = format!("IP {}", cidr.value);
        for (i, prefix) in set.except.iter().flatten().enumerate() {
            let _ = write!(text, "{}{}", if i == 0 { " except " } else { ", " }, prefix.value);
        }
        let excepted = set.except.iter().flatten().any(|prefix| prefix_matches(prefix.value, peer, Whole::IsNot));
        let matches = prefix_matches(cidr.value, peer, Whole::Is) && !excepted;
        tell(text, matches, "Found the address", "No address match for");
    }
    for name in entry.fqdns.iter().flatten() {
        let Some(text) = crate::fqdn::text(name) else { continue };
        any = true;
        let no = "No answer for such a name with";
        tell(format!("name {text}"), name_matches(name, peer), "Found an answer with the address", no);
    }
    for entity in entry.entities.iter().flatten() {
        any = true;
        tell(format!("entity {entity}"), entity_matches(*entity, peer), "Found the entity", "No entity match for");
    }
    any
}

fn requirement_texts(requirements: &[&Selector]) -> String {
    let texts: Vec<String> = requirements.iter().map(ToString::to_string).collect();
    format!("[{}]", texts.join(" "))
}

fn ports(entry: &Entry) -> String {
    let ports = entry.to_ports.iter().flatten().flat_map(|rule| rule.ports.iter().flatten()).map(port);
    let types = entry.icmps.iter().flatten().flat_map(|rule| rule.fields.iter().flatten());
    let types = types.map(|field| format!("{{{} {}}}", field.number(), field.family().protocol()));
    format!("[{}]", ports.chain(types).collect::<Vec<_>>().join(" "))
}

fn port(port: &PortProtocol) -> String {
    let number = match &port.port {
        Some(Port::Number(number)) => number.to_string(),
        Some(Port::Name(name)) => name.clone(),
        None => "0".to_owned(),
    };
    let end = port.end_port.filter(|end| *end != 0).map(|end| format!("-{end}")).unwrap_or_default();
    format!("{{{number}{end} {}}}", port.l4_protocol().name())
}
