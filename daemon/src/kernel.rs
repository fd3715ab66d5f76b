//! The running datapath as the rest of the agent sees it: its status, its events, its tables.
//!
//! Reading tables walks the kernel's memory, so that happens on threads made for waiting.

use crate::config::{Config, Tunnel};
use crate::node::Node;
use crate::writer::Inputs;
use api::datapath::MetricRow;
use datapath::{TableError, Tables};
use model::desired::Status;
use model::event::Event;
use state::Input;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// UDP port of VXLAN between nodes: the one that Linux, and with it Cilium, has always used.
const VXLAN_PORT: u16 = 8472;
/// UDP port of Geneve: IANA's.
const GENEVE_PORT: u16 = 6081;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub status: watch::Receiver<Arc<Status>>,
    pub events: broadcast::Sender<Arc<Event>>,
    tables: Tables,
    /// The way to other nodes.
    pub tunnel: datapath::Tunnel,
    pub cpus: u32,
    /// Bytes of the events' ring buffer.
    pub ring_bytes: u64,
}

/// Where Linux says which ports it gives sockets by itself (ip-sysctl.rst).
const EPHEMERAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// With fewer ports than that it is better to share them with the host's sockets.
const LEAST_PORTS: usize = 1024;

/// Which ports the host's sockets are given by themselves; Linux's default where it does not say.
fn ephemeral_ports() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string(EPHEMERAL_PORTS).unwrap_or_default();
    let mut words = text.split_whitespace().map(str::parse::<u16>);
    match (words.next(), words.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first <= last => first..=last,
        _ => 32_768..=60_999,
    }
}

/// Ports under which this node sends on to other nodes' backends: the longest run that neither the host's sockets nor node
/// ports have, for an answer to such a port is never the host's own.
fn snat_ports(ephemeral: RangeInclusive<u16>, node_ports: &RangeInclusive<u16>) -> RangeInclusive<u16> {
    let free = |port: &u16| !ephemeral.contains(port) && !node_ports.contains(port);
    let ports: Vec<u16> = (1024..=u16::MAX).filter(free).collect();
    let longest = ports.chunk_by(|port, next| port + 1 == *next).max_by_key(|run| run.len());
    if let Some([first, .., last]) = longest.filter(|run| run.len() >= LEAST_PORTS) {
        return *first..=*last;
    }
    tracing::warn!(
        ?ephemeral,
        "the host's sockets are given nearly all ports by themselves: one may meet a port of a service's client"
    );
    ephemeral
}

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("the thread that read the table ended")]
    Thread(#[from] tokio::task::JoinError),
}

impl Kernel {
    /// What the datapath is told of the settings.
    pub fn config(config: &Config, node: &Node) -> datapath::Config {
        datapath::Config {
            bpffs: config.bpf_root.clone(),
            conntrack_max_v4: config.conntrack_max,
            conntrack_max_v6: config.conntrack_max,
            policy_max: config.policy_max,
            ipcache_max: config.ipcache_max,
            lb_places_max: config.lb_places_max,
            sockets: config.lb_sock,
            cgroup_root: config.cgroup_root.clone(),
            sock_reverse_max: config.sock_reverse_max,
            nat_max: config.nat_max,
            snat_ports: snat_ports(ephemeral_ports(), &config.services.node_ports),
            masquerade: config.masquerade,
            native: config.native.prefixes.clone(),
            monitor_aggregation: config.monitor_aggregation,
            tunnel: match config.tunnel {
                Tunnel::Disabled => datapath::Tunnel::Disabled,
                Tunnel::Vxlan => datapath::Tunnel::Vxlan { port: VXLAN_PORT },
                Tunnel::Geneve => datapath::Tunnel::Geneve { port: GENEVE_PORT, by: datapath::GeneveBy::Auto },
            },
            node: datapath::NodeAddresses { v4: node.ipv4, v6: node.ipv6 },
            ..datapath::Config::default()
        }
    }

