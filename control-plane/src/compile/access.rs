//! Who may call a service's ports: the policies that are about it, its namespace or the mesh, and the mode that holds
//! where none of them allows anybody.

use outrigger_api::path::decoded;
use outrigger_api::{ServiceName, v1};

use crate::model::Model;
use crate::resources::{
    AccessMode, AccessPolicy, AccessRule, Action, HeaderCondition, MESH_NAMESPACE, Operation, PathCondition,
    PathType, Reach, Source, TextType,
};

/// Whose callers are meant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Door<'a> {
    /// Those of a workload.
    Service(&'a ServiceName),
    /// Those who come in from outside the mesh, of whom nothing is said but by policies that name the gateway.
    Gateway { namespace: &'a str, name: &'a str },
}

impl Door<'_> {
    fn namespace(&self) -> &str {
        match self {
            Self::Service(service) => service.namespace(),
            Self::Gateway { namespace, .. } => namespace,
        }
    }

    /// Whether a policy with that target is about it; `own`: the policy is of its namespace.
    fn is_meant(&self, reach: Reach<'_>, own: bool) -> bool {
        match (self, reach) {
            (Self::Service(_), Reach::Mesh) => true,
            (Self::Service(_), Reach::Namespace) => own,
            (Self::Service(service), Reach::Service(name)) => own && name == service.name(),
            (Self::Gateway { name, .. }, Reach::Gateway(target)) => own && target == *name,
            (Self::Service(_) | Self::Gateway { .. }, _) => false,
        }
    }
}

/// The rules of one port. `None`: there is nothing to decide.
pub(super) fn access(model: &Model, door: Door<'_>, port: u16) -> Option<v1::Access> {
    let policies: Vec<_> = about(model, door)
        .filter(|policy| !policy.spec.rules.is_empty())
        .map(|policy| compiled(policy, port))
        .collect();
    let mode = match door {
        Door::Service(service) => mode(model, service),
        Door::Gateway { .. } => v1::AccessMode::Open,
    };
    if policies.is_empty() && mode == v1::AccessMode::Open {
        return None;
    }
    Some(v1::Access { policies, mode: mode as i32, namespace: door.namespace().to_owned() })
}

/// Every policy that is about those who come in there, in the order of their names.
pub(super) fn about<'a>(model: &'a Model, door: Door<'a>) -> impl Iterator<Item = &'a AccessPolicy> {
    let namespace = match door {
        Door::Service(service) => service.namespace(),
        Door::Gateway { namespace, .. } => namespace,
    };
    let of_mesh = Some(MESH_NAMESPACE).filter(|of_mesh| *of_mesh != namespace);
    let namespaces = [Some(namespace), of_mesh].into_iter().flatten();
    namespaces.flat_map(move |of| {
        let is_about = move |reach: Reach<'_>| door.is_meant(reach, of == namespace);
        model.access_policies(of).filter(move |policy| policy.reaches().any(is_about))
    })
}

/// The oldest policy that sets the mode of a namespace.
pub(crate) fn mode_policy<'a>(model: &'a Model, namespace: &str) -> Option<&'a AccessPolicy> {
    let own = model.access_policies(namespace).filter(|policy| policy.spec.default_mode.is_some());
    own.min_by_key(|policy| created(policy))
}

/// The namespace's mode; else the mesh's.
fn mode(model: &Model, service: &ServiceName) -> v1::AccessMode {
    let oldest = mode_policy(model, service.namespace()).and_then(|policy| policy.spec.default_mode);
    let mesh = model.documents().mesh_config.as_ref().and_then(|mesh| mesh.spec.access.as_ref());
    match oldest.or(mesh.and_then(|access| access.default_mode)) {
        None | Some(AccessMode::Open) => v1::AccessMode::Open,
        Some(AccessMode::Authenticated) => v1::AccessMode::Authenticated,
        Some(AccessMode::SameNamespace) => v1::AccessMode::SameNamespace,
        Some(AccessMode::Deny) => v1::AccessMode::Deny,
    }
}

/// A policy without a time is younger than all others; of one age the first by name is the oldest.
pub(super) fn created(policy: &AccessPolicy) -> (bool, Option<k8s_openapi::jiff::Timestamp>) {
    let created = policy.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created.is_none(), created)
}

fn compiled(policy: &AccessPolicy, port: u16) -> v1::AccessPolicy {
    let metadata = &policy.metadata;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let action = match policy.spec.action.unwrap_or_default() {
        Action::Allow => v1::AccessAction::Allow,
        Action::Deny => v1::AccessAction::Deny,
    };
    v1::AccessPolicy {
        name: format!("{namespace}/{}", metadata.name.as_deref().unwrap_or_default()),
        action: action as i32,
        audit: policy.spec.audit.unwrap_or(false),
        rules: policy.spec.rules.iter().filter_map(|raw| rule(raw, namespace, port)).collect(),
    }
}

