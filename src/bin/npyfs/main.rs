//! Arguments to command to exit code.

// They panic where they cannot write; `output` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod asking;
mod cli;
mod commands;
mod daemon;
mod exit;
mod mount_options;
mod mountinfo;
mod output;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let for_mount = cli::called_by_mount(&arguments);
    let ended = match cli::parse(arguments) {
        Ok(command) => command.run(),
        Err(said) => output::instead_of_a_command(&said),
    };
    match ended {
        Ok(()) => ExitCode::from(exit::Exit::Ok as u8),
        Err(failure) => {
            output::complain(&failure);
            ExitCode::from(match for_mount {
                true => failure.exit.for_mount(),
                false => failure.exit as u8,
            })
        }
    }
}
