//! What the configuration and the quotas of addresses say of client connections: how many, and how fast new ones.
//!
//! All of it may change while the broker runs (`kafka-configs --entity-type brokers` and `--entity-type ips`).

use std::collections::HashMap;
use std::net::IpAddr;

use millstream_replication::ClientQuotas;
use millstream_replication::config::{Properties, broker_value, list};

/// How many connections there may be, and how many may come in a second.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionRules {
    /// `max.connections`: in all.
    pub connections_max: usize,
    /// `max.connections.per.ip`: from one address.
    pub per_address_max: usize,
    /// `max.connections.per.ip.overrides`: from these addresses.
    pub overrides: HashMap<IpAddr, usize>,
    /// `max.connection.creation.rate`: new ones a second, in all.
    pub creation_rate: u32,
    /// `connection_creation_rate` of an address: new ones a second.
    pub address_rates: HashMap<IpAddr, f64>,
    /// The same, of each address that has none of its own.
    pub address_rate: Option<f64>,
}

impl ConnectionRules {
    /// The rules in force: `layers` are the broker's, the highest precedence first. A value that is invalid (a file of
    /// another version) is passed over.
    pub fn new(layers: &[&Properties], quotas: &ClientQuotas) -> ConnectionRules {
        let number = |name| broker_value(name, layers).and_then(|value| value.trim().parse::<u32>().ok());
        let count = |name| number(name).map_or(usize::MAX, |count| count as usize);
        let rates = quotas.connection_rates();
        ConnectionRules {
            connections_max: count("max.connections"),
            per_address_max: count("max.connections.per.ip"),
            overrides: list(broker_value("max.connections.per.ip.overrides", layers).unwrap_or_default())
                .filter_map(|pair| {
                    let (address, count) = pair.rsplit_once(':')?;
                    Some((address.trim().parse().ok()?, count.trim().parse().ok()?))
                })
                .collect(),
            creation_rate: number("max.connection.creation.rate").unwrap_or(u32::MAX),
            address_rate: rates.clone().find_map(|(name, rate)| name.is_none().then_some(rate)),
            address_rates: rates.filter_map(|(name, rate)| Some((name?.parse().ok()?, rate))).collect(),
        }
    }

    /// How many connections an address may have.
    pub fn of_address_max(&self, address: IpAddr) -> usize {
        self.overrides.get(&address).copied().unwrap_or(self.per_address_max)
    }

    /// How many connections an address may open in a second, if that is limited.
    pub fn rate_of_address(&self, address: IpAddr) -> Option<f64> {
        self.address_rates.get(&address).copied().or(self.address_rate)
    }
}

#[cfg(test)]
mod tests {
    use millstream_replication::quota::CONNECTION_CREATION_RATE;
    use millstream_replication::{ClusterImage, MetadataRecord, QuotaEntity, QuotaValue};

    use super::*;

    #[test]
    fn the_strongest_layer_holds() {
        let properties = |pairs: &[(&str, &str)]| -> Properties {
            pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
        };
        let mut image = ClusterImage::new();
        for (name, rate) in [(None, 9.0), (Some("10.0.0.1"), 5.0)] {
            image.replay(&MetadataRecord::Quota {
                entity: QuotaEntity::Ip(name.map(str::to_string)),
                key: CONNECTION_CREATION_RATE.to_string(),
                value: QuotaValue::new(rate),
            });
        }
        let file = properties(&[
            ("max.connections", "7"),
            ("max.connections.per.ip", "3"),
            ("max.connections.per.ip.overrides", "10.0.0.1:8, ::1:9"),
        ]);
        let dynamic = properties(&[("max.connections", "70"), ("max.connection.creation.rate", "20")]);
        let rules = ConnectionRules::new(&[&dynamic, &file], image.quotas());
        let (known, other) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_eq!((rules.connections_max, rules.creation_rate), (70, 20));
        assert_eq!((rules.of_address_max(known), rules.of_address_max(other)), (8, 3));
        assert_eq!(rules.of_address_max("::1".parse().unwrap()), 9);
        assert_eq!((rules.rate_of_address(known), rules.rate_of_address(other)), (Some(5.0), Some(9.0)));

        let rules = ConnectionRules::new(&[], ClusterImage::new().quotas());
        assert_eq!((rules.connections_max, rules.of_address_max(known)), (i32::MAX as usize, i32::MAX as usize));
        assert_eq!((rules.creation_rate, rules.rate_of_address(known)), (i32::MAX as u32, None));
    }
}
