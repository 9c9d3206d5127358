//! Choosing an endpoint, and learning from how it did.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use http::StatusCode;
use outrigger_api::ServiceName;
use outrigger_certs::{SpiffeId, TrustDomain};
use outrigger_proxy::cluster::{Aim, Cluster};
use outrigger_proxy::retry::Outcome;
use outrigger_proxy::snapshot::{Endpoint, Endpoints, Expected, Service};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::step::Work;

/// One request every so often.
const PACE: Duration = Duration::from_micros(50);
/// As long as each takes.
const LATENCY: Duration = Duration::from_millis(1);

/// One of so many endpoints, nearly all of them measured before, and in order.
pub(crate) fn pick_among(endpoints: u16) -> Result<Work> {
    let mut now = Instant::now();
    let mut cluster = Cluster::new(&service(endpoints)?, now);
    let mut rng = StdRng::seed_from_u64(7);
    let answer = Outcome::Status { code: StatusCode::OK, grpc: None, retry_after: None };
    let mut one = move || {
        now += PACE;
        let pick = cluster.pick(&Aim::new(80, ""), now, &mut rng).expect("every endpoint is healthy");
        black_box(&pick.endpoint.address);
        black_box(cluster.finish(pick, &answer, LATENCY, now));
    };
    (0..u32::from(endpoints) * 2).for_each(|_| one());
    Ok(Box::new(one))
}

fn service(endpoints: u16) -> Result<Service> {
    let identity = SpiffeId::new(&TrustDomain::new("outrigger.local")?, "shop", "payments")?;
    let endpoint = |index: u16| {
        Arc::new(Endpoint {
            id: Arc::from(format!("payments-{index:05}")),
            address: SocketAddr::from(([10, 0, 0, 1], 10_000 + index)),
            identity: Expected::Workload(identity.clone()),
            zone: Arc::from(""),
            healthy: true,
            ports: vec![80],
        })
    };
    Ok(Service {
        name: ServiceName::new("shop", "payments")?,
        version: 1,
        ports: Vec::new(),
        policy: Arc::default(),
        endpoints: Arc::new(Endpoints { version: 1, all: (0..endpoints).map(endpoint).collect() }),
        external: None,
        gateway: None,
        last_used: Arc::default(),
    })
}
