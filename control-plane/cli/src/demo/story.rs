//! What the demo shows, phase by phase, under constant traffic.
//!
//! Each phase is one function: it says what happens, makes it happen, lets the traffic run, and notes a promise
//! with what was seen. Whatever the client lost in between counts against the last promise: none at all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use outrigger_control_plane::status::{CertificateStatus, EdgeDirection, EdgeStats};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::announcer::Announcer;
use super::load::Account;
use super::mesh::{DemoMesh, ROLES};
use super::promise::{Promise, count, latency, percent, tolerance};
use super::receiver::Traces;
use super::trace::{Trace, TraceId};
use super::{DemoError, documents, stranger};
use crate::client::Api;
use crate::failure::Stop;

/// The way of a request, in the order in which it goes.
const HOPS: [&str; 4] = ["gateway", "web", "orders", "payments"];
/// The share of the canary.
const CANARY: f64 = 0.1;
/// How many requests of 100 the faulty version fails.
const FAULTY_PERCENT: u32 = 30;
/// How long the slow instance takes: far longer than a busy machine lets a healthy one take now and then, so that the
/// balancer's choice is no matter of luck, and within the time that the route gives a try.
const SLOW: Duration = Duration::from_secs(1);
/// What a slow instance may keep of its fair half of version 1's requests.
const SLOW_SHARE: f64 = 0.2;
/// How many phases there are.
pub(crate) const PHASES: usize = 8;

/// How the demo's time is spent: a share for each phase, together 1.
mod share {
    pub(super) const IDENTITY: f64 = 0.09;
    pub(super) const CANARY: f64 = 0.15;
    pub(super) const FAULT: f64 = 0.15;
    pub(super) const KILL: f64 = 0.14;
    pub(super) const SLOW: f64 = 0.15;
    pub(super) const CONTROL_PLANE: f64 = 0.14;
    pub(super) const ROTATION: f64 = 0.14;
    pub(super) const STRANGER: f64 = 0.04;
}

/// One phase and what the client counted in it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Phase {
    pub(crate) name: &'static str,
    #[serde(flatten)]
    pub(crate) account: Account,
}

/// Everything that was seen.
pub(crate) struct Ending {
    pub(crate) phases: Vec<Phase>,
    pub(crate) promises: Vec<Promise>,
    pub(crate) edges: Vec<EdgeStats>,
    pub(crate) trace: Option<(TraceId, Trace)>,
    pub(crate) spans: u64,
}

/// The story while it is told.
pub(crate) struct Story<'a> {
    pub(crate) mesh: &'a mut DemoMesh,
    pub(crate) voice: Announcer,
    pub(crate) traces: Traces,
    pub(crate) duration: Duration,
    pub(crate) svid_ttl: Duration,
    pub(crate) directory: PathBuf,
    phases: Vec<Phase>,
    promises: Vec<Promise>,
    /// The way of one request, as the applications saw it.
    requests: u64,
    lost: u64,
}

impl<'a> Story<'a> {
    /// A story about the mesh that takes so long.
    pub(crate) fn new(
        mesh: &'a mut DemoMesh,
        voice: Announcer,
        traces: Traces,
        duration: Duration,
        svid_ttl: Duration,
        directory: PathBuf,
    ) -> Self {
        let (phases, promises) = (Vec::new(), Vec::new());
        Self { mesh, voice, traces, duration, svid_ttl, directory, phases, promises, requests: 0, lost: 0 }
    }

    /// Tells it from beginning to end.
    ///
    /// # Errors
    /// Something stands in the way of the demo itself; a broken promise is in the ending.
    pub(crate) async fn tell(mut self) -> Result<Ending, Stop> {
        self.identities().await?;
        self.canary().await?;
        self.hidden_failures().await?;
        self.killed_instance().await?;
        self.slow_instance().await?;
        self.control_plane_away().await?;
        self.rotation().await?;
        self.refused_stranger().await?;
        self.end().await
    }

