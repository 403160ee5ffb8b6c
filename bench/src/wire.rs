//! The few requests that the load needs, at versions that Kafka 2.1 to 4.x and Millstream all speak.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::connection::{BenchError, Connection};

const PRODUCE: (i16, i16) = (0, 7);
const FETCH: (i16, i16) = (1, 10);
const LIST_OFFSETS: (i16, i16) = (2, 4);
const METADATA: (i16, i16) = (3, 5);
const CREATE_TOPICS: (i16, i16) = (19, 2);

/// TOPIC_ALREADY_EXISTS
const TOPIC_EXISTS: i16 = 36;
/// Bytes of a record batch before its records.
const BATCH_HEADER_BYTES: usize = 61;
/// Where the checksummed part of a batch begins.
const BATCH_CRC_FROM: usize = 21;

/// A request under construction: its length is filled in at the end.
fn begin((key, version): (i16, i16), correlation: i32) -> BytesMut {
    let mut request = BytesMut::with_capacity(256);
    request.put_i32(0);
    request.put_i16(key);
    request.put_i16(version);
    request.put_i32(correlation);
    put_string(&mut request, "millstream-bench");
    request
}

fn finish(mut request: BytesMut) -> Bytes {
    let length = (request.len() - 4) as i32;
    request[..4].copy_from_slice(&length.to_be_bytes());
    request.freeze()
}

fn put_string(request: &mut BytesMut, text: &str) {
    request.put_i16(text.len() as i16);
    request.put_slice(text.as_bytes());
}

/// Skips a nullable string.
fn skip_string(response: &mut Bytes) -> Result<(), BenchError> {
    let length = response.try_get_i16()?;
    skip(response, length.max(0) as usize)
}

fn skip(response: &mut Bytes, bytes: usize) -> Result<(), BenchError> {
    if response.len() < bytes {
        return Err(BenchError::Truncated);
    }
    response.advance(bytes);
    Ok(())
}

/// Creates the topic if it is missing, and waits until it has `partitions` with leaders.
pub fn ensure_topic(connection: &mut Connection, topic: &str, partitions: i32) -> Result<(), BenchError> {
    let mut request = begin(CREATE_TOPICS, 0);
    request.put_i32(1);
    put_string(&mut request, topic);
    request.put_i32(partitions);
    request.put_i16(1);
    request.put_i32(0);
    request.put_i32(0);
    request.put_i32(10_000);
    request.put_u8(0);
    let mut response = connection.call(finish(request))?;
    skip(&mut response, 12)?;
    skip_string(&mut response)?;
    let error = response.try_get_i16()?;
    if error != 0 && error != TOPIC_EXISTS {
        return Err(BenchError::Broker("creating the topic", error));
    }
    let count = partition_count(connection, topic)?;
    if count < partitions {
        return Err(BenchError::Partitions { topic: topic.to_string(), wanted: partitions, found: count });
    }
    Ok(())
}

/// How many partitions the topic has.
pub fn partition_count(connection: &mut Connection, topic: &str) -> Result<i32, BenchError> {
    let mut request = begin(METADATA, 0);
    request.put_i32(1);
    put_string(&mut request, topic);
    request.put_u8(0);
    let mut response = connection.call(finish(request))?;
    skip(&mut response, 8)?;
    for _ in 0..response.try_get_i32()? {
        skip(&mut response, 4)?;
        skip_string(&mut response)?;
        skip(&mut response, 4)?;
        skip_string(&mut response)?;
    }
    skip_string(&mut response)?;
    skip(&mut response, 8)?;
    let error = response.try_get_i16()?;
    if error != 0 {
        return Err(BenchError::Broker("describing the topic", error));
    }
    skip_string(&mut response)?;
    skip(&mut response, 1)?;
    Ok(response.try_get_i32()?)
}

/// A batch of `records` records of `record_bytes` each that no codec could shrink.
pub fn batch(records: usize, record_bytes: usize) -> Bytes {
    let mut body = BytesMut::new();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for delta in 0..records {
        let mut record = BytesMut::new();
        record.put_u8(0);
        put_varint(&mut record, 0);
        put_varint(&mut record, delta as i64);
        put_varint(&mut record, -1);
        put_varint(&mut record, record_bytes as i64);
        for _ in 0..record_bytes {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            record.put_u8(state as u8);
        }
        put_varint(&mut record, 0);
        put_varint(&mut body, record.len() as i64);
        body.put_slice(&record);
    }
    let mut batch = BytesMut::with_capacity(BATCH_HEADER_BYTES + body.len());
    batch.put_i64(0);
    batch.put_i32((BATCH_HEADER_BYTES - 12 + body.len()) as i32);
    batch.put_i32(-1);
    batch.put_u8(2);
    batch.put_u32(0);
    batch.put_i16(0);
    batch.put_i32(records as i32 - 1);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_millis());
    batch.put_i64(now as i64);
    batch.put_i64(now as i64);
    batch.put_i64(-1);
    batch.put_i16(-1);
    batch.put_i32(-1);
    batch.put_i32(records as i32);
    batch.put_slice(&body);
    let crc = crc32c::crc32c(&batch[BATCH_CRC_FROM..]);
    batch[BATCH_CRC_FROM - 4..BATCH_CRC_FROM].copy_from_slice(&crc.to_be_bytes());
    batch.freeze()
}

fn put_varint(buffer: &mut BytesMut, value: i64) {
    let mut bits = ((value << 1) ^ (value >> 63)) as u64;
    while bits >= 0x80 {
        buffer.put_u8(bits as u8 | 0x80);
        bits >>= 7;
    }
    buffer.put_u8(bits as u8);
}

