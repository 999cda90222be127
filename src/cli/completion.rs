//! `kprov completion SHELL`.

use clap::CommandFactory as _;

use super::error::Result;
use super::output;

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  source <(kprov completion bash)\n  kprov completion zsh > ~/.zfunc/_kprov")]
pub(super) struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

/// Prints it.
pub(super) fn run(args: &Args) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "kprov", &mut script);
    output::stdout(&String::from_utf8_lossy(&script));
    Ok(())
}
