//! Changing configurations at run time.

use super::topics::unknown_topic;
use super::{
    CONFIG_VALUE_BYTES_MAX, ConfigChange, ConfigOperation, ConfigResource, ControllerResponse, Decision, GivenConfigs,
    Records, duplicates,
};
use crate::config::{
    ConfigDefinition, ConfigType, Properties, broker_config, broker_configs, list, nearest, topic_config, topic_configs,
};
use crate::error::{ApiError, ErrorCode};
use crate::image::ClusterImage;
use crate::record::{ConfigOwner, MetadataRecord};

/// Whether a topic may have this configuration with this value.
pub(super) fn check_topic_config(name: &str, value: &str) -> Result<(), ApiError> {
    let definition = topic_config(name).ok_or_else(|| unknown_config("topic", name, topic_configs()))?;
    check_value(definition, value)
}

fn check_value(definition: &ConfigDefinition, value: &str) -> Result<(), ApiError> {
    if value.len() > CONFIG_VALUE_BYTES_MAX {
        return Err(ApiError::new(
            ErrorCode::InvalidConfig,
            format!("the value of {} has {} bytes; {CONFIG_VALUE_BYTES_MAX} are allowed", definition.name, value.len()),
        ));
    }
    definition.check(value).map_err(|why| ApiError::new(ErrorCode::InvalidConfig, why))
}

fn unknown_config(owner: &str, name: &str, among: &[ConfigDefinition]) -> ApiError {
    let meant = nearest(name, among).map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
    ApiError::new(ErrorCode::InvalidConfig, format!("unknown {owner} configuration {name:?}{meant}"))
}

/// A resource that exists, and what is configured for it now.
struct Target<'a> {
    owner: ConfigOwner,
    current: &'a Properties,
}

impl<'a> Target<'a> {
    fn find(image: &'a ClusterImage, resource: &ConfigResource) -> Result<Self, ApiError> {
        match resource {
            ConfigResource::Topic(name) => match image.topic(name) {
                Some(topic) => Ok(Target { owner: ConfigOwner::Topic(topic.id), current: &topic.configs }),
                None => Err(unknown_topic(name)),
            },
            ConfigResource::Broker(node_id) => match image.broker(*node_id) {
                Some(_) => Ok(Target { owner: ConfigOwner::Broker(*node_id), current: image.broker_configs(*node_id) }),
                None => Err(ApiError::new(ErrorCode::BrokerIdNotRegistered, format!("there is no broker {node_id}"))),
            },
            ConfigResource::Cluster => Ok(Target { owner: ConfigOwner::Cluster, current: image.cluster_configs() }),
        }
    }

    /// The definition of a configuration that this resource may have and that may change at run time.
    fn definition(&self, name: &str) -> Result<&'static ConfigDefinition, ApiError> {
        if let ConfigOwner::Topic(_) = self.owner {
            return topic_config(name).ok_or_else(|| unknown_config("topic", name, topic_configs()));
        }
        match broker_config(name) {
            // It says what an acknowledgement means, and is not to change with who leads (KAFKA-16540).
            Some(_) if name == "min.insync.replicas" && matches!(self.owner, ConfigOwner::Broker(_)) => {
                Err(ApiError::new(
                    ErrorCode::InvalidConfig,
                    "Broker-level min.insync.replicas cannot be altered: alter that of the topic or of all brokers.",
                ))
            }
            Some(definition) if definition.dynamic => Ok(definition),
            Some(_) => Err(ApiError::new(
                ErrorCode::InvalidRequest,
                format!("{name} cannot change while the broker runs: set it in the configuration file"),
            )),
            None => Err(unknown_config("broker", name, broker_configs())),
        }
    }

    /// The records that lead from what is configured now to `wanted`.
    fn changes(&self, wanted: &Properties) -> Vec<MetadataRecord> {
        let record = |name: &String, value: Option<&String>| MetadataRecord::Config {
            owner: self.owner,
            name: name.clone(),
            value: value.cloned(),
        };
        let set = wanted
            .iter()
            .filter(|(name, value)| self.current.get(*name) != Some(*value))
            .map(|(name, value)| record(name, Some(value)));
        let gone = self.current.keys().filter(|name| !wanted.contains_key(*name)).map(|name| record(name, None));
        set.chain(gone).collect()
    }
}

