use clap::{CommandFactory, FromArgMatches, Parser};

use super::*;

/// The command line as a binary parses it.
#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    args: ProxyArgs,
}

/// Without the environment of whoever runs the tests.
fn args(words: &[&str]) -> ProxyArgs {
    let deaf = Command::command().mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
    let matches = deaf.try_get_matches_from(std::iter::once("proxy").chain(words.iter().copied()));
    Command::from_arg_matches(&matches.unwrap()).unwrap().args
}

fn read(words: &[&str]) -> Result<ProxyConfig, ConfigError> {
    ProxyConfig::try_from(args(words))
}

const ENOUGH: [&str; 6] = [
    "--namespace=shop",
    "--service=payments",
    "--service-account=pay",
    "--app=80=127.0.0.1:9001",
    "--join-token-file=t",
    "--zone=a",
];

fn enough_and(words: &[&str]) -> Result<ProxyConfig, ConfigError> {
    read(&[&ENOUGH[..], words].concat())
}

fn problems(words: &[&str]) -> Vec<String> {
    enough_and(words).expect_err(&format!("{words:?} should be refused")).problems
}

fn with_file(text: &str, words: &[&str]) -> Result<ProxyConfig, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let path = format!("--config={}", file.path().display());
    read(&[&[path.as_str()], words].concat()).map_err(|error| ConfigError {
        problems: error
            .problems
            .iter()
            .map(|p| p.replace(&file.path().display().to_string(), "FILE"))
            .collect(),
    })
}

#[test]
fn what_is_not_said_has_the_documented_default() {
    let config = enough_and(&[]).unwrap();
    assert_eq!(config.outbound, "127.0.0.1:4740".parse().unwrap());
    assert_eq!(config.inbound, "0.0.0.0:4743".parse().unwrap());
    assert_eq!(config.admin, "127.0.0.1:4791".parse().unwrap());
    assert_eq!(config.control_plane, "127.0.0.1:4781");
    assert_eq!(config.workers.get(), 1);
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.limits.detect_timeout, Duration::from_secs(3));
    assert_eq!((config.sampling, config.otlp_endpoint.as_deref(), config.advertise), (None, None, None));
    assert_eq!(config.access_log, AccessLogMode::Auto);
    assert!(!config.persist_identity);
    assert_eq!(config.service, Some(ServiceName::new("shop", "payments").unwrap()));
    assert_eq!(
        config.apps[0].check(),
        Check { address: "127.0.0.1:9001".parse().unwrap(), kind: CheckKind::Tcp }
    );
}

#[test]
fn every_flag_is_understood() {
    let config = enough_and(&[
        "--app=443/tcp=[::1]:9443,90/grpc=localhost:9090",
        "--health=80=http:/healthz?x=1",
        "--health=90=grpc",
        "--listen=127.0.0.1:15432=db.shop:5432",
        "--control-plane=cp.example.com:4781",
        "--state-dir=/s",
        "--persist-identity",
        "--outbound=127.0.0.1:0",
        "--inbound=0.0.0.0:0",
        "--advertise=10.0.0.7:4743",
        "--admin=127.0.0.1:0",
        "--workers=4",
        "--drain-timeout=1m30s",
        "--detect-timeout=500ms",
        "--otlp-endpoint=http://127.0.0.1:4317",
        "--sampling=0.25",
        "--access-log=/var/log/a.log",
    ])
    .unwrap();
    let ports: Vec<_> = config.apps.iter().map(|app| (app.port, app.protocol)).collect();
    assert_eq!(ports, [(80, Protocol::Detect), (90, Protocol::Http2), (443, Protocol::Tcp)]);
    assert_eq!(config.apps[0].health, CheckKind::Http { path: "/healthz?x=1".into() });
    assert_eq!(config.apps[1].health, CheckKind::Grpc);
    assert_eq!(config.apps[1].address, "127.0.0.1:9090".parse().unwrap());
    assert_eq!(config.listens[0].service.to_string(), "db.shop");
    assert_eq!(config.listens[0].port, 5432);
    assert!(config.persist_identity);
    assert_eq!(config.advertise, Some("10.0.0.7:4743".parse().unwrap()));
    assert_eq!(config.workers.get(), 4);
    assert_eq!(config.drain_timeout, Duration::from_secs(90));
    assert_eq!(config.limits.detect_timeout, Duration::from_millis(500));
    assert_eq!(config.sampling, Some(0.25));
    assert_eq!(config.access_log, AccessLogMode::File("/var/log/a.log".into()));
}

