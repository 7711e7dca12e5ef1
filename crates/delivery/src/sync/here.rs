//! Which URLs mean repositories on this machine: a path, or our own remote. Only their recipes are built unasked.
//!
//! Pure. A URL of our remote is taken as we write it and in no other way: whatever else leads here, with a user, another spelling of
//! the address or of the path, is a stranger's.

use std::net::SocketAddr;
use std::path::Path;

use super::file_events::local_path;

/// The repository of our own remote that a URL means: `http://127.0.0.1:PORT/git/NAME.git`.
fn of_remote<'u>(url: &'u str, remote: &SocketAddr) -> Option<&'u str> {
    let rest = url.strip_prefix("http://")?.strip_prefix(&remote.to_string())?;
    let name = rest.strip_prefix("/git/")?.strip_suffix(".git")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (remote.ip().is_loopback() && !name.is_empty() && name.chars().all(plain)).then_some(name)
}

/// Whether a URL means a repository on this machine.
pub(crate) fn is_here(url: &str, remote: Option<&SocketAddr>) -> bool {
    local_path(url).is_some() || remote.is_some_and(|remote| of_remote(url, remote).is_some())
}

/// Whether a URL means the repository in a directory of our own remote.
pub(crate) fn means(url: &str, directory: &Path, remote: Option<&SocketAddr>) -> bool {
    let name = remote.and_then(|remote| of_remote(url, remote));
    local_path(url).is_some_and(|path| path == directory)
        || name.is_some_and(|name| directory.file_name().is_some_and(|file| file == format!("{name}.git").as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_on_this_machine_is_taken_for_it() {
        let remote = SocketAddr::from(([127, 0, 0, 1], 9418));
        for (url, here, shop) in [
            ("/home/ann/shop", true, false),
            ("file:///data/git/shop.git", true, true),
            ("/data/git/shop.git", true, true),
            ("http://127.0.0.1:9418/git/shop.git", true, true),
            ("http://127.0.0.1:9418/git/other.git", true, false),
            ("http://127.0.0.1:x@evil.example/git/shop.git", false, false),
            ("http://127.0.0.1:9418@evil.example/git/shop.git", false, false),
            ("http://ann:token@127.0.0.1:9418/git/shop.git", false, false),
            ("http://127.0.0.1.evil.example/git/shop.git", false, false),
            ("http://127.0.0.1:94180/git/shop.git", false, false),
            ("http://127.0.0.1:9419/git/shop.git", false, false),
            ("http://127.0.0.1:9418\\@evil.example/git/shop.git", false, false),
            ("http://127.0.0.1:9418/git/../../x/git/shop.git", false, false),
            ("http://127.0.0.1:9418/redirect?to=http://evil.example/git/shop.git", false, false),
            ("https://127.0.0.1:9418/git/shop.git", false, false),
        ] {
            assert_eq!(is_here(url, Some(&remote)), here, "{url}");
            assert_eq!(means(url, Path::new("/data/git/shop.git"), Some(&remote)), shop, "{url}");
        }
        assert!(!is_here("http://127.0.0.1:9418/git/shop.git", None));
    }
}
