//! The ports that Docker wants published (`docker run -p`), out of its port map.

use crate::protocol::{Options, PORT_MAP};
use crate::refusal::Refusal;
use api::Protocol;
use api::endpoint::PublishedPort;
use serde::Deserialize;
use serde_json::Value;

/// One binding, as Docker writes it. `HostIP` may be empty: on all addresses; `HostPort` 0: any port.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Binding {
    proto: u8,
    port: u16,
    #[serde(rename = "HostIP")]
    host_ip: String,
    host_port: u16,
    host_port_end: u16,
}

/// What is to be published.
pub(super) fn published(options: &Options) -> Result<Vec<PublishedPort>, Refusal> {
    let bindings = match options.get(PORT_MAP) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(bindings)) => bindings,
        Some(other) => return Err(invalid(other, "a list")),
    };
    bindings.iter().map(port).collect()
}

fn port(value: &Value) -> Result<PublishedPort, Refusal> {
    let binding: Binding = serde_json::from_value(value.clone()).map_err(|_| invalid(value, "a port binding"))?;
    let protocol = Protocol(binding.proto);
    if ![Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&protocol) || binding.port == 0 {
        return Err(invalid(value, "a port of TCP, UDP or SCTP"));
    }
    let address = match binding.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| invalid(value, "a port binding with an address of the host"))?),
    };
    if binding.host_port_end != 0 && binding.host_port_end < binding.host_port {
        return Err(invalid(value, "a range that does not end before it begins"));
    }
    Ok(PublishedPort {
        address,
        host_port: binding.host_port,
        host_port_end: binding.host_port_end,
        protocol: protocol.to_string(),
        container_port: binding.port,
    })
}

fn invalid(value: &Value, expected: &'static str) -> Refusal {
    Refusal::Invalid { field: PORT_MAP, value: value.to_string().chars().take(200).collect(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(bindings: Value) -> Result<Vec<PublishedPort>, String> {
        published(&[(PORT_MAP.to_owned(), bindings)].into_iter().collect()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn bindings_are_read_as_docker_writes_them() {
        let ports = read(json!([
            {"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080},
            {"Proto": 17, "IP": "", "Port": 53, "HostIP": "127.0.0.1", "HostPort": 0, "HostPortEnd": 0},
            {"Proto": 132, "Port": 7, "HostIP": "::1", "HostPort": 9000, "HostPortEnd": 9005},
        ]));
        let ports: Vec<String> = ports
            .unwrap()
            .iter()
            .map(|p| {
                let address = p.address.map(|ip| ip.to_string()).unwrap_or_default();
                format!("{address} {}-{} {}/{}", p.host_port, p.host_port_end, p.container_port, p.protocol)
            })
            .collect();
        assert_eq!(ports, [" 8080-8080 80/TCP", "127.0.0.1 0-0 53/UDP", "::1 9000-9005 7/SCTP"]);
        assert_eq!(published(&Options::new()).unwrap(), []);
        assert_eq!(read(Value::Null), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_binding_is_refused_by_name() {
        for bad in [
            json!({}),
            json!([{"Proto": 1, "Port": 80}]),
            json!([{"Proto": 6, "Port": 0}]),
            json!([{"Proto": 6, "Port": 80, "HostIP": "x"}]),
            json!([{"Proto": 6, "Port": 80, "HostPort": 70000}]),
            json!([{"Proto": 6, "Port": 80, "HostPort": 81, "HostPortEnd": 80}]),
        ] {
            assert!(read(bad.clone()).unwrap_err().contains(PORT_MAP), "{bad}");
        }
    }
}
