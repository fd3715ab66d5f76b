//! The kernel that this process runs on: operations become route netlink messages, map elements, links and rules.

use super::{Kernel, OperationError, ReadError};
use crate::addresses::is_reachable;
use crate::current::services::Services;
use crate::current::{Bpf, Firewall, Network};
use crate::expedite::Expedited;
use crate::firewall::Rules;
use crate::forwarding;
use crate::housing::{self, HousingSpec};
use crate::links::{self, Device, HOST_DEVICE, HOST_PEER, TUNNEL, endpoint_of, ifindex};
use crate::maps::{Maps, endpoints, identities, ipcache, policy, runtime, services, tunnel};
use crate::netlink::{Netlink, NetlinkError, Refused, Request};
use crate::netns::Namespace;
use crate::operation::{Operation, TunnelKind, TunnelSpec};
use crate::programs::Programs;
use crate::routes::{self, Route};
use crate::undertaker::Undertaker;
use ipnetwork::IpNetwork;
use model::desired::IpcacheEntry;
use model::{EndpointId, Mac};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The number of the loopback device.
const LOOPBACK: u32 = 1;

#[derive(Debug, thiserror::Error)]
enum NetworkError {
    #[error("{what}")]
    Refused { what: String, source: Refused },
    #[error("{what}")]
    Conversation { what: String, source: Arc<NetlinkError> },
    #[error("there is no device {name}")]
    NoDevice { name: &'static str },
    #[error("draw a hardware address")]
    Random { source: std::io::Error },
}

#[derive(Debug)]
pub struct Linux {
    netlink: Netlink,
    maps: Arc<Maps>,
    programs: Programs,
    rules: Rules,
    undertaker: Undertaker,
    /// Endpoints whose device may not be deleted yet.
    doomed: BTreeSet<EndpointId>,
    /// Where endpoints live that no container is behind.
    own: Option<Arc<Namespace>>,
    ipv6: bool,
}

impl Linux {
    /// Speaks to the kernel from the calling thread's network namespace; all calls must come from that thread.
    pub fn new(maps: Arc<Maps>, programs: Programs, rules: Rules) -> Result<Linux, NetlinkError> {
        Ok(Linux {
            netlink: Netlink::open()?,
            maps,
            programs,
            rules,
            undertaker: Undertaker::new()?,
            doomed: BTreeSet::new(),
            own: None,
            ipv6: forwarding::has_ipv6(),
        })
    }

    /// The namespace for endpoints that no container is behind.
    pub fn with_own(self, own: Option<Arc<Namespace>>) -> Linux {
        Linux { own, ..self }
    }
}

impl Kernel for Linux {
    fn network(&mut self) -> Result<Network, ReadError> {
        let (mut network, doomed) = read_network(&mut self.netlink, self.ipv6)?;
        if let Some(own) = &self.own {
            network.housed = housing::housed(own)?;
        }
        if doomed {
            self.undertaker.bury([]);
        }
        Ok(network)
    }

    fn bpf(&mut self, held: &Bpf) -> Result<Bpf, ReadError> {
        let slots = endpoints::read(&self.maps)?;
        let devices = slots.keys().copied().chain([TUNNEL]);
        let mut attachments = self.programs.attachments(&mut self.netlink, devices)?;
        let tunnel = attachments.remove(&TUNNEL);
        let underlays = self.programs.underlays(&mut self.netlink)?;
        let versions = policy::read(&self.maps)?;
        let (vteps, nodes) = (tunnel::read_vteps(&self.maps)?, tunnel::read_nodes(&self.maps)?);
        let numbers = vteps.values().map(|vtep| vtep.node).chain(nodes.values().copied());
        Ok(Bpf {
            slots,
            attachments,
            tunnel,
            tunnel_mtu: runtime::read_tunnel_mtu(&self.maps)?,
            last_node: numbers.max().map_or(0, |number| number.0),
            vteps,
            nodes,
            identities: identities::read(&self.maps)?,
            underlays,
            tunnel_sources: runtime::read_tunnel_sources(&self.maps)?,
            snat_sources: runtime::read_snat_sources(&self.maps)?,
            sockets: self.programs.sockets()?,
            policies: versions.policies,
            last_policy: versions.last,
            ipcache: ipcache::read(&self.maps, &held.ipcache)?,
            // Whoever wrote the ipcache last may have ended before it said so.
            flows_stale: true,
        })
    }

