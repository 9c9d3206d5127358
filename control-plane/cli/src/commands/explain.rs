//! `outrigger explain`: what the mesh does with a request, and which document says so.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::header::{HOST, HeaderName, HeaderValue};
use http::{Method, Request, request};
use outrigger_api::{ServiceName, v1};
use outrigger_certs::SpiffeId;
use outrigger_control_plane::explain::{CompiledService, Setting, words};
use outrigger_control_plane::resources::DEFAULT_NAMESPACE;
use outrigger_control_plane::status::{CertificateStatus, EndpointStatus};

use crate::client::{Api, ApiArgs, ApiError};
use crate::explanation::{self, Backend, Explanation};
use crate::failure::Stop;
use crate::output::{self, BAD, BOLD, DIM, Format, GOOD, OutputArgs, WARN, paint};
use crate::path;
use crate::table::{Cell, Table};

/// The port meant by a service without one, as in a request.
const DEFAULT_PORT: u16 = 80;

/// Arguments of `outrigger explain`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger explain payments.shop                       every setting of a service, and who says so
  outrigger explain payments.shop GET /charge           what becomes of a request
  outrigger explain --from shop/web payments.shop:8080 POST /charge -H 'x-version: 2'
  outrigger explain --from shop/web payments.shop GET /charge --claim roles=admin --claim roles=audit
  outrigger explain payments.shop GET / -o json | jq .verdict

The request is looked up with the proxy's own code in what proxies are sent. Exit status 1 if a proxy would refuse it.")]
pub(crate) struct ExplainArgs {
    /// Who calls: NAMESPACE/SERVICE-ACCOUNT or a SPIFFE id. [default: a workload of the service's namespace]
    #[arg(long, env = "OUTRIGGER_FROM", value_name = "IDENTITY", value_parser = parse_caller)]
    from: Option<Caller>,
    /// Where the caller's connection comes from, for access rules about networks.
    #[arg(long, env = "OUTRIGGER_FROM_ADDRESS", value_name = "IP", default_value = "127.0.0.1")]
    address: IpAddr,
    /// The service that is called, as NAME, NAME.NAMESPACE or NAME.NAMESPACE:PORT; port 80 where none is named.
    #[arg(value_name = "SERVICE")]
    service: String,
    /// The request: method and path. Without it, all settings of the service are shown.
    #[arg(value_name = "METHOD] [PATH", num_args = 0..=2)]
    request: Vec<String>,
    /// A header of the request, 'NAME: VALUE'; may be given more than once.
    #[arg(short = 'H', long = "header", env = "OUTRIGGER_HEADER", value_name = "HEADER", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// A claim of the request's token, which is taken for verified, 'NAME=VALUE'; may be given more than once.
    #[arg(long = "claim", env = "OUTRIGGER_CLAIM", value_name = "CLAIM", value_parser = parse_claim)]
    claims: Vec<(String, String)>,
    /// The namespace of a service that names none. [default: the caller's, or default]
    #[arg(short, long, env = "OUTRIGGER_NAMESPACE", value_name = "NAMESPACE", value_parser = path::parse_name)]
    namespace: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    api: ApiArgs,
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Caller {
    namespace: String,
    text: String,
}

impl Caller {
    /// The SPIFFE id; an account is one of the mesh's own trust domain.
    async fn identity(&self, api: &Api) -> Result<SpiffeId, Stop> {
        if let Ok(identity) = self.text.parse() {
            return Ok(identity);
        }
        let authority: CertificateStatus = api.get("/v1/certificates").await?;
        let account = self.text.rsplit('/').next().unwrap_or_default();
        let (domain, namespace) = (authority.trust_domain, &self.namespace);
        Ok(format!("spiffe://{domain}/ns/{namespace}/sa/{account}").parse()?)
    }
}

fn parse_caller(text: &str) -> Result<Caller, String> {
    if let Ok(id) = text.parse::<SpiffeId>() {
        return Ok(Caller { namespace: id.namespace().to_owned(), text: text.to_owned() });
    }
    let form = || "write NAMESPACE/SERVICE-ACCOUNT or spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT";
    let (namespace, account) = text.split_once('/').ok_or_else(form)?;
    path::parse_name(namespace).and_then(|_| path::parse_name(account)).map_err(|_| form())?;
    Ok(Caller { namespace: namespace.to_owned(), text: text.to_owned() })
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write NAME: VALUE")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is not the name of a header"))?;
    let value = value.trim().parse().map_err(|_| format!("{value:?} is not the value of a header"))?;
    Ok((name, value))
}

