//! What an AccessPolicy must be, beyond its shape.

use ipnet::IpNet;
use outrigger_api::path::{decoded, normalized};
use outrigger_certs::TrustDomain;

use super::{
    AccessPolicy, Action, MESH_NAMESPACE, Operation, PathCondition, PathType, Reach, Rule, Source, TextType,
};
use crate::resources::http_route::{check_literal_path, check_name, check_regex};
use crate::resources::service_policy::GATEWAY_GROUP;
use crate::resources::{FieldPath, Problems, is_label, is_subdomain};

/// A longer value is a mistake.
const MOST_VALUE_BYTES: usize = 1024;

pub(super) fn check(policy: &AccessPolicy, problems: &mut Problems) {
    let path = FieldPath::root().field("spec");
    let spec = &policy.spec;
    check_targets(policy, &path.field("targetRefs"), problems);
    let names_namespace = policy.reaches().any(|reach| reach == Reach::Namespace);
    if spec.default_mode.is_some() && !names_namespace {
        problems.error(
            &path.field("defaultMode"),
            "only a policy whose targetRefs name its own Namespace can set it; the mesh's is spec.access of MeshConfig",
        );
    }
    if let Some(jwt) = &spec.jwt {
        jwt.check(&path.field("jwt"), problems);
    }
    if let Some(keys) = &spec.api_keys {
        keys.check(&path.field("apiKeys"), problems);
    }
    let nothing = spec.default_mode.is_none() && spec.jwt.is_none() && spec.api_keys.is_none();
    if spec.rules.is_empty() && nothing {
        problems.error(
            &path.field("rules"),
            "must have a rule (`{}` is about everybody), unless defaultMode, jwt or apiKeys is set",
        );
    }
    if spec.rules.is_empty() && (spec.action.is_some() || spec.audit.is_some()) {
        problems.warning(&path, "action and audit have no effect without rules");
    }
    for (index, rule) in spec.rules.iter().enumerate() {
        check_rule(rule, &path.field("rules").index(index), problems);
    }
    if policy.reaches().any(|reach| matches!(reach, Reach::Gateway(_))) {
        for (index, rule) in spec.rules.iter().enumerate() {
            if rule.is_about_workloads() {
                let path = path.field("rules").index(index).field("from");
                problems
                    .warning(&path, "names workloads, and nobody has an identity who comes in at a gateway");
            }
        }
    }
    if spec.action == Some(Action::Deny)
        && let Some(index) = spec.rules.iter().position(Rule::is_about_opaque_ports)
    {
        problems.warning(
            &path.field("rules").index(index),
            "is about ports whose bytes nobody reads: all that `from` is about is denied there, whatever it asks for",
        );
    }
}

fn check_targets(policy: &AccessPolicy, path: &FieldPath, problems: &mut Problems) {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let targets = &policy.spec.target_refs;
    for (index, target) in targets.iter().enumerate() {
        let path = path.index(index);
        match (target.group.as_str(), target.kind.as_str()) {
            ("" | "core", "Service") => problems.check_label(&path.field("name"), &target.name),
            ("" | "core", "Namespace") if target.name == namespace => {}
            ("" | "core", "Namespace") => {
                problems
                    .error(&path.field("name"), format!("must be {namespace:?}, the policy's own namespace"));
            }
            ("outrigger.dev", "Mesh") if target.name != "mesh" => {
                problems.error(&path.field("name"), "must be mesh: there is one");
            }
            ("outrigger.dev", "Mesh") if namespace != MESH_NAMESPACE => problems.error(
                &path,
                format!("only policies of the namespace {MESH_NAMESPACE} may be about the whole mesh"),
            ),
            ("outrigger.dev", "Mesh") => {}
            (GATEWAY_GROUP, "Gateway") => problems.check_label(&path.field("name"), &target.name),
            (group, "Gateway") => {
                problems.error(&path.field("group"), format!("must be {GATEWAY_GROUP}, not {group:?}"));
            }
            (group, "Service" | "Namespace") => {
                problems.error(&path.field("group"), format!("must be \"\", not {group:?}"));
            }
            (group, "Mesh") => {
                problems.error(&path.field("group"), format!("must be outrigger.dev, not {group:?}"));
            }
            (_, kind) => problems.error(
                &path.field("kind"),
                format!("{kind:?} is not supported; expected Service, Namespace, Gateway or Mesh"),
            ),
        }
        if targets[..index].iter().any(|earlier| earlier.kind == target.kind && earlier.name == target.name) {
            problems.error(&path, "is listed a second time");
        }
    }
}

