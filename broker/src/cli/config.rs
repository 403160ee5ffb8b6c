//! `millstream config`: configurations of topics and brokers.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use clap::{Args, Subcommand};
use kafka_wire::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use kafka_wire::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig, IncrementalAlterConfigsRequest,
};

use super::client::Client;
use super::error::{CliError, ErrorText};
use super::output::Table;
use super::{Common, name_and_value};
use crate::json::Json;

pub const EXAMPLES: &str = "Examples:
  millstream config describe --topic orders          what was configured for the topic
  millstream config describe --topic orders --all    and what it inherits
  millstream config describe --broker 1
  millstream config set --topic orders retention.ms=86400000 max.message.bytes=2000000
  millstream config unset --topic orders retention.ms
  millstream config set --all-brokers log.retention.ms=86400000";

/// Kafka's numbers of what can be configured.
const RESOURCE_TOPIC: i8 = 2;
const RESOURCE_BROKER: i8 = 4;
/// Kafka's numbers of what can be done.
const OPERATION_SET: i8 = 0;
const OPERATION_DELETE: i8 = 1;

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Show configurations
    Describe {
        #[command(flatten)]
        owner: OwnerOptions,
        /// Also what is inherited or a default
        #[arg(long)]
        all: bool,
    },
    /// Set configurations
    Set {
        #[command(flatten)]
        owner: OwnerOptions,
        /// What to set
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = name_and_value)]
        configs: Vec<(String, String)>,
    },
    /// Set configurations back to what they are without being set
    Unset {
        #[command(flatten)]
        owner: OwnerOptions,
        /// Their names
        #[arg(required = true, value_name = "NAME")]
        configs: Vec<String>,
    },
}

/// Whose configuration.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct OwnerOptions {
    /// A topic's
    #[arg(long, short, value_name = "NAME")]
    topic: Option<String>,
    /// A broker's
    #[arg(long, value_name = "ID")]
    broker: Option<i32>,
    /// What all brokers have that do not have their own
    #[arg(long)]
    all_brokers: bool,
}

impl OwnerOptions {
    fn owner(&self) -> Owner {
        match (&self.topic, self.broker) {
            (Some(topic), _) => Owner::Topic(topic.clone()),
            (None, Some(broker)) => Owner::Broker(broker),
            (None, None) => Owner::AllBrokers,
        }
    }
}

/// Whose configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// A topic's.
    Topic(String),
    /// A broker's.
    Broker(i32),
    /// That of all brokers that do not have their own.
    AllBrokers,
}

impl Owner {
    fn resource(&self) -> (i8, String) {
        match self {
            Owner::Topic(name) => (RESOURCE_TOPIC, name.clone()),
            Owner::Broker(id) => (RESOURCE_BROKER, id.to_string()),
            Owner::AllBrokers => (RESOURCE_BROKER, String::new()),
        }
    }

    fn from_resource(kind: i8, name: &str) -> Option<Owner> {
        match (kind, name) {
            (RESOURCE_TOPIC, name) => Some(Owner::Topic(name.to_owned())),
            (RESOURCE_BROKER, "") => Some(Owner::AllBrokers),
            (RESOURCE_BROKER, id) => id.parse().ok().map(Owner::Broker),
            _ => None,
        }
    }
}

impl Display for Owner {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Topic(name) => write!(formatter, "topic {name}"),
            Owner::Broker(id) => write!(formatter, "broker {id}"),
            Owner::AllBrokers => formatter.write_str("all brokers"),
        }
    }
}

/// One configuration.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name.
    pub name: String,
    value: Option<String>,
    source: i8,
    is_sensitive: bool,
    is_read_only: bool,
}

impl Entry {
    /// Whether it was set where it was asked for: at the topic, at the broker, for all brokers.
    pub fn is_own(&self) -> bool {
        matches!(self.source, 1..=3)
    }

    /// Its value for people.
    pub fn shown(&self) -> &str {
        match &self.value {
            _ if self.is_sensitive => "(hidden)",
            Some(value) => value,
            None => "(none)",
        }
    }

    /// Its value for machines.
    pub fn json_value(&self) -> Json {
        self.value.clone().into()
    }

    /// Where it comes from: the numbers of DescribeConfigs.
    fn source(&self) -> &'static str {
        match self.source {
            1 => "topic",
            2 => "broker",
            3 => "all brokers",
            4 => "broker's file",
            5 => "default",
            6 => "logger",
            _ => "unknown",
        }
    }
}

/// A change of a configuration.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// `None`: back to what it is without being set.
    pub value: Option<String>,
}

