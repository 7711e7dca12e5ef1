use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode};

use super::*;
use crate::access;
use crate::snapshot::*;

/// Something of every kind.
fn full() -> Snapshot {
    let name = HeaderName::from_static("x-a");
    let changes = HeaderChanges {
        set: vec![(name.clone(), HeaderValue::from_bytes(b"caf\xe9").expect("a value"))],
        add: vec![(name.clone(), HeaderValue::from_static("1"))],
        remove: vec![name.clone()],
    };
    let rule = Rule {
        id: "shop/r/0".into(),
        matches: Match {
            path: PathMatch::Regex("/r[0-9]+".into()),
            method: Some(Method::POST),
            headers: vec![HeaderMatch { name: name.clone(), value: ValueMatch::Present }],
            query: vec![QueryMatch { name: "q".into(), value: ValueMatch::Exact("1".into()) }],
        },
        filters: vec![
            Filter::RequestHeaders(changes),
            Filter::Cors(Cors { origins: vec!["*".into()], ..Cors::default() }),
        ],
        action: Action::Respond { status: StatusCode::IM_A_TEAPOT, body: "short and stout".into() },
        timeouts: Timeouts { request: Some(Duration::from_millis(1500)), backend_request: None },
        client: None,
        guard: Guard::default(),
    };
    let certificate =
        Certificate { hosts: vec![HostMatch::parse("*.a.test")], chain: Arc::from(*b"chain"), key: Arc::from(*b"key") };
    let listener = Listener {
        id: "gateway/443".into(),
        bind: ([127, 0, 0, 1], 443).into(),
        fallback: Some(([127, 0, 0, 1], 8443).into()),
        protocol: ListenerProtocol::Https {
            certificates: vec![certificate],
            clients: None,
            apart: vec![HostMatch::Any],
        },
        forwarded: Forwarded::Replace,
        admits: Admits::Known,
        peer_name: Some("x".into()),
        shows: Some("spiffe://a.test/w".into()),
        for_callers: Vec::new(),
        hosts: vec![VirtualHost { host: HostMatch::Any, rules: vec![rule] }],
    };
    let endpoints = vec![Endpoint::plain(([127, 0, 0, 1], 1).into())];
    Snapshot {
        listeners: vec![listener],
        backends: [("b".into(), Backend { endpoints, ..Backend::default() })].into(),
        ..Snapshot::default()
    }
}

#[tokio::test]
async fn what_is_kept_is_read_back_and_nobody_elses_to_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("snapshot");
    assert!(load(&path).await.expect("no file is no fault").is_none());
    save(&path, &full()).expect("saved");
    assert_eq!(load(&path).await.expect("good"), Some(full()));
    let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn at_rest_there_are_no_endpoints_and_nothing_guarded_is_answered() {
    let mut snapshot = full();
    snapshot.places.insert("p".into(), access::Place::default());
    if let Some(backend) = snapshot.backends.get_mut("b") {
        backend.place = Some("p".into());
    }
    let rest = snapshot.at_rest();
    assert!(rest.backends.values().all(|backend| backend.endpoints.is_empty() && backend.place.is_none()));
    assert_eq!(rest.listeners, snapshot.listeners, "a rule that nobody guards answers");
    assert_eq!(read(&written(&rest).expect("written")).expect("good"), rest, "nothing is lost on the disk");
    snapshot.listeners[0].hosts[0].rules[0].guard.places.push("p".into());
    let rest = snapshot.at_rest();
    let rule = &rest.listeners[0].hosts[0].rules[0];
    assert!(matches!(&rule.action, Action::Forward { backends } if rest.backends.contains_key(&backends[0].backend)));
    assert!(rule.filters.is_empty() && rule.guard == Guard::default() && rest.places.is_empty());
    assert_eq!(rule.matches, snapshot.listeners[0].hosts[0].rules[0].matches);
}

#[test]
fn what_is_not_whole_or_not_ours_is_refused() {
    let good = written(&full()).expect("written");
    assert!(read(&good).is_ok());
    for cut in [0, 1, 20, good.len() / 2, good.len() - 1] {
        assert!(read(&good[..cut]).is_err(), "cut off at {cut}");
    }
    for place in [3, 40, 60, good.len() / 2, good.len() - 2] {
        let mut changed = good.clone();
        changed[place] ^= 1;
        assert!(read(&changed).is_err(), "changed at {place}");
    }
    let text = String::from_utf8(good.clone()).expect("text");
    let other = text.replacen("snapshot 1", "snapshot 2", 1);
    assert!(read(other.as_bytes()).is_err_and(|why| why.contains("another version")));
    // A field that this version does not know may be one that keeps somebody out.
    let (_, body) = text.split_once('\n').expect("two lines");
    let more = body.replacen("{\"listeners\"", "{\"guards\":[],\"listeners\"", 1);
    assert_ne!(more, body);
    let file = format!("{HEAD} {}\n{more}", checksum(more.as_bytes()));
    assert!(read(file.as_bytes()).is_err_and(|why| why.contains("guards")));
    let less = body.replacen("\"peer_name\":\"x\",", "", 1).replacen("\"bind\":\"127.0.0.1:443\",", "", 1);
    assert!(read(format!("{HEAD} {}\n{less}", checksum(less.as_bytes())).as_bytes()).is_err());
}

#[tokio::test]
async fn the_latest_is_kept_and_what_is_kept_already_is_not_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("snapshot");
    let (keeper, sender) = Keeper::start(path.clone(), None);
    sender.send_replace(Some(Snapshot::default()));
    sender.send_replace(Some(full()));
    drop(sender);
    keeper.ended().await;
    assert_eq!(load(&path).await.expect("good"), Some(full()));
    std::fs::remove_file(&path).expect("it is there");
    let (keeper, sender) = Keeper::start(path.clone(), Some(full()));
    sender.send_replace(Some(full()));
    drop(sender);
    keeper.ended().await;
    assert!(!path.exists());
}
