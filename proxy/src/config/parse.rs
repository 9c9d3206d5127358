//! How each kind of value is written. A problem reads on after the quoted value: `"x" is not ...`.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use outrigger_api::ServiceName;

use super::{AppPort, Listen};
use crate::access_log::AccessLogMode;
use crate::health::CheckKind;
use crate::snapshot::Protocol;

/// Ports of protocols in which the server speaks first, so that detection would wait in vain: SMTP (25, 587),
/// MySQL (3306, 4444), PostgreSQL, Redis, Elasticsearch transport and memcached.
const SERVER_FIRST: [u16; 8] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211];

/// More workers than this are a typing error.
const MAX_WORKERS: usize = 256;

/// A longer duration is a typing error.
const MAX_DURATION: Duration = Duration::from_secs(100 * 3600);

pub(super) fn label(text: &str) -> Result<String, String> {
    match ServiceName::new("n", text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("is not a name: 1 to 63 of a-z, 0-9 and '-', no '-' at either end".to_owned()),
    }
}

pub(super) fn subdomain(text: &str) -> Result<String, String> {
    if text.len() <= 253 && text.split('.').all(|part| label(part).is_ok()) {
        return Ok(text.to_owned());
    }
    Err("is not a name: labels of a-z, 0-9 and '-' joined by '.', at most 253 characters".to_owned())
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is empty; give a path".to_owned()) } else { Ok(text.into()) }
}

pub(super) fn zone(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if text.len() <= 63 && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err("is not a zone: at most 63 letters, digits, '-', '_', '.' and '/'".to_owned())
}

/// An address to listen on; port 0 is any free one.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let resolved = match text.strip_prefix("localhost:") {
        Some(port) => port.parse().ok().map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        None => text.parse().ok(),
    };
    resolved.ok_or_else(|| "is not IP:PORT, for example 127.0.0.1:4740 or [::1]:4740".to_owned())
}

/// An address that somebody connects to.
pub(super) fn reachable_address(text: &str) -> Result<SocketAddr, String> {
    let address = socket_address(text)?;
    if address.port() == 0 {
        return Err("has port 0, which nobody can connect to".to_owned());
    }
    if address.ip().is_unspecified() {
        return Err("is every address of this host; give the one that others reach it by".to_owned());
    }
    Ok(address)
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port != 0 && !text.starts_with('+') => Ok(port),
        _ => Err(format!("has no port from 1 to 65535 in {text:?}")),
    }
}

/// `HOST:PORT`.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    const FORM: &str = "is not HOST:PORT, for example 127.0.0.1:4781";
    if text.contains("://") {
        return Err(format!("{FORM}; leave the scheme out, the connection is always TLS"));
    }
    let (host, number) = text.rsplit_once(':').ok_or(FORM)?;
    port(number)?;
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
            !host.is_empty() && host.len() <= 253 && host.chars().all(plain)
        }
    };
    if good { Ok(text.to_owned()) } else { Err(FORM.to_owned()) }
}

/// `PORT[/PROTOCOL]=IP:PORT`.
pub(super) fn app(text: &str) -> Result<AppPort, String> {
    let form = || "is not PORT[/PROTOCOL]=IP:PORT, for example 80=127.0.0.1:9001".to_owned();
    let (left, right) = text.split_once('=').ok_or_else(form)?;
    let (number, declared) = match left.split_once('/') {
        Some((number, name)) => (number, Some(protocol(name)?)),
        None => (left, None),
    };
    let port = port(number)?;
    let address = reachable_address(right).map_err(|_| form())?;
    let server_first = SERVER_FIRST.contains(&port) || SERVER_FIRST.contains(&address.port());
    let usual = if server_first { Protocol::Tcp } else { Protocol::Detect };
    Ok(AppPort { port, protocol: declared.unwrap_or(usual), address, health: CheckKind::Tcp })
}

fn protocol(name: &str) -> Result<Protocol, String> {
    match name {
        "detect" => Ok(Protocol::Detect),
        "http" | "http1" => Ok(Protocol::Http1),
        "http2" | "grpc" => Ok(Protocol::Http2),
        "tcp" => Ok(Protocol::Tcp),
        _ => Err(format!("has the protocol {name:?}; there are detect, http, http2, grpc and tcp")),
    }
}

pub(super) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Detect => "detect",
        Protocol::Http1 => "http",
        Protocol::Http2 => "http2",
        Protocol::Tcp => "tcp",
    }
}

/// `PORT=tcp`, `PORT=http:/PATH` or `PORT=grpc`.
pub(super) fn health(text: &str) -> Result<(u16, CheckKind), String> {
    let form = || "is not PORT=tcp, PORT=http:/PATH or PORT=grpc, for example 80=http:/healthz".to_owned();
    let (number, check) = text.split_once('=').ok_or_else(form)?;
    let port = port(number)?;
    let kind = match (check, check.strip_prefix("http:")) {
        ("tcp", _) => CheckKind::Tcp,
        ("grpc", _) => CheckKind::Grpc,
        (_, Some(path)) if path.starts_with('/') && path.parse::<Uri>().is_ok() => {
            CheckKind::Http { path: path.to_owned() }
        }
        _ => return Err(form()),
    };
    Ok((port, kind))
}

