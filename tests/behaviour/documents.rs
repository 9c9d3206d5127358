//! The documents that these tests apply, with what is the same in all of them written once.

/// A `Service` with port 80 that no workload registers for: a name for routes to be attached to.
pub(crate) fn service(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{ports: [{{name: http, port: 80}}]}}\n---\n"
    )
}

/// An `HTTPRoute` of the namespace `shop` on port 80 of a service, with these rules (a YAML list, not indented).
pub(crate) fn route(name: &str, service: &str, rules: &str) -> String {
    route_in("shop", name, "shop", service, rules)
}

/// The same with the route's and the service's namespace.
pub(crate) fn route_in(namespace: &str, name: &str, of: &str, service: &str, rules: &str) -> String {
    let rules: String = rules.trim().lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  parentRefs: [{{group: \"\", kind: Service, name: {service}, namespace: {of}, port: 80}}]\n  \
         rules:\n{rules}---\n"
    )
}

/// A `ServicePolicy` of the namespace `shop` for a service, with these fields (YAML, not indented).
pub(crate) fn policy(service: &str, fields: &str) -> String {
    let fields: String = fields.trim().lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: ServicePolicy\n\
         metadata: {{name: {service}, namespace: shop}}\n\
         spec:\n  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n{fields}---\n"
    )
}

/// A `RateLimitPolicy` of the namespace `shop` for a service, with these limits (a YAML list, not indented).
pub(crate) fn limits(service: &str, limits: &str) -> String {
    let limits: String = limits.trim().lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: RateLimitPolicy\n\
         metadata: {{name: {service}, namespace: shop}}\n\
         spec:\n  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  limits:\n{limits}---\n"
    )
}

/// The `MeshConfig` with these fields (YAML, not indented).
pub(crate) fn mesh_config(fields: &str) -> String {
    let fields: String = fields.trim().lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec:\n{fields}---\n"
    )
}

/// An `AccessPolicy` of the namespace `shop` for the service `api`, with these fields (YAML, not indented).
pub(crate) fn access(name: &str, fields: &str) -> String {
    let fields: String = fields.trim().lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec:\n  targetRefs: [{{kind: Service, name: api}}]\n{fields}---\n"
    )
}

/// A `FaultInjection` of the namespace `shop` with these fields (YAML, not indented).
pub(crate) fn fault(name: &str, fields: &str) -> String {
    let fields: String = fields.trim().lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: FaultInjection\n\
         metadata: {{name: {name}, namespace: shop}}\nspec:\n{fields}---\n"
    )
}
