//! core/v1 `Service`: defaults and validation of the part of it that a mesh without Kubernetes uses.
//!
//! Names, ports, protocols and addresses count. Endpoints come from the proxies that register, so a selector is
//! kept and selects nothing; those of a service of `type: ExternalName` are the addresses of a host outside the mesh.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata::{is_label, is_label_key, is_subdomain};
use super::{Admission, FieldPath, Problems};

/// A service has at most so many ports.
const MOST_PORTS: usize = 256;

impl Admission for Service {
    fn fill_defaults(&mut self) {
        self.status = None;
        let spec = self.spec.get_or_insert_default();
        spec.type_.get_or_insert_with(|| "ClusterIP".to_owned());
        spec.session_affinity.get_or_insert_with(|| "None".to_owned());
        for port in spec.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
            port.target_port.get_or_insert(IntOrString::Int(port.port));
        }
    }

    fn check(&self, problems: &mut Problems) {
        let path = FieldPath::root().field("spec");
        let Some(spec) = &self.spec else { return };
        check_type(spec, &path, problems);
        check_external_name(spec, &path, problems);
        check_addresses(spec, &path, problems);
        let ports = spec.ports.as_deref().unwrap_or_default();
        let headless = spec.cluster_ip.as_deref() == Some("None");
        if ports.is_empty() && !headless {
            problems.error(&path.field("ports"), "must list at least one port");
        }
        if ports.len() > MOST_PORTS {
            problems.error(&path.field("ports"), format!("must not list more than {MOST_PORTS} ports"));
        }
        for (index, port) in ports.iter().enumerate().take(MOST_PORTS) {
            check_port(port, &ports[..index], ports.len() > 1, &path.field("ports").index(index), problems);
        }
    }
}

fn check_type(spec: &ServiceSpec, path: &FieldPath, problems: &mut Problems) {
    match spec.type_.as_deref().unwrap_or_default() {
        "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName" => {}
        other => problems.error(
            &path.field("type"),
            format!("{other:?} is not supported; expected ClusterIP, NodePort, LoadBalancer or ExternalName"),
        ),
    }
    match spec.session_affinity.as_deref().unwrap_or_default() {
        "None" => {}
        "ClientIP" => problems.warning(
            &path.field("sessionAffinity"),
            "ClientIP has no effect in the mesh, which balances request by request",
        ),
        other => problems.error(
            &path.field("sessionAffinity"),
            format!("{other:?} is not supported; expected None or ClientIP"),
        ),
    }
}

/// A service outside the mesh is a host, has no address of its own, and names its host's ports by number.
fn check_external_name(spec: &ServiceSpec, path: &FieldPath, problems: &mut Problems) {
    let name = spec.external_name.as_deref().unwrap_or_default();
    if spec.type_.as_deref() != Some("ExternalName") {
        if !name.is_empty() {
            problems.error(&path.field("externalName"), "must be left out: type is not ExternalName");
        }
        return;
    }
    let host = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if name.is_empty() {
        problems
            .error(&path.field("externalName"), "is required where type is ExternalName: the host outside");
    } else if host.parse::<IpAddr>().is_err() && !is_subdomain(&host) {
        problems
            .error(&path.field("externalName"), format!("{name:?} is neither a DNS name nor an IP address"));
    }
    if spec.cluster_ip.is_some() || spec.cluster_ips.as_ref().is_some_and(|all| !all.is_empty()) {
        problems.error(&path.field("clusterIP"), "must be left out: a host outside has addresses of its own");
    }
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        if let Some(IntOrString::String(name)) = &port.target_port {
            problems.error(
                &path.field("ports").index(index).field("targetPort"),
                format!("{name:?} must be a number: no workload outside names its ports"),
            );
        }
    }
}

fn check_addresses(spec: &ServiceSpec, path: &FieldPath, problems: &mut Problems) {
    let mut check = |path: &FieldPath, text: &str| {
        if !matches!(text, "" | "None") && text.parse::<IpAddr>().is_err() {
            problems.error(path, format!("{text:?} is not an IP address or None"));
        }
    };
    let one = spec.cluster_ip.as_deref();
    if let Some(address) = one {
        check(&path.field("clusterIP"), address);
    }
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    for (index, address) in all.iter().enumerate() {
        check(&path.field("clusterIPs").index(index), address);
    }
    for (index, address) in spec.external_ips.iter().flatten().enumerate() {
        let path = path.field("externalIPs").index(index);
        if address.parse::<IpAddr>().is_err() {
            problems.error(&path, format!("{address:?} is not an IP address"));
        }
    }
    if let (Some(one), Some(first)) = (one, all.first())
        && one != first
    {
        problems.error(&path.field("clusterIPs").index(0), format!("must be the clusterIP, {one:?}"));
    }
}

