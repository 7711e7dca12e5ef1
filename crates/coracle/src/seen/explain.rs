//! The pages about what a request would meet: the proxy's listeners, and its own word about one request.

use apiserver::PageError;
use proxy::{Explanation, Identity, Question, Way};
use serde_json::{Value, json};

/// Every listener that is served, with its address or why it has none, and the trust domain of identities.
pub(super) fn listeners(proxy: &proxy::Handle, trust_domain: &str) -> Value {
    let bound = proxy.subscribe_bound().borrow().clone();
    let all: Vec<Value> = bound
        .iter()
        .map(|(id, address)| match address {
            Ok(address) => json!({ "id": &**id, "address": address.to_string(), "gateway": mesh::is_gateway(id) }),
            Err(error) => json!({ "id": &**id, "error": error.to_string(), "gateway": mesh::is_gateway(id) }),
        })
        .collect();
    json!({ "listeners": all, "trustDomain": trust_domain })
}

/// The proxy's word about a request: `listener`, `host`, `method`, `path`, any number of `header=NAME:VALUE`, and `workload`
/// with `identity` for who calls.
pub(super) async fn explain(proxy: &proxy::Handle, query: &[(String, String)]) -> Result<Value, PageError> {
    let question = question(query).map_err(PageError::BadRequest)?;
    let explanation = proxy.explain(question).await.ok_or(PageError::NotFound)?;
    Ok(as_json(&explanation))
}

fn question(query: &[(String, String)]) -> Result<Question, String> {
    let value = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let needed = |name: &str| value(name).ok_or_else(|| format!("the parameter {name} is missing"));
    let wrong = |name: &str| format!("the parameter {name} cannot be read");
    let mut headers = http::HeaderMap::new();
    for (_, header) in query.iter().filter(|(name, _)| name == "header") {
        let (name, value) = header.split_once(':').ok_or_else(|| wrong("header"))?;
        let name = http::HeaderName::try_from(name.trim()).map_err(|_| wrong("header"))?;
        headers.append(name, value.trim().parse().map_err(|_| wrong("header"))?);
    }
    let caller =
        value("identity").map(|id| Identity { id: id.into(), workload: value("workload").unwrap_or(id).into() });
    Ok(Question {
        listener: needed("listener")?.into(),
        host: needed("host")?.to_owned(),
        method: value("method").unwrap_or("GET").parse().map_err(|_| wrong("method"))?,
        uri: value("path").unwrap_or("/").parse().map_err(|_| wrong("path"))?,
        headers,
        caller,
    })
}

fn as_json(explanation: &Explanation) -> Value {
    let refusals = explanation.refusals.iter().map(|refusal| {
        json!({ "place": &*refusal.place, "policy": &*refusal.policy, "rule": refusal.rule.as_deref(), "reason": refusal.reason })
    });
    json!({
        "protocol": explanation.protocol,
        "admits": explanation.admits,
        "rule": explanation.rule.as_deref(),
        "ownAnswer": explanation.own_answer.map(|status| status.as_u16()),
        "backends": explanation.backends.iter().map(way).collect::<Vec<_>>(),
        "refusals": refusals.collect::<Vec<_>>(),
    })
}

fn way(way: &Way) -> Value {
    let endpoints = way
        .endpoints
        .iter()
        .map(|(address, in_flight)| json!({ "address": address.to_string(), "inFlight": in_flight }));
    json!({ "backend": &*way.backend, "weight": way.weight, "endpoints": endpoints.collect::<Vec<_>>(),
        "whenEmpty": way.when_empty.as_u16(), "circuit": way.circuit })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&str, &str)]) -> Result<Question, String> {
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        question(&pairs)
    }

    #[test]
    fn a_question_is_read_from_a_query() {
        let full = [
            ("listener", "l"),
            ("host", "h"),
            ("method", "POST"),
            ("path", "/a?b=1"),
            ("header", "x-a: 1"),
            ("header", "x-a:2"),
            ("identity", "spiffe://x"),
            ("workload", "shop/web"),
        ];
        let question = asked(&full).expect("a question");
        assert_eq!((&*question.listener, question.uri.path(), question.method.as_str()), ("l", "/a", "POST"));
        assert_eq!(question.headers.get_all("x-a").iter().count(), 2);
        assert_eq!(question.caller.map(|caller| caller.workload.to_string()).as_deref(), Some("shop/web"));
        for bad in [
            &[("host", "h")][..],
            &[("listener", "l"), ("host", "h"), ("header", "x")],
            &[("listener", "l"), ("host", "h"), ("path", " ")],
        ] {
            assert!(asked(bad).is_err(), "{bad:?}");
        }
    }
}
