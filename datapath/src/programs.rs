//! Loading the programs and keeping them on devices.
//!
//! Maps, programs and links are pinned below `<bpffs>/cilium`, so that packets are judged whether or not an agent runs:
//!
//! ```text
//! cilium/cilium_lxc …                the maps, under their names
//! cilium/abi_<n>                     an empty directory: what the maps mean (`ABI_VERSION`)
//! cilium/programs/<program>          what new devices get
//! cilium/links/<endpoint>_<program>  tcx links (devices of kernels without tcx hold their programs themselves)
//! cilium/links/dev<n>_<program>      of devices that are not ours, by number; without tcx the program itself, as a mark
//! cilium/links/cgroup_<program>      on the cgroup of the node's processes
//! cilium/links/0_<program>           those of the tunnel device, which has the number of an endpoint 0 (`links::TUNNEL`)
//! ```

mod layout;
pub mod sockets;
pub mod underlay;

use crate::current::Attachment;
use crate::filters::{self, Side};
use crate::links::{TUNNEL, ifindex};
use crate::maps::{MapError, Maps, policy, services};
use crate::netlink::{Netlink, NetlinkError, Refused};
use crate::syscall::{self, Hook};
use crate::{Attach, Config, GeneveBy, Tunnel, clock};
use aya::EbpfLoader;
use aya::programs::{Program, ProgramError, SchedClassifier};
use bpf::abi;
use bpf::names::{knob, program};
use model::EndpointId;
use rtnetlink::packet_route::RouteNetlinkMessage;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// The directory below the BPF file system that is ours.
pub const DIRECTORY: &str = "cilium";

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("mount the BPF file system at {path}")]
    Mount { path: PathBuf, source: io::Error },
    #[error("make directory {path}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("read the compiled programs")]
    Parse { source: aya_obj::ParseError },
    #[error("make room for map {map} of another layout")]
    Replace { map: String, source: io::Error },
    #[error("open the cgroup {path}")]
    Cgroup { path: PathBuf, source: io::Error },
    #[error("load the maps")]
    Maps { source: aya::EbpfError },
    #[error("program {program} is missing from the compiled object")]
    Missing { program: &'static str },
    #[error("load program {program}")]
    Program { program: &'static str, source: ProgramError },
    #[error("pin program {program}")]
    Pin { program: &'static str, source: io::Error },
    #[error("read the kernel's clock")]
    Clock { source: io::Error },
    #[error(transparent)]
    Map(#[from] MapError),
}

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("attach {program} to the device of endpoint {endpoint}")]
    Link { program: &'static str, endpoint: EndpointId, source: io::Error },
    #[error("pin {path}")]
    Pin { path: PathBuf, source: io::Error },
    #[error("remove pin {path}")]
    Unpin { path: PathBuf, source: io::Error },
    #[error("attach {program} to the device number {ifindex}")]
    Underlay { program: &'static str, ifindex: u32, source: io::Error },
    #[error("change the filter of the device number {ifindex}")]
    UnderlayFilter { ifindex: u32, source: Refused },
    #[error("attach {program} to the cgroup {cgroup}")]
    Cgroup { program: &'static str, cgroup: PathBuf, source: io::Error },
    #[error("attach the filters of endpoint {endpoint}")]
    Filter { endpoint: EndpointId, source: Refused },
    #[error("list pinned links in {path}")]
    List { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// One of the two programs that every device carries.
#[derive(Debug)]
struct Loaded {
    name: &'static str,
    hook: Hook,
    side: Side,
    fd: OwnedFd,
    id: u32,
}

/// This build's programs, loaded.
#[derive(Debug)]
pub struct Programs {
    hooks: [Loaded; 2],
    tunnel_hooks: [Loaded; 2],
    underlay: Loaded,
    sockets: Option<sockets::Sockets>,
    clock: OwnedFd,
    links: PathBuf,
    /// Otherwise by clsact.
    tcx: bool,
}

/// Makes maps and programs ready. What is attached stays as it is: `Programs::attach` replaces it.
pub fn load(config: &Config) -> Result<(Programs, Maps), LoadError> {
    mount(&config.bpffs)?;
    let directory = config.bpffs.join(DIRECTORY);
    let (links, pins) = (directory.join("links"), directory.join("programs"));
    for path in [&directory, &links, &pins] {
        std::fs::create_dir_all(path).map_err(|source| LoadError::Directory { path: path.clone(), source })?;
    }
    let former = layout::make_room(&directory, &entries(config))?;
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&directory);
    for (map, size) in entries(config) {
        loader.map_max_entries(map, size);
    }
    let knobs = knobs(config);
    for (name, value) in &knobs {
        loader.override_global(name, value, true);
    }
    let mut object = loader.load(bpf::CONTAINER).map_err(|source| LoadError::Maps { source })?;
    let mut load = |name| {
        let classifier = classifier(&mut object, name)?;
        let failed = |source| LoadError::Program { program: name, source };
        classifier.load().map_err(failed)?;
        let fd = classifier.fd().map_err(failed)?.as_fd().try_clone_to_owned();
        let fd = fd.map_err(|source| LoadError::Pin { program: name, source })?;
        repin(fd.as_fd(), &pins.join(name)).map_err(|source| LoadError::Pin { program: name, source })?;
        let info = syscall::program_info(fd.as_fd()).map_err(|source| LoadError::Pin { program: name, source })?;
        Ok::<_, LoadError>((fd, info.id))
    };
    let (from, from_id) = load(program::FROM_CONTAINER)?;
    let (to, to_id) = load(program::TO_CONTAINER)?;
    let (from_overlay, from_overlay_id) = load(program::FROM_OVERLAY)?;
    let (to_overlay, to_overlay_id) = load(program::TO_OVERLAY)?;
    let (underlay, underlay_id) = load(program::FROM_UNDERLAY)?;
    let (clock, _) = load(program::CLOCK)?;
    let sockets = config.sockets.then(|| sockets::load(config, &directory, &entries(config))).transpose()?;
    let maps = Maps::open(&directory)?;
    former.restore(&maps)?;
    let tcx = match config.attach {
        Attach::Auto => syscall::knows_tcx(from.as_fd()),
        Attach::Clsact => false,
    };
    let (ingress, egress) = (Hook::TcxIngress, Hook::TcxEgress);
    let hooks = [
        Loaded { name: program::FROM_CONTAINER, hook: ingress, side: Side::Ingress, fd: from, id: from_id },
        Loaded { name: program::TO_CONTAINER, hook: egress, side: Side::Egress, fd: to, id: to_id },
    ];
    let tunnel_hooks = [
        Loaded {
            name: program::FROM_OVERLAY,
            hook: ingress,
            side: Side::Ingress,
            fd: from_overlay,
            id: from_overlay_id,
        },
        Loaded { name: program::TO_OVERLAY, hook: egress, side: Side::Egress, fd: to_overlay, id: to_overlay_id },
    ];
    let underlay =
        Loaded { name: program::FROM_UNDERLAY, hook: ingress, side: Side::Ingress, fd: underlay, id: underlay_id };
    Ok((Programs { hooks, tunnel_hooks, underlay, sockets, clock, links, tcx }, maps))
}

/// Mounts a BPF file system where there is none.
fn mount(path: &Path) -> Result<(), LoadError> {
    let failed = |source| LoadError::Mount { path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(failed)?;
    let is_bpffs = nix::sys::statfs::statfs(path).map_err(|errno| failed(errno.into()))?;
    if is_bpffs.filesystem_type().0 as i64 == BPF_FS_MAGIC {
        return Ok(());
    }
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("bpf"), path, Some("bpf"), flags, Some("mode=0700")).map_err(|errno| failed(errno.into()))
}

/// The sizes that the configuration sets.
fn entries(config: &Config) -> [(&'static str, u32); 8] {
    use bpf::names::map::{CT4, CT6, IPCACHE, IPCACHE_LPM, LB_PLACES, LB_REVERSE_SK, POLICY, SNAT};
    [
        (CT4, config.conntrack_max_v4),
        (CT6, config.conntrack_max_v6),
        (POLICY, config.policy_max),
        (IPCACHE, config.ipcache_max),
        (IPCACHE_LPM, config.ipcache_max),
        (LB_PLACES, config.lb_places_max.div_ceil(abi::LB_ROW)),
        (LB_REVERSE_SK, config.sock_reverse_max),
        (SNAT, config.nat_max),
    ]
}

fn knobs(config: &Config) -> Vec<(&'static str, u32)> {
    let ticks = |time| clock::ticks(time);
    let mut ports = config.tunnel_ports;
    let mut geneve = abi::GENEVE_NONE;
    match config.tunnel {
        Tunnel::Disabled => {}
        Tunnel::Vxlan { port } => ports.vxlan = port,
        Tunnel::Geneve { port, by } => {
            ports.geneve = port;
            geneve = if by == GeneveBy::Programs { abi::GENEVE_PROGRAMS } else { abi::GENEVE_DEVICE };
        }
    }
    vec![
        (knob::VXLAN_PORT, u32::from(ports.vxlan)),
        (knob::GENEVE_PORT, u32::from(ports.geneve)),
        (knob::GENEVE, geneve),
        (knob::NATIVE_ROUTING, u32::from(config.tunnel == Tunnel::Disabled)),
        (knob::SNAT_PORT_FIRST, u32::from(*config.snat_ports.start())),
        (knob::SNAT_PORT_LAST, u32::from(*config.snat_ports.end())),
        (knob::CT_TIMEOUT_TCP, ticks(config.timeouts.tcp)),
        (knob::CT_TIMEOUT_TCP_SYN, ticks(config.timeouts.tcp_syn)),
        (knob::CT_TIMEOUT_ANY, ticks(config.timeouts.any)),
        (knob::CT_TIMEOUT_CLOSING, ticks(config.timeouts.closing)),
        (knob::FRAG_TIMEOUT, ticks(config.timeouts.fragments)),
        (knob::REPORT_INTERVAL, ticks(config.timeouts.report)),
    ]
}

fn classifier<'a>(object: &'a mut aya::Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, LoadError> {
    match object.program_mut(name) {
        Some(Program::SchedClassifier(classifier)) => Ok(classifier),
        _ => Err(LoadError::Missing { program: name }),
    }
}

/// Pins in place of what is pinned there; the path is never without an object.
fn repin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let next = path.with_extension("").with_file_name(format!("{}_next", file_name(path)));
    match std::fs::remove_file(&next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    syscall::pin(fd, &next)?;
    std::fs::rename(&next, path)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Programs {
    /// The program that tells the time, for other threads.
    pub fn clock(&self) -> io::Result<OwnedFd> {
        self.clock.try_clone()
    }

    /// What is on the cgroup of the node's processes; `None`: nothing, and no pins.
    pub fn sockets(&self) -> Result<Option<Attachment>, AttachError> {
        match &self.sockets {
            Some(sockets) => sockets.attachment(&self.links),
            None => {
                let pins = sockets::pinned(&self.links);
                let pins = pins.map_err(|source| AttachError::List { path: self.links.clone(), source })?;
                Ok((!pins.is_empty()).then_some(Attachment::Outdated))
            }
        }
    }

    /// Has sockets served.
    pub fn attach_sockets(&self) -> Result<(), AttachError> {
        self.sockets.as_ref().map_or(Ok(()), |sockets| sockets.attach(&self.links))
    }

    pub fn detach_sockets(&self) -> Result<(), AttachError> {
        sockets::detach(&self.links)
    }

    /// The programs of an endpoint's device, or of the tunnel's.
    fn hooks_of(&self, endpoint: EndpointId) -> &[Loaded; 2] {
        if endpoint == TUNNEL { &self.tunnel_hooks } else { &self.hooks }
    }

    /// Puts both programs on the device of an endpoint, or on the tunnel's. What is there is replaced in place, with no packet in between.
    pub fn attach(&self, netlink: &mut Netlink, endpoint: EndpointId) -> Result<(), AttachError> {
        if self.tcx {
            return self.hooks_of(endpoint).iter().try_for_each(|program| self.attach_tcx(program, endpoint));
        }
        let number = ifindex(endpoint);
        let mut requests = vec![filters::add_qdisc(number)];
        requests.extend(
            self.hooks_of(endpoint).iter().map(|p| filters::put(number, p.side, filters::FIRST, p.name, p.fd.as_fd())),
        );
        let mut answers = netlink.execute(requests)?.into_iter();
        match answers.next() {
            Some(Err(refused)) if refused.errno != libc::EEXIST => {
                return Err(AttachError::Filter { endpoint, source: refused });
            }
            _ => {}
        }
        answers.try_for_each(|answer| answer.map_err(|source| AttachError::Filter { endpoint, source }))
    }

    fn attach_tcx(&self, program: &Loaded, endpoint: EndpointId) -> Result<(), AttachError> {
        let path = self.pin_of(endpoint, program.name);
        let failed = |source| AttachError::Link { program: program.name, endpoint, source };
        match syscall::open_pin(&path) {
            Ok(link) => {
                let info = syscall::link_info(link.as_fd()).map_err(failed)?;
                if info.ifindex == ifindex(endpoint) && info.hook == program.hook as u32 {
                    return syscall::update_link(link.as_fd(), program.fd.as_fd()).map_err(failed);
                }
                std::fs::remove_file(&path).map_err(|source| AttachError::Unpin { path: path.clone(), source })?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(failed(source)),
        }
        let link = syscall::link(program.fd.as_fd(), ifindex(endpoint), program.hook).map_err(failed)?;
        syscall::pin(link.as_fd(), &path).map_err(|source| AttachError::Pin { path, source })
    }

    /// Removes the pins of an endpoint whose device is gone.
    pub fn unpin(&self, endpoint: EndpointId) -> Result<(), AttachError> {
        for path in self.pins(endpoint) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(AttachError::Unpin { path, source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Where the links of an endpoint's device are pinned.
    pub fn pins(&self, endpoint: EndpointId) -> [PathBuf; 2] {
        self.hooks_of(endpoint).each_ref().map(|program| self.pin_of(endpoint, program.name))
    }

    /// What is attached to the devices of endpoints and to the tunnel's. Of devices with filters only those in `devices` are looked at.
    pub fn attachments(
        &self,
        netlink: &mut Netlink,
        devices: impl Iterator<Item = EndpointId>,
    ) -> Result<BTreeMap<EndpointId, Attachment>, AttachError> {
        let mut found: BTreeMap<EndpointId, Vec<(&'static str, Attachment)>> = BTreeMap::new();
        let failed = |source| AttachError::List { path: self.links.clone(), source };
        for entry in std::fs::read_dir(&self.links).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if let Some((endpoint, program)) = self.endpoint_of_pin(&path) {
                found.entry(endpoint).or_default().push((program.name, self.pinned(&path, endpoint, program)));
            }
        }
        if !self.tcx {
            for endpoint in devices {
                for program in self.hooks_of(endpoint) {
                    if let Some(id) = filter_program(netlink, ifindex(endpoint), program.side, filters::FIRST)? {
                        let state = if id == program.id { Attachment::Current } else { Attachment::Outdated };
                        found.entry(endpoint).or_default().push((program.name, state));
                    }
                }
            }
        }
        let both = |endpoint: EndpointId, programs: &Vec<(&'static str, Attachment)>| {
            let of = |name| programs.iter().filter(move |(n, _)| *n == name).map(|(_, state)| *state);
            let states =
                self.hooks_of(endpoint).each_ref().map(|hook| of(hook.name).find(|state| *state != Attachment::Dead));
            match states {
                [Some(Attachment::Current), Some(Attachment::Current)] => Attachment::Current,
                [Some(_), Some(_)] => Attachment::Outdated,
                _ => Attachment::Dead,
            }
        };
        Ok(found.iter().map(|(endpoint, programs)| (*endpoint, both(*endpoint, programs))).collect())
    }

    fn pinned(&self, path: &Path, endpoint: EndpointId, program: &Loaded) -> Attachment {
        match syscall::open_pin(path).and_then(|link| syscall::link_info(link.as_fd())) {
            Ok(info) if info.ifindex != ifindex(endpoint) => Attachment::Dead,
            Ok(info) if info.program == program.id => Attachment::Current,
            Ok(_) => Attachment::Outdated,
            Err(_) => Attachment::Dead,
        }
    }

    fn pin_of(&self, endpoint: EndpointId, program: &str) -> PathBuf {
        self.links.join(format!("{endpoint}_{program}"))
    }

    fn endpoint_of_pin(&self, path: &Path) -> Option<(EndpointId, &Loaded)> {
        let name = file_name(path);
        let (id, program) = name.split_once('_')?;
        let id = EndpointId(id.parse().ok()?);
        self.hooks_of(id).iter().find(|hook| hook.name == program).map(|hook| (id, hook))
    }
}

/// The program in our filter on a side of a device.
fn filter_program(netlink: &mut Netlink, ifindex: u32, side: Side, priority: u32) -> Result<Option<u32>, AttachError> {
    let entries = match netlink.dump(filters::list(ifindex, side)) {
        Ok(entries) => entries,
        // No device, or no clsact on it.
        Err(NetlinkError::Dump { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(entries.iter().find_map(|entry| match entry {
        RouteNetlinkMessage::NewTrafficFilter(message) => filters::program_of(message, priority),
        _ => None,
    }))
}

impl layout::Former {
    /// Carries into new maps what must outlive the former ones.
    fn restore(self, maps: &Maps) -> Result<(), LoadError> {
        policy::begin_after(maps, self.last_policy)?;
        services::begin_after(&maps.services, self.last_service, self.last_backend)?;
        self.copy_flows(maps);
        Ok(())
    }
}
