//! DescribeClientQuotas and AlterClientQuotas (KIP-546): their forms on the wire; the controller decides what is set.

use bytes::Bytes;
use kafka_wire::alter_client_quotas_request::{self as alter_request, AlterClientQuotasRequest};
use kafka_wire::alter_client_quotas_response::{self as alter_response, AlterClientQuotasResponse};
use kafka_wire::describe_client_quotas_request::{ComponentData, DescribeClientQuotasRequest};
use kafka_wire::describe_client_quotas_response::{DescribeClientQuotasResponse, EntityData, EntryData, ValueData};
use millstream_replication::controller::QuotaChange;
use millstream_replication::quota::{CLIENT_ID, EntityName, IP, QuotaEntity, QuotaValues, USER};
use millstream_replication::{ApiError, ControllerRequest, ErrorCode};

use super::{ApiContext, CloseReason, Outcome, Then, ask, codec};
use crate::protocol::header::RequestHeader;

/// How a component of a filter matches, by Kafka's numbers.
const MATCH_EXACT: i8 = 0;
const MATCH_DEFAULT: i8 = 1;
const MATCH_ANY_NAME: i8 = 2;

/// One component of a filter.
enum Match {
    /// This name, or the default.
    Exact(EntityName),
    /// Any name, the default too.
    Any,
}

/// Which entities are wanted.
struct Filter {
    components: Vec<(&'static str, Match)>,
    /// Entities that have other types of names besides are not wanted.
    is_strict: bool,
}

pub(super) fn describe(context: &ApiContext, header: &RequestHeader, body: Bytes) -> Result<Bytes, CloseReason> {
    let request: DescribeClientQuotasRequest = codec::decode(header, body)?;
    let mut response = DescribeClientQuotasResponse::default();
    response.error_message = None;
    match Filter::new(&request) {
        Ok(filter) => {
            let wanted = context.image.quotas().iter().filter(|(entity, _)| filter.matches(entity));
            response.entries = Some(wanted.map(|(entity, values)| entry(entity, values)).collect());
        }
        Err(error) => {
            response.error_code = error.code.code();
            response.error_message = Some(error.message.into());
            response.entries = None;
        }
    }
    codec::encode(header, &response)
}

fn entry(entity: &QuotaEntity, values: &QuotaValues) -> EntryData {
    let mut entry = EntryData::default();
    entry.entity = entity
        .names()
        .into_iter()
        .map(|(kind, name)| {
            let mut part = EntityData::default();
            part.entity_type = kind.into();
            part.entity_name = name.as_deref().map(Into::into);
            part
        })
        .collect();
    entry.values = values
        .iter()
        .map(|(key, value)| {
            let mut part = ValueData::default();
            part.key = (*key).into();
            part.value = value.get();
            part
        })
        .collect();
    entry
}

impl Filter {
    fn new(request: &DescribeClientQuotasRequest) -> Result<Filter, ApiError> {
        let mut components = Vec::new();
        for asked in &request.components {
            let kind =
                entity_type(&asked.entity_type).map_err(|why| ApiError::new(ErrorCode::UnsupportedVersion, why))?;
            if components.iter().any(|(known, _)| *known == kind) {
                return Err(invalid(format!("{kind} occurs twice in the filter")));
            }
            components.push((kind, wanted_name(asked)?));
        }
        let has = |kind| components.iter().any(|(known, _)| *known == kind);
        if has(IP) && (has(USER) || has(CLIENT_ID)) {
            return Err(invalid("an ip has neither a user nor a client-id".to_string()));
        }
        Ok(Filter { components, is_strict: request.strict })
    }

    fn matches(&self, entity: &QuotaEntity) -> bool {
        let all = self.components.iter().all(|(kind, wanted)| match (entity.name(kind), wanted) {
            (Some(name), Match::Exact(wanted)) => name == wanted,
            (Some(_), Match::Any) => true,
            (None, _) => false,
        });
        all && (!self.is_strict || entity.names().len() == self.components.len())
    }
}

fn wanted_name(asked: &ComponentData) -> Result<Match, ApiError> {
    match (asked.match_type, &asked.match_) {
        (MATCH_EXACT, Some(name)) => Ok(Match::Exact(Some(name.to_string()))),
        (MATCH_DEFAULT, None) => Ok(Match::Exact(None)),
        (MATCH_ANY_NAME, None) => Ok(Match::Any),
        (MATCH_EXACT, None) => Err(invalid("an exact match needs a name".to_string())),
        (MATCH_DEFAULT | MATCH_ANY_NAME, Some(_)) => Err(invalid("only an exact match has a name".to_string())),
        (other, _) => Err(invalid(format!("{other} is no kind of match"))),
    }
}

fn invalid(why: String) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, why)
}

