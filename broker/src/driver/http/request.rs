//! What a client of the HTTP port asks for: the head of its request, understood.

/// The longest request head, in bytes.
pub const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Rows that one answer lists, at most.
pub const ROWS_MAX: usize = 500;
/// Rows that it lists when the client does not say.
const ROWS_DEFAULT: usize = 50;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `/metrics`
    Metrics,
    /// `/healthz`
    Health,
    /// `/`, the page for people, and what belongs to it.
    Page,
    /// `/page.css`
    Style,
    /// `/page.js`
    Script,
    /// `/status.json`
    Status,
    /// `/partitions.json?search=&sort=&order=&offset=&limit=`
    Partitions(Selection),
    /// `/groups.json`, with the same parameters.
    Groups(Selection),
}

/// Which part of a long list is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Only rows whose name contains this, whatever the case of its letters.
    pub search: String,
    /// The column to sort by; one that is not known means the name.
    pub sort: String,
    /// The largest first.
    pub descending: bool,
    /// Rows to leave out at the beginning.
    pub offset: usize,
    /// Rows to list, at most [`ROWS_MAX`].
    pub limit: usize,
}

impl Default for Selection {
    fn default() -> Selection {
        Selection { search: String::new(), sort: String::new(), descending: false, offset: 0, limit: ROWS_DEFAULT }
    }
}

/// Why a request gets no answer but an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not HTTP/1, or a parameter of it makes no sense.
    BadRequest,
    /// Nothing is served under this path.
    NotFound,
    /// Only GET is served.
    MethodNotAllowed,
    /// Its head is too long.
    TooLarge,
}

impl Refusal {
    /// The status line's code and reason.
    pub fn status(self) -> &'static str {
        match self {
            Refusal::BadRequest => "400 Bad Request",
            Refusal::NotFound => "404 Not Found",
            Refusal::MethodNotAllowed => "405 Method Not Allowed",
            Refusal::TooLarge => "431 Request Header Fields Too Large",
        }
    }
}

/// Understands a request once its head is complete; `None` before.
pub fn parse(head: &[u8]) -> Result<Option<Request>, Refusal> {
    let end = head.windows(4).position(|window| window == b"\r\n\r\n");
    if end.unwrap_or(head.len()) > HEAD_BYTES_MAX {
        return Err(Refusal::TooLarge);
    }
    let Some(end) = end else { return Ok(None) };
    let head = std::str::from_utf8(&head[..end]).map_err(|_| Refusal::BadRequest)?;
    let mut line = head.lines().next().unwrap_or_default().split(' ');
    let (method, target, version) = (line.next(), line.next(), line.next());
    if line.next().is_some() || !version.is_some_and(|version| version.starts_with("HTTP/1.")) {
        return Err(Refusal::BadRequest);
    }
    if method != Some("GET") {
        return Err(Refusal::MethodNotAllowed);
    }
    let target = target.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    match path {
        "/metrics" => Ok(Some(Request::Metrics)),
        "/healthz" => Ok(Some(Request::Health)),
        "/" => Ok(Some(Request::Page)),
        "/page.css" => Ok(Some(Request::Style)),
        "/page.js" => Ok(Some(Request::Script)),
        "/status.json" => Ok(Some(Request::Status)),
        "/partitions.json" => selection(query).map(|selection| Some(Request::Partitions(selection))),
        "/groups.json" => selection(query).map(|selection| Some(Request::Groups(selection))),
        _ => Err(Refusal::NotFound),
    }
}

/// Parameters that are not known are passed over.
fn selection(query: &str) -> Result<Selection, Refusal> {
    let mut selection = Selection::default();
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = percent_decoded(value).ok_or(Refusal::BadRequest)?;
        let number = || value.parse().map_err(|_| Refusal::BadRequest);
        match name {
            "search" => selection.search = value.to_lowercase(),
            "sort" => selection.sort = value,
            "order" => selection.descending = value == "descending",
            "offset" => selection.offset = number()?,
            "limit" => selection.limit = number()?.min(ROWS_MAX),
            _ => {}
        }
    }
    Ok(selection)
}

/// Undoes what a browser does to a parameter (application/x-www-form-urlencoded).
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(rest.next())?, digit(rest.next())?);
                u8::try_from(16 * high + low).expect("two digits make a byte")
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood_when_they_are_complete() {
        let whole = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), Ok(None));
        }
        assert_eq!(parse(whole), Ok(Some(Request::Metrics)));
        assert_eq!(parse(b"GET /healthz?x=1 HTTP/1.0\r\n\r\n"), Ok(Some(Request::Health)));
        assert_eq!(parse(b"GET / HTTP/1.0\r\n\r\n"), Ok(Some(Request::Page)));
        assert_eq!(parse(b"POST /metrics HTTP/1.1\r\n\r\n"), Err(Refusal::MethodNotAllowed));
        assert_eq!(parse(b"GET /page HTTP/1.1\r\n\r\n"), Err(Refusal::NotFound));
        for broken in
            ["\r\n\r\n", "GET /metrics\r\n\r\n", "GET /metrics HTTP/1.1 x\r\n\r\n", "GET /metrics HTTP/2\r\n\r\n"]
        {
            assert_eq!(parse(broken.as_bytes()), Err(Refusal::BadRequest), "{broken:?}");
        }
        assert_eq!(parse(b"GET /\xff HTTP/1.1\r\n\r\n"), Err(Refusal::BadRequest));
        assert_eq!(parse(&[b'a'; HEAD_BYTES_MAX]), Ok(None));
        assert_eq!(parse(&[b'a'; HEAD_BYTES_MAX + 1]), Err(Refusal::TooLarge));
    }

    #[test]
    fn a_selection_is_read_from_its_parameters() {
        let get = |query: &str| parse(format!("GET /partitions.json{query} HTTP/1.1\r\n\r\n").as_bytes());
        assert_eq!(get(""), Ok(Some(Request::Partitions(Selection::default()))));
        let expected = Selection {
            search: "a ö&b".to_owned(),
            sort: "bytes".to_owned(),
            descending: true,
            offset: 7,
            limit: ROWS_MAX,
        };
        let query = "?search=A+%C3%96%26b&sort=bytes&order=descending&offset=7&limit=1000000&other";
        assert_eq!(get(query), Ok(Some(Request::Partitions(expected))));
        for broken in ["?offset=-1", "?limit=x", "?search=%f", "?search=%ff", "?search=%zz"] {
            assert_eq!(get(broken), Err(Refusal::BadRequest), "{broken}");
        }
    }
}