fn parse_claim(text: &str) -> Result<(String, String), String> {
    let (name, value) =
        text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Explains a request, or a service.
///
/// # Errors
/// The request would be refused, there is no such service, or the API refuses or is away.
pub(crate) async fn run(args: ExplainArgs) -> Result<(), Stop> {
    let own = args.from.as_ref().map(|from| from.namespace.as_str()).or(args.namespace.as_deref());
    let (service, port) = destination(&args.service, own.unwrap_or(DEFAULT_NAMESPACE))?;
    let client =
        args.from.as_ref().map_or_else(|| service.namespace().to_owned(), |from| from.namespace.clone());
    let api = Api::new(&args.api)?;
    let head = match args.request.is_empty() {
        false => Some(head(&args, &service, port.unwrap_or(DEFAULT_PORT))?),
        true => None,
    };
    let compiled = compiled(&api, &service, &client).await?;
    let Some(mut head) = head else { return show_service(&args, &compiled, port) };
    let identity = match &args.from {
        Some(from) => Some(from.identity(&api).await?),
        None => None,
    };
    let claims = explanation::claims(&args.claims);
    let caller = explanation::Caller { identity, address: args.address, claims };
    explanation::normalize(&compiled, &mut head)?;
    let mut explanation = explanation::explain(&compiled, port.unwrap_or(DEFAULT_PORT), &caller, &head)?;
    complete(&api, compiled, &caller, &head, &mut explanation).await?;
    explanation.admit();
    match args.output.output {
        Format::Table => output::print(&text(&explanation, args.from.as_ref()))?,
        format => output::value(format, &serde_json::to_value(&explanation)?)?,
    }
    if explanation.verdict.failure.is_none() { Ok(()) } else { Err(Stop::Said) }
}

fn destination(text: &str, own_namespace: &str) -> Result<(ServiceName, Option<u16>), Stop> {
    let usage = |error: String| Stop::Usage(format!("SERVICE {text:?}: {error}"));
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => {
            let number = port.parse().ok().filter(|port| *port != 0);
            (host, Some(number.ok_or_else(|| usage(format!("{port:?} is not a port, 1 to 65535")))?))
        }
        None => (text, None),
    };
    let service = ServiceName::from_host(host, own_namespace).map_err(|error| usage(error.to_string()))?;
    Ok((service, port))
}

/// The request as the workload would send it over HTTP/1.1: path in the target, service in the Host field.
fn head(args: &ExplainArgs, service: &ServiceName, port: u16) -> Result<request::Parts, Stop> {
    let (method, path) = match args.request.as_slice() {
        [path] if path.starts_with('/') => ("GET", path.as_str()),
        [method] => (method.as_str(), "/"),
        [method, path] => (method.as_str(), path.as_str()),
        _ => ("GET", "/"),
    };
    let wrong = |what: &str| Stop::Usage(format!("{what}: write METHOD PATH, as in GET /charge"));
    let method: Method = method.parse().map_err(|_| wrong(&format!("{method:?} is not a method")))?;
    if !path.starts_with('/') {
        return Err(wrong(&format!("{path:?} is not a path")));
    }
    let mut request = Request::builder().method(method).uri(path);
    if !args.headers.iter().any(|(name, _)| *name == HOST) {
        let host = if port == DEFAULT_PORT { service.to_string() } else { format!("{service}:{port}") };
        request = request.header(HOST, host);
    }
    for (name, value) in &args.headers {
        request = request.header(name, value);
    }
    let request = request.body(()).map_err(|error| wrong(&error.to_string()))?;
    Ok(request.into_parts().0)
}

async fn compiled(api: &Api, service: &ServiceName, client: &str) -> Result<CompiledService, Stop> {
    let (namespace, name) = (service.namespace(), service.name());
    Ok(api.get(&format!("/v1/compiled/{namespace}/{name}?client={client}")).await?)
}

