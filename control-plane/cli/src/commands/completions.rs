//! `outrigger completions`: what a shell needs to complete the command line.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Stop;
use crate::output;

/// Arguments of `outrigger completions`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  outrigger completions bash > ~/.local/share/bash-completion/completions/outrigger
  outrigger completions zsh > ~/.zfunc/_outrigger
  outrigger completions fish > ~/.config/fish/completions/outrigger.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Prints the completions.
///
/// # Errors
/// Nobody reads them.
pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Stop> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "outrigger", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
