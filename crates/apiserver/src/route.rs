//! Where a path leads. Pure: paths to routes, nothing is looked up.

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// Objects of a resource, or one object, or a part of one.
    Resource(Target),
    /// `/`
    Root,
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/GROUP`
    Group(String),
    /// `/api/v1`, `/apis/GROUP/VERSION`
    GroupVersion(String, String),
    /// `/version`
    Version,
    /// `/healthz`, `/livez`, `/readyz` and one check of them
    Health(String),
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3`
    OpenApiIndex,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`
    OpenApi(String),
    /// `/metrics`, `/coracle/...`: what others tell.
    Page(String),
    /// Anything else.
    Unknown,
}

/// The part of a path that names objects.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: Option<String>,
    pub(crate) resource: String,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
    /// The old `/watch/` form of the path.
    pub(crate) watch: bool,
}

/// Where `path` leads.
pub(crate) fn parse(path: &str) -> Route {
    let Some(parts) = segments(path) else { return Route::Unknown };
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        [] => Route::Root,
        ["version"] => Route::Version,
        ["healthz" | "livez" | "readyz", rest @ ..] if rest.len() <= 1 => Route::Health(parts.join("/")),
        ["openapi", "v2"] => Route::OpenApiV2,
        ["openapi", "v3"] => Route::OpenApiIndex,
        ["openapi", "v3", rest @ ..] => Route::OpenApi(rest.join("/")),
        ["metrics"] | ["coracle", _, ..] => Route::Page(parts.join("/")),
        ["api"] => Route::CoreVersions,
        ["apis"] => Route::Groups,
        ["api", version] => Route::GroupVersion(String::new(), (*version).into()),
        ["apis", group] => Route::Group((*group).into()),
        ["apis", group, version] => Route::GroupVersion((*group).into(), (*version).into()),
        ["api", version, rest @ ..] => target("", version, rest),
        ["apis", group, version, rest @ ..] => target(group, version, rest),
        _ => Route::Unknown,
    }
}

fn target(group: &str, version: &str, rest: &[&str]) -> Route {
    let (watch, rest) = match rest {
        ["watch", rest @ ..] if !rest.is_empty() => (true, rest),
        rest => (false, rest),
    };
    let (namespace, rest) = match rest {
        // `namespaces/x`, `namespaces/x/status` and `namespaces/x/finalize` are about the namespace itself.
        ["namespaces", _, "status" | "finalize"] if group.is_empty() => (None, rest),
        ["namespaces", namespace, inner @ ..] if !inner.is_empty() => (Some((*namespace).to_owned()), inner),
        rest => (None, rest),
    };
    let (resource, name, subresource) = match rest {
        [resource] => (*resource, None, None),
        [resource, name] => (*resource, Some((*name).to_owned()), None),
        [resource, name, subresource] => (*resource, Some((*name).to_owned()), Some((*subresource).to_owned())),
        _ => return Route::Unknown,
    };
    let (group, version, resource) = (group.to_owned(), version.to_owned(), resource.to_owned());
    Route::Resource(Target { group, version, namespace, resource, name, subresource, watch })
}

/// The decoded segments; `None` for what can't be a path of ours.
fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Some(Vec::new());
    }
    path.split('/')
        .map(|segment| if segment.is_empty() { None } else { crate::query::percent_decode(segment, false) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(
        group: &str,
        version: &str,
        namespace: Option<&str>,
        resource: &str,
        name: Option<&str>,
        subresource: Option<&str>,
    ) -> Route {
        Route::Resource(Target {
            group: group.into(),
            version: version.into(),
            namespace: namespace.map(Into::into),
            resource: resource.into(),
            name: name.map(Into::into),
            subresource: subresource.map(Into::into),
            watch: false,
        })
    }

    #[test]
    fn paths() {
        for (path, route) in [
            ("/", Route::Root),
            ("/api", Route::CoreVersions),
            ("/apis/", Route::Groups),
            ("/apis/apps", Route::Group("apps".into())),
            ("/api/v1", Route::GroupVersion(String::new(), "v1".into())),
            ("/apis/apps/v1", Route::GroupVersion("apps".into(), "v1".into())),
            ("/readyz/ping", Route::Health("readyz/ping".into())),
            ("/openapi/v3/apis/apps/v1", Route::OpenApi("apis/apps/v1".into())),
            ("/api/v1/namespaces", at("", "v1", None, "namespaces", None, None)),
            ("/api/v1/namespaces/a", at("", "v1", None, "namespaces", Some("a"), None)),
            ("/api/v1/namespaces/a/finalize", at("", "v1", None, "namespaces", Some("a"), Some("finalize"))),
            ("/api/v1/namespaces/a/pods", at("", "v1", Some("a"), "pods", None, None)),
            ("/api/v1/namespaces/a/pods/b/log", at("", "v1", Some("a"), "pods", Some("b"), Some("log"))),
            ("/apis/apps/v1/deployments", at("apps", "v1", None, "deployments", None, None)),
            ("/apis/x.y/v1/namespaces/a/things/b%3Ac", at("x.y", "v1", Some("a"), "things", Some("b:c"), None)),
            ("/api/v1/namespaces/a/pods/b/c/d", Route::Unknown),
            ("/api/v1//pods", Route::Unknown),
            ("/metrics", Route::Page("metrics".into())),
            ("/coracle/v1/edges", Route::Page("coracle/v1/edges".into())),
            ("/coracle", Route::Unknown),
            ("/nothing", Route::Unknown),
        ] {
            assert_eq!(parse(path), route, "{path}");
        }
        let Route::Resource(watch) = parse("/api/v1/watch/namespaces/a/pods") else { panic!("a resource") };
        assert!(watch.watch && watch.resource == "pods");
    }
}
