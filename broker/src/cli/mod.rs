//! The command line for people who have no Kafka tools at hand: topics, groups, configurations, producing, consuming,
//! offsets, and a look at the machine. It works with any Kafka cluster; only [`doctor`] is about this program's own needs.
//!
//! A command prints its result on standard output, as tables or (`--json`) as one JSON document, `consume` as one a
//! record; everything else it has to say goes to standard error. It ends with 0; with 1 when something was refused or
//! failed; with 2 for a command line that cannot be understood; with 3 when no broker can be reached.

mod base64;
mod client;
mod config;
mod connection;
mod consume;
mod doctor;
mod error;
mod group;
mod murmur2;
mod offsets;
mod output;
mod produce;
mod time;
mod topic;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use client::Client;
use error::CliError;
use output::Output;

/// What every command that talks to a cluster takes.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Brokers to ask first, separated by commas; they name all others
    #[arg(long, short = 'b', global = true, value_name = "HOST:PORT", default_value = "127.0.0.1:9092")]
    bootstrap_server: String,
    /// How long the cluster may take to do what is asked, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30)]
    timeout: u32,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
}

impl Common {
    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout.into())
    }

    fn client(&self) -> Result<Client, CliError> {
        Client::connect(&self.bootstrap_server, self.timeout())
    }

    fn output(&self) -> Output {
        Output::new(self.json)
    }
}

/// The commands.
#[derive(Subcommand, Debug)]
#[allow(missing_docs, reason = "a comment on a flattened field would take the place of the command's own help")]
pub enum Command {
    /// Create, list, describe, alter and delete topics
    #[command(after_help = topic::EXAMPLES)]
    Topic {
        #[command(flatten)]
        common: Common,
        #[command(subcommand)]
        command: topic::Command,
    },
    /// Look at consumer groups, how far they are behind, and set their offsets
    #[command(after_help = group::EXAMPLES)]
    Group {
        #[command(flatten)]
        common: Common,
        #[command(subcommand)]
        command: group::Command,
    },
    /// Show and change configurations of topics and brokers
    #[command(after_help = config::EXAMPLES)]
    Config {
        #[command(flatten)]
        common: Common,
        #[command(subcommand)]
        command: config::Command,
    },
    /// Write lines to a topic
    #[command(after_help = produce::EXAMPLES)]
    Produce {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        options: produce::Options,
    },
    /// Print the records of a topic
    #[command(after_help = consume::EXAMPLES)]
    Consume {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        options: consume::Options,
    },
    /// Print the first and the next offset of partitions, or those of a time
    #[command(after_help = offsets::EXAMPLES)]
    Offsets {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        options: offsets::Options,
    },
    /// Look at this machine: whether a broker can run here, and run well
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::Options),
}

/// Runs a command to its end.
pub fn run(command: Command) -> ExitCode {
    let result = match command {
        Command::Topic { common, command } => topic::run(&common, command),
        Command::Group { common, command } => group::run(&common, command),
        Command::Config { common, command } => config::run(&common, command),
        Command::Produce { common, options } => produce::run(&common, &options),
        Command::Consume { common, options } => consume::run(&common, &options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Offsets { common, options } => offsets::run(&common, &options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(CliError::OutputClosed) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millstream: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Splits `name=value`; for clap.
fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it must have the form name=value".to_owned()),
    }
}
