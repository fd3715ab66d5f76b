//! The switches that make the node a router, in /proc/sys of the thread's network namespace.

use std::io;
use std::path::{Path, PathBuf};

const IPV4: &str = "/proc/sys/net/ipv4/ip_forward";
const IPV6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
const DEVICES: &str = "/proc/sys/net/ipv6/conf";

#[derive(Debug, thiserror::Error)]
pub enum ForwardingError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write {value} to {path}")]
    Write { path: PathBuf, value: &'static str, source: io::Error },
}

/// Whether the kernel speaks IPv6 at all.
pub fn has_ipv6() -> bool {
    Path::new(DEVICES).exists()
}

pub fn is_on() -> Result<bool, ForwardingError> {
    Ok(read(Path::new(IPV4))? != "0" && (!has_ipv6() || read(Path::new(IPV6))? != "0"))
}

/// Turns forwarding on where it is off.
///
/// A router heeds no router advertisements: devices that do so far (`accept_ra` 1) would lose their default route, so
/// they are told to heed them all the same (2).
pub fn turn_on() -> Result<(), ForwardingError> {
    if read(Path::new(IPV4))? == "0" {
        write(Path::new(IPV4), "1")?;
    }
    if has_ipv6() && read(Path::new(IPV6))? == "0" {
        keep_advertisements()?;
        write(Path::new(IPV6), "1")?;
    }
    Ok(())
}

fn keep_advertisements() -> Result<(), ForwardingError> {
    let failed = |source| ForwardingError::Read { path: PathBuf::from(DEVICES), source };
    for device in std::fs::read_dir(DEVICES).map_err(failed)? {
        let device = device.map_err(failed)?;
        let name = device.file_name();
        let path = device.path().join("accept_ra");
        // A device can vanish while we look.
        if name != "all" && name != "default" && name != "lo" && read(&path).is_ok_and(|value| value == "1") {
            write(&path, "2")?;
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, ForwardingError> {
    let text = std::fs::read_to_string(path);
    text.map(|t| t.trim().to_owned()).map_err(|source| ForwardingError::Read { path: path.to_owned(), source })
}

fn write(path: &Path, value: &'static str) -> Result<(), ForwardingError> {
    std::fs::write(path, value).map_err(|source| ForwardingError::Write { path: path.to_owned(), value, source })
}
