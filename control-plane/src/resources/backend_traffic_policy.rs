//! `XBackendTrafficPolicy`: the defaults and the rules that its CRD gives an API server.

use gateway_api::experimental::xbackendtrafficpolicies::{
    XBackendTrafficPolicy, XBackendTrafficPolicyRetryConstraint, XBackendTrafficPolicyTargetRefs,
};

use super::duration::Period;
use super::http_route::session;
use super::metadata::is_label_key;
use super::{Admission, FieldPath, Problems, as_http};

// The bounds of the CRD's schema.
const MOST_TARGETS: usize = 16;
const MOST_COUNT: i64 = 1_000_000;
const LEAST_WINDOW: Period = Period::from_millis(1_000);
const MOST_INTERVAL: Period = Period::from_millis(3_600_000);

impl Admission for XBackendTrafficPolicy {
    fn fill_defaults(&mut self) {
        self.status = None;
        if let Some(constraint) = &mut self.spec.retry_constraint {
            let budget = constraint.budget.get_or_insert_default();
            budget.percent.get_or_insert(20);
            budget.interval.get_or_insert_with(|| "10s".to_owned());
            let rate = constraint.min_retry_rate.get_or_insert_default();
            rate.count.get_or_insert(10);
            rate.interval.get_or_insert_with(|| "1s".to_owned());
        }
        // The schema is that of a rule.
        if let Some(written) = &mut self.spec.session_persistence
            && let Some(mut twin) = as_http::same(written)
        {
            session::fill_defaults(&mut twin);
            if let Some(filled) = as_http::same(&twin) {
                *written = filled;
            }
        }
    }

    fn check(&self, problems: &mut Problems) {
        let path = FieldPath::root().field("spec");
        check_targets(&self.spec.target_refs, &path.field("targetRefs"), problems);
        if let Some(constraint) = &self.spec.retry_constraint {
            check_constraint(constraint, &path.field("retryConstraint"), problems);
        }
        if let Some(twin) = self.spec.session_persistence.as_ref().and_then(as_http::same) {
            session::check(&twin, &path.field("sessionPersistence"), problems);
        }
    }
}

fn check_targets(targets: &[XBackendTrafficPolicyTargetRefs], path: &FieldPath, problems: &mut Problems) {
    if targets.is_empty() {
        problems.error(
            path,
            "must name at least one Service, as in {group: \"\", kind: Service, name: payments}",
        );
    }
    problems.check_count(path, targets.len(), MOST_TARGETS);
    for (index, target) in targets.iter().enumerate().take(MOST_TARGETS) {
        let path = path.index(index);
        if matches!((target.group.as_str(), target.kind.as_str()), ("" | "core", "Service")) {
            problems.check_label(&path.field("name"), &target.name);
        } else {
            problems.check_subdomain(&path.field("name"), &target.name);
            problems.warning(&path.field("kind"), "is not Service, so the policy has no effect on it");
        }
        if target.kind.contains('/') || !is_label_key(&target.kind) {
            problems.error(&path.field("kind"), format!("{:?} is not the name of a kind", target.kind));
        }
        if !target.group.is_empty() {
            problems.check_subdomain(&path.field("group"), &target.group);
        }
        if targets[..index].contains(target) {
            problems.error(&path.field("name"), format!("names {:?} a second time", target.name));
        }
    }
}

fn check_constraint(
    constraint: &XBackendTrafficPolicyRetryConstraint,
    path: &FieldPath,
    problems: &mut Problems,
) {
    if let Some(budget) = &constraint.budget {
        let path = path.field("budget");
        check_range(budget.percent, 0, 100, &path.field("percent"), problems);
        check_interval(budget.interval.as_deref(), LEAST_WINDOW, &path.field("interval"), problems);
    }
    if let Some(rate) = &constraint.min_retry_rate {
        let path = path.field("minRetryRate");
        check_range(rate.count, 1, MOST_COUNT, &path.field("count"), problems);
        check_interval(rate.interval.as_deref(), Period::from_millis(1), &path.field("interval"), problems);
    }
}

fn check_range(number: Option<i64>, least: i64, most: i64, path: &FieldPath, problems: &mut Problems) {
    if let Some(number) = number
        && !(least..=most).contains(&number)
    {
        problems.error(path, format!("{number} is out of range, {least} to {most}"));
    }
}

