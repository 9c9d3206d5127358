//! `outrigger check`: is everything as it should be, and what to do where not.

use outrigger_certs::{Clock, SystemClock};
use outrigger_control_plane::status::{CertificateInfo, CertificateStatus, ProxyStatus, ServiceStatus};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::{Api, ApiArgs, ApiError};
use crate::failure::{self, Stop};
use crate::output::{self, BAD, Format, GOOD, OutputArgs, WARN, paint};

/// Arguments of `outrigger check`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger check
  outrigger check -o json | jq '.[] | select(.state != \"good\")'

Exit status 1 if a check failed; a warning is no failure.")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    api: ApiArgs,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    Warning,
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    state: State,
    /// What was looked at and how it is.
    what: String,
    /// What to do; empty where nothing is to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    advice: String,
}

impl Finding {
    fn good(what: impl Into<String>) -> Self {
        Self { state: State::Good, what: what.into(), advice: String::new() }
    }

    fn warning(what: impl Into<String>, advice: &str) -> Self {
        Self { state: State::Warning, what: what.into(), advice: advice.to_owned() }
    }

    fn failed(what: impl Into<String>, advice: &str) -> Self {
        Self { state: State::Failed, what: what.into(), advice: advice.to_owned() }
    }
}

/// Looks at everything.
///
/// # Errors
/// A check failed.
pub(crate) async fn run(args: CheckArgs) -> Result<(), Stop> {
    let findings = look(&args.api).await;
    let failed = findings.iter().any(|finding| finding.state == State::Failed);
    match args.output.output {
        Format::Table => output::print(&text(&findings))?,
        format => output::value(format, &serde_json::to_value(&findings)?)?,
    }
    if failed { Err(Stop::Said) } else { Ok(()) }
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.state {
            State::Good => paint(GOOD, "✓"),
            State::Warning => paint(WARN, "!"),
            State::Failed => paint(BAD, "✗"),
        };
        text.push_str(&format!("{mark} {}\n", finding.what));
        if !finding.advice.is_empty() {
            text.push_str(&format!("    {}\n", finding.advice));
        }
    }
    let failed = findings.iter().filter(|finding| finding.state == State::Failed).count();
    let summary = match failed {
        0 => paint(GOOD, "everything is as it should be"),
        1 => paint(BAD, "1 check failed"),
        _ => paint(BAD, format!("{failed} checks failed")),
    };
    text.push_str(&format!("\n{summary}\n"));
    text
}

async fn look(args: &ApiArgs) -> Vec<Finding> {
    let mut findings = Vec::new();
    // A check that cannot go on ends the list: what follows could only repeat it.
    if let Err(error) = look_at_all(args, &mut findings).await {
        findings.push(Finding::failed(failure::chain(&error), ""));
    }
    findings
}

async fn look_at_all(args: &ApiArgs, findings: &mut Vec<Finding>) -> Result<(), ApiError> {
    let api = Api::new(args)?;
    api.text(http::Method::GET, "/healthz", None).await?;
    findings.push(Finding::good(format!("the control plane answers at {}", api.url())));
    let proxies: Vec<ProxyStatus> = api.list("/v1/proxies").await?;
    findings.push(Finding::good("the API accepts the token"));
    let certificates: CertificateStatus = api.get("/v1/certificates").await?;
    look_at_authority(&certificates, SystemClock.now().into(), findings);
    look_at_proxies(&proxies, findings);
    let services: Vec<ServiceStatus> = api.list("/v1/services").await?;
    look_at_services(&services, findings);
    Ok(())
}

fn look_at_authority(status: &CertificateStatus, now: OffsetDateTime, findings: &mut Vec<Finding>) {
    for root in status.roots.iter().filter(|root| root.active) {
        findings.push(certificate("root", root, "outrigger identity --rotate root", now));
    }
    findings.push(certificate("issuer", &status.issuer, "outrigger identity --rotate issuer", now));
}

fn certificate(what: &str, certificate: &CertificateInfo, advice: &str, now: OffsetDateTime) -> Finding {
    let parse = |text: &str| OffsetDateTime::parse(text, &Rfc3339);
    let (Ok(from), Ok(until)) = (parse(&certificate.not_before), parse(&certificate.not_after)) else {
        return Finding::failed(format!("the {what} certificate's dates cannot be read"), "");
    };
    let said = format!("the {what} certificate is valid until {}", certificate.not_after);
    if now < from || now >= until {
        let said = format!("the {what} certificate is not valid now, but from {from} until {until}");
        Finding::failed(said, &format!("check this machine's clock, then run `{advice}`"))
    } else if until - now < (until - from) / 10 {
        Finding::warning(said, &format!("it is near its end; run `{advice}`"))
    } else {
        Finding::good(said)
    }
}

