//! The syntax of Java's `.properties` files, which Kafka's `server.properties` is written in.

use std::str::Chars;

/// Why a file is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub why: String,
}

impl std::fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

/// One property of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// The line it begins on, from 1.
    pub line: usize,
    /// What stands before the separator.
    pub name: String,
    /// What stands after it, without white space at either end.
    pub value: String,
}

/// The properties of a file in their order. The same name may come twice; Java lets the last one win.
pub fn parse(text: &str) -> Result<Vec<Property>, SyntaxError> {
    let mut properties = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let line = line.trim_start_matches(is_blank);
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let mut logical = line.to_owned();
        while ends_with_continuation(&logical) {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            logical.push_str(next.trim_start_matches(is_blank));
        }
        let number = index + 1;
        let (name, value) = split(&logical);
        let unescape = |text| unescape(text).map_err(|why| SyntaxError { line: number, why });
        properties.push(Property { line: number, name: unescape(name)?, value: unescape(value)?.trim().to_owned() });
    }
    Ok(properties)
}

fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\x0c')
}

/// An odd number of backslashes at the end: the last one is not itself escaped.
fn ends_with_continuation(line: &str) -> bool {
    line.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Name and value, still escaped: between them white space and at most one `=` or `:`.
fn split(line: &str) -> (&str, &str) {
    let mut escaped = false;
    let end = line.find(|character| {
        let ends = !escaped && (is_blank(character) || matches!(character, '=' | ':'));
        escaped = !escaped && character == '\\';
        ends
    });
    let Some(end) = end else { return (line, "") };
    let rest = line[end..].trim_start_matches(is_blank);
    let value = rest.strip_prefix(['=', ':']).unwrap_or(rest);
    (&line[..end], value.trim_start_matches(is_blank))
}

fn unescape(text: &str) -> Result<String, String> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        match rest.next() {
            Some('t') => plain.push('\t'),
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('f') => plain.push('\x0c'),
            Some('u') => plain.push(unescape_unicode(&mut rest)?),
            Some(other) => plain.push(other),
            None => {}
        }
    }
    Ok(plain)
}

/// The character of the escape of which `\u` was read. Java's strings are UTF-16: a character beyond the first 65,536 is
/// written as two escapes, a surrogate pair.
fn unescape_unicode(rest: &mut Chars<'_>) -> Result<char, String> {
    let mut escaped = String::new();
    let mut unit = |rest: &mut Chars<'_>| {
        let digits: String = rest.by_ref().take(4).collect();
        escaped += "\\u";
        escaped += &digits;
        // `from_str_radix` would take a sign too.
        let is_number = digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_number.then(|| u16::from_str_radix(&digits, 16).expect("four digits"))
    };
    let mut units: Vec<u16> = unit(rest).into_iter().collect();
    if let [0xd800..0xdc00] = units[..]
        && let Some(second) = rest.as_str().strip_prefix("\\u")
    {
        *rest = second.chars();
        units.extend(unit(rest));
    }
    match char::decode_utf16(units).next() {
        Some(Ok(character)) => Ok(character),
        _ => Err(format!("{escaped} is not a character")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).expect("legal").into_iter().map(|property| (property.name, property.value)).collect()
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn every_separator_and_escape() {
        let text = "# comment\n  ! another\n\na=1\nb : 2\nc 3\n\td\t=\t4  \ne\ng=a=b:c\nh\\=\\:\\ i=j\\\\\n\
                    k=\\u0041\\t\\n.\r\nl==\nm = \n";
        assert_eq!(
            pairs(text),
            [
                pair("a", "1"),
                pair("b", "2"),
                pair("c", "3"),
                pair("d", "4"),
                pair("e", ""),
                pair("g", "a=b:c"),
                pair("h=: i", "j\\"),
                pair("k", "A\t\n."),
                pair("l", "="),
                pair("m", ""),
            ]
        );
    }

    #[test]
    fn lines_go_on_after_a_backslash() {
        let text = "listeners=A://:1,\\\n    B://:2\nodd=x\\\\\\\n y\neven=x\\\\\nlast=1\\";
        assert_eq!(
            pairs(text),
            [pair("listeners", "A://:1,B://:2"), pair("odd", "x\\y"), pair("even", "x\\"), pair("last", "1")]
        );
        assert_eq!(parse("\na=1\\\n2\nb=3").expect("legal")[1].line, 4);
        // A comment does not go on.
        assert_eq!(pairs("# a\\\nb=1"), [pair("b", "1")]);
    }

    #[test]
    fn a_surrogate_pair_is_one_character() {
        assert_eq!(pairs("\\ud83d\\ude00=a\\uD83D\\uDE00b"), [pair("\u{1f600}", "a\u{1f600}b")]);
    }

    #[test]
    fn a_broken_escape_names_its_line() {
        for broken in
            ["a=\\u12", "a=\\u00zz", "a=\\u+123", "a=\\ud800", "a=\\ud83d\\u0041", "a=\\ud83d\\uzz", "a=\\ude00\\ud83d"]
        {
            let error = parse(&format!("x=1\n{broken}")).expect_err("refused");
            assert_eq!(error.line, 2);
        }
    }
}