    fn services(&mut self) -> Result<Services, ReadError> {
        Ok(services::read(&self.maps.services)?)
    }

    fn firewall(&mut self) -> Result<Firewall, ReadError> {
        Ok(self.rules.read()?)
    }

    fn apply(&mut self, operations: &[Operation]) -> Vec<Result<(), OperationError>> {
        let mut results = Vec::with_capacity(operations.len());
        let mut rest = operations;
        while let Some(first) = rest.first() {
            // Operations of one kind go together.
            let same = rest.iter().take_while(|o| Way::of(o) == Way::of(first)).count();
            let (run, after) = rest.split_at(same);
            match Way::of(first) {
                Way::Messages => results.extend(self.messages(run)),
                Way::Addresses => results.extend(self.addresses(run)),
                Way::Identities => results.extend(self.identities(run)),
                Way::Forgetting => results.extend(self.forgetting(run)),
                Way::Amendments => results.extend(self.amendments(run)),
                Way::Services => {
                    let answers = services::apply(&self.maps.services, run).into_iter();
                    results.extend(answers.map(|answer| answer.map_err(OperationError::from)));
                }
                Way::Programs => {
                    let _hurry = Expedited::begin();
                    results.extend(run.iter().map(|operation| self.single(operation)));
                }
                Way::Single => results.extend(run.iter().map(|operation| self.single(operation))),
            }
            rest = after;
        }
        results
    }
}

/// How an operation is carried out.
#[derive(PartialEq, Eq)]
enum Way {
    /// By route netlink messages, many in one system call.
    Messages,
    /// By elements of the address maps, many in one system call.
    Addresses,
    /// By elements of the map of identities, many in one system call.
    Identities,
    Forgetting,
    Amendments,
    /// By elements of the maps of services, many in one system call.
    Services,
    /// One at a time, in a hurry.
    Programs,
    /// One at a time.
    Single,
}

impl Way {
    fn of(operation: &Operation) -> Way {
        match operation {
            Operation::AddGateway(_)
            | Operation::RemoveGateway(_)
            | Operation::AddPool(_)
            | Operation::RemovePool(_)
            | Operation::AdjustTunnel(_)
            | Operation::RaiseTunnel
            | Operation::DeleteTunnel
            | Operation::AddTunnelRoute(..)
            | Operation::RemoveTunnelRoute(_)
            | Operation::AddHop(..)
            | Operation::RemoveHop(_)
            | Operation::CreateLink(..)
            | Operation::AdjustLink(..)
            | Operation::RaiseLink(_)
            | Operation::DeleteLink(_)
            | Operation::AddRoute(..)
            | Operation::RemoveRoute(..)
            | Operation::AddNeighbour(..)
            | Operation::RemoveNeighbour(..) => Way::Messages,
            Operation::PutIpcache(..) => Way::Addresses,
            Operation::PutIdentity(_) => Way::Identities,
            Operation::RemoveIpcache(_) => Way::Forgetting,
            Operation::AmendPolicy(..) => Way::Amendments,
            Operation::Attach(_) | Operation::AttachTunnel | Operation::AttachUnderlay(_) => Way::Programs,
            Operation::PutBackend(..)
            | Operation::WritePlaces(..)
            | Operation::PutReverse(..)
            | Operation::PutMember(..)
            | Operation::PutSource(..)
            | Operation::PutService(..)
            | Operation::RemoveService(_)
            | Operation::RemoveMember(..)
            | Operation::RemoveSource(..)
            | Operation::ReleasePlaces(..)
            | Operation::RemoveReverse(..)
            | Operation::RemoveBackend(_) => Way::Services,
            Operation::AttachSockets
            | Operation::DetachSockets
            | Operation::Forwarding
            | Operation::HostDevice
            | Operation::CreateTunnel(_)
            | Operation::UnpinTunnel
            | Operation::TunnelSources(_)
            | Operation::SnatSources(_)
            | Operation::DetachUnderlay(_)
            | Operation::TunnelMtu(_)
            | Operation::PutVtep(..)
            | Operation::RemoveVtep(_)
            | Operation::PutNode(..)
            | Operation::RemoveNode(_)
            | Operation::RemoveIdentity(_)
            | Operation::House(..)
            | Operation::Unpin(_)
            | Operation::WriteSlot(..)
            | Operation::ClearSlot(_)
            | Operation::WritePolicy(..)
            | Operation::RemovePolicy(..)
            | Operation::InvalidateFlows
            | Operation::Masquerade(_)
            | Operation::Forward => Way::Single,
        }
    }
}

impl Linux {
    /// Sends the messages of all operations at once.
    fn messages(&mut self, operations: &[Operation]) -> Vec<Result<(), OperationError>> {
        if operations.iter().any(|o| matches!(o, Operation::CreateLink(id, _) if self.doomed.contains(id))) {
            // The number is taken until the former device is gone.
            self.undertaker.wait();
            self.doomed.clear();
        }
        let host = operations.iter().any(|o| matches!(o, Operation::AddGateway(_) | Operation::RemoveGateway(_)));
        let host = if host { nix::net::if_::if_nametoindex(HOST_DEVICE).unwrap_or(0) } else { 0 };
        let mut requests = Vec::new();
        let counts: Vec<usize> = operations
            .iter()
            .map(|operation| {
                let before = requests.len();
                self.requests(operation, host, &mut requests);
                requests.len() - before
            })
            .collect();
        let what = |operation: &Operation| match operation {
            Operation::AddHop(prefix, node) => {
                format!("route {prefix} to node {node}, which must be on a network that this host is on")
            }
            _ => format!("{operation:?}"),
        };
        match self.netlink.execute(requests) {
            Ok(answers) => {
                let mut answers = answers.into_iter();
                let (mut halves, mut doomed) = (Vec::new(), BTreeSet::new());
                let one = |(operation, count): (&Operation, usize)| {
                    // Every answer is taken; the first refusal that matters counts.
                    let taken: Vec<_> = answers.by_ref().take(count).collect();
                    let begun = taken.first().is_some_and(Result::is_ok);
                    let refusal = taken.into_iter().filter_map(Result::err).find(|r| !is_done(operation, r));
                    match (operation, begun, &refusal) {
                        (Operation::CreateLink(id, _), true, Some(_)) => halves.push(links::delete(ifindex(*id))),
                        (Operation::DeleteLink(id), true, _) => drop(doomed.insert(*id)),
                        _ => {}
                    }
                    match refusal {
                        None => Ok(()),
                        Some(source) => Err(NetworkError::Refused { what: what(operation), source }.into()),
                    }
                };
                let results = operations.iter().zip(counts).map(one).collect();
                if !doomed.is_empty() {
                    self.doomed.append(&mut doomed);
                    self.undertaker.bury([]);
                }
                // A device without its settings would pass for a whole one in the next round.
                if !halves.is_empty()
                    && let Err(error) = self.netlink.execute(halves)
                {
                    tracing::warn!(%error, "devices that are made by half could not be deleted");
                }
                results
            }
            Err(error) => {
                let source = Arc::new(error);
                let failed = |o| NetworkError::Conversation { what: what(o), source: source.clone() };
                operations.iter().map(|operation| Err(failed(operation).into())).collect()
            }
        }
    }

