//! The policy of the demo: the very files that `deploy/examples/shop` shows.

/// The services: web, orders, payments and its two versions.
pub(crate) const SERVICES: &str = include_str!("../../../../deploy/examples/shop/services.yaml");
/// The whole mesh's settings.
pub(crate) const MESH: &str = include_str!("../../../../deploy/examples/shop/mesh.yaml");
/// Every request for payments goes to version 1.
pub(crate) const V1_ONLY: &str = include_str!("../../../../deploy/examples/shop/payments-v1-only.yaml");
/// One request in ten goes to version 2.
pub(crate) const CANARY: &str = include_str!("../../../../deploy/examples/shop/payments-canary.yaml");

#[cfg(test)]
mod tests {
    use outrigger_control_plane::resources::{Format, parse};

    #[test]
    fn the_demos_documents_are_valid() {
        for text in [super::SERVICES, super::MESH, super::V1_ONLY, super::CANARY] {
            let parsed = parse(text, Format::Yaml).unwrap_or_else(|rejected| panic!("{rejected:?}\n{text}"));
            assert!(!parsed.documents.is_empty());
        }
    }
}
