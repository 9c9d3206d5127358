//! `Gateway`: listeners for traffic from outside the mesh, served by proxies that are started with `--gateway`.
//!
//! What is served is HTTP, and HTTPS with a certificate from the gateway's own disk. Everything else that the Gateway
//! API has is refused by name, so that no listener seems to do what it does not.

use gateway_api::experimental::gateways::{
    Gateway, GatewayListeners, GatewayListenersAllowedRoutes, GatewayListenersAllowedRoutesNamespacesFrom,
    GatewayListenersTls, GatewayListenersTlsMode,
};

use super::metadata::is_subdomain;
use super::{Admission, FieldPath, Problems};

/// The CRD's own bound.
const MOST_LISTENERS: usize = 64;
/// A gateway's name is part of a label.
const MOST_NAME_BYTES: usize = 54;

impl Admission for Gateway {
    fn fill_defaults(&mut self) {
        self.status = None;
    }

    fn check(&self, problems: &mut Problems) {
        let name = self.metadata.name.as_deref().unwrap_or_default();
        let path = FieldPath::root().field("metadata").field("name");
        problems.check_label(&path, name);
        if name.len() > MOST_NAME_BYTES {
            problems.error(&path, format!("must not be longer than {MOST_NAME_BYTES} characters"));
        }
        let path = FieldPath::root().field("spec");
        let spec = &self.spec;
        for (field, there) in [
            ("addresses", spec.addresses.as_ref().is_some_and(|all| !all.is_empty())),
            ("allowedListeners", spec.allowed_listeners.is_some()),
            ("defaultScope", spec.default_scope.is_some()),
            ("infrastructure", spec.infrastructure.is_some()),
            ("tls", spec.tls.is_some()),
        ] {
            if there {
                problems.error(&path.field(field), "is not supported");
            }
        }
        if spec.gateway_class_name != "outrigger" {
            problems
                .warning(&path.field("gatewayClassName"), "is not outrigger; it is served here all the same");
        }
        let listeners = &spec.listeners;
        if listeners.is_empty() || listeners.len() > MOST_LISTENERS {
            problems.error(&path.field("listeners"), format!("must list 1 to {MOST_LISTENERS} listeners"));
        }
        for (index, listener) in listeners.iter().enumerate().take(MOST_LISTENERS) {
            check_listener(listener, &listeners[..index], &path.field("listeners").index(index), problems);
        }
    }
}

fn check_listener(
    listener: &GatewayListeners,
    earlier: &[GatewayListeners],
    path: &FieldPath,
    problems: &mut Problems,
) {
    problems.check_subdomain(&path.field("name"), &listener.name);
    problems.check_port_number(&path.field("port"), listener.port);
    if let Some(host) = listener.hostname.as_deref() {
        let bare = host.strip_prefix("*.").unwrap_or(host);
        if !is_subdomain(bare) {
            let problem = format!("{host:?} is neither a DNS name nor one after \"*.\"");
            problems.error(&path.field("hostname"), problem);
        }
    }
    match (listener.protocol.as_str(), &listener.tls) {
        ("HTTP", None) => {}
        ("HTTP", Some(_)) => problems.error(&path.field("tls"), "must be left out where protocol is HTTP"),
        ("HTTPS", Some(tls)) => check_tls(tls, &path.field("tls"), problems),
        ("HTTPS", None) => problems.error(&path.field("tls"), "is required where protocol is HTTPS"),
        (other, _) => problems
            .error(&path.field("protocol"), format!("{other:?} is not supported; expected HTTP or HTTPS")),
    }
    if let Some(allowed) = &listener.allowed_routes {
        check_allowed(allowed, &path.field("allowedRoutes"), problems);
    }
    if earlier.iter().any(|other| other.name == listener.name) {
        problems.error(&path.field("name"), format!("{:?} names an earlier listener as well", listener.name));
    }
    let on_port = || earlier.iter().filter(|other| other.port == listener.port);
    if on_port().any(|other| other.protocol != listener.protocol) {
        problems.error(&path.field("protocol"), "must be that of the other listeners on the same port");
    }
    if on_port().any(|other| other.hostname == listener.hostname) {
        problems.error(&path.field("hostname"), "is that of an earlier listener on the same port");
    }
}

