//! JSON values and how they are written (RFC 8259): for the HTTP port's data and the command line's `--json`. Nothing
//! here reads JSON.

use std::borrow::Cow;
use std::fmt::{self, Display, Formatter, Write};

/// A value. Objects keep the order of their members.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer. Readers that know only floating point lose digits beyond 2^53.
    Integer(i64),
    /// A number; what JSON cannot say (infinite, not a number) is written as `null`.
    Number(f64),
    /// A string.
    Text(Cow<'static, str>),
    /// An array.
    Array(Vec<Json>),
    /// An object.
    Object(Vec<(Cow<'static, str>, Json)>),
}

impl Json {
    /// An object of members whose names are known.
    pub fn object<const N: usize>(members: [(&'static str, Json); N]) -> Json {
        Json::Object(members.into_iter().map(|(name, value)| (Cow::Borrowed(name), value)).collect())
    }

    /// An array.
    pub fn array(items: impl IntoIterator<Item = impl Into<Json>>) -> Json {
        Json::Array(items.into_iter().map(Into::into).collect())
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Json {
        Json::Bool(value)
    }
}

impl From<i64> for Json {
    fn from(value: i64) -> Json {
        Json::Integer(value)
    }
}

impl From<i32> for Json {
    fn from(value: i32) -> Json {
        Json::Integer(value.into())
    }
}

impl From<u64> for Json {
    fn from(value: u64) -> Json {
        i64::try_from(value).map_or(Json::Number(value as f64), Json::Integer)
    }
}

impl From<usize> for Json {
    fn from(value: usize) -> Json {
        Json::from(value as u64)
    }
}

impl From<f64> for Json {
    fn from(value: f64) -> Json {
        Json::Number(value)
    }
}

impl From<String> for Json {
    fn from(value: String) -> Json {
        Json::Text(Cow::Owned(value))
    }
}

impl From<&str> for Json {
    fn from(value: &str) -> Json {
        Json::from(value.to_owned())
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Json {
        value.map_or(Json::Null, Into::into)
    }
}

impl Display for Json {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => formatter.write_str("null"),
            Json::Bool(value) => write!(formatter, "{value}"),
            Json::Integer(value) => write!(formatter, "{value}"),
            Json::Number(value) if value.is_finite() => write!(formatter, "{value}"),
            Json::Number(_) => formatter.write_str("null"),
            Json::Text(text) => write_text(text, formatter),
            Json::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    write!(formatter, "{}{item}", if index == 0 { '[' } else { ',' })?;
                }
                formatter.write_str(if items.is_empty() { "[]" } else { "]" })
            }
            Json::Object(members) => {
                for (index, (name, value)) in members.iter().enumerate() {
                    formatter.write_char(if index == 0 { '{' } else { ',' })?;
                    write_text(name, formatter)?;
                    write!(formatter, ":{value}")?;
                }
                formatter.write_str(if members.is_empty() { "{}" } else { "}" })
            }
        }
    }
}

fn write_text(text: &str, formatter: &mut Formatter<'_>) -> fmt::Result {
    // Line separators end a line in some readers of one document a line.
    let is_special = |character| matches!(character, '"' | '\\' | '\0'..='\x1f' | '\x7f' | '\u{2028}' | '\u{2029}');
    formatter.write_char('"')?;
    let mut rest = text;
    while let Some(at) = rest.find(is_special) {
        formatter.write_str(&rest[..at])?;
        let character = rest[at..].chars().next().expect("it was found");
        match character {
            '"' => formatter.write_str("\\\"")?,
            '\\' => formatter.write_str("\\\\")?,
            '\n' => formatter.write_str("\\n")?,
            '\r' => formatter.write_str("\\r")?,
            '\t' => formatter.write_str("\\t")?,
            character => write!(formatter, "\\u{:04x}", u32::from(character))?,
        }
        rest = &rest[at + character.len_utf8()..];
    }
    formatter.write_str(rest)?;
    formatter.write_char('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_as_the_format_wants_them() {
        let value = Json::object([
            ("text", "a\"\\\n\u{1}\u{2028}é".into()),
            ("numbers", Json::array([1.5, 1e21, f64::NAN, -0.25])),
            ("integers", Json::Array(vec![i64::MIN.into(), u64::MAX.into(), 7usize.into(), 3i32.into()])),
            ("none", None::<i64>.into()),
            ("empty", Json::Array(vec![Json::Array(Vec::new()), Json::Object(Vec::new()), true.into()])),
        ]);
        assert_eq!(
            value.to_string(),
            "{\"text\":\"a\\\"\\\\\\n\\u0001\\u2028é\",\"numbers\":[1.5,1000000000000000000000,null,-0.25],\
             \"integers\":[-9223372036854775808,18446744073709552000,7,3],\"none\":null,\"empty\":[[],{},true]}"
        );
    }
}