/// Asks for the services behind the backends, each once.
async fn complete(
    api: &Api,
    parent: CompiledService,
    caller: &explanation::Caller,
    head: &request::Parts,
    explanation: &mut Explanation,
) -> Result<(), Stop> {
    let client = parent.client.clone();
    let mut known = BTreeMap::from([((parent.namespace.clone(), parent.name.clone()), parent)]);
    for backend in &mut explanation.backends {
        let Some((service, _)) = backend.target.clone() else { continue };
        let key = (service.namespace().to_owned(), service.name().to_owned());
        if !known.contains_key(&key) {
            match compiled(api, &service, &client).await {
                Ok(compiled) => drop(known.insert(key.clone(), compiled)),
                Err(Stop::Failed(error)) if is_gone(error.as_ref()) => continue, // between two requests
                Err(stop) => return Err(stop),
            }
        }
        backend.complete(&known[&key], caller, head)?;
    }
    Ok(())
}

fn is_gone(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<ApiError>().and_then(ApiError::status) == Some(http::StatusCode::NOT_FOUND)
}

fn text(explanation: &Explanation, from: Option<&Caller>) -> String {
    let who = from.map_or_else(|| format!("a workload of {}", explanation.client), |from| from.text.clone());
    let mut text = format!(
        "{} to {} ({}) from {who}, by revision {}\n\n",
        paint(BOLD, &explanation.request),
        paint(BOLD, &explanation.destination),
        explanation.protocol,
        explanation.revision
    );
    let mut facts = Table::new(&["", "", ""]);
    let mut fact = |what: &str, value: String, detail: String| {
        facts.row(vec![what.into(), value.into(), Cell::styled(DIM, detail)]);
    };
    match &explanation.rule {
        Some(rule) => {
            fact("rule", rule.name.clone(), rule.source.to_string());
            fact("match", rule.matched.clone(), String::new());
            for filter in &rule.filters {
                fact("filter", filter.what.clone(), filter.source.to_string());
            }
        }
        None => fact("rule", "none".to_owned(), String::new()),
    }
    for missed in &explanation.missed {
        fact("not", missed.matches.clone(), format!("{}: {}", missed.source, missed.because.join(", ")));
    }
    for backend in &explanation.backends {
        let share = format!("{:.4} %", backend.percent);
        let share = share.trim_end_matches([' ', '%']).trim_end_matches('0').trim_end_matches('.').to_owned();
        let detail = format!("weight {}, {share} %", backend.weight);
        let what = backend.destination.clone().or_else(|| backend.invalid.clone()).unwrap_or_default();
        fact("backend", what, detail);
        for filter in &backend.filters {
            fact("filter", filter.what.clone(), filter.source.to_string());
        }
    }
    text.push_str(&facts.render().lines().skip(1).map(|line| format!("{line}\n")).collect::<String>());
    text.push('\n');
    text.push_str(&settings(&explanation.settings));
    for backend in &explanation.backends {
        text.push_str(&of_backend(backend));
    }
    text.push_str(&in_mesh(&explanation.mesh));
    let verdict = &explanation.verdict;
    let outcome = match (verdict.failure, verdict.status) {
        (Some(failure), Some(status)) => paint(BAD, format!("refused with {status} {failure}")),
        (None, Some(status)) => paint(GOOD, format!("answered with {status}")),
        _ => paint(GOOD, "forwarded"),
    };
    text.push_str(&format!("\n{outcome}: {}\n", verdict.reason));
    text
}

fn of_backend(backend: &Backend) -> String {
    let Some(destination) = &backend.destination else { return String::new() };
    let (all, ready) = (backend.endpoints.len(), backend.endpoints.iter().filter(|one| one.healthy).count());
    let ready = match ready {
        0 => paint(WARN, "no endpoint is ready"),
        _ => format!("{ready} of {all} endpoints ready"),
    };
    let mut text = format!("\n{}: {ready}\n\n", paint(BOLD, destination));
    if let Some(admission) = &backend.admission {
        let word = if admission.allowed { paint(GOOD, "lets it in") } else { paint(BAD, "refuses it") };
        text.push_str(&format!("its own proxy {word}, by {}\n", admission.by));
        if !admission.depends_on.is_empty() {
            let claims = admission.depends_on.join(", ");
            text.push_str(&format!("{}\n", paint(WARN, format!("depends on the token's claim {claims}"))));
        }
        for policy in &admission.audited {
            text.push_str(&format!("{policy} would refuse it, and only reports\n"));
        }
        text.push('\n');
    }
    text.push_str(&endpoints(&backend.endpoints));
    text.push_str(&settings(&backend.settings));
    text
}

fn in_mesh(mesh: &[Setting]) -> String {
    format!("\n{}\n\n{}", paint(BOLD, "in the whole mesh"), settings(mesh))
}

