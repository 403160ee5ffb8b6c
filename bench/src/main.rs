//! Loads for any broker that speaks the Kafka protocol, the limits of the machine it runs on, and brokers side by side.
//!
//! Latencies go into HDR histograms and, at a fixed rate, count from the moment a request was due, not from when it could
//! be sent, so a broker that stalls is charged for the requests that it held up (no coordinated omission).

#![forbid(unsafe_code)]

mod client;
mod compare;
mod connection;
mod consume;
mod error;
mod keyed;
mod limits;
mod load;
mod machine;
mod produce;
mod report;
mod schedule;
mod topics;
mod wire;

use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use clap::{Parser, Subcommand};

/// Load for a Kafka-compatible broker.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Produces at the highest rate the broker takes, or at a fixed rate.
    ///
    /// Example: millstream-bench produce --topic bench --partitions 4 --connections 4 --acks all
    Produce(produce::Options),
    /// Consumes a topic from its beginning to where it ends now, over and over, or what comes.
    ///
    /// Example: millstream-bench consume --topic bench --connections 4
    Consume(consume::Options),
    /// Fills a topic with keys, over and over, or checks that the last value of each is there.
    ///
    /// Example: millstream-bench keyed fill --topic compacted --keys 1000000 --rounds 3 --topic-config cleanup.policy=compact
    #[command(subcommand)]
    Keyed(keyed::Command),
    /// Measures what this machine could do at best: bare loops beside which to judge a broker.
    ///
    /// Example: millstream-bench limits --directory /srv --congestion cubic
    Limits(limits::Options),
    /// Runs brokers side by side through many workloads, beside what this machine could do at best.
    ///
    /// Example: millstream-bench compare --broker 'a=./a.sh {data} {port}' --broker 'b=./b.sh {data} {port}'
    Compare(compare::Options),
    /// What `compare` starts to leave the machine as it was.
    #[command(name = compare::cleanup::SUBCOMMAND, hide = true)]
    CleanUp,
}

fn main() -> ExitCode {
    let print = |report: report::Report| println!("{report}");
    let outcome = match Arguments::parse().command {
        Command::Produce(options) => produce::run(&options, |_| {}).map(print),
        Command::Consume(options) => consume::run(&options, &AtomicBool::new(false), |_| {}).map(print),
        Command::Keyed(command) => keyed::run(&command),
        Command::Limits(options) => limits::run(&options),
        Command::Compare(options) => compare::run(&options),
        Command::CleanUp => {
            compare::cleanup::run();
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millstream-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