/// A produce request with the same batch for each of these partitions.
pub fn produce(topic: &str, partitions: &[i32], acks: i16, batch: &[u8]) -> Bytes {
    let mut request = begin(PRODUCE, 0);
    request.reserve(partitions.len() * (batch.len() + 8) + 64);
    request.put_i16(-1);
    request.put_i16(acks);
    request.put_i32(30_000);
    request.put_i32(1);
    put_string(&mut request, topic);
    request.put_i32(partitions.len() as i32);
    for &partition in partitions {
        request.put_i32(partition);
        request.put_i32(batch.len() as i32);
        request.put_slice(batch);
    }
    finish(request)
}

/// The first error in a produce response, if there is one.
pub fn produce_error(mut response: Bytes) -> Result<Option<i16>, BenchError> {
    skip(&mut response, 4)?;
    for _ in 0..response.try_get_i32()? {
        skip_string(&mut response)?;
        for _ in 0..response.try_get_i32()? {
            skip(&mut response, 4)?;
            let error = response.try_get_i16()?;
            if error != 0 {
                return Ok(Some(error));
            }
            skip(&mut response, 24)?;
        }
    }
    Ok(None)
}

/// The offset that `time` names in a partition: -1 the end, -2 the start.
pub fn list_offset(connection: &mut Connection, topic: &str, partition: i32, time: i64) -> Result<i64, BenchError> {
    let mut request = begin(LIST_OFFSETS, 0);
    request.put_i32(-1);
    request.put_u8(0);
    request.put_i32(1);
    put_string(&mut request, topic);
    request.put_i32(1);
    request.put_i32(partition);
    request.put_i32(-1);
    request.put_i64(time);
    let mut response = connection.call(finish(request))?;
    skip(&mut response, 12)?;
    skip_string(&mut response)?;
    skip(&mut response, 8)?;
    let error = response.try_get_i16()?;
    if error != 0 {
        return Err(BenchError::Broker("listing offsets", error));
    }
    skip(&mut response, 8)?;
    Ok(response.try_get_i64()?)
}

/// A fetch request from these (partition, offset) pairs.
pub fn fetch(topic: &str, positions: &[(i32, i64)], bytes_max: i32) -> Bytes {
    let mut request = begin(FETCH, 0);
    request.put_i32(-1);
    request.put_i32(500);
    request.put_i32(1);
    request.put_i32(50 << 20);
    request.put_u8(0);
    request.put_i32(0);
    request.put_i32(-1);
    request.put_i32(1);
    put_string(&mut request, topic);
    request.put_i32(positions.len() as i32);
    for &(partition, offset) in positions {
        request.put_i32(partition);
        request.put_i32(-1);
        request.put_i64(offset);
        request.put_i64(-1);
        request.put_i32(bytes_max);
    }
    request.put_i32(0);
    finish(request)
}

/// Walks a fetch response: calls `next` with each partition, its records' bytes (whole batches only), the records in
/// them and the offset to go on from.
pub fn fetched(mut response: Bytes, mut next: impl FnMut(i32, usize, u64, i64)) -> Result<(), BenchError> {
    skip(&mut response, 8)?;
    let error = response.try_get_i16()?;
    if error != 0 {
        return Err(BenchError::Broker("fetching", error));
    }
    skip(&mut response, 4)?;
    for _ in 0..response.try_get_i32()? {
        skip_string(&mut response)?;
        for _ in 0..response.try_get_i32()? {
            let partition = response.try_get_i32()?;
            let error = response.try_get_i16()?;
            if error != 0 {
                return Err(BenchError::Broker("fetching a partition", error));
            }
            skip(&mut response, 24)?;
            for _ in 0..response.try_get_i32()?.max(0) {
                skip(&mut response, 16)?;
            }
            let length = response.try_get_i32()?.max(0) as usize;
            if length > response.len() {
                return Err(BenchError::Truncated);
            }
            let mut records = response.split_to(length);
            let (mut bytes, mut count, mut offset) = (0, 0, None);
            while records.len() >= BATCH_HEADER_BYTES {
                let base = (&records[..8]).get_i64();
                let batch_bytes = (&records[8..12]).get_i32().max(0) as usize + 12;
                if batch_bytes > records.len() || batch_bytes < BATCH_HEADER_BYTES {
                    break;
                }
                let last_delta = (&records[23..27]).get_i32();
                bytes += batch_bytes;
                count += (&records[57..61]).get_i32().max(0) as u64;
                offset = Some(base + i64::from(last_delta) + 1);
                records.advance(batch_bytes);
            }
            if let Some(offset) = offset {
                next(partition, bytes, count, offset);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_says_its_own_length_and_checksum() {
        let batch = batch(3, 100);
        assert_eq!((&batch[8..12]).get_i32() as usize + 12, batch.len());
        assert_eq!((&batch[17..21]).get_u32(), crc32c::crc32c(&batch[21..]));
        assert_eq!((&batch[57..61]).get_i32(), 3);
    }

    #[test]
    fn a_request_says_its_own_length() {
        let request = produce("topic", &[0, 1], -1, &batch(1, 10));
        assert_eq!((&request[..4]).get_i32() as usize + 4, request.len());
    }

    #[test]
    fn responses_that_end_too_early_are_errors() {
        for length in 0..30 {
            let bytes = Bytes::from([0, 0, 0, 1].repeat(8)).slice(..length);
            assert!(produce_error(bytes.clone()).is_err() || length >= 4);
            let _ = fetched(bytes, |_, _, _, _| {});
        }
    }
}