#[test]
fn ports_whose_servers_speak_first_are_opaque_unless_declared() {
    for (app, protocol) in [
        ("5432=127.0.0.1:9000", Protocol::Tcp),
        ("9000=127.0.0.1:6379", Protocol::Tcp),
        ("3306/http=127.0.0.1:9000", Protocol::Http1),
        ("8080=127.0.0.1:9000", Protocol::Detect),
        ("8080/http2=127.0.0.1:9000", Protocol::Http2),
    ] {
        let config = enough_and(&[&format!("--app={app}")]).unwrap();
        let added = config.apps.iter().find(|a| a.port != 80).unwrap();
        assert_eq!(added.protocol, protocol, "{app}");
    }
}

#[test]
fn a_wrong_value_is_named_with_its_flag_and_what_to_write() {
    for (flag, value, hint) in [
        ("app", "80", "is not PORT[/PROTOCOL]=IP:PORT, for example 80=127.0.0.1:9001"),
        ("app", "80=9001", "is not PORT[/PROTOCOL]=IP:PORT"),
        ("app", "0=127.0.0.1:9001", "has no port from 1 to 65535 in \"0\""),
        ("app", "70000=127.0.0.1:9001", "has no port from 1 to 65535 in \"70000\""),
        ("app", "81=0.0.0.0:9001", "is not PORT[/PROTOCOL]=IP:PORT"),
        ("app", "81/ftp=127.0.0.1:9001", "there are detect, http, http2, grpc and tcp"),
        ("health", "80=smtp", "is not PORT=tcp, PORT=http:/PATH or PORT=grpc"),
        ("health", "80=http:healthz", "is not PORT=tcp"),
        ("listen", "127.0.0.1:1=db:1", "names no service"),
        ("listen", "127.0.0.1:1=db.shop", "is not IP:PORT=NAME.NAMESPACE:PORT"),
        ("listen", "127.0.0.1:1=db.shop:0", "has no port from 1 to 65535"),
        ("control-plane", "https://cp:4781", "leave the scheme out"),
        ("control-plane", "cp", "is not HOST:PORT"),
        ("control-plane", "c p:1", "is not HOST:PORT"),
        ("state-dir", "", "is empty"),
        ("persist-identity", "maybe", "is neither true nor false"),
        ("outbound", "4740", "is not IP:PORT"),
        ("inbound", "example.com:4743", "is not IP:PORT"),
        ("advertise", "0.0.0.0:4743", "give the one that others reach it by"),
        ("advertise", "10.0.0.1:0", "has port 0"),
        ("admin", "127.0.0.1:99999", "is not IP:PORT"),
        ("workers", "0", "is not a number from 1 to 256"),
        ("workers", "many", "is not a number from 1 to 256"),
        ("drain-timeout", "30", "is not a duration, for example 500ms, 3s or 1m30s"),
        ("drain-timeout", "1s1m", "is not a duration"),
        ("drain-timeout", "0s", "is not a duration from 1ms to 100h"),
        ("detect-timeout", "99999999999h", "is not a duration"),
        ("otlp-endpoint", "127.0.0.1:4317", "is not http://HOST:PORT of an OTLP/gRPC collector"),
        ("otlp-endpoint", "https://c:4317", "asks for TLS"),
        ("otlp-endpoint", "http://c:4318/v1/traces", "is not http://HOST:PORT"),
        ("sampling", "2", "is not a share from 0 to 1"),
        ("sampling", "NaN", "is not a share from 0 to 1"),
        ("access-log", "", "must be auto, on, off or the path of a file"),
    ] {
        let all = problems(&[&format!("--{flag}={value}")]);
        let named = format!("--{flag}: {value:?} ");
        assert!(all.iter().any(|p| p.starts_with(&named) && p.contains(hint)), "{flag}={value}: {all:?}");
    }
}

