//! What every backend promises, held by every backend: the contract runs on the memory store, on the file and on a real
//! etcd. Beside it, what only one of them can suffer: crashes and corrupt files, lost connections, compactions, users
//! and certificates.

#[path = "conformance/cluster.rs"]
mod cluster;
#[path = "conformance/contract.rs"]
mod contract;
#[path = "conformance/crash.rs"]
mod crash;
#[path = "conformance/embedded.rs"]
mod embedded;
#[path = "conformance/etcd.rs"]
mod etcd;
#[path = "conformance/proxy.rs"]
mod proxy;
#[path = "conformance/security.rs"]
mod security;
#[path = "conformance/world.rs"]
mod world;
