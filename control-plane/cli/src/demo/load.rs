//! `outrigger demo-client`: constant traffic, and an exact account of what came back.
//!
//! Requests start on a fixed schedule whether or not earlier ones have been answered, and each is timed from the
//! moment at which it was due, so that a stall shows in the latencies instead of hiding behind itself. Anything
//! but a 200 whose whole body arrived counts as lost. It never retries: what it does not lose, the mesh kept.
//!
//! Commands on standard input: `mark` answers with the account since the last mark and starts a new one, `peek`
//! answers without starting anew, `stop` starts no more requests, waits for the open ones and answers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hdrhistogram::Histogram;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::Empty;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::commands::commands;
use super::connections::{Connections, SendError};
use crate::failure::Stop;
use crate::output;

/// More requests than this are not open at once; one that would be is counted as lost.
const OPEN_LIMIT: usize = 2_000;
/// How many kinds of errors an account tells apart.
const ERROR_LIMIT: usize = 20;
/// The longest latency that is told apart, one minute.
const LATENCY_LIMIT_MICROS: u64 = 60_000_000;

/// Arguments of `outrigger demo-client`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct LoadArgs {
    /// The proxy to call through.
    #[arg(long)]
    through: SocketAddr,
    /// The host to call.
    #[arg(long)]
    host: String,
    /// Requests a second.
    #[arg(long)]
    rps: u32,
}

/// What came back in one stretch of time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Account {
    /// How long the stretch was.
    pub(crate) seconds: f64,
    /// Requests that ended in it.
    pub(crate) requests: u64,
    /// Those that did not end in a whole 200.
    pub(crate) lost: u64,
    /// How the lost ones ended.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Which instances answered along the way.
    pub(crate) instances: BTreeMap<String, u64>,
    /// Latency, microseconds.
    pub(crate) p50_micros: u64,
    pub(crate) p90_micros: u64,
    pub(crate) p99_micros: u64,
    pub(crate) p999_micros: u64,
}

impl Account {
    /// How many requests went to instances with this prefix.
    pub(crate) fn answered_by(&self, prefix: &str) -> u64 {
        self.instances.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, count)| count).sum()
    }
}

/// The account that is being written.
struct Ledger {
    since: Instant,
    account: Account,
    latency: Histogram<u64>,
}

impl Ledger {
    fn new(now: Instant) -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_LIMIT_MICROS, 3).expect("the bounds are valid");
        Self { since: now, account: Account::default(), latency }
    }

    fn record(&mut self, latency: Duration, outcome: Result<Vec<String>, String>) {
        self.account.requests += 1;
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros);
        match outcome {
            Ok(instances) => {
                for name in instances {
                    *self.account.instances.entry(name).or_default() += 1;
                }
            }
            Err(reason) => {
                self.account.lost += 1;
                let errors = &mut self.account.errors;
                let full = errors.len() >= ERROR_LIMIT && !errors.contains_key(&reason);
                *errors.entry(if full { "others".to_owned() } else { reason }).or_default() += 1;
            }
        }
    }

    fn balance(&self, now: Instant) -> Account {
        let quantile = |q| self.latency.value_at_quantile(q);
        Account {
            seconds: now.duration_since(self.since).as_secs_f64(),
            p50_micros: quantile(0.5),
            p90_micros: quantile(0.9),
            p99_micros: quantile(0.99),
            p999_micros: quantile(0.999),
            ..self.account.clone()
        }
    }
}

/// The client.
struct Load {
    connections: Connections,
    host: String,
    ledger: RefCell<Ledger>,
    open: Cell<usize>,
    stopped: Cell<bool>,
}

/// Sends traffic until told to stop, or until standard input ends.
///
/// # Errors
/// Nobody reads its answers.
pub(crate) async fn run(args: LoadArgs) -> Result<(), Stop> {
    let load = Rc::new(Load {
        connections: Connections::new(args.through),
        host: args.host,
        ledger: RefCell::new(Ledger::new(Instant::now())),
        open: Cell::new(0),
        stopped: Cell::new(false),
    });
    output::line(&json!({"ready": true}).to_string())?;
    let schedule = keep_schedule(load.clone(), Duration::from_secs(1) / args.rps.max(1));
    tokio::select! {
        () = schedule => Ok(()),
        ended = obey(&load) => ended,
    }
}