    fn requests(&self, operation: &Operation, host: u32, requests: &mut Vec<Request>) {
        match operation {
            Operation::AddGateway(ip) => requests.push(routes::add_address(host, *ip)),
            Operation::RemoveGateway(ip) => requests.push(routes::remove_address(host, *ip)),
            Operation::AddPool(prefix) => requests.push(routes::unreachable(*prefix)),
            Operation::RemovePool(prefix) => requests.push(routes::remove_unreachable(*prefix)),
            Operation::AdjustTunnel(spec) => requests.push(links::adjust_tunnel(*spec)),
            Operation::RaiseTunnel => requests.push(links::raise(ifindex(TUNNEL))),
            Operation::DeleteTunnel => requests.push(links::delete(ifindex(TUNNEL))),
            Operation::AddTunnelRoute(prefix, source) => requests.push(routes::into_tunnel(*prefix, *source)),
            Operation::RemoveTunnelRoute(prefix) => requests.push(routes::remove_into_tunnel(*prefix)),
            Operation::AddHop(prefix, node) => requests.push(routes::by_node(*prefix, *node)),
            Operation::RemoveHop(prefix) => requests.push(routes::remove_by_node(*prefix)),
            Operation::CreateLink(id, spec) => requests.extend(links::create(*id, spec, self.ipv6)),
            Operation::AdjustLink(id, spec) => requests.push(links::adjust(*id, spec)),
            Operation::RaiseLink(id) => requests.push(links::raise(ifindex(*id))),
            Operation::DeleteLink(id) => requests.push(links::doom(*id)),
            Operation::AddRoute(id, ip, source) => requests.push(routes::to_endpoint(*id, *ip, *source)),
            Operation::RemoveRoute(id, ip) => requests.push(routes::remove_to_endpoint(*id, *ip)),
            Operation::AddNeighbour(id, ip, mac) => requests.push(routes::neighbour(*id, *ip, *mac)),
            Operation::RemoveNeighbour(id, ip) => requests.push(routes::remove_neighbour(*id, *ip)),
            _ => {}
        }
    }