fn check_interval(text: Option<&str>, least: Period, path: &FieldPath, problems: &mut Problems) {
    if let Some(interval) = problems.check_period(path, text)
        && !(least..=MOST_INTERVAL).contains(&interval)
    {
        problems.error(path, format!("{interval} is out of range, {least} to {MOST_INTERVAL}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::resources::tests::{accepted, assert_problems, warnings};

    fn policy(spec: &str) -> String {
        format!(
            "apiVersion: gateway.networking.x-k8s.io/v1alpha1\nkind: XBackendTrafficPolicy\n\
             metadata: {{name: p, namespace: shop}}\nspec: {spec}"
        )
    }

    const TARGET: &str = "{group: '', kind: Service, name: pay}";

    #[test]
    fn defaults_are_those_of_the_crd() {
        let filled = json!({"budget": {"percent": 20, "interval": "10s"}, "minRetryRate": {"count": 10, "interval": "1s"}});
        for constraint in ["{}", "{budget: {}, minRetryRate: {}}", "{minRetryRate: {count: 10}}"] {
            let value =
                accepted(&policy(&format!("{{targetRefs: [{TARGET}], retryConstraint: {constraint}}}")));
            assert_eq!(value.to_value()["spec"]["retryConstraint"], filled, "{constraint}");
        }
        let without = accepted(&policy(&format!("{{targetRefs: [{TARGET}]}}"))).to_value();
        assert!(without["spec"]["retryConstraint"].is_null());
    }

    #[test]
    fn what_the_crd_refuses_is_refused_with_its_field() {
        let constraint = |text: &str| format!("{{targetRefs: [{TARGET}], retryConstraint: {text}}}");
        let at = "spec.retryConstraint";
        for (spec, expected) in [
            ("{targetRefs: []}".to_owned(), "spec.targetRefs: must name at least one".to_owned()),
            (format!("{{targetRefs: [{TARGET}, {TARGET}]}}"), "spec.targetRefs[1].name: ".to_owned()),
            (
                "{targetRefs: [{group: '', kind: Service, name: A}]}".to_owned(),
                "spec.targetRefs[0].name: ".to_owned(),
            ),
            (constraint("{budget: {percent: 101}}"), format!("{at}.budget.percent: 101 is out of range")),
            (
                constraint("{budget: {interval: 500ms}}"),
                format!("{at}.budget.interval: 500ms is out of range, 1s"),
            ),
            (constraint("{budget: {interval: 2h}}"), format!("{at}.budget.interval: 2h is out of range")),
            (constraint("{budget: {interval: soon}}"), format!("{at}.budget.interval: ")),
            (constraint("{minRetryRate: {count: 0}}"), format!("{at}.minRetryRate.count: 0 is out of range")),
            (
                constraint("{minRetryRate: {interval: 0s}}"),
                format!("{at}.minRetryRate.interval: 0s is out of range"),
            ),
        ] {
            assert_problems(&policy(&spec), &[&expected]);
        }
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let warnings = warnings(&policy("{targetRefs: [{group: example.com, kind: Bucket, name: b}]}"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }

    #[test]
    fn a_session_is_that_of_a_rule() {
        let session = |text: &str| policy(&format!("{{targetRefs: [{TARGET}], sessionPersistence: {text}}}"));
        let filled = accepted(&session("{sessionName: s, cookieConfig: {}}")).to_value();
        assert_eq!(
            filled["spec"]["sessionPersistence"],
            json!({"sessionName": "s", "type": "Cookie", "cookieConfig": {"lifetimeType": "Session"}})
        );
        let at = "spec.sessionPersistence";
        for (text, expected) in [
            ("{sessionName: 'a b'}", format!("{at}.sessionName: ")),
            ("{idleTimeout: 0s}", format!("{at}.idleTimeout: must be longer than 0s")),
            (
                "{cookieConfig: {lifetimeType: Permanent}}",
                format!("{at}.absoluteTimeout: is required for a Permanent cookie"),
            ),
            ("{type: Header, cookieConfig: {}}", format!("{at}.cookieConfig: means something")),
        ] {
            assert_problems(&session(text), &[&expected]);
        }
    }
}
