//! The kprov command.

fn main() -> std::process::ExitCode {
    kprov::cli::main()
}
