//! ApiVersions: what is served, derived from the declarations in [`crate::protocol::versions`].

use bytes::Bytes;
use kafka_wire::api_versions_request::ApiVersionsRequest;
use kafka_wire::api_versions_response::{ApiVersion, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey};
use kafka_wire_core::StrBytes;
use millstream_replication::ErrorCode;

use super::{ApiContext, CloseReason, codec, is_served_by_controllers};
use crate::protocol::header::RequestHeader;
use crate::protocol::versions::{ApiKey, Handler, SERVED};

/// The feature by which brokers agree on the consumer group protocol (KIP-848).
const GROUP_VERSION: &str = "group.version";
const GROUP_VERSION_MAX: i16 = 1;

/// Answers in any version that is asked for: in one that is not served with an error, in version 0, which every client
/// can read, and with the list, so that it knows what to ask next (KIP-511).
pub(super) fn handle(context: &ApiContext, header: &RequestHeader, body: Bytes) -> Result<Bytes, CloseReason> {
    if !header.is_version_served() {
        let mut response = ApiVersionsResponse::default();
        response.error_code = ErrorCode::UnsupportedVersion.code();
        response.api_keys = served(context);
        return codec::encode_as(header, 0, &response);
    }
    let request: ApiVersionsRequest = codec::decode(header, body)?;
    let mut response = ApiVersionsResponse::default();
    if header.api_version >= 3
        && !(is_software_name(&request.client_software_name) && is_software_name(&request.client_software_version))
    {
        response.error_code = ErrorCode::InvalidRequest.code();
        return codec::encode(header, &response);
    }
    response.api_keys = served(context);
    if header.api_version >= 3 {
        // What is finalized is used: `transaction.version` is not served and not here.
        let mut group_version = FinalizedFeatureKey::default();
        group_version.name = StrBytes::from(GROUP_VERSION);
        group_version.min_version_level = GROUP_VERSION_MAX;
        group_version.max_version_level = GROUP_VERSION_MAX;
        response.finalized_features.push(group_version);
        response.finalized_features_epoch = i64::try_from(context.image.offset()).unwrap_or(i64::MAX);
    }
    // Clients before version 4 cannot read a range that begins with 0 (KAFKA-17011).
    if header.api_version >= 4 {
        let mut group_version = SupportedFeatureKey::default();
        group_version.name = StrBytes::from(GROUP_VERSION);
        group_version.max_version = GROUP_VERSION_MAX;
        response.supported_features.push(group_version);
    }
    codec::encode(header, &response)
}

fn served(context: &ApiContext) -> Vec<ApiVersion> {
    let is_here = |key: &&ApiKey| match (context.controllers, key.handler()) {
        (None, _) => true,
        (Some(_), Handler::Image(api)) => is_served_by_controllers(api),
        (Some(_), _) => false,
    };
    SERVED
        .iter()
        .filter(is_here)
        .map(|key: &ApiKey| {
            let declaration = key.declaration();
            let mut api = ApiVersion::default();
            api.api_key = *key as i16;
            api.min_version = declaration.advertised_version_min;
            api.max_version = declaration.version_max;
            api
        })
        .collect()
}

/// A letter or digit, then letters, digits, `-` and `.`, and a letter or digit at the end (KIP-511).
fn is_software_name(name: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_names() {
        for good in ["a", "librdkafka", "apache-kafka-java", "4.1.0", "2.6.0-RC1"] {
            assert!(is_software_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a_b", ".1", "ä", "a\n"] {
            assert!(!is_software_name(bad), "{bad:?}");
        }
    }
}