fn check_tls(tls: &GatewayListenersTls, path: &FieldPath, problems: &mut Problems) {
    if matches!(tls.mode, Some(GatewayListenersTlsMode::Passthrough)) {
        problems.error(&path.field("mode"), "Passthrough is not supported; expected Terminate");
    }
    if tls.options.as_ref().is_some_and(|options| !options.is_empty()) {
        problems.error(&path.field("options"), "is not supported: there are none here");
    }
    let certificates = tls.certificate_refs.as_deref().unwrap_or_default();
    let list = path.field("certificateRefs");
    if certificates.len() != 1 {
        problems.error(&list, "must name one Secret: a listener has one certificate");
    }
    for (index, certificate) in certificates.iter().enumerate() {
        let path = list.index(index);
        if !matches!(certificate.group.as_deref(), None | Some("")) {
            problems.error(&path.field("group"), "must be \"\", the group of Secret");
        }
        if !matches!(certificate.kind.as_deref(), None | Some("Secret")) {
            problems.error(&path.field("kind"), "must be Secret");
        }
        if certificate.namespace.is_some() {
            problems.error(
                &path.field("namespace"),
                "must be left out: certificates are on the gateway's own disk",
            );
        }
        problems.check_subdomain(&path.field("name"), &certificate.name);
    }
}

fn check_allowed(allowed: &GatewayListenersAllowedRoutes, path: &FieldPath, problems: &mut Problems) {
    for (index, kind) in allowed.kinds.iter().flatten().enumerate() {
        if kind.kind != "HTTPRoute" {
            problems.error(
                &path.field("kinds").index(index).field("kind"),
                format!("{:?} is not supported at a gateway; expected HTTPRoute", kind.kind),
            );
        }
    }
    let Some(namespaces) = &allowed.namespaces else { return };
    let path = path.field("namespaces");
    if matches!(namespaces.from, Some(GatewayListenersAllowedRoutesNamespacesFrom::Selector))
        || namespaces.selector.is_some()
    {
        problems.error(&path, "a selector is not supported; expected from: Same or All");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{accepted, assert_problems};

    fn gateway(listeners: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\n\
             spec: {{gatewayClassName: outrigger, listeners: {listeners}}}\n"
        )
    }

    #[test]
    fn listeners_are_http_or_https_told_apart_by_port_and_host() {
        accepted(&gateway(
            "[{name: web, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}, \
             {name: a, port: 443, protocol: HTTPS, hostname: a.example.com, tls: {certificateRefs: [{name: a}]}}, \
             {name: b, port: 443, protocol: HTTPS, hostname: '*.example.com', tls: {certificateRefs: [{name: b}]}}]",
        ));
        assert_problems(&gateway("[]"), &["spec.listeners: must list 1 to 64"]);
        assert_problems(
            &gateway(
                "[{name: a, port: 80, protocol: HTTP, tls: {}}, {name: a, port: 80, protocol: HTTPS}, \
                 {name: c, port: 53, protocol: UDP, hostname: 'a b'}]",
            ),
            &[
                "spec.listeners[0].tls: must be left out",
                "spec.listeners[1].tls: is required",
                "spec.listeners[1].name: \"a\" names an earlier listener",
                "spec.listeners[1].protocol: must be that of the other listeners",
                "spec.listeners[1].hostname: is that of an earlier listener",
                "spec.listeners[2].hostname: \"a b\" is neither",
                "spec.listeners[2].protocol: \"UDP\" is not supported",
            ],
        );
    }

    #[test]
    fn what_no_gateway_does_here_is_refused_by_name() {
        assert_problems(
            &gateway(
                "[{name: a, port: 443, protocol: HTTPS, tls: {mode: Passthrough, options: {a/b: c}, \
                 certificateRefs: [{name: a, kind: Other, group: x, namespace: other}]}, \
                 allowedRoutes: {kinds: [{kind: TLSRoute}], namespaces: {from: Selector}}}]",
            ),
            &[
                "spec.listeners[0].tls.mode: Passthrough is not supported",
                "spec.listeners[0].tls.options: is not supported",
                "spec.listeners[0].tls.certificateRefs[0].group: must be",
                "spec.listeners[0].tls.certificateRefs[0].kind: must be Secret",
                "spec.listeners[0].tls.certificateRefs[0].namespace: must be left out",
                "spec.listeners[0].allowedRoutes.kinds[0].kind: \"TLSRoute\" is not supported",
                "spec.listeners[0].allowedRoutes.namespaces: a selector is not supported",
            ],
        );
    }
}
