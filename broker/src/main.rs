//! The `millstream` program.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use millstream::cli;
use millstream::config::BrokerConfig;
use millstream::driver::allocator::CountingAllocator;
use millstream::driver::serve;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// A durable streaming log broker that speaks the Kafka protocol.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker until SIGTERM or SIGINT.
    Serve {
        /// A file in the format of Kafka's server.properties. Without one, the defaults serve on 127.0.0.1:9092 and
        /// keep their data in ./data.
        properties: Option<PathBuf>,
        /// A property, given as name=value, that overrides the file. May be given many times.
        #[arg(long = "override", value_name = "NAME=VALUE")]
        overrides: Vec<String>,
    },
    #[command(flatten)]
    Cluster(cli::Command),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve { properties, overrides } => {
            let result = BrokerConfig::load(properties.as_deref(), &overrides).and_then(serve::serve);
            match result {
                Ok(()) => ExitCode::SUCCESS,
                Err(message) => {
                    eprintln!("millstream: {message}");
                    ExitCode::FAILURE
                }
            }
        }
        Command::Cluster(command) => cli::run(command),
    }
}