    async fn identities(&mut self) -> Result<(), Stop> {
        self.voice.phase("Mutual TLS and identities")?;
        let callers = self.callers().await?;
        for (pair, caller) in HOPS.windows(2).zip(&callers) {
            self.voice.detail(&format!("{:<8} was called by {caller}", pair[1]))?;
        }
        let expected: Vec<String> =
            HOPS[..3].iter().map(|name| format!("spiffe://outrigger.local/ns/shop/sa/{name}")).collect();
        let kept = callers == expected;
        let seen =
            if kept { "each application was told the verified identity of its caller" } else { "see above" };
        self.promises.push(Promise::new("every hop is mutual TLS between named identities", seen, kept));
        self.run("identities", share::IDENTITY).await?;
        Ok(())
    }

    /// Who called each application on the way, as the sidecars told them.
    async fn callers(&self) -> Result<Vec<String>, DemoError> {
        let entrance = self.mesh.entrance()?;
        let answer: Value = Api::of(entrance, "web.shop").get("/").await?;
        let hops = std::iter::successors(Some(&answer), |hop| hop.get("next"));
        Ok(hops.map(|hop| hop["caller"].as_str().unwrap_or("nobody that was verified").to_owned()).collect())
    }

    async fn canary(&mut self) -> Result<(), Stop> {
        self.voice.phase("A 90/10 canary by HTTPRoute")?;
        let took = self.mesh.apply(documents::CANARY).await?;
        let took = took.as_secs_f64() * 1e3;
        self.voice
            .detail(&format!("payments-canary.yaml applied; every proxy runs it {took:.0} ms later"))?;
        self.mark("canary applied").await?;
        let account = self.run("canary", share::CANARY).await?;
        let (v1, v2) = (account.answered_by("payments-v1"), account.answered_by("payments-v2"));
        let seen = v2 as f64 / (v1 + v2).max(1) as f64;
        let allowed = tolerance(CANARY, v1 + v2);
        let promised = format!("version 2 gets 10 % (± {:.1} points by chance)", allowed * 100.0);
        let text = format!("{} of {} requests", percent(seen), count(v1 + v2));
        self.promises.push(Promise::new(promised, text, (seen - CANARY).abs() <= allowed));
        Ok(())
    }

    async fn hidden_failures(&mut self) -> Result<(), Stop> {
        self.voice.phase("Version 2 fails 30 % of its requests, hidden by retries")?;
        let before = self.retries().await?;
        self.command_v2(&format!("fail {FAULTY_PERCENT}")).await?;
        let account = self.run("failures", share::FAULT).await?;
        self.command_v2("fail 0").await?;
        let retries = self.retries().await? - before;
        let seen = format!("{} failures retried, {} lost by the caller", count(retries), account.lost);
        let kept = account.lost == 0 && retries > 0;
        self.promises.push(Promise::new("failing answers are retried and the caller sees none", seen, kept));
        Ok(())
    }

    async fn command_v2(&mut self, command: &str) -> Result<(), DemoError> {
        for instance in ["payments-v2-1", "payments-v2-2"] {
            self.mesh.tell(instance, command).await?;
        }
        Ok(())
    }

    /// How often the sidecar of orders has tried again.
    async fn retries(&self) -> Result<u64, DemoError> {
        let orders =
            self.mesh.instances.get("orders-1").ok_or_else(|| DemoError::Gone("orders-1".to_owned()))?;
        let metrics = metrics(&orders.sidecar).await?;
        Ok(sum(&metrics, "outrigger_retries_total") as u64)
    }