async fn keep_schedule(load: Rc<Load>, gap: Duration) {
    let mut ticks = interval(gap);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        let due = ticks.tick().await;
        if !load.stopped.get() {
            spawn_local(load.clone().request(due));
        }
    }
}

async fn obey(load: &Load) -> Result<(), Stop> {
    let mut lines = commands()?;
    while let Some(line) = lines.next_line().await? {
        let now = Instant::now();
        let account = match line.as_str() {
            "peek" => load.ledger.borrow().balance(now),
            "mark" => load.ledger.replace(Ledger::new(now)).balance(now),
            "stop" => {
                load.stopped.set(true);
                while load.open.get() > 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await; // each ends within its time limit
                }
                load.ledger.borrow().balance(Instant::now())
            }
            _ => return Err(Stop::failed(format!("unknown command {line:?}"))),
        };
        output::line(&serde_json::to_string(&account)?)?;
    }
    Ok(())
}

impl Load {
    async fn request(self: Rc<Self>, due: Instant) {
        if self.open.get() >= OPEN_LIMIT {
            let reason = format!("not sent: {OPEN_LIMIT} requests are open already");
            self.ledger.borrow_mut().record(due.elapsed(), Err(reason));
            return;
        }
        self.open.set(self.open.get() + 1);
        let outcome = self.outcome().await;
        self.open.set(self.open.get() - 1);
        self.ledger.borrow_mut().record(due.elapsed(), outcome);
    }

    async fn outcome(&self) -> Result<Vec<String>, String> {
        let request = Request::get("/").header(HOST, &self.host).body(Empty::new());
        let request = request.map_err(|error| error.to_string())?;
        let (head, body) =
            self.connections.send(request).await.map_err(|error: SendError| error.to_string())?;
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if head.status == StatusCode::OK {
            return Ok(instances(&body));
        }
        let reason = head.headers.get("outrigger-error").and_then(|value| value.to_str().ok());
        let reason = reason.or_else(|| body["error"].as_str()).unwrap_or("no reason given");
        Err(format!("{} {reason}", head.status.as_u16()))
    }
}

/// The instances that a request went through, from the answers that lie in each other.
fn instances(body: &Value) -> Vec<String> {
    let hops = std::iter::successors(Some(body), |hop| hop.get("next"));
    hops.filter_map(|hop| Some(hop.get("instance")?.as_str()?.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_of_a_request_is_read_from_the_answers_in_each_other() {
        let body = json!({"instance": "web-1", "next": {"instance": "orders-1", "next": {"instance": "payments-v2-1"}}});
        assert_eq!(instances(&body), ["web-1", "orders-1", "payments-v2-1"]);
        assert!(instances(&Value::Null).is_empty());
    }

    #[test]
    fn an_account_counts_what_was_lost_and_why() {
        let now = Instant::now();
        let mut ledger = Ledger::new(now);
        for _ in 0..98 {
            let way = vec!["web-1".to_owned(), "payments-v1-2".to_owned()];
            ledger.record(Duration::from_millis(2), Ok(way));
        }
        ledger.record(Duration::from_millis(50), Err("503 no-endpoints; by=outbound".to_owned()));
        ledger.record(Duration::from_secs(1), Err("503 no-endpoints; by=outbound".to_owned()));
        let account = ledger.balance(now + Duration::from_secs(2));
        assert_eq!((account.requests, account.lost, account.seconds), (100, 2, 2.0));
        assert_eq!(account.errors["503 no-endpoints; by=outbound"], 2);
        assert_eq!(account.answered_by("payments-v1"), 98);
        assert!((1_990..2_010).contains(&account.p50_micros), "{account:?}");
        assert!((49_000..51_000).contains(&account.p99_micros), "{account:?}");
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let mut ledger = Ledger::new(Instant::now());
        for number in 0..100 {
            ledger.record(Duration::ZERO, Err(format!("error {number}")));
        }
        assert_eq!(ledger.account.errors.len(), ERROR_LIMIT + 1);
        assert_eq!(ledger.account.errors.values().sum::<u64>(), 100);
    }
}