fn entity_type(name: &str) -> Result<&'static str, String> {
    let known = [USER, CLIENT_ID, IP].into_iter().find(|known| *known == name);
    known.ok_or_else(|| format!("{name:?} is no type of entity; there are user, client-id and ip"))
}

/// An entry of the request, with the entity that it means or why it means none.
#[derive(Clone, Debug)]
pub(super) struct Requested {
    entity: Vec<alter_request::EntityData>,
    meant: Result<(), ApiError>,
}

pub(super) fn alter(header: &RequestHeader, body: Bytes) -> Outcome {
    let request: AlterClientQuotasRequest = match codec::decode(header, body) {
        Ok(request) => request,
        Err(reason) => return Outcome::Close(reason),
    };
    let mut requested = Vec::with_capacity(request.entries.len());
    let mut changes = Vec::new();
    for entry in request.entries {
        let meant = entity(&entry.entity).map(|entity| {
            let value = |op: &alter_request::OpData| (op.key.to_string(), (!op.remove).then_some(op.value));
            changes.push(QuotaChange { entity, values: entry.ops.iter().map(value).collect() });
        });
        requested.push(Requested { entity: entry.entity, meant });
    }
    if changes.is_empty() {
        return finish_alter(header, requested, Vec::new()).into();
    }
    let request = ControllerRequest::AlterClientQuotas { changes, validate_only: request.validate_only };
    ask(header, request, Then::AlterClientQuotas(requested))
}

fn entity(parts: &[alter_request::EntityData]) -> Result<QuotaEntity, ApiError> {
    let mut names: [(&str, Option<EntityName>); 3] = [(USER, None), (CLIENT_ID, None), (IP, None)];
    for part in parts {
        let kind = entity_type(&part.entity_type).map_err(invalid)?;
        let (_, name) = names.iter_mut().find(|(known, _)| *known == kind).expect("every type is there");
        if name.is_some() {
            return Err(invalid(format!("{kind} occurs twice in one entity")));
        }
        *name = Some(part.entity_name.as_ref().map(ToString::to_string));
    }
    match names.map(|(_, name)| name) {
        [Some(user), None, None] => Ok(QuotaEntity::User(user)),
        [None, Some(client), None] => Ok(QuotaEntity::Client(client)),
        [Some(user), Some(client), None] => Ok(QuotaEntity::UserClient(user, client)),
        [None, None, Some(ip)] => Ok(QuotaEntity::Ip(ip)),
        [None, None, None] => Err(invalid("an entity without a name".to_string())),
        [_, _, Some(_)] => Err(invalid("an ip has neither a user nor a client-id".to_string())),
    }
}

/// The controller's answers are in the order of the entries it was asked about.
pub(super) fn finish_alter(
    header: &RequestHeader,
    requested: Vec<Requested>,
    altered: Vec<(QuotaEntity, Result<(), ApiError>)>,
) -> Result<Bytes, CloseReason> {
    let mut altered = altered.into_iter();
    let mut response = AlterClientQuotasResponse::default();
    response.entries = requested
        .into_iter()
        .map(|Requested { entity, meant }| {
            let outcome = meant.and_then(|()| altered.next().expect("an answer for each entity").1);
            let mut entry = alter_response::EntryData::default();
            entry.error_message = None;
            if let Err(error) = outcome {
                entry.error_code = error.code.code();
                entry.error_message = Some(error.message.into());
            }
            entry.entity = entity
                .into_iter()
                .map(|part| {
                    let mut named = alter_response::EntityData::default();
                    named.entity_type = part.entity_type;
                    named.entity_name = part.entity_name;
                    named
                })
                .collect();
            entry
        })
        .collect();
    codec::encode(header, &response)
}