fn check_port(
    port: &ServicePort,
    earlier: &[ServicePort],
    named: bool,
    path: &FieldPath,
    problems: &mut Problems,
) {
    problems.check_port_number(&path.field("port"), port.port);
    match &port.target_port {
        // The default, told at the port already.
        Some(IntOrString::Int(number)) if *number == port.port => {}
        Some(IntOrString::Int(number)) => problems.check_port_number(&path.field("targetPort"), *number),
        Some(IntOrString::String(name)) if !is_port_name(name) => problems.error(
            &path.field("targetPort"),
            format!("{name:?} is no port name: up to 15 of a-z, 0-9 and '-', at least one letter"),
        ),
        _ => {}
    }
    match port.protocol.as_deref().unwrap_or_default() {
        "TCP" => {}
        "UDP" | "SCTP" => {
            problems.warning(&path.field("protocol"), "only TCP goes through the mesh; the port is left out")
        }
        other => {
            problems.error(
                &path.field("protocol"),
                format!("{other:?} is not supported; expected TCP, UDP or SCTP"),
            );
        }
    }
    match port.name.as_deref() {
        None | Some("") if named => {
            problems.error(&path.field("name"), "is required where a service has more than one port");
        }
        None | Some("") => {}
        Some(name) if !is_label(name) => problems.check_label(&path.field("name"), name),
        Some(name) if earlier.iter().any(|other| other.name.as_deref() == Some(name)) => {
            problems.error(&path.field("name"), format!("{name:?} names an earlier port as well"));
        }
        Some(_) => {}
    }
    if earlier.iter().any(|other| other.port == port.port && other.protocol == port.protocol) {
        problems.error(&path.field("port"), format!("{} is listed a second time", port.port));
    }
    if let Some(protocol) = &port.app_protocol
        && !is_label_key(protocol)
    {
        problems.error(
            &path.field("appProtocol"),
            format!("{protocol:?} is no protocol name; examples are http, grpc, tcp and kubernetes.io/h2c"),
        );
    }
}

/// Whether `text` is a service name of IANA's form (RFC 6335 section 5.1).
fn is_port_name(text: &str) -> bool {
    is_label(text)
        && text.len() <= 15
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
        && !text.contains("--")
}

impl Problems {
    /// Refuses what is no port number.
    pub(crate) fn check_port_number(&mut self, path: &FieldPath, port: i32) {
        if !(1..=65535).contains(&port) {
            self.error(path, format!("{port} is not a port number, 1 to 65535"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::resources::tests::{accepted, assert_problems, warnings};
    use serde_json::json;

    fn service(spec: &str) -> String {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {spec}\n")
    }

    #[test]
    fn defaults_are_those_of_an_api_server() {
        let value = accepted(&service("{ports: [{port: 80}]}")).to_value();
        assert_eq!(
            value["spec"],
            json!({
                "type": "ClusterIP",
                "sessionAffinity": "None",
                "ports": [{ "port": 80, "protocol": "TCP", "targetPort": 80 }],
            })
        );
    }

    #[test]
    fn ports_are_numbered_named_and_listed_once() {
        accepted(&service(
            "{ports: [{port: 80, name: http}, {port: 443, name: https, appProtocol: kubernetes.io/h2c, targetPort: web}]}",
        ));
        accepted(&service("{clusterIP: None}"));
        assert_problems(&service("{ports: []}"), &["spec.ports: must list at least one port"]);
        assert_problems(
            &service(
                "{ports: [{port: 0, name: a}, {port: 80}, {port: 80, name: a, targetPort: 99999}, {port: 81, name: B, appProtocol: 'a b', targetPort: x--y, protocol: QUIC}]}",
            ),
            &[
                "spec.ports[0].port: 0 is not a port number",
                "spec.ports[1].name: is required where a service has more than one port",
                "spec.ports[2].targetPort: 99999 is not a port number",
                "spec.ports[2].name: \"a\" names an earlier port as well",
                "spec.ports[2].port: 80 is listed a second time",
                "spec.ports[3].targetPort: \"x--y\" is no port name",
                "spec.ports[3].protocol: \"QUIC\" is not supported",
                "spec.ports[3].name: \"B\" is not a DNS label",
                "spec.ports[3].appProtocol: \"a b\" is no protocol name",
            ],
        );
    }

    #[test]
    fn a_service_outside_the_mesh_is_a_host_and_its_ports() {
        for host in ["api.example.com", "API.example.com.", "192.0.2.7", "'2001:db8::7'"] {
            accepted(&service(&format!(
                "{{type: ExternalName, externalName: {host}, ports: [{{port: 80, targetPort: 443}}]}}"
            )));
        }
        assert_problems(
            &service(
                "{type: ExternalName, externalName: 'a b', clusterIP: None, ports: [{port: 1, targetPort: web}]}",
            ),
            &[
                "spec.externalName: \"a b\" is neither a DNS name nor an IP address",
                "spec.clusterIP: must be left out",
                "spec.ports[0].targetPort: \"web\" must be a number",
            ],
        );
        assert_problems(
            &service("{type: ExternalName, ports: [{port: 1}]}"),
            &["spec.externalName: is required"],
        );
        assert_problems(
            &service("{externalName: a.b, ports: [{port: 1}]}"),
            &["spec.externalName: must be left out"],
        );
        assert_problems(
            &service("{type: Other, ports: [{port: 1}]}"),
            &["spec.type: \"Other\" is not supported"],
        );
    }

    #[test]
    fn what_has_no_meaning_in_the_mesh_is_refused_or_told() {
        assert_problems(
            &service("{clusterIP: 10.0.0, clusterIPs: [10.0.0.1], ports: [{port: 1}]}"),
            &[
                "spec.clusterIP: \"10.0.0\" is not an IP address or None",
                "spec.clusterIPs[0]: must be the clusterIP",
            ],
        );
        let warned = warnings(&service("{sessionAffinity: ClientIP, ports: [{port: 53, protocol: UDP}]}"));
        assert_eq!(warned.len(), 2, "{warned:?}");
    }
}
