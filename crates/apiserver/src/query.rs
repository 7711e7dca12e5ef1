//! The query of a request, decoded once. Pure.

use crate::status::{Answer, Failure};

/// Decoded query parameters, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Decodes a query string; what can't be decoded is left out, as upstream does.
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((percent_decode(name, true)?, percent_decode(value, true)?))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter that is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// All of them.
    pub(crate) fn pairs(&self) -> Vec<(String, String)> {
        self.0.clone()
    }

    /// Every value of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Gives a parameter a value, in place of what it had.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.0.retain(|(key, _)| key != name);
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// Whether the parameter is there at all, even empty.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// A truth value, as Go's query conversion reads it: absent, `false` and `0` are false, the rest true.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .is_some_and(|(_, value)| !value.eq_ignore_ascii_case("false") && value != "0")
    }

    /// A number.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Answer<Option<T>> {
        let Some(text) = self.get(name) else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|_| Failure::bad_request(format!("the query parameter {name} is not a number: {text:?}")))
    }

    /// Whether the request is only to be tried.
    pub(crate) fn dry_run(&self) -> Answer<bool> {
        let mut any = false;
        for value in self.all("dryRun").filter(|value| !value.is_empty()) {
            if value != "All" {
                let why = format!("Unsupported value: \"{value}\": supported values: \"All\"");
                return Err(Failure::bad_option("CreateOptions", "dryRun", &why));
            }
            any = true;
        }
        Ok(any)
    }
}

/// Decodes `%XX`, and `+` as a space where `form` says so.
pub(crate) fn percent_decode(text: &str, form: bool) -> Option<String> {
    let encoded = |c: char| c == '%' || (form && c == '+');
    if !text.contains(encoded) {
        return Some(text.to_owned());
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let hex = text.get(at + 1..at + 3)?;
                decoded.push(u8::from_str_radix(hex, 16).ok()?);
                at += 2;
            }
            b'+' if form => decoded.push(b' '),
            byte => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = Query::parse(Some("&limit=5&watch&labelSelector=a%3Db%2Cc+in+%28d%29&dryRun=All&empty=&bad=%zz"));
        assert_eq!(query.number::<u64>("limit"), Ok(Some(5)));
        assert!(query.flag("watch") && !query.flag("other"));
        assert_eq!(query.get("labelSelector"), Some("a=b,c in (d)"));
        assert_eq!(query.dry_run(), Ok(true));
        assert_eq!(query.get("empty"), None);
        assert!(!query.has("bad"));
        assert_eq!(Query::parse(Some("dryRun=Some")).dry_run().map_err(|failure| failure.code), Err(422));
        assert_eq!(Query::parse(Some("limit=x")).number::<u64>("limit").map_err(|failure| failure.code), Err(400));
        assert!(!Query::parse(Some("watch=false")).flag("watch"));
    }
}
