//! When a round runs: a new snapshot, a retry that is due, something of ours changed by others, or the resync.
//!
//! Lives on a thread of its own with a runtime of its own, in one network namespace from start to end; rounds block it.

use crate::NodeAddresses;
use crate::current::Current;
use crate::kernel::Linux;
use crate::notices::{ADDRESSES, Devices, LINKS, Notices, Seen, touches_firewall};
use crate::operation::Domain;
use crate::reconcile::Reconciler;
use model::desired::{Datapath, Status};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Notices come in bursts, our own changes' among them; what the last one says counts.
const SETTLE: Duration = Duration::from_millis(50);

/// What the worker is driven by.
#[derive(Debug)]
pub struct Inputs {
    pub desired: watch::Receiver<Arc<Datapath>>,
    pub status: watch::Sender<Arc<Status>>,
    pub shutdown: CancellationToken,
    pub resync: Duration,
}

/// Runs until shutdown, or until whoever publishes snapshots is gone.
pub fn run(mut reconciler: Reconciler<Linux>, inputs: Inputs) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listening = Listening::open()?;
        work(&mut reconciler, inputs, listening).await;
        Ok(())
    })
}

struct Listening {
    devices: Notices,
    /// Absent where the kernel has no nftables; then only the resync finds changes.
    firewall: Option<Notices>,
}

impl Listening {
    fn open() -> io::Result<Listening> {
        let devices = Notices::open(NETLINK_ROUTE, &[&[LINKS][..], &ADDRESSES].concat())?;
        let firewall = Notices::firewall();
        let firewall = firewall.inspect_err(|error| tracing::debug!(%error, "no notices of nftables")).ok();
        Ok(Listening { devices, firewall })
    }
}

/// What was noticed and is to be looked at.
#[derive(Default)]
struct Noticed {
    devices: Devices,
    lost: bool,
    firewall: bool,
    /// When to look.
    due: Option<Instant>,
}

impl Noticed {
    fn later(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + SETTLE);
    }

    /// Parts of the picture that no longer hold.
    fn take(&mut self, current: &Current) -> Vec<Domain> {
        let noticed = std::mem::take(self);
        let links = &current.network.links;
        let differs = noticed.devices.endpoints.iter().any(|(id, seen)| match (links.get(id), seen) {
            (None, Seen::Gone) => false,
            (Some(link), Seen::Up) => !link.up,
            _ => true,
        });
        let tunnel = noticed.devices.tunnel.is_some_and(|seen| match (current.network.tunnel, seen) {
            (None, Seen::Gone) => false,
            (Some(link), Seen::Up) => !link.up,
            _ => true,
        });
        let host = noticed.devices.host.is_some_and(|seen| current.network.host_device != (seen == Seen::Up));
        let mut domains = Vec::new();
        let differs = differs || tunnel;
        // It is addresses that tell on which devices that are not ours programs must be.
        let addresses = noticed.devices.addresses;
        let underlay =
            addresses && (current.bpf.tunnel_sources != NodeAddresses::default() || !current.bpf.underlays.is_empty());
        if differs || host || addresses || noticed.lost {
            domains.push(Domain::Network);
        }
        if differs || underlay || noticed.lost {
            // With a device goes what was attached to it.
            domains.push(Domain::Bpf);
        }
        if noticed.firewall {
            domains.push(Domain::Firewall);
        }
        domains
    }
}

async fn work(reconciler: &mut Reconciler<Linux>, mut inputs: Inputs, listening: Listening) {
    let mut noticed = Noticed::default();
    let mut resync = Instant::now() + inputs.resync;
    loop {
        let desired = inputs.desired.borrow_and_update().clone();
        let status = reconciler.round(&desired, Instant::now());
        inputs.status.send_replace(Arc::new(status));
        // Until there is a reason for another round.
        loop {
            let now = Instant::now();
            reconciler.sweep(now);
            if noticed.due.is_some_and(|due| due <= now) {
                let domains = noticed.take(reconciler.current());
                domains.iter().for_each(|domain| reconciler.distrust(*domain));
                if !domains.is_empty() {
                    break;
                }
            }
            if resync <= now {
                resync = now + inputs.resync;
                [Domain::Network, Domain::Bpf, Domain::Services, Domain::Firewall]
                    .into_iter()
                    .for_each(|d| reconciler.distrust(d));
                break;
            }
            if reconciler.retry_due(now) {
                break;
            }
            let wake = [Some(resync), noticed.due, reconciler.due()].into_iter().flatten().min().unwrap_or(resync);
            tokio::select! {
                biased;
                () = inputs.shutdown.cancelled() => return,
                changed = inputs.desired.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                bytes = listening.devices.next() => {
                    match bytes {
                        Some(bytes) => noticed.devices.note(&bytes),
                        None => noticed.lost = true,
                    }
                    if noticed.lost || !noticed.devices.is_empty() {
                        noticed.later();
                    }
                }
                bytes = next(listening.firewall.as_ref()) => {
                    if bytes.is_none_or(|bytes| touches_firewall(&bytes)) {
                        noticed.firewall = true;
                        noticed.later();
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
            }
        }
    }
}

/// Waits for ever where there is nothing to listen to.
async fn next(notices: Option<&Notices>) -> Option<Vec<u8>> {
    match notices {
        Some(notices) => notices.next().await,
        None => std::future::pending().await,
    }
}
