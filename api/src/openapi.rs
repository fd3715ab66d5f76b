//! The OpenAPI document, made from the table of routes and the bodies' types.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

/// OpenAPI 3.1 of the whole surface.
pub fn document() -> Value {
    let mut generator =
        SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into()).into_generator();
    macro_rules! schemas {
        ($($kind:ty),* $(,)?) => { $( generator.subschema_for::<$kind>(); )* };
    }
    schemas!(
        crate::ErrorBody,
        crate::config::Configuration,
        crate::config::ConfigurationChange,
        crate::datapath::CtRow,
        crate::datapath::EndpointRow,
        crate::datapath::IpcacheRow,
        crate::datapath::TunnelRow,
        crate::datapath::LoadBalancer,
        crate::datapath::NatRow,
        crate::datapath::MapDump,
        crate::datapath::MapRow,
        crate::datapath::MetricRow,
        crate::datapath::PolicyRow,
        crate::docker::DockerEndpoints,
        crate::endpoint::Endpoint,
        crate::endpoint::EndpointChange,
        crate::endpoint::EndpointCreate,
        crate::endpoint::EndpointHealth,
        crate::endpoint::LogEntry,
        crate::health::Health,
        crate::identity::Identity,
        crate::identity::IpEntry,
        crate::ipam::Address,
        crate::ipam::AddressRequest,
        crate::ipam::Pool,
        crate::ipam::PoolRequest,
        crate::kvstore::Entry,
        crate::kvstore::Value,
        crate::network::Network,
        crate::node::Node,
        crate::policy::Policy,
        crate::policy::PolicyChange,
        crate::policy::TraceRequest,
        crate::policy::TraceResult,
        crate::policy::WaitState,
        crate::service::Imported,
        crate::service::Service,
        crate::status::Status,
        crate::status::Version,
    );
    let mut paths = serde_json::Map::new();
    for (method, path, summary) in crate::routes::ALL {
        let item = paths.entry(*path).or_insert_with(|| json!({}));
        item[method.to_lowercase()] = json!({
            "summary": summary,
            "parameters": parameters(path),
            "responses": {
                "200": {"description": "Success"},
                "default": {"description": "Refused", "content": {"application/json": {
                    "schema": {"$ref": "#/components/schemas/ErrorBody"}}}},
            },
        });
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "cilium-agent", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {"schemas": generator.take_definitions(true)},
    })
}

fn parameters(path: &str) -> Vec<Value> {
    path.split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_route_and_body_is_in_the_document() {
        let document = super::document();
        for (method, path, _) in crate::routes::ALL {
            assert!(document["paths"][path][method.to_lowercase()].is_object(), "{method} {path}");
        }
        assert!(document["components"]["schemas"]["Endpoint"]["properties"]["docker-endpoint-id"].is_object());
    }
}
