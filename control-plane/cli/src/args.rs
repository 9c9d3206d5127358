//! The command line as a whole: every command with the one line that `outrigger --help` shows.

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand};

use crate::commands;
use crate::demo;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Outrigger, a service mesh: identity, mutual TLS, retries, timeouts, failover, traces and latency for services
/// that do not change a line.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, styles = STYLES, max_term_width = 110, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "\
Start here:
  outrigger demo                         a mesh of three services, with traffic
  outrigger control-plane                run the control plane
  outrigger run --namespace shop --service web --app 80=127.0.0.1:8080 -- ./web
                                         run a program with a sidecar beside it
  outrigger check                        is everything as it should be

Exit status: 0 success, 1 a failed check or a refusal, 2 a wrong command line.")]
pub(crate) struct Cli {
    /// End when the process with this id, which must be the parent, does.
    #[arg(long, hide = true, value_name = "PID")]
    pub(crate) end_with_parent: Option<i32>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Everything that the command can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A mesh of three services on this machine, with traffic, shown step by step.
    Demo(demo::DemoArgs),
    /// Run the control plane.
    ControlPlane(commands::control_plane::ControlPlaneArgs),
    /// Run a sidecar (the same as the outrigger-proxy program).
    Proxy(Box<outrigger_proxy::ProxyArgs>),
    /// Run a program with a sidecar beside it.
    Run(Box<commands::run::RunArgs>),
    /// Create or change documents, all of them or none.
    Apply(commands::apply::ApplyArgs),
    /// Show documents.
    Get(commands::get::GetArgs),
    /// Remove documents.
    Delete(commands::delete::DeleteArgs),
    /// Show what apply would change.
    Diff(commands::diff::DiffArgs),
    /// Check documents without a control plane.
    Validate(commands::validate::ValidateArgs),
    /// Show who changed what, and when.
    History(commands::history::HistoryArgs),
    /// Bring the documents of an earlier revision back.
    Rollback(commands::rollback::RollbackArgs),
    /// Join tokens, with which workloads get their first certificate.
    Token(commands::token::TokenArgs),
    /// Traffic on every edge: requests, success before and after retries, latency.
    Stat(commands::stat::StatArgs),
    /// The proxies: who they are, and which policy they run.
    Proxies(commands::proxies::ProxiesArgs),
    /// The certificate authority and the identities in use.
    Identity(commands::identity::IdentityArgs),
    /// What the mesh does with a request, and which document says so.
    Explain(Box<commands::explain::ExplainArgs>),
    /// Is everything as it should be, and what to do where not.
    Check(commands::check::CheckArgs),
    /// Completions for a shell.
    Completions(commands::completions::CompletionsArgs),
    #[command(hide = true)]
    BecomeProgram(commands::run::BecomeArgs),
    #[command(hide = true)]
    DemoApp(demo::app::AppArgs),
    #[command(hide = true)]
    DemoClient(demo::load::LoadArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn visible(command: &clap::Command) -> Vec<clap::Command> {
        let mut all = Vec::new();
        for child in
            command.get_subcommands().filter(|child| !child.is_hide_set() && child.get_name() != "help")
        {
            all.push(child.clone());
            all.extend(visible(child));
        }
        all
    }

    fn built() -> clap::Command {
        let mut command = Cli::command();
        command.build();
        command
    }

    #[test]
    fn the_definitions_hold_together() {
        built().debug_assert();
    }

    #[test]
    fn every_flag_has_an_environment_variable() {
        for command in visible(&built()) {
            for argument in command.get_arguments().filter(|a| a.get_long().is_some() && !a.is_hide_set()) {
                let id = argument.get_id().as_str();
                if matches!(id, "help" | "version") {
                    continue;
                }
                let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
                let known = variable.as_deref().is_some_and(|name| name.starts_with("OUTRIGGER_"));
                assert!(known, "{} --{id}: {variable:?}", command.get_name());
            }
        }
    }

    #[test]
    fn every_command_has_help_with_an_example() {
        for mut command in visible(&built()) {
            let help = command.render_long_help().to_string();
            let example =
                help.split_once("Examples:\n").is_some_and(|(_, text)| text.contains("  outrigger "));
            assert!(example, "{}:\n{help}", command.get_name());
        }
    }

    #[test]
    fn wrong_command_lines_are_usage_errors() {
        for wrong in [
            "outrigger",
            "outrigger dmo",
            "outrigger get",
            "outrigger get pods",
            "outrigger get services -o xml",
            "outrigger get services ../x",
            "outrigger apply",
            "outrigger delete service",
            "outrigger demo --duration 1s",
            "outrigger demo --rps 0",
            "outrigger rollback",
            "outrigger rollback x",
            "outrigger token create",
            "outrigger token create --namespace Shop --service-account a",
            "outrigger run --service web",
            "outrigger stat --window soon",
            "outrigger explain",
            "outrigger explain --from web pay.shop",
            "outrigger explain pay.shop -H novalue",
            "outrigger control-plane --api-listen 4780",
            "outrigger completions cmd",
        ] {
            let error = Cli::try_parse_from(wrong.split(' ')).expect_err(wrong);
            assert_eq!(error.exit_code(), 2, "{wrong}: {error}");
            assert_ne!(error.kind(), ErrorKind::DisplayHelp, "{wrong}");
        }
    }
}
