//! Arguments to command to exit code.

mod cli;
mod commands;
mod daemon;
mod exit;
mod mountinfo;

use std::process::ExitCode;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os().collect()) {
        Ok(command) => command,
        Err(error) => error.exit(),
    };
    match command.run() {
        Ok(()) => ExitCode::from(exit::Exit::Ok as u8),
        Err(failure) => {
            eprintln!("npyfs: {failure}");
            ExitCode::from(failure.exit as u8)
        }
    }
}
