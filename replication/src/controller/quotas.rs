//! Setting and removing client quotas (AlterClientQuotas, KIP-546).

use super::{ControllerResponse, Decision, Records};
use crate::error::{ApiError, ErrorCode};
use crate::image::ClusterImage;
use crate::quota::{
    ENTITY_NAME_BYTES_MAX, QUOTA_VALUES_PER_CLUSTER_MAX, QuotaEntity, QuotaValue, check_key, check_value,
};
use crate::record::MetadataRecord;

/// What is to become of one entity.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaChange {
    /// Whose quotas.
    pub entity: QuotaEntity,
    /// Keys, each with its value or `None` to remove it. The last one of a key holds.
    pub values: Vec<(String, Option<f64>)>,
}

/// Decides for each entity by itself: one that fails changes nothing, and nothing of the others.
pub(super) fn alter(image: &ClusterImage, changes: Vec<QuotaChange>, validate_only: bool) -> Decision {
    let mut records = Records::default();
    let mut room = QUOTA_VALUES_PER_CLUSTER_MAX - image.quotas().len();
    let mut outcomes = Vec::with_capacity(changes.len());
    for QuotaChange { entity, values } in changes {
        let outcome = check(&entity, values).and_then(|values| {
            let is_new = |key: &str| image.quotas().value(&entity, key).is_none();
            let new = values.iter().filter(|(key, value)| value.is_some() && is_new(key)).count();
            let Some(left) = room.checked_sub(new) else {
                let why = format!("a cluster can have {QUOTA_VALUES_PER_CLUSTER_MAX} quotas");
                return Err(ApiError::new(ErrorCode::PolicyViolation, why));
            };
            let of_entity = values.into_iter().map(|(key, value)| MetadataRecord::Quota {
                entity: entity.clone(),
                key: key.to_string(),
                value,
            });
            records.add(of_entity.collect())?;
            room = left;
            Ok(())
        });
        outcomes.push((entity, outcome));
    }
    Decision {
        records: if validate_only { Vec::new() } else { records.records },
        response: ControllerResponse::AlterClientQuotas(outcomes),
    }
}

/// The values, if the entity may have them.
fn check(
    entity: &QuotaEntity,
    values: Vec<(String, Option<f64>)>,
) -> Result<Vec<(&'static str, Option<QuotaValue>)>, ApiError> {
    let refuse = |why| ApiError::new(ErrorCode::InvalidRequest, why);
    for (kind, name) in entity.names() {
        let bytes = name.as_ref().map_or(1, String::len);
        if bytes == 0 || bytes > ENTITY_NAME_BYTES_MAX {
            return Err(refuse(format!("a {kind} must have from 1 to {ENTITY_NAME_BYTES_MAX} bytes, not {bytes}")));
        }
    }
    if let QuotaEntity::Ip(Some(ip)) = entity
        && ip.parse::<std::net::IpAddr>().is_err()
    {
        return Err(refuse(format!("{ip:?} is not an IP address; names of hosts are not looked up")));
    }
    values
        .into_iter()
        .map(|(key, value)| {
            let checked = value.map(|value| check_value(entity, &key, value)).transpose();
            let key = check_key(entity, &key).map_err(refuse)?;
            Ok((key, checked.map_err(refuse)?))
        })
        .collect()
}
