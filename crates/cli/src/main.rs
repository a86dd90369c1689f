//! The `anneal` command: what was typed ([`args`]), one file per command ([`commands`]), and the
//! manners that they share. Everything that trains, reads or computes lives in the other rooms.

mod args;
mod cache;
mod commands;
mod device_choice;
mod keep_awake;
mod machine;
mod own_command;
mod progress;
mod sampling;
mod table;
mod units;
mod validation;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use args::{Args, Command, DataCommand, MilCommand};
use commands::{bench, data, devices, estimate, eval, generate, mil, mil_export, probe, report, train};

/// The result of a command.
type Result<T = ExitCode, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> ExitCode {
    let args = Args::read();
    // Standard output is not locked: a progress bar may be drawn from another thread.
    let out = &mut io::stdout();
    let done = match &args.command {
        Command::Train(args) => train::run(args, out),
        Command::Eval(args) => eval::run(args, out),
        Command::Generate(args) => generate::run(args, out),
        Command::Report(args) => report::run(args, out),
        Command::Data(DataCommand::Prepare(args)) => data::prepare(args, out),
        Command::Data(DataCommand::Inspect(args)) => data::inspect(args, out),
        Command::Data(DataCommand::Tokenizer(args)) => data::tokenizer(args, out),
        Command::Devices(args) => devices::run(args, out),
        Command::Mil(MilCommand::Print(args)) => mil::print(args, out),
        Command::Mil(MilCommand::Lint(args)) => mil::run_lint(args, out),
        Command::Mil(MilCommand::Rules(args)) => mil::rules(args, out),
        Command::Mil(MilCommand::Export(args)) => mil_export::run(args, out),
        Command::Mil(MilCommand::Estimate(args)) => estimate::run(args, out),
        Command::Bench(args) => bench::run(args, out),
        Command::ProbeEngine => probe::run(out),
    };
    match done.and_then(|code| Ok(out.flush().map(|()| code)?)) {
        Ok(code) => code,
        // Who reads has seen enough, as with `| head`.
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = write!(io::stderr(), "{}", report(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// `error: …`, and each cause that the line above does not already tell on a line of its own.
fn report(error: &dyn Error) -> String {
    let mut told = error.to_string();
    let mut lines = format!("error: {told}\n");
    let mut cause = error.source();
    while let Some(next) = cause {
        let text = next.to_string();
        if !told.contains(&text) {
            lines += &format!("  because: {text}\n");
            told = text;
        }
        cause = next.source();
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(&'static str, io::Error);

    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn causes_stand_below_unless_they_were_told() {
        let cause = || io::Error::other("disk on fire");
        let error = Outer("a.txt: cannot read it", cause());
        let expected = "error: a.txt: cannot read it\n  because: disk on fire\n";
        assert_eq!(report(&error), expected);
        let error = Outer("a.txt: disk on fire", cause());
        assert_eq!(report(&error), "error: a.txt: disk on fire\n");
    }
}
