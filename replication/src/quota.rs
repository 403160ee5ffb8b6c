//! Client quotas (KIP-13, KIP-546, KIP-612): whom one is for, what it limits, and which of several applies.
//!
//! The names, the values they take and the order of precedence are Kafka's (`ClientQuotaControlManager`,
//! `ClientQuotaManager`).

use std::collections::BTreeMap;

/// The name of a user, a client id or an address; `None`: the default, for all that have none of their own.
pub type EntityName = Option<String>;

/// The keys of a quota and their values.
pub type QuotaValues = BTreeMap<&'static str, QuotaValue>;

/// Longest name of an entity, in bytes.
pub const ENTITY_NAME_BYTES_MAX: usize = 1024;

/// Most quota values of one cluster.
pub const QUOTA_VALUES_PER_CLUSTER_MAX: usize = 10_000;

/// Bytes a second that a client may produce, over all its connections to one broker.
pub const PRODUCER_BYTE_RATE: &str = "producer_byte_rate";
/// Bytes a second that a client may fetch.
pub const CONSUMER_BYTE_RATE: &str = "consumer_byte_rate";
/// Connections a second that an address may open.
pub const CONNECTION_CREATION_RATE: &str = "connection_creation_rate";

/// Whom a quota is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QuotaEntity {
    /// A client id, whoever the user.
    Client(EntityName),
    /// A user, with whatever client ids.
    User(EntityName),
    /// A client id of a user.
    UserClient(EntityName, EntityName),
    /// An address.
    Ip(EntityName),
}

impl QuotaEntity {
    /// Its names by Kafka's types: `user`, `client-id` and `ip`.
    pub fn names(&self) -> Vec<(&'static str, &EntityName)> {
        match self {
            QuotaEntity::Client(client) => vec![(CLIENT_ID, client)],
            QuotaEntity::User(user) => vec![(USER, user)],
            QuotaEntity::UserClient(user, client) => vec![(USER, user), (CLIENT_ID, client)],
            QuotaEntity::Ip(ip) => vec![(IP, ip)],
        }
    }

    /// The name of this type, if the entity has one.
    pub fn name(&self, entity_type: &str) -> Option<&EntityName> {
        self.names().into_iter().find(|(known, _)| *known == entity_type).map(|(_, name)| name)
    }
}

/// The type of an entity that is a user.
pub const USER: &str = "user";
/// The type of an entity that is a client id.
pub const CLIENT_ID: &str = "client-id";
/// The type of an entity that is an address.
pub const IP: &str = "ip";

/// A positive number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaValue {
    bits: u64,
}

impl QuotaValue {
    /// `None` unless it is a number above 0.
    pub fn new(value: f64) -> Option<QuotaValue> {
        (value > 0.0).then_some(QuotaValue { bits: value.to_bits() })
    }

    /// The number.
    pub fn get(self) -> f64 {
        f64::from_bits(self.bits)
    }
}

/// How exact a value must be that is to be whole: Kafka's bound.
const WHOLE_EPSILON: f64 = 1e-6;

/// The keys that clients and users may have, and whether their values are whole.
const CLIENT_KEYS: [(&str, bool); 4] = [
    (PRODUCER_BYTE_RATE, true),
    (CONSUMER_BYTE_RATE, true),
    ("request_percentage", false),
    ("controller_mutation_rate", false),
];
/// The keys that addresses may have.
const IP_KEYS: [(&str, bool); 1] = [(CONNECTION_CREATION_RATE, true)];

/// The key as the table holds it, if an entity may have it; its value is whole where the second part says so.
fn known_key(entity: &QuotaEntity, key: &str) -> Option<(&'static str, bool)> {
    let keys: &[(&'static str, bool)] = match entity {
        QuotaEntity::Ip(_) => &IP_KEYS,
        _ => &CLIENT_KEYS,
    };
    keys.iter().find(|(known, _)| *known == key).copied()
}

/// The key as the table holds it. The error is one sentence.
pub fn check_key(entity: &QuotaEntity, key: &str) -> Result<&'static str, String> {
    let known = known_key(entity, key).map(|(key, _)| key);
    known.ok_or_else(|| format!("{key:?} is not a quota that this kind of entity can have"))
}