    /// Writes addresses in batches; one by one where a batch failed, to find the ones at fault.
    fn addresses(&mut self, operations: &[Operation]) -> Vec<Result<(), OperationError>> {
        let entry = |operation: &Operation| match operation {
            Operation::PutIpcache(prefix, entry) => Some((*prefix, *entry)),
            _ => None,
        };
        let entries: Vec<(IpNetwork, IpcacheEntry)> = operations.iter().filter_map(entry).collect();
        if ipcache::put(&self.maps, &entries).is_ok() {
            return operations.iter().map(|_| Ok(())).collect();
        }
        entries.iter().map(|entry| ipcache::put(&self.maps, std::slice::from_ref(entry)).map_err(Into::into)).collect()
    }

    fn amendments(&mut self, operations: &[Operation]) -> Vec<Result<(), OperationError>> {
        let amendment = |operation| match operation {
            &Operation::AmendPolicy(id, _, ref former, ref map) => Some((id, &**former, &**map)),
            _ => None,
        };
        let amendments: Vec<policy::Amendment<'_>> = operations.iter().filter_map(amendment).collect();
        policy::amend_all(&self.maps, &amendments).into_iter().map(|result| result.map_err(Into::into)).collect()
    }

    /// Takes addresses away, likewise.
    fn forgetting(&mut self, operations: &[Operation]) -> Vec<Result<(), OperationError>> {
        let prefix = |operation: &Operation| match operation {
            Operation::RemoveIpcache(prefix) => Some(*prefix),
            _ => None,
        };
        let prefixes: Vec<IpNetwork> = operations.iter().filter_map(prefix).collect();
        if ipcache::remove(&self.maps, &prefixes).is_ok() {
            return operations.iter().map(|_| Ok(())).collect();
        }
        prefixes.iter().map(|prefix| ipcache::remove(&self.maps, &[*prefix]).map_err(Into::into)).collect()
    }

    /// Writes identities that are believed, likewise.
    fn identities(&mut self, operations: &[Operation]) -> Vec<Result<(), OperationError>> {
        let number = |operation: &Operation| match operation {
            Operation::PutIdentity(identity) => Some(identity.0),
            _ => None,
        };
        let numbers: Vec<u32> = operations.iter().filter_map(number).collect();
        if identities::put(&self.maps, &numbers).is_ok() {
            return operations.iter().map(|_| Ok(())).collect();
        }
        numbers.iter().map(|number| identities::put(&self.maps, &[*number]).map_err(Into::into)).collect()
    }

    fn single(&mut self, operation: &Operation) -> Result<(), OperationError> {
        match operation {
            Operation::Forwarding => forwarding::turn_on()?,
            Operation::HostDevice => self.host_device()?,
            Operation::CreateTunnel(spec) => self.tunnel_device(*spec)?,
            Operation::AttachTunnel => self.programs.attach(&mut self.netlink, TUNNEL)?,
            Operation::UnpinTunnel => self.programs.unpin(TUNNEL)?,
            Operation::SnatSources(sources) => runtime::set_snat_sources(&self.maps, *sources)?,
            Operation::TunnelSources(sources) => runtime::set_tunnel_sources(&self.maps, *sources)?,
            Operation::AttachUnderlay(number) => self.programs.attach_underlay(&mut self.netlink, *number)?,
            Operation::DetachUnderlay(number) => self.programs.detach_underlay(&mut self.netlink, *number)?,
            Operation::AttachSockets => self.programs.attach_sockets()?,
            Operation::DetachSockets => self.programs.detach_sockets()?,
            Operation::TunnelMtu(mtu) => runtime::set_tunnel_mtu(&self.maps, *mtu)?,
            Operation::PutVtep(prefix, vtep) => tunnel::put_vtep(&self.maps, *prefix, *vtep)?,
            Operation::RemoveVtep(prefix) => tunnel::remove_vtep(&self.maps, *prefix)?,
            Operation::PutNode(node, number) => tunnel::put_node(&self.maps, *node, *number)?,
            Operation::RemoveIdentity(identity) => identities::remove(&self.maps, *identity)?,
            Operation::RemoveNode(node) => tunnel::remove_node(&self.maps, *node)?,
            Operation::Attach(id) => self.programs.attach(&mut self.netlink, *id)?,
            Operation::House(id, inside) => self.house(*id, inside)?,
            Operation::Unpin(id) if self.doomed.contains(id) => self.undertaker.bury(self.programs.pins(*id)),
            Operation::Unpin(id) => self.programs.unpin(*id)?,
            Operation::WriteSlot(id, slot) => endpoints::write(&self.maps, *id, slot)?,
            Operation::ClearSlot(id) => endpoints::clear(&self.maps, *id)?,
            Operation::WritePolicy(id, identity, map) => policy::write(&self.maps, *id, *identity, map)?,
            Operation::RemovePolicy(id, map) => policy::remove(&self.maps, *id, map)?,
            Operation::InvalidateFlows => runtime::raise_generation(&self.maps)?,
            Operation::Masquerade(pools) => self.rules.masquerade(pools)?,
            Operation::Forward => self.rules.forward()?,
            _ => {}
        }
        Ok(())
    }