pub(super) fn incremental(
    image: &ClusterImage,
    resources: Vec<(ConfigResource, Vec<ConfigChange>)>,
    validate_only: bool,
) -> Decision {
    decide(image, resources, validate_only, |target, changes| {
        if let Some(twice) = duplicates(changes.iter().map(|change| &change.name)).first() {
            return Err(ApiError::new(ErrorCode::InvalidRequest, format!("{twice} occurs twice for one resource")));
        }
        let mut wanted = target.current.clone();
        for change in changes {
            apply(target, &mut wanted, change)?;
        }
        Ok(wanted)
    })
}

fn apply(target: &Target<'_>, wanted: &mut Properties, change: ConfigChange) -> Result<(), ApiError> {
    let name = change.name;
    if change.operation == ConfigOperation::Delete {
        // A name that is not known is not set either; to remove it is done.
        wanted.remove(&name);
        return Ok(());
    }
    let definition = target.definition(&name)?;
    let Some(value) = change.value else {
        return Err(ApiError::new(ErrorCode::InvalidRequest, format!("the value of {name} is null")));
    };
    let value = match change.operation {
        ConfigOperation::Append | ConfigOperation::Subtract => {
            if definition.kind != ConfigType::List {
                return Err(ApiError::new(
                    ErrorCode::InvalidConfig,
                    format!("{name} is not a list: nothing can be appended to it or subtracted"),
                ));
            }
            let held = wanted.get(&name).map(String::as_str).or(definition.default);
            let mut items: Vec<&str> = list(held.unwrap_or_default()).collect();
            for item in list(&value) {
                let place = items.iter().position(|held| *held == item);
                match (change.operation, place) {
                    (ConfigOperation::Append, None) => items.push(item),
                    (ConfigOperation::Subtract, Some(place)) => {
                        items.remove(place);
                    }
                    _ => {}
                }
            }
            items.join(",")
        }
        _ => value.trim().to_string(),
    };
    check_value(definition, &value)?;
    wanted.insert(name, value);
    Ok(())
}

pub(super) fn replace(
    image: &ClusterImage,
    resources: Vec<(ConfigResource, GivenConfigs)>,
    validate_only: bool,
) -> Decision {
    decide(image, resources, validate_only, |target, configs| {
        let mut wanted = Properties::new();
        for (name, value) in configs {
            let definition = target.definition(&name)?;
            let Some(value) = value else {
                return Err(ApiError::new(ErrorCode::InvalidRequest, format!("the value of {name} is null")));
            };
            check_value(definition, &value)?;
            wanted.insert(name, value.trim().to_string());
        }
        Ok(wanted)
    })
}

/// Decides for each resource by itself: one that fails changes nothing, and nothing of the others.
fn decide<T>(
    image: &ClusterImage,
    resources: Vec<(ConfigResource, T)>,
    validate_only: bool,
    wanted: impl Fn(&Target<'_>, T) -> Result<Properties, ApiError>,
) -> Decision {
    let mut twice = duplicates(resources.iter().map(|(resource, _)| resource.clone()));
    let all_twice = twice.clone();
    let mut records = Records::default();
    let mut outcomes = Vec::new();
    for (resource, changes) in resources {
        if all_twice.contains(&resource) {
            if twice.remove(&resource) {
                let error = ApiError::new(ErrorCode::InvalidRequest, "each resource may occur once in a request");
                outcomes.push((resource, Err(error)));
            }
            continue;
        }
        let outcome = Target::find(image, &resource).and_then(|target| {
            let wanted = wanted(&target, changes)?;
            records.add(target.changes(&wanted))
        });
        outcomes.push((resource, outcome));
    }
    Decision {
        records: if validate_only { Vec::new() } else { records.records },
        response: ControllerResponse::AlterConfigs(outcomes),
    }
}
