//! The proxy's command line, as it is written.
//!
//! Every value is text here: [`ProxyConfig`](crate::config::ProxyConfig) reads them together with the file of
//! `--config`, and reports all problems at once instead of the first.

use std::path::PathBuf;

/// What to type, for the end of `--help`.
pub const EXAMPLES: &str = "\
Examples:
  A service on port 80 whose application listens on 127.0.0.1:9001:
    outrigger proxy --namespace shop --service payments --service-account payments \\
      --app 80=127.0.0.1:9001 --join-token-file payments.token --state-dir /var/lib/outrigger/payments

  The same from a file, with the port changed for this run:
    outrigger proxy --config payments.yaml --app 80=127.0.0.1:9002

  Only to call others: a database over TCP, everything else as HTTP through the outbound port:
    outrigger proxy --namespace shop --service-account batch --join-token-file batch.token \\
      --listen 127.0.0.1:5432=db.shop:5432";

/// Flags of the proxy. Each has an `OUTRIGGER_` variable, and a field of the same name in the file of `--config`;
/// a flag or variable wins over the file.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ProxyArgs {
    /// YAML file with the same fields as these flags, and `limits`
    #[arg(long, env = "OUTRIGGER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Namespace of the workload
    #[arg(long, env = "OUTRIGGER_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,

    /// Service that the workload is an instance of; not needed by one that only calls others
    #[arg(long, env = "OUTRIGGER_SERVICE", value_name = "NAME")]
    pub service: Option<String>,

    /// Service account: the last part of the workload's SPIFFE identity
    #[arg(long, env = "OUTRIGGER_SERVICE_ACCOUNT", value_name = "NAME")]
    pub service_account: Option<String>,

    /// A port of the service and the application behind it, as PORT[/PROTOCOL]=IP:PORT; PROTOCOL is detect, http,
    /// http2, grpc or tcp [default: detect, tcp where the server is known to speak first]
    #[arg(long, env = "OUTRIGGER_APP", value_name = "PORT[/PROTOCOL]=IP:PORT", value_delimiter = ',')]
    pub app: Vec<String>,

    /// How to see that the application behind a port is healthy, as PORT=tcp, PORT=http:/PATH or PORT=grpc
    /// [default: tcp]
    #[arg(long, env = "OUTRIGGER_HEALTH", value_name = "PORT=CHECK", value_delimiter = ',')]
    pub health: Vec<String>,

    /// A local port that leads to one port of a service, for protocols that name no destination, as
    /// IP:PORT=NAME.NAMESPACE:PORT
    #[arg(long, env = "OUTRIGGER_LISTEN", value_name = "IP:PORT=NAME.NAMESPACE:PORT", value_delimiter = ',')]
    pub listen: Vec<String>,

    /// Serve the Gateway of this name, in the proxy's namespace, to callers outside the mesh
    #[arg(long, env = "OUTRIGGER_GATEWAY", value_name = "NAME")]
    pub gateway: Option<String>,

    /// Where to take connections in from outside, and for which port of the Gateway's listeners, as IP:PORT=PORT
    #[arg(long, env = "OUTRIGGER_GATEWAY_LISTEN", value_name = "IP:PORT=PORT", value_delimiter = ',')]
    pub gateway_listen: Vec<String>,

    /// Directory with the Gateway's certificates, as NAME/tls.crt and NAME/tls.key
    #[arg(long, env = "OUTRIGGER_CERTIFICATES", value_name = "DIR")]
    pub certificates: Option<String>,

    /// Where the control plane serves proxies [default: 127.0.0.1:4781]
    #[arg(long, env = "OUTRIGGER_CONTROL_PLANE", value_name = "HOST:PORT")]
    pub control_plane: Option<String>,

    /// File with the join token that proves the workload's identity the first time
    #[arg(long, env = "OUTRIGGER_JOIN_TOKEN_FILE", value_name = "FILE")]
    pub join_token_file: Option<String>,

    /// Directory that keeps the last good policy for a start without the control plane
    #[arg(long, env = "OUTRIGGER_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<String>,

    /// Keep the workload's private key and certificate in the state directory, too
    #[arg(
        long,
        env = "OUTRIGGER_PERSIST_IDENTITY",
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub persist_identity: Option<String>,

    /// Where the workload's own calls come in [default: 127.0.0.1:4740]
    #[arg(long, env = "OUTRIGGER_OUTBOUND", value_name = "IP:PORT")]
    pub outbound: Option<String>,

    /// Where other proxies reach this workload [default: 0.0.0.0:4743]
    #[arg(long, env = "OUTRIGGER_INBOUND", value_name = "IP:PORT")]
    pub inbound: Option<String>,

    /// The inbound address as others see it [default: this host's address towards the control plane]
    #[arg(long, env = "OUTRIGGER_ADVERTISE", value_name = "IP:PORT")]
    pub advertise: Option<String>,

    /// Where /live, /ready, /metrics, /config and /drain are served [default: 127.0.0.1:4791]
    #[arg(long, env = "OUTRIGGER_ADMIN", value_name = "IP:PORT")]
    pub admin: Option<String>,

    /// Threads that serve requests, 1 to 256 [default: 1]
    #[arg(long, env = "OUTRIGGER_WORKERS", value_name = "NUMBER")]
    pub workers: Option<String>,

    /// Where the workload runs; callers in the same zone prefer it
    #[arg(long, env = "OUTRIGGER_ZONE", value_name = "ZONE")]
    pub zone: Option<String>,

    /// How long a shutdown waits for requests under way [default: 30s]
    #[arg(long, env = "OUTRIGGER_DRAIN_TIMEOUT", value_name = "DURATION")]
    pub drain_timeout: Option<String>,

    /// How long a connection may take to show its protocol [default: 3s]
    #[arg(long, env = "OUTRIGGER_DETECT_TIMEOUT", value_name = "DURATION")]
    pub detect_timeout: Option<String>,

    /// Name server for hosts outside the mesh [default: those of the machine]
    #[arg(long, env = "OUTRIGGER_DNS", value_name = "IP:PORT")]
    pub dns: Option<String>,

    /// PEM file of certificate authorities that prove servers outside the mesh, beside those of the machine
    #[arg(long, env = "OUTRIGGER_OUTSIDE_ROOTS", value_name = "FILE")]
    pub outside_roots: Option<String>,

    /// OTLP/gRPC collector for spans; MeshConfig's wins. OTEL_EXPORTER_OTLP_ENDPOINT is read, too
    #[arg(long, env = "OUTRIGGER_OTLP_ENDPOINT", value_name = "http://HOST:PORT")]
    pub otlp_endpoint: Option<String>,

    /// The variable that OpenTelemetry's own tools read; `--otlp-endpoint` wins over it.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", hide = true)]
    pub otel_exporter_otlp_endpoint: Option<String>,

    /// Share of the traces started here that is sampled, 0 to 1 [default: MeshConfig's]
    #[arg(long, env = "OUTRIGGER_SAMPLING", value_name = "RATIO")]
    pub sampling: Option<String>,

    /// One JSON line a request: auto (to stdout if MeshConfig says so), on, off or a file [default: auto]
    #[arg(long, env = "OUTRIGGER_ACCESS_LOG", value_name = "auto|on|off|FILE")]
    pub access_log: Option<String>,
}

