//! One JSON line a request, for people and for log pipelines.
//!
//! A worker formats its lines into a buffer of its own and passes full or old buffers to one writer thread over a
//! bounded queue. The worker never waits: when the writer cannot keep up, lines are lost and counted. A line is
//! written within a tenth of a second of its request's end.

use std::cell::{Cell, RefCell};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::exchange::{Exchange, NO_STATUS};

/// A buffer of this size goes to the writer at once.
const FULL_BYTES: usize = 32 * 1024;
/// A buffer that is not full goes after this time.
const INTERVAL: Duration = Duration::from_millis(50);
/// Buffers on their way to the writer, all workers together: 512 KiB and a little.
const QUEUE: usize = 16;
/// Longer texts from a request are cut.
const MAX_TEXT_BYTES: usize = 1024;

/// Whether and where requests are logged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AccessLogMode {
    /// To stdout, if `MeshConfig` says so.
    #[default]
    Auto,
    /// To stdout.
    On,
    /// Nowhere.
    Off,
    /// Always, appended to a file.
    File(PathBuf),
}

impl FromStr for AccessLogMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err("must be auto, on, off or the path of a file"),
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            path => Ok(Self::File(path.into())),
        }
    }
}

/// Why there can be no access log.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    /// The file.
    #[error("the access log {} cannot be opened; give --access-log a file that this user may append to", .0.display())]
    Open(PathBuf, #[source] io::Error),
    /// The thread.
    #[error("the access log's thread cannot be started")]
    Thread(#[source] io::Error),
}

/// What became of the lines, since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogCounts {
    /// Written.
    pub written: u64,
    /// Lost because the writer was too slow or could not write.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    dropped: AtomicU64,
}

/// Lines on their way to the writer.
struct Lines {
    text: Vec<u8>,
    count: u64,
}

/// The proxy's access log; gives each worker its part.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// Every request is logged, or those that the mesh says.
    always: bool,
    queue: Option<SyncSender<Lines>>,
    counters: Arc<Counters>,
}

/// Waits for the writer at the end.
#[derive(Debug)]
pub struct AccessLogEnd(Option<Receiver<()>>);

impl AccessLog {
    /// Opens the log and starts its thread.
    ///
    /// # Errors
    /// If the file cannot be appended to, or the thread not started.
    pub fn start(mode: &AccessLogMode) -> Result<(Self, AccessLogEnd), AccessLogError> {
        match mode {
            AccessLogMode::Off => {
                let log = Self { always: false, queue: None, counters: Arc::default() };
                Ok((log, AccessLogEnd(None)))
            }
            AccessLogMode::Auto => Self::to_writer(false, io::stdout()),
            AccessLogMode::On => Self::to_writer(true, io::stdout()),
            AccessLogMode::File(path) => Self::to_writer(true, open(path)?),
        }
    }

    fn to_writer(
        always: bool,
        out: impl Write + Send + 'static,
    ) -> Result<(Self, AccessLogEnd), AccessLogError> {
        let (queue, lines) = sync_channel(QUEUE);
        let (ended, end) = sync_channel(1);
        let counters = Arc::<Counters>::default();
        let theirs = Arc::clone(&counters);
        thread::Builder::new()
            .name("access-log".into())
            .spawn(move || {
                write(&lines, out, &theirs);
                // Nobody waits if the process did not drain.
                let _ = ended.send(());
            })
            .map_err(AccessLogError::Thread)?;
        Ok((Self { always, queue: Some(queue), counters }, AccessLogEnd(Some(end))))
    }

    /// One worker's part. The worker runs [`WorkerLog::run`] beside its listeners.
    pub fn worker(&self) -> WorkerLog {
        WorkerLog(Rc::new(WorkerInner {
            log: self.clone(),
            buffer: RefCell::default(),
            lines: Cell::new(0),
            waiting: Notify::new(),
        }))
    }

    /// What became of the lines.
    pub fn counts(&self) -> LogCounts {
        LogCounts {
            written: self.counters.written.load(Ordering::Relaxed),
            dropped: self.counters.dropped.load(Ordering::Relaxed),
        }
    }
}

impl AccessLogEnd {
    /// Waits until all lines are written, at most `patience`. Every [`AccessLog`] and [`WorkerLog`] must be gone.
    /// Blocks; call it when nothing else is left to do.
    pub fn wait(self, patience: Duration) {
        if let Some(end) = self.0 {
            // A timeout means that whoever reads the log has stopped reading; the process ends all the same.
            let _ = end.recv_timeout(patience);
        }
    }
}

fn open(path: &Path) -> Result<std::fs::File, AccessLogError> {
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|error| AccessLogError::Open(path.to_owned(), error))
}

/// The writer thread: until every worker is gone.
fn write(queue: &Receiver<Lines>, mut out: impl Write, counters: &Counters) {
    while let Ok(lines) = queue.recv() {
        let written = out.write_all(&lines.text).and_then(|()| out.flush());
        let counter = if written.is_ok() { &counters.written } else { &counters.dropped };
        counter.fetch_add(lines.count, Ordering::Relaxed);
    }
}

/// One worker's part of the access log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WorkerLog(Rc<WorkerInner>);

