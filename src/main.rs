//! The command line; see `candlewick --help`.

fn main() -> std::process::ExitCode {
    candlewick::cli::main()
}
