//! Image names: what is left of an image reference when tag and digest are taken off.

/// The name of an image without tag and digest, in its short form (`docker.io/library/redis:7` is `redis`).
pub(crate) fn image_name(image: &str) -> String {
    let image = image.split('@').next().unwrap_or_default();
    let name = match tag_at(image) {
        Some(at) => &image[..at],
        None => image,
    };
    let name = name.strip_prefix("docker.io/").or_else(|| name.strip_prefix("index.docker.io/")).unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name).to_owned()
}

/// Whether an image reference has a tag or a digest.
pub(super) fn has_tag(image: &str) -> bool {
    image.contains('@') || tag_at(image).is_some()
}

/// A colon is a tag's only behind the last slash; before it, it is a registry's port.
fn tag_at(image: &str) -> Option<usize> {
    let slash = image.rfind('/').map_or(0, |at| at + 1);
    image[slash..].find(':').map(|at| slash + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_tags_and_digests() {
        for (image, name) in [
            ("shop/orders", "shop/orders"),
            ("shop/orders:1.2", "shop/orders"),
            ("shop/orders@sha256:00ff", "shop/orders"),
            ("shop/orders:1@sha256:00ff", "shop/orders"),
            ("localhost:5000/a/b", "localhost:5000/a/b"),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b"),
            ("docker.io/library/redis:7", "redis"),
            ("coracle.dev/host", "coracle.dev/host"),
        ] {
            assert_eq!(image_name(image), name, "{image}");
        }
    }
}