#[test]
fn a_wrong_variable_of_opentelemetry_is_named_and_a_flag_wins_over_it() {
    let given = [&ENOUGH[..], &["--otel-exporter-otlp-endpoint=https://c:4317"]].concat();
    let mut args = args(&given);
    let error = ProxyConfig::try_from(args.clone()).unwrap_err().to_string();
    assert!(error.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: \"https://c:4317\" asks for TLS"), "{error}");
    args.otlp_endpoint = Some("http://127.0.0.1:4317".into());
    let config = ProxyConfig::try_from(args).unwrap();
    assert_eq!(config.otlp_endpoint.as_deref(), Some("http://127.0.0.1:4317"));
}

#[test]
fn all_problems_come_at_once() {
    let error = read(&["--app=x", "--workers=0", "--sampling=7"]).unwrap_err();
    let text = error.to_string();
    for flag in [
        "--namespace",
        "--service-account",
        "--app",
        "--service:",
        "--workers",
        "--sampling",
        "--join-token-file",
    ] {
        assert!(text.contains(flag), "{flag} in {text}");
    }
    assert!(text.starts_with("7 problems"), "{text}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    for (words, expected) in [
        (&["--app=80=127.0.0.1:9002"][..], "--app: port 80 is given twice"),
        (&["--health=81=tcp"], "--health: port 81 is not one of --app"),
        (&["--persist-identity"], "--persist-identity: needs --state-dir"),
        (
            &["--outbound=127.0.0.1:4791"],
            "--admin: 127.0.0.1:4791 is taken: --outbound listens on 127.0.0.1:4791",
        ),
        (
            &["--listen=127.0.0.1:4743=db.shop:1"],
            "--listen: 127.0.0.1:4743 is taken: --inbound listens on 0.0.0.0:4743",
        ),
    ] {
        let all = problems(words);
        assert!(all.iter().any(|p| p.starts_with(expected)), "{words:?}: {all:?}");
    }
}

#[test]
fn a_workload_that_only_calls_others_needs_no_service_and_a_kept_identity_no_token() {
    let config =
        read(&["--namespace=shop", "--service-account=batch", "--state-dir=s", "--persist-identity"])
            .unwrap();
    assert_eq!((config.service.as_ref(), config.apps.len()), (None, 0));
    assert_eq!(config.telemetry_name(), "batch");
}

