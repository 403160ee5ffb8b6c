//! Identities out of random bytes that were drawn elsewhere.

/// A random UUID (RFC 9562, version 4) whose base64 text does not begin with `-`, which would make it look like an
/// option of a command.
pub(crate) fn uuid(random: u128) -> [u8; 16] {
    const VERSION: u128 = 0xf << 76;
    const VARIANT: u128 = 0b11 << 62;
    let mut id = (random & !VERSION & !VARIANT) | (4 << 76) | (0b10 << 62);
    // '-' is the 62 of base64: the first six bits.
    if id >> 122 == 62 {
        id ^= 1 << 127;
    }
    id.to_be_bytes()
}

/// The finalizer of splitmix64: every bit of the input reaches every bit of the output, and no two inputs meet.
pub(crate) fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The high and the low half.
pub(crate) fn halves(whole: u128) -> [u64; 2] {
    [(whole >> 64) as u64, whole as u64]
}

/// What [`halves`] took apart.
pub(crate) fn whole([high, low]: [u64; 2]) -> u128 {
    (u128::from(high) << 64) | u128::from(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_storage::TopicId;

    #[test]
    fn identities_are_random_uuids_that_do_not_look_like_options() {
        for random in [0, u128::MAX, 62 << 122, whole(halves(1 << 77))] {
            let id = uuid(random);
            assert_eq!((id[6] >> 4, id[8] >> 6), (4, 2));
            assert!(!TopicId(id).to_base64().starts_with('-'));
        }
        assert_ne!(uuid(1), uuid(2));
    }
}