/// `None`: the rule is all about other ports.
fn rule(rule: &AccessRule, namespace: &str, port: u16) -> Option<v1::AccessRule> {
    let on_port = |operation: &&Operation| operation.ports.is_empty() || operation.ports.contains(&port);
    let to: Vec<_> = rule.to.iter().filter(on_port).map(operation).collect();
    if to.is_empty() && !rule.to.is_empty() {
        return None;
    }
    let when = rule.when.iter().map(|condition| v1::ClaimCondition {
        path: claim_path(&condition.claim),
        values: texts(condition.kind, &condition.values),
    });
    Some(v1::AccessRule {
        from: rule.from.iter().map(|raw| source(raw, namespace)).collect(),
        to,
        when: when.collect(),
    })
}

fn source(source: &Source, namespace: &str) -> v1::AccessSource {
    let account =
        |text: &String| if text.contains('/') { text.clone() } else { format!("{namespace}/{text}") };
    v1::AccessSource {
        identities: source.identities.clone(),
        namespaces: source.namespaces.clone(),
        service_accounts: source.service_accounts.iter().map(account).collect(),
        trust_domains: source.trust_domains.clone(),
        cidrs: source.cidrs.clone(),
        not_identities: source.not_identities.clone(),
        not_namespaces: source.not_namespaces.clone(),
        not_cidrs: source.not_cidrs.clone(),
        api_keys: source.api_keys.clone(),
    }
}

fn operation(operation: &Operation) -> v1::AccessOperation {
    v1::AccessOperation {
        methods: operation.methods.clone(),
        hosts: operation.hosts.clone(),
        paths: operation.paths.iter().map(path).collect(),
        headers: operation.headers.iter().map(header).collect(),
        not_methods: operation.not_methods.clone(),
        not_paths: operation.not_paths.iter().map(path).collect(),
    }
}

/// Literal paths are decoded as those of requests are.
fn path(condition: &PathCondition) -> v1::PathMatch {
    use v1::path_match::Kind;
    let text = || decoded(&condition.value).map_or_else(|_| condition.value.clone(), String::from);
    v1::PathMatch {
        kind: Some(match condition.kind.unwrap_or_default() {
            PathType::Exact => Kind::Exact(text()),
            PathType::PathPrefix => Kind::Prefix(text()),
            PathType::RegularExpression => Kind::Regex(condition.value.clone()),
        }),
    }
}

fn header(condition: &HeaderCondition) -> v1::HeaderCondition {
    v1::HeaderCondition { name: condition.name.clone(), values: texts(condition.kind, &condition.values) }
}

fn texts(kind: Option<TextType>, values: &[String]) -> Vec<v1::TextMatch> {
    use v1::text_match::Kind;
    let text = |value: &String| match kind.unwrap_or_default() {
        TextType::Exact => Kind::Exact(value.clone()),
        TextType::Prefix => Kind::Prefix(value.clone()),
        TextType::RegularExpression => Kind::Regex(value.clone()),
    };
    values.iter().map(|value| v1::TextMatch { kind: Some(text(value)) }).collect()
}