#[test]
fn the_file_says_the_same_as_flags_in_either_spelling_and_flags_win() {
    let text = "
namespace: shop
service: payments
serviceAccount: pay
join-token-file: t
workers: 2
sampling: 0.5
persistIdentity: true
state_dir: /s
app: {80: '127.0.0.1:9001', 90/grpc: '127.0.0.1:9090'}
health: [\"80=http:/healthz\"]
listen: '127.0.0.1:15432=db.shop:5432'
limits:
  buffered-bytes: 32KiB
  http2Streams: 64
  detectTimeout: 1s
";
    let config = with_file(text, &[]).unwrap();
    assert_eq!((config.workers.get(), config.sampling, config.persist_identity), (2, Some(0.5), true));
    assert_eq!(config.apps.len(), 2);
    assert_eq!(config.apps[0].health, CheckKind::Http { path: "/healthz".into() });
    assert_eq!(config.listens.len(), 1);
    assert_eq!(config.limits.buffered_bytes, 32 << 10);
    assert_eq!(config.limits.http2_streams, 64);
    assert_eq!(config.limits.detect_timeout, Duration::from_secs(1));
    let config =
        with_file(text, &["--workers=3", "--app=7=127.0.0.1:7000", "--health=7=grpc", "--detect-timeout=2s"])
            .unwrap();
    assert_eq!(config.workers.get(), 3);
    assert_eq!(
        config.apps.iter().map(|a| a.port).collect::<Vec<_>>(),
        [7],
        "a flag replaces the file's list"
    );
    assert_eq!(config.limits.detect_timeout, Duration::from_secs(2));
}

#[test]
fn the_example_that_is_shipped_is_right() {
    let config = with_file(include_str!("../../../deploy/systemd/payments.yaml"), &[]).unwrap();
    assert_eq!(config.service.map(|service| service.to_string()).as_deref(), Some("payments.shop"));
    assert_eq!(config.apps[0].health, CheckKind::Http { path: "/healthz".into() });
}

#[test]
fn a_mistake_in_the_file_is_named_with_file_and_field() {
    let base = "namespace: shop\nserviceAccount: a\njoinTokenFile: t\n";
    for (text, expected) in [
        ("workers: none", "FILE: workers: \"none\" is not a number"),
        ("wrokers: 1", "FILE: wrokers: is no field; there are access-log, "),
        ("config: x", "FILE: config: a file cannot name another"),
        ("workers: [1, 2]", "FILE: workers: takes one value"),
        ("workers: ", "FILE: workers: must be a plain value"),
        ("stateDir: x\nstate-dir: y", "FILE: state-dir: is given twice"),
        ("limits: 5", "FILE: limits: must be a mapping"),
        ("limits: {heads: 1}", "FILE: limits.heads: is no limit; there are buffered-bytes, "),
        ("limits: {connections: 0}", "FILE: limits.connections: \"0\" is out of bounds: 1 to 1000000"),
        ("limits: {buffered-bytes: 1TB}", "FILE: limits.buffered-bytes: \"1TB\" is not a number of bytes"),
        ("app: {80: {a: b}}", "FILE: app: must be a plain value or a list"),
        ("a: [", "FILE: is not YAML: "),
    ] {
        let error = with_file(&format!("{base}{text}\n"), &[]).expect_err(text);
        assert!(error.problems.iter().any(|p| p.starts_with(expected)), "{text}: {error}");
    }
    let error = with_file("- a\n", &ENOUGH).unwrap_err();
    assert_eq!(error.problems, ["FILE: must be a mapping of fields to values"]);
    assert!(with_file("", &ENOUGH).is_ok(), "an empty file says nothing");
    let error = read(&["--config=/no/such/file"]).unwrap_err();
    assert!(error.problems[0].starts_with("--config: /no/such/file cannot be read: "), "{error}");
}

#[test]
fn every_field_of_the_file_is_a_flag_with_a_variable_of_its_name() {
    let command = Command::command();
    let flags: Vec<_> =
        command.get_arguments().filter(|a| !a.is_hide_set() && a.get_id() != "help").collect();
    let mut names: Vec<_> = flags.iter().filter_map(|a| a.get_long()).filter(|n| *n != "config").collect();
    names.sort_unstable();
    assert_eq!(names, settings::FIELDS);
    for flag in flags {
        let name = flag.get_long().unwrap();
        let variable = format!("OUTRIGGER_{}", name.to_uppercase().replace('-', "_"));
        assert_eq!(flag.get_env().and_then(|v| v.to_str()), Some(variable.as_str()));
        assert!(flag.get_help().is_some(), "{name}");
    }
    assert!(Command::command().render_help().to_string().contains("Examples:"));
}

#[test]
fn limits_of_the_file_are_all_read() {
    for field in limits::LIMIT_FIELDS {
        let usual = Limits::default().describe();
        let value = if field.ends_with("timeout") || field.ends_with("idle") { "7s" } else { "1234" };
        let text = format!("limits:\n  {field}: {value}\n");
        let described =
            with_file(&text, &ENOUGH).unwrap_or_else(|e| panic!("{field}: {e}")).limits.describe();
        let changed = described.as_object().unwrap().iter().filter(|(k, v)| usual[k.as_str()] != **v).count();
        assert_eq!(changed, 1, "{field}: {described}");
    }
}

#[test]
fn durations_print_as_they_are_read() {
    for text in ["1ms", "500ms", "3s", "90s", "1500ms"] {
        assert_eq!(parse::duration_text(parse::duration(text).unwrap()), text);
    }
    assert_eq!(parse::duration("1h2m3s4ms"), Ok(Duration::from_millis(3_723_004)));
    for wrong in ["", "s", "1", "-1s", "1.5s", "1s ", "1S", "1d", "1ss", "1s1s"] {
        assert!(parse::duration(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn the_description_has_every_field() {
    let described = enough_and(&[]).unwrap().describe();
    for field in settings::FIELDS.iter().filter(|field| **field != "health" && **field != "detect-timeout") {
        let words: String = field
            .split('-')
            .enumerate()
            .map(
                |(index, word)| {
                    if index == 0 { word.to_owned() } else { word[..1].to_uppercase() + &word[1..] }
                },
            )
            .collect();
        assert!(described.get(&words).is_some(), "{words} in {described}");
    }
    assert_eq!(described["limits"]["detectTimeout"], "3s");
    assert_eq!(described["app"][0]["health"], "tcp");
}
