//! The few requests that the load needs, at versions that Kafka 2.1 to 4.x and Millstream all speak.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::BenchError;

const PRODUCE: (i16, i16) = (0, 7);
const FETCH: (i16, i16) = (1, 10);

/// Kafka's error codes: <https://kafka.apache.org/protocol#protocol_error_codes>
pub const NONE: i16 = 0;

/// Bytes of a record batch before its records.
const BATCH_HEADER_BYTES: usize = 61;
/// Where the checksummed part of a batch begins.
const BATCH_CRC_FROM: usize = 21;

/// A request under construction: its length is filled in at the end.
pub fn begin((key, version): (i16, i16), correlation: i32) -> BytesMut {
    let mut request = BytesMut::with_capacity(256);
    request.put_i32(0);
    request.put_i16(key);
    request.put_i16(version);
    request.put_i32(correlation);
    put_string(&mut request, "millstream-bench");
    request
}

pub fn finish(mut request: BytesMut) -> Bytes {
    let length = (request.len() - 4) as i32;
    request[..4].copy_from_slice(&length.to_be_bytes());
    request.freeze()
}

pub fn put_string(request: &mut BytesMut, text: &str) {
    request.put_i16(text.len() as i16);
    request.put_slice(text.as_bytes());
}

/// Skips a nullable string.
pub fn skip_string(response: &mut &[u8]) -> Result<(), BenchError> {
    let length = response.try_get_i16()?;
    skip(response, length.max(0) as usize)
}

pub fn skip(response: &mut &[u8], bytes: usize) -> Result<(), BenchError> {
    *response = response.get(bytes..).ok_or(BenchError::Truncated)?;
    Ok(())
}

/// A batch of `records` records of `record_bytes` each that no codec could shrink.
pub fn batch(records: usize, record_bytes: usize) -> Bytes {
    let mut body = BytesMut::new();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for delta in 0..records {
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        let value: Vec<u8> = std::iter::repeat_with(next).take(record_bytes).collect();
        put_record(&mut body, delta, None, &value);
    }
    sealed(records, &body)
}

/// A batch of records with these keys and values.
pub fn keyed_batch<'a>(records: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Bytes {
    let mut body = BytesMut::new();
    let mut count = 0;
    for (key, value) in records {
        put_record(&mut body, count, Some(key), value);
        count += 1;
    }
    sealed(count, &body)
}

fn put_record(body: &mut BytesMut, delta: usize, key: Option<&[u8]>, value: &[u8]) {
    let mut record = BytesMut::with_capacity(value.len() + 32);
    record.put_u8(0);
    put_varint(&mut record, 0);
    put_varint(&mut record, delta as i64);
    put_varint(&mut record, key.map_or(-1, |key| key.len() as i64));
    record.put_slice(key.unwrap_or_default());
    put_varint(&mut record, value.len() as i64);
    record.put_slice(value);
    put_varint(&mut record, 0);
    put_varint(body, record.len() as i64);
    body.put_slice(&record);
}

