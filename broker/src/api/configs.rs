//! DescribeConfigs: configurations with their values, where these come from, and what else would apply.

use std::collections::HashSet;

use bytes::Bytes;
use kafka_wire::describe_configs_request::{DescribeConfigsRequest, DescribeConfigsResource};
use kafka_wire::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult, DescribeConfigsSynonym,
};
use millstream_replication::config::{
    ConfigDefinition, ConfigType, Layer, Properties, broker_config, broker_configs, effective, topic_configs,
};
use millstream_replication::{ApiError, ErrorCode, topic_name};

use super::{ApiContext, CloseReason, codec};
use crate::protocol::header::RequestHeader;

/// Kinds of resources, by Kafka's numbers.
pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;

/// Where a value was set (KIP-226), by Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Topic = 1,
    DynamicBroker = 2,
    DynamicCluster = 3,
    StaticBroker = 4,
    Default = 5,
}

impl Source {
    /// The source that a layer of [`millstream_replication::ClusterImage::config_layers`] stands for.
    fn of_broker_layer(layer: usize) -> Source {
        match layer {
            0 => Source::DynamicBroker,
            1 => Source::DynamicCluster,
            2 => Source::StaticBroker,
            other => unreachable!("config layer {other}"),
        }
    }
}

/// A place that sets a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Synonym {
    name: String,
    value: Option<String>,
    source: Source,
}

/// One configuration of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConfigEntry {
    pub(super) name: String,
    /// Null when there is none, or when it is a secret.
    pub(super) value: Option<String>,
    pub(super) source: Source,
    pub(super) read_only: bool,
    pub(super) sensitive: bool,
    synonyms: Vec<Synonym>,
    kind: ConfigType,
    documentation: &'static str,
}

pub(super) fn handle(context: &ApiContext, header: &RequestHeader, body: Bytes) -> Result<Bytes, CloseReason> {
    let request: DescribeConfigsRequest = codec::decode(header, body)?;
    let with_synonyms = request.include_synonyms;
    let with_documentation = header.api_version >= 3 && request.include_documentation;
    let mut response = DescribeConfigsResponse::default();
    // A resource named twice is answered once: the reply is bounded by the cluster, not by the request.
    let mut seen = HashSet::new();
    response.results = request
        .resources
        .iter()
        .filter(|resource| seen.insert((resource.resource_type, &resource.resource_name)))
        .map(|resource| {
            let mut result = DescribeConfigsResult::default();
            result.resource_type = resource.resource_type;
            result.resource_name = resource.resource_name.clone();
            result.error_message = None;
            match describe(context, resource) {
                Ok(entries) => {
                    result.configs =
                        entries.into_iter().map(|entry| entry.describe(with_synonyms, with_documentation)).collect();
                }
                Err(error) => {
                    result.error_code = error.code.code();
                    result.error_message = Some(error.message.into());
                }
            }
            result
        })
        .collect();
    codec::encode(header, &response)
}

fn describe(context: &ApiContext, resource: &DescribeConfigsResource) -> Result<Vec<ConfigEntry>, ApiError> {
    let name = resource.resource_name.as_str();
    // Null and empty both ask for everything.
    let wanted: Option<HashSet<&str>> = resource
        .configuration_keys
        .as_ref()
        .filter(|keys| !keys.is_empty())
        .map(|keys| keys.iter().map(|key| key.as_str()).collect());
    let is_wanted = |name: &str| wanted.as_ref().is_none_or(|wanted| wanted.contains(name));

    match resource.resource_type {
        TOPIC => {
            topic_name::check(name).map_err(|why| ApiError::new(ErrorCode::InvalidTopicException, why))?;
            let topic = context.image.topic(name).ok_or_else(|| {
                let why = format!("there is no topic {name:?}");
                ApiError::new(ErrorCode::UnknownTopicOrPartition, why)
            })?;
            let configs = TopicConfigs::new(context, &topic.configs);
            Ok(configs.matching(is_wanted).collect())
        }
        BROKER if name.is_empty() => Ok(cluster_entries(context, is_wanted)),
        BROKER if name.parse() == Ok(context.node_id) => Ok(broker_entries(context, is_wanted)),
        BROKER => {
            let own = context.node_id;
            let why = format!("this is broker {own}: ask for {own} or for nothing, not {name:?}");
            Err(ApiError::new(ErrorCode::InvalidRequest, why))
        }
        other => Err(unsupported_resource(other)),
    }
}

/// The error for a kind of resource that has no configurations here.
pub(super) fn unsupported_resource(resource_type: i8) -> ApiError {
    let what = match resource_type {
        8 => "broker loggers".to_string(),
        16 => "client metrics".to_string(),
        32 => "groups".to_string(),
        other => format!("resource type {other}"),
    };
    let why = format!("only topics and brokers have configurations, not {what}");
    ApiError::new(ErrorCode::InvalidRequest, why)
}

/// The configurations of a topic.
pub(super) struct TopicConfigs<'a> {
    layers: [&'a Properties; 3],
    topic: &'a Properties,
}

impl<'a> TopicConfigs<'a> {
    /// Of a topic for which `topic` was configured.
    pub(super) fn new(context: &ApiContext<'a>, topic: &'a Properties) -> Self {
        TopicConfigs { layers: context.image.config_layers(context.node_id, context.file), topic }
    }

