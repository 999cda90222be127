//! Commands: parse, call, print. The only place that prints or exits.
//!
//! One file a command below `cli/`; each has an `Args` struct and `pub(super) async fn run(args, Shell) -> Result`.

pub mod error;
pub mod output;

mod act;
mod again;
mod bundle;
mod clusters;
mod completion;
mod fix;
mod image;
mod init;
mod join;
mod kubeconfig;
mod kubectl;
mod life;
mod node;
mod reset;
mod ssh;
mod status;
mod token;
mod up;
mod version;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::error::{Failure, Kind, Result};
use self::output::Format;

/// What every command is given: how to write, and whether somebody pressed Ctrl-C.
#[derive(Debug, Clone)]
pub struct Shell {
    /// How results are written.
    pub format: Format,
}

/// From bare machines to a real Kubernetes cluster.
#[derive(Debug, Parser)]
#[command(name = "kprov", version = version::TEXT, disable_help_subcommand = true, max_term_width = 120)]
struct Cli {
    /// How results are written; json on commands that act is one event a line
    #[arg(short = 'o', long = "output", global = true, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    output: Format,

    /// More about what happens inside, on stderr (repeat for more)
    #[arg(short = 'v', long = "verbose", global = true, action = clap::ArgAction::Count)]
    verbose: u8,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(Box<init::Args>),
    Join(Box<join::Args>),
    Reset(reset::Args),
    Token(token::Args),
    Up(up::Args),
    Status(status::Args),
    Ssh(ssh::Args),
    Kubectl(kubectl::Args),
    Kubeconfig(kubeconfig::Args),
    Image(image::Args),
    Stop(life::Stop),
    Start(life::Start),
    Down(life::Down),
    Bundle(bundle::Args),
    Version(version::Args),
    Completion(completion::Args),
}

/// Parses the command line, runs the command, prints its failure and returns its exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error, asked_for_json(std::env::args())),
    };
    log(cli.verbose);
    let shell = Shell { format: cli.output };
    match dispatch(cli.command, &shell) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if output::failed(shell.format, &failure).is_err() || !failure.error.to_string().is_empty() {
                output::stderr(&failure.to_string());
            }
            ExitCode::from(failure.kind.code())
        }
    }
}

/// Runs the command; its exit code.
fn dispatch(command: Command, shell: &Shell) -> Result<u8> {
    match command {
        Command::Up(args) => up::run(args, shell),
        Command::Status(args) => status::run(&args, shell),
        Command::Ssh(args) => ssh::run(&args),
        Command::Kubectl(args) => kubectl::run(&args),
        Command::Kubeconfig(args) => kubeconfig::run(&args, shell),
        Command::Image(args) => image::run(args, shell),
        Command::Stop(args) => life::stop(args, shell),
        Command::Start(args) => life::start(args, shell),
        Command::Down(args) => life::down(args, shell),
        Command::Bundle(args) => bundle::run(args, shell),
        Command::Reset(args) => reset::run(args, shell),
        Command::Token(args) => token::run(args, shell),
        Command::Version(args) => version::run(&args, shell).map(|()| 0),
        Command::Completion(args) => completion::run(&args).map(|()| 0),
        Command::Init(args) => init::run(*args, shell),
        Command::Join(args) => join::run(*args, shell),
    }
}

/// clap's own message; help and version are no failure. Whoever reads events gets their last line even so.
fn usage(error: &clap::Error, json: bool) -> ExitCode {
    // A terminal that went away is no error of ours.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    if json {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        let _ = output::failed(Format::Json, &Failure::usage(first.trim_start_matches("error: ")));
    }
    ExitCode::from(Kind::Usage.code())
}

/// Whether `-o json` is among arguments that could not be parsed.
fn asked_for_json(arguments: impl Iterator<Item = String>) -> bool {
    let arguments: Vec<String> = arguments.collect();
    let pairs = arguments.iter().zip(arguments.iter().skip(1));
    arguments.iter().any(|word| matches!(word.as_str(), "-ojson" | "-o=json" | "--output=json"))
        || pairs.into_iter().any(|(flag, value)| matches!(flag.as_str(), "-o" | "--output") && value == "json")
}

fn log(verbose: u8) {
    let level = match verbose {
        0 => return,
        1 => "kprov=debug,kprov_providers=debug",
        2 => "debug",
        _ => "trace",
    };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(level).init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_in_its_help() {
        fn walk(command: &clap::Command, path: &str, without: &mut Vec<String>) {
            for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
                let path = format!("{path} {}", sub.get_name());
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                if sub.get_subcommands().next().is_none() && !help.contains("Example") {
                    without.push(path.clone());
                }
                walk(sub, &path, without);
            }
        }
        let mut without = Vec::new();
        walk(&Cli::command(), "kprov", &mut without);
        assert!(without.is_empty(), "no examples in --help of: {without:?}");
    }
}
