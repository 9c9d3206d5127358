//! What policy may cost, and whether it does: compiling a mesh, finding one rule of many, keeping services in mind.
//!
//! Promised: a thousand services with five routes each compile in 500 ms; a request pays at most 2 us more for the last
//! of a thousand rules than for the only one; a service that a proxy knows takes at most 4 KiB. The first and the last
//! are measured together: what is compiled is what a proxy then keeps.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context as _, Result};
use outrigger_api::v1;
use outrigger_control_plane::compile_all;
use outrigger_control_plane::resources::{Documents, Format, parse};
use outrigger_proxy::policy;
use outrigger_proxy::snapshot::{Endpoint, Endpoints, Service};
use tokio::time::Instant;

use crate::matching::{last_by_header_of, last_of};
use crate::step::Work;

/// The only argument that asks for this.
pub(crate) const ARGUMENT: &str = "--promises";

const SERVICES: usize = 1_000;
const ROUTES_EACH: usize = 5;
const COMPILE_MS: f64 = 500.0;
const MATCH_US: f64 = 2.0;
const SERVICE_KIB: f64 = 4.0;

/// So often each is measured; the least counts, which is what the work itself takes.
const TIMES: usize = 5;
const LOOKUPS: u32 = 100_000;
/// So that a page more or less does not matter.
const COPIES: usize = 10;

/// Prints each figure beside what is promised, and says whether all are kept.
///
/// # Errors
/// Something could not be measured.
pub(crate) fn measure() -> Result<bool> {
    let documents = documents()?;
    let mut compiled = Vec::new();
    let mut fastest = Duration::MAX;
    for _ in 0..TIMES {
        let documents = documents.clone();
        let began = Instant::now();
        compiled = compile_all(Arc::new(documents));
        fastest = fastest.min(began.elapsed());
    }
    let kept = [
        judge("compile 1,000 services with 5 routes each", fastest.as_secs_f64() * 1e3, COMPILE_MS, "ms"),
        judge("the last of 1,000 rules, over the only one", last_over_only(last_of) * 1e6, MATCH_US, "us"),
        judge("the same, told apart by a header", last_over_only(last_by_header_of) * 1e6, MATCH_US, "us"),
        judge("memory of a service with 5 routes", kib_a_service(&compiled)?, SERVICE_KIB, "KiB"),
    ];
    Ok(kept.iter().all(|kept| *kept))
}

fn judge(what: &str, value: f64, promised: f64, unit: &str) -> bool {
    let kept = value <= promised;
    let word = if kept { "kept" } else { "MISSED" };
    println!("{what:<45} {value:>9.2} {unit}, at most {promised} {unit}: {word}");
    kept
}

fn documents() -> Result<Documents> {
    let mut text = String::new();
    for service in 0..SERVICES {
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{service}, namespace: shop}}\n\
             spec: {{ports: [{{port: 80, name: http}}]}}\n"
        )?;
        for route in 0..ROUTES_EACH {
            write!(
                text,
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
                 metadata: {{name: s{service}-r{route}, namespace: shop}}\nspec:\n  \
                 parentRefs: [{{group: '', kind: Service, name: s{service}}}]\n  \
                 rules: [{{matches: [{{path: {{value: /api/v1/resource-{route}}}}}], \
                 timeouts: {{request: 2s}}, backendRefs: [{{name: s{service}, port: 80}}]}}]\n"
            )?;
        }
    }
    let parsed = parse(&text, Format::Yaml).context("the documents are valid")?;
    let mut documents = Documents::default();
    parsed.documents.into_iter().for_each(|document| documents.insert(document.resource));
    Ok(documents)
}

/// Seconds that a lookup takes longer in a table of a thousand rules than in a table of one.
fn last_over_only(of: fn(usize) -> Work) -> f64 {
    let [only, last] = [1, 1_000].map(|rules| {
        let mut work = of(rules);
        let once = || {
            let began = Instant::now();
            (0..LOOKUPS).for_each(|_| work());
            began.elapsed().as_secs_f64() / f64::from(LOOKUPS)
        };
        std::iter::repeat_with(once).take(TIMES).fold(f64::MAX, f64::min)
    });
    last - only
}

/// What a proxy keeps of the services, as its process grows by it.
fn kib_a_service(compiled: &[v1::Service]) -> Result<f64> {
    let before = resident_kib()?;
    let mut known = Vec::with_capacity(COPIES * compiled.len());
    for message in std::iter::repeat_n(compiled, COPIES).flatten() {
        known.push(service(message)?);
    }
    let grown = resident_kib()?.saturating_sub(before);
    let services = black_box(known).len();
    Ok(grown as f64 / services as f64)
}

fn service(message: &v1::Service) -> Result<Arc<Service>> {
    let parts = policy::service(message)?;
    let endpoint = |number: u8| {
        Ok(Arc::new(Endpoint {
            id: Arc::from(format!("instance-{number}")),
            address: ([10, 0, 0, number], 4743).into(),
            identity: "spiffe://outrigger.local/ns/shop/sa/pay".parse()?,
            zone: Arc::from("zone-a"),
            healthy: true,
            ports: vec![80],
        }))
    };
    let all = [1, 2].into_iter().map(endpoint).collect::<Result<_>>()?;
    Ok(Arc::new(Service {
        name: parts.name,
        version: parts.version,
        ports: parts.ports,
        policy: parts.policy,
        endpoints: Arc::new(Endpoints { version: 1, all }),
        external: None,
        gateway: None,
        last_used: Arc::new(AtomicU64::new(0)),
    }))
}

fn resident_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("the size of this process")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