    /// All of them, in the order of their names.
    pub(super) fn all(&self) -> impl Iterator<Item = ConfigEntry> {
        self.matching(|_| true)
    }

    fn matching(&self, is_wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = ConfigEntry> {
        topic_configs()
            .iter()
            .filter(move |definition| is_wanted(definition.name))
            .map(|definition| self.entry(definition))
    }

    fn entry(&self, definition: &'static ConfigDefinition) -> ConfigEntry {
        let settings = effective(definition, self.topic, &self.layers);
        let value = settings.first().map(|setting| setting.value_in_topic_unit());
        let synonyms = settings
            .into_iter()
            .map(|setting| Synonym {
                name: setting.name.to_string(),
                value: Some(setting.value),
                source: match setting.layer {
                    Layer::Topic => Source::Topic,
                    Layer::Broker(layer) => Source::of_broker_layer(layer),
                    Layer::Default => Source::Default,
                },
            })
            .collect();
        ConfigEntry::new(definition.name.to_string(), definition, value, synonyms)
    }
}

/// What was configured at run time for all brokers: the resource whose name is empty.
fn cluster_entries(context: &ApiContext, is_wanted: impl Fn(&str) -> bool) -> Vec<ConfigEntry> {
    let properties = context.image.cluster_configs();
    properties
        .iter()
        .filter(|(name, _)| is_wanted(name))
        .filter_map(|(name, value)| {
            let synonyms =
                vec![Synonym { name: name.clone(), value: Some(value.clone()), source: Source::DynamicCluster }];
            let definition = broker_config(name)?;
            let value = Some(value.clone());
            Some(ConfigEntry::new(name.clone(), definition, value, synonyms))
        })
        .collect()
}

/// Every configuration of this broker, and those that it has for single listeners.
fn broker_entries(context: &ApiContext, is_wanted: impl Fn(&str) -> bool) -> Vec<ConfigEntry> {
    let layers = context.image.config_layers(context.node_id, context.file);
    let names: std::collections::BTreeSet<&str> = broker_configs()
        .iter()
        .map(|definition| definition.name)
        .chain(layers.iter().flat_map(|layer| layer.keys().map(String::as_str)))
        .filter(|name| is_wanted(name))
        .collect();
    names
        .into_iter()
        .filter_map(|name| {
            let definition = broker_config(name)?;
            let own = settings(name, &layers);
            let value = own.first().and_then(|setting| setting.value.clone());
            let synonyms = same_meaning(name)
                .iter()
                .flat_map(|synonym| if *synonym == name { own.clone() } else { settings(synonym, &layers) })
                .collect();
            // Under a listener's name the value is that listener's own; without one, the general one holds.
            Some(ConfigEntry::new(name.to_string(), definition, value, synonyms))
        })
        .collect()
}

/// The places that set a broker configuration, the one in force first.
fn settings(name: &str, layers: &[&Properties; 3]) -> Vec<Synonym> {
    let set = layers.iter().enumerate().filter_map(|(layer, properties)| {
        Some(Synonym {
            name: name.to_string(),
            value: Some(properties.get(name)?.clone()),
            source: Source::of_broker_layer(layer),
        })
    });
    let default = broker_config(name).and_then(|definition| definition.default);
    set.chain(default.map(|value| Synonym {
        name: name.to_string(),
        value: Some(value.to_string()),
        source: Source::Default,
    }))
    .collect()
}

/// For the strongest of several broker configurations that mean the same in other units, all of them in the order of
/// their precedence: `log.retention.ms`, `.minutes` and `.hours`. For others, the name itself, as in Kafka.
fn same_meaning(name: &str) -> Vec<&str> {
    topic_configs()
        .iter()
        .find(|definition| definition.synonyms.first() == Some(&name))
        .map_or_else(|| vec![name], |definition| definition.synonyms.to_vec())
}

impl ConfigEntry {
    fn new(
        name: String,
        definition: &'static ConfigDefinition,
        value: Option<String>,
        mut synonyms: Vec<Synonym>,
    ) -> Self {
        let sensitive = definition.is_sensitive();
        if sensitive {
            for synonym in &mut synonyms {
                synonym.value = None;
            }
        }
        ConfigEntry {
            name,
            value: value.filter(|_| !sensitive),
            source: synonyms.first().map_or(Source::Default, |synonym| synonym.source),
            read_only: !definition.dynamic,
            sensitive,
            synonyms,
            kind: definition.kind,
            documentation: definition.documentation,
        }
    }

    fn describe(self, with_synonyms: bool, with_documentation: bool) -> DescribeConfigsResourceResult {
        let mut result = DescribeConfigsResourceResult::default();
        result.name = self.name.into();
        result.value = self.value.map(Into::into);
        result.read_only = self.read_only;
        result.config_source = self.source as i8;
        result.is_sensitive = self.sensitive;
        result.config_type = self.kind as i8;
        result.documentation = with_documentation.then(|| self.documentation.into());
        if with_synonyms {
            result.synonyms = self
                .synonyms
                .into_iter()
                .map(|synonym| {
                    let mut described = DescribeConfigsSynonym::default();
                    described.name = synonym.name.into();
                    described.value = synonym.value.map(Into::into);
                    described.source = synonym.source as i8;
                    described
                })
                .collect();
        }
        result
    }
}
