//! An HTTPRoute's filters, read into the proxy's.
//!
//! A filter that cannot be followed is never skipped: whoever wrote it relies on it. The rule that has it answers 500, and
//! the route's condition names it.

use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};
use proxy::snapshot::{BackendId, Cors, Filter, HeaderChanges, Mirror, PathRewrite, Redirect};
use resources::gateway::httproutes as api;

use super::backends::Reference;
use super::verdict::{Fault, reason};

/// Finds the backend that a mirror's reference means.
pub(super) type Follow<'f> = &'f mut dyn FnMut(Reference<'_>) -> BackendId;

/// The filters of a rule. `prefix_only` says whether all of the rule's matches are path prefixes, which replacing a
/// prefix needs.
pub(super) fn of_rule(
    filters: &[api::HttpRouteRulesFilters],
    prefix_only: bool,
    follow: Follow<'_>,
) -> Result<Vec<Filter>, Fault> {
    let read: Vec<Filter> = filters.iter().map(|filter| read_rule_filter(filter, follow)).collect::<Result<_, _>>()?;
    if read.iter().filter(|filter| matches!(filter, Filter::Cors(_))).count() > 1 {
        return Err(unsupported("a rule may have one filter of type CORS"));
    }
    let redirects = read.iter().any(|filter| matches!(filter, Filter::Redirect(_)));
    let rewrites = read.iter().any(|filter| matches!(filter, Filter::Rewrite { .. }));
    if redirects && rewrites {
        return Err(Fault::new(reason::INCOMPATIBLE_FILTERS, "RequestRedirect and URLRewrite cannot be combined"));
    }
    if !prefix_only && read.iter().any(replaces_prefix) {
        return Err(Fault::new(
            reason::UNSUPPORTED_VALUE,
            "ReplacePrefixMatch needs every match of the rule to be a PathPrefix",
        ));
    }
    Ok(read)
}

/// The filters of one backend: those that change a request or response on its way there.
pub(super) fn of_backend(
    filters: &[api::HttpRouteRulesBackendRefsFilters],
    follow: Follow<'_>,
) -> Result<Vec<Filter>, Fault> {
    let read: Vec<Filter> =
        filters.iter().map(|filter| read_backend_filter(filter, follow)).collect::<Result<_, _>>()?;
    if read.iter().any(|filter| !matches!(filter, Filter::RequestHeaders(_) | Filter::ResponseHeaders(_))) {
        let message = "a backend may only have the filters RequestHeaderModifier and ResponseHeaderModifier";
        return Err(Fault::new(reason::UNSUPPORTED_VALUE, message));
    }
    Ok(read)
}

fn replaces_prefix(filter: &Filter) -> bool {
    let path = match filter {
        Filter::Rewrite { path, .. } => path.as_ref(),
        Filter::Redirect(redirect) => redirect.path.as_ref(),
        _ => None,
    };
    matches!(path, Some(PathRewrite::Prefix(_)))
}

fn unsupported(message: impl Into<String>) -> Fault {
    Fault::new(reason::UNSUPPORTED_VALUE, message)
}

fn absent(filter: &str, field: &str) -> Fault {
    unsupported(format!("a filter of type {filter} needs the field {field}"))
}

/// The same filters have two sets of types, one for rules and one for backends. Both are read in the same way.
macro_rules! reader {
    ($reader:ident, $filter:ident, $type_:ident, $redirect_path:ident, $rewrite_path:ident, $scheme:ident) => {
        fn $reader(filter: &api::$filter, follow: Follow<'_>) -> Result<Filter, Fault> {
            match filter.r#type {
                api::$type_::RequestHeaderModifier => {
                    let Some(changes) = &filter.request_header_modifier else {
                        return Err(absent("RequestHeaderModifier", "requestHeaderModifier"));
                    };
                    Ok(Filter::RequestHeaders(HeaderChanges {
                        set: fields(changes.set.iter().flatten().map(|set| (&set.name, &set.value)))?,
                        add: fields(changes.add.iter().flatten().map(|add| (&add.name, &add.value)))?,
                        remove: names(changes.remove.as_deref().unwrap_or_default())?,
                    }))
                }
                api::$type_::ResponseHeaderModifier => {
                    let Some(changes) = &filter.response_header_modifier else {
                        return Err(absent("ResponseHeaderModifier", "responseHeaderModifier"));
                    };
                    Ok(Filter::ResponseHeaders(HeaderChanges {
                        set: fields(changes.set.iter().flatten().map(|set| (&set.name, &set.value)))?,
                        add: fields(changes.add.iter().flatten().map(|add| (&add.name, &add.value)))?,
                        remove: names(changes.remove.as_deref().unwrap_or_default())?,
                    }))
                }
                api::$type_::RequestRedirect => {
                    let Some(redirect) = &filter.request_redirect else {
                        return Err(absent("RequestRedirect", "requestRedirect"));
                    };
                    let path = redirect.path.as_ref().map(|path| {
                        let full = matches!(path.r#type, api::$redirect_path::ReplaceFullPath);
                        path_rewrite(full, path.replace_full_path.as_deref(), path.replace_prefix_match.as_deref())
                    });
                    Ok(Filter::Redirect(Redirect {
                        scheme: redirect.scheme.as_ref().map(|scheme| match scheme {
                            api::$scheme::Http => Arc::from("http"),
                            api::$scheme::Https => Arc::from("https"),
                        }),
                        host: redirect.hostname.as_deref().map(Arc::from),
                        port: redirect.port.map(port).transpose()?,
                        path: path.transpose()?,
                        status: status(redirect.status_code)?,
                    }))
                }
                api::$type_::UrlRewrite => {
                    let Some(rewrite) = &filter.url_rewrite else {
                        return Err(absent("URLRewrite", "urlRewrite"));
                    };
                    let path = rewrite.path.as_ref().map(|path| {
                        let full = matches!(path.r#type, api::$rewrite_path::ReplaceFullPath);
                        path_rewrite(full, path.replace_full_path.as_deref(), path.replace_prefix_match.as_deref())
                    });
                    Ok(Filter::Rewrite { host: rewrite.hostname.as_deref().map(Arc::from), path: path.transpose()? })
                }
                api::$type_::RequestMirror => {
                    let Some(mirror) = &filter.request_mirror else {
                        return Err(absent("RequestMirror", "requestMirror"));
                    };
                    let fraction = mirror.fraction.as_ref().map(|share| (share.numerator, share.denominator));
                    let (numerator, denominator) = share(mirror.percent, fraction)?;
                    let to = &mirror.backend_ref;
                    let backend = follow(Reference {
                        group: to.group.as_deref(),
                        kind: to.kind.as_deref(),
                        namespace: to.namespace.as_deref(),
                        name: &to.name,
                        port: to.port,
                    });
                    Ok(Filter::Mirror(Mirror { backend, numerator, denominator }))
                }
                api::$type_::Cors => {
                    let Some(cors) = &filter.cors else { return Err(absent("CORS", "cors")) };
                    Ok(Filter::Cors(Cors {
                        origins: words(cors.allow_origins.as_deref()),
                        credentials: cors.allow_credentials == Some(true),
                        methods: words(cors.allow_methods.as_deref()),
                        headers: words(cors.allow_headers.as_deref()),
                        expose: words(cors.expose_headers.as_deref()),
                        max_age: cors.max_age.map_or(MAX_AGE, |age| u32::try_from(age).unwrap_or(MAX_AGE)),
                    }))
                }
                api::$type_::ExtensionRef => Err(unsupported(match &filter.extension_ref {
                    Some(to) => format!(
                        "the filter ExtensionRef names {} {}, which is not a filter known here",
                        to.kind, to.name
                    ),
                    None => "a filter of type ExtensionRef needs the field extensionRef".to_owned(),
                })),
            }
        }
    };
}

reader!(
    read_rule_filter,
    HttpRouteRulesFilters,
    HttpRouteRulesFiltersType,
    HttpRouteRulesFiltersRequestRedirectPathType,
    HttpRouteRulesFiltersUrlRewritePathType,
    HttpRouteRulesFiltersRequestRedirectScheme
);
reader!(
    read_backend_filter,
    HttpRouteRulesBackendRefsFilters,
    HttpRouteRulesBackendRefsFiltersType,
    HttpRouteRulesBackendRefsFiltersRequestRedirectPathType,
    HttpRouteRulesBackendRefsFiltersUrlRewritePathType,
    HttpRouteRulesBackendRefsFiltersRequestRedirectScheme
);

/// For how many seconds an answer to a preflight is good where that is not said.
const MAX_AGE: u32 = 5;

fn words(words: Option<&[String]>) -> Vec<Arc<str>> {
    words.unwrap_or_default().iter().map(|word| word.as_str().into()).collect()
}

/// The share of requests that a mirror gets: so many of so many.
fn share(percent: Option<i32>, fraction: Option<(i32, Option<i32>)>) -> Result<(u32, u32), Fault> {
    let (numerator, denominator) = match (percent, fraction) {
        (None, None) => (1, 1),
        (Some(percent), None) => (percent, 100),
        (None, Some((numerator, denominator))) => (numerator, denominator.unwrap_or(100)),
        (Some(_), Some(_)) => return Err(unsupported("requestMirror may have percent or fraction, not both")),
    };
    match (u32::try_from(numerator), u32::try_from(denominator)) {
        (Ok(part), Ok(whole @ 1..)) if part <= whole => Ok((part, whole)),
        _ => Err(unsupported(format!("{numerator} of {denominator} is not a share of requests to mirror"))),
    }
}

fn fields<'f>(fields: impl Iterator<Item = (&'f String, &'f String)>) -> Result<Vec<(HeaderName, HeaderValue)>, Fault> {
    fields
        .map(|(name, value)| {
            let value = HeaderValue::from_str(value).map_err(|_| {
                unsupported(format!("the value of header {name} has characters that no header may have"))
            })?;
            Ok((header(name)?, value))
        })
        .collect()
}

fn names(names: &[String]) -> Result<Vec<HeaderName>, Fault> {
    names.iter().map(|name| header(name)).collect()
}

fn header(name: &str) -> Result<HeaderName, Fault> {
    name.parse().map_err(|_| unsupported(format!("{name:?} is not the name of a header")))
}

fn path_rewrite(full: bool, path: Option<&str>, prefix: Option<&str>) -> Result<PathRewrite, Fault> {
    let (path, rewrite, field): (_, fn(Arc<str>) -> PathRewrite, _) = if full {
        (path, PathRewrite::Full, "replaceFullPath")
    } else {
        (prefix, PathRewrite::Prefix, "replacePrefixMatch")
    };
    let path = path.ok_or_else(|| unsupported(format!("a new path of this type needs the field {field}")))?;
    Ok(rewrite(path.into()))
}

fn port(port: i32) -> Result<u16, Fault> {
    match u16::try_from(port) {
        Ok(port @ 1..) => Ok(port),
        _ => Err(unsupported(format!("{port} is not a port to redirect to"))),
    }
}

fn status(code: Option<i64>) -> Result<StatusCode, Fault> {
    match code.unwrap_or(302) {
        301 => Ok(StatusCode::MOVED_PERMANENTLY),
        302 => Ok(StatusCode::FOUND),
        303 => Ok(StatusCode::SEE_OTHER),
        307 => Ok(StatusCode::TEMPORARY_REDIRECT),
        308 => Ok(StatusCode::PERMANENT_REDIRECT),
        other => Err(unsupported(format!("{other} is not a status of a redirect"))),
    }
}