    async fn killed_instance(&mut self) -> Result<(), Stop> {
        const VICTIM: &str = "payments-v1-1";
        self.voice.phase("An instance is killed with SIGKILL")?;
        self.mesh.kill_instance(VICTIM).await;
        self.voice.detail(&format!("{VICTIM}: application and sidecar killed, mid-request"))?;
        let account = self.run("killed instance", share::KILL).await?;
        let survivor = account.answered_by("payments-v1-2");
        self.mesh.start_instance(VICTIM).await?;
        self.voice.detail(&format!("{VICTIM} started anew"))?;
        let seen = format!("{} lost; payments-v1-2 answered {}", account.lost, count(survivor));
        let kept = account.lost == 0 && survivor > 0;
        self.promises.push(Promise::new("an instance that dies costs the caller nothing", seen, kept));
        Ok(())
    }

    async fn slow_instance(&mut self) -> Result<(), Stop> {
        const SLUGGARD: &str = "payments-v1-2";
        self.voice.phase("A slow instance that the balancer avoids")?;
        // The one that was started anew must be known to the caller's balancer before the other turns slow.
        self.wait_for_answers_of("payments-v1-1").await?;
        self.mesh.tell(SLUGGARD, &format!("delay {}", SLOW.as_millis())).await?;
        self.voice.detail(&format!("{SLUGGARD} takes {} ms longer from now on", SLOW.as_millis()))?;
        // Nobody can know before the first slow answer is there; what was sent until then is answered after as long.
        sleep(SLOW * 2).await;
        self.mark("slow instance found out").await?;
        let account = self.run("slow instance", share::SLOW).await?;
        self.mesh.tell(SLUGGARD, "delay 0").await?;
        let (slow, all) = (account.answered_by(SLUGGARD), account.answered_by("payments-v1"));
        let part = slow as f64 / all.max(1) as f64;
        let seen = format!("{} of version 1's requests, p50 {}", percent(part), latency(account.p50_micros));
        let kept = account.lost == 0 && part <= SLOW_SHARE;
        let promised = format!("the slow one of two gets at most {}", percent(SLOW_SHARE));
        self.promises.push(Promise::new(promised, seen, kept));
        Ok(())
    }