#[derive(Debug)]
struct WorkerInner {
    log: AccessLog,
    buffer: RefCell<Vec<u8>>,
    lines: Cell<u64>,
    waiting: Notify,
}

impl WorkerLog {
    /// Writes the request's line, if requests are logged. Never waits.
    pub fn record(&self, exchange: &Exchange, mesh_log: bool) {
        if self.0.log.queue.is_none() || !(self.0.log.always || mesh_log) {
            return;
        }
        let mut buffer = self.0.buffer.borrow_mut();
        line(&mut buffer, exchange).expect("writing to memory cannot fail");
        let lines = self.0.lines.replace(self.0.lines.get() + 1);
        let full = buffer.len() >= FULL_BYTES;
        drop(buffer);
        if full {
            self.flush();
        } else if lines == 0 {
            self.0.waiting.notify_one();
        }
    }

    /// Passes on old lines until the worker ends. Dropping it loses what has not been passed on; see
    /// [`WorkerLog::flush`].
    pub async fn run(self) {
        loop {
            self.0.waiting.notified().await;
            tokio::time::sleep(INTERVAL).await;
            self.flush();
        }
    }

    /// Passes on what there is. A worker calls it last.
    pub fn flush(&self) {
        let count = self.0.lines.replace(0);
        if count == 0 {
            return;
        }
        let text = std::mem::take(&mut *self.0.buffer.borrow_mut());
        let queue = self.0.log.queue.as_ref();
        if queue.is_none_or(|queue| queue.try_send(Lines { text, count }).is_err()) {
            self.0.log.counters.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }
}

/// Formats one line. Field names are part of the product: README lists them.
fn line(out: &mut Vec<u8>, exchange: &Exchange) -> io::Result<()> {
    out.extend_from_slice(b"{\"time\":\"");
    timestamp(out, exchange.started_at)?;
    write!(out, "\",\"direction\":\"{}\"", exchange.side)?;
    if let Some(service) = &exchange.service {
        write!(out, ",\"service\":\"{service}\"")?;
    }
    if exchange.port != 0 {
        write!(out, ",\"port\":{}", exchange.port)?;
    }
    optional(out, "route", exchange.route.as_deref())?;
    optional(out, "peer", exchange.peer.as_ref().map(|peer| peer.as_str()))?;
    write!(out, ",\"tls\":{}", exchange.mtls)?;
    if let Some(client) = exchange.client {
        write!(out, ",\"client\":\"{client}\"")?;
    }
    text(out, "method", exchange.method.as_str())?;
    if let Some(authority) = &exchange.authority {
        text(out, "authority", &String::from_utf8_lossy(authority.as_bytes()))?;
    } else {
        optional(out, "authority", exchange.uri.authority().map(|authority| authority.as_str()))?;
    }
    text(out, "path", exchange.uri.path())?;
    write!(out, ",\"protocol\":\"{:?}\"", exchange.version)?;
    if exchange.status != NO_STATUS {
        write!(out, ",\"status\":{}", exchange.status)?;
    }
    if let Some(code) = exchange.grpc_status {
        write!(out, ",\"grpc_status\":{code}")?;
    }
    optional(out, "error", exchange.failure.map(|failure| failure.name()))?;
    optional(out, "policy", exchange.policy.as_deref())?;
    optional(out, "audit_policy", exchange.audit_policy.as_deref())?;
    write!(out, ",\"duration_ms\":{}", Millis(exchange.duration))?;
    write!(out, ",\"upstream_ms\":{}", Millis(exchange.upstream))?;
    write!(out, ",\"retries\":{}", exchange.retries())?;
    if let Some(endpoint) = exchange.attempts.last().and_then(|attempt| attempt.endpoint) {
        write!(out, ",\"upstream\":\"{endpoint}\"")?;
    }
    write!(out, ",\"request_bytes\":{}", exchange.request_bytes)?;
    write!(out, ",\"response_bytes\":{}", exchange.response_bytes)?;
    let trace = &exchange.trace;
    write!(out, ",\"trace_id\":\"{}\",\"span_id\":\"{}\"", trace.trace_id, trace.span_id)?;
    write!(out, ",\"sampled\":{}", trace.sampled)?;
    if let Some(id) = &exchange.request_id {
        text(out, "request_id", &String::from_utf8_lossy(id.as_bytes()))?;
    }
    out.extend_from_slice(b"}\n");
    Ok(())
}

fn optional(out: &mut Vec<u8>, name: &str, value: Option<&str>) -> io::Result<()> {
    value.map_or(Ok(()), |value| text(out, name, value))
}

/// A field whose value may need escaping.
fn text(out: &mut Vec<u8>, name: &str, value: &str) -> io::Result<()> {
    write!(out, ",\"{name}\":")?;
    let cut = &value[..value.floor_char_boundary(MAX_TEXT_BYTES)];
    serde_json::to_writer(out, cut).map_err(io::Error::from)
}

/// RFC 3339, UTC, to the millisecond.
fn timestamp(out: &mut Vec<u8>, at: SystemTime) -> io::Result<()> {
    let at = OffsetDateTime::from(at);
    write!(
        out,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

/// Milliseconds with microseconds behind the point.
struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = self.0.as_micros();
        write!(f, "{}.{:03}", micros / 1000, micros % 1000)
    }
}

#[cfg(test)]
mod tests;
