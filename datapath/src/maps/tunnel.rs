//! `cilium_tunnel_map` and `cilium_node_map`: which node a prefix is behind, which nodes are believed, and their numbers.

use super::ipcache::{address, key_of, prefix_of, trie_key};
use super::{MapError, Maps};
use crate::current::{NodeNumber, Vtep};
use bpf::abi;
use bpf::names::map::{NODES, TUNNEL};
use ipnetwork::IpNetwork;
use std::collections::BTreeMap;
use std::net::IpAddr;

pub fn read_vteps(maps: &Maps) -> Result<BTreeMap<IpNetwork, Vtep>, MapError> {
    let mut vteps = BTreeMap::new();
    let read = maps.tunnel.for_each(|key, vtep| vteps.extend(prefix_of(key).zip(decode(vtep))));
    read.map_err(|source| MapError::Read { map: TUNNEL, source })?;
    Ok(vteps)
}

pub fn put_vtep(maps: &Maps, prefix: IpNetwork, vtep: Vtep) -> Result<(), MapError> {
    let abi::IpcacheKey { family, address, .. } = key_of(vtep.address);
    let (strict, clusters) = vtep.clusters.map_or((0, [0; 2]), |clusters| (1, clusters));
    let vtep = abi::Vtep { family, strict, clusters, node: vtep.node.0, address };
    let written = maps.tunnel.put_all(&[trie_key(prefix)], &[vtep]);
    written.map_err(|source| MapError::Write { map: TUNNEL, source })
}

/// What is absent is no error.
pub fn remove_vtep(maps: &Maps, prefix: IpNetwork) -> Result<(), MapError> {
    maps.tunnel.delete(&trie_key(prefix)).map_err(|source| MapError::Write { map: TUNNEL, source })
}

pub fn read_nodes(maps: &Maps) -> Result<BTreeMap<IpAddr, NodeNumber>, MapError> {
    let mut nodes = BTreeMap::new();
    let read = maps.nodes.for_each(|key, number| nodes.extend(address(key).map(|ip| (ip, NodeNumber(*number)))));
    read.map_err(|source| MapError::Read { map: NODES, source })?;
    Ok(nodes)
}

pub fn put_node(maps: &Maps, node: IpAddr, number: NodeNumber) -> Result<(), MapError> {
    maps.nodes.put_all(&[key_of(node)], &[number.0]).map_err(|source| MapError::Write { map: NODES, source })
}

/// What is absent is no error.
pub fn remove_node(maps: &Maps, node: IpAddr) -> Result<(), MapError> {
    maps.nodes.delete(&key_of(node)).map_err(|source| MapError::Write { map: NODES, source })
}

fn decode(vtep: &abi::Vtep) -> Option<Vtep> {
    let address = address(&abi::IpcacheKey { family: vtep.family, address: vtep.address, ..Default::default() })?;
    let clusters = (vtep.strict != 0).then_some(vtep.clusters);
    Some(Vtep { address, node: NodeNumber(vtep.node), clusters })
}
