//! Headers as lines of HTTP/1.1: their names in lower case, whatever they came in.
//!
//! Invariant: pure; what is written is one line, as names and values were parsed and hold no end of one.

/// Appends a header as it came. `bytes` is where it was parsed.
pub(crate) fn pass(bytes: &[u8], field: &httparse::Header<'_>, into: &mut Vec<u8>) {
    let (name, start) = (field.name.len(), into.len());
    match usual(bytes, field) {
        Some(line) => into.extend_from_slice(line),
        None => say(field.name.as_bytes(), &[field.value], into),
    }
    into[start..start + name].make_ascii_lowercase();
}

/// The whole line, where it is already as it would be written but for the letters of its name.
fn usual<'b>(bytes: &'b [u8], field: &httparse::Header<'_>) -> Option<&'b [u8]> {
    let place = |part: &[u8]| (part.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
    let (start, value) = (place(field.name.as_bytes()), place(field.value));
    if field.value.is_empty() || value != start.wrapping_add(field.name.len() + 2) {
        return None;
    }
    let line = bytes.get(start..value + field.value.len() + 2)?;
    (line.ends_with(b"\r\n") && line[field.name.len()..].starts_with(b": ")).then_some(line)
}

/// Appends a header of which the value has these parts.
pub(crate) fn say(name: &[u8], value: &[&[u8]], into: &mut Vec<u8>) {
    into.extend_from_slice(name);
    into.extend_from_slice(b": ");
    value.iter().for_each(|part| into.extend_from_slice(part));
    into.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_pass_in_one_form() {
        for (came, expected) in [
            ("X-One: a b", "x-one: a b"),
            ("x-one: a", "x-one: a"),
            ("X-One:a", "x-one: a"),
            ("X-One:\ta", "x-one: a"),
            ("X-One:  A  ", "x-one: A"),
            ("X-One: A ", "x-one: A"),
            ("X-One: : x", "x-one: : x"),
            ("X-One:", "x-one: "),
            ("X-One: ", "x-one: "),
        ] {
            let text = format!("{came}\r\nlast: x\r\n\r\n");
            let mut fields = [httparse::EMPTY_HEADER; 2];
            httparse::parse_headers(text.as_bytes(), &mut fields).expect("headers");
            let mut line = Vec::new();
            pass(text.as_bytes(), &fields[0], &mut line);
            assert_eq!(String::from_utf8(line).expect("text"), format!("{expected}\r\n"), "{came:?}");
        }
        // A line that ends otherwise is written as it must be.
        let mut fields = [httparse::EMPTY_HEADER; 1];
        httparse::parse_headers(b"A: b\n\n", &mut fields).expect("headers");
        let mut line = Vec::new();
        pass(b"A: b\n\n", &fields[0], &mut line);
        assert_eq!(line, b"a: b\r\n");
    }
}