/// The names that lead to a claim, as the document's field says.
pub(super) fn claim_path(claim: &str) -> Vec<String> {
    if claim.contains(['/', ':']) {
        return vec![claim.to_owned()];
    }
    claim.split('.').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::tests::documents;

    fn compile(yaml: &str, service: &str, port: u16) -> Option<v1::Access> {
        let mut model = Model::default();
        model.replace(documents(yaml).into());
        access(&model, Door::Service(&service.parse().unwrap()), port)
    }

    fn policy(namespace: &str, name: &str, spec: &str) -> String {
        format!("---\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n")
    }

    fn names(access: Option<v1::Access>) -> Vec<String> {
        access
            .map(|access| access.policies.into_iter().map(|policy| policy.name).collect())
            .unwrap_or_default()
    }

    #[test]
    fn without_a_policy_there_is_nothing_to_decide() {
        assert_eq!(compile("", "pay.shop", 80), None);
    }

    #[test]
    fn a_service_gets_the_policies_about_it_its_namespace_and_the_mesh() {
        let documents = [
            policy("shop", "one", "{targetRefs: [{name: pay}], rules: [{}]}"),
            policy("shop", "all", "{targetRefs: [{kind: Namespace, name: shop}], rules: [{}]}"),
            policy(
                "night",
                "theirs",
                "{targetRefs: [{kind: Namespace, name: night}, {name: pay}], rules: [{}]}",
            ),
            policy(
                "outrigger",
                "mesh",
                "{targetRefs: [{group: outrigger.dev, kind: Mesh, name: mesh}], rules: [{}]}",
            ),
            policy(
                "shop",
                "sneaky",
                "{targetRefs: [{group: outrigger.dev, kind: Mesh, name: mesh}], rules: [{}]}",
            ),
        ]
        .concat();
        for (service, expected) in [
            ("pay.shop", &["shop/all", "shop/one", "outrigger/mesh"][..]),
            ("web.shop", &["shop/all", "outrigger/mesh"]),
            ("pay.night", &["night/theirs", "outrigger/mesh"]),
            ("other.away", &["outrigger/mesh"]),
            ("x.outrigger", &["outrigger/mesh"]),
        ] {
            assert_eq!(names(compile(&documents, service, 80)), expected, "{service}");
        }
    }

    #[test]
    fn at_a_gateway_only_what_names_it_holds() {
        let gateway = |name: &str| {
            format!(
                "{{targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: {name}}}], rules: [{{}}]}}"
            )
        };
        let documents = [
            policy("shop", "edge", &gateway("edge")),
            policy("shop", "other", &gateway("other")),
            policy("night", "theirs", &gateway("edge")),
            policy("shop", "service", "{targetRefs: [{name: edge}, {name: gateway--edge}], rules: [{}]}"),
            policy(
                "shop",
                "all",
                "{targetRefs: [{kind: Namespace, name: shop}], defaultMode: Deny, rules: [{}]}",
            ),
            policy(
                "outrigger",
                "mesh",
                "{targetRefs: [{group: outrigger.dev, kind: Mesh, name: mesh}], rules: [{}]}",
            ),
        ]
        .concat();
        let mut model = Model::default();
        model.replace(super::super::tests::documents(&documents).into());
        let access = access(&model, Door::Gateway { namespace: "shop", name: "edge" }, 80).unwrap();
        assert_eq!(access.mode(), v1::AccessMode::Open);
        assert_eq!(names(Some(access)), ["shop/edge"]);
        assert_eq!(
            names(compile(&documents, "edge.shop", 80)),
            ["shop/all", "shop/service", "outrigger/mesh"]
        );
    }

    #[test]
    fn the_namespaces_mode_holds_before_the_meshs() {
        let mesh = "kind: MeshConfig\nmetadata: {name: mesh}\nspec: {access: {defaultMode: Authenticated}}\n";
        let own = policy(
            "shop",
            "mode",
            "{targetRefs: [{kind: Namespace, name: shop}], defaultMode: SameNamespace}",
        );
        let documents = format!("{mesh}{own}");
        let mode = |service| compile(&documents, service, 80).map(|access| access.mode());
        assert_eq!(mode("pay.shop"), Some(v1::AccessMode::SameNamespace));
        assert_eq!(mode("pay.night"), Some(v1::AccessMode::Authenticated));
        assert!(
            names(compile(&documents, "pay.shop", 80)).is_empty(),
            "a policy that only sets the mode selects nothing"
        );
    }

    #[test]
    fn rules_about_other_ports_are_left_out_and_their_policy_is_not() {
        let documents = policy(
            "shop",
            "p",
            "{targetRefs: [{name: pay}], rules: [{to: [{ports: [80]}]}, {to: [{ports: [81]}, {methods: [GET]}]}]}",
        );
        let rules = |port| compile(&documents, "pay.shop", port).unwrap().policies[0].rules.clone();
        assert_eq!(rules(80).iter().map(|rule| rule.to.len()).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(rules(81).iter().map(|rule| rule.to.len()).collect::<Vec<_>>(), [2]);
        let only = policy("shop", "p", "{targetRefs: [{name: pay}], rules: [{to: [{ports: [80]}]}]}");
        let elsewhere = compile(&only, "pay.shop", 5432).unwrap();
        assert!(elsewhere.policies[0].rules.is_empty(), "what it allows elsewhere it does not allow here");
    }

    #[test]
    fn conditions_are_compiled_as_the_proxy_compares_them() {
        use v1::path_match::Kind;
        let documents = policy(
            "shop",
            "p",
            "{targetRefs: [{name: pay}], action: Deny, audit: true, rules: [{
                from: [{serviceAccounts: [web, night/batch]}],
                to: [{paths: [{value: '/a%40b'}, {type: Exact, value: /x}, {type: RegularExpression, value: '/.*'}],
                      headers: [{name: X-Role, type: Prefix, values: [a]}]}],
                when: [{claim: realm.roles, values: [a]}, {claim: 'https://x.y/z', values: [b]}]}]}",
        );
        let mut policy = compile(&documents, "pay.shop", 80).unwrap().policies.remove(0);
        assert_eq!((policy.action(), policy.audit), (v1::AccessAction::Deny, true));
        let rule = policy.rules.remove(0);
        assert_eq!(rule.from[0].service_accounts, ["shop/web", "night/batch"]);
        let kinds: Vec<_> = rule.to[0].paths.iter().filter_map(|path| path.kind.clone()).collect();
        assert_eq!(kinds, [Kind::Prefix("/a@b".into()), Kind::Exact("/x".into()), Kind::Regex("/.*".into())]);
        assert_eq!(rule.to[0].headers[0].values[0].kind, Some(v1::text_match::Kind::Prefix("a".into())));
        let paths: Vec<_> = rule.when.iter().map(|condition| condition.path.join("|")).collect();
        assert_eq!(paths, ["realm|roles", "https://x.y/z"]);
    }
}
