//! The program `globallock`: see `globallock --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    globallock_cli::main(&globallock::Schemes::default())
}