    pub fn new(handle: &datapath::Handle) -> Kernel {
        Kernel {
            status: handle.status.clone(),
            events: handle.events.clone(),
            tables: handle.tables.clone(),
            tunnel: handle.tunnel,
            cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
            ring_bytes: handle.tables.ring_bytes(),
        }
    }

    /// Reads tables on a thread that may wait.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Tables) -> Result<T, TableError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let tables = self.tables.clone();
        Ok(tokio::task::spawn_blocking(move || read(&tables)).await??)
    }

    /// Events that the kernel had no room for, and those that could not be decoded.
    pub fn lost_and_unknown(&self) -> (u64, u64) {
        (self.tables.lost_events().unwrap_or_default(), self.tables.malformed_events())
    }

    /// Packets and bytes by reason and direction.
    pub async fn packet_counters(&self) -> Result<Vec<MetricRow>, ReadError> {
        let metrics = self.read(Tables::metrics).await?;
        let row = |metric: datapath::Metric| MetricRow {
            code: metric.reason.0,
            reason: metric.reason.to_string(),
            direction: metric.direction.map_or_else(|| "Unknown".to_owned(), |direction| direction.to_string()),
            packets: metric.packets,
            bytes: metric.bytes,
        };
        Ok(metrics.into_iter().map(row).collect())
    }
}

/// Feeds the host's own addresses and the uplink's MTU.
pub struct Host {
    pub inputs: Inputs,
}

#[derive(Debug, thiserror::Error)]
pub enum HostError {
    #[error("follow the host's addresses")]
    Watch(#[from] datapath::addresses::WatchError),
    #[error("the watch on the host's addresses ended")]
    Ended,
}

impl Host {
    /// Feeds what is there now; what is returned follows the changes. `node`: by which others reach this one.
    pub async fn begin(
        inputs: Inputs,
        node: Option<IpAddr>,
        shutdown: CancellationToken,
    ) -> Result<impl Future<Output = Result<(), HostError>>, HostError> {
        let watched = datapath::addresses::watch(node, shutdown.clone())?;
        let host = Host { inputs };
        let (mut addresses, mut mtu) = (watched.addresses, watched.uplink_mtu);
        let (now, now_mtu) = (addresses.borrow_and_update().clone(), *mtu.borrow_and_update());
        host.addresses(now).await;
        host.mtu(now_mtu).await;
        Ok(async move {
            loop {
                tokio::select! {
                    // First: the watch ends with the same token.
                    biased;
                    () = shutdown.cancelled() => return Ok(()),
                    changed = addresses.changed() => {
                        changed.map_err(|_| HostError::Ended)?;
                        let now = addresses.borrow_and_update().clone();
                        host.addresses(now).await;
                    }
                    changed = mtu.changed() => {
                        changed.map_err(|_| HostError::Ended)?;
                        let now = *mtu.borrow_and_update();
                        host.mtu(now).await;
                    }
                }
            }
        })
    }

    async fn addresses(&self, now: BTreeSet<IpAddr>) {
        self.inputs.tell(Input::HostAddresses(now)).await;
    }

    /// Without a default route the last known MTU stays.
    async fn mtu(&self, now: Option<u32>) {
        if let Some(mtu) = now {
            self.inputs.tell(Input::UplinkMtu(mtu)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_for_others_are_none_that_the_host_gives_away() {
        assert_eq!(snat_ports(32_768..=60_999, &(30_000..=32_767)), 1024..=29_999);
        assert_eq!(snat_ports(1024..=40_000, &(41_000..=41_999)), 42_000..=65_535);
        assert_eq!(snat_ports(40_000..=65_535, &(1024..=20_000)), 20_001..=39_999);
        // There is no room beside them.
        assert_eq!(snat_ports(1024..=65_000, &(30_000..=32_767)), 1024..=65_000);
    }
}
