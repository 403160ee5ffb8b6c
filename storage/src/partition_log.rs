//! partition_log