pub(super) fn check_name(kind: &CheckKind) -> String {
    match kind {
        CheckKind::Tcp => "tcp".to_owned(),
        CheckKind::Http { path } => format!("http:{path}"),
        CheckKind::Grpc => "grpc".to_owned(),
    }
}

/// `IP:PORT=NAME.NAMESPACE:PORT`.
pub(super) fn listen(text: &str) -> Result<Listen, String> {
    let form = || "is not IP:PORT=NAME.NAMESPACE:PORT, for example 127.0.0.1:5432=db.shop:5432".to_owned();
    let (left, right) = text.split_once('=').ok_or_else(form)?;
    let address = socket_address(left).map_err(|_| form())?;
    let (name, number) = right.rsplit_once(':').ok_or_else(form)?;
    let service = name.parse::<ServiceName>().map_err(|error| format!("names no service: {error}"))?;
    Ok(Listen { address, service, port: port(number)?, gateway: false })
}

/// `IP:PORT=PORT`.
pub(super) fn gateway_listen(text: &str) -> Result<(SocketAddr, u16), String> {
    let form = || "is not IP:PORT=PORT of a listener, for example 0.0.0.0:8443=443".to_owned();
    let (left, right) = text.split_once('=').ok_or_else(form)?;
    Ok((socket_address(left).map_err(|_| form())?, port(right)?))
}

pub(super) fn workers(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok().filter(|number: &NonZeroUsize| number.get() <= MAX_WORKERS);
    number.ok_or_else(|| format!("is not a number from 1 to {MAX_WORKERS}"))
}

pub(super) fn ratio(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    number.ok_or_else(|| "is not a share from 0 to 1, for example 0.05".to_owned())
}

pub(super) fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

pub(super) fn access_log(text: &str) -> Result<AccessLogMode, String> {
    text.parse().map_err(str::to_owned)
}

pub(super) fn access_log_name(mode: &AccessLogMode) -> String {
    match mode {
        AccessLogMode::Auto => "auto".to_owned(),
        AccessLogMode::On => "on".to_owned(),
        AccessLogMode::Off => "off".to_owned(),
        AccessLogMode::File(path) => path.display().to_string(),
    }
}

/// `http://HOST:PORT`.
pub(super) fn otlp_endpoint(text: &str) -> Result<String, String> {
    const FORM: &str = "is not http://HOST:PORT of an OTLP/gRPC collector, for example http://127.0.0.1:4317";
    let uri: Uri = text.parse().map_err(|_| FORM)?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("https"), _) => Err(
            "asks for TLS; give --otlp-endpoint http://HOST:PORT of a collector on this host or in the mesh"
                .to_owned(),
        ),
        (Some("http"), Some(authority)) if !authority.host().is_empty() && matches!(uri.path(), "" | "/") => {
            Ok(text.to_owned())
        }
        _ => Err(FORM.to_owned()),
    }
}

/// Numbers with a unit, the largest first: `500ms`, `3s`, `1m30s`, `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let form = || "is not a duration, for example 500ms, 3s or 1m30s".to_owned();
    let (mut rest, mut total, mut last_unit) = (text, Duration::ZERO, 4);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u32 = rest[..digits].parse().map_err(|_| form())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (rank, unit) = match &rest[..letters] {
            "h" => (3, Duration::from_secs(3600)),
            "m" => (2, Duration::from_secs(60)),
            "s" => (1, Duration::from_secs(1)),
            "ms" => (0, Duration::from_millis(1)),
            _ => return Err(form()),
        };
        if rank >= last_unit {
            return Err(form());
        }
        last_unit = rank;
        rest = &rest[letters..];
        total += unit.checked_mul(number).filter(|part| *part <= MAX_DURATION).ok_or_else(form)?;
    }
    if total.is_zero() || total > MAX_DURATION {
        return Err("is not a duration from 1ms to 100h".to_owned());
    }
    Ok(total)
}

pub(super) fn duration_text(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

/// A number of bytes, plain or with KiB, MiB or GiB.
pub(super) fn size(text: &str) -> Result<usize, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("", 0)];
    let (number, shift) = units
        .into_iter()
        .find_map(|(unit, shift)| text.strip_suffix(unit).map(|number| (number, shift)))
        .unwrap_or((text, 0));
    let bytes = number.parse::<usize>().ok().and_then(|n| n.checked_mul(1 << shift));
    bytes.ok_or_else(|| "is not a number of bytes, for example 65536 or 64KiB".to_owned())
}

pub(super) fn count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| "is not a number".to_owned())
}