    async fn wait_for_answers_of(&mut self, instance: &str) -> Result<(), Stop> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if self.mark("instance back").await?.answered_by(instance) > 0 {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await; // polls a condition that has a deadline
        }
        Ok(()) // the phase itself shows what is wrong then
    }

    async fn control_plane_away(&mut self) -> Result<(), Stop> {
        self.voice.phase("The control plane is killed and started again")?;
        self.mesh.kill_control_plane().await;
        // Certificates are renewed at half their life: what is left of it must outlast the absence.
        let away = self.share(share::CONTROL_PLANE).mul_f64(0.5).min(self.svid_ttl.mul_f64(0.25));
        self.voice.detail(&format!("killed; away for {:.1} s", away.as_secs_f64()))?;
        let account = self.run_for("control plane away", away).await?;
        let since = Instant::now();
        self.mesh.start_control_plane().await?;
        let expected = ROLES.len() + 1;
        self.mesh
            .wait_for("every proxy to be back", |proxies| {
                proxies.iter().filter(|proxy| proxy.connected && proxy.up_to_date).count() >= expected
            })
            .await?;
        let back = since.elapsed().as_secs_f64();
        self.voice.detail(&format!("started again; every proxy was back {back:.1} s later"))?;
        let rest = self.share(share::CONTROL_PLANE).saturating_sub(away + since.elapsed());
        let after = self.run_for("control plane back", rest).await?;
        let lost = account.lost + after.lost;
        let seen = format!("{lost} of {} requests lost", count(account.requests + after.requests));
        self.promises.push(Promise::new(
            "callers do not notice that the control plane is away",
            seen,
            lost == 0,
        ));
        Ok(())
    }

    async fn rotation(&mut self) -> Result<(), Stop> {
        self.voice.phase("Certificates are rotated under load")?;
        let before = self.expiries().await?;
        let api = self.mesh.api();
        let old: CertificateStatus = api.get("/v1/certificates").await.map_err(DemoError::from)?;
        let path = "/v1/certificates/rotate?what=issuer";
        let _: Value = api.call(Method::POST, path, None).await.map_err(DemoError::from)?;
        let new: CertificateStatus = api.get("/v1/certificates").await.map_err(DemoError::from)?;
        let ttl = self.svid_ttl.as_secs_f64();
        self.voice.detail(&format!("the issuer is replaced; workload certificates last {ttl:.0} s"))?;
        let account = self.run("rotation", share::ROTATION).await?;
        let renewed = self.wait_for_renewal(&before).await?;
        let late = self.mark("rotation, last proxies").await?;
        let issuer = old.issuer.fingerprint != new.issuer.fingerprint;
        let lost = account.lost + late.lost;
        let seen = format!("{renewed} of {} sidecars have new keys, {lost} requests lost", before.len());
        let kept = renewed == before.len() && issuer && lost == 0;
        self.promises.push(Promise::new("keys and issuer are replaced without a lost request", seen, kept));
        Ok(())
    }

    /// When the certificate of each sidecar ends, by the sidecar.
    async fn expiries(&self) -> Result<BTreeMap<String, u64>, DemoError> {
        let sidecars = self.mesh.instances.iter().map(|(name, instance)| (*name, &instance.sidecar));
        let mut expiries = BTreeMap::new();
        for (name, sidecar) in sidecars.chain([("gateway", &self.mesh.gateway)]) {
            let metrics = metrics(sidecar).await?;
            let at = sum(&metrics, "outrigger_certificate_expiry_timestamp_seconds");
            expiries.insert(name.to_owned(), (at * 1e3) as u64);
        }
        Ok(expiries)
    }

    async fn wait_for_renewal(&self, before: &BTreeMap<String, u64>) -> Result<usize, DemoError> {
        let deadline = Instant::now() + self.svid_ttl;
        loop {
            let now = self.expiries().await?;
            let renewed =
                before.iter().filter(|(name, old)| now.get(*name).is_some_and(|new| new > old)).count();
            if renewed == before.len() || Instant::now() >= deadline {
                return Ok(renewed);
            }
            sleep(Duration::from_millis(50)).await; // polls a condition that has a deadline
        }
    }

    async fn refused_stranger(&mut self) -> Result<(), Stop> {
        self.voice.phase("A stranger without a certificate of the mesh is refused")?;
        let sidecar: SocketAddr = self.mesh.inbound("web-1")?;
        let attempts = stranger::try_everything(sidecar, &self.directory).await?;
        for attempt in &attempts {
            self.voice.detail(&format!("with {}: {}", attempt.with, attempt.seen))?;
        }
        let refused = attempts.iter().filter(|attempt| attempt.refused).count();
        let seen = format!("{refused} of {} attempts refused", attempts.len());
        let kept = refused == attempts.len();
        self.promises.push(Promise::new("nobody without a certificate of the mesh is served", seen, kept));
        self.run("stranger", share::STRANGER).await?;
        Ok(())
    }

    async fn end(mut self) -> Result<Ending, Stop> {
        let last = self.mesh.account("stop").await?;
        self.count("last answers", last);
        let edges = self.edges().await?;
        let trace = self.whole_trace().await;
        let seen = match &trace {
            Some((_, trace)) => format!("{} spans, every parent there", trace.spans.len()),
            None => format!("no whole one among {} spans", count(self.traces.spans())),
        };
        let kept = trace.is_some();
        self.promises.push(Promise::new(
            "the spans of a request through all services are one trace",
            seen,
            kept,
        ));
        let seen = format!("{} of {} lost", count(self.lost), count(self.requests));
        let kept = self.lost == 0 && self.requests > 0;
        self.promises.push(Promise::new("no request is lost by the caller in any phase", seen, kept));
        let spans = self.traces.spans();
        Ok(Ending { phases: self.phases, promises: self.promises, edges, trace, spans })
    }

    /// The edges as their callers' sidecars counted them, once the last requests are in.
    async fn edges(&self) -> Result<Vec<EdgeStats>, DemoError> {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let mut edges: Vec<EdgeStats> = self.mesh.api().list("/v1/stats").await?;
            edges.retain(|edge| edge.direction == EdgeDirection::Outbound);
            let reported = |service: &&str| {
                let to_it = edges.iter().filter(|edge| edge.destination.starts_with(*service));
                to_it.map(|edge| edge.requests).sum::<u64>() >= self.requests
            };
            if HOPS[1..].iter().all(reported) || Instant::now() >= deadline {
                edges.sort_by_key(|edge| HOPS.iter().position(|hop| edge.destination.starts_with(hop)));
                return Ok(edges);
            }
            sleep(Duration::from_millis(100)).await; // polls a condition that has a deadline
        }
    }

    /// The trace to show. Spans are exported in batches, so the last ones are waited for.
    async fn whole_trace(&self) -> Option<(TraceId, Trace)> {
        let deadline = Instant::now() + Duration::from_secs(6);
        loop {
            let best = self.traces.best(&HOPS);
            if best.is_some() || Instant::now() >= deadline {
                return best;
            }
            sleep(Duration::from_millis(100)).await; // polls a condition that has a deadline
        }
    }

    fn share(&self, share: f64) -> Duration {
        self.duration.mul_f64(share)
    }

    async fn run(&mut self, name: &'static str, share: f64) -> Result<Account, Stop> {
        self.run_for(name, self.share(share)).await
    }

    /// Lets the traffic run, and tells what came of it.
    async fn run_for(&mut self, name: &'static str, time: Duration) -> Result<Account, Stop> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            sleep(Duration::from_millis(500).min(end - Instant::now())).await;
            let so_far = self.mesh.account("peek").await?;
            self.voice.progress(&format!("{} requests, {} lost", count(so_far.requests), so_far.lost));
        }
        let account = self.mark(name).await?;
        let (p50, p99) = (latency(account.p50_micros), latency(account.p99_micros));
        let text =
            format!("{} requests, {} lost; p50 {p50}, p99 {p99}", count(account.requests), account.lost);
        self.voice.outcome(account.lost == 0, &text)?;
        for (error, times) in &account.errors {
            self.voice.detail(&format!("  {} × {error}", count(*times)))?;
        }
        Ok(account)
    }

    /// Closes the account of what went before.
    async fn mark(&mut self, name: &'static str) -> Result<Account, Stop> {
        let account = self.mesh.account("mark").await?;
        self.count(name, account.clone());
        Ok(account)
    }

    fn count(&mut self, name: &'static str, account: Account) {
        self.requests += account.requests;
        self.lost += account.lost;
        if account.requests > 0 {
            self.phases.push(Phase { name, account });
        }
    }
}

/// What a sidecar's admin server says on /metrics.
async fn metrics(sidecar: &super::child::Child) -> Result<String, DemoError> {
    let text = sidecar.ready_text("admin")?;
    let address: SocketAddr =
        text.parse().map_err(|_| DemoError::Unexpected(format!("admin is {text:?}")))?;
    let bytes = Api::of(address, &text).text(Method::GET, "/metrics", None).await?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The sum of a metric over all its labels.
fn sum(metrics: &str, name: &str) -> f64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once('}')?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_no_other_is() {
        let text =
            "# TYPE a counter\na{x=\"1\",y=\"}\"} 2\na{x=\"2\"} 3 1700000000\na_more{x=\"1\"} 50\na 1\n";
        assert_eq!(sum(text, "a"), 6.0);
        assert_eq!(sum(text, "b"), 0.0);
    }

    #[test]
    fn the_phases_fill_the_time() {
        let shares = [
            share::IDENTITY,
            share::CANARY,
            share::FAULT,
            share::KILL,
            share::SLOW,
            share::CONTROL_PLANE,
            share::ROTATION,
            share::STRANGER,
        ];
        assert_eq!(shares.len(), PHASES);
        assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }
}
