//! `outrigger proxies`: who the proxies are, and which policy they run.

use outrigger_control_plane::status::{EjectedEndpoint, ProxyStatus};

use crate::client::{Api, ApiArgs};
use crate::failure::Stop;
use crate::output::{self, BAD, Format, GOOD, OutputArgs, WARN};
use crate::table::{Cell, Table};

/// Arguments of `outrigger proxies`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger proxies
  outrigger proxies -o json | jq '.[] | select(.upToDate | not)'

POLICY is current when the proxy has acknowledged everything there is for it, and refused when it could not
apply the last update: it then keeps the one before, and the reason is shown. Below the table stand the endpoints
that a proxy leaves alone because they fail (circuit breaker).")]
pub(crate) struct ProxiesArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    api: ApiArgs,
}

/// Lists the proxies.
///
/// # Errors
/// The API refuses or is away.
pub(crate) async fn run(args: ProxiesArgs) -> Result<(), Stop> {
    let proxies: Vec<ProxyStatus> = Api::new(&args.api)?.list("/v1/proxies").await?;
    match args.output.output {
        Format::Table if proxies.is_empty() => {
            output::line("no proxy has connected; start one with `outrigger run` or `outrigger proxy`")
        }
        Format::Table => output::print(&table(&proxies)),
        format => output::value(format, &serde_json::to_value(proxies)?),
    }
}

fn table(proxies: &[ProxyStatus]) -> String {
    let mut table = Table::new(&[
        "IDENTITY",
        "SERVICE",
        "ADDRESS",
        "STREAM",
        "APPLICATION",
        "POLICY",
        "USES",
        "ADMIN",
        "VERSION",
    ]);
    for proxy in proxies {
        let uses: Vec<&str> = proxy.services.keys().map(String::as_str).collect();
        table.row(vec![
            proxy.identity.clone().into(),
            proxy.service.clone().unwrap_or_default().into(),
            proxy.address.clone().unwrap_or_default().into(),
            if proxy.connected { Cell::styled(GOOD, "open") } else { Cell::styled(BAD, "lost") },
            application(proxy),
            policy(proxy),
            uses.join(",").into(),
            proxy.admin.clone().into(),
            proxy.version.clone().into(),
        ]);
    }
    let mut text = table.render();
    for proxy in proxies {
        if let Some(refusal) = &proxy.last_refusal {
            let (who, when) = (&proxy.identity, &refusal.when);
            text.push_str(&format!("\n{who} refused {} at {when}: {}\n", refusal.resource, refusal.reason));
        }
        for EjectedEndpoint { service, endpoint, address, reason } in &proxy.ejected {
            let who = &proxy.identity;
            text.push_str(&format!("\n{who} leaves {endpoint} of {service} at {address} alone: {reason}\n"));
        }
    }
    text
}

fn application(proxy: &ProxyStatus) -> Cell {
    match proxy.healthy {
        Some(true) => Cell::styled(GOOD, "healthy"),
        Some(false) if proxy.health_detail.is_empty() => Cell::styled(BAD, "unhealthy"),
        Some(false) => Cell::styled(BAD, format!("unhealthy: {}", proxy.health_detail)),
        None => Cell::from(""),
    }
}

fn policy(proxy: &ProxyStatus) -> Cell {
    if !proxy.connected {
        return Cell::from("");
    }
    match (&proxy.last_refusal, proxy.up_to_date) {
        (_, true) => Cell::styled(GOOD, "current"),
        (Some(_), false) => Cell::styled(BAD, "refused"),
        (None, false) => Cell::styled(WARN, "behind"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn proxy(identity: &str) -> ProxyStatus {
        serde_json::from_value(serde_json::json!({
            "instance": "i", "identity": identity, "version": "0.1.0", "connected": true,
            "connectedSince": "2026-01-01T00:00:00Z", "upToDate": true, "services": {},
            "service": "web.shop", "address": "127.0.0.1:1", "healthy": true,
        }))
        .unwrap()
    }

    #[test]
    fn a_refusal_is_shown_with_its_reason() {
        let mut bad = proxy("spiffe://t/ns/shop/sa/web");
        bad.up_to_date = false;
        bad.last_refusal = serde_json::from_value(serde_json::json!({
            "when": "now", "resource": "service payments.shop", "reason": "no such filter"
        }))
        .unwrap();
        let shown =
            anstream::adapter::strip_str(&table(&[proxy("spiffe://t/ns/shop/sa/a"), bad])).to_string();
        assert!(shown.contains("current") && shown.contains("refused"), "{shown}");
        assert!(shown.ends_with("refused service payments.shop at now: no such filter\n"), "{shown}");
    }

    #[test]
    fn an_endpoint_that_is_left_alone_is_shown_with_why() {
        let mut careful = proxy("spiffe://t/ns/shop/sa/web");
        careful.ejected = serde_json::from_value(serde_json::json!([{
            "service": "payments.shop", "endpoint": "p-1", "address": "10.0.0.1:4743", "reason": "failures in a row"
        }]))
        .unwrap();
        let shown = anstream::adapter::strip_str(&table(&[careful])).to_string();
        let line = "sa/web leaves p-1 of payments.shop at 10.0.0.1:4743 alone: failures in a row\n";
        assert!(shown.ends_with(line), "{shown}");
    }
}
