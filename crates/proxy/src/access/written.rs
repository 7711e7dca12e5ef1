//! Paths as whoever gets them may read them: without escapes, doubled slashes and dot segments.

use std::borrow::Cow;

/// The path with every escape decoded once, backslashes as slashes, and empty and dot segments resolved. Programs differ in how
/// much of this they do; a policy must hold whichever they do.
pub(super) fn plain(path: &str) -> Cow<'_, str> {
    let (mut odd, mut before) = (false, b'.');
    for byte in path.bytes() {
        odd |= matches!(byte, b'%' | b'\\') | ((before == b'/') & matches!(byte, b'/' | b'.'));
        before = byte;
    }
    if !odd {
        return Cow::Borrowed(path);
    }
    let decoded = decode(path);
    let mut segments: Vec<&str> = Vec::new();
    let parts: Vec<&str> = decoded.split(['/', '\\']).collect();
    let directory = matches!(parts.last(), Some(&("" | "." | "..")));
    for part in parts {
        match part {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    let mut plain = String::with_capacity(decoded.len());
    for segment in &segments {
        plain.push('/');
        plain.push_str(segment);
    }
    if directory || segments.is_empty() {
        plain.push('/');
    }
    Cow::Owned(plain)
}

fn decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (bytes[i], hex(i + 1), hex(i + 2)) {
            decoded.push(u8::try_from(high * 16 + low).unwrap_or(b'%'));
            i += 3;
        } else {
            decoded.push(bytes[i]);
            i += 1;
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn paths_read_as_they_are_meant() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a.b/c", "/a.b/c"),
            ("//a///b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/b/..", "/a/"),
            ("/../../b", "/b"),
            ("/%61dmin", "/admin"),
            ("/public/..%2fadmin", "/admin"),
            ("/public/%2e%2e/admin", "/admin"),
            ("/public\\..\\admin", "/admin"),
            ("/a/.hidden", "/a/.hidden"),
            ("/%zz", "/%zz"),
            ("/100%", "/100%"),
            ("/..", "/"),
        ] {
            assert_eq!(plain(path), expected, "{path}");
        }
    }
}
