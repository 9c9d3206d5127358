//! `BackendTLSPolicy`: the TLS that proxies begin towards services outside the mesh.
//!
//! Between proxies there is the mesh's own TLS, so that a policy for a service of the mesh has no effect. The roots of
//! trust are the system's: a proxy has no ConfigMaps to read others from.

use gateway_api::backendtlspolicies::{
    BackendTlsPolicy, BackendTlsPolicyTargetRefs, BackendTlsPolicyValidation,
    BackendTlsPolicyValidationSubjectAltNames, BackendTlsPolicyValidationSubjectAltNamesType,
};

use super::metadata::is_label;
use super::{Admission, FieldPath, Problems};

/// The CRD's own bounds.
const MOST_TARGETS: usize = 16;
const MOST_ALT_NAMES: usize = 5;

impl Admission for BackendTlsPolicy {
    fn fill_defaults(&mut self) {
        self.status = None;
    }

    fn check(&self, problems: &mut Problems) {
        let spec = FieldPath::root().field("spec");
        let path = spec.field("targetRefs");
        let targets = &self.spec.target_refs;
        if targets.is_empty() || targets.len() > MOST_TARGETS {
            problems.error(&path, format!("must list 1 to {MOST_TARGETS} services"));
        }
        for (index, target) in targets.iter().enumerate().take(MOST_TARGETS) {
            check_target(target, &targets[..index], &path.index(index), problems);
        }
        check_validation(&self.spec.validation, &spec.field("validation"), problems);
        if self.spec.options.as_ref().is_some_and(|options| !options.is_empty()) {
            problems.error(&spec.field("options"), "is not supported: there are none here");
        }
    }
}

fn check_target(
    target: &BackendTlsPolicyTargetRefs,
    earlier: &[BackendTlsPolicyTargetRefs],
    path: &FieldPath,
    problems: &mut Problems,
) {
    if !target.group.is_empty() {
        problems.error(&path.field("group"), "must be \"\", the group of Service");
    }
    if target.kind != "Service" {
        problems.error(&path.field("kind"), "must be Service");
    }
    problems.check_label(&path.field("name"), &target.name);
    if let Some(section) = target.section_name.as_deref().filter(|name| !is_label(name)) {
        problems.check_label(&path.field("sectionName"), section);
    }
    let same = |other: &BackendTlsPolicyTargetRefs| {
        other.name == target.name && other.section_name == target.section_name
    };
    if earlier.iter().any(same) {
        problems.error(&path.field("name"), format!("names {:?} a second time", target.name));
    }
}

fn check_validation(validation: &BackendTlsPolicyValidation, path: &FieldPath, problems: &mut Problems) {
    problems.check_subdomain(&path.field("hostname"), &validation.hostname);
    if validation.ca_certificate_refs.as_ref().is_some_and(|refs| !refs.is_empty()) {
        problems.error(
            &path.field("caCertificateRefs"),
            "is not supported: proxies trust the roots of their system (SSL_CERT_FILE adds to them); write \
             wellKnownCACertificates: System",
        );
    }
    match validation.well_known_ca_certificates.as_deref() {
        Some("System") => {}
        Some(other) => problems.error(
            &path.field("wellKnownCACertificates"),
            format!("{other:?} is not supported; expected System"),
        ),
        None if validation.ca_certificate_refs.is_none() => {
            problems.error(&path.field("wellKnownCACertificates"), "is required; write System");
        }
        None => {}
    }
    let names = validation.subject_alt_names.as_deref().unwrap_or_default();
    if names.len() > MOST_ALT_NAMES {
        problems.error(&path.field("subjectAltNames"), format!("must not list more than {MOST_ALT_NAMES}"));
    }
    for (index, name) in names.iter().enumerate().take(MOST_ALT_NAMES) {
        check_alt_name(name, &path.field("subjectAltNames").index(index), problems);
    }
}

fn check_alt_name(
    name: &BackendTlsPolicyValidationSubjectAltNames,
    path: &FieldPath,
    problems: &mut Problems,
) {
    match (&name.r#type, &name.hostname) {
        (BackendTlsPolicyValidationSubjectAltNamesType::Hostname, Some(hostname)) => {
            problems.check_subdomain(&path.field("hostname"), hostname);
        }
        (BackendTlsPolicyValidationSubjectAltNamesType::Hostname, None) => {
            problems.error(&path.field("hostname"), "is required where type is Hostname");
        }
        (BackendTlsPolicyValidationSubjectAltNamesType::Uri, _) => {
            problems.error(&path.field("type"), "URI is not supported; expected Hostname");
        }
    }
    if name.uri.is_some() {
        problems.error(&path.field("uri"), "is not supported; write a hostname");
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{accepted, assert_problems};

    fn policy(spec: &str) -> String {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: api}}\nspec: {spec}\n"
        )
    }

    #[test]
    fn a_policy_names_services_a_hostname_and_the_roots_of_the_system() {
        accepted(&policy(
            "{targetRefs: [{group: '', kind: Service, name: api}, {group: '', kind: Service, name: api, sectionName: tls}], \
             validation: {hostname: api.example.com, wellKnownCACertificates: System, \
             subjectAltNames: [{type: Hostname, hostname: other.example.com}]}}",
        ));
        assert_problems(
            &policy(
                "{targetRefs: [{group: apps, kind: Pod, name: api}, {group: '', kind: Service, name: api}], \
                 options: {a/b: c}, validation: {hostname: '*.example.com', \
                 caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}], \
                 subjectAltNames: [{type: URI, uri: 'spiffe://x/y'}]}}",
            ),
            &[
                "spec.targetRefs[0].group: must be",
                "spec.targetRefs[0].kind: must be Service",
                "spec.targetRefs[1].name: names \"api\" a second time",
                "spec.validation.hostname: \"*.example.com\" is not a DNS name",
                "spec.validation.caCertificateRefs: is not supported",
                "spec.validation.subjectAltNames[0].type: URI is not supported",
                "spec.validation.subjectAltNames[0].uri: is not supported",
                "spec.options: is not supported",
            ],
        );
        assert_problems(
            &policy("{targetRefs: [{group: '', kind: Service, name: api}], validation: {hostname: a.b}}"),
            &["spec.validation.wellKnownCACertificates: is required"],
        );
    }
}
