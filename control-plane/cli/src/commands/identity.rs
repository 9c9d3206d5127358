//! `outrigger identity`: the certificate authority, and the identities in use.

use clap::ValueEnum;
use http::Method;
use outrigger_control_plane::resources::Period;
use outrigger_control_plane::status::{CertificateInfo, CertificateStatus, ProxyStatus};
use serde_json::json;

use crate::client::{Api, ApiArgs};
use crate::failure::Stop;
use crate::output::{self, BOLD, Format, GOOD, OutputArgs, paint};
use crate::table::{Cell, Table};

/// Arguments of `outrigger identity`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger identity                              roots, issuer, and who has a certificate
  outrigger identity --rotate issuer              a new issuer; workloads move to it as they renew
  outrigger identity --rotate root                a new root: published first, signing later, without an outage
  outrigger identity -o json | jq .authority.roots")]
pub(crate) struct IdentityArgs {
    /// Start to replace a part of the authority.
    #[arg(long, env = "OUTRIGGER_ROTATE", value_enum, value_name = "PART")]
    rotate: Option<Part>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    api: ApiArgs,
}

/// A part of the authority that can be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The certificate that signs workload certificates.
    Issuer,
    /// The root of all trust.
    Root,
}

/// Shows the authority and the identities.
///
/// # Errors
/// The API refuses or is away.
pub(crate) async fn run(args: IdentityArgs) -> Result<(), Stop> {
    let api = Api::new(&args.api)?;
    if let Some(part) = args.rotate {
        let what = match part {
            Part::Issuer => "issuer",
            Part::Root => "root",
        };
        let _: serde_json::Value =
            api.call(Method::POST, &format!("/v1/certificates/rotate?what={what}"), None).await?;
    }
    let authority: CertificateStatus = api.get("/v1/certificates").await?;
    let proxies: Vec<ProxyStatus> = api.list("/v1/proxies").await?;
    match args.output.output {
        Format::Table => output::print(&text(&authority, &proxies)),
        format => {
            let identities = in_use(&proxies);
            let workloads: Vec<_> =
                identities.iter().map(|(id, count)| json!({"identity": id, "proxies": count})).collect();
            output::value(format, &json!({"authority": authority, "workloads": workloads}))
        }
    }
}

fn text(authority: &CertificateStatus, proxies: &[ProxyStatus]) -> String {
    let mut table = Table::new(&["", "SUBJECT", "SIGNS", "FROM", "UNTIL", "SHA-256"]);
    for root in &authority.roots {
        table.row(row("root", root));
    }
    table.row(row("issuer", &authority.issuer));
    table.row(row("control plane", &authority.server));
    let ttl = Period::from_millis(authority.svid_ttl_seconds.saturating_mul(1000));
    let mut text = format!(
        "{} {}; workload certificates last {ttl} and are renewed at half of it\n\n{}",
        paint(BOLD, "Trust domain"),
        authority.trust_domain,
        table.render()
    );
    let identities = in_use(proxies);
    if !identities.is_empty() {
        let mut table = Table::new(&["IDENTITY", ">PROXIES"]);
        for (identity, count) in identities {
            table.row(vec![identity.into(), count.to_string().into()]);
        }
        text.push_str(&format!("\n{}", table.render()));
    }
    text
}

fn row(what: &str, certificate: &CertificateInfo) -> Vec<Cell> {
    vec![
        what.into(),
        certificate.subject.clone().into(),
        if certificate.active { Cell::styled(GOOD, "yes") } else { Cell::from("no") },
        certificate.not_before.clone().into(),
        certificate.not_after.clone().into(),
        certificate.fingerprint.chars().take(16).collect::<String>().into(),
    ]
}

/// Each identity that a connected proxy has, and how many have it.
fn in_use(proxies: &[ProxyStatus]) -> Vec<(String, usize)> {
    let mut identities: Vec<(String, usize)> = Vec::new();
    for proxy in proxies.iter().filter(|proxy| proxy.connected) {
        match identities.iter_mut().find(|(identity, _)| *identity == proxy.identity) {
            Some((_, count)) => *count += 1,
            None => identities.push((proxy.identity.clone(), 1)),
        }
    }
    identities.sort();
    identities
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::proxies::tests::proxy;

    #[test]
    fn identities_are_counted_over_connected_proxies() {
        let mut lost = proxy("b");
        lost.connected = false;
        let found = in_use(&[proxy("b"), proxy("a"), proxy("b"), lost]);
        assert_eq!(found, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    }
}
