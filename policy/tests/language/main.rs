//! What the language means, case by case: each test is a rule of the reference, with the smallest policies that show it.

// A test's helper that panics is a test that fails.
#![allow(clippy::unwrap_used)]

mod decisions;
mod outside;
mod peers;
mod ports;
mod requests;

use policy::trace::Decision;
use policy::unit::Suite;
use serde_json::{Value, json};

pub use policy::trace::Decision::{Allowed, Denied, Redirected};

/// Endpoints that most tests can do with: `a` to `d` by one label each, an address, and the namespace of pods.
fn endpoints() -> Value {
    json!({
        "a": {"labels": ["container:id=a", "container:env=prod"], "ips": ["10.15.0.1", "fd00::1"]},
        "b": {"labels": ["container:id=b", "container:env=test"], "ips": ["10.15.0.2"]},
        "c": {"labels": ["k8s:id=c", "k8s:io.kubernetes.pod.namespace=default"], "ips": ["10.15.0.3"]},
        "d": {"labels": ["container:plain"], "ips": ["10.15.0.4"]},
        "init": {"labels": ["reserved:init"]},
    })
}

/// A world of some policies.
pub struct World(Value);

impl World {
    pub fn of(policies: Value) -> World {
        World(json!({"policies": policies, "endpoints": endpoints()}))
    }

    /// The policy of `a` alone.
    pub fn of_a(rule: Value) -> World {
        World::of(json!([of_a(rule)]))
    }

    pub fn with(mut self, name: &str, value: Value) -> World {
        self.0[name] = value;
        self
    }

    /// What becomes of a case. Ends are texts: an endpoint's name, `@host` for a reserved identity, an address, or
    /// `name.test` for a name.
    pub fn ask(&self, from: &str, to: &str, port: u16, protocol: &str, request: Value) -> Decision {
        let end = |text: &str| match text.strip_prefix('@') {
            Some(entity) => json!({"entity": entity}),
            None if text.parse::<std::net::IpAddr>().is_ok() => json!({"cidr": text}),
            None if text.contains('.') => json!({"fqdn": text}),
            None => json!({"endpoint": text}),
        };
        let mut case =
            json!({"from": end(from), "to": end(to), "port": port, "protocol": protocol, "expect": "allowed"});
        case.as_object_mut().unwrap().extend(request.as_object().cloned().unwrap_or_default());
        let mut world = self.0.clone();
        world["cases"] = json!([case]);
        let suite = Suite::read(&world.to_string(), &mut |name| Err(format!("no file {name}")));
        suite.unwrap_or_else(|errors| panic!("{errors}")).run().cases[0].answer
    }

    pub fn tcp(&self, from: &str, to: &str, port: u16) -> Decision {
        self.ask(from, to, port, "TCP", Value::Null)
    }

    pub fn udp(&self, from: &str, to: &str, port: u16) -> Decision {
        self.ask(from, to, port, "UDP", Value::Null)
    }

    /// An HTTP GET of a path on TCP port 80.
    pub fn get(&self, from: &str, to: &str, path: &str) -> Decision {
        self.ask(from, to, 80, "TCP", json!({"http": {"path": path}}))
    }
}

/// Makes a rule one for `a`.
pub fn of_a(mut rule: Value) -> Value {
    rule["endpointSelector"] = json!({"matchLabels": {"id": "a"}});
    rule
}

pub fn id(id: &str) -> Value {
    json!({"matchLabels": {"id": id}})
}

pub fn tcp_port(port: u16) -> Value {
    json!([{"ports": [{"port": port.to_string(), "protocol": "TCP"}]}])
}

/// TCP port 80 with HTTP rules.
pub fn http(rules: Value) -> Value {
    json!([{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": rules}}])
}
