//! The words every other crate speaks: labels, identities, endpoints, policy maps, events, and the state that the
//! kernel should be in.
//!
//! Owns vocabulary only. No I/O, no clock, no kernel layout (that is `bpf/abi.h`), no rule semantics (that is `policy`).

pub mod cluster_name;
pub mod desired;
pub mod drop_reason;
pub mod endpoint;
pub mod event;
pub mod identity;
pub mod identity_map;
pub mod ipcache;
pub mod label_filter;
pub mod labels;
pub mod mac;
pub mod policy_map;
pub mod proto;
pub mod service;
pub mod shared_map;

pub use cluster_name::{CLUSTER_LABEL, ClusterName};
pub use endpoint::{EndpointId, EndpointState};
pub use identity::Identity;
pub use identity_map::{IdentityMap, IdentitySet};
pub use ipcache::Ipcache;
pub use labels::{Label, Labels};
pub use mac::Mac;
pub use policy_map::{Column, PolicyEntry, PolicyKey, PolicyMap};
pub use proto::{Direction, Protocol};
pub use service::{L4Address, LoadBalancer, ServiceId};
pub use shared_map::SharedMap;