fn check_rule(rule: &Rule, path: &FieldPath, problems: &mut Problems) {
    for (index, source) in rule.from.iter().enumerate() {
        check_source(source, &path.field("from").index(index), problems);
    }
    for (index, operation) in rule.to.iter().enumerate() {
        check_operation(operation, &path.field("to").index(index), problems);
    }
    for (index, condition) in rule.when.iter().enumerate() {
        let path = path.field("when").index(index);
        if condition.claim.is_empty() || condition.claim.len() > 256 {
            problems.error(&path.field("claim"), "must have 1 to 256 bytes");
        }
        check_values(condition.kind, &condition.values, &path.field("values"), problems);
    }
}

fn check_source(source: &Source, path: &FieldPath, problems: &mut Problems) {
    let entries =
        |name: &str, list: &[String], what: &str, is: &dyn Fn(&str) -> bool, problems: &mut Problems| {
            for (index, text) in list.iter().enumerate() {
                if !is(text) {
                    problems.error(&path.field(name).index(index), format!("{text:?} is not {what}"));
                }
            }
        };
    let identity = |text: &str| is_identity(text);
    let network = |text: &str| text.parse::<IpNet>().is_ok();
    let account = |text: &str| match text.split_once('/') {
        Some((namespace, name)) => is_label(namespace) && is_subdomain(name),
        None => is_subdomain(text),
    };
    const IDENTITY: &str =
        "spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT, nor the beginning of one and `*`";
    const NETWORK: &str = "a network such as 10.0.0.0/8 or 10.1.2.3/32";
    entries("identities", &source.identities, IDENTITY, &identity, problems);
    entries("notIdentities", &source.not_identities, IDENTITY, &identity, problems);
    entries("namespaces", &source.namespaces, "a namespace", &is_label, problems);
    entries("notNamespaces", &source.not_namespaces, "a namespace", &is_label, problems);
    entries("serviceAccounts", &source.service_accounts, "NAME or NAMESPACE/NAME", &account, problems);
    let domain = |text: &str| TrustDomain::new(text).is_ok();
    entries("trustDomains", &source.trust_domains, "a trust domain", &domain, problems);
    entries("apiKeys", &source.api_keys, "the name of a key", &is_label, problems);
    entries("cidrs", &source.cidrs, NETWORK, &network, problems);
    entries("notCidrs", &source.not_cidrs, NETWORK, &network, problems);
}

fn is_identity(text: &str) -> bool {
    const SCHEME: &str = "spiffe://";
    match text.strip_suffix('*') {
        Some(beginning) => {
            beginning.starts_with(SCHEME) && !beginning.contains('*') && beginning.len() <= 2048
        }
        None => text.parse::<outrigger_certs::SpiffeId>().is_ok(),
    }
}

fn check_operation(operation: &Operation, path: &FieldPath, problems: &mut Problems) {
    for (name, methods) in [("methods", &operation.methods), ("notMethods", &operation.not_methods)] {
        for (index, method) in methods.iter().enumerate() {
            let path = path.field(name).index(index);
            if !is_token(method) {
                problems.error(&path, format!("{method:?} is not an HTTP method"));
            } else if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
                problems.error(&path, format!("must be in capitals: {}", method.to_ascii_uppercase()));
            }
        }
    }
    for (index, host) in operation.hosts.iter().enumerate() {
        let name = host.strip_prefix("*.").unwrap_or(host);
        if !is_subdomain(name) && name.parse::<std::net::IpAddr>().is_err() {
            let problem = format!("{host:?} is not a host in lower case without port, or *.HOST");
            problems.error(&path.field("hosts").index(index), problem);
        }
    }
    for (name, paths) in [("paths", &operation.paths), ("notPaths", &operation.not_paths)] {
        for (index, condition) in paths.iter().enumerate() {
            check_path(condition, &path.field(name).index(index).field("value"), problems);
        }
    }
    for (index, condition) in operation.headers.iter().enumerate() {
        let path = path.field("headers").index(index);
        check_name(&condition.name, &path.field("name"), problems);
        if condition.name.eq_ignore_ascii_case("host") {
            problems.error(&path.field("name"), "the host is not compared as a header: use hosts");
        }
        check_values(condition.kind, &condition.values, &path.field("values"), problems);
    }
}