fn settings(settings: &[Setting]) -> String {
    let mut table = Table::new(&["SETTING", "VALUE", "FROM"]);
    for setting in settings {
        let from = match &setting.source {
            Some(source) => Cell::from(source.to_string()),
            None => Cell::styled(DIM, "default"),
        };
        table.row(vec![setting.name.clone().into(), setting.value.clone().into(), from]);
    }
    if settings.is_empty() { String::new() } else { table.render() }
}

fn endpoints(endpoints: &[EndpointStatus]) -> String {
    let mut table = Table::new(&["ENDPOINT", "IDENTITY", "ZONE", "STATE"]);
    for endpoint in endpoints {
        let state = match (endpoint.healthy, endpoint.connected) {
            (true, true) => Cell::styled(GOOD, "ready"),
            (true, false) => Cell::styled(WARN, "ready, its stream is lost"),
            (false, _) => Cell::styled(BAD, "unhealthy"),
        };
        table.row(vec![
            endpoint.address.clone().into(),
            endpoint.identity.clone().into(),
            endpoint.zone.clone().into(),
            state,
        ]);
    }
    if endpoints.is_empty() { String::new() } else { format!("{}\n", table.render()) }
}

/// Everything that holds for a service, without a request.
fn show_service(args: &ExplainArgs, compiled: &CompiledService, port: Option<u16>) -> Result<(), Stop> {
    if args.output.output != Format::Table {
        return output::value(args.output.output, &serde_json::to_value(compiled)?);
    }
    let message: v1::Service = compiled.service.read()?;
    let name = format!("{}.{}", compiled.name, compiled.namespace);
    let mut text = format!(
        "{} for callers in {}, by revision {}\n",
        paint(BOLD, name),
        compiled.client,
        compiled.revision
    );
    for raw in message.ports.iter().filter(|raw| port.is_none_or(|port| raw.port == u32::from(port))) {
        let origins = compiled.ports.iter().find(|origins| u32::from(origins.port) == raw.port);
        let state = if raw.routed { "" } else { ": no routes, requests go to its own endpoints" };
        text.push_str(&format!("\nport {} {}{state}\n", raw.port, raw.name));
        let mut table = Table::new(&["MATCH", "RULE", "FROM"]);
        for found in &raw.matches {
            let origin = usize::try_from(found.rule).ok().and_then(|rule| origins?.rules.get(rule));
            let (rule, source) =
                origin.map(|origin| (origin.rule.clone(), origin.source.to_string())).unwrap_or_default();
            table.row(vec![words(found).into(), rule.into(), source.into()]);
        }
        if raw.routed {
            text.push_str(&table.render());
        }
    }
    text.push('\n');
    text.push_str(&endpoints(&compiled.endpoints));
    text.push_str(&settings(&compiled.settings));
    text.push_str(&in_mesh(&compiled.mesh_settings));
    output::print(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_an_account_or_an_identity() {
        assert_eq!(parse_caller("shop/web").unwrap().namespace, "shop");
        assert_eq!(parse_caller("spiffe://t.local/ns/shop/sa/web").unwrap().namespace, "shop");
        for wrong in ["web", "shop/", "shop/web/x", "spiffe://t.local/web", "Shop/web"] {
            assert!(parse_caller(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_destination_is_named_as_in_a_request() {
        for (text, expected) in [
            ("pay", ("pay.own", None)),
            ("pay.shop", ("pay.shop", None)),
            ("pay.shop.svc.cluster.local:8080", ("pay.shop", Some(8080))),
        ] {
            let (service, port) = destination(text, "own").unwrap();
            assert_eq!((service.to_string().as_str(), port), expected);
        }
        for wrong in ["pay:0", "pay:x", "pay.shop.example.com", ""] {
            assert!(matches!(destination(wrong, "own"), Err(Stop::Usage(_))), "{wrong:?}");
        }
    }

    #[test]
    fn a_claim_has_a_name_and_a_value_that_may_be_anything() {
        assert_eq!(parse_claim("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        for wrong in ["a", "=b", ""] {
            assert!(parse_claim(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_header_has_a_name_and_a_value() {
        assert_eq!(parse_header("X-A:  b c ").unwrap().1, "b c");
        for wrong in ["x-a", "x a: b", ": b", "x: \u{7}"] {
            assert!(parse_header(wrong).is_err(), "{wrong:?}");
        }
    }
}
