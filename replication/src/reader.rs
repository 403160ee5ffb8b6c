//! Reads fields, little-endian, out of bytes that may be anything: from a disk, or from another node. Memory follows the bytes
//! that are there, never a count in them.

/// Takes what a layout says from the front of bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins with the first of these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes }
    }

    /// All that was not taken.
    pub fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// So many bytes. This error, and that of all that follows, says what is wrong.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        if count > self.bytes.len() {
            return Err(format!("{count} bytes are wanted and {} are left", self.bytes.len()));
        }
        let (taken, left) = self.bytes.split_at(count);
        self.bytes = left;
        Ok(taken)
    }

    /// As many bytes as the array has.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.take(N)?;
        Ok(taken.try_into().expect("as many bytes as were taken"))
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8, String> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A byte that is 0 or 1.
    pub fn flag(&mut self) -> Result<bool, String> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("{other} where only 0 or 1 can be")),
        }
    }

    /// A number of two bytes.
    pub fn u16(&mut self) -> Result<u16, String> {
        self.array().map(u16::from_le_bytes)
    }

    /// A number of four bytes.
    pub fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number of eight bytes.
    pub fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number of four bytes, with a sign.
    pub fn i32(&mut self) -> Result<i32, String> {
        self.array().map(i32::from_le_bytes)
    }

    /// A number of eight bytes, with a sign.
    pub fn i64(&mut self) -> Result<i64, String> {
        self.array().map(i64::from_le_bytes)
    }

    /// A text, behind its length in four bytes.
    pub fn text(&mut self) -> Result<String, String> {
        let length = self.u32()? as usize;
        self.text_of(length)
    }

    /// A text of so many bytes.
    pub fn text_of(&mut self, length: usize) -> Result<String, String> {
        match std::str::from_utf8(self.take(length)?) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err("a text is not UTF-8".into()),
        }
    }
}
