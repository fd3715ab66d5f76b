//! Every path on one page. The daemon's router and the client are both written against these.

pub const BASE: &str = "/v1";

pub const HEALTHZ: &str = "/v1/healthz";
pub const VERSION: &str = "/v1/version";
pub const CONFIG: &str = "/v1/config";
pub const DEBUGINFO: &str = "/v1/debuginfo";
pub const DOCKER_ENDPOINTS: &str = "/v1/docker/endpoints";
pub const ENDPOINT: &str = "/v1/endpoint";
pub const HEALTH: &str = "/v1/health";
pub const HEALTH_PROBE: &str = "/v1/health/probe";
pub const IDENTITY: &str = "/v1/identity";
pub const IP: &str = "/v1/ip";
pub const IPAM_ADDRESS: &str = "/v1/ipam/address";
pub const IPAM_POOL: &str = "/v1/ipam/pool";
pub const KVSTORE: &str = "/v1/kvstore";
pub const MAP: &str = "/v1/map";
pub const METRICS: &str = "/v1/metrics";
pub const MONITOR: &str = "/v1/monitor";
pub const NETWORK: &str = "/v1/network";
pub const NODE: &str = "/v1/node";
pub const OPENAPI: &str = "/v1/openapi.json";
pub const POLICY: &str = "/v1/policy";
pub const POLICY_STATUS: &str = "/v1/policy/status";
pub const POLICY_TRACE: &str = "/v1/policy/trace";
pub const POLICY_WAIT: &str = "/v1/policy/wait";
pub const SERVICE: &str = "/v1/service";
pub const BPF: &str = "/v1/bpf";

/// Method, path with `{parameters}`, what it does. The OpenAPI document is made from this table and the bodies' types.
pub const ALL: &[(&str, &str, &str)] = &[
    ("GET", "/v1/healthz", "Is everything well"),
    ("GET", "/v1/version", "The agent's version"),
    ("GET", "/v1/config", "The configuration"),
    ("PATCH", "/v1/config", "Change what can be changed while running"),
    ("GET", "/v1/debuginfo", "Everything a bug report needs, without secrets"),
    ("PUT", "/v1/docker/endpoints", "Tell which endpoints and networks Docker has"),
    ("GET", "/v1/endpoint", "All endpoints of this node; ?label= filters, repeatable"),
    ("PUT", "/v1/endpoint", "Make an endpoint"),
    ("GET", "/v1/endpoint/{id}", "One endpoint"),
    ("PATCH", "/v1/endpoint/{id}", "Tell what was learnt about an endpoint"),
    ("DELETE", "/v1/endpoint/{id}", "Take an endpoint down; absent is a success"),
    ("GET", "/v1/endpoint/{id}/log", "What happened to an endpoint"),
    ("GET", "/v1/endpoint/{id}/healthz", "Is an endpoint well"),
    ("GET", "/v1/health", "Whether the nodes of the cluster reach each other"),
    ("PUT", "/v1/health/probe", "Probe them all now, and tell"),
    ("GET", "/v1/identity", "All identities; ?label= filters, repeatable"),
    ("GET", "/v1/identity/{id}", "One identity"),
    ("GET", "/v1/ip", "Addresses and their identities"),
    ("GET", "/v1/ipam/pool", "All pools"),
    ("POST", "/v1/ipam/pool", "Ask for a pool"),
    ("DELETE", "/v1/ipam/pool/{id}", "Give a pool back; absent is a success"),
    ("POST", "/v1/ipam/address", "Ask for an address"),
    ("DELETE", "/v1/ipam/address/{pool}/{address}", "Give an address back; absent is a success"),
    ("GET", "/v1/kvstore", "Entries by ?key= [&recursive=true]"),
    ("PUT", "/v1/kvstore", "Set ?key="),
    ("DELETE", "/v1/kvstore", "Delete by ?key= [&recursive=true]"),
    ("GET", "/v1/map", "The kernel maps"),
    ("GET", "/v1/map/{name}", "Raw contents of a map"),
    ("GET", "/v1/bpf/endpoint", "The kernel's endpoints"),
    ("GET", "/v1/bpf/policy", "The kernel's policies; ?endpoint= filters"),
    ("GET", "/v1/bpf/ct", "The kernel's flows"),
    ("DELETE", "/v1/bpf/ct", "Forget all flows"),
    ("GET", "/v1/bpf/ipcache", "The kernel's addresses"),
    ("GET", "/v1/bpf/lb", "The kernel's services"),
    ("GET", "/v1/bpf/nat", "The kernel's ports for what is sent on to other nodes"),
    ("GET", "/v1/bpf/tunnel", "The kernel's prefixes behind other nodes"),
    ("GET", "/v1/bpf/metrics", "The kernel's packet counters"),
    ("GET", "/v1/metrics", "Metrics in Prometheus' text form"),
    ("GET", "/v1/monitor", "Stream of events"),
    ("GET", "/v1/network", "Docker networks"),
    ("PUT", "/v1/network/{id}", "Make a network known"),
    ("DELETE", "/v1/network/{id}", "Forget a network; absent is a success"),
    ("GET", "/v1/node", "Nodes"),
    ("GET", "/v1/openapi.json", "This interface"),
    ("GET", "/v1/policy", "Rules; ?label= filters, repeatable"),
    ("PUT", "/v1/policy", "Import rules; ?replace=true, ?wait=true"),
    ("DELETE", "/v1/policy", "Delete rules by ?label=, or ?all=true"),
    ("GET", "/v1/policy/status", "How far each node of the cluster is with the rules"),
    ("POST", "/v1/policy/trace", "Ask what the policy says"),
    ("GET", "/v1/policy/wait", "How many endpoints enforce ?revision="),
    ("GET", "/v1/service", "All services"),
    ("PUT", "/v1/service", "Make the services of a file, all or none"),
    ("GET", "/v1/service/{id}", "One service"),
    ("PUT", "/v1/service/{id}", "Make or change a service"),
    ("DELETE", "/v1/service/{id}", "Delete a service"),
];