fn look_at_proxies(proxies: &[ProxyStatus], findings: &mut Vec<Finding>) {
    if proxies.is_empty() {
        let advice = "start one with `outrigger run` or `outrigger proxy`";
        findings.push(Finding::warning("no proxy has connected", advice));
    }
    let before = findings.len();
    for proxy in proxies {
        let who = proxy
            .service
            .as_ref()
            .map_or_else(|| proxy.identity.clone(), |s| format!("{s} ({})", proxy.identity));
        if !proxy.connected {
            let since = proxy.disconnected_since.as_deref().unwrap_or("some time");
            let advice = "if it was not stopped, see whether it runs and reaches the control plane";
            findings
                .push(Finding::warning(format!("the proxy of {who} has been away since {since}"), advice));
        } else if let Some((what, advice)) = problem_of(proxy) {
            findings.push(Finding::failed(format!("the proxy of {who} {what}"), advice));
        } else if proxy.version != env!("CARGO_PKG_VERSION") {
            let what = format!(
                "the proxy of {who} is version {}, this is {}",
                proxy.version,
                env!("CARGO_PKG_VERSION")
            );
            findings.push(Finding::warning(what, "replace the older one soon"));
        }
    }
    if findings.len() == before && !proxies.is_empty() {
        findings.push(Finding::good(format!("{} proxies are connected, healthy and current", proxies.len())));
    }
}

fn problem_of(proxy: &ProxyStatus) -> Option<(String, &'static str)> {
    if !proxy.connected {
        let since = proxy.disconnected_since.as_deref().unwrap_or("some time");
        return Some((
            format!("has been away since {since}"),
            "see whether it runs and reaches the control plane",
        ));
    }
    if let (Some(refusal), false) = (&proxy.last_refusal, proxy.up_to_date) {
        let what = format!("refused {}: {}", refusal.resource, refusal.reason);
        return Some((what, "mend the document that it names; the proxy keeps the one before"));
    }
    if proxy.healthy == Some(false) {
        let detail = if proxy.health_detail.is_empty() { "no detail" } else { &proxy.health_detail };
        return Some((format!("finds its application unhealthy: {detail}"), "see the application's log"));
    }
    None
}

fn look_at_services(services: &[ServiceStatus], findings: &mut Vec<Finding>) {
    let before = findings.len();
    for service in services {
        let name = format!("{}.{}", service.name, service.namespace);
        let ready = service.endpoints.iter().any(|endpoint| endpoint.healthy);
        // A service that routes lead away from needs no instances of its own.
        if !ready && service.routes.is_empty() && service.subscribers > 0 {
            let what =
                format!("{name} is called by {} proxies and has no ready instance", service.subscribers);
            findings
                .push(Finding::failed(what, "start one, or see `outrigger proxies` for why none is healthy"));
        }
        for route in &service.routes {
            for condition in &route.conditions {
                let bad = condition.status == (condition.kind == "PartiallyInvalid");
                if bad {
                    let what = format!(
                        "route {} on {name}: {} {}",
                        route.route, condition.reason, condition.message
                    );
                    findings.push(Finding::failed(what, "mend the route; its share of requests gets 500"));
                }
            }
        }
    }
    if findings.len() == before {
        findings.push(Finding::good(format!("{} services, every route resolved", services.len())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::proxies::tests::proxy;
    use serde_json::{Value, json};

    fn at(text: &str) -> OffsetDateTime {
        OffsetDateTime::parse(text, &Rfc3339).unwrap()
    }

    fn info(from: &str, until: &str) -> CertificateInfo {
        CertificateInfo { not_before: from.to_owned(), not_after: until.to_owned(), ..Default::default() }
    }

    #[test]
    fn a_certificate_near_its_end_is_warned_of_and_an_expired_one_fails() {
        let year = info("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        let state = |now| certificate("issuer", &year, "x", at(now)).state;
        assert_eq!(state("2026-06-01T00:00:00Z"), State::Good);
        assert_eq!(state("2026-12-20T00:00:00Z"), State::Warning);
        assert_eq!(state("2027-01-01T00:00:00Z"), State::Failed);
        assert_eq!(state("2025-12-31T00:00:00Z"), State::Failed);
    }

    #[test]
    fn every_trouble_of_a_proxy_is_named() {
        let mut findings = Vec::new();
        let mut lost = proxy("a");
        lost.connected = false;
        let mut sick = proxy("b");
        sick.healthy = Some(false);
        sick.health_detail = "connection refused".to_owned();
        look_at_proxies(&[lost, sick, proxy("c")], &mut findings);
        let states: Vec<State> = findings.iter().map(|finding| finding.state).collect();
        assert_eq!(states, [State::Warning, State::Failed]);
        assert!(findings.iter().all(|finding| !finding.advice.is_empty()));
        assert!(findings[1].what.contains("connection refused"));
    }

    #[test]
    fn a_route_that_does_not_hold_fails_and_a_routed_service_needs_no_instances() {
        let service = |conditions: Value| -> ServiceStatus {
            serde_json::from_value(json!({
                "namespace": "shop", "name": "payments", "declared": true, "ports": [], "endpoints": [], "subscribers": 1,
                "routes": [{"route": "shop/pay", "scope": "producer", "conditions": conditions}],
            }))
            .unwrap()
        };
        let mut findings = Vec::new();
        let good = json!([{"type": "Accepted", "status": true, "reason": "Accepted"}]);
        look_at_services(&[service(good)], &mut findings);
        assert_eq!(findings[0].state, State::Good);
        let bad =
            json!([{"type": "ResolvedRefs", "status": false, "reason": "BackendNotFound", "message": "x"}]);
        look_at_services(&[service(bad)], &mut findings);
        assert!(findings[1].what.contains("BackendNotFound"));
    }
}