/// The value that a key of an entity may have. The error is one sentence.
pub fn check_value(entity: &QuotaEntity, key: &str, value: f64) -> Result<QuotaValue, String> {
    let (key, is_whole) = known_key(entity, key).ok_or_else(|| format!("{key:?} is not known"))?;
    let Some(checked) = QuotaValue::new(value) else {
        return Err(format!("{key} must be greater than 0, not {value}"));
    };
    if !value.is_finite() || is_whole && (value - value.round()).abs() > WHOLE_EPSILON {
        return Err(format!("{key} must be a whole number, not {value}"));
    }
    Ok(checked)
}

/// A limit, and who shares it.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// Bytes a second.
    pub rate: f64,
    /// Whose bytes count: of this user, or of all.
    pub user: Option<String>,
    /// Whose bytes count: of this client id, or of all of the user's.
    pub client_id: Option<String>,
}

/// All quotas of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientQuotas {
    entities: BTreeMap<QuotaEntity, QuotaValues>,
    count: usize,
}

impl ClientQuotas {
    /// Every entity that has quotas, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&QuotaEntity, &QuotaValues)> {
        self.entities.iter()
    }

    /// How many values there are, at most [`QUOTA_VALUES_PER_CLUSTER_MAX`].
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The value of one key of one entity.
    pub fn value(&self, entity: &QuotaEntity, key: &str) -> Option<QuotaValue> {
        self.entities.get(entity)?.get(key).copied()
    }

    /// Whether any entity has this key.
    pub fn has(&self, key: &str) -> bool {
        self.entities.values().any(|values| values.contains_key(key))
    }

    /// Sets a value, or removes it when there is none. A key that no entity of this kind can have is left out.
    pub(crate) fn set(&mut self, entity: &QuotaEntity, key: &str, value: Option<QuotaValue>) {
        let Some((key, _)) = known_key(entity, key) else { return };
        match value {
            Some(value) => {
                let values = self.entities.entry(entity.clone()).or_default();
                self.count += usize::from(values.insert(key, value).is_none());
            }
            None => {
                let Some(values) = self.entities.get_mut(entity) else { return };
                self.count -= usize::from(values.remove(key).is_some());
                if values.is_empty() {
                    self.entities.remove(entity);
                }
            }
        }
    }

    /// The limit of one key that holds for a client: the first that is set, of the user's client id, the user's default
    /// client, the user, the same three of the default user, the client id, the default client.
    ///
    /// A limit on a client id is one for each client id it holds for, a limit on a user one for each user.
    pub fn limit(&self, key: &str, user: &str, client_id: &str) -> Option<Limit> {
        let user = Some(user.to_string());
        let client_id = Some(client_id.to_string());
        let of = |entity| self.value(&entity, key).map(QuotaValue::get);
        for held in [user.clone(), None] {
            let of_client = of(QuotaEntity::UserClient(held.clone(), client_id.clone()))
                .or_else(|| of(QuotaEntity::UserClient(held.clone(), None)));
            if let Some(rate) = of_client {
                return Some(Limit { rate, user, client_id });
            }
            if let Some(rate) = of(QuotaEntity::User(held)) {
                return Some(Limit { rate, user, client_id: None });
            }
        }
        let rate = of(QuotaEntity::Client(client_id.clone())).or_else(|| of(QuotaEntity::Client(None)))?;
        Some(Limit { rate, user: None, client_id })
    }

    /// The rates at which addresses may open connections; without a name, the rate of each that has none of its own.
    pub fn connection_rates(&self) -> impl Iterator<Item = (Option<&str>, f64)> + Clone {
        self.entities.range(QuotaEntity::Ip(None)..).filter_map(|(entity, values)| match entity {
            QuotaEntity::Ip(name) => Some((name.as_deref(), values.get(CONNECTION_CREATION_RATE)?.get())),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> EntityName {
        (!text.is_empty()).then(|| text.to_string())
    }

    #[test]
    fn the_most_specific_quota_holds() {
        // From the weakest to the strongest: each that is added takes over.
        let user_client = |user, client| QuotaEntity::UserClient(name(user), name(client));
        let by_precedence = [
            (QuotaEntity::Client(None), None, Some("c")),
            (QuotaEntity::Client(name("c")), None, Some("c")),
            (QuotaEntity::User(None), Some("u"), None),
            (user_client("", ""), Some("u"), Some("c")),
            (user_client("", "c"), Some("u"), Some("c")),
            (QuotaEntity::User(name("u")), Some("u"), None),
            (user_client("u", ""), Some("u"), Some("c")),
            (user_client("u", "c"), Some("u"), Some("c")),
        ];
        let mut quotas = ClientQuotas::default();
        assert_eq!(quotas.limit(PRODUCER_BYTE_RATE, "u", "c"), None);
        for (rate, (entity, user, client_id)) in (1..).zip(by_precedence) {
            quotas.set(&entity, PRODUCER_BYTE_RATE, QuotaValue::new(f64::from(rate)));
            let limit = Limit {
                rate: f64::from(rate),
                user: user.map(str::to_string),
                client_id: client_id.map(str::to_string),
            };
            assert_eq!(quotas.limit(PRODUCER_BYTE_RATE, "u", "c"), Some(limit));
            assert_eq!(quotas.limit(CONSUMER_BYTE_RATE, "u", "c"), None);
        }
        assert_eq!(quotas.limit(PRODUCER_BYTE_RATE, "other", "c").expect("a default").rate, 5.0);
        assert_eq!(quotas.len(), 8);
        assert!(quotas.has(PRODUCER_BYTE_RATE) && !quotas.has(CONSUMER_BYTE_RATE));
        let entities: Vec<QuotaEntity> = quotas.iter().map(|(entity, _)| entity.clone()).collect();
        for entity in entities {
            quotas.set(&entity, PRODUCER_BYTE_RATE, None);
            quotas.set(&entity, PRODUCER_BYTE_RATE, None);
        }
        assert!(quotas.is_empty() && quotas.iter().next().is_none());
    }

    #[test]
    fn values_are_checked_by_their_keys() {
        let client = QuotaEntity::Client(None);
        let ip = QuotaEntity::Ip(name("127.0.0.1"));
        assert!(check_value(&client, PRODUCER_BYTE_RATE, 1024.0).is_ok());
        assert!(check_value(&client, PRODUCER_BYTE_RATE, 1024.5).is_err());
        assert!(check_value(&client, "request_percentage", 12.5).is_ok());
        for value in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(check_value(&client, PRODUCER_BYTE_RATE, value).is_err());
        }
        assert!(check_key(&client, CONNECTION_CREATION_RATE).is_err());
        assert!(check_key(&ip, PRODUCER_BYTE_RATE).is_err());
        assert_eq!(check_key(&ip, CONNECTION_CREATION_RATE), Ok(CONNECTION_CREATION_RATE));
    }

    #[test]
    fn the_rates_of_addresses_are_found_among_others() {
        let mut quotas = ClientQuotas::default();
        assert_eq!(quotas.connection_rates().count(), 0);
        quotas.set(&QuotaEntity::User(None), PRODUCER_BYTE_RATE, QuotaValue::new(1.0));
        quotas.set(&QuotaEntity::Ip(None), CONNECTION_CREATION_RATE, QuotaValue::new(9.0));
        quotas.set(&QuotaEntity::Ip(name("10.0.0.1")), CONNECTION_CREATION_RATE, QuotaValue::new(5.0));
        let rates: Vec<_> = quotas.connection_rates().collect();
        assert_eq!(rates, [(None, 9.0), (Some("10.0.0.1"), 5.0)]);
    }
}