fn check_path(condition: &PathCondition, path: &FieldPath, problems: &mut Problems) {
    let value = condition.value.as_str();
    if value.len() > MOST_VALUE_BYTES {
        return problems.error(path, format!("must not be longer than {MOST_VALUE_BYTES} bytes"));
    }
    if condition.kind == Some(PathType::RegularExpression) {
        return check_regex(value, path, problems);
    }
    check_literal_path(value, path, problems);
    if let Some(normal) = normalized(value) {
        problems.error(path, format!("{value:?} is not in its normal form, which is {normal:?}"));
    } else if let Err(ambiguous) = decoded(value) {
        problems.error(
            path,
            format!("{value:?} {ambiguous}: requests for it are refused before rules are asked"),
        );
    }
}

fn check_values(kind: Option<TextType>, values: &[String], path: &FieldPath, problems: &mut Problems) {
    for (index, value) in values.iter().enumerate() {
        let path = path.index(index);
        if value.len() > MOST_VALUE_BYTES {
            problems.error(&path, format!("must not be longer than {MOST_VALUE_BYTES} bytes"));
        } else if kind == Some(TextType::RegularExpression) {
            check_regex(value, &path, problems);
        }
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.len() <= 64 && http::Method::from_bytes(text.as_bytes()).is_ok()
}

impl Rule {
    /// Whether each of its sources is about identities of the mesh.
    fn is_about_workloads(&self) -> bool {
        let names_some = |source: &Source| {
            [&source.identities, &source.namespaces, &source.service_accounts, &source.trust_domains]
                .iter()
                .any(|list| !list.is_empty())
        };
        !self.from.is_empty() && self.from.iter().all(names_some)
    }

    /// Whether it looks at requests, on ports whose servers speak first and are therefore opaque.
    fn is_about_opaque_ports(&self) -> bool {
        let opaque = |operation: &Operation| {
            operation.ports.iter().any(|port| crate::compile::SERVER_FIRST.contains(port))
                && (!self.when.is_empty() || operation.looks_at_requests())
        };
        self.to.iter().any(opaque)
    }
}

impl Operation {
    fn looks_at_requests(&self) -> bool {
        let Self { ports: _, methods, hosts, paths, headers, not_methods, not_paths } = self;
        let looks_at_nothing = methods.is_empty()
            && hosts.is_empty()
            && paths.is_empty()
            && headers.is_empty()
            && not_methods.is_empty()
            && not_paths.is_empty();
        !looks_at_nothing
    }
}

#[cfg(test)]
mod tests {
    use crate::resources::tests::{accepted, assert_problems, warnings};

    fn policy(namespace: &str, spec: &str) -> String {
        format!(
            "apiVersion: outrigger.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {spec}\n"
        )
    }

    const TO_PAY: &str = "targetRefs: [{name: pay}]";

    #[test]
    fn a_policy_of_every_field_is_accepted() {
        accepted(&policy(
            "shop",
            "{targetRefs: [{name: pay}, {kind: Namespace, name: shop}], action: Deny, audit: true, defaultMode: SameNamespace,
              rules: [{from: [{identities: ['spiffe://mesh/ns/shop/sa/web', 'spiffe://mesh/ns/*'], namespaces: [shop],
                               serviceAccounts: [web, night/batch], trustDomains: [mesh], cidrs: [10.0.0.0/8, '::1/128'],
                               notIdentities: ['spiffe://*'], notNamespaces: [x], notCidrs: [10.1.0.0/16], apiKeys: [phone]}],
                       to: [{ports: [80], methods: [GET], hosts: [pay.shop, '*.example.com'], notMethods: [PUT],
                             paths: [{value: /a}, {type: Exact, value: /b@c}, {type: RegularExpression, value: '/[a-z]+'}],
                             notPaths: [{value: /caf%C3%A9}],
                             headers: [{name: x-role, values: [admin]}, {name: x-any, type: Prefix, values: [a]}]}],
                       when: [{claim: realm.roles, values: [a]}, {claim: sub, type: RegularExpression, values: ['a.*']}]}]}",
        ));
        accepted(&policy(
            "outrigger",
            "{targetRefs: [{group: outrigger.dev, kind: Mesh, name: mesh}], rules: [{}]}",
        ));
        accepted(&policy("shop", "{targetRefs: [{kind: Namespace, name: shop}], defaultMode: Deny}"));
        accepted(&policy(
            "shop",
            "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}], rules: [{}]}",
        ));
    }

    #[test]
    fn what_could_not_be_meant_is_refused_with_its_field() {
        assert_problems(&policy("shop", &format!("{{{TO_PAY}}}")), &["spec.rules: must have a rule"]);
        assert_problems(
            &policy("shop", &format!("{{{TO_PAY}, rules: [{{}}], defaultMode: Open}}")),
            &["spec.defaultMode: only a policy whose targetRefs name its own Namespace"],
        );
        assert_problems(
            &policy(
                "shop",
                "{targetRefs: [{kind: Namespace, name: other}, {group: outrigger.dev, kind: Mesh, name: mesh}, {kind: Pod, name: x}], rules: [{}]}",
            ),
            &[
                "spec.targetRefs[0].name: must be \"shop\"",
                "spec.targetRefs[1]: only policies of the namespace outrigger",
                "spec.targetRefs[2].kind: \"Pod\" is not supported",
            ],
        );
        assert_problems(
            &policy(
                "shop",
                &format!(
                    "{{{TO_PAY}, rules: [{{from: [{{identities: [web], cidrs: [10.0.0.1/40], serviceAccounts: [A]}}],
                      to: [{{methods: [get], hosts: ['Web:80'], paths: [{{value: a}}, {{value: /%61}}, {{value: /a%5Cb}},
                             {{type: RegularExpression, value: '('}}], headers: [{{name: Host}}, {{name: 'a b'}}]}}]}}]}}"
                ),
            ),
            &[
                "spec.rules[0].from[0].identities[0]: \"web\" is not spiffe://",
                "spec.rules[0].from[0].cidrs[0]: \"10.0.0.1/40\" is not a network",
                "spec.rules[0].from[0].serviceAccounts[0]: \"A\" is not NAME",
                "spec.rules[0].to[0].methods[0]: must be in capitals: GET",
                "spec.rules[0].to[0].hosts[0]: \"Web:80\" is not a host",
                "spec.rules[0].to[0].paths[0].value: \"a\" must start with '/'",
                "spec.rules[0].to[0].paths[1].value: \"/%61\" is not in its normal form, which is \"/a\"",
                "spec.rules[0].to[0].paths[2].value: \"/a%5Cb\" has a backslash",
                "spec.rules[0].to[0].paths[3].value: \"(\" is no regular expression",
                "spec.rules[0].to[0].headers[0].name: the host is not compared as a header",
                "spec.rules[0].to[0].headers[1].name: \"a b\" is not a name",
            ],
        );
    }

    #[test]
    fn a_rule_about_workloads_at_a_gateway_is_warned_of() {
        let warned = warnings(&policy(
            "shop",
            "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}], \
              rules: [{from: [{cidrs: [10.0.0.0/8]}]}, {from: [{namespaces: [shop]}]}]}",
        ));
        assert!(
            warned.len() == 1 && warned[0].starts_with("spec.rules[1].from: names workloads"),
            "{warned:?}"
        );
    }

    #[test]
    fn a_rule_about_requests_on_an_opaque_port_is_warned_of() {
        let warned = warnings(&policy(
            "shop",
            &format!("{{{TO_PAY}, action: Deny, rules: [{{to: [{{ports: [5432], methods: [GET]}}]}}]}}"),
        ));
        assert!(warned.len() == 1 && warned[0].starts_with("spec.rules[0]: is about ports"), "{warned:?}");
    }
}
