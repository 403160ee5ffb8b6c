//! The header of every request. `cargo +nightly fuzz run request_header`

#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream::protocol::header::RequestHeader;

fuzz_target!(|bytes: &[u8]| {
    let frame = bytes::Bytes::copy_from_slice(bytes);
    if let Ok((header, body)) = RequestHeader::parse(frame) {
        assert!(header.is_version_served() || body.is_empty());
        assert!(body.len() <= bytes.len());
        assert_eq!(header.response().correlation_id, i32::from_be_bytes(bytes[4..8].try_into().unwrap()));
        let _ = header.client_id.as_deref().map(str::len);
    }
});
