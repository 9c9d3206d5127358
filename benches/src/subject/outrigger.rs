//! Outrigger: a control plane and two proxies, as processes, with join tokens and policy as a person would give them.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use tokio::time::Instant;

use super::collector::Collector;
use super::{Entries, Entry, Held, Running, Setup, Tools, Upstreams};
use crate::mesh::Mesh;
use crate::process::Launcher;

/// The service's ports, by what is spoken there.
const HTTP1: u16 = 80;
const HTTP2: u16 = 81;
const TCP: u16 = 82;

/// The service that has a proxy and an application.
const SERVICE: &str = "app";

pub(super) fn start(setup: &Setup, upstreams: &Upstreams, tools: &Tools) -> Result<Running> {
    let directory = tempfile::tempdir().context("a temporary directory")?;
    let collector = Collector::start()?;
    let launcher = Launcher {
        binaries: tools.binaries.clone(),
        environment: Vec::new(),
        logs: directory.path().to_owned(),
    };
    let mesh = Mesh::start(launcher, directory.path().to_owned())?;
    let names = names(setup);
    mesh.apply(&policy(setup, &names, &format!("http://{}", collector.address)))?;
    let since = Instant::now();
    let workers = setup.workers.to_string();
    let application = |port: u16, protocol: &str, address| format!("{port}/{protocol}={address}");
    let service = mesh.start_service_with(&[
        "--workers",
        &workers,
        "--app",
        &application(HTTP1, "http", upstreams.http1),
        "--app",
        &application(HTTP2, "http2", upstreams.http2),
        "--app",
        &application(TCP, "tcp", upstreams.tcp),
    ])?;
    let listen = format!("127.0.0.1:0={SERVICE}.bench:{TCP}");
    let caller = mesh.start_caller_with(&["--workers", &workers, "--listen", &listen])?;
    let used = &names[..setup.services_used.min(names.len())];
    let entry = |port: u16| {
        let authority = used.iter().map(|name| authority(name, port)).collect();
        anyhow::Ok(Entry { address: caller.address("outbound")?, authority })
    };
    let entries =
        Entries { http1: entry(HTTP1)?, http2: entry(HTTP2)?, tcp: caller.address("listens")?, since };
    let held =
        Held { processes: vec![mesh.control_plane], collector: Some(collector), directory: Some(directory) };
    Running::pair(entries, caller, service, held)
}

/// All services that exist. The first has a proxy; the others are names that a route leads there, which for the
/// caller's proxy are services like any other: documents, routes, series of their own.
fn names(setup: &Setup) -> Vec<String> {
    let others = (1..setup.services_known).map(|number| format!("{SERVICE}-{number}"));
    std::iter::once(SERVICE.to_owned()).chain(others).collect()
}

fn authority(name: &str, port: u16) -> String {
    // The usual port goes without saying, as clients have it.
    if port == HTTP1 { format!("{name}.bench") } else { format!("{name}.bench:{port}") }
}

/// The mesh's settings, and for every service its ports and a route with a deadline and retries.
fn policy(setup: &Setup, names: &[String], collector: &str) -> String {
    let mut documents = format!(
        "apiVersion: outrigger.dev/v1alpha1\n\
         kind: MeshConfig\n\
         metadata: {{name: mesh}}\n\
         spec:\n  \
           tracing: {{samplingRatio: {}, endpoint: {collector:?}}}\n  \
           accessLog: {{enabled: false}}\n",
        setup.sampling
    );
    for name in names {
        // Writing to a string cannot fail.
        let _ = write!(
            documents,
            "---\n\
             apiVersion: v1\n\
             kind: Service\n\
             metadata: {{name: {name}, namespace: bench}}\n\
             spec:\n  \
               ports:\n  \
               - {{name: web, port: {HTTP1}, appProtocol: http}}\n  \
               - {{name: rpc, port: {HTTP2}, appProtocol: kubernetes.io/h2c}}\n  \
               - {{name: bytes, port: {TCP}, appProtocol: tcp}}\n"
        );
        for port in [HTTP1, HTTP2] {
            let _ = write!(
                documents,
                "---\n\
                 apiVersion: gateway.networking.k8s.io/v1\n\
                 kind: HTTPRoute\n\
                 metadata: {{name: {name}-{port}, namespace: bench}}\n\
                 spec:\n  \
                   parentRefs: [{{group: \"\", kind: Service, name: {name}, port: {port}}}]\n  \
                   rules:\n  \
                   - matches: [{{path: {{type: PathPrefix, value: /}}}}]\n    \
                     timeouts: {{request: 15s}}\n    \
                     retry: {{attempts: 2, codes: [500, 502, 503, 504]}}\n    \
                     backendRefs: [{{name: {SERVICE}, port: {port}}}]\n"
            );
        }
    }
    documents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_that_is_used_exists_and_leads_to_the_one_with_an_application() {
        let setup = Setup { services_known: 3, services_used: 2, ..Setup::default() };
        let names = names(&setup);
        assert_eq!(names, ["app", "app-1", "app-2"]);
        let policy = policy(&setup, &names, "http://127.0.0.1:4317");
        assert_eq!(policy.matches("kind: Service\n").count(), 3);
        assert_eq!(policy.matches("backendRefs: [{name: app, port: 80}]").count(), 3);
        assert_eq!(authority("app-1", HTTP1), "app-1.bench");
        assert_eq!(authority("app-1", HTTP2), "app-1.bench:81");
    }
}