impl ProxyArgs {
    /// What was given, by the name of the field in the file of `--config`.
    pub(crate) fn given(&self) -> Vec<(&'static str, Vec<String>)> {
        let one = |value: &Option<String>| value.iter().cloned().collect::<Vec<_>>();
        let otlp = self.otlp_endpoint.as_ref().or(self.otel_exporter_otlp_endpoint.as_ref()).cloned();
        let all = [
            ("namespace", one(&self.namespace)),
            ("service", one(&self.service)),
            ("service-account", one(&self.service_account)),
            ("app", self.app.clone()),
            ("health", self.health.clone()),
            ("listen", self.listen.clone()),
            ("gateway", one(&self.gateway)),
            ("gateway-listen", self.gateway_listen.clone()),
            ("certificates", one(&self.certificates)),
            ("control-plane", one(&self.control_plane)),
            ("join-token-file", one(&self.join_token_file)),
            ("state-dir", one(&self.state_dir)),
            ("persist-identity", one(&self.persist_identity)),
            ("outbound", one(&self.outbound)),
            ("inbound", one(&self.inbound)),
            ("advertise", one(&self.advertise)),
            ("admin", one(&self.admin)),
            ("workers", one(&self.workers)),
            ("zone", one(&self.zone)),
            ("drain-timeout", one(&self.drain_timeout)),
            ("detect-timeout", one(&self.detect_timeout)),
            ("dns", one(&self.dns)),
            ("outside-roots", one(&self.outside_roots)),
            ("otlp-endpoint", one(&otlp)),
            ("sampling", one(&self.sampling)),
            ("access-log", one(&self.access_log)),
        ];
        all.into_iter().filter(|(_, values)| !values.is_empty()).collect()
    }
}