/// Reads all configurations of some owners.
pub fn read(client: &mut Client, owners: &[Owner]) -> Result<BTreeMap<Owner, Vec<Entry>>, CliError> {
    let mut found = BTreeMap::new();
    // A broker knows what its own file says; about the rest any may be asked.
    let (brokers, others): (Vec<&Owner>, Vec<&Owner>) =
        owners.iter().partition(|owner| matches!(owner, Owner::Broker(_)));
    let mut rounds: Vec<(Option<i32>, Vec<&Owner>)> = vec![(None, others)];
    for owner in brokers {
        if let Owner::Broker(id) = owner {
            rounds.push((Some(*id), vec![owner]));
        }
    }
    for (broker, owners) in rounds {
        if owners.is_empty() {
            continue;
        }
        let mut request = DescribeConfigsRequest::default();
        request.resources = owners
            .iter()
            .map(|owner| {
                let mut resource = DescribeConfigsResource::default();
                (resource.resource_type, resource.resource_name) = {
                    let (kind, name) = owner.resource();
                    (kind, name.into())
                };
                resource.configuration_keys = None;
                resource
            })
            .collect();
        let connection = match broker {
            None => client.any(),
            Some(id) => {
                client.broker_ids()?;
                client.broker(id)?
            }
        };
        let response = connection.call(1..=4, &request)?;
        for result in response.results {
            let Some(owner) = Owner::from_resource(result.resource_type, &result.resource_name) else { continue };
            ErrorText::check(result.error_code, result.error_message.as_deref())
                .map_err(|error| CliError::refused(&owner, &error))?;
            let mut entries: Vec<Entry> = result
                .configs
                .into_iter()
                .map(|config| Entry {
                    name: config.name.to_string(),
                    value: config.value.map(|value| value.to_string()),
                    source: config.config_source,
                    is_sensitive: config.is_sensitive,
                    is_read_only: config.read_only,
                })
                .collect();
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            found.insert(owner, entries);
        }
    }
    Ok(found)
}

/// Changes configurations of an owner.
pub fn write(client: &mut Client, owner: &Owner, changes: &[Change]) -> Result<(), CliError> {
    let mut resource = AlterConfigsResource::default();
    let (kind, name) = owner.resource();
    resource.resource_type = kind;
    resource.resource_name = name.into();
    resource.configs = changes
        .iter()
        .map(|change| {
            let mut config = AlterableConfig::default();
            config.name = change.name.as_str().into();
            config.config_operation = if change.value.is_some() { OPERATION_SET } else { OPERATION_DELETE };
            config.value = change.value.as_deref().map(Into::into);
            config
        })
        .collect();
    let mut request = IncrementalAlterConfigsRequest::default();
    request.resources = vec![resource];
    let connection = match owner {
        Owner::Broker(id) => {
            client.broker_ids()?;
            client.broker(*id)?
        }
        _ => client.controller()?,
    };
    let response = connection.call(0..=1, &request)?;
    for result in &response.responses {
        ErrorText::check(result.error_code, result.error_message.as_deref())
            .map_err(|error| CliError::refused(owner, &error))?;
    }
    Ok(())
}

pub fn run(common: &Common, command: Command) -> Result<(), CliError> {
    let mut client = common.client()?;
    let (owner, changes) = match command {
        Command::Describe { owner, all } => return describe(common, &mut client, owner.owner(), all),
        Command::Set { owner, configs } => {
            let set = |(name, value)| Change { name, value: Some(value) };
            (owner.owner(), configs.into_iter().map(set).collect::<Vec<_>>())
        }
        Command::Unset { owner, configs } => {
            (owner.owner(), configs.into_iter().map(|name| Change { name, value: None }).collect())
        }
    };
    write(&mut client, &owner, &changes)?;
    common.output().print(
        || Json::object([("owner", owner.to_string().into()), ("altered", true.into())]),
        || format!("altered {owner}\n"),
    )
}

fn describe(common: &Common, client: &mut Client, owner: Owner, all: bool) -> Result<(), CliError> {
    let found = read(client, std::slice::from_ref(&owner))?;
    let entries: Vec<&Entry> = found.values().flatten().filter(|entry| all || entry.is_own()).collect();
    let mut table = Table::new(&["NAME", "VALUE", "FROM"]);
    for entry in &entries {
        table.row([entry.name.as_str().into(), entry.shown().into(), entry.source().into()]);
    }
    let json = || {
        Json::array(entries.iter().map(|entry| {
            Json::object([
                ("name", entry.name.as_str().into()),
                ("value", entry.json_value()),
                ("from", entry.source().into()),
                ("sensitive", entry.is_sensitive.into()),
                ("read_only", entry.is_read_only.into()),
            ])
        }))
    };
    let none = format!("{owner}: nothing of its own is configured; --all shows what is inherited");
    common.output().table(json, &table, &none)
}