/// The records' bytes with the header before them.
fn sealed(records: usize, body: &[u8]) -> Bytes {
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
    batch.put_slice(body);
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

/// Checks every partition of a produce response; returns how many there are.
pub fn produced(mut response: &[u8]) -> Result<usize, BenchError> {
    let mut answered = 0;
    skip(&mut response, 4)?;
    for _ in 0..response.try_get_i32()? {
        skip_string(&mut response)?;
        for _ in 0..response.try_get_i32()? {
            skip(&mut response, 4)?;
            let error = response.try_get_i16()?;
            if error != NONE {
                return Err(BenchError::Broker("producing", error));
            }
            skip(&mut response, 24)?;
            answered += 1;
        }
    }
    Ok(answered)
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

/// The records of one partition in a fetch response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    pub partition: i32,
    /// Of whole batches.
    pub bytes: usize,
    pub records: u64,
    /// The offset to go on from.
    pub next: i64,
}

/// Walks a fetch response, by the headers of its batches: calls `next` with each partition that has whole batches.
pub fn fetched(response: &[u8], mut next: impl FnMut(Fetched)) -> Result<(), BenchError> {
    fetched_batches(response, |partition, batches| {
        if let Some(fetched) = batches_of(partition, batches) {
            next(fetched);
        }
        Ok(())
    })
}

/// Walks a fetch response: calls `next` with each partition and the bytes of its batches; the last may be cut off.
pub fn fetched_batches(
    mut response: &[u8],
    mut next: impl FnMut(i32, &[u8]) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    skip(&mut response, 8)?;
    let error = response.try_get_i16()?;
    if error != NONE {
        return Err(BenchError::Broker("fetching", error));
    }
    skip(&mut response, 4)?;
    for _ in 0..response.try_get_i32()? {
        skip_string(&mut response)?;
        for _ in 0..response.try_get_i32()? {
            let partition = response.try_get_i32()?;
            let error = response.try_get_i16()?;
            if error != NONE {
                return Err(BenchError::Broker("fetching a partition", error));
            }
            skip(&mut response, 24)?;
            let aborted = response.try_get_i32()?.max(0) as usize;
            skip(&mut response, aborted.saturating_mul(16))?;
            let length = response.try_get_i32()?.max(0) as usize;
            let (batches, rest) = response.split_at_checked(length).ok_or(BenchError::Truncated)?;
            response = rest;
            next(partition, batches)?;
        }
    }
    Ok(())
}

/// Walks the records of whole, uncompressed batches: calls `next` with each record's key and value. Returns the offset to
/// go on from, if there was a whole batch.
pub fn keyed_records(
    mut batches: &[u8],
    mut next: impl FnMut(&[u8], &[u8]) -> Result<(), BenchError>,
) -> Result<Option<i64>, BenchError> {
    let mut after = None;
    while let Some(Fetched { .. }) = batches_of(0, batches) {
        let bytes = (&batches[8..12]).get_i32() as usize + 12;
        let (batch, rest) = batches.split_at(bytes);
        if (&batch[21..23]).get_i16() & 7 != 0 {
            return Err(BenchError::Response("a batch is compressed".to_string()));
        }
        let mut body = &batch[BATCH_HEADER_BYTES..];
        for _ in 0..(&batch[57..61]).get_i32() {
            let _length = varint(&mut body)?;
            skip(&mut body, 1)?;
            let (_timestamp, _offset) = (varint(&mut body)?, varint(&mut body)?);
            let key = field(&mut body)?;
            let value = field(&mut body)?;
            for _ in 0..varint(&mut body)?.saturating_mul(2) {
                field(&mut body)?;
            }
            next(key, value)?;
        }
        after = Some((&batch[..8]).get_i64() + i64::from((&batch[23..27]).get_i32()) + 1);
        batches = rest;
    }
    Ok(after)
}

fn varint(bytes: &mut &[u8]) -> Result<i64, BenchError> {
    let mut bits = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes.try_get_u8()?;
        bits |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok((bits >> 1) as i64 ^ -((bits & 1) as i64));
        }
    }
    Err(BenchError::Response("a number does not end".to_string()))
}

/// Bytes with their length before them; none are no bytes.
fn field<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], BenchError> {
    let length = usize::try_from(varint(bytes)?).unwrap_or(0);
    let (field, rest) = bytes.split_at_checked(length).ok_or(BenchError::Truncated)?;
    *bytes = rest;
    Ok(field)
}

