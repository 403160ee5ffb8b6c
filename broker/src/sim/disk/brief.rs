//! Operations and their results as a line of a trace shows them: bytes by their number and their fingerprint.

use bytes::Bytes;
use millstream_storage::{DiskError, DiskOp, DiskReply};

use crate::sim::schedule::fingerprint;

/// A result without the bytes it brings.
pub fn brief(result: &Result<DiskReply, DiskError>) -> String {
    match result {
        Ok(DiskReply::Data(data)) => format!("{} bytes", data.len()),
        Ok(_) => "done".to_string(),
        Err(error) => error.to_string(),
    }
}

/// An operation without the bytes it writes.
pub fn brief_op(op: &DiskOp) -> String {
    match op {
        DiskOp::Write { path, position, data, durable } => {
            let bytes: usize = data.iter().map(Bytes::len).sum();
            let print = fingerprint(data.iter().map(|part| &part[..]));
            format!("write {path} at {position}, {bytes} bytes ({print:016x}), durable: {durable}")
        }
        DiskOp::Replace { path, data } => format!("replace {path} with {} bytes", data.len()),
        DiskOp::All(ops) => format!("at once: {}", ops.iter().map(brief_op).collect::<Vec<_>>().join("; ")),
        other => format!("{other:?}"),
    }
}
