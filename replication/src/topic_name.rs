//! What a topic may be called.

/// Longest topic name, in bytes: with a partition number behind it, it fits a file name.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// The topic that keeps consumer groups and their offsets.
pub const CONSUMER_OFFSETS: &str = "__consumer_offsets";

/// The topics that brokers keep for themselves; clients see them marked as internal.
const INTERNAL: [&str; 3] = [CONSUMER_OFFSETS, "__transaction_state", "__share_group_state"];

/// Whether brokers keep the topic for themselves.
pub fn is_internal(name: &str) -> bool {
    INTERNAL.contains(&name)
}

/// Whether a topic may have this name; if not, why (INVALID_TOPIC_EXCEPTION).
pub fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a topic's name cannot be empty".into());
    }
    if name.len() > TOPIC_NAME_BYTES_MAX {
        return Err(format!(
            "a topic's name cannot be longer than {TOPIC_NAME_BYTES_MAX} bytes; this one has {}",
            name.len()
        ));
    }
    if name == "." || name == ".." {
        return Err(format!("a topic cannot be called {name:?}"));
    }
    match name.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-')) {
        Some(other) => Err(format!(
            "a topic's name consists of ASCII letters, digits, '.', '_' and '-': {name:?} contains {other:?}"
        )),
        None => Ok(()),
    }
}

/// What `.` and `_` make the same: two topics cannot both have it, because metric names cannot tell them apart. `None`
/// for a name that has neither.
pub(crate) fn colliding(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn legal_names_and_others() {
        for legal in ["a", "a.b_c-D9", "...", "__consumer_offsets", &"x".repeat(249)] {
            assert_eq!(check(legal), Ok(()), "{legal}");
        }
        for illegal in ["", ".", "..", "a b", "a/b", "ä", "a\0", &"x".repeat(250)] {
            assert!(check(illegal).is_err(), "{illegal:?}");
        }
        assert!(is_internal("__consumer_offsets") && !is_internal("__mine"));
    }

    #[test]
    fn dots_and_underscores_collide() {
        assert_eq!(colliding("a.b"), colliding("a_b"));
        assert_ne!(colliding("a.b"), colliding("a-b"));
        assert_eq!(colliding("ab"), None);
    }
}