/// Sums up the whole batches; the last may be cut off.
fn batches_of(partition: i32, mut batches: &[u8]) -> Option<Fetched> {
    let mut fetched = None;
    while batches.len() >= BATCH_HEADER_BYTES {
        let base = (&batches[..8]).get_i64();
        let bytes = (&batches[8..12]).get_i32().max(0) as usize + 12;
        if bytes > batches.len() || bytes < BATCH_HEADER_BYTES {
            break;
        }
        let last_delta = (&batches[23..27]).get_i32();
        let sum = fetched.get_or_insert(Fetched { partition, bytes: 0, records: 0, next: 0 });
        sum.bytes += bytes;
        sum.records += (&batches[57..61]).get_i32().max(0) as u64;
        sum.next = base.saturating_add(i64::from(last_delta)).saturating_add(1);
        batches = &batches[bytes..];
    }
    fetched
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
    fn requests_say_their_own_length() {
        for request in [produce("topic", &[0, 1], -1, &batch(1, 10)), fetch("topic", &[(0, 7)], 1 << 20)] {
            assert_eq!((&request[..4]).get_i32() as usize + 4, request.len());
        }
    }

    fn produce_response(errors: &[i16]) -> Vec<u8> {
        let mut response = BytesMut::new();
        response.put_i32(0);
        response.put_i32(1);
        put_string(&mut response, "topic");
        response.put_i32(errors.len() as i32);
        for (partition, &error) in errors.iter().enumerate() {
            response.put_i32(partition as i32);
            response.put_i16(error);
            response.put_bytes(0, 24);
        }
        response.put_i32(0);
        response.to_vec()
    }

    #[test]
    fn an_error_of_any_partition_is_found() {
        assert_eq!(produced(&produce_response(&[0, 0, 0])).unwrap(), 3);
        for partition in 0..3 {
            let mut errors = [0; 3];
            errors[partition] = 56;
            assert!(matches!(produced(&produce_response(&errors)), Err(BenchError::Broker(_, 56))));
        }
    }

    fn fetch_response(partitions: &[(i32, Vec<u8>)]) -> Vec<u8> {
        let mut response = BytesMut::new();
        response.put_i64(0);
        response.put_i16(0);
        response.put_i32(0);
        response.put_i32(1);
        put_string(&mut response, "topic");
        response.put_i32(partitions.len() as i32);
        for (partition, batches) in partitions {
            response.put_i32(*partition);
            response.put_i16(0);
            response.put_bytes(0, 24);
            response.put_i32(1);
            response.put_bytes(0, 16);
            response.put_i32(batches.len() as i32);
            response.put_slice(batches);
        }
        response.to_vec()
    }

    #[test]
    fn whole_batches_are_summed_up_and_one_that_is_cut_off_is_left_out() {
        let mut batches = batch(3, 100).to_vec();
        let mut second = batch(2, 10).to_vec();
        second[..8].copy_from_slice(&3i64.to_be_bytes());
        let whole = batches.len() + second.len();
        batches.extend_from_slice(&second);
        batches.extend_from_slice(&batch(4, 10)[..70]);
        let mut read = Vec::new();
        fetched(&fetch_response(&[(7, batches), (8, vec![])]), |fetched| read.push(fetched)).unwrap();
        assert_eq!(read, [Fetched { partition: 7, bytes: whole, records: 5, next: 5 }]);
    }

    /// No walker panics, and each says so, when a response ends too early.
    #[test]
    fn responses_that_end_too_early_are_errors() {
        // The throttle time at the end of a produce response is not looked at.
        let produce = produce_response(&[0, 0]);
        for length in 0..produce.len() - 4 {
            assert!(matches!(produced(&produce[..length]), Err(BenchError::Truncated)), "{length} bytes");
        }
        let fetch = fetch_response(&[(0, batch(1, 10).to_vec())]);
        for length in 0..fetch.len() {
            assert!(matches!(fetched(&fetch[..length], |_| {}), Err(BenchError::Truncated)), "{length} bytes");
        }
    }

    #[test]
    fn responses_of_any_bytes_are_walked_without_a_panic() {
        for fill in [0, 1, 0x7f, 0x80, 0xff] {
            for length in 0..120 {
                let bytes = vec![fill; length];
                let _ = (produced(&bytes), fetched(&bytes, |_| {}));
            }
        }
    }
}
