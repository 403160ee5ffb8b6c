//! Subscriptions by regular expressions: which topics match is looked for a few at a time, and written down, so that all
//! members and the next coordinator go by the same.
//!
//! Kafka's clients write expressions for RE2; the `regex` crate's language is the same but for rare escapes, and like RE2
//! takes time linear in the text, whatever the expression.

use std::sync::Arc;

use millstream_replication::ClusterImage;
use regex::bytes::{Regex, RegexBuilder};

use super::ConsumerGroup;
use crate::group::record::{ConsumerRecord, ResolvedRegex};

/// Bytes of one regular expression.
pub const REGEX_BYTES_MAX: usize = 4096;
/// Regular expressions that the members of one group subscribe by.
pub const REGEXES_MAX: usize = 64;
/// Bytes of one compiled regular expression.
const COMPILED_BYTES_MAX: usize = 256 << 10;
/// How often one step looks whether a topic matches.
const MATCHES_PER_STEP: usize = 512;

/// Compiles an expression, which has to match whole names; why it cannot be if not.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    // Names of topics are ASCII: classes of characters mean it too, as with RE2.
    let compile = |pattern: &str| RegexBuilder::new(pattern).unicode(false).size_limit(COMPILED_BYTES_MAX).build();
    compile(pattern)
        .and_then(|_| compile(&format!("^(?:{pattern})$")))
        .map_err(|error| format!("SubscribedTopicRegex `{pattern}` is not a valid regular expression: {error}"))
}

/// A search under way for the topics that match a group's regular expressions.
#[derive(Debug)]
pub struct Resolution {
    /// The metadata that it began with.
    version: u64,
    patterns: Vec<(Arc<str>, Regex, Vec<Arc<str>>)>,
    /// How many topics were looked at.
    looked_at: usize,
}

impl Resolution {
    /// Begins to search.
    pub fn begin(group: &ConsumerGroup, cluster: &ClusterImage) -> Resolution {
        let compiled = |pattern: &Arc<str>| Some((pattern.clone(), compile(pattern).ok()?, Vec::new()));
        Resolution { version: cluster.offset(), patterns: group.regexes().filter_map(compiled).collect(), looked_at: 0 }
    }

    /// The metadata that it began with: topics may have come and gone since.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether it looks for what the group's members subscribe by now.
    pub fn is_of(&self, group: &ConsumerGroup) -> bool {
        group.regexes().eq(self.patterns.iter().map(|(pattern, _, _)| pattern))
    }

    /// Looks at some more topics; whether those were the last.
    pub fn step(&mut self, cluster: &ClusterImage) -> bool {
        let count = (MATCHES_PER_STEP / self.patterns.len().max(1)).max(1);
        let mut looked_at = 0;
        for topic in cluster.topics().skip(self.looked_at).take(count) {
            looked_at += 1;
            for (_, pattern, topics) in &mut self.patterns {
                if pattern.is_match(topic.name.as_bytes()) {
                    topics.push(topic.name.clone());
                }
            }
        }
        self.looked_at += looked_at;
        looked_at < count
    }

    /// The records of what was found: of what is new, with the epoch that follows. What does not go into one write is left
    /// out, and to be looked for again.
    pub fn finish(
        self,
        group: &ConsumerGroup,
        cluster: &ClusterImage,
        now_ms: i64,
        bytes_max: usize,
    ) -> Vec<ConsumerRecord> {
        let mut records = Vec::new();
        let mut after = group.regexes.clone();
        let mut bytes = 0;
        for (pattern, _, mut topics) in self.patterns {
            topics.sort_unstable();
            topics.dedup();
            let is_known = group.regexes.get(&pattern).is_some_and(|resolved| resolved.topics == topics);
            if is_known || !group.regex_subscribers.contains_key(&pattern) {
                continue;
            }
            let version = i64::try_from(self.version).unwrap_or(i64::MAX);
            let resolved = ResolvedRegex { topics, version, timestamp_ms: now_ms };
            let record = ConsumerRecord::Regex(pattern.clone(), Some(resolved.clone()));
            bytes += record.encoded_bytes_max() + 256;
            if bytes > bytes_max {
                break;
            }
            after.insert(pattern, resolved);
            records.push(record);
        }
        if !records.is_empty() {
            let mut names = group.subscribed_topics(None);
            names.extend(after.values().flat_map(|resolved| &resolved.topics).map(|topic| &**topic));
            let topics_hash = ConsumerGroup::hash_topics(cluster, &names);
            records.push(ConsumerRecord::Epoch(Some((group.next_epoch(), topics_hash))));
        }
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names_and_stays_small() {
        let matches = |pattern: &str, name: &str| compile(pattern).expect("it is valid").is_match(name.as_bytes());
        assert!(matches("orders-.*", "orders-eu") && !matches("orders-.*", "my-orders-eu"));
        assert!(matches("a|b", "b") && !matches("a|b", "ab"));
        assert!(matches("^t[0-9]+$", "t12") && !matches("t", "t1"));
        // The parentheses around it cannot be closed from within.
        assert!(compile("a)|(b").is_err() && compile("(").is_err() && compile("\\").is_err());
        assert!(compile("(?:(?:[a-z]{100}){100}){100}").is_err());
    }
}
