//! Takes everything of ours out of the kernel, with or without an agent: devices, routes, rules, programs, maps.

use crate::firewall;
use crate::links::{self, Device, GROUP, HOST_DEVICE};
use crate::netlink::{Netlink, NetlinkError, Refused, Request};
use crate::programs::{self, DIRECTORY};
use crate::reconcile::chain;
use crate::routes::{self, Route};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// What to remove.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct What {
    /// Devices and what goes with them: programs, maps, pins, routes, neighbours, gateway addresses. Containers on our
    /// networks lose their network. Programs cannot go alone: their devices would pass everything.
    pub devices: bool,
    /// The masquerading table and the rules in the FORWARD chains.
    pub firewall: bool,
}

impl What {
    pub const ALL: What = What { devices: true, firewall: true };
}

/// What was done. What is absent needs nothing done.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    pub removed: Vec<String>,
    /// Each with its causes.
    pub failed: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
enum CleanupError {
    #[error("remove {what}")]
    Refused { what: String, source: Refused },
    #[error("remove {path}")]
    Path { path: PathBuf, source: io::Error },
    #[error("list devices and routes")]
    List { source: NetlinkError },
}

/// Removes what this crate made in the calling thread's network namespace and below `bpffs`, and nothing else. Goes on
/// after failures. The agent must not run: it would make everything again.
///
/// What was a switch of the whole node stays as it is: forwarding, and a BPF file system that was mounted.
pub fn cleanup(bpffs: &Path, what: What) -> Report {
    let mut report = Report::default();
    if what.devices {
        if let Err(error) = network(&mut report) {
            report.fail(&error);
        }
        underlays(&bpffs.join(DIRECTORY).join("links"), &mut report);
        // Pins last: a program leaves a device that is still there with its pin.
        if report.failed.is_empty() {
            pins(&bpffs.join(DIRECTORY), &mut report);
        }
    }
    if what.firewall {
        let (removed, failed) = firewall::remove();
        report.removed.extend(removed);
        failed.iter().for_each(|error| report.fail(error));
    }
    report
}

impl Report {
    fn fail(&mut self, error: &(dyn Error + 'static)) {
        self.failed.push(chain(error));
    }
}

fn network(report: &mut Report) -> Result<(), CleanupError> {
    let list = |source| CleanupError::List { source };
    let mut netlink = Netlink::open().map_err(list)?;
    let mut doomed: Vec<(String, Request)> = Vec::new();
    for entry in netlink.dump(links::list()).map_err(list)? {
        let RouteNetlinkMessage::NewLink(message) = entry else { continue };
        let device = Device::decode(&message);
        let ours = device.endpoint().is_some()
            || device.is_doomed()
            || device.tunnel().is_some()
            || (device.name == HOST_DEVICE && device.group == GROUP && device.veth);
        if ours {
            doomed.push((format!("device {}", device.name), links::delete(device.ifindex)));
        }
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        // A kernel without IPv6 has no routes of that family.
        for entry in netlink.dump(routes::list_routes(family)).unwrap_or_default() {
            let RouteNetlinkMessage::NewRoute(message) = entry else { continue };
            if let Some(Route::Pool(prefix)) = routes::decode_route(&message) {
                doomed.push((format!("unreachable route {prefix}"), routes::remove_unreachable(prefix)));
            }
        }
    }
    let (names, requests): (Vec<_>, Vec<_>) = doomed.into_iter().unzip();
    for (what, answer) in names.into_iter().zip(netlink.execute(requests).map_err(list)?) {
        match answer {
            Ok(()) => report.removed.push(what),
            Err(refused) if matches!(refused.errno, libc::ENODEV | libc::ESRCH) => {}
            Err(source) => report.fail(&CleanupError::Refused { what, source }),
        }
    }
    Ok(())
}

/// Takes our filters off devices that are not ours, which stay. Where they are links, they go with their pins.
fn underlays(links: &Path, report: &mut Report) {
    let found = match programs::underlay::pinned(links) {
        Ok(found) if found.is_empty() => return,
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(source) => return report.fail(&CleanupError::Path { path: links.to_owned(), source }),
    };
    let mut netlink = match Netlink::open() {
        Ok(netlink) => netlink,
        Err(source) => return report.fail(&CleanupError::List { source }),
    };
    for (ifindex, _) in found {
        if let Err(error) = programs::underlay::remove_filter(&mut netlink, ifindex) {
            report.fail(&error);
        }
    }
}

/// Removes a directory of pins with everything in it.
fn pins(directory: &Path, report: &mut Report) {
    let failed = |path: &Path, source| CleanupError::Path { path: path.to_owned(), source };
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(source) => return report.fail(&failed(directory, source)),
    };
    for entry in entries {
        let result = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?.is_dir())));
        match result {
            Ok((path, true)) => pins(&path, report),
            Ok((path, false)) => match std::fs::remove_file(&path) {
                Ok(()) => report.removed.push(format!("pin {}", path.display())),
                Err(source) => report.fail(&failed(&path, source)),
            },
            Err(source) => report.fail(&failed(directory, source)),
        }
    }
    if let Err(source) = std::fs::remove_dir(directory) {
        report.fail(&failed(directory, source));
    }
}
