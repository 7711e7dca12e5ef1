//! The audit trail: who is in it, as whom, and that nobody can make it forget.

use serde_json::{Value, json};

use crate::access::{RBAC, ask, binding, role};
use crate::support::*;
use crate::wire;

/// The lines of a file of the trail.
pub(crate) fn lines(server: &Harness, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(server.folder.path().join("audit").join(file)).unwrap_or_default();
    // Of a line that is just being written a part may be there.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What the lines about ConfigMaps say.
fn told(lines: &[Value]) -> Vec<String> {
    let lines = lines.iter().filter(|line| line["objectRef"]["resource"] == "configmaps");
    lines
        .map(|line| {
            assert_eq!((&line["kind"], &line["apiVersion"]), (&json!("Event"), &json!("audit.k8s.io/v1")));
            let text = |pointer: &str| line.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
            let (user, other) = (text("/user/username"), text("/impersonatedUser/username"));
            let code = &line["responseStatus"]["code"];
            format!("{user} as {other}: {} {} {code}", text("/verb"), text("/objectRef/name"))
        })
        .collect()
}

#[tokio::test]
async fn the_trail_tells_who_changed_what() {
    let server = Harness::start().await;
    let headers = [("impersonate-user", "bob"), ("impersonate-group", "system:masters")];
    let map = config_map("a", json!({}));
    ask(&server, "system:admin", &format!("POST {CONFIG_MAPS}"), &headers, &map).await;
    let generated = json!({ "metadata": { "generateName": "g-" } });
    let (_, made) = ask(&server, "system:admin", &format!("POST {CONFIG_MAPS}"), &[], &generated).await;
    for (user, request) in [
        ("system:admin", format!("GET {CONFIG_MAPS}/a")),
        ("system:admin", format!("DELETE {CONFIG_MAPS}/a?dryRun=All")),
        ("eve", format!("GET {CONFIG_MAPS}/a")),
        ("eve", format!("DELETE {CONFIG_MAPS}/a")),
        ("system:admin", format!("DELETE {CONFIG_MAPS}/none")),
        ("system:admin", format!("DELETE {CONFIG_MAPS}/a")),
    ] {
        ask(&server, user, &request, &[], &Value::Null).await;
    }
    ask(&server, "eve", &format!("GET {CONFIG_MAPS}"), &headers, &Value::Null).await;
    let (lines, refused) = (lines(&server, "audit.log"), lines(&server, "refused.log"));
    let generated = made["metadata"]["name"].as_str().expect("a name");
    let expected = [
        "system:admin as bob: create a 201".to_owned(),
        format!("system:admin as -: create {generated} 201"),
        "system:admin as -: delete none 404".into(),
        "system:admin as -: delete a 200".into(),
    ];
    assert_eq!(told(&lines), expected);
    let decided = |lines: &[Value]| -> Vec<Value> {
        lines.iter().map(|line| line["annotations"]["authorization.k8s.io/decision"].clone()).collect()
    };
    assert!(decided(&lines).iter().all(|decided| *decided == "allow"), "{lines:?}");
    // Who was not let through changed nothing, and so cannot push out what was changed.
    assert_eq!(told(&refused), ["eve as -: get a 403", "eve as -: delete a 403", "eve as bob: list - 403"]);
    assert_eq!(decided(&refused), [json!("forbid"), json!("forbid"), Value::Null], "the last did not come to that");
    assert!(
        lines.iter().chain(&refused).all(|line| !line.to_string().contains("\"value\"")),
        "nothing of what is in an object"
    );
    assert!(
        lines.iter().any(|line| line["requestURI"] == format!("{CONFIG_MAPS}/none")
            && line["responseStatus"]["reason"] == "NotFound")
    );
    server.stop().await;
}

#[tokio::test]
async fn what_only_looks_like_a_rehearsal_is_told() {
    let server = Harness::start().await;
    server.make(&format!("{CONFIG_MAPS}?dryRun="), config_map("a", json!({}))).await;
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/a")).await.0, 200, "it is there");
    server.make(&format!("{CONFIG_MAPS}?dryRun=All"), config_map("b", json!({}))).await;
    assert_eq!(told(&lines(&server, "audit.log")), ["system:admin as -: create a 201"]);

    // As kubectl says it.
    server.delete(&format!("{CONFIG_MAPS}/a"), json!({ "dryRun": ["All"] })).await;
    server.delete(CONFIG_MAPS, json!({ "dryRun": ["All"] })).await;
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/a")).await.0, 200);
    assert_eq!(told(&lines(&server, "audit.log")).len(), 1);
    for wrong in [json!(["all"]), json!(["All", "Some"]), json!("All"), json!(true)] {
        assert_eq!(server.delete(&format!("{CONFIG_MAPS}/a"), json!({ "dryRun": wrong })).await.0, 422, "{wrong}");
    }
    assert_eq!(server.get(&format!("{CONFIG_MAPS}/a")).await.0, 200, "what is not understood deletes nothing");

    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    server.make(accounts, json!({ "metadata": { "name": "robot" } })).await;
    let token = format!("{accounts}/robot/token");
    let rehearsed = server.make(&format!("{token}?dryRun=All"), json!({})).await;
    assert_eq!(rehearsed["status"]["token"], "", "a token that nobody is told of would be good for an hour");
    assert!(rehearsed["status"]["expirationTimestamp"].is_string());
    assert_ne!(server.make(&token, json!({})).await["status"]["token"], "");
    let tokens = lines(&server, "audit.log").into_iter().filter(|line| line["objectRef"]["subresource"] == "token");
    assert_eq!(tokens.count(), 1);
    server.stop().await;
}

#[tokio::test]
async fn strangers_are_told_of_where_they_may_change_something() {
    let server = Harness::start().await;
    server.make(&format!("{RBAC}/namespaces/default/roles"), role("maps", &["configmaps"], &["create"])).await;
    let all = binding("maps", "Role", "maps", "system:anonymous");
    server.make(&format!("{RBAC}/namespaces/default/rolebindings"), all).await;
    let map = |name: &str| config_map(name, json!({})).to_string();
    assert_eq!(wire::send(&server, "POST", CONFIG_MAPS, None, &map("a")).await.0, 201);
    assert_eq!(wire::send(&server, "DELETE", &format!("{CONFIG_MAPS}/a"), None, "").await.0, 401);
    let trail = lines(&server, "audit.log");
    assert_eq!(told(&trail), ["system:anonymous as -: create a 201"]);
    let sources: Vec<&Value> =
        trail.iter().map(|line| &line["sourceIPs"]).filter(|sources| !sources.is_null()).collect();
    assert_eq!(
        sources,
        [&json!(["127.0.0.1"])],
        "who came over the wire came from somewhere, and our own parts did not"
    );
    assert_eq!(told(&lines(&server, "refused.log")), [""; 0], "whoever can reach the port would fill it");
    server.stop().await;
}

#[tokio::test]
async fn nobody_makes_a_line_long() {
    let server = Harness::start().await;
    let long = "x".repeat(20_000);
    let path = format!("GET /apis/{long}/v1/namespaces/{long}/configmaps/{long}");
    let groups: Vec<String> = (0..200).map(|number| format!("{number}-{}", &long[..200])).collect();
    let mut headers = vec![("impersonate-user", long.as_str()), ("user-agent", &long), ("impersonate-uid", &long)];
    ask(&server, "eve", &path, &headers[1..2], &Value::Null).await;
    headers.extend(groups.iter().map(|group| ("impersonate-group", group.as_str())));
    headers.push(("impersonate-extra-scopes", &long));
    ask(&server, "eve", "GET /api/v1/nodes", &headers, &Value::Null).await;
    // As it comes over HTTP/2.
    ask(&server, "eve", "GET https://localhost/api/v1/nodes?limit=1", &[], &Value::Null).await;
    let refused = lines(&server, "refused.log");
    assert_eq!(refused[2]["requestURI"], "/api/v1/nodes?limit=1");
    assert_eq!(refused.len(), 3);
    for line in &refused {
        assert!(line.to_string().len() < 10_000, "{} bytes", line.to_string().len());
    }
    assert_eq!(refused[0]["objectRef"]["name"], long[..512]);
    assert_eq!(refused[1]["impersonatedUser"]["username"], long[..512]);
    server.stop().await;
}
