//! What has to be so outside of our programs for endpoints to reach the world: masquerading, and a FORWARD chain that
//! lets them pass.
//!
//! Masquerading is one nftables table of our own, replaced as a whole in one transaction; flows that are being translated
//! live in the kernel's conntrack and do not notice. It is the stack that routes and translates what leaves the node, so
//! translating there costs a packet nothing that it does not pay anyway, and host ports cannot clash.
//!
//! Docker gives the FORWARD chain of iptables the policy DROP. An accept elsewhere does not help against that, so two
//! rules stand in the chain itself. They name devices by group, not by name: `lxc+` would also be LXC's own bridge.
//! A chain that lets everything pass is left alone, so that no table of iptables appears where there was none.

mod command;

use crate::current::Firewall;
use crate::links::GROUP;
use command::{Command, Output};
use ipnetwork::IpNetwork;
use std::collections::BTreeSet;

pub use command::CommandError;

/// Our table.
pub const TABLE: &str = "cilium";
/// By which our rules are known in the chains of others.
const COMMENT: &str = "cilium";
/// iptables ends with it when the kernel has no such table.
const NO_TABLE: i32 = 3;

/// The two tools, by family.
const TOOLS: [&str; 2] = ["iptables", "ip6tables"];
const MATCHES: [&str; 2] = ["--src-group", "--dst-group"];

#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    #[error("write the masquerading table (is nftables installed?)")]
    Masquerade { source: CommandError },
    #[error("read the masquerading table")]
    Read { source: CommandError },
    #[error("read the FORWARD chain")]
    ReadForward { source: CommandError },
    #[error("change the FORWARD chain")]
    Forward { source: CommandError },
}

/// What was written last.
#[derive(Debug, Default)]
pub struct Rules {
    /// Pools, and the kernel's own print of the table; `None`: no table.
    written: Option<(BTreeSet<IpNetwork>, Option<String>)>,
    /// Where packets go under their own addresses, beside the pools.
    native: Vec<IpNetwork>,
}

impl Rules {
    /// What goes to `native` is never masqueraded.
    pub fn beside(native: &[IpNetwork]) -> Rules {
        Rules { written: None, native: native.to_vec() }
    }

    /// Compares with what was written last.
    pub fn read(&mut self) -> Result<Firewall, FirewallError> {
        let masquerade = match &self.written {
            None => None,
            Some((pools, text)) => {
                let now = print().map_err(|source| FirewallError::Read { source })?;
                (now == *text).then(|| pools.clone())
            }
        };
        let mut forward = true;
        for tool in TOOLS {
            forward &= missing(&chain(tool)?).is_empty();
        }
        Ok(Firewall { masquerade, forward })
    }

    /// Masquerades what leaves the node from `pools`; with none there is no table.
    pub fn masquerade(&mut self, pools: &BTreeSet<IpNetwork>) -> Result<(), FirewallError> {
        self.written = None;
        if pools.is_empty() {
            remove_table().map_err(|source| FirewallError::Masquerade { source })?;
            self.written = Some((BTreeSet::new(), None));
            return Ok(());
        }
        let nft = Command::new("nft", &["-f", "-"]).input(script(pools, &self.native));
        nft.run().and_then(Output::success).map_err(|source| FirewallError::Masquerade { source })?;
        let text = print().map_err(|source| FirewallError::Read { source })?;
        self.written = Some((pools.clone(), text));
        Ok(())
    }

    /// Has the FORWARD chains accept what comes from and goes to our devices.
    pub fn forward(&self) -> Result<(), FirewallError> {
        for tool in TOOLS {
            for side in missing(&chain(tool)?) {
                let inserted = Command::new(tool, &rule("-I", side)).run().and_then(Output::success);
                inserted.map_err(|source| FirewallError::Forward { source })?;
            }
        }
        Ok(())
    }
}

/// Removes every rule and table of ours; tells which there were.
pub fn remove() -> (Vec<String>, Vec<FirewallError>) {
    let (mut removed, mut failed) = (Vec::new(), Vec::new());
    match remove_table() {
        Ok(true) => removed.push(format!("nftables table inet {TABLE}")),
        Ok(false) => {}
        // Without the tool there is no table that we made.
        Err(error) if error.is_missing() => {}
        Err(source) => failed.push(FirewallError::Masquerade { source }),
    }
    for tool in TOOLS {
        match chain(tool) {
            Ok(chain) => {
                for side in MATCHES {
                    // One deletion removes one of the rules that are alike.
                    for _ in chain.rules.iter().filter(|line| is_ours(line, side)) {
                        let deleted = Command::new(tool, &rule("-D", side)).run().and_then(Output::success);
                        match deleted {
                            Ok(_) => removed.push(format!("{tool} rule FORWARD {side}")),
                            Err(source) => failed.push(FirewallError::Forward { source }),
                        }
                    }
                }
            }
            Err(error) => failed.push(error),
        }
    }
    (removed, failed)
}

/// Deletes our table; `false`: there was none.
fn remove_table() -> Result<bool, CommandError> {
    match print() {
        Ok(None) => Ok(false),
        Ok(Some(_)) => Command::new("nft", &["delete", "table", "inet", TABLE]).run()?.success().map(|_| true),
        Err(error) if error.is_missing() => Ok(false),
        Err(error) => Err(error),
    }
}

/// The kernel's print of our table; `None`: there is none.
fn print() -> Result<Option<String>, CommandError> {
    let output = Command::new("nft", &["list", "table", "inet", TABLE]).run()?;
    Ok(if output.succeeded() { Some(output.text) } else { None })
}