    /// Sets up the inside of an endpoint; one that is set up by half goes, devices and all.
    fn house(&mut self, id: EndpointId, inside: &HousingSpec) -> Result<(), OperationError> {
        let housed = housing::house(&mut self.netlink, self.own.as_deref(), inside, self.ipv6);
        if housed.is_err()
            && let Err(error) = self.netlink.execute(vec![links::delete(ifindex(id))])
        {
            tracing::warn!(%error, "devices that are made by half could not be deleted");
        }
        Ok(housed?)
    }

    /// Makes the pair where it is not there, and takes both ends up.
    fn host_device(&mut self) -> Result<(), NetworkError> {
        let what = || format!("make the pair {HOST_DEVICE} - {HOST_PEER}");
        let conversation = |source| NetworkError::Conversation { what: what(), source: Arc::new(source) };
        if nix::net::if_::if_nametoindex(HOST_DEVICE).is_err() {
            let pair = links::create_host_pair(random_mac()?, random_mac()?);
            let answers = self.netlink.execute(vec![pair]).map_err(conversation)?;
            refusal(answers, &what)?;
        }
        [HOST_DEVICE, HOST_PEER].into_iter().try_for_each(|name| self.host_end(name, &what))
    }

    /// Gives an end of a pair its settings, and takes it up.
    fn host_end(&mut self, name: &'static str, what: &impl Fn() -> String) -> Result<(), NetworkError> {
        let number = nix::net::if_::if_nametoindex(name).map_err(|_| NetworkError::NoDevice { name })?;
        let requests = links::configure_host_end(number, self.ipv6);
        let answers = self.netlink.execute(requests.into());
        let conversation = |source| NetworkError::Conversation { what: what(), source: Arc::new(source) };
        refusal(answers.map_err(conversation)?, what)
    }

    /// Makes the tunnel device in the place of what has its number.
    fn tunnel_device(&mut self, spec: TunnelSpec) -> Result<(), NetworkError> {
        let what = || format!("make the tunnel device {}", links::tunnel_name(spec.kind));
        let conversation = |source| NetworkError::Conversation { what: what(), source: Arc::new(source) };
        let delete = || vec![links::delete(ifindex(TUNNEL))];
        for answer in self.netlink.execute(delete()).map_err(conversation)? {
            match answer {
                Err(source) if source.errno != libc::ENODEV => {
                    return Err(NetworkError::Refused { what: what(), source });
                }
                _ => {}
            }
        }
        let requests = links::create_tunnel(spec, [random_mac()?, random_mac()?], self.ipv6);
        let answers = self.netlink.execute(requests.into()).map_err(conversation)?;
        let begun = answers.first().is_some_and(Result::is_ok);
        let mut made = refusal(answers, &what);
        if made.is_ok() && spec.kind == TunnelKind::Pair {
            // Without its other end up it would have no carrier.
            made = self.host_end(links::TUNNEL_PEER, &what);
        }
        // A device without its settings would pass for a whole one in the next round.
        if made.is_err()
            && begun
            && let Err(error) = self.netlink.execute(delete())
        {
            tracing::warn!(%error, "a tunnel device that is made by half could not be deleted");
        }
        made
    }
}

fn refusal(answers: Vec<Result<(), Refused>>, what: &impl Fn() -> String) -> Result<(), NetworkError> {
    let refused = answers.into_iter().find_map(Result::err);
    refused.map_or(Ok(()), |source| Err(NetworkError::Refused { what: what(), source }))
}

fn random_mac() -> Result<Mac, NetworkError> {
    use std::io::Read;
    let mut seed = [0; 6];
    let drawn = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut seed));
    drawn.map(|()| Mac::local(seed)).map_err(|source| NetworkError::Random { source })
}

