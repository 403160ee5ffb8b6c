//! Handlers of the APIs that are not the hot path: metadata, topics, configs, admin.