fn script(pools: &BTreeSet<IpNetwork>, native: &[IpNetwork]) -> String {
    let pools: Vec<IpNetwork> = pools.iter().copied().collect();
    let near = [&pools, native].concat();
    let elements = |prefixes: &[IpNetwork], ipv4: bool| {
        let list: Vec<_> = prefixes.iter().filter(|p| p.is_ipv4() == ipv4).map(|p| masked(*p)).collect();
        if list.is_empty() { String::new() } else { format!("elements = {{ {} }};", list.join(", ")) }
    };
    // To name the table before deleting it makes the deletion right whether or not there is one.
    format!(
        "table inet {TABLE} {{}}
delete table inet {TABLE}
table inet {TABLE} {{
  set pools4 {{ type ipv4_addr; flags interval; auto-merge; {} }}
  set pools6 {{ type ipv6_addr; flags interval; auto-merge; {} }}
  set near4 {{ type ipv4_addr; flags interval; auto-merge; {} }}
  set near6 {{ type ipv6_addr; flags interval; auto-merge; {} }}
  chain postrouting {{
    type nat hook postrouting priority 100; policy accept;
    oifgroup {GROUP} accept
    ip saddr @pools4 ip daddr != @near4 masquerade
    ip6 saddr @pools6 ip6 daddr != @near6 masquerade
  }}
}}
",
        elements(&pools, true),
        elements(&pools, false),
        elements(&near, true),
        elements(&near, false)
    )
}

fn masked(prefix: IpNetwork) -> String {
    format!("{}/{}", prefix.network(), prefix.prefix())
}

/// The FORWARD chain of one tool.
#[derive(Debug, Default, PartialEq)]
struct Chain {
    drops: bool,
    rules: Vec<String>,
}

/// Reads a chain. A tool that is not installed and a kernel without that table are the same as an open chain.
fn chain(tool: &'static str) -> Result<Chain, FirewallError> {
    let output = match Command::new(tool, &["-w", "5", "-S", "FORWARD"]).run() {
        Ok(output) if output.code == Some(NO_TABLE) => return Ok(Chain::default()),
        Err(error) if error.is_missing() => return Ok(Chain::default()),
        other => other.and_then(Output::success).map_err(|source| FirewallError::ReadForward { source })?,
    };
    Ok(parse(&output.text))
}

fn parse(text: &str) -> Chain {
    let mut chain = Chain::default();
    for line in text.lines() {
        if let Some(policy) = line.strip_prefix("-P FORWARD ") {
            chain.drops = policy.trim() != "ACCEPT";
        } else if line.starts_with("-A FORWARD ") {
            chain.rules.push(line.to_owned());
        }
    }
    chain
}

/// Which of our rules the chain needs and does not have.
fn missing(chain: &Chain) -> Vec<&'static str> {
    let foreign = chain.rules.iter().any(|line| !MATCHES.iter().any(|side| is_ours(line, side)));
    if !chain.drops && !foreign {
        return Vec::new();
    }
    MATCHES.into_iter().filter(|side| !chain.rules.iter().any(|line| is_ours(line, side))).collect()
}

fn is_ours(line: &str, side: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches('"')).collect();
    words.windows(2).any(|pair| pair == ["--comment", COMMENT]) && words.contains(&side)
}

fn rule<'a>(action: &'a str, side: &'a str) -> [&'a str; 14] {
    const NUMBER: &str = "0x6369";
    [
        "-w",
        "5",
        action,
        "FORWARD",
        "-m",
        "devgroup",
        side,
        NUMBER,
        "-m",
        "comment",
        "--comment",
        COMMENT,
        "-j",
        "ACCEPT",
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "-A FORWARD -m devgroup --src-group 0x6369 -m comment --comment cilium -j ACCEPT\n\
                        -A FORWARD -m devgroup --dst-group 0x6369 -m comment --comment \"cilium\" -j ACCEPT\n";

    #[test]
    fn an_open_chain_needs_nothing() {
        assert!(missing(&parse("-P FORWARD ACCEPT\n")).is_empty());
        assert!(missing(&parse(&format!("-P FORWARD ACCEPT\n{OURS}"))).is_empty());
    }

    #[test]
    fn a_chain_that_may_drop_needs_both_rules() {
        assert_eq!(missing(&parse("-P FORWARD DROP\n")), MATCHES);
        assert_eq!(missing(&parse("-P FORWARD ACCEPT\n-A FORWARD -j DOCKER-USER\n")), MATCHES);
        assert!(missing(&parse(&format!("-P FORWARD DROP\n{OURS}"))).is_empty());
    }

    #[test]
    fn the_rules_name_our_group() {
        assert_eq!(u32::from_str_radix(rule("-I", MATCHES[0])[7].trim_start_matches("0x"), 16), Ok(GROUP));
    }

    #[test]
    fn the_script_lists_pools_by_family() {
        let pools = ["10.15.0.1/16", "f00d::/64"].map(|p| p.parse().unwrap()).into();
        let text = script(&pools, &["10.0.0.0/12".parse().unwrap()]);
        assert!(text.contains("set near4") && text.contains("elements = { 10.15.0.0/16, 10.0.0.0/12 };"), "{text}");
        assert!(text.contains("elements = { 10.15.0.0/16 };") && text.contains("elements = { f00d::/64 };"), "{text}");
    }
}