/// Whether a refusal says that all is as it should be: gone what was to go, there what was to come.
fn is_done(operation: &Operation, refused: &Refused) -> bool {
    match operation {
        Operation::DeleteLink(_) | Operation::DeleteTunnel => refused.errno == libc::ENODEV,
        Operation::RemoveRoute(..)
        | Operation::RemovePool(_)
        | Operation::RemoveTunnelRoute(_)
        | Operation::RemoveHop(_) => {
            matches!(refused.errno, libc::ESRCH | libc::ENODEV)
        }
        Operation::RemoveNeighbour(..) => matches!(refused.errno, libc::ENOENT | libc::ENODEV),
        Operation::RemoveGateway(_) => matches!(refused.errno, libc::EADDRNOTAVAIL | libc::ENODEV),
        Operation::AddGateway(_) => refused.errno == libc::EEXIST,
        _ => false,
    }
}

/// The network, and whether there are devices that are still to be deleted.
fn read_network(netlink: &mut Netlink, ipv6: bool) -> Result<(Network, bool), ReadError> {
    let mut network = Network { forwarding: forwarding::is_on()?, ..Network::default() };
    let (mut host, mut ends, mut doomed, mut ethernet) = (None, 0, false, BTreeSet::new());
    for message in netlink.dump(links::list())? {
        let RouteNetlinkMessage::NewLink(message) = message else { continue };
        let device = Device::decode(&message);
        doomed |= device.is_doomed();
        if let Some(id) = device.endpoint() {
            network.links.insert(id, device.into_link());
        } else if let Some(tunnel) = device.tunnel() {
            network.tunnel = Some(tunnel);
        } else if (device.name == HOST_DEVICE || device.name == HOST_PEER) && device.up {
            ends += 1;
            host = host.or((device.name == HOST_DEVICE).then_some(device.ifindex));
        } else if device.ethernet {
            ethernet.insert(device.ifindex);
        }
    }
    network.host_device = host.is_some() && ends == 2;
    for message in netlink.dump(routes::list_addresses())? {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        match routes::decode_address(&message) {
            Some((number, ip)) if Some(number) == host => drop(network.gateways.insert(ip)),
            Some((number, ip)) if number != LOOPBACK && number < ifindex(TUNNEL) => {
                network.addresses.insert(ip, number);
                if is_reachable(ip) {
                    network.ethernet.extend(ethernet.get(&number));
                }
            }
            _ => {}
        }
    }
    let families = if ipv6 { &[AddressFamily::Inet, AddressFamily::Inet6][..] } else { &[AddressFamily::Inet] };
    for family in families {
        for message in netlink.dump(routes::list_routes(*family))? {
            let RouteNetlinkMessage::NewRoute(message) = message else { continue };
            match routes::decode_route(&message) {
                Some(Route::Pool(prefix)) => drop(network.pools.insert(prefix)),
                Some(Route::Node { prefix, node }) => drop(network.hops.insert(prefix, node)),
                Some(Route::Tunnel { prefix, source }) => drop(network.tunnel_routes.insert(prefix, source)),
                Some(Route::Endpoint { ifindex, ip, source }) => {
                    if let Some(id) = endpoint_of(ifindex).filter(|id| network.links.contains_key(id)) {
                        network.routes.entry(id).or_default().insert(ip, source);
                    }
                }
                None => {}
            }
        }
    }
    for message in netlink.dump(routes::list_neighbours())? {
        let RouteNetlinkMessage::NewNeighbour(message) = message else { continue };
        if let Some((number, ip, mac)) = routes::decode_neighbour(&message)
            && let Some(id) = endpoint_of(number).filter(|id| network.links.contains_key(id))
        {
            network.neighbours.entry(id).or_default().insert(ip, mac);
        }
    }
    Ok((network, doomed))
}

#[cfg(test)]
mod tests;
